"""The core on a graphics card, emulated: nothing mixes devices, and the values are the CPU's."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import toy

from i2vgen_core.cascade import Cascade
from i2vgen_core.media.images import read_image
from i2vgen_core.network.blocks import fourier_filter
from i2vgen_core.sampling.options import BaseOptions, RefineOptions
from i2vgen_core.sampling.schedules import BASE_SOLVERS, SOLVERS

from ..card import Card, OnCard

BASE = BaseOptions(width=72, height=64, frames=3, steps=3, eta=0.5, seed=1)
REFINE = RefineOptions(steps=3, guidance=1.5, seed=1)  # a low one: it enlarges what is rounded
SAME = 1e-4
"""As in every sampling loop: the sums are the CPU's, in another order."""

SAME_INVERTED = 5e-3
"""An inversion begins where noise has a share of 0.001, by which the rounding of these latents, some 20 large, is divided."""


@pytest.fixture(scope="module", params=["i2vgen_xl-vid2vid_xl", "image2video-sr600"])
def folder(request, bundles):
    return bundles(*request.param.split("-"))


@pytest.fixture(scope="module")
def image():
    return read_image(Path(__file__).parents[2] / "demo" / "photo.jpg")


def runs(folder, image, device, dtype, bases=BASE_SOLVERS, refiners=SOLVERS):
    """Latents and frames of both stages, by solver and entry."""
    cascade = Cascade(folder, device=device, dtype=dtype)
    conditions, made = cascade.condition(image, "a boat", BASE), {}
    for solver in bases:
        made[solver] = cascade.sample_base(conditions, replace(BASE, solver=solver))
    made["frames"] = cascade.decode(made["ddim"])
    size = {"width": 80, "height": 80}
    encoded = made["encoded"] = cascade.encode_video(made["frames"], replace(REFINE, **size))
    for solver in refiners:
        for entry in ("noise", "inversion"):
            options = replace(REFINE, solver=solver, entry=entry, noise_level=600)
            made[solver, entry] = cascade.sample_refiner(encoded, "a boat", options)
    return made


@pytest.fixture(scope="module")
def on_cpu(folder, image):
    return runs(folder, image, "cpu", torch.float32)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["cuda", "mps"])
def test_a_card_makes_what_the_cpu_makes(folder, image, on_cpu, kind):
    """No function mixes devices; on mps no float64 and no complex number is made."""
    with Card(kind):
        made = runs(folder, image, kind, torch.float32)
    for name, expected in on_cpu.items():
        assert isinstance(made[name], OnCard), name
        limit = SAME_INVERTED if "inversion" in name else SAME
        assert toy.error(made[name].inner, expected) <= limit, name


@pytest.mark.slow
def test_half_precision_on_a_card(folder, image):
    with Card("cuda"):
        made = runs(folder, image, "cuda", torch.float16, ["ddim"], ["heun"])
    assert all(value.inner.isfinite().all() for value in made.values())


def test_the_card_refuses_what_a_card_refuses():
    with Card("cuda") as card:
        here = torch.ones(2, 3, device="cuda")
        assert here.device == card.device and (here + 1).device == card.device and here.cpu().device.type == "cpu"
        with pytest.raises(RuntimeError, match="same device"):
            _ = here + torch.ones(2, 3)
        with pytest.raises(RuntimeError, match="same device"):
            torch.nn.functional.linear(here, torch.ones(4, 3))
        with pytest.raises(TypeError, match="numpy"):
            here.numpy()
    with Card("mps"):
        with pytest.raises(TypeError, match="float64"):
            torch.ones(2, device="mps", dtype=torch.float64)
        with pytest.raises(TypeError, match="complex"):
            torch.fft.fft(torch.ones(2, device="mps"))


@pytest.mark.parametrize("shape", [(2, 3, 6, 5), (1, 2, 1, 4), (1, 2, 2, 1), (1, 1, 1, 1)])
def test_the_fourier_filter_is_the_transforms(shape):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    spectrum = torch.fft.fftn(x.double(), dim=(-2, -1))
    for row in {0, shape[-2] - 1}:
        for column in {0, shape[-1] - 1}:
            spectrum[..., row, column] *= 0.4
    expected = torch.fft.ifftn(spectrum, dim=(-2, -1)).real
    assert math.isclose(toy.error(fourier_filter(x, 0.4).double(), expected), 0, abs_tol=1e-6)
