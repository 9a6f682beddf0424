"""Two videos compared: sizes, lengths, layouts and figures."""

import pytest
import torch

from i2vgen_core.errors import InputError
from i2vgen_core.media.compare import compare, psnr, sharpness, to_larger_size


def noise(frames, height, width, seed=0):
    return torch.rand(frames, height, width, 3, generator=torch.Generator().manual_seed(seed))


def test_side_by_side_shows_both_whole():
    a, b = noise(2, 16, 24), noise(2, 16, 24, 1)
    frames = compare(a, b).frames
    assert torch.equal(frames[:, :, :24], a) and torch.equal(frames[:, :, 24:], b)


def test_stacked_shows_both_whole_the_second_below():
    a, b = noise(2, 16, 24), noise(2, 16, 24, 1)
    frames = compare(a, b, "stacked").frames
    assert torch.equal(frames[:, :16], a) and torch.equal(frames[:, 16:], b)


def test_split_shows_a_half_of_each():
    a, b = noise(2, 16, 24), noise(2, 16, 24, 1)
    frames = compare(a, b, "split").frames
    assert frames.shape == a.shape
    assert torch.equal(frames[:, :, :11], a[:, :, :11]) and torch.equal(frames[:, :, 13:], b[:, :, 13:])
    assert (frames[:, :, 11:13] == 1).all()
    assert not torch.equal(a, noise(2, 16, 24, 1))  # what is drawn on is a copy


@pytest.mark.parametrize("swapped", [False, True])
def test_the_smaller_one_is_enlarged_and_the_longer_one_cut(swapped):
    ramp = torch.linspace(0.2, 0.8, 24)[:, None].expand(5, 16, 24, 3)
    large = torch.linspace(0.2, 0.8, 48)[:, None].expand(3, 32, 48, 3)
    pair = (large, ramp) if swapped else (ramp, large)
    comparison = compare(*pair)
    assert comparison.frames.shape == (3, 32, 96, 3)
    assert len(comparison.psnr) == len(comparison.sharpness[0]) == 3
    assert min(comparison.psnr) > 35
    assert [tuple(video.shape[1:3]) for video in to_larger_size(*pair)] == [(32, 48)] * 2


def test_psnr_frame_by_frame():
    a = torch.full((2, 8, 8, 3), 0.5)
    b = torch.stack([a[0], a[1] + 0.1])
    assert compare(a, b).psnr == (100, pytest.approx(20, abs=1e-4))
    assert psnr(a, b) == pytest.approx(20 + 3.0103, abs=1e-3)


def test_sharpness_is_the_variance_of_the_laplacian():
    checks = torch.zeros(1, 16, 16, 3)
    checks[:, ::2, ::2] = checks[:, 1::2, 1::2] = 1
    inner = sharpness(checks.repeat(1, 4, 4, 1)).item()
    assert inner == pytest.approx((4 * 255) ** 2, rel=0.05)  # every pixel is 4 times 255 from its neighbours' sum
    assert sharpness(torch.full((1, 16, 16, 3), 0.3)).item() == pytest.approx(0, abs=1e-6)
    ramp = torch.linspace(0, 1, 64)[:, None].expand(1, 16, 64, 3)
    assert sharpness(ramp).item() < 1


def test_table():
    a = torch.full((2, 8, 8, 3), 0.5)
    lines = compare(a, torch.stack([a[0], a[1] + 0.1])).table().splitlines()
    assert lines[0] == "| frame | PSNR, dB | sharpness a | sharpness b |"
    assert lines[2:] == [
        "| mean | 60.00 | 0.00 | 0.00 |",
        "| 0 | 100.00 | 0.00 | 0.00 |",
        "| 1 | 20.00 | 0.00 | 0.00 |",
    ]


def test_what_cannot_be_compared():
    with pytest.raises(InputError, match=r"video b.*alpha"):
        compare(noise(1, 8, 8), torch.rand(1, 8, 8, 4))
    with pytest.raises(InputError, match="side_by_side or split or stacked"):
        compare(noise(1, 8, 8), noise(1, 8, 8), "wipe")
