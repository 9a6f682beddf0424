"""The types of weights, and what a video needs of a machine's memory: estimated before anything of its size is made."""

from __future__ import annotations

import errno
import math

import psutil
import torch
from torch import Tensor, nn

from .config import UNetConfig
from .errors import InputError, check_choice

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
"""Types of weights by the names that the command line has for them."""

_PEAK_IN_FEATURES = 12
"""Live activations of an evaluation at their peak, in units of the first level's features (benchmarks: activations)."""

_FRAME_VALUES = 3 * 128
"""Values for each pixel that an encoder like Stable Diffusion's holds at once: three times its first level's channels."""


def dtype_of(dtype: torch.dtype | str) -> torch.dtype:
    """A type of weights, given as such or by its name: DTYPES' or torch's. Raises InputError for another."""
    named = DTYPES | {str(each).removeprefix("torch."): each for each in DTYPES.values()}
    if isinstance(dtype, str):
        check_choice("dtype", dtype, named)
        return named[dtype]
    check_choice("dtype", str(dtype).removeprefix("torch."), named)
    return dtype


def even_part(number: int, most: int) -> int:
    """How many of `number` things go into each of the fewest like parts that have `most`, or one where that is less."""
    return math.ceil(number / math.ceil(number / max(1, most)))


def evaluation_bytes(network: UNetConfig, frames: int, height: int, width: int, value_bytes: int) -> int:
    """Bytes of the live activations of one evaluation of a network, under one condition.

    Args:
        network: its sizes.
        frames, height, width: of the latent.
        value_bytes: of one number.
    """
    frames += network.reads_reference  # the frame in front
    return _PEAK_IN_FEATURES * frames * height * width * network.model_channels * value_bytes


def encoding_bytes(height: int, width: int, value_bytes: int) -> int:
    """Bytes that the VAE's encoder has live over one frame of height x width pixels."""
    return _FRAME_VALUES * height * width * value_bytes


def latent_bytes(frames: int, height: int, width: int) -> int:
    """Bytes of the latent of a video of height x width pixels in float32."""
    return frames * height * width // 4


def frame_bytes(frames: int, height: int, width: int) -> int:
    """Bytes of a video's images [frames, height, width, 3] in float32."""
    return 12 * frames * height * width


def machine_bytes(device: torch.device | str) -> int:
    """All the memory that a device has, in use or not: a GPU's own, else the machine's."""
    device = torch.device(device)
    return torch.cuda.mem_get_info(device)[1] if device.type == "cuda" else psutil.virtual_memory().total


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the memory of the machine or of a device has run out, as Python, torch, safetensors and the system tell it."""
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    words = str(error).lower()
    said = ("out of memory", "allocate memory", "not enough memory")
    return isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError)) or any(each in words for each in said)


def like_weights(tensor: Tensor, network: nn.Module) -> Tensor:
    """A tensor on the device and in the type of a network's weights."""
    weight = next(network.parameters())
    return tensor.to(device=weight.device, dtype=weight.dtype)


def usable_device(device: torch.device | str) -> torch.device:
    """A device that torch can work on here.

    Raises:
        InputError: one that it cannot, with the names of those that are there.
    """
    try:
        torch.zeros(1, device=device).item()
        return torch.device(device)
    # RuntimeError, AssertionError, ImportError and others, by the device and torch's version
    except Exception as error:
        if is_out_of_memory(error):
            raise
        here = _devices()
        remedy = "Choose one of them." if len(here) > 1 else "Choose cpu, or install a torch for your graphics card."
        raise InputError("device", " or ".join(here), repr(str(device))[:80], remedy) from error


def _devices() -> list[str]:
    """Names of the devices that this torch finds on this machine."""
    found = ["cpu"]
    for kind, backend in {"cuda": torch.cuda, "xpu": torch.xpu, "mps": torch.backends.mps}.items():
        if backend.is_available():
            count = backend.device_count() if hasattr(backend, "device_count") else 1
            found += [kind] if count == 1 else [f"{kind}:{number}" for number in range(count)]
    return found


def check_fits(frames: int, height: int, width: int, needed: int, there: int) -> None:
    """Raises InputError for a video that needs more memory than the machine has.

    Args:
        frames, height, width: of the video in pixels, for the message.
        needed, there: in bytes.
    """
    if needed > there:
        expected = f"one that fits into the {there / 2**30:.1f} GiB of memory of this machine"
        found = f"{frames} x {width}x{height} pixels, which take about {needed / 2**30:.1f} GiB"
        raise InputError("the video", expected, found, "Use a smaller width and height, or fewer frames.")
