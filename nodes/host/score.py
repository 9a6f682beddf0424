"""A video's figures with the host's CLIP vision."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...i2vgen_core.media.images import check_images, clip_frame, cover
from ...i2vgen_core.media.score import Score, score

_AT_ONCE = 16
"""Frames that CLIP sees together."""


def score_video(images: Tensor, reference: Tensor | None, clip_vision: Any) -> Score:
    """The figures of a video.

    Args:
        images: [F, H, W, 3] in 0..1.
        reference: the picture that it was made of [n, H', W', 3], or None.
        clip_vision: CLIP's image encoder, or None.

    Raises:
        InputError: no video, or no picture.
    """
    if clip_vision is None:
        return score(images, reference)
    check_images(images, "the video")
    features = torch.cat([_features(clip_vision, part) for part in images.split(_AT_ONCE)])
    if reference is None:
        return score(images, features=features)
    check_images(reference, "the reference")
    picture = cover(reference[:1], images.shape[2], images.shape[1])
    return score(images, reference, features, _features(clip_vision, picture))


def _features(clip_vision: Any, images: Tensor) -> Tensor:
    """CLIP's embedding of the centre square of pictures, [n, d]."""
    seen = clip_vision.encode_image(clip_frame(images, images.shape[2], clip_vision.image_size))
    return seen["image_embeds"]
