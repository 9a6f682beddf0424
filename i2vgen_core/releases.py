"""The settings that each network was released with, what a setting may be, and a network's own in their place."""

from __future__ import annotations

import typing
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from .config import TIMESTEPS, Kind
from .errors import CheckpointError, check_range

Entry = Literal["noise", "inversion"]
Sampler = Literal["ddim", "lcm"]
Mode = Literal["normal", "fast"]
"""How a refiner's levels are spaced."""
Joining = Literal["cut", "blend", "random"]
"""How the windows of a long video are joined where they overlap."""
MODES: tuple[Mode, ...] = typing.get_args(Mode)
JOININGS: tuple[Joining, ...] = typing.get_args(Joining)
ENTRIES: tuple[Entry, ...] = typing.get_args(Entry)

FAST_STEPS = 20
"""Steps of a base with a solver of second order, where none are given (docs/acceleration.md has the curve)."""


@dataclass(frozen=True)
class Release:
    """The settings a network was released with (the official configuration files), or comes with.

    Args:
        title: its name for people.
        width, height: of its videos in pixels.
        steps: sampling steps; `heun_steps` for the Heun solver, where the release has one.
        guidance: classifier-free guidance scale.
        rescale: guidance rescale in 0..1 (arXiv 2305.08891).
        noise_level: noise levels of 1000 that a refiner starts from; 0 for a base.
        entry: how a refiner enters: `noise` adds noise, `inversion` inverts the video with DDIM.
        offset_noise: strength of the per-frame offset in the first noise.
        frames, fps: length of a base's videos, and motion's frame rate; 0 for a refiner, which takes any.
        negative_prompt: the release's negative prompt.
        prompt_suffix: what the release appends to every prompt.
        sampler: what it was made for: `ddim`, or `lcm` without guidance and negative prompt.
        prior_level, long_prior_level: noise level that an animator's reference is brought to for the first latent, and that
            of videos in windows; 0 for none.
        follow_signal: share of the signal, 0..1, until which a base's video is held to a rough animation.
        mode: of a refiner's levels, see schedules.
        window: frames that go through a refiner together, where there are more; 0 for all.
        joining: of windows.
        enlarging: how many times a refiner's video is as wide and high as what it is made of; 0 where `width` and `height`
            say its size, and then what it is padded to at least.
        fewest_pixels, most_pixels: of an enlarged video's frames; 0 for no bounds.
        inserted: frames that a refiner puts between two of the video.
        noise_aug: noise levels of 1000 that a refiner's hint is brought to; 0 for a clean one.
        scale_told: how far the video was enlarged, as the network is told.
    """

    title: str
    width: int
    height: int
    steps: int
    guidance: float
    rescale: float = 0.0
    heun_steps: int = 0
    noise_level: int = 0
    entry: Entry = "noise"
    offset_noise: float = 0.0
    frames: int = 0
    fps: float = 0.0
    negative_prompt: str = ""
    prompt_suffix: str = ""
    sampler: Sampler = "ddim"
    prior_level: int = 0
    long_prior_level: int = 0
    follow_signal: float = 0.6
    mode: Mode = "normal"
    window: int = 0
    joining: Joining = "blend"
    enlarging: float = 0.0
    fewest_pixels: int = 0
    most_pixels: int = 0
    inserted: int = 0
    noise_aug: int = 0
    scale_told: int = 0

    def steps_for(self, solver: str) -> int:
        """The release's steps with this solver; FAST_STEPS with a base's other solvers than DDIM."""
        if solver in ("dpmpp_2m", "unipc"):
            return min(FAST_STEPS, self.steps)
        return self.heun_steps if solver == "heun" and self.heun_steps else self.steps

    def level_and_guidance(self, amount: float) -> tuple[int, float]:
        """A refiner's noise level and guidance scale for so much of what the release changes in a video: both grow with it, the
        guidance scale from 1, which is none."""
        if amount == 1:
            return self.noise_level, self.guidance
        return min(TIMESTEPS, max(2, round(amount * self.noise_level))), 1 + amount * (self.guidance - 1)


_NEGATIVE = (
    "Distorted, discontinuous, Ugly, blurry, low resolution, motionless, static, disfigured, "
    "disconnected limbs, Ugly faces, incomplete arms"
)
_REFINER_NEGATIVE = (
    "worst quality, normal quality, low quality, low res, blurry, text, watermark, logo, banner, extra digits, cropped, "
    "jpeg artifacts, signature, username, error, sketch ,duplicate, ugly, monochrome, horror, geometry, mutation, "
    "disgusting"
)

