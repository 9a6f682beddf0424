"""ComfyUI started as a server of its own, driven over HTTP and its websocket."""

import asyncio
import json
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from .result import Result

_START_SECONDS = 180


class Server:
    """A running `main.py` of the host, on this machine only.

    Attributes:
        base_directory: holds models/, input/, output/ and, as a link, custom_nodes/i2vgen_xl.
        output_dir: where the output nodes write.
    """

    def __init__(self, path: Path, pack: Path, base_directory: Path):
        """Starts the host at `path` and waits until it answers.

        Raises:
            RuntimeError: if it ends, takes too long or cannot import a node pack; the text has the end of its log.
        """
        self.base_directory = base_directory
        self.output_dir = base_directory / "output"
        self._log_file = base_directory / "server.log"
        (base_directory / "custom_nodes").mkdir()
        (base_directory / "custom_nodes" / "i2vgen_xl").symlink_to(pack, target_is_directory=True)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self._address = f"127.0.0.1:{port}"
        command = [sys.executable, "main.py", "--cpu", "--listen", "127.0.0.1", "--port", str(port)]
        command += ["--base-directory", str(base_directory), "--database-url", "sqlite:///:memory:"]
        command += ["--disable-api-nodes", "--preview-method", "latent2rgb"]
        with self._log_file.open("wb") as log:
            self._process = subprocess.Popen(command, cwd=path, stdout=log, stderr=subprocess.STDOUT)
        try:
            self._wait_until_ready()
        except BaseException:
            self.stop()
            raise

    @property
    def process(self) -> psutil.Process:
        """The server's process, to look at its memory and open files."""
        return psutil.Process(self._process.pid)

    @property
    def address(self) -> str:
        """Host and port."""
        return self._address

    @property
    def log(self) -> str:
        """All that the server has logged so far."""
        return self._log_file.read_text(encoding="utf-8", errors="replace")

    def stop(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def get(self, route: str) -> Any:
        """The JSON answer to a GET, for example of `/object_info`."""
        with urllib.request.urlopen(f"http://{self._address}{route}", timeout=60) as answer:
            return json.load(answer)

    def get_bytes(self, route: str) -> bytes:
        """The answer to a GET as it is, for example of `/view?filename=...`."""
        with urllib.request.urlopen(f"http://{self._address}{route}", timeout=60) as answer:
            return answer.read()

    def post(self, graph: dict[str, Any], client: str = "tests") -> dict[str, Any]:
        """Queues an API-format graph. Returns the server's JSON: `prompt_id`, or `error` if it refused the graph."""
        status, answer = self._post("/prompt", {"prompt": graph, "client_id": client})
        if status != 200 and "error" not in answer:
            raise RuntimeError(f"POST /prompt: status {status}: {answer}")
        return answer

    def interrupt(self, prompt: str | None = None) -> None:
        """Cancels the graph that runs now; only if it is that prompt, by its id, where one is given."""
        self._post("/interrupt", {"prompt_id": prompt} if prompt else {})

    def forget(self, prompt: str) -> None:
        """Takes a prompt, by its id, out of the server's history."""
        self._post("/history", {"delete": [prompt]})

    def upload_image(self, file: Path) -> str:
        """Puts an image into the input folder. Returns the name that LoadImage takes."""
        return asyncio.run(self._upload(file))

    def run(
        self,
        graph: dict[str, Any],
        timeout: float = 300,
        on_progress: Callable[[str, int, int], None] | None = None,
    ) -> Result:
        """Queues an API-format graph and waits for its end.

        Args:
            timeout: seconds, after which the graph is cancelled and TimeoutError raised.
            on_progress: called with node, value and maximum at every step; may call `interrupt`.
        """
        try:
            return asyncio.run(asyncio.wait_for(self._run(graph, on_progress), timeout))
        except asyncio.TimeoutError:
            self.interrupt()
            raise TimeoutError(f"the graph took longer than {timeout} s; log:\n{self._log_tail()}") from None

    async def _run(self, graph: dict[str, Any], on_progress: Callable[[str, int, int], None] | None) -> Result:
        import aiohttp

        client = uuid.uuid4().hex
        result = Result()
        async with (
            aiohttp.ClientSession() as session,
            session.ws_connect(f"ws://{self._address}/ws?clientId={client}", max_msg_size=0) as messages,
        ):
            answer = self.post(graph, client)
            if answer.get("error") or answer.get("node_errors"):
                return result.refuse(answer.get("error"), answer["node_errors"])
            async for message in messages:
                if message.type == aiohttp.WSMsgType.BINARY:
                    result.note_bytes(message.data)
                    continue
                event = json.loads(message.data)
                if event["data"].get("prompt_id") != answer["prompt_id"]:
                    continue
                result.note(event["type"], event["data"])
                if event["type"] == "progress" and on_progress is not None:
                    on_progress(*result.progress[-1])
                if event["type"] == "executing" and event["data"]["node"] is None:
                    history = self.get(f"/history/{answer['prompt_id']}")
                    result.outputs = history[answer["prompt_id"]]["outputs"]
                    return result
        raise RuntimeError(f"the server closed the connection; log:\n{self._log_tail()}")

    async def _upload(self, file: Path) -> str:
        import aiohttp

        form = aiohttp.FormData()
        form.add_field("image", file.read_bytes(), filename=file.name)
        async with (
            aiohttp.ClientSession() as session,
            session.post(f"http://{self._address}/upload/image", data=form) as answer,
        ):
            answer.raise_for_status()
            return (await answer.json())["name"]

    def _post(self, route: str, body: dict[str, Any]) -> tuple[int, Any]:
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"http://{self._address}{route}", json.dumps(body).encode(), headers)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, json.loads(answer.read() or b"{}")
        except urllib.error.HTTPError as refused:
            return refused.code, json.loads(refused.read() or b"{}")

    def _wait_until_ready(self) -> None:
        end = time.monotonic() + _START_SECONDS
        while "To see the GUI" not in self.log:
            if self._process.poll() is not None:
                raise RuntimeError(f"ComfyUI ended with status {self._process.returncode}:\n{self._log_tail()}")
            if time.monotonic() > end:
                raise RuntimeError(f"ComfyUI was not ready after {_START_SECONDS} s:\n{self._log_tail()}")
            time.sleep(0.2)
        if "IMPORT FAILED" in self.log:
            raise RuntimeError(f"ComfyUI could not import a node pack:\n{self._log_tail()}")

    def _log_tail(self) -> str:
        return "\n".join(self.log.splitlines()[-60:])
