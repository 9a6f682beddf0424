"""What a cascade makes of the world of emoji, on scenes, emoji and photographs that training has not seen.

`python -m i2vgen_core.training.judge --model MODEL --data DATA` prints the figures beside their bars and aims.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from ..media.images import luma

_WINDOW = 7  # pixels, of SSIM
_C1, _C2 = 0.01**2, 0.03**2


def ssim(a: Tensor, b: Tensor) -> float:
    """Structural similarity of the luma of two pictures [H, W, 3] in 0..1: 1 where they are the same.

    Wang et al. 2004, with a window of 7x7 pixels of even weight.
    """
    x, y = (luma(picture[None])[:, None] for picture in (a, b))

    def mean(values: Tensor) -> Tensor:
        return functional.avg_pool2d(values, _WINDOW, 1)

    x_mean, y_mean = mean(x), mean(y)
    x_variance, y_variance = mean(x * x) - x_mean**2, mean(y * y) - y_mean**2
    covariance = mean(x * y) - x_mean * y_mean
    similar = (2 * x_mean * y_mean + _C1) * (2 * covariance + _C2)
    similar /= (x_mean**2 + y_mean**2 + _C1) * (x_variance + y_variance + _C2)
    return similar.mean().item()
