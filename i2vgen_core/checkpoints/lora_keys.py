"""Names of LoRA files: a layer goes by our name or by diffusers', dotted or with underscores, under any trainer's prefix.

diffusers writes `unet.down_blocks...lora_A.weight`, peft `base_model.model.down_blocks...`, kohya's scripts
`lora_unet_down_blocks_..._to_q.lora_down.weight`, this project `diffusion_model.input_blocks...lora_down.weight`.
"""

from __future__ import annotations

import json
import logging
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .unet_keys import diffusers_layers

logger = logging.getLogger("i2vgen_xl")

OURS = "diffusion_model."
"""Prefix of a layer's name in ComfyUI's own form."""

UP, DOWN, _MID = ".lora_up.weight", ".lora_down.weight", ".lora_mid.weight"
ALPHA = ".alpha"
_SETTINGS = "lora_adapter_metadata"  # diffusers' key in a file's metadata
_SPELLINGS = [
    # diffusers before 0.17, with the attention's processor in the name
    (re.compile(r"\.processor\.to_out_lora\.(up|down)\.weight\Z"), r".to_out.0.lora_\1.weight"),
    (re.compile(r"\.processor\.(to_[qkv])_lora\.(up|down)\.weight\Z"), r".\1.lora_\2.weight"),
    (re.compile(r"\.lora\.(up|down)\.weight\Z"), r".lora_\1.weight"),
    (re.compile(r"\.lora_linear_layer\.(up|down)\.weight\Z"), r".lora_\1.weight"),
    # peft, with its adapter's name or without
    (re.compile(r"\.lora_A(\.\w+)?\.weight\Z|\.lora_A\Z"), DOWN),
    (re.compile(r"\.lora_B(\.\w+)?\.weight\Z|\.lora_B\Z"), UP),
]


class Layer(NamedTuple):
    """A layer that a LoRA file can change.

    Args:
        name: ours, that of the weight without `.weight`; of a part of its rows, one of its own.
        weight: our key of the weight.
        rows: first and number of the weight's rows; None for all of them.
    """

    name: str
    weight: str
    rows: tuple[int, int] | None = None


class _Found(NamedTuple):
    prefix: str
    layer: Layer
    rest: str


def layers_by_name(network: Mapping[str, torch.Size]) -> dict[str, Layer]:
    """Every name, ours and diffusers', of every layer of a network.

    Args:
        network: the shapes of its tensors, by our names.
    """
    layers: dict[str, Layer] = {}
    for theirs, (key, third) in diffusers_layers(network).items():
        name, rows = key.removesuffix(".weight"), None
        if third is not None:
            size = network[key][0] // 3
            name, rows = name.replace("to_qkv", f"to_{'qkv'[third]}"), (third * size, size)
            layers[key.removesuffix(".weight")] = Layer(key.removesuffix(".weight"), key)
        layers[name] = layers[theirs] = Layer(name, key, rows)
    return layers


def in_our_names(lora: Mapping[str, Tensor], network: Mapping[str, torch.Size]) -> dict[str, Tensor]:
    """A LoRA file's tensors, those of the network's layers as `diffusion_model.LAYER.lora_up.weight` and the like.

    A prefix is whatever stands before a layer's name; of several, the one with most of the names is the network's, and
    names under others (a text encoder's) stay as they are. Layers whose matrices do not fit their weight are left out.

    Args:
        lora: tensors by name, of any trainer.
        network: the shapes of its tensors, by our names.
    """
    ours = _ours(lora, network)
    inner = {each.layer for each in ours.values() if each.rest == _MID}  # a third matrix between the two
    others = {each.layer for key, each in ours.items() if not (each.layer in inner or _fits(lora[key], each, network))}
    if others:
        shown = ", ".join(sorted(layer.name for layer in others)[:3])
        logger.warning(
            "LoRA: %d layers are left out, which are of other sizes than the network's (%s)", len(others), shown
        )
    renamed: dict[str, Tensor] = {}
    for key, value in lora.items():
        if key not in ours:
            renamed[key] = value
        elif ours[key].layer not in others:
            renamed[f"{OURS}{ours[key].layer.name}{ours[key].rest}"] = value
    return renamed


