"""A clip's colours brought back to those of the image that it began from, where they have drifted.

Matching each frame to the image as a whole, as colour transfer between two pictures does, would follow content: a shape
that leaves the picture, or a camera that turns away, changes a frame's statistics without any drift. So a frame is
compared with the image only where it still shows what the image shows, and the correction found there is used on the
whole frame. What has moved away, or come in, is corrected by its surroundings' correction and never compared. Where
nothing of the image is left, the last correction goes on. Corrections change slowly from frame to frame, so that they
add no flicker.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

import kornia
import torch
from torch import Tensor
from torch.nn import functional

from ..errors import check_choice, check_range
from .images import check_images, cover

Method = Literal["adain", "wavelet"]
METHODS: tuple[Method, ...] = get_args(Method)

_SIDE = 128  # pixels of the shorter side that colours are compared at; drift has no detail
_SAME = 0.06  # how far a corrected pixel may be from the image's and count as the same by about a half, of 1
_LOW = 1 / 8  # deviation of the low band's Gaussian, in shorter sides
_CONTRAST = 0.1  # added to both deviations: where there is next to no contrast, none is added
_GAINS = 0.8, 1.25


class _Correction(NamedTuple):
    """frame * gain + offset. Gain is [3, 1, 1]; offset is [3, 1, 1], or a low-pass field [3, h, w]."""

    gain: Tensor
    offset: Tensor

    def __call__(self, frame: Tensor) -> Tensor:
        return frame * self.gain + self.offset


def match_colours(frames: Tensor, reference: Tensor, method: Method = "wavelet", strength: float = 1.0) -> Tensor:
    """Matches a clip's colours to those of its first frame's image, over time and without following content.

    `adain` gives each channel one gain and one offset a frame, so that mean and deviation of what has stayed are the
    image's (Huang and Belongie 2017, adaptive instance normalisation). `wavelet` adds the low band of the difference of
    what has stayed, so that colours may have drifted otherwise in one corner than in another; the low band is a
    Gaussian's with a deviation of an eighth of the shorter side, which is what the coarsest level of the usual a trous
    wavelet colour fix keeps, and details stay the frame's. Frame 0 is taken to show the whole image.

    Args:
        frames: [F, H, W, 3] in 0..1.
        reference: [N, H', W', 3] in 0..1; of the first, the centre is cropped to the frames' aspect ratio as the base
            stage crops its image.
        method: "adain" or "wavelet".
        strength: 0 (as it is) to 1 (matched).

    Returns:
        [F, H, W, 3] float32 in 0..1.

    Raises:
        InputError: frames or reference is not such a tensor, there is no such method, or strength is out of range.
    """
    check_images(frames, "the video")
    check_images(reference, "the reference image")
    check_range("strength", strength, 0, 1)
    check_choice("method", method, METHODS)
    height, width = frames.shape[1:3]
    image = _reduced(cover(reference[:1], width, height).to(frames.device))[0]
    matched = torch.empty_like(frames, dtype=torch.float32)
    correction: _Correction | None = None
    for index, frame in enumerate(frames.float()):
        correction = _follow(_reduced(frame[None])[0], image, method, correction)
        offset = correction.offset
        if method == "wavelet":
            offset = functional.interpolate(offset[None], (height, width), mode="bilinear")[0]
        corrected = _Correction(correction.gain, offset)(frame.movedim(-1, 0)).movedim(0, -1)
        matched[index] = torch.lerp(frame, corrected, strength).clamp(0, 1)
    return matched


def _follow(frame: Tensor, image: Tensor, method: Method, before: _Correction | None) -> _Correction:
    """A frame's correction [3, h, w] from the one before. That one weighs as much as what a frame can say at most."""
    if before is None:
        same, inertia = torch.ones_like(frame[:1]), 0.0
    else:
        same, inertia = _same(before(frame), image), 1.0
    if method == "wavelet":
        weight = _low(same)
        offset = _low(same * (image - frame)) / (weight + inertia + 1e-6)
        if before is not None:
            offset = offset + before.offset * inertia / (weight + inertia)
        return _Correction(torch.ones_like(image[:, :1, :1]), offset)
    (mean, deviation), (wanted_mean, wanted) = (_statistics(picture, same) for picture in (frame, image))
    gain = ((wanted + _CONTRAST) / (deviation + _CONTRAST)).clamp(*_GAINS)
    found = _Correction(gain, wanted_mean - gain * mean)
    if before is None:
        return found
    share = same.mean() / (same.mean() + inertia)
    return _Correction(*(torch.lerp(old, new, share) for old, new in zip(before, found, strict=True)))


