"""What of a video is given before it is sampled, on the host's MODEL and LATENT."""

from __future__ import annotations

from typing import Any

import comfy.utils
import torch
from torch import Tensor

from ...i2vgen_core.directing import with_last
from ...i2vgen_core.errors import InputError
from ...i2vgen_core.media.images import check_images, video_frame
from ...i2vgen_core.media.warp import boxes, camera, drag
from ...i2vgen_core.sampling.held import Held, both, clocks, free_at
from .inputs import check_there, noise_mask, video_latent, video_size
from .models import cascade_model


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
    width, height, _ = video_size(latent)
    if mask is not None:
        mask = comfy.utils.repeat_to_batch_size(mask.reshape(-1, *mask.shape[-2:]), len(samples))
    held = with_last(Held(samples, mask), vae.encode(video_frame(image[:1], width, height)), until)
    assert held.mask is not None
    return by_signal(model), {**latent, "samples": held.latent, "noise_mask": held.mask[:, None]}


def drag_parts(
    image: Tensor, latent: Any, path: Any, scale: float, rotation: float, *, mask: Tensor | None, box: Any
) -> tuple[Tensor, Tensor]:
    """A rough animation of a LATENT's size and frames, and where it is to be followed, see core's drag.

    Args:
        image: the picture [n, H, W, 3] in 0..1; the first one is taken.
        latent: LATENT of the video.
        path: see core's read_paths.
        scale, rotation: of the parts.
        mask: the parts, [H, W] or [n, H, W].
        box: in its place, BOUNDING_BOX.

    Raises:
        InputError: neither a mask nor a box, or one that cannot be.
    """
    check_images(image, "the image")
    height, width = image.shape[1:3]
    if (mask is None) == (box is None):
        found = "neither" if mask is None else "both"
        raise InputError("mask and box", "one of them", found, "Paint the part, or wire in a box around it.")
    parts = boxes(box, width, height) if mask is None else mask.reshape(-1, *mask.shape[-2:]).float().cpu()
    rough = drag(image[:1].cpu(), parts, path, *video_size(latent), scale=scale, rotation=rotation)
    return rough.frames, rough.mask


def camera_before(
    image: Tensor, latent: Any, pan: float, tilt: float, zoom: float, roll: float
) -> tuple[Tensor, Tensor]:
    """A rough animation of a LATENT's size and frames, and where it is to be followed, see core's camera.

    Args:
        image: the picture or an animation, [n, H, W, 3] in 0..1; of another number than the frames, the first one is taken.
        latent: LATENT of the video.
        pan, tilt, zoom, roll: the camera's moves.
    """
    check_images(image, "the image")
    size = video_size(latent)
    images = image if len(image) == size[2] else image[:1]
    rough = camera(images.cpu(), *size, pan=pan, tilt=tilt, zoom=zoom, roll=roll)
    return rough.frames, rough.mask


def follow_animation(
    model: Any, vae: Any, latent: Any, images: Tensor, mask: Tensor | None, weak: float, strong: float
) -> tuple[Any, dict[str, Any]]:
    """A MODEL that reads noise masks by signal, and a LATENT that holds a rough animation, see core's follow.

    Args:
        model: a base's MODEL.
        vae: the base's VAE.
        latent: LATENT of the video; what its noise mask holds longer stays.
        images: the animation [frames, H, W, 3] in 0..1.
        mask: where it is to be followed, [H, W] or [n, H, W]; everywhere if None.
        weak, strong: see core's follow; with 0 the second is the model's own.

    Raises:
        InputError: a part is missing, another number of frames, or a latent, picture or mask that cannot be.
    """
    check_there("vae", vae, "Load VAE")
    check_images(images, "the animation")
    samples, given = video_latent(latent), noise_mask(latent)
    width, height, frames = video_size(latent)
    masks = torch.ones(1, height, width) if mask is None else mask.reshape(-1, *mask.shape[-2:]).float()
    for what, found in (("the animation", len(images)), ("mask", len(masks))):
        if found != frames and (what == "the animation" or found != 1):
            raise InputError(what, f"{frames} frames", f"{found}", "Make it as long as the video.")
    strong = strong or cascade_model(model).model.release.follow_signal
    held = Held(
        vae.encode(video_frame(images, width, height)), clocks(masks, width, height, weak, strong), by_signal=True
    )
    if given is not None:
        held = both(held, Held(samples.to(held.latent), given.reshape(-1, *given.shape[-2:])))
    assert held.mask is not None
    held_mask = comfy.utils.repeat_to_batch_size(held.mask, frames)[:, None]
    return by_signal(model), {**latent, "samples": held.latent, "noise_mask": held_mask}


def by_signal(model: Any) -> Any:
    """A MODEL under which a noise mask says how long a place is held, see core's Held; with any sampler."""
    model = model.clone()

    def free(sigma: Tensor, denoise_mask: Tensor, extra_options: dict[str, Any]) -> Tensor:
        return free_at(denoise_mask, float(1 / torch.sqrt(sigma[0] ** 2 + 1)))

    model.set_model_denoise_mask_function(free)
    return model
