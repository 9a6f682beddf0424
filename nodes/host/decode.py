"""Latents to frames, a few at a time, with fewer where memory runs out."""

from __future__ import annotations

import logging
from copy import copy
from typing import Any

import comfy.model_management
import comfy.sd
import torch
from comfy.ldm.modules.temporal_ae import VideoDecoder
from comfy.utils import ProgressBar
from torch import Tensor

from ...i2vgen_core.config import VAE_CHANNELS
from ...i2vgen_core.errors import InputError, check_finite, check_range
from ...i2vgen_core.media.tiles import GROUP, GROUP_OVERLAP, sliding_windows
from ...i2vgen_core.memory import check_fits, frame_bytes
from .hints import finished
from .inputs import check_there, video_latent

logger = logging.getLogger("i2vgen_xl")

MOST_FRAMES = 4096
"""Frames of a batch, at most."""

_SCALE = 8  # pixels of a latent's place


def decode_video(vae: Any, latent: Any, frames_per_batch: int) -> Tensor:
    """Frames [F, 8h, 8w, 3] in 0..1 of a LATENT [F, 4, h, w]. A cancel ends it after a batch.

    Args:
        vae: a VAE. One that mixes the frames that it decodes together, Stable Video Diffusion's, has them in groups that
            overlap and are blended, so that none ends in a seam: of GROUP frames where no number is said.
        latent: a LATENT.
        frames_per_batch: decoded at once; at most MOST_FRAMES; 0: as many as fit into free memory.

    Raises:
        InputError: no such VAE or latent, values that are not finite, or frames that do not fit into memory.
    """
    check_range("frames_per_batch", frames_per_batch, 0, MOST_FRAMES)
    check_there("vae", vae, "Load VAE")
    samples = video_latent(latent)
    channels = getattr(vae, "latent_channels", VAE_CHANNELS)
    if channels != VAE_CHANNELS:
        remedy = "Use the VAE of Stable Diffusion 2.1 (or 1.5)."
        raise InputError("VAE", f"one of {VAE_CHANNELS} latent channels", f"{channels}", remedy)
    frames, _, height, width = samples.shape
    height, width = _SCALE * height, _SCALE * width
    there = comfy.model_management.get_total_memory(comfy.model_management.intermediate_device())
    check_fits(frames, height, width, frame_bytes(frames, height, width), there)
    check_finite("latent", samples, "Look at the sampler that it comes from: something failed there.")
    groups = _groups(vae, samples, frames_per_batch)
    progress = ProgressBar(len(groups))
    images: list[Tensor] = []
    done = 0
    for group in groups:
        comfy.model_management.throw_exception_if_processing_interrupted()
        made = _decode(vae, samples[group.start : group.stop])
        if shared := done - group.start:
            later = (torch.arange(shared) / shared).view(-1, 1, 1, 1).to(made[0])
            whole, before = torch.cat(made), images[-1][-shared:]
            before.copy_((1 - later) * before + later * whole[:shared])
            made = [whole[shared:]]
        images += made
        done = group.stop
        progress.update(1)
    decoded = images[0] if len(images) == 1 else torch.cat(images)
    check_finite("the decoded frames", decoded, "Start ComfyUI with --fp32-vae, or use another VAE.")
    return finished(decoded, latent)


def _groups(vae: Any, latent: Tensor, frames_per_batch: int) -> list[range]:
    """The frames that are decoded together."""
    frames = len(latent)
    if isinstance(getattr(getattr(vae, "first_stage_model", None), "decoder", None), VideoDecoder):
        size = frames_per_batch or GROUP
        return sliding_windows(frames, size, min(GROUP_OVERLAP, size // 2), max(size, round(1.33 * size)))
    size = frames_per_batch or _frames_at_once(vae, latent)
    return [range(start, min(start + size, frames)) for start in range(0, frames, size)]


def _frames_at_once(vae: Any, latent: Tensor) -> int:
    """How many frames of a latent the host would decode at once in what memory is free."""
    if not isinstance(vae, comfy.sd.VAE):
        return len(latent)
    needed = vae.memory_used_decode(latent.shape, vae.vae_dtype)
    return max(1, int(comfy.model_management.get_free_memory(vae.device) / needed))


def _decode(vae: Any, latent: Tensor) -> list[Tensor]:
    """Frames of a latent. Where memory runs out with several at once they go one by one, which gives the same; for one
    frame the host goes on in tiles, which differ a little, or says that there is too little."""
    if len(latent) > 1 and isinstance(vae, comfy.sd.VAE):
        untiled = copy(vae)
        untiled.decode_tiled_ = _give_up
        try:
            return [untiled.decode(latent)]
        except _OutOfMemoryError:
            logger.warning("memory ran out while %d frames were decoded at once: they go one by one", len(latent))
        return [vae.decode(frame) for frame in latent.split(1)]
    return [vae.decode(latent)]


class _OutOfMemoryError(Exception):
    """In place of the host's tiles."""


def _give_up(*_: Any, **__: Any) -> Tensor:
    raise _OutOfMemoryError