def _same(frame: Tensor, image: Tensor) -> Tensor:
    """How surely a frame still shows what the image does, [1, h, w] in 0..1, from their smoothed difference."""
    distance = _blurred((frame - image).abs().mean(0, keepdim=True), 1.5)
    return torch.exp(-0.7 * (distance / _SAME) ** 2)


def _statistics(picture: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Weighted mean and deviation of each channel, [3, 1, 1]."""
    total = weight.sum().clamp(min=1e-6)
    mean = (weight * picture).sum((1, 2), keepdim=True) / total
    variance = (weight * (picture - mean) ** 2).sum((1, 2), keepdim=True) / total
    return mean, variance.sqrt()


def _reduced(pictures: Tensor) -> Tensor:
    """[N, H, W, 3] to [N, 3, h, w] with a shorter side of at most _SIDE."""
    height, width = pictures.shape[1:3]
    scale = min(1.0, _SIDE / min(height, width))
    size = max(1, round(height * scale)), max(1, round(width * scale))
    return functional.interpolate(pictures.movedim(-1, 1), size, mode="area")


def _low(picture: Tensor) -> Tensor:
    return _blurred(picture, _LOW * min(picture.shape[1:]))


def _blurred(picture: Tensor, deviation: float) -> Tensor:
    """Gaussian blur of [C, h, w], mirrored at the edges."""
    deviation = max(deviation, 0.5)
    size = 2 * min(round(3 * deviation), min(picture.shape[1:]) - 1) + 1
    return kornia.filters.gaussian_blur2d(picture[None], (size, size), (deviation, deviation), "reflect")[0]


def match_statistics(frames: Tensor, originals: Tensor) -> Tensor:
    """Gives each frame the mean and deviation that each channel of its original has (adaptive instance normalisation; STAR,
    color_fix.py: adaptive_instance_normalization). It is for a video that was made of another of the same
    content, frame by frame.

    Args:
        frames: [F, H, W, 3] in 0..1.
        originals: as many frames of any size, [F, h, w, 3] in 0..1.

    Returns:
        [F, H, W, 3] in 0..1.
    """
    (mean, deviation), (wanted_mean, wanted) = (_of_frames(each) for each in (frames, originals))
    return ((frames - mean) / deviation * wanted + wanted_mean).clamp(0, 1)


def match_low_bands(frames: Tensor, originals: Tensor) -> Tensor:
    """Keeps each frame's details, and takes what is coarser from its original (STAR, color_fix.py: wavelet_reconstruction).

    Args:
        frames, originals: [F, H, W, 3] in 0..1, of one size.

    Returns:
        [F, H, W, 3] in 0..1.
    """
    return (frames - _coarse(frames) + _coarse(originals)).clamp(0, 1)


def _of_frames(frames: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation of each frame's channels, [F, 1, 1, 3]."""
    variance, mean = torch.var_mean(frames, dim=(1, 2), keepdim=True)
    return mean, (variance + 1e-5).sqrt()


def _coarse(frames: Tensor) -> Tensor:
    """The lowest band of five of an a trous wavelet."""
    pixels = frames.movedim(-1, 1)
    side = torch.tensor([1.0, 2.0, 1.0], device=frames.device) / 4
    kernel = torch.outer(side, side).expand(3, 1, 3, 3)
    for distance in (2**level for level in range(5)):
        around = functional.pad(pixels, (distance,) * 4, mode="replicate")
        pixels = functional.conv2d(around, kernel, dilation=distance, groups=3)
    return pixels.movedim(1, -1)
