"""Pictures that a composer's video follows, put on the conditionings."""

from __future__ import annotations

from typing import Any

import comfy.model_management
import node_helpers
import torch
from torch import Tensor

from ...i2vgen_core.config import VAE_CHANNELS, VAE_STEP
from ...i2vgen_core.errors import InputError
from ...i2vgen_core.media.guides import Guides, guide_pictures
from ...i2vgen_core.memory import check_fits, frame_bytes
from ...i2vgen_core.sampling.options import BaseOptions
from .family import GuideCondition
from .models import CONDITION
from .notes import write_notes


def compose(
    positive: Any, negative: Any, guides: Guides, vision: Any, *, width: int, height: int, frames: int
) -> tuple[Any, Any, dict[str, Tensor]]:
    """Both CONDITIONINGs with what a composer reads of the guides, and an empty LATENT [frames, 4, height / 8, width / 8].

    Args:
        positive, negative: CONDITIONINGs of the prompts.
        guides: what there is of them.
        vision: CLIP_VISION_OUTPUT of a picture that the video is to look like; None without.
        width, height: of the video in pixels, multiples of 8.
        frames: of the video.

    Raises:
        InputError: a guide that cannot be, a size out of range, or memory has no room for the pictures.
    """
    BaseOptions(width=width, height=height, frames=frames).check()
    there = comfy.model_management.get_total_memory(torch.device("cpu"))
    check_fits(frames, height, width, 4 * frame_bytes(frames, height, width), there)
    if vision is not None and getattr(vision, "image_embeds", None) is None:
        remedy = "Wire in that of stock CLIP Vision Encode, with crop at none."
        raise InputError("clip_vision_output", "one with an image embedding", type(vision).__name__, remedy)
    pictures, notes = guide_pictures(guides, width, height, frames)
    write_notes(notes, warn=False)
    condition = GuideCondition(frames, {name: each.cpu() for name, each in pictures.items()}, vision is not None)
    positive, negative = (
        node_helpers.conditioning_set_values(side, {CONDITION: condition}) for side in (positive, negative)
    )
    if vision is not None:
        seen = {"clip_vision_output": vision, "strength": 1.0, "noise_augmentation": 0.0}
        positive = node_helpers.conditioning_set_values(positive, {"unclip_conditioning": [seen]})
    shape = frames, VAE_CHANNELS, height // VAE_STEP, width // VAE_STEP
    return positive, negative, {"samples": torch.zeros(shape, device=comfy.model_management.intermediate_device())}
