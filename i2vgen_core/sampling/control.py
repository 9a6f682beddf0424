"""A base under guidance and the control of an adapter (Ctrl-Adapter, arXiv 2404.09967; i2vgen_xl/pipelines)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import InputError, check_range
from ..network.adapter import CtrlAdapter, Steered
from ..network.evaluation import Prepared
from ..network.hooks import Hooks
from ..network.unet import UNet
from .schedules import Schedule
from .solvers import Denoise, guide

Features = Callable[[Tensor, int, int], list[Tensor]]
"""features(x, t, conditions): what a ControlNet makes of noisy frames [f, 4, h, w] at timestep t for the prompts of so many
conditions, the positive first: [(conditions f), c, h, w] of each block on the way down and the middle."""


@dataclass(frozen=True)
class ControlOptions:
    """How a control steers a run.

    Args:
        strength: of the ControlNet's features before the adapters, 0..10, which are not linear.
        start, end: 0..1, the part of the steps that is steered. 0.4 to 0.6 is the authors' end for one control, 0.8 that of
            their programs.
        key_frames: frames that are steered, 0 the first; all if empty. Adapters for sparse control were trained with 1 to 4.
    """

    strength: float = 1.0
    start: float = 0.0
    end: float = 0.8
    key_frames: tuple[int, ...] = ()

    def check(self, frames: int) -> None:
        """Raises InputError for a setting that cannot be, in a video of so many frames."""
        check_range("strength", self.strength, 0, 10)
        check_range("start", self.start, 0, 1)
        check_range("end", self.end, 0, 1)
        for key in self.key_frames:
            check_range("key frame", key, 0, frames - 1, whole=True)
        if len(set(self.key_frames)) < len(self.key_frames):
            found = ", ".join(map(str, self.key_frames))
            raise InputError("key frames", "different ones", found, "Name each once.")

    def strength_at(self, step: int, steps: int) -> float:
        """Strength of the control at one of a run's steps; 0 where it does not steer."""
        outside = step / steps < self.start or (step + 1) / steps > self.end
        return 0.0 if outside else self.strength


@dataclass(frozen=True, eq=False)
class Control:
    """What steers a run of a base.

    Args:
        adapter: of the kind of control.
        features: see Features.
        token: CLIP image embedding of the video's picture [1, 1, token_dim].
        options: see ControlOptions.
    """

    adapter: CtrlAdapter
    features: Features
    token: Tensor
    options: ControlOptions


class ControlledPredictor:
    """The velocities of one video under each of its conditions, steered; one for each run.

    Args:
        network: an I2VGen-XL base, with details added once, as the adapters were trained on it.
        control: what steers it; its token is for all conditions.
        details: see UNet.forward.
        timesteps: of the run, falling.
    """

    def __init__(self, network: UNet, control: Control, details: Tensor | None, timesteps: Sequence[int]):
        self._network, self._details = network, details
        self._adapter, self._features = control.adapter, control.features
        self._token, self._options = control.token, control.options
        self._timesteps = list(timesteps)

    def __call__(self, x: Tensor, t: int, conditions: Sequence[Prepared]) -> list[Tensor]:
        """Velocities [f, 4, h, w] of a noisy scaled latent [f, 4, h, w]."""
        frames, count, key_frames = len(x), len(conditions), self._options.key_frames
        strength = self._options.strength_at(self._timesteps.index(t), len(self._timesteps))
        told = torch.tensor([t], device=x.device)
        if strength:
            features = [strength * each for each in self._features(x, t, count)]
            added = self._adapter(features, told, self._token, frames, key_frames)
        else:  # as released: the last adapter still runs, on zeros
            channels, halvings = self._adapter.sizes[-1].channels, len(self._network.config.channel_mult) - 1
            sides = (math.ceil(side / 2**halvings) for side in x.shape[2:])
            nothing = x.new_zeros(count * frames, channels, *sides)
            added = self._adapter([nothing], told, self._token, frames, key_frames, middle_alone=True)
        hooks = Hooks(blocks=Steered(added))
        rows = Prepared.together(conditions)
        return list(self._network(x, told, rows, frames, details=self._details, hooks=hooks).chunk(count))


def controlled(
    predict: ControlledPredictor,
    schedule: Schedule,
    conditions: Sequence[Prepared],
    guidance: float,
    dtype: torch.dtype = torch.float32,
) -> Denoise:
    """A base under guidance and control as a sampler sees it.

    Args:
        predict: of the run.
        schedule: the base's.
        conditions: of one batch row each, the positive first; the negative is not read with a guidance scale of 1.
        guidance: guidance scale.
        dtype: of the network's inputs.
    """

    def denoise(x: Tensor, t: int) -> Tensor:
        velocities = predict(x.to(dtype), t, conditions[: 1 if guidance == 1 else None])
        velocity = velocities[0].float()
        if len(velocities) > 1:
            velocity = guide(velocity, velocities[1].float(), guidance)
        return schedule.denoised(x, velocity, t)

    return denoise
