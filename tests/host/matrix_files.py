"""Files and nodes that the rows of the compatibility matrix need."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from i2vgen_core import assets
from i2vgen_core.checkpoints.load import open_unet


def write_lora(file: Path) -> None:
    """Small matrices of rank 1 for every layer of the built-in base."""
    generator, tensors = torch.Generator().manual_seed(0), {}
    for key, weight in open_unet(assets.FOLDER / "unet").network.items():
        if weight.ndim >= 2:
            name = "diffusion_model." + key.removesuffix(".weight")
            tensors[f"{name}.lora_B.weight"] = torch.randn(
                len(weight), 1, *[1] * (weight.ndim - 2), generator=generator
            )
            tensors[f"{name}.lora_A.weight"] = 1e-3 * torch.randn(1, *weight.shape[1:], generator=generator)
    save_file(tensors, file)


def write_esrgan(file: Path) -> None:
    """ESRGAN's layers, of factor 2 with one residual block, made so that they enlarge by the nearest pixel."""
    shapes = {"conv_first": (8, 3), "trunk_conv": (8, 8), "upconv1": (8, 8), "HRconv": (8, 8), "conv_last": (3, 8)}
    for block in range(1, 4):
        for number, (inputs, outputs) in enumerate([(8, 32), (40, 32), (72, 32), (104, 32), (136, 8)], start=1):
            shapes[f"RRDB_trunk.0.RDB{block}.conv{number}"] = (outputs, inputs)
    tensors = {}
    for name, (outputs, inputs) in shapes.items():
        weight = torch.zeros(outputs, inputs, 3, 3)
        if name in ("conv_first", "upconv1", "HRconv", "conv_last"):
            weight[: min(outputs, inputs), : min(outputs, inputs), 1, 1] = torch.eye(min(outputs, inputs))
        tensors |= {f"{name}.weight": weight, f"{name}.bias": torch.zeros(outputs)}
    save_file(tensors, file)


def write_rife(file: Path) -> None:
    """RIFE's layers at a small size, with torch's first weights."""
    from comfy_extras.frame_interpolation_models.ifnet import IFNet

    network = IFNet(head_ch=4, channels=[8] * 5)
    generator = torch.Generator().manual_seed(0)
    save_file(
        {key: torch.randn(value.shape, generator=generator) * 0.01 for key, value in network.state_dict().items()}, file
    )


class Control:
    """A conditioning with a ControlNet, as the host's ControlNetApply gives it; its file would be large."""

    RETURN_TYPES = ("CONDITIONING",)
    FUNCTION = "apply"
    CATEGORY = "tests"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"conditioning": ("CONDITIONING",)}}

    def apply(self, conditioning: Any) -> tuple[Any]:
        from comfy.controlnet import ControlBase

        class Nothing(ControlBase):
            def get_control(self, *args: Any) -> dict[str, Any]:
                return {"input": [], "middle": [], "output": []}

            def copy(self) -> Nothing:
                return self

        return ([[text, {**values, "control": Nothing()}] for text, values in conditioning],)
