"""The stages of the family, each made of a caller's options and the settings of its network's release: the cascade's two,
that of latent consistency models, and that of animators.

A stage says what is wrong with its options before anything runs, knows its timesteps, and runs them on a `denoise`
function: the guided network, in this package (guidance.py) or in a host. All latents here are scaled.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..config import ANIMATORS, TIMESTEPS, VAE_SCALE, ControlConfig, Kind
from ..errors import InputError, check_finite
from ..media.images import check_size
from ..network.control import Hint
from ..releases import Release
from .held import Held, free_at, hold
from .noise import BrownianNoise, derived_seed, initial_noise, noise_and_offset, step_noise
from .options import AnimateOptions, BaseOptions, FewStepOptions, RefineOptions
from .schedules import (
    Schedule,
    SolverSteps,
    base_steps,
    cosine,
    ddim_timesteps,
    fast_steps,
    inversion_timesteps,
    lcm_timesteps,
    refine_steps,
    strided_timesteps,
)
from .solvers import Callback, Denoise, ddim, ddim_inversion, dpmpp_2m_sde, heun, lcm, unipc
from .windows import Share, key_frames, refiner_windows, share_of, window_ranges

logger = logging.getLogger("i2vgen_xl")

_OF_HINTS = ("noise_aug", "scale_told", "inserted")
"""Settings of a refiner whose hint are key frames."""

_NOT_FINITE = "Look at where it comes from: something failed there."


class BaseStage:
    """The first stage: from pure noise, or a given latent with noise, to the base video's latent (paper, section 3.2).

    Args:
        options: the caller's.
        release: of the network.
        schedule: the network's own.

    Attributes:
        settings: the release's with the options in their place; steps are those for the solver.
        timesteps: what the network is told at each step, falling.
        steps: how many there are, and how many times the callback is called.

    Raises:
        InputError: a setting that cannot be, such as steps that the solver cannot run.
    """

    def __init__(self, options: BaseOptions, release: Release, schedule: Schedule):
        options.check()
        self.options, self.schedule = options, schedule
        given = {
            "width": options.width,
            "height": options.height,
            "frames": options.frames,
            "fps": options.fps,
            "steps": options.steps or release.steps_for(options.solver),
            "guidance": options.guidance,
            "negative_prompt": options.negative,
        }
        self.settings = _with(release, given)
        check_size(self.settings.width, self.settings.height)
        steps, levels = self.settings.steps, round(options.denoise * TIMESTEPS)
        self._plan = None if options.solver == "ddim" else base_steps(schedule, steps, levels)
        self.timesteps = ddim_timesteps(steps, levels) if self._plan is None else self._plan.timesteps
        self.steps = len(self.timesteps)

    def noise(self, shape: tuple[int, ...]) -> Tensor:
        """The first noise [frames, 4, h, w], float32 on the CPU; ComfyUI's samplers draw the same numbers from a seed."""
        return initial_noise(shape, self.options.seed, self.settings.offset_noise)

    def first_latent(self, noise: Tensor, latent: Tensor | None = None, free: Tensor | None = None) -> Tensor:
        """What a run begins with: noise alone, however little signal the first level has, as released; where something is
        held, or `denoise` is below 1, the latent with the noise of the first level.

        Args:
            noise: [frames, 4, h, w].
            latent: clean, of its shape; None where none is given.
            free: where the first step samples, 1, and where it holds the latent, 0, [n, 1, h, w]; None holds nothing.
        """
        if latent is None or (free is None and self.options.denoise == 1):
            return noise
        noised = self.schedule.add_noise(latent, noise, self.timesteps[0])
        return noised if free is None or self.options.denoise < 1 else noise * free + noised * (1 - free)

    def run(
        self, denoise: Denoise, noise: Tensor, held: Held | None = None, callback: Callback | None = None
    ) -> Tensor:
        """A whole video from noise, or the rest of one of which something is given.

        Args:
            denoise: see solvers.Denoise.
            noise: the first, [frames, 4, h, w].
            held: what is given.
            callback: see solvers.Callback.

        Raises:
            InputError: something given that cannot be, or nothing where `denoise` below 1 needs a latent to begin from.
        """
        if held is None:
            if self.options.denoise < 1:
                found = f"{self.options.denoise:g}"
                raise InputError("denoise", "1 without a latent to begin from", found, "Give one.")
            return self.sample(denoise, noise, callback)
        held.check(tuple(noise.shape))
        latent = held.latent.to(noise) * VAE_SCALE
        if held.mask is None:
            return self.sample(denoise, self.first_latent(noise, latent), callback)
        mask, first = held.latent_mask().to(noise), self.schedule.signal_and_noise(self.timesteps[0])[0]
        x = self.first_latent(noise, latent, free_at(mask, first) if held.by_signal else mask)
        denoise = hold(denoise, self.schedule, latent, noise, mask, held.by_signal)
        return self.sample(denoise, x, callback, holds=True)

    def sample(self, denoise: Denoise, x: Tensor, callback: Callback | None = None, *, holds: bool = False) -> Tensor:
        """Runs the solver: DDIM as released, or DPM-Solver++(2M) (arXiv 2211.01095) or UniPC, which need fewer steps and
        end in the estimate of the clean latent.

        Args:
            denoise: see solvers.Denoise.
            x: first latent [frames, 4, h, w], see first_latent.
            callback: see solvers.Callback.
            holds: whether a part is held; DDIM then ends in the estimate too, so that it comes back as it was.

        Raises:
            InputError: a first latent with NaN or infinite numbers.
        """
        check_finite("noise", x, _NOT_FINITE)
        if self._plan is None:
            draw = step_noise(x, derived_seed(self.options.seed, "base step noise"))
            eta, steps = self.options.eta, self.timesteps
            return ddim(denoise, x, self.schedule, steps, eta=eta, noise=draw, clean_end=holds, callback=callback)
        if self.options.solver == "unipc":
            return unipc(denoise, x, self._plan, callback=callback)
        return dpmpp_2m_sde(denoise, _itself_at_first(x, self._plan), self._plan, eta=0.0, callback=callback)


