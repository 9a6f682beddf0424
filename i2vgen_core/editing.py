"""A video edited by its first frame, without a host (AnyV2V, arXiv 2403.14468): change the first frame with any tool, and the
whole clip follows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from threading import Event

import torch
from torch import Tensor

from .cascade import BaseConditions, Cancelled, Cascade
from .config import VAE_SCALE
from .errors import InputError, checked
from .media.given import ImageLike, as_images
from .media.images import video_frame
from .network.evaluation import Prepared
from .sampling.editing import EditStage, check_alike, guided_by_source
from .sampling.guidance import guided
from .sampling.options import BaseOptions, EditOptions
from .sampling.schedules import schedule_for
from .sampling.solvers import Callback

_SHAPES = 0.02
"""How far the shapes of two pictures may be apart: editors change sides to multiples of 8 or 16."""


@dataclass(frozen=True, eq=False)
class InvertedClip:
    """A source that was brought to noise: what every edit of it reads.

    Args:
        latents: scaled, [frames, 4, h, w], by timestep.
        timesteps: of the inversion.
        condition: the source's, with its details.
        picture: height and width of its frames as they were given.
    """

    latents: Mapping[int, Tensor]
    timesteps: Sequence[int]
    condition: Prepared
    picture: tuple[int, int]


def edit_video(
    cascade: Cascade,
    video: ImageLike,
    first_frame: ImageLike,
    prompt: str,
    options: EditOptions | None = None,
    *,
    callback: Callback | None = None,
    cancel: Event | None = None,
) -> Tensor:
    """Edits a video as its first frame was edited.

    Args:
        cascade: with an I2VGen-XL base.
        video: the source's frames, [F, H, W, 3]; those after the options' number are left out.
        first_frame: the first of them, edited; of the same shape.
        prompt: what happens in the edited video.
        options: settings; the release's and AnyV2V's if None.
        callback: see solvers.Callback; it counts the steps of both parts. What it raises ends the run.
        cancel: looked at between the steps.

    Returns:
        Frames [frames, height, width, 3] in 0..1, of the options' size.

    Raises:
        InputError: a setting, picture or prompt that cannot be, before anything is sampled.
        Cancelled: `cancel` was set.
    """
    options = options or EditOptions()
    _check_picture(as_images(video).shape, as_images(first_frame).shape)
    clip = invert_clip(cascade, video, options, callback=callback, cancel=cancel)
    return edit_clip(cascade, clip, first_frame, prompt, options, callback=callback, cancel=cancel)


@checked
@torch.no_grad()
def invert_clip(
    cascade: Cascade,
    video: ImageLike,
    options: EditOptions,
    *,
    callback: Callback | None = None,
    cancel: Event | None = None,
) -> InvertedClip:
    """The first part of edit_video, whose outcome serves any number of edits of one clip; arguments as there."""
    stage, frames = _stage(cascade, options), as_images(video)
    count = stage.settings.frames if options.frames else min(len(frames), stage.settings.frames)
    if len(frames) < count:
        found, remedy = f"{len(frames)} frames", "Ask for as many, or give a longer video."
        raise InputError("the video", f"{count} frames or more, as the options have it", found, remedy)
    base = _base_options(replace(options, frames=count), stage)
    conditions = cascade.condition(frames[:1], options.source_prompt, base)
    pictures = video_frame(frames[:count], stage.settings.width, stage.settings.height)
    latent = cascade.vae.encode(pictures.to(cascade.device), frames_per_batch=1) * VAE_SCALE
    check_alike(latent.shape, conditions.shape)
    unet = cascade.base.unet
    source = unet.prepare(conditions.positive, conditions.fps)
    denoise = guided(unet, stage.schedule, [source], 1.0, details=conditions.details, dtype=cascade.dtype)
    latents = stage.invert(denoise, latent.float(), _until(cancel, callback))
    with_details = replace(source, details=conditions.details)
    return InvertedClip(latents, stage.inversion_timesteps, with_details, (frames.shape[1], frames.shape[2]))


@checked
@torch.no_grad()
def edit_clip(
    cascade: Cascade,
    clip: InvertedClip,
    first_frame: ImageLike,
    prompt: str,
    options: EditOptions,
    *,
    callback: Callback | None = None,
    cancel: Event | None = None,
) -> Tensor:
    """The second part of edit_video; arguments as there.

    Args:
        clip: of the same options; prompts, seed, guidance, fractions and start may be others.
    """
    stage, picture = _stage(cascade, options), as_images(first_frame)[:1]
    _check_picture((0, *clip.picture), picture.shape)
    shape = next(iter(clip.latents.values())).shape
    if list(clip.timesteps) != stage.inversion_timesteps:
        expected, found = f"{len(stage.inversion_timesteps)} timesteps", f"{len(clip.timesteps)} others"
        raise InputError("the inverted clip", expected, found, "Invert it with the steps of this edit.")
    conditions = cascade.condition(picture, prompt, _base_options(replace(options, frames=shape[0]), stage))
    check_alike(shape, conditions.shape)
    latent = stage.sample(
        guided_by_source(
            cascade.base.unet,
            stage.schedule,
            clip.condition,
            _both(cascade, conditions),
            conditions.details,
            clip.latents,
            stage.injection_at,
            stage.settings.guidance,
            cascade.dtype,
        ),
        stage.first_latent(clip.latents, stage.noise(tuple(shape))),
        _until(cancel, callback),
    )
    return cascade.decode(latent / VAE_SCALE)


def _both(cascade: Cascade, conditions: BaseConditions) -> list[Prepared]:
    return [cascade.base.unet.prepare(each, conditions.fps) for each in (conditions.positive, conditions.negative)]


def _stage(cascade: Cascade, options: EditOptions) -> EditStage:
    config = cascade.base.unet.config
    if not config.reads_details:
        raise InputError("the base", "an I2VGen-XL network", config.kind, "Edit with one; AnyV2V is made for it.")
    return EditStage(options, cascade.base.release, schedule_for(config.kind))


def _base_options(options: EditOptions, stage: EditStage) -> BaseOptions:
    """What a picture is encoded for."""
    settings = stage.settings
    return BaseOptions(
        width=settings.width,
        height=settings.height,
        frames=options.frames,
        fps=settings.fps,
        negative=settings.negative_prompt,
    )


def _check_picture(video: Sequence[int], picture: Sequence[int]) -> None:
    """Raises InputError unless both [n, height, width, ...] are of one shape: else the crop would move what is in them."""
    (_, height, width), (_, high, wide) = video[:3], picture[:3]
    if abs(wide * height / (high * width) - 1) > _SHAPES:
        expected, found = f"a picture of the video's shape, {width}x{height}", f"{wide}x{high}"
        raise InputError("the edited first frame", expected, found, "Crop or pad it as the video's own first frame.")


def _until(cancel: Event | None, callback: Callback | None) -> Callback:
    def tell(step: int, steps: int, x: Tensor, denoised: Tensor) -> None:
        if cancel is not None and cancel.is_set():
            raise Cancelled
        if callback:
            callback(step, steps, x, denoised)

    return tell
