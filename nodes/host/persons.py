"""A person's picture and poses, put on the conditionings of an animator; and poses made of keypoints."""

from __future__ import annotations

from typing import Any

import node_helpers
import torch
from einops import rearrange
from torch import Tensor

from ...i2vgen_core.errors import InputError
from ...i2vgen_core.media.guides import pose_frames, stretched
from ...i2vgen_core.media.images import check_images
from ...i2vgen_core.network.animation import Motion
from ...i2vgen_core.poses.alignment import align
from ...i2vgen_core.poses.drawing import draw
from ...i2vgen_core.poses.keypoints import poses_of_frames
from ...i2vgen_core.sampling.options import AnimateOptions
from .family import PersonCondition
from .image_conditioning import check_encoding_fits, encoded_frame
from .inputs import check_there
from .models import CONDITION
from .notes import write_notes
from .prompts import encode_prompts

MODES = ("reference", "first frame", "both")
"""How the person's picture reaches the network: as a frame of its own in front, as the video's first one, or both."""


def aligned_poses(keypoints: Any, reference: Any, aligns: bool) -> Tensor:
    """Pictures of poses [frames + 1, 768, 512, 3] as the animators were trained on them, the reference's first.

    Args:
        keypoints: POSE_KEYPOINT of the driving video.
        reference: that of the person's picture.
        aligns: whether the poses get the person's build and place.

    Raises:
        InputError: see poses_of_frames and align.
    """
    driving, person = poses_of_frames(keypoints, "keypoints"), poses_of_frames(reference, "reference")[:1]
    notes: list[str] = []
    if aligns:
        driving, kept = align(driving, person)
        if kept:
            notes.append(f"not seen in both, and so of the driving person's own length: {', '.join(kept)}")
    empty = [str(number) for number, somebody in enumerate(driving.somebody) if not somebody]
    if empty:
        notes.append(f"nobody in pictures {', '.join(empty[:20])}, counted from 0: they stay black")
    write_notes(notes)
    return torch.cat([draw(person), draw(driving)])


def animate(
    clip: Any,
    clip_vision: Any,
    vae: Any,
    image: Tensor,
    poses: Tensor,
    *,
    width: int,
    height: int,
    frames: int,
    interval: int,
    mode: str,
    swaps: bool,
    driving: Tensor | None = None,
    keypoints: Any = None,
) -> tuple[Any, Any, dict[str, Tensor]]:
    """Both CONDITIONINGs of an animator, and a LATENT of the person's picture in every frame, of which the first noise keeps
    a share.

    Args:
        clip, clip_vision, vae: the encoders of the release; CLIP reads the empty prompt.
        image: of the person, [n, h, w, 3] in 0..1; the first one is taken.
        poses: pictures of poses [n + 1, h, w, 3], the reference's first.
        width, height: of the video in pixels, multiples of 8.
        frames: of the video; 0: as many as there are poses.
        interval: every so many poses one is taken.
        mode: one of MODES.
        swaps: whether poses' red and blue are to be swapped, as those of ControlNet's colours have to be.
        driving, keypoints: the driving video [n, h, w, 3] and its POSE_KEYPOINT, for Animate-X.

    Raises:
        InputError: a part is missing, a size is out of range, or a picture cannot be.
    """
    check_there("clip", clip, "Load CLIP")
    check_there("clip_vision", clip_vision, "Load CLIP Vision")
    check_there("vae", vae, "Load VAE")
    check_images(image)
    check_images(poses, "the poses")
    if len(poses) < 2:
        remedy = "Wire in Align Pose's pictures: the reference's pose, then those of the video."
        raise InputError("the poses", "two pictures or more, the reference's first", f"{len(poses)}", remedy)
    AnimateOptions(width=width, height=height, frames=frames or None).check()
    length = frames or -(-(len(poses) - 1) // interval)
    check_encoding_fits(vae, length, height, width)
    rows = pose_frames(len(poses) - 1, length, interval)
    if missing := rows.count(None):
        write_notes([f"poses: {missing} of {length} are missing at the end, and black"])

    picture = stretched(image[:1], width, height)
    latent = encoded_frame(vae, picture)
    drawn = stretched(poses[[0, *(1 + row for row in rows if row is not None)]], width, height)
    drawn = torch.cat([drawn, drawn.new_zeros(rows.count(None), *drawn.shape[1:])])
    drawn = drawn.flip(-1) if swaps else drawn
    first = rearrange(picture, "1 h w c -> c h w").cpu() if mode in ("first frame", "both") else None
    seen = PersonCondition(
        length,
        True,
        rearrange(drawn, "f h w c -> f c h w").cpu(),
        None if mode == "first frame" else latent,
        first,
        _motion(clip_vision, image, driving, keypoints, rows),
    )
    unseen = PersonCondition(length, False, seen.poses[:1])
    (text,) = encode_prompts(clip, {"prompt": ""}, [])
    vision = {"clip_vision_output": _seen(clip_vision, image[:1]), "strength": 1.0, "noise_augmentation": 0.0}
    positive, negative = (
        node_helpers.conditioning_set_values(text, {CONDITION: each, "unclip_conditioning": [vision]})
        for each in (seen, unseen)
    )
    return positive, negative, {"samples": latent.repeat(length, 1, 1, 1)}


def _motion(
    clip_vision: Any, image: Tensor, driving: Tensor | None, keypoints: Any, rows: list[int | None]
) -> Motion | None:
    """What Animate-X reads of a driving video; the reference's points are those of its first frame."""
    if driving is None and keypoints is None:
        return None
    if driving is None or keypoints is None:
        found = "keypoints alone" if driving is None else "a video alone"
        raise InputError("driving video", "a video with its keypoints", found, "Wire in both, or neither.")
    check_images(driving, "the driving video")
    poses = poses_of_frames(keypoints, "keypoints")
    there = min(len(poses), len(driving))
    taken = [0, *(row if row is not None and row < there else there - 1 for row in rows)]
    points = torch.from_numpy(poses.body[taken, :18]).float().transpose(1, 2)
    pictures = [_seen(clip_vision, driving[row : row + 1]).image_embeds[:1] for row in taken[1:]]
    return Motion(points, torch.cat([_seen(clip_vision, image[:1]).image_embeds[:1], *pictures]).float().cpu())


def _seen(clip_vision: Any, image: Tensor) -> Any:
    """CLIP_VISION_OUTPUT of a picture that is stretched to a square."""
    return clip_vision.encode_image(stretched(image, clip_vision.image_size, clip_vision.image_size))
