"""Colours that have drifted come back, and what has only moved is left alone."""

import pytest
import torch

from i2vgen_core.errors import InputError
from i2vgen_core.media.colour import METHODS, match_colours
from i2vgen_core.media.compare import psnr
from i2vgen_core.training.evaluate import held_out_case

SEEDS = (1, 2, 4)


def clip(seed):
    return held_out_case(seed, 128, 64, 16, fps=8).truth.frames


def time(frames):
    return torch.linspace(0, 1, len(frames))[:, None, None, None]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("seed", SEEDS)
def test_drift_goes(method, seed):
    truth = clip(seed)
    drifted = (truth + 0.1 * time(truth) * torch.tensor((1.0, 0.0, -1.0))).clamp(0, 1)
    matched = match_colours(drifted, truth[:1], method)
    assert psnr(matched, truth) > psnr(drifted, truth) + 8
    assert psnr(matched[-1], truth[-1]) > psnr(drifted[-1], truth[-1]) + 10


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("seed", SEEDS)
def test_content_is_not_followed(method, seed):
    """Without drift nothing is to be done, however much moves; matching whole frames would change 30 dB worth."""
    truth = clip(seed)
    assert psnr(match_colours(truth, truth[:1], method), truth) > 50


@pytest.mark.parametrize("method", METHODS)
def test_a_shape_that_comes_in_changes_nothing(method):
    frames = torch.full((12, 64, 128, 3), 0.6) + 0.1 * torch.linspace(0, 1, 128)[:, None]
    reference = frames[:1].clone()
    for frame in range(1, 12):
        frames[frame, 10:50, : 8 * frame] = torch.tensor((0.9, 0.1, 0.1))
    assert psnr(match_colours(frames, reference, method), frames) > 40


@pytest.mark.parametrize("method", METHODS)
def test_where_all_has_changed_the_last_correction_goes_on(method):
    scene = torch.full((4, 64, 64, 3), 0.4)
    other = torch.full((8, 64, 64, 3), 0.8)
    other[:, ::2] = 0.1
    shift = torch.tensor((0.05, 0.0, -0.05))
    matched = match_colours(torch.cat([scene, other]) + shift, scene[:1], method)
    assert (matched[:4] - scene).abs().max() < 0.01
    assert (matched[4:] - other).abs().max() < 0.02


def test_drift_of_one_side_is_the_wavelets():
    truth = clip(SEEDS[0])
    side = torch.linspace(1, -1, 128)[:, None]
    drifted = (truth + 0.08 * time(truth) * side).clamp(0, 1)
    after = {method: psnr(match_colours(drifted, truth[:1], method), truth) for method in METHODS}
    assert after["wavelet"] > psnr(drifted, truth) + 5 and after["wavelet"] > after["adain"] + 3


@pytest.mark.parametrize("method", METHODS)
def test_no_flicker_is_added(method):
    """A still picture with noise stays as still as it was."""
    truth = clip(SEEDS[0])[:1].expand(16, -1, -1, -1)
    noisy = (truth + 0.02 * torch.randn(truth.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 1)
    matched = match_colours(noisy, truth[:1], method)
    brightness = [video.mean((1, 2, 3)).diff().abs().max().item() for video in (noisy, matched)]
    assert brightness[1] < 2 * brightness[0] + 1e-3


def test_the_reference_is_cropped_as_the_base_crops_it():
    truth = clip(SEEDS[0])
    wide = torch.nn.functional.pad(truth[:1], (0, 0, 64, 64), value=1.0)
    assert torch.allclose(match_colours(truth, wide), match_colours(truth, truth[:1]), atol=1e-6)


def test_strength():
    truth = clip(SEEDS[0])
    drifted = (truth + 0.1).clamp(0, 1)
    assert torch.equal(match_colours(drifted, truth[:1], strength=0), drifted)
    whole, half = (match_colours(drifted, truth[:1], strength=strength) for strength in (1, 0.5))
    assert torch.allclose(half, (whole + drifted) / 2, atol=0.02)  # but for what is cut at 0 and 1


@pytest.mark.parametrize("size", [(1, 1), (3, 200), (70, 54), (300, 260)])
@pytest.mark.parametrize("method", METHODS)
def test_any_size(size, method):
    frames = torch.rand(2, *size, 3, generator=torch.Generator().manual_seed(0))
    matched = match_colours(frames, frames[:1], method)
    assert matched.shape == frames.shape and matched.isfinite().all()
    assert psnr(matched[0], frames[0]) > 40


def test_what_cannot_be():
    frames = torch.rand(2, 16, 16, 3)
    with pytest.raises(InputError, match="adain or wavelet"):
        match_colours(frames, frames, "reinhard")
    with pytest.raises(InputError, match="strength"):
        match_colours(frames, frames, strength=1.1)
    with pytest.raises(InputError, match=r"reference image.*alpha"):
        match_colours(frames, torch.rand(1, 16, 16, 4))
