"""Pictures that guide a composer or an animator, brought to the form that the networks were trained on.

Both stretch a picture to the video's size, with Pillow's bilinear filter on 8 bits, and do not keep its proportions (VGen and
UniAnimate, utils/transforms.py: Resize).
"""

from __future__ import annotations

import kornia
import numpy as np
import torch
from einops import rearrange
from PIL import Image
from torch import Tensor

from ..errors import InputError
from .images import CLIP_MEAN, CLIP_STD, check_images


def stretched(images: Tensor, width: int, height: int) -> Tensor:
    """Images [N, H, W, 3] in 0..1 to [N, height, width, 3] float32, in steps of 1/255, whatever their proportions.

    Raises:
        InputError: images is not such a tensor.
    """
    check_images(images)
    levels = (images.float().clamp(0, 1) * 255).round().byte().cpu().numpy()
    made = [np.asarray(Image.fromarray(each).resize((width, height), Image.Resampling.BILINEAR)) for each in levels]
    return torch.from_numpy(np.stack(made)).to(images.device).float() / 255


def stretched_clip_pixels(images: Tensor, size: int = 224) -> Tensor:
    """What CLIP sees of images [N, H, W, 3] in 0..1: stretched to a square, with CLIP's mean and standard deviation,
    [N, 3, size, size]. A composer's picture was stretched to the video's size before; an animator's was not."""
    pixels = rearrange(stretched(images, size, size), "n h w c -> n c h w")
    return kornia.enhance.normalize(pixels, pixels.new_tensor(CLIP_MEAN), pixels.new_tensor(CLIP_STD))


def masked_video(video: Tensor, holes: Tensor) -> Tensor:
    """A video with holes as a composer reads it (VGen, inference_tft2v_vcomposer_entrance.py: make_masked_images).

    Args:
        video: [F, H, W, 3] in 0..1.
        holes: [F, H, W] or [1, H, W], 1 where the picture is to be made, 0 where it is kept.

    Returns:
        [1, F, 4, H, W]: the colours in -1..1, grey in the holes, and 1 where they are kept.

    Raises:
        InputError: not such tensors, or not of one size.
    """
    check_images(video, "the video")
    if holes.ndim != 3 or holes.shape[0] not in (1, len(video)) or holes.shape[1:] != video.shape[1:3]:
        expected = f"[{len(video)} or 1, {video.shape[1]}, {video.shape[2]}]"
        raise InputError("the mask", expected, str(list(holes.shape)), "Give a mask of the video's size.")
    kept = (1 - holes.float()).expand(len(video), -1, -1)[:, None]
    colours = rearrange(video.float(), "f h w c -> f c h w") * 2 - 1
    return torch.cat([colours * kept, kept], dim=1)[None]


def pose_frames(available: int, frames: int, interval: int = 1) -> list[int | None]:
    """Which poses of a driving video an animated video takes: every `interval`-th from the first. Where there are too few,
    the interval is what fits, at least 1; None are those still missing, which are black (UniAnimate,
    inference_unianimate_entrance.py: load_video_frames).

    Args:
        available: poses, 1 or more.
        frames: of the animated video, 1 or more.
        interval: 1 or more.
    """
    if min(available, frames, interval) < 1:
        found = f"{available} poses, {frames} frames, interval {interval}"
        raise InputError(
            "poses", "one or more poses, frames and frames to a pose", found, "Wire the poses' pictures in."
        )
    if interval * (frames - 1) + 1 > available:
        interval = max((available - 1) // max(frames - 1, 1), 1)
    return [frame if frame < available else None for frame in range(0, interval * frames, interval)]
