"""Weights that a file holds as a quantised tensor and a scale, which have to be multiplied before they are used."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress

import torch
from torch import Tensor

from ..errors import CheckpointError
from .check import named

_SCALES = ("weight_scale", "scale_weight")
"""Last words of the scales' names: ComfyUI's and diffusers' of today, and ComfyUI's older one."""
_BESIDE = ("input_scale", "scale_input", "comfy_quant")
"""What else lies beside such a weight: the activations' scale, of which weights know nothing, and the format's name."""
_MARKER = "scaled_fp8"
_QUANTISED = {torch.float8_e4m3fn, torch.float8_e5m2, torch.int8}
_REMEDY = "Use a file in fp16 or bf16, or one with a scale for each weight or for each of its rows."


def is_scaled(state: Mapping[str, Tensor]) -> bool:
    """Whether weights among these are to be multiplied by scales."""
    return any(_last(key) in (*_SCALES, _MARKER) or _is_other_scale(key, state) for key in state)


def unscaled(state: dict[str, Tensor], what: str) -> dict[str, Tensor]:
    """Each weight that has a scale times it, in float16; other tensors as they are.

    A scale is one number, or one for each row (`weight_scale` or `scale_weight` beside the `weight`; the formats of
    ComfyUI's and diffusers' scaled fp8, and of int8).

    Args:
        state: tensors by name.
        what: the network, for people.

    Raises:
        CheckpointError: scales in blocks, weights of 4 bits, a scale without its weight, or such a weight without its scale.
    """
    if not is_scaled(state):
        return state
    scales = {_beside(key, "weight"): value for key, value in state.items() if _last(key) in _SCALES}
    rest = {key: value for key, value in state.items() if _last(key) not in (*_SCALES, *_BESIDE, _MARKER)}
    for problem, keys in {
        "scales of another kind": [key for key in rest if _is_other_scale(key, state)],
        "scales without their weight": [key for key in scales if key not in rest],
        "weights without their scale": [
            key for key, value in rest.items() if value.dtype in _QUANTISED and value.ndim > 1 and key not in scales
        ],
    }.items():
        if keys:
            found = f"{len(keys)} {problem} ({', '.join(map(named, keys[:3]))}{', ...' if len(keys) > 3 else ''})"
            raise CheckpointError(what, "scaled fp8 with a scale beside each weight", found, _REMEDY)
    return {key: _product(key, value, scales[key]) if key in scales else value for key, value in rest.items()}


def _last(key: str) -> str:
    return key.rpartition(".")[2]


def _beside(key: str, name: str) -> str:
    """The name of a tensor of the same module."""
    return f"{key.rpartition('.')[0]}.{name}"


def _is_other_scale(key: str, state: Mapping[str, Tensor]) -> bool:
    """Whether it is a scale of a quantised weight by a name that is not known here (in blocks, for example)."""
    if "scale" not in (last := _last(key)) or last in (*_SCALES, *_BESIDE, _MARKER):
        return False
    weight = state.get(_beside(key, "weight"))
    return weight is not None and weight.dtype in _QUANTISED


def _product(key: str, weight: Tensor, scale: Tensor) -> Tensor:
    rows = [len(weight), *[1] * (weight.ndim - 1)] if weight.ndim else []
    factor = None
    if scale.is_floating_point() and (weight.is_floating_point() or weight.dtype in _QUANTISED):
        with suppress(RuntimeError):  # of another number of values
            factor = scale.float().reshape([] if scale.numel() == 1 else rows)
    if factor is None:
        found = f"{weight.dtype} {list(weight.shape)} with a scale {list(scale.shape)}"
        raise CheckpointError(f"weight {named(key)}", "fp8 with one scale, or one for each row", found, _REMEDY)
    return (weight.float() * factor).to(torch.float16)
