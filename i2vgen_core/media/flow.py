"""Where the picture moves from one frame to the next: dense optical flow by least squares, without weights.

The pyramidal method of Lucas and Kanade ("An iterative image registration technique", 1981; Bouguet 2000 for the pyramid):
around each pixel the shift is sought that explains the change of brightness best. It is right for textured things that move
by up to an eighth of the picture's shorter side; where there is no texture it finds no motion.
"""

from __future__ import annotations

import kornia
import torch
from torch import Tensor
from torch.nn import functional

_SMALLEST = 16  # pixels of the shorter side of the coarsest level
_ROUNDS = 4  # shifts tried at a level, each on what the one before has left
_WIDTH = 2.5  # deviation of the neighbourhood, in pixels
_NOISE = 2e-5  # added to the squares of the gradients, of brightness in 0..1: where there is less, nothing moves


def optical_flow(a: Tensor, b: Tensor) -> Tensor:
    """How far each place of pictures a has gone in pictures b.

    Args:
        a, b: luma in 0..1, [n, H, W] of one size, float32.

    Returns:
        [n, 2, H, W], to the right and downwards, in pixels: a(x) is b(x + flow).
    """
    if not len(a):  # kornia's median before 0.9, the last of Python 3.10, knows no empty batch
        return a.new_zeros(0, 2, *a.shape[-2:])
    levels = [(a[:, None], b[:, None])]
    while min(levels[-1][0].shape[-2:]) >= 2 * _SMALLEST:
        levels.append(tuple(functional.avg_pool2d(each, 2, ceil_mode=True) for each in levels[-1]))  # type: ignore[arg-type]
    flow = a.new_zeros(len(a), 2, 1, 1)
    for first, second in reversed(levels):
        size = first.shape[-2:]
        scale = 1 if flow.shape[-1] == 1 else 2
        flow = scale * functional.interpolate(flow, size, mode="bilinear", align_corners=False)
        for _ in range(_ROUNDS):
            flow = flow + _shift(first, warp(second, flow))
        flow = kornia.filters.median_blur(flow, 5)
    return flow


def warp(pictures: Tensor, flow: Tensor) -> Tensor:
    """Pictures [n, c, H, W] read at each place plus flow [n, 2, H, W] in pixels; beyond the border the border's."""
    height, width = pictures.shape[-2:]
    rows, columns = (torch.arange(side, device=flow.device, dtype=flow.dtype) for side in (height, width))
    x, y = columns + flow[:, 0], rows[:, None] + flow[:, 1]
    grid = torch.stack([(2 * x + 1) / width - 1, (2 * y + 1) / height - 1], dim=-1)
    return functional.grid_sample(pictures, grid, padding_mode="border", align_corners=False)


def _shift(a: Tensor, b: Tensor) -> Tensor:
    """The shift of each place between pictures [n, 1, H, W] that are near to each other, at most a pixel and a half."""
    gradient = kornia.filters.spatial_gradient((a + b) / 2, mode="diff")[:, 0]
    right, down = gradient.unbind(1)
    change = (b - a)[:, 0]
    products = torch.stack([right * right, down * down, right * down, right * change, down * change], dim=1)
    size = 2 * round(2.5 * _WIDTH) + 1
    xx, yy, xy, xt, yt = kornia.filters.gaussian_blur2d(products, (size, size), (_WIDTH, _WIDTH), "replicate").unbind(1)
    xx, yy = xx + _NOISE, yy + _NOISE
    area = xx * yy - xy * xy
    return torch.stack([xy * yt - yy * xt, xy * xt - xx * yt], dim=1).div(area[:, None]).clamp(-1.5, 1.5)