class FewStepStage:
    """The stage of a latent consistency model: from pure noise in a few steps, without guidance (VideoLCM, arXiv 2312.09109).

    Args:
        options: the caller's.
        release: of the network.
        schedule: the network's own.

    Attributes:
        settings: the release's with the options in their place.
        timesteps: what the network is told at each step, falling: 999, 759, 499, 259 for the release's 4.
        steps: how many there are, and how many times the callback is called.

    Raises:
        InputError: a setting that cannot be.
    """

    def __init__(self, options: FewStepOptions, release: Release, schedule: Schedule):
        options.check()
        self.options, self.schedule = options, schedule
        names = ("width", "height", "frames", "steps", "fps")
        self.settings = _with(release, {name: getattr(options, name) for name in names})
        check_size(self.settings.width, self.settings.height)
        self.timesteps = lcm_timesteps(self.settings.steps)
        self.steps = len(self.timesteps)

    def noise(self, shape: tuple[int, ...]) -> Tensor:
        """The first noise [frames, 4, h, w], float32 on the CPU."""
        return initial_noise(shape, self.options.seed)

    def run(
        self, denoise: Denoise, noise: Tensor, held: Held | None = None, callback: Callback | None = None
    ) -> Tensor:
        """`sample`, and InputError where something of the video is given."""
        if held is not None:
            remedy = "Take a base of many steps."
            raise InputError("what is given of the video", f"nothing for {self.settings.title}", "something", remedy)
        return self.sample(denoise, noise, callback)

    def sample(self, denoise: Denoise, noise: Tensor, callback: Callback | None = None) -> Tensor:
        """Runs the consistency model's own sampler, which adds fresh noise after each step but the last.

        Args:
            denoise: see solvers.Denoise; without guidance.
            noise: first latent [frames, 4, h, w].
            callback: see solvers.Callback.

        Raises:
            InputError: NaN or infinite noise.
        """
        check_finite("noise", noise, _NOT_FINITE)
        draw = step_noise(noise, derived_seed(self.options.seed, "consistency step noise"))
        return lcm(denoise, noise, self.schedule, self.steps, noise=draw, callback=callback)


