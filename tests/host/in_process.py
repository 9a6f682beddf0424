"""ComfyUI brought up inside the test process, on the CPU."""

import asyncio
import importlib
import itertools
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from .result import Result

_KEEP, _GIVE = "KeepForTest", "GiveForTest"


class Host:
    """The host with the pack loaded. One per process, since the host's state is global.

    Attributes:
        nodes: node classes by id, the host's own and the pack's.
        base_directory: holds models/, input/, output/ and the rest.
        given: what `node("GiveForTest", name=...)` puts into a graph, by name: any object, for a socket of any type.
    """

    def __init__(self, path: Path, pack: Path, base_directory: Path):
        """Imports the host at `path` and loads the pack as the host does. Takes some seconds.

        Raises:
            RuntimeError: if the pack does not load; the host's log has the traceback.
        """
        self.base_directory = base_directory
        # `nodes` must be the host's module, not the pack's folder.
        sys.path[:] = [str(path), *(entry for entry in sys.path if Path(entry or ".").resolve() != pack), str(pack)]

        from comfy.cli_args import args

        args.cpu = True
        args.base_directory = str(base_directory)
        importlib.import_module("utils.extra_config")  # as main.py does: nodes.py puts a `utils` of its own in front
        execution, nodes, server = map(importlib.import_module, ("execution", "nodes", "server"))

        self._execution = execution
        self._server = server.PromptServer(asyncio.new_event_loop())
        self._server.send_sync = self._receive
        self._result = Result()
        self._kept: dict[str, Any] = {}
        self._numbers = itertools.count()

        async def load() -> bool:
            await nodes.init_extra_nodes(init_custom_nodes=False, init_api_nodes=False)
            return await nodes.load_custom_node(str(pack))

        if not asyncio.run(load()):
            raise RuntimeError(f"ComfyUI could not load {pack}: see its log above")
        self._package = str(pack).replace(".", "_x_")
        self.nodes = nodes.NODE_CLASS_MAPPINGS
        self.nodes[_KEEP] = _keep_node(self._kept)
        self.given: dict[str, Any] = {}
        self.nodes[_GIVE] = _give_node(self.given)
        cache = {"lru": 0, "ram": 0.0, "ram_inactive": 0.0}
        self._executor = execution.PromptExecutor(self._server, execution.CacheType.CLASSIC, cache)

    def module(self, name: str) -> ModuleType:
        """A module of the pack as the host loaded it, for example `nodes.host.models`."""
        return importlib.import_module(f"{self._package}.{name}")

    def run(
        self, graph: dict[str, Any], keep: dict[str, tuple[str, int]] | None = None, reuse_cache: bool = False
    ) -> Result:
        """Validates and executes an API-format graph.

        Args:
            keep: by name of your choice, the node id and output number of values to be returned in `Result.kept`.
            reuse_cache: skip what the last run has already computed, as the server does.
        """
        keepers = {
            f"keep {name}": {"class_type": _KEEP, "inputs": {"value": list(link), "name": name}}
            for name, link in (keep or {}).items()
        }
        graph = {**graph, **keepers}
        run_id = f"test-{next(self._numbers)}"
        if not reuse_cache:
            self.forget()
        result = self._result = Result()
        valid, error, outputs, node_errors = asyncio.run(self._execution.validate_prompt(run_id, graph, None))
        if not valid or node_errors:
            return result.refuse(error, node_errors)
        self._kept.clear()
        self._executor.execute(graph, run_id, {"client_id": "tests"}, outputs)
        result.executed = [node for node in result.executed if node not in keepers]
        result.outputs = self._executor.history_result["outputs"]
        result.kept = dict(self._kept)
        return result

    def forget(self) -> None:
        """Lets go of what the last run has computed."""
        self._executor.reset()

    def values(self, graph: dict[str, Any], *names: str) -> list[Any]:
        """First outputs of nodes, of a LATENT the tensor. What the last graph has computed is not computed again.

        Raises:
            AssertionError: the graph was refused, or a node failed.
        """
        result = self.run(graph, {name: (name, 0) for name in names}, reuse_cache=True)
        assert result.error is None, f"{result.error_node}: {result.error}"
        return [value["samples"] if isinstance(value := result.kept[name], dict) else value for name in names]

    def value(self, graph: dict[str, Any], name: str = "base") -> Any:
        """The same of one node."""
        return self.values(graph, name)[0]

    def _receive(self, event: Any, data: Any, client: str | None = None) -> None:
        if isinstance(data, dict) and event != "progress":
            self._result.note(event, data)
        elif isinstance(event, int) and isinstance(data, bytes):
            self._result.note_bytes(event.to_bytes(4, "big") + data)


def _keep_node(kept: dict[str, Any]) -> type:
    """An output node that takes a value of any type and puts it into `kept`."""

    class KeepForTest:
        RETURN_TYPES = ()
        FUNCTION = "keep"
        OUTPUT_NODE = True
        CATEGORY = "tests"

        @classmethod
        def INPUT_TYPES(cls) -> dict[str, Any]:
            return {"required": {"value": ("*",), "name": ("STRING",)}}

        @classmethod
        def IS_CHANGED(cls, **inputs: Any) -> float:
            return float("nan")

        @classmethod
        def VALIDATE_INPUTS(cls, input_types: dict[str, str]) -> bool:
            return True  # asking for the types keeps the host from comparing them with "*", as 0.3 does

        def keep(self, value: Any, name: str) -> dict[str, Any]:
            kept[name] = value
            return {}

    return KeepForTest


def _give_node(given: dict[str, Any]) -> type:
    """A node that gives a value of any type out of `given`, anew in every run."""

    class GiveForTest:
        RETURN_TYPES = ("*",)
        FUNCTION = "give"
        CATEGORY = "tests"

        @classmethod
        def INPUT_TYPES(cls) -> dict[str, Any]:
            return {"required": {"name": ("STRING",)}}

        @classmethod
        def IS_CHANGED(cls, **inputs: Any) -> float:
            return float("nan")

        @classmethod
        def VALIDATE_INPUTS(cls) -> bool:
            return True

        def give(self, name: str) -> tuple[Any]:
            return (given[name],)

    return GiveForTest
