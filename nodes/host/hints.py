"""A video made ready for a refiner with a control branch: its latent, and the hint on both conditionings."""

from __future__ import annotations

from typing import Any

import comfy.model_management
import node_helpers
import torch
from comfy.utils import ProgressBar
from torch import Tensor

from ...i2vgen_core.config import VAE_CHANNELS, VAE_SCALE, VAE_STEP
from ...i2vgen_core.errors import InputError, check_finite
from ...i2vgen_core.media.colour import match_statistics
from ...i2vgen_core.media.enlarge import Canvas, enlarged, enlarged_size, held, padded, padding_of, without_padding
from ...i2vgen_core.media.images import check_images
from ...i2vgen_core.sampling.options import RefineOptions
from ...i2vgen_core.sampling.stages import RefineStage
from .inputs import check_conditioning, check_there
from .models import HINT, HintCondition, network_of

CANVAS = "i2vgen_xl_canvas"
"""Key of a LATENT's Canvas: what is to be done with the frames that it is decoded to."""


def prepare_refinement(
    model: Any, positive: Any, negative: Any, vae: Any, images: Tensor, options: RefineOptions
) -> tuple[Any, Any, dict[str, Any]]:
    """Both CONDITIONINGs with the hint, and the LATENT of the video, enlarged, its frames held, and padded as released.

    Args:
        model: MODEL of a refiner with a control branch (STAR, VEnhancer).
        positive, negative: CONDITIONINGs of the prompts.
        vae: a VAE of 4 latent channels.
        images: [F, H, W, 3] in 0..1.
        options: enlarging, inserted, noise_aug, scale_told, window, joining and seed are read.

    Raises:
        InputError: another model, or a setting, video or VAE that cannot be.
    """
    network = network_of(model)
    if network is None or network.control is None:
        remedy = "Wire the Refiner Loader's MODEL of one of them into it; other refiners take a video from VAE Encode."
        found = "another model" if network is None else f"a network of kind {network.kind}"
        raise InputError("model", "a STAR or VEnhancer refiner", found, remedy)
    check_conditioning("positive", positive)
    check_conditioning("negative", negative)
    check_there("vae", vae, "Load VAE")
    check_images(images, "the video")
    release = model.model.release
    stage = RefineStage(options, release, model.model.schedule)
    settings = stage.settings
    height, width = images.shape[1:3]
    height, width = enlarged_size(height, width, settings.enlarging, settings.fewest_pixels, settings.most_pixels)
    padding = padding_of(height, width, (release.height, release.width))
    latents = []
    progress = ProgressBar(len(images))
    for image in images.split(1):
        comfy.model_management.throw_exception_if_processing_interrupted()
        latents.append(_encoded(vae, padded(enlarged(image, height, width), padding)))
        progress.update(1)
    latent = held(torch.cat(latents), settings.inserted)
    hint = stage.hint(network.control, latent * VAE_SCALE)
    assert hint.latent is not None
    keys = torch.arange(len(latent)) if hint.keys is None else hint.keys[0]
    there = (keys >= 0).to(latent)[:, None, None, None]
    of_frames = hint.latent[keys.clamp(min=0)] * there
    condition = HintCondition(
        torch.cat([of_frames, there.expand(-1, 1, *latent.shape[2:])], dim=1),
        level=settings.noise_aug - 1,
        scale=settings.scale_told,
        window=settings.window,
        joining=settings.joining,
        inserted=settings.inserted,
    )
    positive, negative = (
        node_helpers.conditioning_set_values(each, {HINT: condition}) for each in (positive, negative)
    )
    originals = None if settings.noise_aug else images
    return positive, negative, {"samples": latent, CANVAS: Canvas(padding, originals)}


def _encoded(vae: Any, image: Tensor) -> Tensor:
    """One frame [1, H, W, 3] to an unscaled latent [1, 4, H/8, W/8]."""
    latent = vae.encode(image[..., :3]).float().cpu()
    expected = (1, VAE_CHANNELS, image.shape[1] // VAE_STEP, image.shape[2] // VAE_STEP)
    if tuple(latent.shape) != expected:
        remedy = "Use the VAE of Stable Diffusion 2.1, or that of Stable Video Diffusion."
        raise InputError("VAE", f"one that gives latents of {list(expected)}", f"{list(latent.shape)}", remedy)
    check_finite("the video's latent", latent, "Start ComfyUI with --fp32-vae, or use another VAE.")
    return latent


def finished(frames: Tensor, latent: dict[str, Any]) -> Tensor:
    """Decoded frames [F, H, W, 3] without what was put around the video, in its originals' colours; as they are where the
    latent says nothing, or was cut since."""
    canvas: Canvas | None = latent.get(CANVAS)
    if canvas is None:
        return frames
    inner = without_padding(frames, canvas.padding)
    if not inner.numel():
        return frames
    originals = canvas.originals
    if originals is None or len(originals) != len(inner):
        return inner.contiguous()
    pairs = zip(inner.split(1), originals[..., :3].split(1), strict=True)
    return torch.cat([match_statistics(frame, original.to(frame)) for frame, original in pairs])
