"""Jobs on ComfyUI: an exported graph, with columns of the table in place of its values, on a server of the worker's own."""

from __future__ import annotations

import copy
import ctypes
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from ..errors import InputError
from .jobs import Job, Row, cast, fingerprint, name_of, resolve, seed_of
from .outputs import publish
from .worker import Stage, local_copy

_START_SECONDS = 600
_ANSWER_SECONDS = 60
"""A server that does not answer for so long hangs: it answers from another thread than the one that samples."""

_POLL_SECONDS = 0.1

_REMOVE_AT_END = """
import os, shutil, sys, time
if hasattr(os, "fork") and os.fork():  # no child of the worker's any more: Ray ends those with it
    os._exit(0)
sys.stdin.buffer.read()  # ends with the worker, whatever ends that
for _ in range(100):  # the server may be writing still
    shutil.rmtree(sys.argv[1], ignore_errors=True)
    if not os.path.exists(sys.argv[1]):
        break
    time.sleep(0.1)
"""
"""A process of its own: a worker that is killed cannot remove its folder."""


@dataclass(frozen=True)
class Workflow:
    """A graph in the API's form, and which of its values the columns give.

    Args:
        graph: nodes by their ids.
        columns: by (node, input), the name of a column.
        files: those whose column names a file, which the node is given.
    """

    graph: dict[str, Any]
    columns: dict[tuple[str, str], str]
    files: frozenset[tuple[str, str]]

    @classmethod
    def read(cls, file: Path, settings: list[str]) -> Workflow:
        """Reads an exported graph.

        Args:
            file: as ComfyUI's "Export (API)" writes it.
            settings: `NODE.inputs.NAME=COLUMN`; `=@COLUMN` where the column names a file.

        Raises:
            InputError: the file is no such graph, or it has no such value.
        """
        try:
            graph = json.loads(file.read_text(encoding="utf-8"))
            nodes = {node: set(graph[node]["inputs"]) for node in graph if graph[node]["class_type"]}
        except (OSError, ValueError, TypeError, KeyError) as error:
            remedy = "Export it from ComfyUI with Export (API)."
            raise InputError("--workflow", "a graph in the API's form", f"'{file}' ({error!r})", remedy) from error
        columns, files = {}, set()
        for setting in settings:
            place, _, column = setting.partition("=")
            node, _, name = place.partition(".inputs.")
            if (
                name not in nodes.get(node, ())
                or not column.lstrip("@")
                or isinstance(graph[node]["inputs"][name], list)
            ):
                known = [
                    f"{key}.inputs.{entry}"
                    for key in nodes
                    for entry in sorted(nodes[key])
                    if not isinstance(graph[key]["inputs"][entry], list)
                ]
                found = f"{setting!r}, where the graph has {', '.join(known)[:2000]}"
                raise InputError("--set", "NODE.inputs.NAME=COLUMN", found, "Name one of these.")
            columns[node, name] = column.lstrip("@")
            if column.startswith("@"):
                files.add((node, name))
        return cls(graph, columns, frozenset(files))

    @property
    def hash(self) -> str:
        """What the name of an output says of the graph. The model files that it names are not read."""
        return name_of(self.graph, "workflow")

    @property
    def needed(self) -> list[str]:
        """Columns that a table must have: all that are named but `seed`, which can be made."""
        return sorted({*self.columns.values()} - {"seed"})

    def job(self, number: int, row: Row, folder: str, take: int = 0) -> Job:
        """The job of a row; columns that no setting names are not looked at.

        Args:
            number: the row's.
            row: values by column.
            folder: what a relative path starts from.
            take: how many seeds after the row's own.

        Raises:
            InputError: a value is missing, or not of the kind that the graph has there. A missing `seed` is made.
        """
        values: dict[str, Any] = {}
        for (node, name), column in self.columns.items():
            kind = type(self.graph[node]["inputs"][name])
            value = cast(column, row.get(column), kind if kind in (str, int, float, bool) else str)
            if value is None and column != "seed":
                raise InputError(column, "a value in every row", "none", f"Fill the column `{column}`.")
            values[f"{node}.inputs.{name}"] = resolve(folder, value) if (node, name) in self.files else value
        given = cast("seed", row.get("seed"), int) if "seed" in self.columns.values() else None
        seed = seed_of(values | {"seed": given}, take)
        for (node, name), column in self.columns.items():
            if column == "seed":
                values[f"{node}.inputs.{name}"] = seed
        pictures = {place: fingerprint(values[place]) for place in self._file_places()}
        return Job(number, name_of([values, pictures] if pictures else values, self.hash), seed, values)

    def picture(self, job: Job) -> str:
        """The first file of a job, or nothing."""
        return next((job.content[place] for place in self._file_places()), "")

    def _file_places(self) -> list[str]:
        return sorted(f"{node}.inputs.{name}" for node, name in self.files)