class AnimateStage:
    """The stage of an animator: DDIM as released, from the noised reference, long videos in windows (UniAnimate, arXiv
    2406.01188; inference_unianimate_entrance.py and inference_unianimate_long_entrance.py).

    Args:
        options: the caller's.
        release: of the network.
        schedule: the network's own.

    Attributes:
        settings: the release's with the options in their place; the prior level is that for the video's length.
        windows: the frames that go through the network together.
        timesteps: what the network is told at each step, falling; 31 for the release's 30.
        steps: how many there are, and how many times the callback is called.

    Raises:
        InputError: a setting that cannot be.
    """

    def __init__(self, options: AnimateOptions, release: Release, schedule: Schedule):
        options.check()
        self.options, self.schedule = options, schedule
        names = ("width", "height", "frames", "steps", "guidance")
        settings = _with(release, {name: getattr(options, name) for name in names})
        check_size(settings.width, settings.height)
        self.windows = window_ranges(settings.frames, options.window, options.overlap)
        usual = settings.prior_level if len(self.windows) == 1 else settings.long_prior_level
        self.settings = replace(settings, prior_level=usual if options.prior_level is None else options.prior_level)
        self.timesteps = strided_timesteps(self.settings.steps)
        self.steps = len(self.timesteps)

    def noise(self, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """The noise [frames, 4, h, w] and that of each frame and channel [frames, 4, 1, 1], float32 on the CPU."""
        return noise_and_offset(shape, self.options.seed)

    def first_latent(self, reference: Tensor, noise: Tensor, offset: Tensor) -> Tensor:
        """The first latent [frames, 4, h, w]: every frame the reference, noised to the prior level, whose share is a
        thirtieth or less; noise alone at level 0. The two official programs put the frames' offset into it differently.

        Args:
            reference: the person's latent, scaled, [1, 4, h, w].
            noise, offset: see noise.
        """
        level, offset = self.settings.prior_level, self.settings.offset_noise * offset
        if not level:
            return noise + offset
        if len(self.windows) == 1:
            return self.schedule.add_noise(reference, noise + offset, level)
        return self.schedule.add_noise(reference, noise, level) + offset

    def sample(self, denoise: Denoise, x: Tensor, callback: Callback | None = None) -> Tensor:
        """Runs DDIM.

        Args:
            denoise: see solvers.Denoise.
            x: first latent [frames, 4, h, w].
            callback: see solvers.Callback.

        Raises:
            InputError: a first latent with NaN or infinite numbers.
        """
        check_finite("first latent", x, _NOT_FINITE)
        return ddim(denoise, x, self.schedule, self.timesteps, callback=callback)


FirstStage = BaseStage | FewStepStage | AnimateStage


def first_stage(options: BaseOptions, kind: Kind, release: Release, schedule: Schedule) -> FirstStage:
    """The first stage of a network as it was released: DDIM and its like, few steps, or an animator's.

    Args:
        options: the caller's; what a network with a sampler of its own does not read has to be left.
        kind, release, schedule: of the network.

    Raises:
        InputError: a setting that cannot be, or that this network does not read.
    """
    few = release.sampler == "lcm"
    if not few and kind not in ANIMATORS:
        return BaseStage(options, release, schedule)
    options.check()
    remedy = f"Leave it: {release.title} has a sampler of its own."
    for name, usual in (("solver", "ddim"), ("eta", 0.0), ("denoise", 1.0), ("negative", None)):
        if (found := getattr(options, name)) != usual:
            said = {"solver": "ddim, which stands for the release's", "denoise": "1"}
            raise InputError(name, said.get(name, "none"), f"{found!r}"[:60], remedy)
    if not few:
        read = ("width", "height", "frames", "steps", "guidance", "seed", "acceleration")
        return AnimateStage(AnimateOptions(**{name: getattr(options, name) for name in read}), release, schedule)
    if options.guidance not in (None, 1):
        raise InputError("guidance scale", "1, since guidance is in the weights", f"{options.guidance:g}", remedy)
    names = ("width", "height", "frames", "steps", "seed", "fps")
    return FewStepStage(FewStepOptions(**{name: getattr(options, name) for name in names}), release, schedule)


class RefineStage:
    """The second stage: a video's latent brought to a noise level and denoised from there (paper, section 3.3).

    Args:
        options: the caller's; the size is not read.
        release: of the network.
        schedule: the network's own.

    Attributes:
        settings: the release's with the options in their place; steps are those for the solver.
        inverts: whether the video enters by DDIM inversion, as SR600's does, instead of by noise.
        inversion_timesteps: what the network is told at each step of the inversion, rising; none where it enters by noise.
        plan: the solver's sigmas and timesteps.
        timesteps: what the network is told at each step of the solver, falling.
        steps: how many there are in both, and how many times the callback is called.
        noise_seed: of the noise that is added.

    Raises:
        InputError: a setting that cannot be.
    """

    def __init__(self, options: RefineOptions, release: Release, schedule: Schedule):
        options.check()
        self.options, self.schedule = options, schedule
        level, guidance = release.level_and_guidance(options.amount)
        given = {
            "steps": options.steps or release.steps_for(options.solver),
            "guidance": guidance if options.guidance is None else options.guidance,
            "rescale": options.rescale,
            "noise_level": options.noise_level or level,
            "entry": options.entry,
            "negative_prompt": options.negative,
            **{name: getattr(options, name) for name in ("mode", "window", "joining", "enlarging", *_OF_HINTS)},
        }
        self.settings = _with(release, given)
        self._check_hint(options, release)
        steps, level = self.settings.steps, self.settings.noise_level
        if options.mode == "fast" and options.solver == "heun":
            remedy = "Use the solver dpmpp_2m_sde, or the mode normal."
            raise InputError("solver", "dpmpp_2m_sde with the mode fast", "heun", remedy)
        if self.settings.mode == "fast" and options.solver != "heun":
            self.plan = fast_steps(schedule, level)
        else:
            self.plan = refine_steps(schedule, steps, level, options.solver)
        self.timesteps = self.plan.timesteps
        self.inverts = self.settings.entry == "inversion"
        self._inversion_steps = min(steps, level)
        self.inversion_timesteps = inversion_timesteps(self._inversion_steps, level) if self.inverts else []
        self.steps = len(self.inversion_timesteps) + len(self.timesteps)
        self.noise_seed = derived_seed(options.seed, "refiner noise")

    def _check_hint(self, options: RefineOptions, release: Release) -> None:
        if options.enlarging is not None and not release.enlarging:
            remedy = "Give a width and a height, or use STAR or VEnhancer."
            found = f"{options.enlarging:g} for the {release.title}"
            raise InputError("enlarging", "none where the network has a size of its own", found, remedy)
        if options.enlarging == 0:
            raise InputError("enlarging", "more than 0", "0", "Use 4, the release's, or 1 to keep the size.")
        if not release.noise_aug:
            said = next((name for name in _OF_HINTS if getattr(options, name) is not None), None)
            if said is not None:
                found = f"{getattr(options, said)} for the {release.title}"
                remedy = "Leave it out, or use VEnhancer."
                raise InputError(said.replace("_", " "), "none where the network reads no key frames", found, remedy)
        elif not self.settings.noise_aug:
            remedy = (
                "Use 1 for nearly clean key frames, or 250, the release's: the official program makes pure noise of 0."
            )
            raise InputError("noise aug", "1 or more", "0", remedy)

    def noise(self, shape: tuple[int, ...]) -> Tensor:
        """The noise that is added, [frames, 4, h, w], float32 on the CPU; another than the base's of the same seed."""
        return initial_noise(shape, self.noise_seed)

    def windows(self, frames: int) -> list[range]:
        """The frames of a video that go through the network together."""
        settings = self.settings
        windows = refiner_windows(frames, settings.window, settings.joining, settings.inserted)
        if settings.window < frames and len(windows) == 1 and settings.window:
            words = "%d frames go through the network together: they are too few for two windows of %d"
            logger.info(words, frames, settings.window)
        return windows

    def share(self) -> Share:
        """How windows are joined; one for each run."""
        generator = torch.Generator().manual_seed(derived_seed(self.options.seed, "refiner windows"))
        return share_of(self.settings.joining, generator)

    def hint(self, control: ControlConfig, latent: Tensor, noise: Tensor | None = None) -> Hint:
        """What the network's control branch reads of the video that it starts from.

        Args:
            control: the branch's own.
            latent: scaled, of all frames [frames, 4, h, w]: clean, those that were inserted held.
            noise: of the key frames [k, 4, h, w]; the seed's if None. Not read where all frames are the hint.
        """
        if not control.key_frames:
            return Hint(latent)
        settings = self.settings
        if noise is None:
            keys = int((key_frames(len(latent), settings.inserted) >= 0).sum())
            noise = initial_noise((keys, *latent.shape[1:]), derived_seed(self.options.seed, "refiner hint"))
        level = settings.noise_aug - 1
        return hint_of_keys(self.schedule, latent, noise, settings.inserted, level, settings.scale_told)

    def check_latent(self, latent: Tensor) -> None:
        """Raises InputError for a latent with NaN or infinite numbers."""
        check_finite("latent", latent, _NOT_FINITE)

    def add_noise(self, latent: Tensor, noise: Tensor) -> Tensor:
        """The video's latent at the noise level."""
        return self.schedule.add_noise(latent, noise, self.settings.noise_level - 1)

    def invert(self, denoise: Denoise, latent: Tensor, callback: Callback | None = None) -> Tensor:
        """The video's latent brought to the noise level by DDIM, which goes upwards on a schedule of its own (VGen,
        configs/sr600_infer.yaml).

        Args:
            denoise: of the network's own schedule, for the negative prompt alone and without guidance.
            latent: [frames, 4, h, w].
            callback: see solvers.Callback; it counts the steps of both parts.
        """
        own = cosine()

        def on_own_schedule(x: Tensor, t: int) -> Tensor:
            return own.denoised(x, self.schedule.velocity(x, denoise(x, t), t), t)

        counted = self._counted(callback, 0)
        level = self.settings.noise_level
        return ddim_inversion(on_own_schedule, latent, own, self._inversion_steps, level, callback=counted)

    def sample(self, denoise: Denoise, x: Tensor, callback: Callback | None = None) -> Tensor:
        """Runs the solver: SDE-DPM-Solver++(2M) or Heun, as released.

        Args:
            denoise: see solvers.Denoise.
            x: the video's latent at the noise level, [frames, 4, h, w].
            callback: see solvers.Callback; it counts the steps of both parts.
        """
        counted = self._counted(callback, len(self.inversion_timesteps))
        if self.options.amount != 1:  # as released, the network is given less of it, the less the lower the level
            x = _itself_at_first(x, self.plan)
        if self.options.solver == "heun":
            return heun(denoise, x, self.plan, callback=counted)
        eta, seed = self.options.eta, derived_seed(self.options.seed, "refiner step noise")
        noise = BrownianNoise(x, self.plan.sigmas, seed) if eta else None
        return dpmpp_2m_sde(denoise, x, self.plan, eta=eta, noise=noise, callback=counted)

    def _counted(self, callback: Callback | None, first: int) -> Callback | None:
        """A callback for one of the two parts, which tells the step among those of both."""
        if callback is None:
            return None
        return lambda step, _, x, denoised: callback(first + step, self.steps, x, denoised)


def hint_of_keys(schedule: Schedule, latent: Tensor, noise: Tensor, inserted: int, level: int, scale_told: int) -> Hint:
    """VEnhancer's hint: the key frames' latents noised to a level, which the network is told with a scale.

    Args:
        schedule: the network's own.
        latent: scaled, of all frames [frames, 4, h, w].
        noise: of the key frames [k, 4, h, w].
        inserted: frames between two key frames.
        level: timestep, 0..999.
        scale_told: a whole number.
    """
    keys = key_frames(len(latent), inserted).to(latent.device)
    noised = schedule.add_noise(latent[keys >= 0], noise.to(latent), level)
    return Hint(noised, keys[None], *torch.tensor([level, scale_told], device=latent.device).split(1))


def _itself_at_first(x: Tensor, plan: SolverSteps) -> Tensor:
    """A latent at the first level, such that the network is given it as it is by a solver that multiplies by sigma, as the
    official programs do."""
    return x * (1 + 1 / float(plan.sigmas[0]) ** 2) ** 0.5


def _with(release: Release, given: dict[str, Any]) -> Release:
    return replace(release, **{name: value for name, value in given.items() if value is not None})
