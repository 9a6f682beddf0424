"""Latents of which a part is given: it is held while the rest is sampled, as ComfyUI's samplers hold what a noise mask leaves."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from ..config import VAE_STEP
from ..errors import InputError, check_finite, check_range, check_shape
from ..media.images import cover
from .schedules import Schedule
from .solvers import Denoise

_MASK = "Give a mask of the picture, one for all frames or one for each: 1 is sampled, 0 is held."

WEAK_SIGNAL = 0.12
"""Until which share of the signal a rough animation is held outside of its mask; there, the release says it."""

_COVERED = 0.2
"""Share of a latent's pixel from which on a mask of the video covers it."""

LAST_SIGNAL = 0.9
"""The same of a last frame: the steps that are left take the jump to it away."""


@dataclass(frozen=True, eq=False)
class Held:
    """What a base stage is given beside its conditions.

    Args:
        latent: unscaled [frames, 4, h, w]; what is held, and what a run with `denoise` below 1 begins from.
        mask: of the video in any size, [H, W] or [n, H, W], for each frame or one for all: 1 is sampled, 0 is held,
            between blends the two; None holds nothing.
        by_signal: in place of blending, the mask says how long a place is held: until the signal's share of the noisy
            latent, 0..1, has come to 1 - mask (Time-to-Move, arXiv 2511.08633, whose two clocks are two such values).
    """

    latent: Tensor
    mask: Tensor | None = None
    by_signal: bool = False

    def check(self, shape: tuple[int, ...]) -> None:
        """Raises InputError for a latent that is not of a shape or not finite, and for a mask that is none."""
        check_shape("held latent", self.latent.shape, shape, "Encode it in the size and frames of the conditions.")
        check_finite("held latent", self.latent, "Look at where it comes from: something failed there.")
        if self.mask is None:
            return
        frames, found = shape[0], list(self.mask.shape)
        if (
            self.mask.ndim not in (2, 3)
            or not self.mask.numel()
            or (self.mask.ndim == 3 and found[0] not in (1, frames))
        ):
            raise InputError("mask", f"[height, width] or [1 or {frames}, height, width]", f"{found}", _MASK)
        check_finite("mask", self.mask, _MASK)

    def latent_mask(self) -> Tensor:
        """The mask at the latent's size [n, 1, h, w], float32 in 0..1, by ComfyUI's interpolation."""
        assert self.mask is not None
        mask = self.mask.reshape(-1, 1, *self.mask.shape[-2:]).float().clamp(0, 1)
        mask = functional.interpolate(mask, self.latent.shape[-2:], mode="bilinear")
        return mask.to(self.latent.device)


def clocks(mask: Tensor, width: int, height: int, weak: float, strong: float) -> Tensor:
    """The mask of `by_signal` for a rough animation, of the latent's size [n, height/8, width/8].

    Args:
        mask: where the animation is to be followed, 1, and what it leaves to the network, 0: [n, H, W], cropped to the video's shape.
        width, height: of the video.
        weak, strong: until which share of the signal the second and the first are held, 0..1.
    """
    check_range("weak", weak, 0, 1)
    check_range("strong", strong, 0, 1)
    if mask.ndim != 3 or not mask.numel():
        raise InputError("mask", "[frames, height, width]", f"{list(mask.shape)}", _MASK)
    covered = functional.avg_pool2d(cover(mask[..., None], width, height)[..., 0], VAE_STEP)
    return 1 - torch.where(covered > _COVERED, strong, weak)


def both(first: Held, second: Held) -> Held:
    """Two that are held beside each other, by signal: each place as the one says that holds it longer.

    Args:
        first, second: with masks, of one shape of latent.
    """
    one, other = first.latent_mask(), second.latent_mask()
    latent = torch.where(other < one, second.latent, first.latent)
    return Held(latent, torch.minimum(one, other)[:, 0], by_signal=True)


def free_at(mask: Tensor, signal: float) -> Tensor:
    """Where a mask of `by_signal` is sampled, 1, and where it is still held, 0.

    Args:
        mask: 0..1, any shape.
        signal: its share of the noisy latent, 0..1.
    """
    return (mask >= 1 - signal).to(mask)


def hold(denoise: Denoise, schedule: Schedule, latent: Tensor, noise: Tensor, mask: Tensor, by_signal: bool) -> Denoise:
    """A denoiser that sees what is held at the noise of its level, and leaves it as it is.

    Args:
        denoise: see solvers.Denoise.
        schedule: the network's own.
        latent: scaled and clean, [frames, 4, h, w].
        noise: of its shape, the run's first.
        mask: [n, 1, h, w], see Held.
        by_signal: see Held.
    """

    def denoise_free(x: Tensor, t: int) -> Tensor:
        signal, _ = schedule.signal_and_noise(t)
        free = free_at(mask, signal) if by_signal else mask
        if not free.any():
            return latent
        kept = schedule.add_noise(latent, noise, t)
        return denoise(x * free + kept * (1 - free), t) * free + latent * (1 - free)

    return denoise_free
