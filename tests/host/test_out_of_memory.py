"""Memory that runs out at any point of any stage: less is tried where that can help, else the host says it; the next run
works, and nothing of the failed one is kept."""

from __future__ import annotations

import functools
import gc
import itertools
import random
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from .bad_cases import good
from .compare import relative_error
from .graphs import Graph, changed
from .in_process import Host
from .result import Result

_numbers = itertools.count(1000)
_DTYPES = ["default", "fp32", "bf16", "fp16", "fp8_e4m3fn"]
_MESSAGE = "made up for this test"


class Allocator(TorchDispatchMode):
    """Fails at the n-th of torch's operations, and at all that follow if memory is `spent`; 0 never fails.

    Attributes:
        calls: operations so far.
    """

    def __init__(self, fails_at: int = 0, spent: bool = False):
        super().__init__()
        self.calls, self._fails_at, self._spent = 0, fails_at, spent

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls += 1
        if self.calls == self._fails_at or (self._spent and 0 < self._fails_at < self.calls):
            raise torch.OutOfMemoryError(_MESSAGE)
        return function(*args, **(kwargs or {}))


class Stage(NamedTuple):
    """Where memory runs out.

    Attributes:
        node: of the graph.
        module, owner, name: the function in which it does, of a class or (empty) of the module.
        close: how far from the same result a run is that goes on with less, relative; 0 for one that cannot.
    """

    node: str
    module: str
    owner: str
    name: str
    close: float = 0


STAGES = {
    "network": Stage("base_loader", "nodes.host.models", "ModelConfig", "get_model"),
    "CLIP": Stage("clip_encode", "nodes.clip_encode", "CLIPEncode", "execute"),
    "global encoder": Stage("global_encode", "nodes.host.models", "GlobalEncoderSocket", "encode"),
    "image": Stage("global_encode", "comfy.sd", "VAE", "encode", 0.05),  # the host's tiles
    "conditions": Stage("base", "nodes.host.models", "VideoModel", "extra_conds"),
    "base": Stage("base", "nodes.host.network", "HostUNet", "forward", 1e-4),
    "refiner": Stage("refine", "nodes.host.network", "HostUNet", "forward", 1e-3),  # makes more of it
    "frames": Stage("frames", "comfy.sd", "VAE", "decode", 1e-4),
}


def _anew(stage: Stage) -> Graph:
    """The graph with nothing of the stage in the host's cache, and all that comes before it."""
    number = next(_numbers)
    changes: dict[str, dict[str, Any]] = {
        "base_loader": {
            "base_loader__weight_dtype": _DTYPES[number % len(_DTYPES)],
            "base_loader__detail_gain": ("official", "once")[number % 2],
        },
        "clip_encode": {"clip_encode__prompt": f"fox {number}"},
        "global_encode": {"global_encode__fps": number % 120 + 1},
        "base": {"base__seed": number},
        "refine": {"refine__latent": ["global_encode", 2], "refine__seed": number, "refine__cfg": 3.0},
        "frames": {"frames__latent": ["base", 0], "frames__frames_per_batch": number},
    }
    return changed(good(), base__steps=2, refine__steps=2, **changes[stage.node])


def _run(host: Host, stage: Stage, graph: Graph, allocator: Allocator) -> Result:
    module = host.module(stage.module) if stage.module.startswith("nodes") else __import__(stage.module, fromlist=["x"])
    owner = getattr(module, stage.owner) if stage.owner else module
    original = getattr(owner, stage.name)

    @functools.wraps(original)
    def run(*args: Any, **kwargs: Any) -> Any:
        with allocator:
            return original(*args[isinstance(original, type(host.run)) :], **kwargs)

    patched = pytest.MonkeyPatch()
    patched.setattr(owner, stage.name, classmethod(run) if isinstance(original, type(host.run)) else run)
    result = host.run(graph, {"output": (stage.node, 0)}, reuse_cache=True)
    patched.undo()
    return result


