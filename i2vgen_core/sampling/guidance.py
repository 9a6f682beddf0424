"""A network under guidance: the prompt's velocity weighed against the negative prompt's, as a sampler sees it."""

from __future__ import annotations

import logging

import torch
from torch import Tensor

from ..memory import evaluation_bytes
from ..network.acceleration import EXACT, Acceleration, DeepFeatures, Reuse
from ..network.image_conditioning import Prepared
from ..network.unet import UNet
from .schedules import Schedule
from .solvers import Denoise, guide

logger = logging.getLogger("i2vgen_xl")

_HOST_ROOM = 4 * 2**30
"""Bytes of activations that a batch of both guided halves may have where the device does not tell what is free."""


def guided(
    network: UNet,
    schedule: Schedule,
    conditions: list[Prepared],
    guidance: float,
    rescale: float = 0.0,
    details: Tensor | None = None,
    acceleration: Acceleration = EXACT,
    dtype: torch.dtype = torch.float32,
) -> Denoise:
    """A network with guidance as a sampler sees it; one for each run.

    Args:
        network: a base or a refiner.
        schedule: its own.
        conditions: of one batch row each, the positive first; the negative is not read with a guidance scale of 1.
        guidance, rescale: see sampling.guide.
        details: [f, 4, h, w], see UNet.forward.
        acceleration: what is left out.
        dtype: of the network's inputs.
    """
    features = DeepFeatures(acceleration.reuse_interval)

    def denoise(x: Tensor, t: int) -> Tensor:
        features.step()
        timesteps = torch.tensor([t], device=x.device)
        read = conditions if guidance != 1 and acceleration.guides(t) else conditions[:1]
        velocities = predict(network, x.to(dtype), timesteps, read, details, features)
        velocity = velocities[0].float()
        if len(velocities) > 1:
            velocity = guide(velocity, velocities[1].float(), guidance, rescale)
        return schedule.denoised(x, velocity, t)

    return denoise


def predict(
    network: UNet,
    x: Tensor,
    timesteps: Tensor,
    conditions: list[Prepared],
    details: Tensor | None = None,
    features: DeepFeatures | None = None,
) -> list[Tensor]:
    """The velocities of one video under each of its conditions, in one batch where memory has room, else one by one.

    Args:
        network: a base or a refiner.
        x: noisy scaled latent [f, 4, h, w].
        timesteps: [1].
        conditions: of one batch row each.
        details: [f, 4, h, w], see UNet.forward.
        features: of the run, where some are used again.

    Returns:
        As many velocities [f, 4, h, w].
    """

    def run(prepared: Prepared, *numbers: int) -> tuple[Tensor, ...]:
        hooks = Reuse(features, numbers) if features else None
        return network(x, timesteps, prepared, len(x), details=details, hooks=hooks).chunk(len(numbers))

    if len(conditions) > 1 and _fit_together(network, x, len(conditions)):
        try:
            return list(run(Prepared.together(conditions), *range(len(conditions))))
        except torch.cuda.OutOfMemoryError:
            logger.warning("memory ran out with both guided halves at once: they go one after the other")
    return [run(condition, number)[0] for number, condition in enumerate(conditions)]


def _fit_together(network: UNet, x: Tensor, conditions: int) -> bool:
    """Whether the activations of a batch of conditions fit into what memory is free."""
    needed = conditions * evaluation_bytes(network.config, len(x), x.shape[2], x.shape[3], x.element_size())
    if x.device.type != "cuda":
        return needed <= _HOST_ROOM
    free, _ = torch.cuda.mem_get_info(x.device)
    return needed <= free + torch.cuda.memory_reserved(x.device) - torch.cuda.memory_allocated(x.device)
