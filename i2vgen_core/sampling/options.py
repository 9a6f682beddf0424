"""Settings of a stage, as a caller gives them; what they leave open is the release's."""

from __future__ import annotations

from dataclasses import dataclass

from ..config import TIMESTEPS
from ..errors import check_choice, check_fields, check_range
from ..media.images import check_size
from ..network.acceleration import EXACT, Acceleration
from ..releases import ENTRIES, JOININGS, MODES, check_settings
from .schedules import BASE_SOLVERS, SOLVERS


@dataclass(frozen=True)
class BaseOptions:
    """Settings of the base stage; None takes the release's.

    Args:
        width, height: of the base video in pixels, multiples of 8 from 64 up.
        frames: 1..4096.
        fps: motion's frame rate, 1..120; 8 and 16 were trained.
        steps: 1..999.
        guidance: guidance scale, 0..100.
        eta: 0..1, see solvers.ddim.
        seed: of the noise, 0..2^64 - 1.
        negative: negative prompt.
        solver: one of schedules.BASE_SOLVERS.
        acceleration: what is left out, for speed.
        denoise: 0.01..1, share of the noise levels that are run, in as many steps; below 1 a latent is begun from, see
            held.Held.
    """

    width: int | None = None
    height: int | None = None
    frames: int | None = None
    fps: float | None = None
    steps: int | None = None
    guidance: float | None = None
    eta: float = 0.0
    seed: int = 0
    negative: str | None = None
    solver: str = "ddim"
    acceleration: Acceleration = EXACT
    denoise: float = 1.0

    def check(self) -> None:
        """Raises InputError for a setting that cannot be."""
        names = ("frames", "fps", "steps", "guidance", "eta", "denoise", "seed")
        check_settings({name: getattr(self, name) for name in names})
        check_fields(self)
        _check_size(self.width, self.height)
        check_choice("solver", self.solver, BASE_SOLVERS)
        self.acceleration.check()


@dataclass(frozen=True)
class FewStepOptions:
    """Settings of a latent consistency model's stage; None takes the release's. There is no guidance and no negative prompt:
    both are in the weights.

    Args:
        width, height: of the video in pixels, multiples of 8 from 64 up.
        frames: 1..4096.
        steps: 1..50.
        seed: of the noise, 0..2^64 - 1.
        fps: motion's frame rate, 1..120, where the network reads it.
    """

    width: int | None = None
    height: int | None = None
    frames: int | None = None
    steps: int | None = None
    seed: int = 0
    fps: float | None = None

    def check(self) -> None:
        """Raises InputError for a setting that cannot be."""
        _check_size(self.width, self.height)
        check_settings({name: getattr(self, name) for name in ("frames", "steps", "seed", "fps")})


@dataclass(frozen=True)
class AnimateOptions:
    """Settings of an animator's stage; None takes the release's.

    Args:
        width, height: of the video in pixels, multiples of 8 from 64 up; 512x768 was trained.
        frames: 1..4096.
        steps: 1..999.
        guidance: guidance scale, 0..100.
        prior_level: level that the reference is noised to for the first latent, 0..999; 0 starts from noise alone.
        window, overlap: frames that go through the network together where there are more, and how many of them two windows
            share; 32 were trained, and an overlap of 16 is steadier than 8.
        seed: of the noise, 0..2^64 - 1.
        acceleration: what is left out, for speed.
    """

    width: int | None = None
    height: int | None = None
    frames: int | None = None
    steps: int | None = None
    guidance: float | None = None
    prior_level: int | None = None
    window: int = 32
    overlap: int = 8
    seed: int = 0
    acceleration: Acceleration = EXACT

    def check(self) -> None:
        """Raises InputError for a setting that cannot be."""
        _check_size(self.width, self.height)
        names = ("frames", "steps", "guidance", "prior_level", "seed")
        check_settings({name: getattr(self, name) for name in names})
        self.acceleration.check()


