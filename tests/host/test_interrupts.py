"""A cancel at every step and in every stage: it stops there, and the next run gives what it would have given."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch

from .bad_cases import good
from .graphs import Graph, changed
from .in_process import Host

STEPS = 3
_numbers = itertools.count(1000)


class Interrupter:
    """Cancels at the n-th call of a function, before or after it runs.

    Attributes:
        calls: how often it has been called.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, at: int, after: bool = False):
        import comfy.model_management

        self.calls = 0
        original: Callable[..., Any] = getattr(owner, name)

        def counted(*args: Any, **kwargs: Any) -> Any:
            self.calls += 1
            if self.calls == at and not after:
                comfy.model_management.interrupt_current_processing()
            result = original(*args, **kwargs)
            if self.calls == at and after:
                comfy.model_management.interrupt_current_processing()
            return result

        monkeypatch.setattr(owner, name, counted)


def _graph(**changes: Any) -> Graph:
    """Not run before: its seeds are new."""
    number = next(_numbers)
    graph = changed(good(), base__steps=STEPS, refine__steps=STEPS, base__seed=number, refine__seed=number)
    return changed(graph, **changes)


def _stops_and_goes_on(
    host: Host, monkeypatch: pytest.MonkeyPatch, graph: Graph, at: str, owner: Any, name: str, call: int
) -> int:
    """Cancels the graph at a call, in the node `at`; then runs it again and anew. How often the function was called."""
    interrupter = Interrupter(monkeypatch, owner, name, call)
    result = host.run(graph, {"output": ("frames", 0)}, reuse_cache=True)
    monkeypatch.undo()
    assert result.interrupted and result.error_node == at
    again, anew = (host.run(graph, {"output": ("frames", 0)}, reuse_cache=kept) for kept in (True, False))
    assert again.error is anew.error is None
    assert torch.equal(again.kept["output"], anew.kept["output"])
    return interrupter.calls


RUNS = {
    "base": ("base", {}, STEPS),
    "noise": ("refine", {"refine__entry": "noise"}, STEPS),
    "inversion": ("refine", {"refine__entry": "inversion"}, 2 * STEPS),
    "heun": ("refine", {"refine__solver": "heun"}, 2 * STEPS - 1),
}
"""Node, settings, and how many evaluations a run has."""


@pytest.mark.parametrize("run", RUNS)
def test_at_every_evaluation(host, monkeypatch, run):
    import comfy.samplers

    at, changes, evaluations = RUNS[run]
    before = 0 if at == "base" else STEPS
    for evaluation in range(1, evaluations + 1):
        graph = _graph(**changes)
        place = comfy.samplers.CFGGuider, "predict_noise"
        calls = _stops_and_goes_on(host, monkeypatch, graph, at, *place, before + evaluation)
        assert calls == before + evaluation, "no evaluation after the cancel"
    interrupter = Interrupter(monkeypatch, *place, 0)
    host.value(_graph(**changes), at)
    assert interrupter.calls == before + evaluations, "these were all there are"


@pytest.mark.parametrize("call", [1, 2])
def test_while_frames_are_decoded(host, monkeypatch, call):
    import comfy.sd

    graph = _graph(frames__frames_per_batch=1, frames__latent=["base", 0])
    assert _stops_and_goes_on(host, monkeypatch, graph, "frames", comfy.sd.VAE, "decode", call) == call


def test_between_batches_that_the_block_has_chosen(host, monkeypatch):
    """With frames_per_batch 0, where memory has room for one: after the first, the second is not begun."""
    import comfy.sd

    decode = host.module("nodes.host.decode")
    monkeypatch.setattr(decode, "_frames_at_once", lambda *_: 1)
    interrupter = Interrupter(monkeypatch, comfy.sd.VAE, "decode", 1, after=True)
    result = host.run(_graph(frames__latent=["base", 0]), {"output": ("frames", 0)}, reuse_cache=True)
    assert result.interrupted and result.error_node == "frames"
    assert interrupter.calls == 1


ENCODERS = {
    "CLIP": ("clip_encode", "comfy.sd", "CLIP", "encode_from_tokens_scheduled", 1),
    "CLIP, negative": ("clip_encode", "comfy.sd", "CLIP", "encode_from_tokens_scheduled", 2),
    "CLIP vision": ("clip_encode", "comfy.clip_vision", "ClipVisionModel", "encode_image", 1),
    "VAE": ("global_encode", "comfy.sd", "VAE", "encode", 1),
}


@pytest.mark.parametrize("encoder", ENCODERS)
def test_while_it_encodes(host, monkeypatch, encoder):
    import importlib

    at, module, kind, name, call = ENCODERS[encoder]
    owner = getattr(importlib.import_module(module), kind)
    graph = _graph(clip_encode__prompt=f"cancelled in {encoder}", global_encode__fps=len(encoder))
    assert _stops_and_goes_on(host, monkeypatch, graph, at, owner, name, call) == call


@pytest.mark.parametrize("part", ["load_clip", "load_clip_vision"])
def test_while_it_loads(host, monkeypatch, part):
    """The part that is being read is read to its end; the next one is not begun."""
    encoders = host.module("nodes.host.encoders")
    after = Interrupter(monkeypatch, encoders, "load_native_vae", 0)
    interrupter = Interrupter(monkeypatch, encoders, part, 1)
    result = host.run(_graph(), {"output": ("base", 0)})
    assert result.interrupted and result.error_node == "loader"
    assert (interrupter.calls, after.calls) == (1, 0)
    assert host.run(_graph(), {"output": ("base", 0)}).error is None
