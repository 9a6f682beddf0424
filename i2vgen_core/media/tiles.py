"""Long or large things in windows that overlap: where they lie, and a latent decoded in tiles (VEnhancer)."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import torch
from einops import rearrange
from torch import Tensor

from ..config import VAE_STEP

TILE, TILE_OVERLAP = (72, 128), (12, 25)
"""Height and width of a tile in places of the latent, and how much two of them share."""
GROUP, GROUP_OVERLAP = 5, 2
"""Frames that are decoded together, and how many two groups share."""

_VARIANCE = 0.02  # of the squared side


def sliding_windows(length: int, size: int, overlap: int, longest: float) -> list[range]:
    """Windows of one size that share `overlap`; the last, which is at most `longest`, goes to the end.

    Args:
        length: of what is divided, 1 or more.
        size, overlap: with fewer shared than a window has.
        longest: at least `size`.
    """
    starts = [0]
    while starts[-1] + longest < length:
        starts.append(starts[-1] + size - overlap)
    return [*(range(start, start + size) for start in starts[:-1]), range(starts[-1], length)]


def gaussian_weights(height: int, width: int) -> Tensor:
    """How much each pixel of a tile counts, [height, width] (VEnhancer, video_to_video_model.py: gaussian_weights). As there,
    the middle is half a pixel lower than that of the tile."""

    def bell(side: int, middle: float) -> Tensor:
        distance = (torch.arange(side, dtype=torch.float64) - middle) / side
        return torch.exp(-(distance**2) / (2 * _VARIANCE)) / (2 * torch.pi * _VARIANCE) ** 0.5

    return torch.outer(bell(height, height / 2), bell(width, (width - 1) / 2))


def decode_in_tiles(decode: Callable[[Tensor], Tensor], latent: Tensor) -> Tensor:
    """Decodes a video in tiles and in groups of frames, both of which overlap and are blended (VEnhancer,
    video_to_video_model.py: tiled_chunked_decode).

    Args:
        decode: latents of a few frames [f, 4, h, w] to pixels [f, 3, 8h, 8w].
        latent: [frames, 4, h, w].

    Returns:
        Pixels [frames, 3, 8h, 8w].
    """
    frames, _, *sides = latent.shape
    groups = sliding_windows(frames, GROUP, GROUP_OVERLAP, max(GROUP, round(1.33 * GROUP)))
    down, across = (
        sliding_windows(side, size, overlap, max(size, round(1.33 * size)))
        for side, size, overlap in zip(sides, TILE, TILE_OVERLAP, strict=True)
    )
    height, width = (side * VAE_STEP for side in sides)
    pixels = torch.empty(frames, 3, height, width)
    for number, group in enumerate(groups):
        total, weights = torch.zeros(len(group), 3, height, width), torch.zeros(height, width)
        for rows, columns in product(down, across):
            tile = latent[group.start : group.stop, :, rows.start : rows.stop, columns.start : columns.stop]
            weight = gaussian_weights(len(rows) * VAE_STEP, len(columns) * VAE_STEP).float()
            place = (
                ...,
                slice(rows.start * VAE_STEP, rows.stop * VAE_STEP),
                slice(columns.start * VAE_STEP, columns.stop * VAE_STEP),
            )
            total[place] += decode(tile).float().cpu() * weight
            weights[place] += weight
        made = total / weights
        overlap = groups[number - 1].stop - group.start if number else 0
        later = rearrange(torch.arange(overlap) / max(1, overlap), "f -> f 1 1 1")
        shared = slice(group.start, group.start + overlap)
        pixels[shared] = (1 - later) * pixels[shared] + later * made[:overlap]
        pixels[group.start + overlap : group.stop] = made[overlap:]
    return pixels