_HINTED_SUFFIX = (
    "Cinematic, High Contrast, highly detailed, taken using a Canon EOS R camera,   hyper detailed photo - realistic "
    "maximum detail, 32k, Color Grading, ultra HD, extreme meticulous detailing,  skin pore detailing, hyper sharpness, "
    "perfect without deformations."
)
"""No separator before it, as released."""
_HINTED_NEGATIVE = (
    "painting, oil painting, illustration, drawing, art, sketch, oil painting, cartoon, CG Style, 3D render, unreal engine, "
    "blurring, dirty, messy, worst quality, low quality, frames, watermark, signature, jpeg artifacts, deformed, lowres, "
    "over-smooth"
)

_TFT2V_SUFFIX = ", cinematic, High Contrast, highly detailed, no blur, 4k render"
_VIDEOLCM_SUFFIX = ", cinematic, High Contrast, highly detailed, Unreal Engine 5, no blur, 4k render"

_TFT2V = Release(
    title="TF-T2V text to video",
    width=448,
    height=256,
    frames=16,
    fps=8,
    steps=50,
    guidance=9.0,
    negative_prompt=_NEGATIVE,
    prompt_suffix=_TFT2V_SUFFIX,
)

_VIDEOLCM = Release(
    title="VideoLCM text to video",
    width=448,
    height=256,
    frames=16,
    fps=8,
    steps=4,
    guidance=1.0,
    prompt_suffix=_VIDEOLCM_SUFFIX,
    sampler="lcm",
)

_STAR = Release(
    title="STAR refiner",
    width=1280,
    height=720,
    steps=15,
    guidance=7.5,
    rescale=0.2,
    noise_level=900,
    negative_prompt=_HINTED_NEGATIVE,
    prompt_suffix=_HINTED_SUFFIX,
    mode="fast",
    window=32,
    joining="cut",
    enlarging=4.0,
)

RELEASES: dict[Kind, Release] = {
    "i2vgen_xl": Release(
        title="I2VGen-XL base",
        width=1280,
        height=704,
        frames=16,
        fps=16,
        steps=50,
        guidance=9.0,
        negative_prompt=_NEGATIVE,
    ),
    "image2video": Release(
        title="MS-Image2Video base",
        width=448,
        height=256,
        frames=32,
        fps=8,
        steps=50,
        guidance=3.0,
        offset_noise=0.1,
    ),
    "vid2vid_xl": Release(
        title="MS-Vid2Vid-XL refiner",
        width=1280,
        height=720,
        steps=30,
        heun_steps=50,
        guidance=7.5,
        rescale=0.2,
        noise_level=600,
        negative_prompt=_REFINER_NEGATIVE,
        prompt_suffix=(
            ", cinematic, High Contrast, highly detailed, unreal engine, taken using a Canon EOS R camera, "
            "hyper detailed photo - realistic maximum detail, 32k, Color Grading, ultra HD, extreme meticulous "
            "detailing, skin pore detailing, hyper sharpness, perfect without deformations, Unreal Engine 5, 4k render"
        ),
    ),
    "sr600": Release(
        title="VGen SR600 refiner",
        width=1280,
        height=720,
        steps=30,
        guidance=9.0,
        rescale=0.3,
        noise_level=700,
        entry="inversion",
        negative_prompt=_REFINER_NEGATIVE,
        prompt_suffix=(
            ", cinematic, High Contrast, highly detailed, Unreal Engine 5, no blur, full length ultra-wide angle shot a "
            "cinematic scene, taken using a Canon EOS R camera, hyper detailed photo - realistic maximum detail, 32k, "
            "Color Grading, portrait Photography, ultra HD, extreme meticulous detailing, skin pore detailing, "
            "hyper sharpness, perfect without deformations, 4k render"
        ),
    ),
    "text2video": Release(
        title="VGen text to video",
        width=448,
        height=256,
        frames=16,
        fps=8,
        steps=50,
        guidance=9.0,
        negative_prompt=_NEGATIVE,
    ),
    "tft2v_t2v": _TFT2V,
    "videolcm_t2v": _VIDEOLCM,
    "tft2v_composer": replace(_TFT2V, title="TF-T2V composer"),
    "videolcm_composer": replace(_VIDEOLCM, title="VideoLCM composer"),
    "unianimate": Release(
        title="UniAnimate",
        width=512,
        height=768,
        frames=32,
        fps=8,
        steps=30,
        guidance=2.5,
        offset_noise=0.1,
        prior_level=949,
        long_prior_level=939,
    ),
    "animate_x": Release(
        title="Animate-X",
        width=512,
        height=768,
        frames=32,
        fps=8,
        steps=30,
        guidance=2.5,
        offset_noise=0.1,
    ),
    "star": _STAR,
    "venhancer": replace(
        _STAR,
        title="VEnhancer refiner",
        joining="blend",
        fewest_pixels=720 * 1280 * 3 // 2,
        most_pixels=1152 * 2048,
        inserted=1,
        noise_aug=250,
        scale_told=8,
    ),
}
"""By kind: VGen configs/i2vgen_xl_infer.yaml, tools/modules/config.py and configs/sr600_infer.yaml, t2v_infer.yaml,
tft2v_t2v_infer.yaml, tft2v_vcomposer_infer.yaml, videolcm_t2v_infer.yaml and videolcm_vcomposer_infer.yaml; ModelScope
image_to_video and video_to_video, utils/config.py and the models' files; UniAnimate configs/UniAnimate_infer.yaml and
UniAnimate_infer_long.yaml; Animate-X configs/Animate_X_infer.yaml; STAR video_super_resolution/scripts/inference_sr.py and VEnhancer
enhance_a_video.py. The seven from `text2video` on read no frame rate: theirs is that of the
saved videos."""

