"""Videos of the networks beside the cascade's: composers and text to video, and animators. What they make is a first stage's
latent: the cascade decodes it, and refines it as a base's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from einops import rearrange
from torch import Tensor

from .cascade import Cascade
from .config import ANIMATORS, COMPOSERS, TEXT_TO_VIDEO, VAE_SCALE, VAE_STEP, Kind
from .errors import InputError, check_shape, checked
from .media.given import ImageLike, as_images
from .media.guides import Guides, guide_pictures, pose_frames, stretched, stretched_clip_pixels
from .media.images import check_images
from .network.animation import Motion, Person, animation_conditions
from .network.unet import UNet
from .poses.alignment import align
from .poses.drawing import draw
from .poses.keypoints import Poses
from .sampling.guidance import guided, guided_in_windows
from .sampling.options import AnimateOptions, BaseOptions
from .sampling.schedules import schedule_for
from .sampling.solvers import Callback
from .sampling.stages import AnimateStage, FewStepStage, first_stage

Mode = Literal["reference", "first frame", "both"]


@dataclass(frozen=True)
class Driving:
    """The driving video, for a network that reads it beside its poses (Animate-X).

    Args:
        frames: [f, h, w, 3] in 0..1.
        poses: of its frames, not aligned.
    """

    frames: Tensor
    poses: Poses


@checked
@torch.no_grad()
def compose(
    cascade: Cascade,
    prompt: str,
    guides: Guides | None = None,
    options: BaseOptions | None = None,
    *,
    look: ImageLike | None = None,
    noise: Tensor | None = None,
    callback: Callback | None = None,
) -> Tensor:
    """A video of a prompt and of pictures that it follows, by a composer; of a prompt alone by text to video too.

    Args:
        cascade: whose folder has the network in unet/.
        prompt: what happens; the release's suffix is appended here.
        guides: what the video follows; nothing if None.
        options: settings; the release's if None. A network of few steps has no guidance and no negative prompt.
        look: a picture whose looks the video is to have.
        noise: [frames, 4, h, w]; the seed's if None.
        callback: see solvers.Callback.

    Returns:
        Unscaled latent [frames, 4, h, w], float32.

    Raises:
        InputError: another network, a setting or a picture that cannot be, or too little memory in this machine.
    """
    options, guides = options or BaseOptions(), guides or Guides()
    network, release = cascade.base.unet, cascade.base.release
    kind = _check_kind(network, (*COMPOSERS, *TEXT_TO_VIDEO), "a composer or text to video")
    stage = first_stage(options, kind, release, schedule_for(kind))
    settings = stage.settings
    width, height, frames = settings.width, settings.height, settings.frames
    cascade.check_video(network, frames, width, height)
    pictures, _ = guide_pictures(guides, width, height, frames)

    prompts = [prompt + settings.prompt_suffix]
    if not isinstance(stage, FewStepStage):
        prompts.append(settings.negative_prompt)
    whose = ["the prompt", "the negative prompt"][: len(prompts)]
    contexts = list(cascade.text_encoder.encode(prompts, whose, settings.prompt_suffix).to(cascade.dtype).split(1))
    if look is not None:
        if not network.config.reads_image_beside_text:
            raise InputError("look", f"none, for {release.title}", "a picture", "Leave it out: it reads text alone.")
        seen = stretched(as_images(look)[:1], width, height).to(cascade.device)
        pixels = stretched_clip_pixels(seen, cascade.image_encoder.config.image_size)
        embedding = cascade.image_encoder.encode(pixels).to(cascade.dtype)[:, None]
        both = embedding, torch.zeros_like(embedding)
        contexts = [
            torch.cat([text, network.pre_image_condition(each)], dim=1)
            for text, each in zip(contexts, both, strict=False)
        ]
    shape = frames, network.config.in_channels, height // VAE_STEP, width // VAE_STEP
    made = {name: each.to(cascade.device, cascade.dtype) for name, each in pictures.items()}
    details = network.stems.beside_noise(made, frames, *shape[2:])
    conditions = [network.prepare(context) for context in contexts]
    speed, guidance = options.acceleration, settings.guidance
    denoise = guided(network, stage.schedule, conditions, guidance, 0.0, details, speed, cascade.dtype)
    assert not isinstance(stage, AnimateStage)
    noise = stage.noise(shape) if noise is None else noise
    check_shape("noise", noise.shape, shape, "Draw it in the latent's shape.")
    return stage.sample(denoise, noise.to(cascade.device, torch.float32), callback) / VAE_SCALE


def pose_pictures(driving: Poses, reference: Poses, aligns: bool = True) -> Tensor:
    """Pictures of poses [frames + 1, 768, 512, 3] in 0..1 as the animators were trained on them, the reference's first.

    Args:
        driving: of the driving video.
        reference: of the person's picture.
        aligns: whether the poses get the person's build and place; Animate-X's do not.

    Raises:
        InputError: see poses.alignment.align.
    """
    moved = align(driving, reference)[0] if aligns else driving
    return torch.cat([draw(reference[:1]), draw(moved)])


@checked
@torch.no_grad()
def animate(
    cascade: Cascade,
    image: ImageLike,
    poses: Tensor,
    options: AnimateOptions | None = None,
    *,
    mode: Mode = "reference",
    interval: int = 1,
    driving: Driving | None = None,
    noise: tuple[Tensor, Tensor] | None = None,
    callback: Callback | None = None,
) -> Tensor:
    """A video of a person who follows poses, by an animator.

    Args:
        cascade: whose folder has the network in unet/.
        image: of the person; stretched to the video's size.
        poses: pictures [n + 1, h, w, 3] in 0..1, the reference's first, see pose_pictures.
        options: settings; the release's, and as many frames as poses, if None.
        mode: whether the picture is a frame of its own in front of the video, the video's first frame, or both.
        interval: every so many poses one is taken.
        driving: for Animate-X.
        noise: see AnimateStage.noise; the seed's if None.
        callback: see solvers.Callback.

    Returns:
        Unscaled latent [frames, 4, h, w], float32.

    Raises:
        InputError: another network, a setting or a picture that cannot be, or too little memory in this machine.
    """
    network, release = cascade.base.unet, cascade.base.release
    kind = _check_kind(network, ANIMATORS, "an animator")
    check_images(poses, "the poses")
    if len(poses) < 2:
        remedy = "Give the reference's pose, then those of the video."
        raise InputError("the poses", "two pictures or more, the reference's first", f"{len(poses)}", remedy)
    options = options or AnimateOptions(frames=-(-(len(poses) - 1) // max(interval, 1)))
    stage = AnimateStage(options, release, schedule_for(kind))
    settings = stage.settings
    width, height, frames = settings.width, settings.height, settings.frames
    cascade.check_video(network, min(frames, options.window), width, height)
    rows = pose_frames(len(poses) - 1, frames, interval)
    picture = as_images(image)[:1]
    person = _person(cascade, picture, poses, rows, (width, height), mode)
    if driving is not None:
        person["motion"] = _motion(cascade, picture, driving, rows)
    size = height // VAE_STEP, width // VAE_STEP
    latent = person.pop("latent")
    conditions = animation_conditions(network, Person(**person), stage.windows, *size)
    speed = options.acceleration
    denoise = guided_in_windows(
        network, stage.schedule, stage.windows, conditions, settings.guidance, speed, cascade.dtype
    )
    drawn = stage.noise((frames, network.config.in_channels, *size)) if noise is None else noise
    x = stage.first_latent(latent.float(), *(each.to(cascade.device, torch.float32) for each in drawn))
    return stage.sample(denoise, x, callback) / VAE_SCALE


def _person(
    cascade: Cascade, picture: Tensor, poses: Tensor, rows: list[int | None], size: tuple[int, int], mode: Mode
) -> dict[str, Any]:
    """Person's fields but for motion, and the picture's scaled latent."""
    to: dict[str, Any] = {"device": cascade.device, "dtype": cascade.dtype}
    there = [0, *(1 + row for row in rows if row is not None)]
    drawn = stretched(poses[there], *size)
    drawn = rearrange(torch.cat([drawn, drawn.new_zeros(rows.count(None), *drawn.shape[1:])]), "f h w c -> f c h w")
    frame = stretched(picture, *size).to(cascade.device)
    latent = cascade.vae.encode(frame).to(cascade.dtype) * VAE_SCALE
    pixels = stretched_clip_pixels(picture.to(cascade.device), cascade.image_encoder.config.image_size)
    embedding = cascade.image_encoder.encode(pixels)
    fields = {
        "latent": latent,
        "text": cascade.text_encoder.encode([""], ["the empty prompt"]).to(**to),
        "image": embedding.to(**to)[:, None],
        "poses": drawn[1:].to(**to),
    }
    if mode != "first frame":
        fields |= {"reference": latent, "reference_pose": drawn[0].to(**to)}
    if mode != "reference":
        fields["first_frame"] = rearrange(frame, "1 h w c -> c h w").to(**to)
    return fields


def _motion(cascade: Cascade, picture: Tensor, driving: Driving, rows: list[int | None]) -> Motion:
    """The reference's points are those of the driving video's first frame; frames beyond its end are as the last."""
    check_images(driving.frames, "the driving video")
    there = min(len(driving.frames), len(driving.poses))
    taken = [there - 1 if row is None else min(row, there - 1) for row in rows]
    points = torch.from_numpy(driving.poses.body[[0, *taken], :18]).transpose(1, 2)
    size = cascade.image_encoder.config.image_size
    seen = [picture, *(driving.frames[row : row + 1] for row in taken)]
    embeddings = [cascade.image_encoder.encode(stretched_clip_pixels(each.to(cascade.device), size)) for each in seen]
    to: dict[str, Any] = {"device": cascade.device, "dtype": cascade.dtype}
    return Motion(points.to(**to), torch.cat(embeddings).to(**to))


def _check_kind(network: UNet, kinds: tuple[Kind, ...], what: str) -> Kind:
    kind = network.config.kind
    if kind not in kinds:
        remedy = f"Put one of {', '.join(kinds)} into the folder's unet/."
        raise InputError("the network", what, kind, remedy)
    return kind
