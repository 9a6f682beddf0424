"""A server under load: the templates in turns from two clients, with cancels, graphs that cannot run and broken uploads.

    python -m tests.host.soak --prompts 1000

starts ComfyUI on the built-in cascade, runs so many prompts and states what became of them, the slope of its resident
memory and its open files; exits with 1 if a picture differed from an earlier one of the same graph and seed, a graph
ended otherwise than it should, or memory or files grew. `--stock` runs graphs without this pack's blocks, for what of
the memory is the host's own.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import random
import sys
import urllib.parse
import uuid
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from PIL import Image

from ..templates import templates
from . import graphs
from .available import HOST, PACK
from .graphs import Graph, node
from .result import Result
from .server import Server

TEMPLATES = (
    templates.base,
    templates.base_stock_ksampler,
    templates.base_swap_encoder,
    templates.cascade,
    templates.cascade_beyond_720p,
    templates.cascade_step_by_step,
    templates.refine_video,
)
"""Those that do not need a certain number of frames."""
SEEDS = 4
_MOST_KB, _MOST_FILES = 20.0, 4
_WARM = 0.2  # of the prompts, before memory is looked at


@dataclass
class Load:
    """What became of the prompts.

    Attributes:
        outcomes: by kind.
        problems: what should not have been.
        resident, files: of the server's process after each prompt, in bytes and open handles.
        pictures: a digest of each graph and seed's first ones.
        keeps_history: whether the host keeps every prompt, as it does up to 10,000: its memory then grows with their
            graphs, whatever blocks are in them.
    """

    outcomes: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    resident: list[int] = field(default_factory=list)
    files: list[int] = field(default_factory=list)
    pictures: dict[str, str] = field(default_factory=dict)
    keeps_history: bool = False

    @property
    def kb_a_prompt(self) -> float:
        """Slope of the resident memory after the first fifth, by least squares."""
        resident = self.resident[int(_WARM * len(self.resident)) :]
        return float(np.polyfit(np.arange(len(resident)), np.array(resident) / 2**10, 1)[0])

    @property
    def files_grown(self) -> int:
        """Open handles at the end less those after the first fifth, the least of a few each."""
        files = self.files[int(_WARM * len(self.files)) :]
        return min(files[-10:]) - min(files[:10])


class Client:
    """One front end: a websocket, and one prompt at a time.

    Args:
        server: of which it is one.
        load: to be kept.
        draw: what it does; its own, so that two clients do not depend on which is faster.
        make: a graph by its name and seed; see `_of_templates`.
    """

    def __init__(
        self, server: Server, load: Load, draw: random.Random, make: Callable[[str, int], Graph], names: list[str]
    ):
        self._server, self._load, self._draw, self._make, self._names = server, load, draw, make, names
        self._id = uuid.uuid4().hex

    async def run(self, prompts: int) -> None:
        """Runs so many prompts, one after the other."""
        import aiohttp

        async with (
            aiohttp.ClientSession() as session,
            session.ws_connect(f"ws://{self._server.address}/ws?clientId={self._id}", max_msg_size=0) as self._messages,
        ):
            for _ in range(prompts):
                kind = self._draw.choices(["good", "cancelled", "refused", "failing", "upload"], [66, 14, 6, 6, 8])[0]
                name, seed = self._draw.choice(self._names), self._draw.randrange(SEEDS)
                try:
                    await asyncio.wait_for(getattr(self, f"_{kind}")(name, seed), 120)
                except Exception as error:
                    self._load.problems.append(f"{kind} {name} {seed}: {type(error).__name__}: {error}")
                process = self._server.process
                self._load.resident.append(process.memory_info().rss)
                self._load.files.append(process.num_fds() if hasattr(process, "num_fds") else process.num_handles())

    async def _good(self, name: str, seed: int) -> None:
        self._compare(f"{name} {seed}", await self._finish(self._make(name, seed)))

    async def _cancelled(self, name: str, seed: int) -> None:
        """At a moment of the run that is drawn; a run that was over before is a good one."""
        wait = self._draw.choice([0.0, 0.0, 0.05, 0.2, 0.5])
        result = await self._finish(self._make(name, seed), cancel=wait)
        if result.interrupted:
            self._load.outcomes["cancelled"] += 1
        else:
            self._compare(f"{name} {seed}", result)

    async def _refused(self, name: str, seed: int) -> None:
        """By the host, before it runs."""
        graph = self._make(name, seed)
        at = self._draw.choice(sorted(graph))
        broken = {"class_type": self._draw.choice(["NoSuchNode", graph[at]["class_type"]]), "inputs": {}}
        answer = self._server.post(graph | {at: broken}, self._id)
        if not (answer.get("error") or answer.get("node_errors")) and graph[at]["inputs"]:
            await self._end(answer["prompt_id"], None)
            if broken["class_type"] == "NoSuchNode":
                self._load.problems.append(f"{name} ran with an unknown node")
        self._load.outcomes["refused"] += 1

    async def _failing(self, name: str, seed: int) -> None:
        """With a sentence, when it runs: a picture with an alpha channel, or half a size."""
        graph = self._make(name, seed)
        for each in graph.values():
            if each["class_type"] == "I2VGenXLGlobalEncode":
                each["inputs"]["image"] = ["alpha", 0]
        graph |= {
            "alpha": node("JoinImageWithAlpha", image=["white", 0], alpha=["mask", 0]),
            "white": node("EmptyImage", width=64, height=64, batch_size=1, color=255),
            "mask": node("SolidMask", value=1.0, width=64, height=64),
        }
        result = await self._finish(graph)
        if "I2VGenXLGlobalEncode" not in {each["class_type"] for each in graph.values()}:
            self._load.outcomes["good"] += 1
        elif result.error is None or "with an alpha channel. Remove the alpha channel first." not in result.error:
            self._load.problems.append(f"{name} should have failed with a sentence: {result.error}")
        else:
            self._load.outcomes["failed with a sentence"] += 1

    async def _upload(self, name: str, seed: int) -> None:
        """One that ends in the middle, or one whose name leads out of the input folder."""
        host, port = self._server.address.split(":")
        boundary, traversal = "soak", self._draw.random() < 0.5
        file = "../../outside.png" if traversal else "half.png"
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="image"; filename="{file}"\r\n\r\n'.encode()
        body = head + b"\x89PNG" * 1000 + f"\r\n--{boundary}--\r\n".encode()
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(
            f"POST /upload/image HTTP/1.1\r\nHost: {host}\r\nContent-Type: multipart/form-data; boundary={boundary}\r\n"
            f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode()
        )
        writer.write(body if traversal else body[: len(body) // 2])
        await writer.drain()
        if traversal:
            await reader.read()
        writer.close()
        if (self._server.base_directory.parent / "outside.png").exists():
            self._load.problems.append("an upload left the input folder")
        self._load.outcomes["broken upload"] += 1

    async def _finish(self, graph: Graph, cancel: float | None = None) -> Result:
        answer = self._server.post(graph, self._id)
        if answer.get("error") or answer.get("node_errors"):
            raise RuntimeError(f"refused: {json.dumps(answer)[:300]}")
        return await self._end(answer["prompt_id"], cancel)

    async def _end(self, prompt: str, cancel: float | None) -> Result:
        """Waits for a prompt's end; cancels it so many seconds after its first node has begun."""
        import aiohttp

        result = Result()
        async for message in self._messages:
            if message.type == aiohttp.WSMsgType.BINARY:
                continue
            event = json.loads(message.data)
            if event["data"].get("prompt_id") != prompt:
                continue
            result.note(event["type"], event["data"])
            if event["type"] == "executing" and cancel is not None and event["data"]["node"] is not None:
                await asyncio.sleep(cancel)
                self._server.interrupt(prompt)
                cancel = None
            if event["type"] in ("execution_success", "execution_error", "execution_interrupted"):
                result.outputs = await self._outputs(prompt)
                if not self._load.keeps_history:
                    self._server.forget(prompt)
                return result
        raise RuntimeError("the server closed the connection")

    async def _outputs(self, prompt: str) -> dict[str, Any]:
        """The host files a run's history after it has said that it is over."""
        for _ in range(200):
            history = self._server.get(f"/history/{prompt}")
            if prompt in history:
                return history[prompt]["outputs"]
            await asyncio.sleep(0.02)
        raise RuntimeError("a finished prompt has no history")

    def _compare(self, key: str, result: Result) -> None:
        """The pictures of a run with those of the first one."""
        if result.error is not None or result.interrupted:
            self._load.problems.append(f"{key}: {result.error or 'interrupted by nobody'}")
            return
        shown = (result.outputs[name].get("images", []) for name in sorted(result.outputs))
        pictures = [file for files in shown for file in files if file["type"] == "temp"]
        digest = hashlib.sha256()
        for file in pictures:
            content = self._server.get_bytes(f"/view?{urllib.parse.urlencode(file)}")
            digest.update(np.asarray(Image.open(BytesIO(content))).tobytes())
        if not pictures or self._load.pictures.setdefault(key, digest.hexdigest()) != digest.hexdigest():
            self._load.problems.append(f"{key}: {len(pictures)} pictures, not those of the first run")
        self._load.outcomes["good"] += 1


