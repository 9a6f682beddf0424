"""Low-rank adaptation of the attention layers (LoRA, arXiv 2106.09685), in files that ComfyUI's own LoRA loader takes.

Training needs peft; checkpoints.lora reads the files without it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..checkpoints.bundle import write_tensors
from ..checkpoints.lora_keys import ALPHA, DOWN, OURS, UP
from ..errors import InputError, check_range
from ..network.unet import UNet

LAYERS = r".*\.transformer_blocks\.\d+\.attn\d\.(to_q|to_k|to_v|to_out\.0)"
_ADAPTER = "default"


def add_lora(network: UNet, rank: int = 16, alpha: float = 16.0) -> None:
    """Puts trainable pairs of low-rank matrices, float32, beside the attention layers, and freezes everything else.

    Until they are trained, the network gives what it gave. Their first values come from torch's global generator.

    Args:
        network: of any kind; changed in place.
        rank: of the update to each weight.
        alpha: the update is scaled by alpha / rank.

    Raises:
        InputError: rank or alpha is out of range, the network has such matrices already, or peft is not installed.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ModuleNotFoundError as error:
        raise InputError("LoRA", "the package peft", "none", "Install it: pip install peft") from error
    check_range("rank", rank, 1, 10**4)
    check_range("alpha", alpha, 1e-6, 1e6)
    if _adapted(network):
        raise InputError("the network", "one without LoRA", "one with it", "Load the network again.")
    network.requires_grad_(False)
    around = nn.ModuleList([network])  # peft takes a `config` of the module that it is given for one of transformers'
    inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=alpha, target_modules=LAYERS), around)
    for parameter in network.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()  # peft takes the type of the weight beside it


def lora_state(network: UNet) -> dict[str, Tensor]:
    """The low-rank matrices by the names of ComfyUI's LoRA files.

    For a layer such as `input_blocks.1.1.transformer_blocks.0.attn1.to_q`, after `diffusion_model.` and its name:
    `.lora_up.weight` [outputs, rank], `.lora_down.weight` [rank, inputs] and `.alpha` [], all float32 on the CPU.

    Raises:
        InputError: the network has none.
    """
    state: dict[str, Tensor] = {}
    for name, layer in _adapted(network).items():
        values = (layer.lora_B[_ADAPTER].weight, layer.lora_A[_ADAPTER].weight, float(layer.lora_alpha[_ADAPTER]))
        state.update(zip(_names(name), (torch.as_tensor(v).detach().cpu().clone() for v in values), strict=True))
    if not state:
        raise InputError("the network", "one with LoRA", "one without", "Call add_lora before training.")
    return state


def save_lora(network: UNet, path: Path) -> None:
    """Writes lora_state as a safetensors file, with the network's `kind`, `rank` and `alpha` as metadata.

    Raises:
        InputError: the network has no LoRA, or the file cannot be written.
    """
    state = lora_state(network)
    layer = next(iter(_adapted(network).values()))
    metadata = {"kind": network.config.kind, "rank": layer.r[_ADAPTER], "alpha": layer.lora_alpha[_ADAPTER]}
    write_tensors(path, state, {key: str(value) for key, value in metadata.items()})


def _names(layer: str) -> tuple[str, str, str]:
    start = OURS + layer
    return start + UP, start + DOWN, start + ALPHA


def _adapted(network: nn.Module) -> dict[str, Any]:
    """peft's layers, by the names of those that they took the place of."""
    return {name: module for name, module in network.named_modules() if hasattr(module, "lora_A")}
