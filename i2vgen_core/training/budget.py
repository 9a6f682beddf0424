"""What training needs of memory, counted before anything of its size is made: the network's own forward pass on the meta
device, which has shapes and no numbers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from ..config import GLOBAL_TOKENS, IMAGE_TOKENS, TEXT_TOKENS, VAE_STEP, UNetConfig
from ..errors import InputError
from ..memory import DTYPES, machine_bytes
from ..network.blocks import Block
from ..network.hooks import AttentionHooks, Hooks
from ..network.unet import UNet
from .diffusion import ClipShape
from .lora import LAYERS

_TRAINED = {"adamw": 4 * 5, "muon": 4 * 4}
"""Bytes of a number that is trained, all in float32: itself, its gradient, AdamW's two or Muon's one, and its average."""


_MOST_FEATURES = 2000
"""Features that a pass keeps at each place, in units of the first level's; the released networks keep 815."""


@dataclass(frozen=True)
class Budget:
    """Bytes that a run needs at the same time.

    Args:
        trained: numbers that are trained, with gradients, optimiser and averages.
        frozen: numbers of the network that stay as they are.
        encoders: the VAE and CLIP.
        step: what a step makes and lets go: the features that are kept for the gradients, with the weights in 16 bits where
            those are trained in mixed precision; or AdamW's own, where that is more.
    """

    trained: int
    frozen: int
    encoders: int
    step: int

    @property
    def whole(self) -> int:
        """All bytes together."""
        return self.trained + self.frozen + self.encoders + self.step


@dataclass(frozen=True)
class Plan:
    """What a recipe says of memory.

    Args:
        network: its sizes.
        size: width and height of the clips in pixels, the largest of them.
        shapes: of the batches; the largest counts.
        repeats, lora_rank, checkpointing, precision, optimiser: as recipes have them.
    """

    network: UNetConfig
    size: tuple[int, int]
    shapes: Sequence[ClipShape]
    repeats: int = 1
    lora_rank: int = 0
    checkpointing: bool = False
    precision: str = "fp32"
    optimiser: str = "adamw"

    @property
    def dtype(self) -> torch.dtype:
        """Type of the arithmetic, and of weights that are not trained."""
        return DTYPES[self.precision]

    def budget(self, encoders: int = 0) -> Budget:
        """What training takes, at least: arithmetic in mixed precision keeps some features in float32 too.

        Args:
            encoders: bytes of the encoders.
        """
        state = UNet(self.network, device="meta").state_dict()
        numbers = sum(value.numel() for value in state.values())
        features = max(_features(self, each.clips * self.repeats, each.frames) for each in self.shapes)
        if self.lora_rank:
            layers = [value for key, value in state.items() if re.fullmatch(LAYERS, key.removesuffix(".weight"))]
            own = self.lora_rank * sum(sum(value.shape) for value in layers)
            return Budget(own * _TRAINED[self.optimiser], numbers * self.dtype.itemsize, encoders, features)
        copies = numbers * self.dtype.itemsize if self.precision != "fp32" else 0
        return Budget(numbers * _TRAINED[self.optimiser], 0, encoders, max(features + copies, numbers * 4))

    def check(self, device: torch.device | str, encoders: int = 0) -> None:
        """Raises InputError for a run that needs more memory than the device has; `encoders` as for budget."""
        there = machine_bytes(device)
        if self._at_most() + encoders <= there:
            return
        needed = self.budget(encoders)
        if needed.whole <= there:
            return
        parts = {
            "what is trained, with gradients, optimiser and averages": needed.trained,
            "the network": needed.frozen,
            "the encoders": needed.encoders,
            "a step": needed.step,
        }
        found = ", ".join(f"{size / 2**30:.1f} GiB for {what}" for what, size in parts.items() if size > 2**26)
        unset = {
            '"checkpointing"': self.checkpointing,
            '"lora_rank"': self.lora_rank,
            "a precision of 16 bits": self.precision != "fp32",
        }
        others = [name for name, there in unset.items() if not there]
        remedy = f"Set {' or '.join(others)}, or take" if others else "Take"
        remedy += " fewer, smaller or shorter clips, or another device."
        raise InputError("training", f"a run that fits into the {there / 2**30:.1f} GiB of {device}", found, remedy)

    def _at_most(self) -> int:
        """A bound that needs no pass through the network."""
        width, height = self.size
        places = max(each.clips * each.frames for each in self.shapes) * self.repeats * width * height // VAE_STEP**2
        numbers = sum(value.numel() for value in UNet(self.network, device="meta").state_dict().values())
        return (
            numbers * (_TRAINED[self.optimiser] + 4)
            + _MOST_FEATURES * places * self.network.model_channels * self.dtype.itemsize
        )


def _features(plan: Plan, clips: int, frames: int) -> int:
    """Bytes kept for the gradients. With checkpointing: the inputs of the blocks' parts, and all that one of them keeps."""
    network = UNet(plan.network, device="meta").to(plan.dtype).requires_grad_(True)
    weights = {_storage(parameter) for parameter in network.parameters()}
    kept: dict[object, dict[int, Tensor]] = {}
    inputs: dict[int, Tensor] = {}
    running: list[object] = [None]

    def enter(part: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        running[0] = part
        inputs[_storage(arguments[0])] = arguments[0]

    def leave(*_: object) -> None:
        running[0] = None

    def keep(tensor: Tensor) -> Tensor:
        if _storage(tensor) not in weights:
            kept.setdefault(running[0], {})[_storage(tensor)] = tensor
        return tensor

    for block in network.modules():
        for part in block if isinstance(block, Block) else ():
            part.register_forward_pre_hook(enter)
            part.register_forward_hook(leave)
    with saved_tensors_hooks(keep, lambda tensor: tensor):
        network(**_inputs(plan, clips, frames))
    if not plan.checkpointing:
        return _bytes({key: value for each in kept.values() for key, value in each.items()})
    largest = max(_bytes(each) for part, each in kept.items() if part is not None)
    return _bytes(kept.get(None, {}) | inputs) + largest


def _inputs(plan: Plan, clips: int, frames: int) -> dict:
    config = plan.network
    width, height = (side // VAE_STEP for side in plan.size)

    def empty(*shape: int) -> Tensor:
        return torch.empty(shape, dtype=plan.dtype, device="meta")

    x = empty(clips * frames, config.in_channels, height, width)
    tokens = TEXT_TOKENS + (GLOBAL_TOKENS + IMAGE_TOKENS if config.reads_details else 0)
    hooks = Hooks(AttentionHooks(_fused))
    given = {"x": x, "timesteps": torch.zeros(clips, dtype=torch.long, device="meta"), "frames": frames, "hooks": hooks}
    given["context"] = empty(clips, tokens, config.context_dim)
    if config.reads_image:
        given["fps"] = empty(clips)
    if config.reads_details:
        given["details"] = torch.empty_like(x)
    return given


class _Attention(torch.autograd.Function):
    """Keeps for its gradient what fused attention keeps: not the matrix of all tokens with all, as torch's own does on meta."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        output = torch.empty_like(q)
        ctx.save_for_backward(q, k, v, output)
        return output


def _fused(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    return _Attention.apply(q, k, v)


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def _bytes(tensors: dict[int, Tensor]) -> int:
    return sum(tensor.untyped_storage().nbytes() for tensor in tensors.values())
