"""The strict comparison that every load goes through, before any library or host sees the tensors."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from ..errors import CheckpointError, InputError
from ..memory import is_out_of_memory

Module = TypeVar("Module")

_NAMED = 3
_EIGHT_BIT = {torch.float8_e4m3fn: 0x7F, torch.float8_e5m2: 0x7C}
"""Types of 8 bits, and the bits that infinities and what is no number have set (OCP OFP8, section 5)."""
_FLOATS = {torch.float64, torch.float32, torch.float16, torch.bfloat16, *_EIGHT_BIT}
_REMEDY = "The file is damaged or of another model: use the released one."


def check_tensors(state: Mapping[str, Tensor], expected: Mapping[str, Tensor], what: str) -> None:
    """Raises CheckpointError unless names and shapes are exactly the expected ones, and values are finite numbers.

    Args:
        state: what was read. Tensors on meta have no values to look at.
        expected: tensors of the right names and shapes, on meta for example.
        what: the part, for people.
    """
    shapes = {key: list(value.shape) for key, value in expected.items()}
    known = {key: value for key, value in state.items() if key in shapes}
    _refuse(
        what,
        f"{len(shapes)} tensors",
        {
            "missing": [key for key in shapes if key not in state],
            "unknown": [named(key) for key in state if key not in shapes],
            "of a wrong shape": [
                f"{key} {list(value.shape)} instead of {shapes[key]}"
                for key, value in known.items()
                if list(value.shape) != shapes[key]
            ],
            "of a wrong type": [f"{key} {value.dtype}" for key, value in known.items() if value.dtype not in _FLOATS],
        },
    )
    _refuse(what, "finite weights", {"not finite": [key for key, value in known.items() if not is_finite(value)]})


def is_finite(value: Tensor) -> bool:
    """Whether no value is infinite or no number. A pass over the tensor that makes no other of its size."""
    if value.is_meta or not value.numel():
        return True
    if value.dtype in _EIGHT_BIT:
        mask = _EIGHT_BIT[value.dtype]
        parts = value.reshape(-1).view(torch.uint8).split(2**20)
        return all(int(part.bitwise_and(mask).amax()) < mask for part in parts)
    return all(math.isfinite(bound.item()) for bound in value.aminmax())


def check_memory(path: Path, error: Exception) -> None:
    """Raises InputError, with the real cause, where a file could not be read for lack of memory."""
    if is_out_of_memory(error):
        size = f"{path.stat().st_size / 1e9:.1f} GB of {named(path.name)}"
        remedy = "The file is not at fault: close other programs, or use a smaller one, in fp16 or fp8."
        raise InputError(
            "memory", f"room for the {size}", f"none ({named(str(error)) or 'out of memory'})", remedy
        ) from error


def of_sizes(what: str, build: Callable[[], Module]) -> Module:
    """What `build` makes on meta, of sizes read from a file.

    Raises:
        CheckpointError: such sizes cannot be, as torch, transformers and diffusers say by ValueError, RuntimeError and
            ArithmeticError. Any other error is a fault of the code, not of the file.
    """
    try:
        with torch.device("meta"):
            return build()
    except (ValueError, RuntimeError, ArithmeticError) as error:
        raise CheckpointError(what, "sizes that fit together", named(str(error)), _REMEDY) from error


def named(text: str) -> str:
    """Text of a file as a message shows it: short, and without control characters."""
    return (text if text.isprintable() else repr(text))[:120]


def _refuse(what: str, expected: str, problems: Mapping[str, list[str]]) -> None:
    found = "; ".join(
        f"{len(keys)} {name} ({', '.join(keys[:_NAMED])}{', ...' if len(keys) > _NAMED else ''})"
        for name, keys in problems.items()
        if keys
    )
    if found:
        raise CheckpointError(what, expected, found, _REMEDY)
