"""What the loader blocks give: the parts of a cascade by the names of their files and folders."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from comfy.model_management import throw_exception_if_processing_interrupted

from ...i2vgen_core import assets
from ...i2vgen_core.checkpoints.load import open_base, open_refiner
from ...i2vgen_core.config import COMPOSERS, REFINERS, Kind
from ...i2vgen_core.errors import InputError
from . import encoders, folders
from .models import GlobalEncoderSocket, build_model, cascade_model
from .notes import write_notes

_KNOWS = "knows moving shapes alone, at 128x64; for photos choose the released files"


SAID: tuple[Kind, ...] = (*COMPOSERS, "text2video")
"""Kinds of first stages that tensors cannot tell: somebody has to say them."""


def found(find: Callable[[], object]) -> bool | str:
    """A loader's answer to the host's check before a run: True, or the sentence on what `find` does not find."""
    try:
        find()
    except InputError as error:
        return str(error)
    return True


def load_bundle(name: str, weight_dtype: str) -> tuple[Any, GlobalEncoderSocket, Any, Any, Any]:
    """MODEL, global encoder, CLIP, CLIP_VISION and VAE of a bundle. A cancel ends it between two.

    Args:
        name: one of folders.bundles().
        weight_dtype: one of models.WEIGHT_DTYPES.

    Raises:
        InputError: there is no such bundle, or a part of it is missing or cannot be read.
    """
    bundle = folders.bundle(name)
    if name == assets.NAME:
        write_notes([_KNOWS], warn=False)
    checkpoint = open_base(bundle.unet)
    parts: list[Any] = []
    for load in (
        partial(build_model, checkpoint, bundle.unet, weight_dtype),
        partial(GlobalEncoderSocket, checkpoint, built_in=name == assets.NAME),
        partial(encoders.load_clip, bundle.text_encoder),
        partial(encoders.load_clip_vision, bundle.image_encoder),
        partial(encoders.load_native_vae, bundle.vae),
    ):
        throw_exception_if_processing_interrupted()
        parts.append(load())
    model, global_encoder, clip, clip_vision, vae = parts
    return model, global_encoder, clip, encoders.made_for(clip_vision, checkpoint.release.width), vae


def load_base(name: str, weight_dtype: str, detail_gain: str, kind: str) -> tuple[Any, GlobalEncoderSocket]:
    """MODEL and global encoder of a base.

    Args:
        name: one of folders.bases().
        weight_dtype: one of models.WEIGHT_DTYPES.
        detail_gain: `once` for weights that were trained to add the image's details once, else `official`.
        kind: one of SAID; anything else leaves it to the file.

    Raises:
        InputError: there is no such file, or it is no base.
    """
    path = folders.base(name)
    said = next((each for each in SAID if each == kind), None)
    checkpoint = open_base(path, "once" if detail_gain == "once" else "official", said)
    model = build_model(checkpoint, path, weight_dtype)
    return model, GlobalEncoderSocket(checkpoint, built_in=name == assets.NAME)


def load_refiner(name: str, variant: str, weight_dtype: str, base: Any = None) -> Any:
    """MODEL of a refiner.

    Args:
        name: one of folders.refiners().
        variant: a kind of REFINERS; anything else leaves it to the file.
        weight_dtype: one of models.WEIGHT_DTYPES.
        base: MODEL of the base that it goes with, where the name says so.

    Raises:
        InputError: there is no such file, or it is no refiner.
    """
    if name == folders.WITH_BASE and base is None:
        remedy = "Wire the MODEL of the Cascade Loader into `base`, or choose a refiner by its name."
        raise InputError("refiner", "a base that it goes with", "none", remedy)
    path = folders.refiner(name, None if base is None else cascade_model(base).model.source)
    checkpoint = open_refiner(path, next((kind for kind in REFINERS if kind == variant), None))
    return build_model(checkpoint, path, weight_dtype)
