"""What comes in through a block's sockets, checked: other packs' blocks give what they like."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ...i2vgen_core.config import VAE_CHANNELS, VAE_STEP
from ...i2vgen_core.errors import InputError, check_finite
from ...i2vgen_core.media.images import check_size

_LATENT = "Wire the latent of this video in: the Global Encode block's, a sampler's or a VAE Encode's."


def check_there(what: str, value: Any, block: str) -> None:
    """Raises InputError for an output that is empty, as a checkpoint loader's is where the file has no such part."""
    if value is None:
        raise InputError(what, "one", "none: the file that it should come from has none", f"Wire in that of {block}.")


def video_latent(latent: Any) -> Tensor:
    """The tensor of a LATENT, [frames, 4, h, w]; its values are not looked at. Raises InputError for anything else."""
    samples = latent.get("samples") if isinstance(latent, dict) else None
    expected = f"[frames, {VAE_CHANNELS}, height / 8, width / 8]"
    if not isinstance(samples, Tensor):
        raise InputError("latent", expected, "no tensor of samples", _LATENT)
    if samples.ndim != 4 or samples.shape[1] != VAE_CHANNELS or not samples.numel():
        raise InputError("latent", expected, f"{list(samples.shape)}", _LATENT)
    if not samples.is_floating_point():
        raise InputError("latent", "floating point numbers", str(samples.dtype).removeprefix("torch."), _LATENT)
    numbers = latent.get("batch_index")
    if numbers is not None and len(numbers) != len(samples):
        remedy = "Leave the frames' numbers as the block made them that cut or joined the latent."
        raise InputError("latent", f"a number for each of {len(samples)} frames", f"{len(numbers)} of them", remedy)
    return samples


def video_size(latent: Any) -> tuple[int, int, int]:
    """Width and height in pixels, and frames, of a LATENT's video. Raises InputError for a latent or a size that cannot be."""
    frames, _, height, width = video_latent(latent).shape
    check_size(VAE_STEP * width, VAE_STEP * height)
    return VAE_STEP * width, VAE_STEP * height, frames


def noise_mask(latent: dict[str, Any]) -> Tensor | None:
    """The mask of a LATENT in 0..1, [h, w], [n, h, w] or [n, 1, h, w]; None if it has none."""
    mask = latent.get("noise_mask")
    if mask is None:
        return None
    expected, remedy = "[n, height, width] in 0..1", "Use Set Latent Noise Mask with a mask of the video's frames."
    if not isinstance(mask, Tensor):
        raise InputError("noise mask", expected, type(mask).__name__, remedy)
    if mask.ndim not in (2, 3, 4) or (mask.ndim == 4 and mask.shape[1] != 1) or not mask.numel():
        raise InputError("noise mask", expected, f"{list(mask.shape)}", remedy)
    mask = mask.float()
    check_finite("noise mask", mask, remedy)
    return mask.clamp(0, 1)


def check_conditioning(what: str, conditioning: Any) -> None:
    """Raises InputError for a CONDITIONING without an entry, which would leave the network without one."""
    if not conditioning:
        raise InputError(what, "at least one conditioning", "an empty one", "Wire a text encoding block into it.")
