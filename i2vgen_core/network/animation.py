"""What an animator reads of a person's picture and of poses, made once a video and before sampling (UniAnimate, arXiv
2406.01188; Animate-X, arXiv 2410.10306)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..config import Stem
from ..errors import InputError
from .evaluation import Prepared
from .unet import UNet


@dataclass(frozen=True)
class Motion:
    """How a driving video's body moves, as Animate-X reads it beside the pose pictures.

    Args:
        points: [frames + 1, 2, 18], x's and then y's as shares of the picture's sides, -1 where missing; the reference's
            first.
        pictures: CLIP embeddings [frames + 1, image_dim] of the driving video's frames; the reference's first.
    """

    points: Tensor
    pictures: Tensor


@dataclass(frozen=True)
class Person:
    """Who is animated, and how.

    Args:
        text: tokens of the empty prompt [1, 77, context_dim]; there is no other.
        image: CLIP embedding [1, 1, image_dim] of the person's picture.
        poses: pose pictures [frames, 3, H, W] in 0..1, at the video's size.
        reference: the picture's scaled latent [1, 4, h, w], for a frame of its own in front of the video.
        reference_pose: its pose picture [3, H, W] in 0..1, which the reference needs.
        first_frame: the picture itself [3, H, W] in 0..1, where the video is to begin with it.
        motion: for a network that reads body points.
    """

    text: Tensor
    image: Tensor
    poses: Tensor
    reference: Tensor | None = None
    reference_pose: Tensor | None = None
    first_frame: Tensor | None = None
    motion: Motion | None = None


def animation_conditions(
    network: UNet, person: Person, windows: Sequence[range], height: int, width: int
) -> list[list[Prepared]]:
    """Conditions of each window of a video: what the network reads with the person and without, as guidance weighs them.

    Without, everything falls together: the image's tokens are zeros themselves, not the projection of zeros, there are zeros
    beside the noise, and in the frame in front.

    Args:
        network: an animator.
        person: see Person.
        windows: see sampling.windows.window_ranges.
        height, width: of the latent.

    Raises:
        InputError: a reference without its pose, or body points that are missing or not read.
    """
    config = network.config
    if (person.reference is None) != (person.reference_pose is None):
        remedy = "Give both, or the picture as first frame."
        raise InputError("reference", "a latent with its pose picture", "one of the two", remedy)
    if (person.motion is None) != (config.poses is None):
        expected, found = ("body points", "none") if config.poses else ("no body points", "some")
        raise InputError("motion", f"{expected}, for {config.kind}", found, "Give what this network reads.")

    tokens = network.pre_image_condition(person.image)
    seen = network.prepare(torch.cat([person.text, tokens], dim=1))
    unseen = network.prepare(torch.cat([person.text, torch.zeros_like(tokens)], dim=1))
    in_front = person.poses.new_zeros(1, config.input_channels, height, width)
    unseen = replace(unseen, in_front=in_front)
    if person.reference is not None and person.reference_pose is not None:
        in_front = network.stems.in_front(person.reference, person.reference_pose[None])
    made = []
    for window in windows:
        pictures: dict[Stem, Tensor] = {"pose": person.poses[window.start : window.stop][None]}
        if person.first_frame is not None:
            pictures["local_image"] = person.first_frame[None, None]
        details = network.stems.beside_noise(pictures, len(window), height, width)
        assert details is not None
        positive = replace(seen, details=details, in_front=in_front)
        negative = replace(unseen, details=torch.zeros_like(details))
        if person.motion is not None:
            rows = [0, *(frame + 1 for frame in window)]
            points, embeddings = person.motion.points[rows][None], person.motion.pictures[rows][:, None]
            positive = replace(positive, poses=network.prepare_poses(points, embeddings))
            nothing = network.prepare_poses(torch.zeros_like(points), torch.zeros_like(embeddings))
            negative = replace(negative, poses=nothing)
        made.append([positive, negative])
    return made
