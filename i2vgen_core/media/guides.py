"""Pictures that guide a composer or an animator, brought to the form that the networks were trained on.

Both stretch a picture to the video's size, with Pillow's bilinear filter on 8 bits, and do not keep its proportions (VGen and
UniAnimate, utils/transforms.py: Resize).
"""

from __future__ import annotations

import kornia
import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional

from ..errors import InputError
from .images import CLIP_MEAN, CLIP_STD, check_images


def stretched(images: Tensor, width: int, height: int) -> Tensor:
    """Images [N, H, W, 3] in 0..1 to [N, height, width, 3] float32, in steps of 1/255, whatever their proportions.

    Raises:
        InputError: images is not such a tensor.
    """
    check_images(images)
    levels = (images.float().clamp(0, 1) * 255).round().byte().cpu()  # torch's filter of bytes is Pillow's, to the bit
    planes = rearrange(levels, "n h w c -> n c h w")
    planes = functional.interpolate(planes, (height, width), mode="bilinear", align_corners=False, antialias=True)
    return rearrange(planes, "n c h w -> n h w c").to(images.device).float() / 255


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