RANGES: dict[str, tuple[float, float]] = {
    "width": (64, 8192),
    "height": (64, 8192),
    "steps": (1, TIMESTEPS - 1),
    "guidance": (0, 100),
    "rescale": (0, 1),
    "heun_steps": (1, TIMESTEPS - 1),
    "noise_level": (2, TIMESTEPS),
    "amount": (0.1, 1.5),
    "prior_level": (0, TIMESTEPS - 1),
    "long_prior_level": (0, TIMESTEPS - 1),
    "offset_noise": (0, 1),
    "follow_signal": (0, 1),
    "frames": (1, 4096),
    "fps": (1, 120),
    "window": (0, 4096),
    "enlarging": (0, 8),
    "fewest_pixels": (0, 8192**2),
    "most_pixels": (0, 8192**2),
    "inserted": (0, 8),
    "noise_aug": (0, TIMESTEPS),
    "scale_told": (0, TIMESTEPS - 1),
    "eta": (0, 1),
    "denoise": (0.01, 1),
    "seed": (0, 2**64 - 1),
}
"""What the settings of a video may be, wherever they come from: a block, the command line or a config.json."""

_WHOLE = {"width", "height", "steps", "heun_steps", "noise_level", "prior_level", "long_prior_level", "frames", "seed"}
_WHOLE |= {"fewest_pixels", "most_pixels", "window", "inserted", "noise_aug", "scale_told"}
"""Those of them that count something."""


def check_settings(settings: Mapping[str, object]) -> None:
    """Raises InputError for the first of the settings, by their names in RANGES, that is no number, no whole one where it
    has to be, or out of range; None is not looked at."""
    for name, value in settings.items():
        if value is not None:
            check_range(name.replace("_", " "), value, *RANGES[name], whole=name in _WHOLE)


def release_of(kind: Kind, own: Mapping[str, Any] | None = None) -> Release:
    """The settings of a network: those of its kind, and its own in their place.

    Args:
        kind: of the network.
        own: what its config.json or metadata says under `release`, by the names of Release's fields.

    Raises:
        CheckpointError: an unknown name, or a value of another type or out of range.
    """
    types = typing.get_type_hints(Release)
    values: dict[str, Any] = {}
    for name, value in (own or {}).items():
        if name not in types:
            raise _wrong_setting(name, f"one of {', '.join(types)}", "an unknown name")
        choices = typing.get_args(types[name])
        if choices and value not in choices:
            raise _wrong_setting(name, " or ".join(choices), repr(value))
        if name in RANGES:
            low, high = RANGES[name]
            number = isinstance(value, (int, float) if types[name] is float else int) and not isinstance(value, bool)
            if not number or not low <= value <= high:
                whole = "a whole number" if types[name] is int else "a number"
                raise _wrong_setting(name, f"{whole} from {low} to {high}", repr(value))
        elif not isinstance(value, str):
            raise _wrong_setting(name, "text", repr(value))
        values[name] = value
    return replace(RELEASES[kind], **values)


def _wrong_setting(name: str, expected: str, found: str) -> CheckpointError:
    remedy = "Correct it in the model's config.json or metadata."
    return CheckpointError(f"release setting {name}"[:80], expected, found[:80], remedy)