@dataclass(frozen=True)
class EditOptions:
    """Settings of an edit by the first frame (AnyV2V); None takes the release's.

    Fractions are of the whole list of the edit's timesteps, from the noisiest on: 0 takes nothing over, 1 at every step.
    Larger ones keep more of the source's shapes and motion.

    Args:
        width, height: of the video in pixels, multiples of 8 from 64 up.
        frames: 1..4096.
        fps: motion's frame rate, 1..120, the same in the inversion.
        steps: of the edit, 1..999.
        inversion_steps: of the source's inversion, 1..999; those of the edit if None. AnyV2V's programs take 500 or 100 for
            an edit of 50; every timestep of the edit has to be one of the inversion's.
        guidance: guidance scale of the edit, 0..100.
        convolution: fraction with the source's features of a residual block.
        spatial: fraction with the source's queries and keys within frames.
        temporal: fraction with the source's queries and keys over frames.
        start: the edit's timestep to begin at, counted from the noisiest, 0; a later one keeps more of the source.
        fresh_noise: 0..1, share of fresh noise in the first latent, in the place of as much of the inverted one.
        seed: of that noise, 0..2^64 - 1.
        negative: negative prompt.
        source_prompt: what happens in the source; AnyV2V's programs give none.
    """

    width: int | None = None
    height: int | None = None
    frames: int | None = None
    fps: float | None = None
    steps: int | None = None
    inversion_steps: int | None = None
    guidance: float | None = None
    convolution: float = 0.2
    spatial: float = 0.2
    temporal: float = 0.5
    start: int = 0
    fresh_noise: float = 0.0
    seed: int = 0
    negative: str | None = None
    source_prompt: str = ""

    def check(self) -> None:
        """Raises InputError for a setting that cannot be."""
        check_fields(self)
        names = ("frames", "fps", "steps", "guidance", "seed")
        check_settings({name: getattr(self, name) for name in names})
        check_settings({"steps": self.inversion_steps})
        _check_size(self.width, self.height)
        for name in ("convolution", "spatial", "temporal", "fresh_noise"):
            check_range(name.replace("_", " "), getattr(self, name), 0, 1)
        check_range("start", self.start, 0, TIMESTEPS, whole=True)


@dataclass(frozen=True)
class RefineOptions:
    """Settings of the refinement stage; None takes the release's.

    Args:
        width, height: of the refined video in pixels, multiples of 8 from 64 up.
        steps: 1..999.
        guidance: guidance scale, 0..100.
        rescale: guidance rescale, 0..1.
        noise_level: noise levels of 1000 to start from, 2..1000.
        solver: `dpmpp_2m_sde` or `heun`.
        entry: `noise` or `inversion`.
        eta: 0..1, noise of the SDE solver.
        seed: of the noise, 0..2^64 - 1.
        negative: negative prompt.
        acceleration: what is left out, for speed.
        mode: `normal`, or `fast`: 14 steps from level 900 whatever `steps` says (STAR and VEnhancer).
        window: frames that go through the network together where there are more, 0..4096; 0 for all.
        joining: of windows: `cut`, `blend` or `random`.
        enlarging: how many times the video becomes as wide and high, 0.1..8, where no size is given (STAR and VEnhancer).
        noise_aug: levels that a hint of key frames is noised to, 1..1000 (VEnhancer).
        scale_told: how far the video was enlarged, as the network is told, 0..999 (VEnhancer).
        inserted: frames that are put between two of the video, 0..8 (VEnhancer).
        amount: how much of the video is made anew, 0.1..1.5 times what the release does: noise level and guidance scale
            together, each where it is not given. At 1 all is as released; otherwise the network is given the noised video as it
            is, and not times sigma, which takes most of it away at low levels.
    """

    width: int | None = None
    height: int | None = None
    steps: int | None = None
    guidance: float | None = None
    rescale: float | None = None
    noise_level: int | None = None
    solver: str = "dpmpp_2m_sde"
    entry: str | None = None
    eta: float = 1.0
    seed: int = 0
    negative: str | None = None
    acceleration: Acceleration = EXACT
    mode: str | None = None
    window: int | None = None
    joining: str | None = None
    enlarging: float | None = None
    noise_aug: int | None = None
    scale_told: int | None = None
    inserted: int | None = None
    amount: float = 1.0

    def check(self) -> None:
        """Raises InputError for a setting that cannot be."""
        names = ("steps", "guidance", "rescale", "noise_level", "amount", "eta", "seed")
        own = ("window", "enlarging", "noise_aug", "scale_told", "inserted")
        check_settings({name: getattr(self, name) for name in names + own})
        check_fields(self)
        _check_size(self.width, self.height)
        check_choice("solver", self.solver, SOLVERS)
        if self.mode is not None:
            check_choice("mode", self.mode, MODES)
        if self.joining is not None:
            check_choice("joining", self.joining, JOININGS)
        if self.entry is not None:
            check_choice("entry", self.entry, ENTRIES)
        self.acceleration.check()


def _check_size(width: int | None, height: int | None) -> None:
    """check_size of the sides that are given."""
    check_size(64 if width is None else width, 64 if height is None else height)