def known_layers(lora: Mapping[str, Tensor], network: Mapping[str, torch.Size]) -> dict[str, bool]:
    """Layers of a network that a LoRA file names, by our names, and whether its matrices are of their sizes.

    Args:
        lora: see in_our_names.
        network: see in_our_names.
    """
    known: dict[str, bool] = {}
    for key, found in _ours(lora, network).items():
        known[found.layer.name] = known.get(found.layer.name, True) and _fits(lora[key], found, network)
    return known


def _ours(lora: Iterable[str], network: Mapping[str, torch.Size]) -> dict[str, _Found]:
    """What the keys are of that name a layer, all under the prefix that most of them have."""
    layers = layers_by_name(network)
    flat = {name.replace(".", "_"): layer for name, layer in layers.items()}
    found = {key: _find(_respelled(key), layers, flat) for key in lora}
    counts = Counter(each.prefix for each in found.values() if each)
    prefix = counts.most_common(1)[0][0] if counts else None
    return {key: each for key, each in found.items() if each and each.prefix == prefix}


def with_alphas(lora: Mapping[str, Tensor], metadata: Mapping[str, str]) -> dict[str, Tensor]:
    """A LoRA file's tensors with the alphas that it says in its metadata alone, as diffusers writes peft's settings.

    Args:
        lora: tensors by name; an alpha among them stands.
        metadata: of the file: `lora_adapter_metadata` is JSON, such as `{"unet.r": 8, "unet.lora_alpha": 16}`.
    """
    try:
        return {**lora, **_said_alphas(lora, json.loads(metadata.get(_SETTINGS, "{}")))}
    except (ValueError, TypeError, AttributeError):  # not JSON, or not such settings
        logger.warning("LoRA: its settings cannot be read; each alpha is taken to be the rank")
        return dict(lora)


def _said_alphas(lora: Mapping[str, Tensor], said: Mapping[str, Any]) -> dict[str, Tensor]:
    found = {}
    for part in (key.removesuffix(".lora_alpha") for key in said if key.endswith(".lora_alpha")):
        settings = {key.removeprefix(f"{part}."): value for key, value in said.items() if key.startswith(f"{part}.")}
        for key, down in lora.items():
            layer = _respelled(key).removesuffix(DOWN)
            if layer != _respelled(key) and layer.startswith(f"{part}.") and layer + ALPHA not in lora:
                found[layer + ALPHA] = torch.tensor(_alpha(settings, layer, len(down)))
    return found


def _alpha(settings: Mapping[str, Any], layer: str, rank: int) -> float:
    """A layer's alpha by peft's settings, for a scale of alpha / rank. Patterns are read as the ends of names, not as the
    regular expressions that peft allows: a file's word is never run as one."""
    patterns = settings.get("alpha_pattern") or {}
    matching = (value for name, value in patterns.items() if f".{layer}".endswith(f".{name}"))
    alpha = float(next(matching, settings["lora_alpha"]))
    return alpha * rank**0.5 if settings.get("use_rslora") else alpha


def is_lora(keys: Iterable[str]) -> bool:
    """Whether names speak of low-rank matrices."""
    return any(_respelled(key).endswith((UP, DOWN)) for key in keys)


def _respelled(key: str) -> str:
    for spelling, ours in _SPELLINGS:
        key = spelling.sub(ours, key)
    return key


def _find(key: str, layers: Mapping[str, Layer], flat: Mapping[str, Layer]) -> _Found | None:
    """The longest name of a layer in a key, between whole words, with something behind it."""
    words = key.split(".")
    for end in range(len(words) - 1, 0, -1):
        rest = "".join(f".{word}" for word in words[end:])
        for start in range(end):
            layer = layers.get(".".join(words[start:end]))
            if layer:
                return _Found(".".join(words[:start]), layer, rest)
    name, _, rest = key.partition(".")
    for start in [0, *(match.end() for match in re.finditer("_", name))]:
        layer = flat.get(name[start:])
        if layer and rest:
            return _Found(name[:start], layer, f".{rest}")
    return None


def _fits(value: Tensor, found: _Found, network: Mapping[str, torch.Size]) -> bool:
    """Whether a matrix is as wide or as high as its layer's weight; whatever else it is, it is ComfyUI's to look at."""
    shape = network[found.layer.weight]
    rows = found.layer.rows[1] if found.layer.rows else shape[0]
    if found.rest == UP:
        return value.ndim > 1 and value.shape[0] == rows
    if found.rest == DOWN:
        return value.ndim > 1 and value[0].numel() == shape[1:].numel()
    return True
