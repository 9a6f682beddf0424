"""A ControlNet of Stable Diffusion 1.5 from its file, in diffusers' layout or in the releases' own; sizes from the shapes."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..errors import CheckpointError
from .check import check_tensors, of_sizes
from .read import read_state_dict

if TYPE_CHECKING:
    from diffusers.models.controlnets.controlnet import ControlNetModel

HEADS = 8
"""Of the releases' attention; shapes do not say it."""

_WHAT = "ControlNet"
_REMEDY = "Use one of Stable Diffusion 1.5's, such as lllyasviel's control_v11p_sd15_canny."


def load_control_net(
    source: Path | Mapping[str, Tensor],
    heads: int = HEADS,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> ControlNetModel:
    """A ControlNet as diffusers has it, from a file, a folder, or its tensors.

    Args:
        source: control_v11*.pth, a .safetensors of either layout, or a folder of diffusers'.
        heads: of its attention.
        dtype, device: of its weights.

    Raises:
        CheckpointError: it cannot be read, is not whole, or is of another network.
    """
    from diffusers.models.controlnets.controlnet import ControlNetModel

    state = read_state_dict(source)[0] if isinstance(source, Path) else dict(source)
    state = _as_diffusers(state)
    sizes = _sizes(state)
    network = of_sizes(_WHAT, lambda: ControlNetModel(attention_head_dim=heads, **sizes))
    check_tensors(state, network.state_dict(), _WHAT)
    network.load_state_dict({key: value.to(device, dtype) for key, value in state.items()}, strict=True, assign=True)
    return network.eval().requires_grad_(False)


def _as_diffusers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    if "time_embedding.linear_1.weight" in state:
        return dict(state)
    from diffusers.loaders.single_file_utils import convert_controlnet_checkpoint

    own = {key.removeprefix("control_model."): value for key, value in state.items() if _is_control(key)}
    if "zero_convs.0.0.weight" not in own:
        raise CheckpointError(_WHAT, "tensors such as zero_convs.0.0.weight", f"{len(state)} others", _REMEDY)
    blocks = _count(own, r"input_blocks\.(\d+)\.")
    levels = 1 + sum(f"input_blocks.{number}.0.op.weight" in own for number in range(blocks))
    try:  # KeyError: a file that is not whole
        made = convert_controlnet_checkpoint(own, {"layers_per_block": max(1, blocks // levels - 1)})
    except KeyError as error:
        raise CheckpointError(_WHAT, "all its tensors", f"none called {str(error)[:80]}", _REMEDY) from error
    return {key: value for key, value in made.items() if value is not None}


def _is_control(key: str) -> bool:
    """Whether a file that has a whole Stable Diffusion beside it has this of its ControlNet."""
    return key.startswith(("control_model.", "input_blocks", "middle_block", "time_embed", "zero_conv", "input_hint"))


def _sizes(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """ControlNetModel's arguments."""
    levels, blocks = _count(state, r"down_blocks\.(\d+)\."), _count(state, r"down_blocks\.0\.resnets\.(\d+)\.")
    channels = [_side(state, f"down_blocks.{level}.resnets.0.conv1.weight", 0) for level in range(levels)]
    attends = [any(key.startswith(f"down_blocks.{level}.attentions.") for key in state) for level in range(levels)]
    hints = ["conv_in", *(f"blocks.{2 * number + 1}" for number in range(_count(state, _HINTS) // 2))]
    text = next((key for key in state if key.endswith("attn2.to_k.weight")), "attn2.to_k.weight")
    return {
        "in_channels": _side(state, "conv_in.weight", 1),
        "block_out_channels": tuple(channels),
        "layers_per_block": blocks,
        "down_block_types": tuple("CrossAttnDownBlock2D" if each else "DownBlock2D" for each in attends),
        "cross_attention_dim": _side(state, text, 1),
        "conditioning_embedding_out_channels": tuple(
            _side(state, f"controlnet_cond_embedding.{name}.weight", 0) for name in hints
        ),
        "norm_num_groups": math.gcd(32, *channels),
    }


_HINTS = r"controlnet_cond_embedding\.blocks\.(\d+)\."


def _count(state: Mapping[str, Tensor], pattern: str) -> int:
    """How many numbers there are at a place of names, from 0 to the last."""
    return len({match[1] for key in state if (match := re.match(pattern, key))})


def _side(state: Mapping[str, Tensor], key: str, axis: int) -> int:
    value = state.get(key)
    if value is None or value.ndim <= axis:
        raise CheckpointError(f"{_WHAT}, tensor {key}", "one of its sizes", "none", _REMEDY)
    return value.shape[axis]
