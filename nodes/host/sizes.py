"""Sizes of videos by name, a model's own among them."""

from __future__ import annotations

from typing import Any

from ...i2vgen_core.errors import InputError, check_choice
from ...i2vgen_core.media.images import FRAME_SIZES
from .models import cascade_model

OWN = "the model's own"
"""Name of the size that a network was trained at."""


def size_of(name: str, model: Any = None) -> tuple[int, int]:
    """Width and height in pixels.

    Args:
        name: one of FRAME_SIZES, or OWN.
        model: a MODEL of this pack, for OWN.

    Raises:
        InputError: another name, or OWN without a model.
    """
    check_choice("size", name, [*FRAME_SIZES, OWN])
    if name != OWN:
        return FRAME_SIZES[name]
    if model is None:
        remedy = "Wire a loader's MODEL into Size, or choose a size by its numbers."
        raise InputError("size", "a model whose own size is meant", "none", remedy)
    release = cascade_model(model).model.release
    return release.width, release.height