def _of_templates(name: str, seed: int) -> Graph:
    """A template in small, whose videos are shown as pictures too."""
    graph = graphs.small_template(next(make for make in TEMPLATES if make.__name__ == name))
    for key, each in list(graph.items()):
        if "seed" in each["inputs"] and each["class_type"] != "I2VGenXLTinyScene":
            each["inputs"]["seed"] = seed
        if each["class_type"] == "CreateVideo":
            graph[f"shown {key}"] = node("PreviewImage", images=each["inputs"]["images"])
        elif each["class_type"] == "PreviewImage":
            graph.pop(key)
    return graph


def _stock(name: str, seed: int) -> Graph:
    """The host's own blocks alone, with a video and pictures of it."""
    return {
        "image": node("EmptyImage", width=128, height=64, batch_size=3, color=seed + 1),
        "scaled": node(
            "ImageScale", image=["image", 0], upscale_method="bilinear", width=120, height=88, crop="disabled"
        ),
        "shown": node("PreviewImage", images=["scaled", 0]),
        "video": node("CreateVideo", images=["scaled", 0], fps=8.0),
        "save": node("SaveVideo", video=["video", 0], filename_prefix=name, format="mp4", codec="h264"),
    }


def run(server: Server, prompts: int, number: int = 0, stock: bool = False, keep_history: bool = False) -> Load:
    """Puts a server under load from two clients, by a seed."""
    load = Load(keeps_history=keep_history)
    names = [make.__name__ for make in TEMPLATES]
    clients = [
        Client(server, load, random.Random(f"{number} {client}"), _stock if stock else _of_templates, names)
        for client in range(2)
    ]

    async def both() -> None:
        await asyncio.gather(*(client.run(prompts // 2) for client in clients))

    asyncio.run(both())
    return load


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--stock", action="store_true", help="graphs without this pack's blocks")
    parser.add_argument("--keep-history", action="store_true", help="as the host does, with every prompt's graph")
    options = parser.parse_args()
    with TemporaryDirectory() as folder:
        server = Server(HOST, PACK, Path(folder))
        try:
            load = run(server, options.prompts, options.seed, options.stock, options.keep_history)
            errors = server.log.count("Traceback")
        finally:
            server.stop()
    mib = [bytes_ / 2**20 for bytes_ in load.resident]
    warm = int(_WARM * len(mib))
    lines = [
        f"{sum(load.outcomes.values())} prompts: "
        + ", ".join(f"{n} {kind}" for kind, n in load.outcomes.most_common()),
        f"{len(load.pictures)} graphs and seeds, the pictures of each compared; {errors} tracebacks in the log",
        f"resident memory: {mib[0]:.0f} MiB after the first, {mib[warm]:.0f} after {warm}, {mib[-1]:.0f} at the end; "
        f"{load.kb_a_prompt:.1f} KB a prompt over the last {len(mib) - warm}",
        f"open files: {load.files[warm]} after {warm}, {load.files[-1]} at the end",
        *(f"BROKEN {problem}" for problem in load.problems),
    ]
    sys.stdout.write("\n".join(lines) + "\n")
    return int(bool(load.problems) or load.kb_a_prompt > _MOST_KB or load.files_grown > _MOST_FILES)


if __name__ == "__main__":
    sys.exit(main())
