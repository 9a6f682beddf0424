"""The noises of a run, each from a seed of its own that the user's seed decides."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import torch
import torchsde
from einops import rearrange
from torch import Tensor


def derived_seed(seed: int, purpose: str) -> int:
    """A seed, 0..2^64 - 1, for one purpose of a run, such as the refiner's first noise.

    Two noises from one seed would be the same numbers: a refiner would add the very noise that its video was made from.
    """
    return int.from_bytes(hashlib.blake2b(f"{purpose} {seed}".encode(), digest_size=8).digest(), "little")


def initial_noise(shape: tuple[int, ...], seed: int, offset: float = 0.0) -> Tensor:
    """The first noise of a video, the same in the host and without it, on the CPU.

    Args:
        shape: of the latent, [frames, channels, height, width].
        seed: of torch's generator.
        offset: strength of one more noise per frame and channel (MS-Image2Video: 0.1).
    """
    noise, per_frame = noise_and_offset(shape, seed)
    return noise + offset * per_frame if offset else noise


def noise_and_offset(shape: tuple[int, ...], seed: int) -> tuple[Tensor, Tensor]:
    """initial_noise's two parts: unit noise of a latent's shape, and that of each frame and channel [frames, channels, 1, 1]."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(shape, generator=generator)
    return noise, torch.randn(*shape[:2], 1, 1, generator=generator)


def step_noise(like: Tensor, seed: int) -> Callable[[], Tensor]:
    """Draws the noise of a run's steps, of a tensor's shape, from a generator of its own."""
    generator = torch.Generator().manual_seed(seed)
    return lambda: torch.randn(like.shape, generator=generator).to(like)


class BrownianNoise:
    """Noise of a stochastic solver from one Brownian path (k-diffusion's way, as the releases have it).

    The path is torchsde's tree over [1, channels, frames, h, w], the references' layout, on the CPU, between the
    smallest and the largest sigma of the run.

    Args:
        x: the latent [frames, channels, h, w].
        sigmas: levels that the solver visits.
        seed: the path's.
    """

    def __init__(self, x: Tensor, sigmas: Tensor, seed: int):
        self._like = x
        origin = torch.zeros_like(rearrange(x, "f c h w -> 1 c f h w"), device="cpu", dtype=torch.float32)
        levels = sigmas[(sigmas > 0) & sigmas.isfinite()].cpu()
        low, high = (levels.min(), levels.max()) if len(levels) else (torch.tensor(1.0), torch.tensor(1.0))
        if low == high:  # a single step draws nothing, but a tree needs an interval
            high = low * 2
        self._tree = torchsde.BrownianTree(low, origin, high, entropy=seed)

    def __call__(self, sigma: Tensor, following: Tensor) -> Tensor:
        sigma, following = sigma.cpu(), following.cpu()
        ends = (round(float(level), 6) for level in (following, sigma))  # as the tree rounds its own, or it warns
        increment = -self._tree(*ends) / (sigma - following).sqrt()
        return rearrange(increment, "1 c f h w -> f c h w").to(self._like)
