"""Runs on the same loaders do not see one another: interleaved, each gives what it gives with loaders of its own. That it
gives what the core does, after any other run, test_graph shows."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from i2vgen_core.cascade import Cascade
from i2vgen_core.media.images import read_image
from i2vgen_core.sampling.options import BaseOptions, RefineOptions

from .available import PACK
from .bad_cases import good
from .graphs import Graph, changed
from .in_process import Host

SIZE = {"clip_encode__width": 96, "global_encode__width": 96, "global_encode__height": 72}
RUNS: dict[str, Graph] = {
    "plain": good(),
    "size": changed(good(), **SIZE),
    "frames": changed(good(), global_encode__frames=5),
    "rate": changed(good(), global_encode__fps=24),
    "guidance": changed(good(), base__cfg=9.0, refine__cfg=4.0, refine__rescale=0.7),
    "gain": changed(
        good(),
        base_loader__detail_gain="once",
        base__model=["base_loader", 0],
        global_encode__global_encoder=["base_loader", 1],
    ),
    "refiner": changed(good(), refiner__variant="sr600"),
    "accelerated": changed(good(), base__model=["accelerate", 0], base__steps=3),
    "solver": changed(good(), base__solver="unipc", base__steps=3),
    "bf16": changed(good(), loader__weight_dtype="bf16", refiner__weight_dtype="bf16"),
    "prompt": changed(good(), clip_encode__prompt="a blue ring grows", refine__seed=3),
    "refined size": changed(good(), scale__width=88, scale__height=80),
}


def _frames(host: Host, name: str, reuse_cache: bool) -> Tensor:
    result = host.run(RUNS[name], {"frames": ("frames", 0)}, reuse_cache=reuse_cache)
    assert result.error is None, result.error
    return result.kept["frames"]


def test_interleaved_in_the_host(host):
    alone = {name: _frames(host, name, reuse_cache=False) for name in RUNS}
    names = list(RUNS)
    assert not any(
        alone[a].shape == alone[b].shape and torch.equal(alone[a], alone[b]) for a in names for b in names if a < b
    ), "each option matters"
    draw = random.Random(0)
    before = None
    for name in draw.choices(names, k=2 * len(names)):
        assert torch.equal(_frames(host, name, reuse_cache=True), alone[name]), (before, name)
        before = name


def test_one_run_inside_another():
    """Step by step: at each step of one, the whole of another on the same cascade."""
    cascade = Cascade()
    image = read_image(PACK / "demo" / "scene.png")
    small = BaseOptions(width=64, height=64, frames=2, steps=2, seed=1)
    large = replace(small, width=96, height=72, frames=3, guidance=6.0, eta=0.5, seed=2, fps=16)

    def base(options: BaseOptions, inside: BaseOptions | None = None) -> Tensor:
        def callback(*_: object) -> None:
            if inside is not None:
                assert torch.equal(base(inside), alone[inside])

        conditions = cascade.condition(image, "a red disc", options)
        return cascade.sample_base(conditions, options, callback=callback)

    alone: dict[BaseOptions, Tensor] = {options: base(options) for options in (small, large)}
    assert torch.equal(base(small, large), alone[small])
    assert torch.equal(base(large, small), alone[large])


@pytest.mark.parametrize("solver", ["dpmpp_2m_sde", "heun"])
def test_one_refinement_inside_another(solver):
    """The solver's noise is its own too."""
    cascade = Cascade()
    video = torch.rand(2, 64, 72, 3, generator=torch.Generator().manual_seed(0))
    plain = RefineOptions(width=72, height=64, steps=2, seed=1, guidance=2.0)
    other = replace(plain, width=80, height=72, seed=2, guidance=3.0, rescale=0.5, solver=solver, entry="inversion")

    def refine(options: RefineOptions, inside: RefineOptions | None = None) -> Tensor:
        def callback(*_: object) -> None:
            if inside is not None:
                assert torch.equal(refine(inside), alone[inside])

        return cascade.sample_refiner(cascade.encode_video(video, options), "a disc", options, callback=callback)

    alone: dict[RefineOptions, Tensor] = {options: refine(options) for options in (plain, other)}
    assert torch.equal(refine(plain, other), alone[plain])
    assert torch.equal(refine(other, plain), alone[other])
