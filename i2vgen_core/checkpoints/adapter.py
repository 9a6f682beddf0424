"""A Ctrl-Adapter's file: sizes from the shapes, checked strictly, built on meta and assigned."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import CheckpointError
from ..network.adapter import AdapterSize, CtrlAdapter
from ..network.blocks import Layers
from .check import check_tensors, of_sizes
from .read import read_state_dict

HEAD_DIM = 64
"""Of the releases; shapes do not say it."""

_DOWN, _MIDDLE = "down_blocks_adapter", "mid_block_adapter"
_UNREAD = re.compile(r"_attentions\.0\.(norm2\.(weight|bias)|attn2\.to_[qk]\.weight)$")
"""Attention to a single token is that token's value, so these decide nothing."""

_REMEDY = "Download it again: hanlincs/Ctrl-Adapter, a folder i2vgenxl_* with one control, diffusion_pytorch_model.safetensors."


def is_adapter(state: Mapping[str, Tensor]) -> bool:
    """Whether the names are those of a Ctrl-Adapter."""
    return any(key.startswith(f"{_MIDDLE}.") for key in state)


def load_adapter(
    file: Path | Mapping[str, Tensor],
    head_dim: int = HEAD_DIM,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    operations: Any = nn,
) -> CtrlAdapter:
    """An adapter from a file, or from its tensors.

    Args:
        file: of one control for I2VGen-XL.
        head_dim: width of a head.
        dtype, device: of its weights.
        operations: namespace of layer classes, `torch.nn` or the host's.

    Raises:
        CheckpointError: it cannot be read, or is not whole.
    """
    state = read_state_dict(file)[0] if isinstance(file, Path) else dict(file)
    if not is_adapter(state):
        expected = f"tensors of 12 {_DOWN} and one {_MIDDLE}"
        raise CheckpointError("Ctrl-Adapter", expected, f"{len(state)} others", _REMEDY)
    numbers = {int(match[1]) for key in state if (match := re.match(rf"{_DOWN}\.(\d{{1,3}})\.", key))}
    if not numbers or numbers != set(range(len(numbers))):
        expected, found = f"{_DOWN}.0 to the last, none left out", f"{sorted(numbers)}"
        raise CheckpointError("Ctrl-Adapter", expected, found, _REMEDY)
    down = [_size(state, f"{_DOWN}.{number}", head_dim) for number in sorted(numbers)]
    middle = _size(state, _MIDDLE, head_dim)
    layers = Layers(operations, dtype, "meta")
    adapter = of_sizes("Ctrl-Adapter", lambda: CtrlAdapter(down, middle, layers))
    expected_shapes = {**adapter.state_dict(), **_unread(adapter)}
    ours = {key: _as_ours(key, value) for key, value in state.items()}
    check_tensors(ours, expected_shapes, "Ctrl-Adapter")
    weights = {key: value.to(device, dtype) for key, value in ours.items() if not _UNREAD.search(key)}
    adapter.load_state_dict(weights, strict=True, assign=True)
    return adapter.eval().requires_grad_(False)


def _size(state: Mapping[str, Tensor], prefix: str, head_dim: int) -> AdapterSize:
    keys = ("proj_in.weight", "spatial_attentions.0.attn2.to_v.weight")
    found = []
    for key in keys:
        value = state.get(f"{prefix}.{key}")
        if value is None or value.ndim != 2:
            there = "none" if value is None else f"{list(value.shape)}"
            raise CheckpointError(f"Ctrl-Adapter, tensor {prefix}.{key}", "a matrix", there, _REMEDY)
        found.append(value.shape)
    (width, channels), (_, token_dim) = found
    if channels % head_dim or channels % 32:
        expected = f"a multiple of 32 and of heads of {head_dim}"
        raise CheckpointError(f"Ctrl-Adapter, channels of {prefix}", expected, str(channels), _REMEDY)
    return AdapterSize(channels, width, token_dim, channels // head_dim)


def _unread(adapter: CtrlAdapter) -> dict[str, Tensor]:
    """What a file has that is not read, on meta."""
    found: dict[str, Tensor] = {}
    prefixes = [f"{_DOWN}.{number}" for number in range(len(adapter.sizes) - 1)] + [_MIDDLE]
    for prefix, size in zip(prefixes, adapter.sizes, strict=True):
        shapes = {
            "norm2.weight": (size.width,),
            "norm2.bias": (size.width,),
            "attn2.to_q.weight": (size.channels, size.width),
            "attn2.to_k.weight": (size.channels, size.token_dim),
        }
        for way in ("spatial", "temporal"):
            for name, shape in shapes.items():
                found[f"{prefix}.{way}_attentions.0.{name}"] = torch.empty(shape, device="meta")
    return found


def _as_ours(key: str, value: Tensor) -> Tensor:
    """Convolutions over frames without their last axis: they run as 2-D ones."""
    over_frames = re.search(r"temporal_resnets\.0\.conv[12]\.weight$", key) and value.ndim == 5
    return value.squeeze(-1) if over_frames and value.shape[-1] == 1 else value
