"""A network under guidance: the prompt's velocity weighed against the negative prompt's, as a sampler sees it."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch
from torch import Tensor

from ..memory import evaluation_bytes, is_out_of_memory
from ..network.acceleration import EXACT, Acceleration, DeepFeatures, Reuse
from ..network.control import Hint
from ..network.evaluation import Prepared
from ..network.hooks import Hooks
from ..network.unet import UNet
from .schedules import Schedule
from .solvers import Denoise, guide
from .windows import Around, Share, join_windows, over_windows

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
    hint: Hint | None = None,
) -> Denoise:
    """A network with guidance as a sampler sees it; one for each run.

    Args:
        network: a base or a refiner.
        schedule: its own.
        conditions: of one batch row each, the positive first; the negative is not read with a guidance scale of 1.
        guidance, rescale: see solvers.guide.
        details: [f, 4, h, w], see UNet.forward.
        acceleration: what is left out.
        dtype: of the network's inputs.
        hint: of one video, see control.Hint.
    """
    predict = Predictor(network, details, DeepFeatures(acceleration.reuse_interval), hint)
    return _guided([predict], schedule, [conditions], None, guidance, rescale, acceleration, dtype)


def guided_in_windows(
    network: UNet,
    schedule: Schedule,
    windows: Sequence[range],
    conditions: Sequence[list[Prepared]],
    guidance: float,
    acceleration: Acceleration = EXACT,
    dtype: torch.dtype = torch.float32,
) -> Denoise:
    """`guided` for a video in windows; one for each run.

    Args:
        windows: see windows.window_ranges.
        conditions: of each window, as for `guided`; features beside the noise are in them.
    """
    predictors = [Predictor(network, None, DeepFeatures(acceleration.reuse_interval)) for _ in windows]
    return _guided(predictors, schedule, conditions, windows, guidance, 0.0, acceleration, dtype)


def guided_and_joined(
    network: UNet,
    schedule: Schedule,
    windows: Sequence[range],
    share: Share,
    conditions: list[Prepared],
    guidance: float,
    rescale: float = 0.0,
    acceleration: Acceleration = EXACT,
    dtype: torch.dtype = torch.float32,
    hint: Hint | None = None,
    around: Around | None = None,
) -> Denoise:
    """A refiner with guidance on a video in windows, each guided, rescaled and denoised by itself; one for each run.

    Args:
        windows: see windows.refiner_windows.
        share: see windows.Share.
        hint: of the whole video.
        around: see windows.Around.

    The other arguments are as for `guided`.
    """
    parts = [
        guided(
            network,
            schedule,
            conditions,
            guidance,
            rescale,
            None,
            acceleration,
            dtype,
            None if hint is None else hint.of_frames(window),
        )
        for window in windows
    ]
    return lambda x, t: join_windows(x, windows, share, lambda part, number: parts[number](part, t), around)


def _guided(
    predictors: list[Predictor],
    schedule: Schedule,
    conditions: Sequence[list[Prepared]],
    windows: Sequence[range] | None,
    guidance: float,
    rescale: float,
    acceleration: Acceleration,
    dtype: torch.dtype,
) -> Denoise:
    def denoise(x: Tensor, t: int) -> Tensor:
        timesteps = torch.tensor([t], device=x.device)
        read = None if guidance != 1 and acceleration.guides(t) else 1

        def predict(part: Tensor, number: int) -> list[Tensor]:
            return predictors[number](part, timesteps, conditions[number][:read])

        velocities = over_windows(x.to(dtype), windows or [range(len(x))], predict)
        velocity = velocities[0].float()
        if len(velocities) > 1:
            velocity = guide(velocity, velocities[1].float(), guidance, rescale)
        return schedule.denoised(x, velocity, t)

    return denoise


class Predictor:
    """The velocities of one video under each of its conditions, in one batch where memory has room, else one by one.

    One is made for a run: where memory has run out with a batch, the rest of the run goes one by one.

    Args:
        network: a base or a refiner.
        details: [f, 4, h, w], see UNet.forward.
        features: of the run, where some are used again.
        hint: of one video, see control.Hint.
    """

    def __init__(
        self,
        network: UNet,
        details: Tensor | None = None,
        features: DeepFeatures | None = None,
        hint: Hint | None = None,
    ):
        self._network, self._details, self._features, self._hint = network, details, features, hint
        self._together = True

    def __call__(self, x: Tensor, timesteps: Tensor, conditions: list[Prepared]) -> list[Tensor]:
        """Velocities [f, 4, h, w] of a noisy scaled latent [f, 4, h, w] at timesteps [1], of one for each condition of
        one batch row, as a step of the sampler begins."""
        if self._features is not None:
            self._features.step()
        count = len(conditions)
        if count > 1 and self._together and fit_together(self._network, x, count):
            try:
                return list(self._run(x, timesteps, Prepared.together(conditions), *range(count)))
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                logger.warning(
                    "memory ran out with both guided halves at once: from here on they go one after the other"
                )
                self._together = False
        return [self._run(x, timesteps, each, number)[0] for number, each in enumerate(conditions)]

    def _run(self, x: Tensor, timesteps: Tensor, prepared: Prepared, *numbers: int) -> tuple[Tensor, ...]:
        hooks = Hooks(blocks=Reuse(self._features, numbers)) if self._features is not None else Hooks()
        velocities = self._network(x, timesteps, prepared, len(x), None, self._details, hooks, self._hint)
        return velocities.chunk(len(numbers))


def fit_together(network: UNet, x: Tensor, conditions: int) -> bool:
    """Whether the activations of a batch of conditions fit into what memory is free."""
    needed = conditions * evaluation_bytes(network.config, len(x), x.shape[2], x.shape[3], x.element_size())
    if x.device.type != "cuda":
        return needed <= _HOST_ROOM
    free, _ = torch.cuda.mem_get_info(x.device)
    return needed <= free + torch.cuda.memory_reserved(x.device) - torch.cuda.memory_allocated(x.device)
