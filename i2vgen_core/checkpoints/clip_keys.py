"""Key tables of CLIP's two towers: open_clip's layout (the release's .bin) <-> transformers'.

Transformers' are CLIPTextModel with `text_model.` in front, and CLIPVisionModelWithProjection.

Every function takes either layout, with or without an outer prefix, and both towers in one state dict or one alone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor, atleast_1d, cat

from ..errors import CheckpointError
from .check import named
from .prefixes import network_tensors

TEXT_SIGNS = (
    "text_model.embeddings.token_embedding.weight",  # transformers
    "embeddings.token_embedding.weight",  # CLIPTextModel's own names from transformers 5 on
    "token_embedding.weight",  # open_clip
)
VISION_SIGNS = ("vision_model.embeddings.patch_embedding.weight", "visual.conv1.weight")
"""Names that each tower has in either layout, see network_tensors."""

# What open_clip and transformers save beside the two towers, and nothing here reads.
_UNUSED = ("logit_scale", "logit_bias", "attn_mask", "text_projection", "text_projection.weight")
_TEXT_ONLY = ("token_embedding.", "positional_embedding", "transformer.", "ln_final.", "text_model.")
_VISION_ONLY = ("visual.", "vision_model.", "visual_projection.")

_BLOCK = {
    "ln_1": "layer_norm1",
    "attn.out_proj": "self_attn.out_proj",
    "ln_2": "layer_norm2",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
_MOST_BLOCKS = 64
_VISION_PROJECTION = "visual.proj"  # stored transposed: x @ proj, not a linear layer's weight


def count(keys: Mapping[str, Tensor], pattern: str) -> int:
    """How many numbers `pattern`'s group matches at the start of keys: of blocks without a gap, how many there are.

    Raises:
        CheckpointError: more than any released model has.
    """
    found = len({match[1] for key in keys if (match := re.match(pattern, key))})
    if found > _MOST_BLOCKS:
        remedy = "The file is damaged or of another model: use the released one."
        raise CheckpointError("the model file", f"at most {_MOST_BLOCKS} blocks", f"{found}", remedy)
    return found


def text_tower(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The text tower's tensors alone, in the layout they came in.

    Raises:
        CheckpointError: there is no CLIP text tower in either layout.
    """
    tensors = network_tensors(state_dict, TEXT_SIGNS, "CLIP text encoder")
    if "embeddings.token_embedding.weight" in tensors:
        tensors = {f"text_model.{key}": value for key, value in tensors.items()}
    return _tower("CLIP text encoder", tensors, _TEXT_ONLY, _VISION_ONLY)


