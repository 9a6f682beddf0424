"""LoRA files (arXiv 2106.09685) of every trainer, put into a network's weights."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from ..config import HINTED, REFINERS, Kind
from ..errors import CheckpointError
from ..network.unet import UNet
from ..releases import RELEASES
from .lora_keys import ALPHA, DOWN, OURS, UP, Layer, in_our_names, layers_by_name, with_alphas
from .read import read_state_dict

logger = logging.getLogger("i2vgen_xl")


@dataclass(frozen=True)
class LoRA:
    """What a LoRA file has for one network.

    Args:
        pairs: of each layer that it changes, up [outputs, rank, ...], down [rank, inputs, ...] and alpha, by which the
            product is scaled: alpha / rank.
        unused: names of tensors that are for something else, such as a text encoder.
    """

    pairs: dict[Layer, tuple[Tensor, Tensor, float]]
    unused: list[str]


def stage_of(path: Path) -> Literal["base", "refiner"]:
    """`base` or `refiner`: the stage that a LoRA file says it is for; the base where it says nothing.

    Raises:
        CheckpointError: unreadable.
    """
    return "refiner" if read_state_dict(path)[1].get("kind") in REFINERS + HINTED else "base"


def find_lora(state: Mapping[str, Tensor], network: Mapping[str, torch.Size], what: str) -> LoRA:
    """A LoRA's matrices for a network.

    Args:
        state: the file's tensors, under any trainer's names.
        network: the shapes of the network's tensors, by our names.
        what: the file, for messages.

    Raises:
        CheckpointError: nothing of it fits, a matrix has no counterpart, or it is of another kind (LoHa, LoKr, DoRA).
    """
    layers = {layer.name: layer for layer in layers_by_name(network).values()}
    renamed = in_our_names(state, network)
    found: dict[str, dict[str, Tensor]] = {}
    for key in renamed:
        if key.startswith(OURS) and (name := _layer_in(key, layers)):
            found.setdefault(name, {})[key[len(OURS) + len(name) :]] = renamed[key]
    if not found:
        said = f"{', '.join(list(state)[:2])[:160]} and {len(state)} in all, which fit no layer by name and size"
        remedy = "Choose a LoRA that was trained on this network."
        raise CheckpointError(what, "low-rank matrices of this network", said, remedy)
    pairs = {}
    for name, parts in found.items():
        if not parts.keys() >= {UP, DOWN} or not parts.keys() <= {UP, DOWN, ALPHA}:
            remedy = "Use a plain LoRA; ComfyUI's own LoRA loader reads the other kinds."
            raise CheckpointError(what, f"{UP}, {DOWN} and {ALPHA} of {name}", ", ".join(sorted(parts)), remedy)
        up, down, rank = parts[UP], parts[DOWN], len(parts[DOWN])
        shape, part = network[layers[name].weight], layers[name].rows
        rows = part[1] if part else shape[0]
        if up.shape.numel() != rows * rank or down.shape.numel() != rank * shape[1:].numel():
            shapes = f"{list(up.shape)} and {list(down.shape)}"
            raise CheckpointError(what, f"matrices for {list(shape)} in {name}", shapes, "Use the file as it was made.")
        pairs[layers[name]] = up, down, float(parts.get(ALPHA, torch.tensor(rank)))
    return LoRA(pairs, [key for key in renamed if not key.startswith(OURS) or not _layer_in(key, layers)])


def _layer_in(key: str, layers: Mapping[str, Layer]) -> str | None:
    """The layer's name in a key such as `diffusion_model.LAYER.lora_up.weight`."""
    words = key.removeprefix(OURS).split(".")
    names = (".".join(words[:end]) for end in range(len(words) - 1, 0, -1))
    return next((name for name in names if name in layers), None)


def open_lora(path: Path, kind: Kind, network: Mapping[str, torch.Size]) -> LoRA:
    """A LoRA file for a network.

    Args:
        path: the file, of any trainer.
        kind: of the network.
        network: the shapes of its tensors, by our names.

    Raises:
        CheckpointError: unreadable, or not a LoRA for this network.
    """
    state, metadata = read_state_dict(path)
    what, said = f"LoRA file {path.name}", metadata.get("kind")
    if said in RELEASES and said != kind:
        remedy = "Use a file that was trained on this network."
        raise CheckpointError(what, f"a LoRA for {kind}", f"one for {said}", remedy)
    return find_lora(with_alphas(state, metadata), network, what)


@torch.no_grad()
def merge_lora(network: UNet, path: Path, strength: float = 1.0) -> dict[str, Tensor]:
    """Adds a LoRA file to the weights: each becomes weight + strength * alpha / rank * up @ down.

    Args:
        network: of the kind and size that the file was trained for; changed in place.
        path: the file, of any trainer.
        strength: 0 changes nothing; below 0 takes away.

    Returns:
        The weights that were changed, as they were before, by their names in the network's state dict: to be given to
        `restore`.

    Raises:
        CheckpointError: unreadable, or not a LoRA for this network.
    """
    weights = network.state_dict()
    lora = open_lora(path, network.config.kind, {key: value.shape for key, value in weights.items()})
    if lora.unused:
        logger.warning("%s: %d tensors are not used (%s)", path.name, len(lora.unused), ", ".join(lora.unused[:2]))
    before = {layer.weight: weights[layer.weight].clone() for layer in lora.pairs}
    for layer, (up, down, alpha) in lora.pairs.items():
        whole = weights[layer.weight]
        weight = whole.narrow(0, *layer.rows) if layer.rows else whole
        up, down = (matrix.to(whole.device, torch.float32).flatten(1) for matrix in (up, down))
        change = strength * alpha / len(down) * (up.reshape(-1, len(down)) @ down)
        weight.copy_(weight + change.view(weight.shape))
    return before


@torch.no_grad()
def restore(network: UNet, weights: Mapping[str, Tensor]) -> None:
    """Puts back what merge_lora has changed, to the bit."""
    now = network.state_dict()
    for name, value in weights.items():
        now[name].copy_(value)
