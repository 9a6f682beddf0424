"""Measures of videos of the synthetic world, where the truth is known: tensors in, numbers out."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from scipy import ndimage  # type: ignore[import-untyped]
from torch import Tensor
from torch.nn import functional

from ..media.spectrum import Spectrum, band_distance, spatial_spectrum
from ..media.world import GROWTH, TRAVEL, Shape

_BINS = 32  # of each colour channel
_WIDTHS = ((0.05, 0.8), (0.15, 0.2))  # deviations of the colour kernel and their weights; the wide one forgives drift
_UNSEEN = 1e-5  # density of colours that the first frame has nowhere; they are not the shape's
_AREAS = (0.15, 5.0)  # of the first frame's; the world's shapes shrink to 0.27 and grow to 3.7 times their area
_FOUND = 0.75  # share of the frames that a shape must be found in


class Tracker:
    """Finds the main shape in the frames of a video that begins with a known picture.

    Each pixel is judged by its colour alone, by Bayes' rule with the colours that the first picture has inside and
    outside the shape (smoothed histograms; the other shape counts as outside); the surest connected region is the
    shape. Neither the prompt nor the true motion is known to it.

    Args:
        image: the first picture [H, W, 3] in 0..1.
        mask: where the shape is in it, [H, W] in 0..1.
    """

    def __init__(self, image: Tensor, mask: Tensor):
        inside, outside = (_colour_density(image, weights) for weights in (mask, 1 - mask))
        self._sure = inside / (inside + outside + _UNSEEN)
        self._area = mask.sum().item()

    def __call__(self, frames: Tensor) -> Tensor:
        """Frames [F, H, W, 3] to masks [F, H, W]: how sure in 0.5..1, 0 elsewhere; all 0 in a frame where it is lost.

        A region of less than 0.15 or more than 5 times the first picture's area is not taken for the shape.
        """
        colours = frames.clamp(0, 1)[None] * 2 - 1
        sure = functional.grid_sample(self._sure[None, None], colours, align_corners=True, padding_mode="border")[0, 0]
        sure = functional.avg_pool2d(sure[:, None], 3, 1, 1, count_include_pad=False)[:, 0]
        return torch.stack([self._region(frame) for frame in sure])

    def _region(self, sure: Tensor) -> Tensor:
        labels, count = ndimage.label((sure > 0.5).numpy())
        if not count:
            return torch.zeros_like(sure)
        sums = ndimage.sum_labels(sure.numpy(), labels, range(1, count + 1))
        region = torch.from_numpy(labels == int(sums.argmax()) + 1)
        low, high = _AREAS
        plausible = low <= region.sum().item() / self._area <= high
        return sure * region if plausible else torch.zeros_like(sure)


def _colour_density(image: Tensor, weights: Tensor) -> Tensor:
    """[blue, green, red] density of colours, [32, 32, 32], in all 1; in the order that grid_sample has axes in."""
    red, green, blue = (image.clamp(0, 1) * (_BINS - 1)).round().long().flatten(0, 1).unbind(1)
    counts = torch.zeros(_BINS**3).index_add_(0, (blue * _BINS + green) * _BINS + red, weights.float().flatten())
    counts = counts.view(_BINS, _BINS, _BINS) / weights.sum().clamp(min=1e-6)
    levels = torch.arange(_BINS) / (_BINS - 1)
    density = torch.zeros_like(counts)
    for width, share in _WIDTHS:
        kernel = torch.exp(-0.5 * ((levels[:, None] - levels) / width) ** 2)
        kernel = kernel / kernel.sum(0, keepdim=True)
        density += share * torch.einsum("abc,ia,jb,kc->ijk", counts, kernel, kernel, kernel)
    return density


def path(masks: Tensor) -> Tensor:
    """Centroids of masks [F, H, W]: [F, 2], x and y in fractions of the picture, NaN where a mask is empty."""
    height, width = masks.shape[1:]
    x, y = (torch.arange(width) + 0.5) / width, (torch.arange(height) + 0.5) / height
    total = masks.sum((1, 2))
    return torch.stack(((masks.sum(1) * x).sum(1), (masks.sum(2) * y).sum(1)), dim=1) / total[:, None]


def displacement(path: Tensor) -> Tensor | None:
    """From the first to the last frame of a path [F, 2]: [2], by the straight line of least squares in time.

    None where the shape was found in less than three quarters of the frames. F is 2 or more.
    """
    found = path.isfinite().all(1)
    if found.float().mean() < _FOUND:
        return None
    time = torch.arange(len(path), dtype=torch.float32)[found]
    time = time - time.mean()
    return (time[:, None] * path[found]).sum(0) / time.square().sum() * (len(path) - 1)


def moves_as_told(path: Tensor, shape: Shape, fps: float, aspect: float) -> bool:
    """Whether a shape that is to travel or to stay still does so.

    What stays still is displaced by less than a quarter of what "slowly" would be. What travels is displaced by that
    or more, within 45 degrees of the direction that it was told. A shape that was lost does neither.

    Args:
        path: [F, 2] in fractions of the picture, NaN where it was not found.
        shape: its motion is one of travel, or "still".
        fps: frames a second.
        aspect: width over height of the picture.
    """
    moved = displacement(path)
    if moved is None:
        return False
    moves = moved.norm().item() >= TRAVEL["slowly"] * (len(path) - 1) / fps / 4
    if shape.motion == "still":
        return not moves
    pixels = torch.tensor((aspect, 1.0))
    cosine = functional.cosine_similarity(moved * pixels, torch.tensor(shape.velocity) * pixels, dim=0).item()
    return moves and cosine >= math.cos(math.pi / 4)


def grows_as_told(masks: Tensor, shape: Shape, fps: float) -> bool:
    """Whether a shape that is to grow or shrink does so, by a quarter or more of what "slowly" would do.

    Args:
        masks: [F, H, W]; one that is all 0 is a frame where it was not found.
        shape: it is growing or shrinking.
        fps: frames a second.
    """
    sizes = (masks > 0).sum((1, 2)).float().log() / 2
    changed = displacement(torch.stack((sizes, sizes), dim=1))
    if changed is None:
        return False
    sign = 1 if shape.motion == "growing" else -1
    return sign * changed[0].item() >= GROWTH["slowly"] * (len(masks) - 1) / fps / 4


def speed_ratio(slow: Tensor, fast: Tensor) -> float:
    """How much further a path [F, 2] goes in a frame than another one; 0 where the shape is lost in either."""
    far, near = displacement(slow), displacement(fast)
    if far is None or near is None:
        return 0.0
    return (far.norm() / (len(slow) - 1)).item() / max((near.norm() / (len(fast) - 1)).item(), 1e-6)


def overlap(a: Tensor, b: Tensor) -> float:
    """Intersection over union of two masks [H, W] of bool; 0 where both are empty."""
    union = (a | b).sum().item()
    return (a & b).sum().item() / union if union else 0.0


def static_region(frames: Tensor, moving: Tensor | None = None) -> Tensor:
    """Where nothing happens in a video: [H, W] of bool.

    Pixels that no frame changes by half a step of 8 bits, and that are a twentieth of the height or more away from
    those that one does.

    Args:
        frames: [F, H, W, 3] in 0..1, the true clip.
        moving: [H, W] of bool, more pixels to stay away from.
    """
    changes = (frames.amax(0) - frames.amin(0)).amax(-1) > 0.5 / 255
    if moving is not None:
        changes = changes | moving
    margin = math.ceil(frames.shape[1] / 20)
    near = functional.max_pool2d(changes.float()[None, None], 2 * margin + 1, 1, margin)[0, 0]
    return near == 0


def jitter(frames: Tensor, region: Tensor) -> float:
    """Mean absolute difference from frame to frame of frames [F, H, W, 3] within a region [H, W] of bool."""
    return frames[:, region].diff(dim=0).abs().mean().item()


def high_band(frames: Tensor, truth: Tensor) -> float:
    """How far the spectrum of frames [F, H, W, 3] is from the true one at its highest frequencies, in dB."""
    return band_distance(spatial_spectrum(frames), spatial_spectrum(truth), "high")


def upsample(frames: Tensor, width: int, height: int) -> Tensor:
    """Bicubic resize of frames [F, H, W, 3] to [F, height, width, 3], in 0..1."""
    pixels = functional.interpolate(frames.movedim(-1, 1), (height, width), mode="bicubic", align_corners=False)
    return pixels.movedim(1, -1).clamp(0, 1)


def mean_spectrum(spectra: Sequence[Spectrum]) -> Spectrum:
    """The mean of several videos' logarithmic power; all have the same frequencies."""
    power = torch.stack([spectrum.power for spectrum in spectra]).clamp(min=1e-12)
    return Spectrum(spectra[0].frequencies, power.log().mean(0).exp())
