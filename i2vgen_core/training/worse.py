"""Clips made worse, as small, old and compressed videos are: what a restoring refiner learns to read as a hint."""

from __future__ import annotations

import random
from io import BytesIO

import kornia
import numpy as np
import torch
from PIL import Image
from torch import Tensor


def blurred(frames: Tensor, pixels: float) -> Tensor:
    """Frames [F, H, W, 3] under a Gaussian of this deviation."""
    size = 2 * max(1, round(3 * pixels)) + 1
    with torch.autocast(frames.device.type, enabled=False):  # in bf16 the CPU takes minutes for one clip
        planes = kornia.filters.gaussian_blur2d(frames.movedim(-1, 1), (size, size), (pixels, pixels))
    return planes.movedim(1, -1)


def noisy(frames: Tensor, deviation: float, generator: torch.Generator) -> Tensor:
    """Frames [F, H, W, 3] in 0..1 with another noise in each."""
    return (frames + deviation * torch.randn(frames.shape, generator=generator)).clamp(0, 1)


def compressed(frames: Tensor, quality: int) -> Tensor:
    """Frames [F, H, W, 3] in 0..1, each as a JPEG of this quality, 1..95."""
    made = []
    for frame in frames:
        file = BytesIO()
        Image.fromarray((255 * frame).round().byte().numpy()).save(file, "JPEG", quality=quality)
        made.append(torch.from_numpy(np.array(Image.open(file))).float() / 255)
    return torch.stack(made)


def worse(frames: Tensor, rng: random.Random) -> Tensor:
    """A clip [F, H, W, 3] in 0..1 as it is, blurred, with noise, or compressed: a quarter of the clips each, more or less of
    it."""
    kind = rng.randrange(4)
    if kind == 1:
        return blurred(frames, rng.uniform(0.7, 2.5))
    if kind == 2:
        return noisy(frames, rng.uniform(0.02, 0.1), torch.Generator().manual_seed(rng.getrandbits(62)))
    if kind == 3:
        return compressed(frames, rng.randint(10, 50))
    return frames