def vision_tower(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The vision tower's tensors alone, in the layout they came in.

    Raises:
        CheckpointError: there is no CLIP vision tower in either layout.
    """
    what = "CLIP vision encoder"
    return _tower(what, network_tensors(state_dict, VISION_SIGNS, what), _VISION_ONLY, _TEXT_ONLY)


def is_open_clip(tower: Mapping[str, Tensor]) -> bool:
    """Whether one tower's tensors are in open_clip's layout."""
    return not any(key.startswith(("text_model.", "vision_model.", "visual_projection.")) for key in tower)


def text_table(layers: int) -> dict[str, tuple[str, ...]]:
    """open_clip key -> its transformers keys (three where open_clip stacks query, key and value on axis 0)."""
    theirs = "text_model."
    table: dict[str, tuple[str, ...]] = {
        "token_embedding.weight": (f"{theirs}embeddings.token_embedding.weight",),
        "positional_embedding": (f"{theirs}embeddings.position_embedding.weight",),
        "ln_final.weight": (f"{theirs}final_layer_norm.weight",),
        "ln_final.bias": (f"{theirs}final_layer_norm.bias",),
    }
    for i in range(layers):
        table |= _block_table(f"transformer.resblocks.{i}.", f"{theirs}encoder.layers.{i}.")
    return table


def vision_table(layers: int) -> dict[str, tuple[str, ...]]:
    """open_clip key -> its transformers keys (three where open_clip stacks query, key and value on axis 0)."""
    ours, theirs = "visual.", "vision_model."
    table: dict[str, tuple[str, ...]] = {
        f"{ours}class_embedding": (f"{theirs}embeddings.class_embedding",),
        f"{ours}conv1.weight": (f"{theirs}embeddings.patch_embedding.weight",),
        f"{ours}positional_embedding": (f"{theirs}embeddings.position_embedding.weight",),
        _VISION_PROJECTION: ("visual_projection.weight",),
    }
    for kind in ("weight", "bias"):
        table[f"{ours}ln_pre.{kind}"] = (f"{theirs}pre_layrnorm.{kind}",)
        table[f"{ours}ln_post.{kind}"] = (f"{theirs}post_layernorm.{kind}",)
    for i in range(layers):
        table |= _block_table(f"{ours}transformer.resblocks.{i}.", f"{theirs}encoder.layers.{i}.")
    return table


def text_to_transformers(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The text tower under CLIPTextModel's keys, `text_model.` in front; unknown keys stay as they are."""
    tower = text_tower(state_dict)
    return _to_transformers(tower, text_table(_layers(tower))) if is_open_clip(tower) else tower


def text_to_open_clip(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The text tower under open_clip's keys; unknown keys stay as they are."""
    tower = text_tower(state_dict)
    return tower if is_open_clip(tower) else _to_open_clip(tower, text_table(_layers(tower)))


def vision_to_transformers(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The vision tower under CLIPVisionModelWithProjection's keys; unknown keys stay as they are."""
    tower = vision_tower(state_dict)
    return _to_transformers(tower, vision_table(_layers(tower))) if is_open_clip(tower) else tower


def vision_to_open_clip(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The vision tower under open_clip's keys (`visual.` in front); unknown keys stay as they are."""
    tower = vision_tower(state_dict)
    return tower if is_open_clip(tower) else _to_open_clip(tower, vision_table(_layers(tower)))


def _tower(what: str, tensors: dict[str, Tensor], own: tuple[str, ...], other: tuple[str, ...]) -> dict[str, Tensor]:
    if not any(key.startswith(own) for key in tensors):
        raise CheckpointError(
            what,
            "tensors in open_clip's or transformers' layout",
            ", ".join(map(named, sorted(tensors)[:3])) or "no tensors",
            "Choose a CLIP ViT-H/14 checkpoint.",
        )
    return {
        key: value
        for key, value in tensors.items()
        if not (key.startswith(other) or key in _UNUSED or key.endswith("position_ids"))
    }


def _layers(tower: Mapping[str, Tensor]) -> int:
    return count(tower, r".*(?:resblocks|encoder\.layers)\.(\d+)\.")


def _block_table(ours: str, theirs: str) -> dict[str, tuple[str, ...]]:
    table: dict[str, tuple[str, ...]] = {}
    for kind in ("weight", "bias"):
        table[f"{ours}attn.in_proj_{kind}"] = tuple(f"{theirs}self_attn.{part}_proj.{kind}" for part in "qkv")
        for a, b in _BLOCK.items():
            table[f"{ours}{a}.{kind}"] = (f"{theirs}{b}.{kind}",)
    return table


def _to_transformers(tower: Mapping[str, Tensor], table: Mapping[str, tuple[str, ...]]) -> dict[str, Tensor]:
    out: dict[str, Tensor] = {}
    for key, tensor in tower.items():
        names = table.get(key, (key,))
        if key == _VISION_PROJECTION:
            tensor = tensor.movedim(-1, 0).contiguous()
        out |= zip(names, atleast_1d(tensor).tensor_split(3) if len(names) == 3 else (tensor,), strict=True)
    return out


def _to_open_clip(tower: Mapping[str, Tensor], table: Mapping[str, tuple[str, ...]]) -> dict[str, Tensor]:
    left, out = dict(tower), {}
    for key, names in table.items():
        if all(name in left for name in names):
            parts = [left.pop(name) for name in names]
            out[key] = cat(parts) if len(parts) == 3 else parts[0]
    if _VISION_PROJECTION in out:
        out[_VISION_PROJECTION] = out[_VISION_PROJECTION].movedim(0, -1).contiguous()
    return out | left