class Comfy(Stage):
    """A worker with a ComfyUI server that it starts, on this machine only, and that ends with it.

    The server's outputs, temporary files, settings and database are its own; models, custom nodes and inputs are
    ComfyUI's.
    """

    def __init__(self, workflow: Workflow, comfyui: Path, arguments: list[str], device: str, folder: Path):
        self._workflow, self._folder = workflow, folder
        self._own = Path(tempfile.mkdtemp(prefix="i2vgen-xl-comfyui-"))
        self._remover = _remove_at_end(self._own)
        for name in ("output", "temp", "user"):
            (self._own / name).mkdir()
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._address = f"127.0.0.1:{free.getsockname()[1]}"
        command = [sys.executable, "main.py", "--listen", "127.0.0.1", "--port", self._address.rpartition(":")[2]]
        command += ["--cpu"] if device == "cpu" else []
        command += ["--database-url", "sqlite:///:memory:", *arguments]
        command += ["--output-directory", str(self._own / "output"), "--user-directory", str(self._own / "user")]
        command += ["--temp-directory", str(self._own)]  # ComfyUI appends `temp`
        with (self._own / "server.log").open("wb") as log:
            self._server = subprocess.Popen(
                command,
                cwd=comfyui,
                stdout=log,
                stderr=subprocess.STDOUT,
                preexec_fn=_die_with_parent if sys.platform == "linux" else None,
            )
        try:
            self._wait_until_ready()
        except RuntimeError:
            self.close()
            raise

    def ready(self) -> int:
        """The server's process id."""
        return self._server.pid

    def close(self) -> None:
        """Ends the server, and removes its folder."""
        self._server.kill()
        self._server.wait()
        shutil.rmtree(self._own, ignore_errors=True)
        self._remover.close()

    def work(self, job: Job, value: None) -> None:
        graph = copy.deepcopy(self._workflow.graph)
        placed: list[Path] = []
        try:
            for node, name in self._workflow.columns:
                given = job.content[f"{node}.inputs.{name}"]
                if (node, name) in self._workflow.files:
                    placed.append(self._place(given, f"{job.name}-{len(placed)}"))
                    given = f"{placed[-1].name} [temp]"  # the folder that the name is looked up in
                graph[node]["inputs"][name] = given
            publish(self._run(graph), self._folder, job.name)
        finally:
            for file in [*placed, *(path for path in (self._own / "output").rglob("*") if path.is_file())]:
                file.unlink(missing_ok=True)

    def _place(self, url: str, name: str) -> Path:
        """A copy of a job's file where the server finds it."""
        target = self._own / "temp" / (name + os.path.splitext(url.partition("?")[0])[1])
        with local_copy(url) as file:
            if not os.path.isfile(file):
                raise InputError("the job's file", "a file", f"nothing at {url!r}", "Check the path.")
            target.parent.mkdir(exist_ok=True)  # a server that starts removes it
            shutil.copyfile(file, target)
        return target

    def _run(self, graph: dict[str, Any]) -> Path:
        """The file that a graph saves."""
        status, answer = self._ask("/prompt", {"prompt": graph})
        if status != 200:
            found = json.dumps(answer)[:1000]
            raise InputError("the workflow", "a graph that ComfyUI takes", found, "Correct the graph, or the row.")
        route = f"/history/{answer['prompt_id']}"
        while not (history := self._ask(route)[1]):
            time.sleep(_POLL_SECONDS)
        entry = history[answer["prompt_id"]]
        if entry["status"]["status_str"] != "success":
            messages = [data for kind, data in entry["status"]["messages"] if kind == "execution_error"]
            raise RuntimeError(f"ComfyUI: {_reason(messages)}")
        saved = [
            file
            for output in entry["outputs"].values()
            for files in output.values()
            for file in files
            if isinstance(file, dict) and file.get("type") == "output"
        ]
        if len(saved) != 1:
            names = ", ".join(file["filename"] for file in saved) or "none"
            remedy = "Keep one Save node, of one file; save frames as one video."
            raise InputError("the workflow", "one saved file a job", names[:500], remedy)
        output = self._own / "output"
        file = (output / saved[0]["subfolder"] / saved[0]["filename"]).resolve()
        if output.resolve() not in file.parents or not file.suffix:
            raise InputError("the workflow", "a file with an ending", str(file), "Correct its Save node.")
        return file

    def _ask(self, route: str, body: dict[str, Any] | None = None) -> tuple[int, Any]:
        """Status and JSON of an answer.

        Raises:
            RuntimeError: the server has ended or hangs.
        """
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"http://{self._address}{route}", data, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=_ANSWER_SECONDS) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as refused:
            return refused.code, json.loads(refused.read() or b"{}")
        except OSError as error:
            state = self._server.poll()
            what = "does not answer" if state is None else f"has ended with status {state}"
            raise RuntimeError(f"ComfyUI's server {what} ({error}); its log ends:\n{self._log_tail()}") from error

    def _wait_until_ready(self) -> None:
        end = time.monotonic() + _START_SECONDS
        while True:
            try:
                if self._server.poll() is None and self._ask("/queue")[0] == 200:
                    return
            except RuntimeError:
                pass
            if self._server.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"ComfyUI does not start; its log ends:\n{self._log_tail()}")
            time.sleep(0.5)

    def _log_tail(self) -> str:
        log = (self._own / "server.log").read_text(encoding="utf-8", errors="replace")
        return "\n".join(log.splitlines()[-30:])


def _reason(messages: list[dict[str, Any]]) -> str:
    if not messages:
        return "the graph was interrupted"
    said = messages[0]
    trace = "".join(said.get("traceback", []))
    return f"node {said['node_id']} ({said['node_type']}): {said['exception_message']}\n{trace}"


def _remove_at_end(folder: Path) -> IO[bytes]:
    """Has a folder removed when this process ends, or what is returned is closed."""
    remover = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", _REMOVE_AT_END, str(folder)], stdin=subprocess.PIPE, start_new_session=True
    )
    if hasattr(os, "fork"):
        remover.wait()  # it goes on in a child
    assert remover.stdin
    return remover.stdin


def _die_with_parent() -> None:
    """In the server's process, before it starts: Linux kills it when the worker is gone, however that ended."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
