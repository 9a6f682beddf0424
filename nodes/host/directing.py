"""What of a video is given before it is sampled, on the host's MODEL and LATENT."""

from __future__ import annotations

from typing import Any

import comfy.utils
import torch
from torch import Tensor

from ...i2vgen_core.config import VAE_STEP
from ...i2vgen_core.directing import with_last
from ...i2vgen_core.media.images import check_images, check_size, video_frame
from ...i2vgen_core.sampling.held import Held, free_at
from .inputs import check_there, noise_mask, video_latent


def end_in(model: Any, vae: Any, latent: Any, image: Tensor, until: float) -> tuple[Any, dict[str, Any]]:
    """A MODEL that reads noise masks by signal, and a LATENT whose last frame is a picture.

    Args:
        model: a base's MODEL.
        vae: the base's VAE.
        latent: LATENT of the video; a noise mask on it stays.
        image: the picture [n, H, W, 3] in 0..1; the first one is taken.
        until: see core's with_last.

    Raises:
        InputError: a part is missing, or a latent or picture that cannot be.
    """
    check_there("vae", vae, "Load VAE")
    check_images(image, "the last image")
    samples, mask = video_latent(latent), noise_mask(latent)
    height, width = (VAE_STEP * side for side in samples.shape[-2:])
    check_size(width, height)
    if mask is not None:
        mask = comfy.utils.repeat_to_batch_size(mask.reshape(-1, *mask.shape[-2:]), len(samples))
    held = with_last(Held(samples, mask), vae.encode(video_frame(image[:1], width, height)), until)
    assert held.mask is not None
    return by_signal(model), {**latent, "samples": held.latent, "noise_mask": held.mask[:, None]}


def by_signal(model: Any) -> Any:
    """A MODEL under which a noise mask says how long a place is held, see core's Held; with any sampler."""
    model = model.clone()

    def free(sigma: Tensor, denoise_mask: Tensor, extra_options: dict[str, Any]) -> Tensor:
        return free_at(denoise_mask, float(1 / torch.sqrt(sigma[0] ** 2 + 1)))

    model.set_model_denoise_mask_function(free)
    return model
