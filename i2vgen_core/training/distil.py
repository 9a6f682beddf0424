"""Distils a base into one that needs a few steps and no guidance, by VideoLCM's recipe (arXiv 2312.09109): the student's estimate
of the clean latent is to be the same wherever it starts on the teacher's guided path."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call

from ..config import TIMESTEPS
from ..sampling.schedules import LCM_LEVELS, Schedule, schedule_for
from ..sampling.solvers import guide, lcm_scalings
from .base import TrainedBase
from .cache import Cached, Fresh
from .data import Source, World
from .diffusion import Batch, ClipShape, Encoders, add_noise, draw_timesteps, noise_like
from .loop import Loop, LoopConfig

SKIP = TIMESTEPS // LCM_LEVELS
"""Timesteps from one level to the next."""


@dataclass(frozen=True)
class DistilTraining:
    """The recipe of a student, whose sizes are the teacher's.

    Args:
        width, height: of the clips in pixels.
        shapes: lengths and frame rates; batches are drawn from them.
        guidance: guidance scale of the teacher, which the student learns to do without; the teacher's own if None.
        repeats: noise levels that each clip is shown at.
        data: the world's scenes, where no folder is given.
        loop: how long and how; `ema` is the decay of the weights that the student is to agree with, which are written.
    """

    width: int = 128
    height: int = 64
    shapes: tuple[ClipShape, ...] = (ClipShape(16),)
    guidance: float | None = None
    repeats: int = 1
    data: World = field(default_factory=World)
    loop: LoopConfig = field(default_factory=lambda: LoopConfig(ema=0.95))


def train_distil(
    student: TrainedBase,
    teacher: TrainedBase,
    encoders: Encoders,
    source: Source | Cached,
    folder: Path,
    config: DistilTraining,
    guidance: float,
    negative: str,
    device: torch.device | str = "cpu",
) -> Loop[Batch]:
    """The loop that trains it.

    Args:
        student: the teacher's copy, or one from an earlier run.
        teacher: frozen.
        encoders: frozen, on the same device.
        source: of the clips; or those that are encoded.
        folder: for checkpoint and log.
        config: the recipe.
        guidance: the teacher's guidance scale.
        negative: the teacher's negative prompt.
        device: where to train.
    """
    student.to(device)
    teacher.to(device).eval().requires_grad_(False)
    clips = source if isinstance(source, Cached) else Fresh(source, encoders, device)
    schedule = schedule_for(student.network.config.kind)
    unwanted_text = encoders.prompts([negative])

    def batch(number: int) -> Batch:
        drawn = clips.draw(config.shapes, (config.width, config.height), number, config.loop.seed)
        return Batch(drawn.latents, encoders.prompts(drawn.prompts), drawn.image, drawn.fps)

    def loss(b: Batch, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        latents, text, image, fps = b.repeated(config.repeats)
        now = SKIP * (draw_timesteps(len(latents), LCM_LEVELS, 1.0, generator) + 1) - 1
        earlier = (now - SKIP).clamp(min=0)
        given = latents[:, 0], fps, latents.shape[1]
        noised = add_noise(latents, schedule, now, noise_like(latents, 0.0, generator))
        with torch.no_grad():
            wanted = teacher(noised.x, now, text, image, *given)
            unwanted = teacher(noised.x, now, unwanted_text.expand_as(text), torch.zeros_like(image), *given)
            estimate, noise = _parted(schedule, now, noised.x, guide(wanted, unwanted, guidance))
            before = add_noise(estimate, schedule, earlier, noise).x
            agreed = functional_call(student, loop.average, (before, earlier, text, image, *given))
            target = _consistent(schedule, earlier, before, agreed)
        made = _consistent(schedule, now, noised.x, student(noised.x, now, text, image, *given))
        return F.mse_loss(made, target), {}

    loop = Loop(student, loss, batch, folder, config.loop, device=device)
    return loop


def _parted(schedule: Schedule, timesteps: Tensor, x: Tensor, velocity: Tensor) -> tuple[Tensor, Tensor]:
    """Of noisy latents and their velocity [(b f), 4, h, w] at timesteps [b], the estimates of clean latents and noise [b, f, 4, h, w]."""
    x, velocity = (each.float().unflatten(0, (len(timesteps), -1)) for each in (x, velocity))
    level = schedule.alphas_cumprod.to(x)[timesteps][:, None, None, None, None]
    signal, sigma = level.sqrt(), (1 - level).sqrt()
    return signal * x - sigma * velocity, sigma * x + signal * velocity


def _consistent(schedule: Schedule, timesteps: Tensor, x: Tensor, velocity: Tensor) -> Tensor:
    """The consistency function [b, f, 4, h, w]: the estimate of the clean latents, which at timestep 0 is x itself."""
    scalings = torch.tensor([lcm_scalings(t) for t in timesteps.tolist()], device=x.device)
    skip, weight = scalings[:, :, None, None, None, None].unbind(1)
    estimate, _ = _parted(schedule, timesteps, x, velocity)
    return weight * estimate + skip * x.unflatten(0, (len(timesteps), -1))