@pytest.fixture
def new_tensors() -> Iterator[Callable[[], list[str]]]:
    """What tensors are alive that were made since `gc.freeze`, by shape and type."""

    def new() -> list[str]:
        gc.collect()
        return [f"{list(each.shape)} {each.dtype}" for each in gc.get_objects() if issubclass(type(each), Tensor)]

    yield new
    gc.unfreeze()


def _places(count: int) -> list[int]:
    """First, last, and two between."""
    draw = random.Random(count)
    return sorted({1, count, *(draw.randint(2, count) for _ in range(2))})


def _tensor(value: Any) -> Tensor:
    """What a stage's first output is compared by."""
    if isinstance(value, list):
        return value[0][1]["i2vgen_xl"].image_latent
    return value["samples"] if isinstance(value, dict) else value


@pytest.mark.parametrize("spent", [False, True], ids=["once", "from then on"])
@pytest.mark.parametrize("name", STAGES)
def test_at_any_point_of_a_stage(host, new_tensors, name, spent):
    stage, graph = STAGES[name], _anew(STAGES[name])
    right = host.value(graph, stage.node)
    host.value(_anew(stage), stage.node)  # and the graph is out of the host's cache
    counter, recovered = Allocator(), 0
    assert _run(host, stage, graph, counter).error is None
    for place in _places(counter.calls):
        host.value(_anew(stage), stage.node)
        gc.freeze()
        result = _run(host, stage, graph, Allocator(place, spent))
        if result.error is None:
            recovered += 1
            assert relative_error(_tensor(result.kept["output"]), _tensor(right)) <= stage.close, place
        else:
            assert _MESSAGE in result.error and "you ran out of memory" in result.error, result.error
            assert result.error_node == stage.node
            del result
            assert new_tensors() == [], place
    assert bool(recovered) == (stage.close > 0 and not spent)
    host.value(_anew(stage), stage.node)


@pytest.mark.parametrize("interval", [1, 2])
def test_halves_apart_give_what_they_give_together(host, monkeypatch, caplog, interval):
    """At every step, and tried together at the first alone; each with deep features of its own, where those are used
    again. The next run tries again."""
    network = host.module("i2vgen_core.network.unet").UNet
    forward = network.forward

    def with_room_for_one(self: Any, x: Tensor, timesteps: Tensor, context: Any, *args: Any) -> Tensor:
        if len(getattr(context, "context", context)) > 1:
            raise torch.OutOfMemoryError(_MESSAGE)
        return forward(self, x, timesteps, context, *args)

    faster = {"guidance_end_percent": 1.0, "reuse_interval": interval}
    graph = changed(
        good(), base__model=["accelerate", 0], base__steps=4, **{f"accelerate__{k}": v for k, v in faster.items()}
    )
    together = host.value(graph, "base")
    host.value(_anew(STAGES["base"]), "base")
    monkeypatch.setattr(network, "forward", with_room_for_one)
    assert relative_error(host.value(graph, "base"), together) < 1e-4
    assert caplog.text.count("one after the other") == 1
    host.value(changed(graph, base__seed=4), "base")
    assert caplog.text.count("one after the other") == 2


def test_frames_go_one_by_one_before_tiles(host, monkeypatch, caplog):
    """Whose seams one sees."""
    import comfy.sd

    tiled: list[int] = []
    tiles = comfy.sd.VAE.decode_tiled_
    monkeypatch.setattr(comfy.sd.VAE, "decode_tiled_", lambda vae, x: [tiled.append(len(x)), tiles(vae, x)][1])
    stage = STAGES["frames"]
    host.value(_anew(stage), stage.node)
    assert _run(host, stage, _anew(stage), Allocator(40)).error is None
    assert tiled == [] and "memory ran out while 2 frames were decoded at once" in caplog.text
    graph = changed(_anew(stage), frames__frames_per_batch=1)
    assert _run(host, stage, graph, Allocator(40)).error is None
    assert tiled == [1], "a single frame is the host's to tile"
