"""A video made ready for a refiner that restores it: enlarged, its frames held for those to be inserted, padded (STAR,
inference_sr.py; VEnhancer, enhance_a_video.py; both video_to_video_model.py)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

LEAST = (720, 1280)
"""Height and width that smaller videos are padded to."""
MOST_INSERTED = 8


class Padding(NamedTuple):
    """Pixels on each side."""

    left: int
    right: int
    top: int
    bottom: int


@dataclass(frozen=True, eq=False)
class Canvas:
    """What is to be done with the frames that come of a network that enlarges.

    Args:
        padding: white around them, to be cut off.
        originals: [frames, h, w, 3] in 0..1, whose colours they take; None where not every frame has one.
    """

    padding: Padding
    originals: Tensor | None


def padding_of(height: int, width: int, least: tuple[int, int] = LEAST) -> Padding:
    """What a video's frames need on each side: up to `least`, centred, where they are smaller; else below and to the right, up
    to a height of 16 and a width of 0 more than a multiple of 64. A larger side that is so already gets 64 more, as
    released."""
    top, bottom = _sides(height, least[0], 16)
    left, right = _sides(width, least[1], 0)
    return Padding(left, right, top, bottom)


def _sides(side: int, least: int, beyond: int) -> tuple[int, int]:
    if side <= least:
        before = (least - side) // 2
        return before, least - side - before
    return 0, (side - beyond) // 64 * 64 + 64 + beyond - side


def padded(images: Tensor, padding: Padding) -> Tensor:
    """Frames [F, H, W, 3] in 0..1 with white around them."""
    left, right, top, bottom = padding
    return functional.pad(images, (0, 0, left, right, top, bottom), value=1.0)


def without_padding(images: Tensor, padding: Padding) -> Tensor:
    """Frames [F, H, W, 3] as they were before `padded`."""
    height, width = images.shape[1:3]
    return images[:, padding.top : height - padding.bottom, padding.left : width - padding.right]


def enlarged(images: Tensor, height: int, width: int) -> Tensor:
    """Frames [F, H, W, 3], bilinear and not antialiased, as released."""
    pixels = functional.interpolate(images.movedim(-1, 1), (height, width), mode="bilinear")
    return pixels.movedim(1, -1)


def enlarged_size(height: int, width: int, scale: float, fewest: int = 0, most: int = 0) -> tuple[int, int]:
    """Height and width of an enlarged video: with fewest and most pixels, within these and even (VEnhancer)."""
    if not most:
        return int(height * scale), int(width * scale)
    pixels = height * scale * width * scale
    bound = fewest if pixels < fewest else most if pixels > most else None
    factor = scale if bound is None else math.sqrt(bound / (height * width))
    return int(factor * height // 2 * 2), int(factor * width // 2 * 2)


def inserted_for(fps: float, target: float = 24) -> int:
    """How many frames between two bring a video nearest to a frame rate, 0..8, half to even as released."""
    return min(MOST_INSERTED, max(0, round(target / fps) - 1))


def held(images: Tensor, inserted: int) -> Tensor:
    """Frames [F, ...] of which each but the last is repeated for those to be inserted: [(F - 1) (inserted + 1) + 1, ...]."""
    repeats = torch.full((len(images),), inserted + 1)
    repeats[-1] = 1
    return images.repeat_interleave(repeats.to(images.device), dim=0)
