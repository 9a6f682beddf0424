"""What a file is, from its tensors' names and shapes. Nothing in it is run, and a mapped file's weights are not read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from ..config import BASES, REFINERS, released_config
from ..errors import InputError
from ..network.unet import UNet
from ..releases import RELEASES
from .adapter import is_adapter, load_adapter
from .detect import UNSAID, UnsaidKindError
from .download import released_kind
from .gguf import GGUF_SUFFIX, read_gguf_header
from .lora_keys import is_lora, known_layers
from .parts import PartName, Settings, find_part, settings_of, signs_of
from .read import read_state_dict
from .unet_keys import StateDict
from .write import DTYPE_NAMES


@dataclass(frozen=True)
class Finding:
    """One network of a file.

    Args:
        part: which, or LoRA: the change of one, or Ctrl-Adapter: what steers one.
        whole: whether its names and shapes are right, all of them.
        title: for people; empty unless it is whole.
        sure: how sure that is, or what is wrong.
        parameters: its numbers.
        loader: the block that takes it; empty unless it is whole.
    """

    part: PartName | Literal["LoRA", "Ctrl-Adapter"]
    whole: bool
    title: str
    sure: str
    parameters: int
    loader: str


@dataclass(frozen=True)
class Inspection:
    """What a file is.

    Args:
        tensors: how many it has.
        types: how many numbers it has in each type, by the type's name.
        findings: the networks in it; none where it is of another family.
        metadata: text by name, as the file has it; nobody's word but the file's.
    """

    tensors: int
    types: Counter[str]
    findings: list[Finding]
    metadata: Mapping[str, str]


def inspect_file(path: Path) -> Inspection:
    """What a file or folder of weights is.

    Args:
        path: as for read_state_dict.

    Raises:
        CheckpointError: unreadable.
    """
    state, metadata, types = _gguf(path) if path.suffix == GGUF_SUFFIX else _tensors(path)
    settings = settings_of(path, metadata)
    if is_lora(state):
        return Inspection(len(state), types, [_lora(state, metadata)], metadata)
    if is_adapter(state):
        return Inspection(len(state), types, [_adapter(state)], metadata)
    known = {} if "kind" in settings else released_kind(path)
    findings = [_finding(state, dict(settings) | known, part) for part in signs_of(state)]
    return Inspection(len(state), types, findings, metadata)


def _adapter(state: StateDict) -> Finding:
    """A Ctrl-Adapter: nothing in the file says for which control."""
    shapes = {key: torch.empty_like(value, device="meta") for key, value in state.items()}
    parameters = sum(value.numel() for value in state.values())
    try:
        sizes = load_adapter(shapes, device="meta").sizes
    except InputError as error:
        return Finding("Ctrl-Adapter", False, "", str(error), parameters, "")
    title = f"Ctrl-Adapter for ControlNets of Stable Diffusion 1.5, {len(sizes)} adapters"
    sure = f"all {len(state)} tensors; for which control it does not say"
    return Finding(
        "Ctrl-Adapter", True, title, sure, parameters, "Load Ctrl-Adapter (I2VGen-XL), from models/controlnet"
    )


def _lora(state: StateDict, metadata: Mapping[str, str]) -> Finding:
    """A LoRA file: of which network it says, and how many of that network's layers it names."""
    said = next((kind for kind in RELEASES if kind == metadata.get("kind")), None)
    kind = said or BASES[0]
    network = {key: value.shape for key, value in UNet(released_config(kind), device="meta").state_dict().items()}
    names = known_layers(state, network)
    if not names:
        return Finding("LoRA", False, "", f"{len(state)} tensors, none of which names a layer of our networks", 0, "")
    title = f"LoRA for the {RELEASES[kind].title} ({kind})" if said else "LoRA for a network of this family"
    sizes = "which have the released sizes" if all(names.values()) else "of other sizes than the released ones"
    sure = f"it names {len(names)} of the network's layers, {sizes}" + (
        "; it does not say which network's" * (not said)
    )
    parameters = sum(tensor.numel() for tensor in state.values())
    return Finding("LoRA", True, title, sure, parameters, "ComfyUI's LoraLoaderModelOnly, from models/loras; or --lora")


def _tensors(path: Path) -> tuple[StateDict, dict[str, str], Counter[str]]:
    state, metadata = read_state_dict(path)
    types: Counter[str] = Counter()
    for tensor in state.values():
        types[DTYPE_NAMES.get(tensor.dtype, str(tensor.dtype))] += tensor.numel()
    return state, metadata, types


def _gguf(path: Path) -> tuple[StateDict, dict[str, str], Counter[str]]:
    header, metadata = read_gguf_header(path)
    types: Counter[str] = Counter()
    for tensor in header.values():
        types[tensor.type_name] += tensor.shape.numel()
    return {name: torch.empty(tensor.shape, device="meta") for name, tensor in header.items()}, metadata, types


def _finding(state: StateDict, settings: Settings, name: PartName) -> Finding:
    try:
        try:
            part, unsaid = find_part(state, settings, name), ""
            title = part.title
            if part.metadata["kind"] in REFINERS and "kind" not in settings:
                unsaid = UNSAID
        except UnsaidKindError as error:
            part, unsaid = find_part(state, settings, name, error.kinds[0]), str(error)
            title = " or ".join(f"{RELEASES[kind].title} ({kind})" for kind in error.kinds)
    except InputError as error:
        return Finding(name, False, "", str(error), 0, "")
    sure = f"all of its {len(part.tensors)} tensors have the right names and shapes" + (unsaid and f". {unsaid}")
    parameters = sum(tensor.numel() for tensor in part.tensors.values())
    return Finding(name, True, title, sure, parameters, part.loader)
