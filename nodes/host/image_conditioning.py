"""The image's details, its global tokens and the video's shape, put on the conditionings of a base."""

from __future__ import annotations

from typing import Any

import comfy.model_management
import node_helpers
import torch
from torch import Tensor

from ...i2vgen_core.config import VAE_CHANNELS, VAE_STEP
from ...i2vgen_core.errors import InputError
from ...i2vgen_core.media.images import check_images, video_frame
from ...i2vgen_core.memory import check_fits, encoding_bytes, latent_bytes
from ...i2vgen_core.sampling.options import BaseOptions
from .encoders import ScaledVAE, vae_family
from .inputs import check_there
from .models import CONDITION, GlobalEncoderSocket, VideoCondition
from .notes import frame_notes, image_notes, width_notes, write_notes


def condition_on_image(
    positive: Any,
    negative: Any,
    global_encoder: GlobalEncoderSocket,
    vae: Any,
    image: Tensor,
    *,
    width: int,
    height: int,
    frames: int,
    fps: int,
) -> tuple[Any, Any, dict[str, Tensor]]:
    """Both CONDITIONINGs with what the base reads of the image, and an empty LATENT [frames, 4, height / 8, width / 8].

    Args:
        positive: CONDITIONING of the prompt.
        negative: CONDITIONING of the negative prompt; it gets the same details.
        global_encoder: of the base that will sample.
        vae: Stable Diffusion's VAE.
        image: [n, h, w, 3] in 0..1; the first one is taken.
        width: of the video in pixels, a multiple of 8; 0: what the base was released for.
        height: likewise.
        frames: of the video.
        fps: the motion's frame rate, a condition of its own; 0: what the base was released with.

    Raises:
        InputError: a part is missing or of another kind, a size is out of range, or memory has no room for it.
    """
    BaseOptions(width=width or None, height=height or None, frames=frames, fps=fps or None).check()
    check_there("global_encoder", global_encoder, "the base's loader")
    release = global_encoder.release
    width, height, rate = width or release.width, height or release.height, fps or release.fps
    check_there("vae", vae, "Load VAE")
    check_images(image)
    shape = (frames, global_encoder.config.in_channels, height // VAE_STEP, width // VAE_STEP)
    check_encoding_fits(vae, frames, height, width)
    notes = image_notes(image) + width_notes(positive, width)
    write_notes(notes + frame_notes(release, global_encoder.built_in, image, width, height))
    condition = VideoCondition(frames, rate)
    if global_encoder.reads_image:
        latent = encoded_frame(vae, video_frame(image[:1], width, height))
        condition = VideoCondition(frames, rate, latent, global_encoder.encode(latent))
    positive, negative = (
        node_helpers.conditioning_set_values(side, {CONDITION: condition}) for side in (positive, negative)
    )
    empty = torch.zeros(shape, device=comfy.model_management.intermediate_device())
    return positive, negative, {"samples": empty}


def check_encoding_fits(vae: Any, frames: int, height: int, width: int) -> None:
    """Raises InputError where memory has no room for what is made here: a frame's encoding, and the empty latent. The
    samplers check for themselves, which may run in windows."""
    device, dtype = getattr(vae, "device", None), getattr(vae, "vae_dtype", torch.float32)
    there = comfy.model_management.get_total_memory(device)
    check_fits(1, height, width, encoding_bytes(height, width, dtype.itemsize), there)
    there = comfy.model_management.get_total_memory(comfy.model_management.intermediate_device())
    check_fits(frames, height, width, latent_bytes(frames, height, width), there)


def encoded_frame(vae: Any, frame: Tensor) -> Tensor:
    """The posterior's mode, unscaled [1, 4, height / 8, width / 8], of a frame [1, height, width, 3].

    Raises:
        InputError: a VAE of another family.
    """
    latent = vae.encode(frame)
    expected = (1, VAE_CHANNELS, frame.shape[1] // VAE_STEP, frame.shape[2] // VAE_STEP)
    remedy = "Use the VAE of Stable Diffusion 2.1 (or 1.5)."
    if tuple(latent.shape) != expected:
        raise InputError("VAE", f"latents {list(expected)}", f"{list(latent.shape)}", remedy)
    if not isinstance(vae, ScaledVAE) and vae_family(latent, frame) == "sdxl":  # a small VAE's latents may look like it
        raise InputError("VAE", "one of Stable Diffusion 1 or 2", "one whose latents are SDXL's", remedy)
    return latent
