"""A video edited by its first frame: the source goes up to noise, and comes down again beside its edit (AnyV2V, arXiv
2403.14468; i2vgen-xl/run_group_ddim_inversion.py and run_group_pnp_edit.py). All latents here are scaled."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError, check_finite, check_shape
from ..media.images import check_size
from ..memory import is_out_of_memory
from ..network.evaluation import Prepared
from ..network.injection import Injection, injecting
from ..network.unet import UNet
from ..releases import Release
from .guidance import Predictor, fit_together
from .noise import initial_noise
from .options import EditOptions
from .schedules import Schedule, leading_timesteps
from .solvers import Callback, Denoise, clean_inversion, ddim, guide

logger = logging.getLogger("i2vgen_xl")

Inverted = Mapping[int, Tensor]
"""The source's latent [frames, 4, h, w] at each of the edit's timesteps."""


class EditStage:
    """The source's inversion and its edit.

    Args:
        options: the caller's.
        release: of the base.
        schedule: the base's own.

    Attributes:
        settings: the release's with the options in their place.
        inversion_timesteps: what the network is told at each step of the inversion, rising, up to the edit's noisiest.
        kept_timesteps: those of them whose latents the edit may read, falling: all of the edit's, wherever it starts.
        timesteps: what the network is told at each step of the edit, falling.
        steps: how many there are in both, and how many times the callback is called.

    Raises:
        InputError: a setting that cannot be, such as an edit whose timesteps are not the inversion's.
    """

    def __init__(self, options: EditOptions, release: Release, schedule: Schedule):
        options.check()
        self.options, self.schedule = options, schedule
        given: dict[str, Any] = {
            "width": options.width,
            "height": options.height,
            "frames": options.frames,
            "fps": options.fps,
            "steps": options.steps or release.steps_for("ddim"),
            "guidance": options.guidance,
            "negative_prompt": options.negative,
        }
        known: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
        self.settings = replace(release, **known)
        check_size(self.settings.width, self.settings.height)
        steps = self.settings.steps
        self.kept_timesteps = leading_timesteps(steps)
        rising = leading_timesteps(options.inversion_steps or steps)[::-1]
        self.inversion_timesteps = [t for t in rising if t <= self.kept_timesteps[0]]
        if missing := set(self.kept_timesteps) - set(rising):
            expected = f"a number whose timesteps have all {steps} of the edit's among them, such as {steps}"
            found = f"{len(rising)}, which pass over {min(missing)}"
            raise InputError("steps of the inversion", expected, found, "Take the edit's number, or 10 times as many.")
        if options.start >= steps:
            found, remedy = f"{options.start} of {steps} steps", "Start at 0, the noisiest, or one of the first."
            raise InputError("start", f"one of the edit's steps, 0 to {steps - 1}", found, remedy)
        self.timesteps = self.kept_timesteps[options.start :]
        self.steps = len(self.inversion_timesteps) + len(self.timesteps)
        if self.settings.guidance == 1 and any(map(self.injection_at, self.timesteps)):
            remedy = "Take 9, the release's, or set the fractions of convolution, spatial and temporal to 0."
            raise InputError("guidance", "another scale than 1 where features are taken over", "1", remedy)

    def injection_at(self, t: int) -> Injection:
        """What the edit takes over from the source at one of its timesteps. Fractions count the whole list, wherever the
        edit starts, and cut off what is less than a step (AnyV2V, init_pnp)."""
        step, options, steps = self.kept_timesteps.index(t), self.options, len(self.kept_timesteps)
        fractions = (options.convolution, options.spatial, options.temporal)
        return Injection(*(step < int(steps * fraction) for fraction in fractions))

    def invert(self, denoise: Denoise, latent: Tensor, callback: Callback | None = None) -> dict[int, Tensor]:
        """The source's latents at the edit's timesteps.

        Args:
            denoise: of the source's own conditions and without guidance, see solvers.Denoise.
            latent: of the source, [frames, 4, h, w].
            callback: see solvers.Callback; it counts the steps of both parts.

        Raises:
            InputError: a latent with NaN or infinite numbers.
        """
        check_finite("the source's latent", latent, "Look at where it comes from: something failed there.")
        counted = self._counted(callback, 0)
        found = clean_inversion(denoise, latent, self.schedule, self.inversion_timesteps, callback=counted)
        kept = set(self.kept_timesteps)
        return {t: x for t, x in found if t in kept}

    def noise(self, shape: tuple[int, ...]) -> Tensor:
        """The fresh noise [frames, 4, h, w], float32 on the CPU."""
        return initial_noise(shape, self.options.seed)

    def first_latent(self, inverted: Inverted, noise: Tensor) -> Tensor:
        """What the edit begins with: the source's latent at its first timestep, with the share of fresh noise.

        Args:
            inverted: see invert.
            noise: [frames, 4, h, w], read where there is such a share.
        """
        start, share = inverted[self.timesteps[0]], self.options.fresh_noise
        return start if not share else share * noise.to(start) + (1 - share) * start

    def sample(self, denoise: Denoise, x: Tensor, callback: Callback | None = None) -> Tensor:
        """Runs DDIM down to zero noise.

        Args:
            denoise: see guided_by_source.
            x: first latent [frames, 4, h, w].
            callback: see solvers.Callback; it counts the steps of both parts.
        """
        counted = self._counted(callback, len(self.inversion_timesteps))
        stride = self.kept_timesteps[-2] - self.kept_timesteps[-1] if len(self.kept_timesteps) > 1 else 0
        return ddim(denoise, x, self.schedule, self.timesteps, clean_end=stride != 1, callback=counted)

    def _counted(self, callback: Callback | None, first: int) -> Callback | None:
        """A callback for one of the two parts, which tells the step among those of both."""
        if callback is None:
            return None
        return lambda step, _, x, denoised: callback(first + step, self.steps, x, denoised)


def guided_by_source(
    network: UNet,
    schedule: Schedule,
    source: Prepared,
    conditions: Sequence[Prepared],
    details: Tensor | None,
    inverted: Inverted,
    injection_at: Callable[[int], Injection],
    guidance: float,
    dtype: torch.dtype = torch.float32,
) -> Denoise:
    """A base under guidance that takes over features of a source; one for each run. Where a step takes over none, the
    source is not computed.

    Args:
        network: a base.
        schedule: its own.
        source: the source's condition, of one batch row, with its details.
        conditions: the edit's, of one batch row each, the positive first, without details.
        details: the edit's, [f, 4, h, w]; None for a base that reads none.
        inverted: see EditStage.invert.
        injection_at: see EditStage.
        guidance: guidance scale.
        dtype: of the network's inputs.
    """
    plain = Predictor(network, details)
    beside = _BesideSource(network, source, [replace(each, details=details) for each in conditions])

    def denoise(x: Tensor, t: int) -> Tensor:
        timesteps, injection = torch.tensor([t], device=x.device), injection_at(t)
        if injection:
            velocities = beside(x.to(dtype), inverted[t].to(x.device, dtype), timesteps, injection)
        else:
            velocities = plain(x.to(dtype), timesteps, list(conditions[: 1 if guidance == 1 else None]))
        velocity = velocities[0].float()
        if len(velocities) > 1:
            velocity = guide(velocity, velocities[1].float(), guidance)
        return schedule.denoised(x, velocity, t)

    return denoise


class _BesideSource:
    """Velocities of the edit's rows in a batch with the source's; of one row at a time where memory does not hold all."""

    def __init__(self, network: UNet, source: Prepared, conditions: Sequence[Prepared]):
        self._network, self._source, self._conditions = network, source, conditions
        self._together = True

    def __call__(self, x: Tensor, source: Tensor, timesteps: Tensor, injection: Injection) -> list[Tensor]:
        """Velocities [f, 4, h, w] of x under each condition; x and the source's latent [f, 4, h, w], timesteps [1]."""
        if self._together and fit_together(self._network, x, 1 + len(self._conditions)):
            try:
                return self._run(x, source, timesteps, injection, self._conditions)
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                logger.warning("memory ran out with all rows at once: from here on the edit's go one after the other")
                self._together = False
        return [self._run(x, source, timesteps, injection, [each])[0] for each in self._conditions]

    def _run(
        self, x: Tensor, source: Tensor, timesteps: Tensor, injection: Injection, conditions: Sequence[Prepared]
    ) -> list[Tensor]:
        rows = Prepared.together([self._source, *conditions])
        videos = 1 + len(conditions)
        batch, hooks = torch.cat([source, *[x] * len(conditions)]), injecting(self._network, injection, videos)
        return list(self._network(batch, timesteps, rows, len(x), hooks=hooks).chunk(videos))[1:]


def check_alike(source: Sequence[int], edited: Sequence[int]) -> None:
    """Raises InputError unless source and edit are videos of one shape [frames, 4, h, w]."""
    remedy = "Encode the edited frame for the frames, width and height of the source."
    check_shape("the edit's frames, channels, height and width in the latent", edited, source, remedy)
