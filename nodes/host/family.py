"""What the networks beside the cascade's read of a CONDITIONING: composers, text to video and animators."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ...i2vgen_core.config import VAE_STEP, Stem
from ...i2vgen_core.errors import InputError
from ...i2vgen_core.network.animation import Motion
from . import geometry


@dataclass(frozen=True)
class GuideCondition:
    """What the Compose block puts on a conditioning, positive and negative alike.

    Args:
        frames: of the video that it was made for.
        pictures: by the stems that read them [1, frames, c, H, W], or one frame for all; on the CPU.
        reads_image: whether there is a CLIP image embedding, which the negative then has as zeros.
    """

    frames: int
    pictures: Mapping[Stem, Tensor]
    reads_image: bool

    @property
    def places(self) -> tuple[int, int] | None:
        """Height and width of the latent that it was made for; None without pictures."""
        return next(map(_places_of, self.pictures.values()), None)


@dataclass(frozen=True)
class PersonCondition:
    """What the Poses to Video block puts on a conditioning.

    Args:
        frames: of the video that it was made for.
        seen: whether the person is; not in the negative, which has nothing of what follows.
        poses: pictures in 0..1 [frames + 1, 3, H, W], the reference's first.
        reference: unscaled latent [1, 4, h, w], for the frame in front.
        first_frame: picture in 0..1 [3, H, W], where the video is to begin with it.
        motion: for a network that reads body points.
    """

    frames: int
    seen: bool
    poses: Tensor
    reference: Tensor | None = None
    first_frame: Tensor | None = None
    motion: Motion | None = None

    @property
    def places(self) -> tuple[int, int]:
        """Height and width of the latent that it was made for."""
        return _places_of(self.poses)


def composition(
    model: Any,
    condition: Any,
    text: Tensor,
    unclip: list[dict[str, Any]] | None,
    noise: Tensor,
    to: dict[str, Any],
) -> tuple[Tensor, dict[str, Any]]:
    """Context tokens, and what stands beside the noise, of a composer or of text to video.

    Args:
        model: the VideoModel, loaded.
        condition: a GuideCondition, or None of text alone.
        text: tokens [1, 77, width].
        unclip: CLIP image embeddings; None where there are none.
        noise: of the latent's shape.
        to: device and type of what is made.
    """
    network, title = model.network, model.release.title
    if condition is not None and not isinstance(condition, GuideCondition):
        remedy = "Put the I2VGen-XL Compose block between the prompts and the sampler, or nothing."
        raise InputError("conditioning", f"one for {title}", "one of another network", remedy)
    if condition is None and network.stems:  # or another node has lost it, and the pictures with it
        remedy = "Put the I2VGen-XL Compose block between the prompts and the sampler; its pictures may be left out."
        raise InputError("conditioning", f"one of Compose, for {title}", "text alone", remedy)
    if unclip or (condition is not None and condition.reads_image):
        if not network.reads_image_beside_text:
            remedy = "Take the CLIP vision output out."
            raise InputError("conditioning", f"text alone, for {title}", "a CLIP image embedding too", remedy)
        embedding = model.image_embedding(unclip).to(**to)
        text = torch.cat([text, model.diffusion_model.pre_image_condition(embedding)], dim=1)
    if condition is None or not (condition.pictures or network.stems):
        return text, {}
    height, width = noise.shape[-2:]

    def encode(rows: list[int]) -> Tensor:
        if not condition.pictures:
            return torch.zeros(len(rows), network.concat_channels, height, width, **to)
        pictures = {name: _rows(each, rows).to(**to) for name, each in condition.pictures.items()}
        return model.diffusion_model.stems.beside_noise(pictures, len(rows), height, width)

    return text, {"details": geometry.Frames(encode(list(range(len(noise)))), encode)}


def animation(
    model: Any,
    condition: Any,
    text: Tensor,
    unclip: list[dict[str, Any]] | None,
    noise: Tensor,
    to: dict[str, Any],
) -> tuple[Tensor, dict[str, Any]]:
    """Conditions of an animator: what stands beside the noise and in front of the video is zeros without the person, as are
    the image's tokens."""
    network, unet = model.network, model.diffusion_model
    if not isinstance(condition, PersonCondition):
        remedy = "Put the I2VGen-XL Poses to Video block before the sampler."
        raise InputError("conditioning", f"a person's, for {model.release.title}", "another one", remedy)
    if (condition.motion is None) != (network.poses is None) and condition.seen:
        expected = "with" if network.poses else "without"
        found = "without" if network.poses else "with"
        remedy = (
            "Wire the driving video and its keypoints into Poses to Video."
            if network.poses
            else "Take them out of Poses to Video."
        )
        raise InputError(
            "conditioning", f"one {expected} a driving video, for {model.release.title}", f"one {found} it", remedy
        )
    if condition.seen and not unclip:
        remedy = "Take out the node between Poses to Video and the sampler that makes a conditioning anew."
        raise InputError("conditioning", "the person's CLIP image embedding", "none", remedy)
    frames, (height, width) = len(noise), noise.shape[-2:]
    tokens = unet.pre_image_condition(model.image_embedding(unclip).to(**to))
    in_front = torch.zeros(1, network.input_channels, height, width, **to)
    if condition.seen and condition.reference is not None:
        latent = model.process_latent_in(geometry.fit(condition.reference.to(**to), noise.shape[-2:]))
        in_front = unet.stems.in_front(latent, condition.poses[:1].to(**to))

    def encode(rows: list[int]) -> Tensor:
        if not condition.seen:
            return torch.zeros(len(rows), network.concat_channels, height, width, **to)
        pictures: dict[Stem, Tensor] = {"pose": condition.poses[[row + 1 for row in rows]][None].to(**to)}
        if condition.first_frame is not None:
            pictures["local_image"] = condition.first_frame[None, None].to(**to)
        return unet.stems.beside_noise(pictures, len(rows), height, width)

    every = list(range(frames))
    conds: dict[str, Any] = {
        "details": geometry.Frames(encode(every), encode),
        "in_front": geometry.FrameValues(in_front.expand(frames, -1, -1, -1)),
    }
    if network.poses is not None:
        motion = partial(_motion_tokens, model, condition, to)
        conds["motion"] = geometry.FrameTokens(motion(every), motion)
    return torch.cat([text, tokens if condition.seen else torch.zeros_like(tokens)], dim=1), conds


def _motion_tokens(model: Any, condition: PersonCondition, to: dict[str, Any], rows: list[int]) -> Tensor:
    """Tokens of each frame's own pose, and behind them those of the frame in front: [frames, 2 * tokens, context_dim]."""
    network, count = model.network, len(rows) + 1
    assert network.poses is not None
    if condition.seen and condition.motion is not None:
        taken = [0, *(row + 1 for row in rows)]
        points, pictures = condition.motion.points[taken].to(**to), condition.motion.pictures[taken].to(**to)
    else:
        points = torch.zeros(count, 2, network.poses.points, **to)
        pictures = torch.zeros(count, network.image_dim, **to)
    tokens = model.diffusion_model.pose_tokens(points[None], pictures[:, None])
    return torch.cat([tokens[1:], tokens[:1].expand(len(rows), -1, -1)], dim=1)


def _rows(pictures: Tensor, rows: list[int]) -> Tensor:
    """Of [1, frames, ...] these frames; one frame for all as it is."""
    return pictures if pictures.shape[1] == 1 else pictures[:, rows]


def _places_of(pictures: Tensor) -> tuple[int, int]:
    return pictures.shape[-2] // VAE_STEP, pictures.shape[-1] // VAE_STEP
