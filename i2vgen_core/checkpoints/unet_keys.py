"""Names and shapes of the networks' tensors: ours, the official layout, and the layout of diffusers' I2VGenXLUNet.

Ours are the official names. Weights of convolutions over one place or over time alone are kept without the trailing
axes of size one, so that they are linear layers and 2-D convolutions. Every table is used in both directions.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import torch
from torch import Tensor

from ..errors import CheckpointError
from .check import named

StateDict = dict[str, Tensor]

GLOBAL_ENCODER = "local_image_embedding."
"""Prefix of the global encoder's tensors, which live beside the network and not in it."""

SIGNS = ("input_blocks.0.1.proj_in.weight", "transformer_in.proj_in.weight")
"""Names that a network has in the official layout and in diffusers', see network_tensors."""

CONTROL = "VideoControlNet."
"""Prefix of the control branch's tensors, a part of the network whose names begin as the network's own."""

_MOST_BLOCKS = 64

_TIME_CONV = re.compile(r".*\.temopral_conv\.conv\d\.[23]\.weight\Z")
_TEMPORAL_PROJ = re.compile(
    r"(VideoControlNet\.)?(input_blocks\.0\.1|(input|output)_blocks\.\d+\.2|middle_block\.2)\.proj_(in|out)\.weight\Z"
)


def from_official(state: StateDict) -> StateDict:
    """Official shapes to ours: drops the last axis of what is a convolution there and less here, and Animate-X's table of
    sines, which is no weight. What ComfyUI has saved of our network has our shapes already."""
    return {
        _renamed(key, to_ours=True): _squeeze_last(key, value) if _is_squeezed(key) else value
        for key, value in state.items()
        if key != SINE_TABLE
    }


def to_official(state: StateDict) -> StateDict:
    """Ours to the official shapes."""
    return {
        _renamed(key, to_ours=False): value[..., None] if _is_squeezed(key) else value for key, value in state.items()
    }


SINE_TABLE = "pose_embedding_before.pos_embed.pos_table"

_POSE_NAMES = [
    # ours, the release's; each beneath the same name
    (".pose_attention.", "norm.", "norm_p."),
    (".pose_attention.", "proj_in.", "proj_in_p."),
    (".pose_attention.", "proj_out.", "proj_out_p."),
    (".pose_attention.", "transformer_blocks.", "transformer_blocks_p."),
    (".self_attn.", "in_proj.", "in_proj_"),
]
"""Animate-X's names that are not ours: of the attention to poses, and of torch's MultiheadAttention."""


def _renamed(key: str, *, to_ours: bool) -> str:
    for beneath, ours, theirs in _POSE_NAMES:
        before, found, name = key.partition(beneath)
        old, new = (theirs, ours) if to_ours else (ours, theirs)
        if found and name.startswith(old):
            return before + found + new + name[len(old) :]
    return key


def _is_squeezed(key: str) -> bool:
    return bool(_TIME_CONV.match(key) or _TEMPORAL_PROJ.match(key))


def _squeeze_last(key: str, value: Tensor) -> Tensor:
    expected = 5 if _TIME_CONV.match(key) else 3
    if value.ndim == expected - 1:
        return value
    if value.ndim != expected or value.shape[-1] != 1:
        shape = f"{expected} axes, the last of size 1"
        raise CheckpointError(
            f"tensor {named(key)}", shape, str(list(value.shape)), "This file is not of the I2VGen-XL family."
        )
    return value[..., 0]


def is_diffusers_layout(keys: Iterable[str]) -> bool:
    """Whether these are names of diffusers' layout."""
    return any(key.startswith("transformer_in.") for key in keys)


def from_diffusers(state: StateDict) -> StateDict:
    """diffusers' names and shapes to ours. Raises CheckpointError at a name that the table does not know."""
    names = _Names.of_diffusers(state)
    renamed: StateDict = {}
    for key, value in state.items():
        ours = names.rename(key, to_ours=True)
        renamed[ours] = _squeeze_last(ours, value) if _TIME_CONV.match(ours) else value
    return _join_qkv(renamed)


def to_diffusers(state: StateDict) -> StateDict:
    """Ours to diffusers' names and shapes. Raises CheckpointError at a name that the table does not know."""
    names = _Names.of_ours(state)
    return {
        names.rename(key, to_ours=False): value[..., None] if _TIME_CONV.match(key) else value
        for key, value in _split_qkv(state).items()
    }


def diffusers_layers(keys: Iterable[str]) -> dict[str, tuple[str, int | None]]:
    """The layers of one of our networks by diffusers' names, as its weights' names have them without `.weight`.

    Args:
        keys: our names of its tensors.

    Returns:
        Our key of each one's weight, and which third of the weight's rows it is where diffusers has three layers; else None.
    """
    names = _Names.of_ours(keys)
    layers: dict[str, tuple[str, int | None]] = {}
    for key in (key for key in keys if key.endswith(".weight")):
        parts = dict(zip(_Q_K_V, range(3), strict=True)) if key == _QKV else {key: None}
        for part, third in parts.items():
            layers[names.rename(part, to_ours=False).removesuffix(".weight")] = (key, third)
    return layers


_QKV = "local_temporal_encoder.layers.0.0.fn.to_qkv.weight"
_Q_K_V = [_QKV.replace("to_qkv", name) for name in ("to_q", "to_k", "to_v")]


def _join_qkv(state: StateDict) -> StateDict:
    def alike(key: str) -> bool:
        first = state.get(_Q_K_V[0])
        return first is not None and key in state and (state[key].shape, state[key].dtype) == (first.shape, first.dtype)

    if all(alike(key) and state[key].ndim == 2 for key in _Q_K_V):
        state[_QKV] = torch.cat([state.pop(key) for key in _Q_K_V])
    return state


def _split_qkv(state: StateDict) -> StateDict:
    if _QKV not in state:
        return state
    parts = dict(zip(_Q_K_V, state[_QKV].chunk(3), strict=True))
    return {key: value for key, value in state.items() if key != _QKV} | parts


_EMBEDDINGS = [
    # ours, diffusers
    ("time_embed.0.", "time_embedding.linear_1."),
    ("time_embed.2.", "time_embedding.linear_2."),
    ("fps_embedding.", "fps_embedding."),
    ("context_embedding.", "context_embedding."),
    (GLOBAL_ENCODER, "image_latents_context_embedding."),
    ("local_image_concat.", "image_latents_proj_in."),
    ("local_temporal_encoder.layers.0.0.norm.", "image_latents_temporal_encoder.norm1."),
    ("local_temporal_encoder.layers.0.0.fn.", "image_latents_temporal_encoder.attn1."),
    ("local_temporal_encoder.layers.0.1.net.0.0.", "image_latents_temporal_encoder.ff.net.0.proj."),
    ("local_temporal_encoder.layers.0.1.net.2.", "image_latents_temporal_encoder.ff.net.2."),
    ("input_blocks.0.0.", "conv_in."),
    ("input_blocks.0.1.", "transformer_in."),
    ("out.0.", "conv_norm_out."),
    ("out.2.", "conv_out."),
]

_RES_BLOCK = [
    ("in_layers.0.", "norm1."),
    ("in_layers.2.", "conv1."),
    ("emb_layers.1.", "time_emb_proj."),
    ("out_layers.0.", "norm2."),
    ("out_layers.3.", "conv2."),
    ("skip_connection.", "conv_shortcut."),
]


class _Names:
    """The prefixes of one network in both layouts, for a number of levels and of blocks a level."""

    def __init__(self, levels: int, blocks: int):
        pairs = list(_EMBEDDINGS)
        for level in range(levels):
            first = 1 + level * (blocks + 1)
            for j in range(blocks):
                pairs += self._block(f"input_blocks.{first + j}", f"down_blocks.{level}", j)
            pairs.append((f"input_blocks.{first + blocks}.op.", f"down_blocks.{level}.downsamplers.0.conv."))
            for j in range(blocks + 1):
                ours = f"output_blocks.{level * (blocks + 1) + j}"
                pairs += self._block(ours, f"up_blocks.{level}", j)
                if j == blocks:
                    pairs += [(f"{ours}.{at}.conv.", f"up_blocks.{level}.upsamplers.0.conv.") for at in (1, 3)]
        pairs += self._block("middle_block", "mid_block", 0)
        pairs += self._res_block("middle_block.3.", "mid_block.", 1)
        self._pairs = pairs

    def _block(self, ours: str, theirs: str, number: int) -> list[tuple[str, str]]:
        return [
            *self._res_block(f"{ours}.0.", f"{theirs}.", number),
            (f"{ours}.1.", f"{theirs}.attentions.{number}."),
            (f"{ours}.2.", f"{theirs}.temp_attentions.{number}."),
        ]

    def _res_block(self, ours: str, theirs: str, number: int) -> list[tuple[str, str]]:
        resnet = [(ours + a, f"{theirs}resnets.{number}.{b}") for a, b in _RES_BLOCK]
        return [*resnet, (f"{ours}temopral_conv.", f"{theirs}temp_convs.{number}.")]

    @classmethod
    def of_diffusers(cls, state: StateDict) -> _Names:
        levels = {int(m[1]) for key in state if (m := re.match(r"down_blocks\.(\d{1,3})\.", key))}
        blocks = {int(m[1]) for key in state if (m := re.match(r"down_blocks\.0\.resnets\.(\d{1,3})\.", key))}
        if not 0 < len(levels) * len(blocks) <= _MOST_BLOCKS:
            expected, found = f"1 to {_MOST_BLOCKS} down_blocks.*", f"{len(levels)} levels of {len(blocks)} blocks"
            raise CheckpointError("diffusers layout", expected, found, "Use the folder's unet file.")
        names = cls(len(levels), len(blocks))
        # An upsampler follows a transformer where its level has one.
        names._with_upsamplers({level for level in levels if f"up_blocks.{level}.attentions.0.norm.weight" in state})
        return names

    @classmethod
    def of_ours(cls, keys: Iterable[str]) -> _Names:
        keys = list(keys)
        downs = sorted(int(m[1]) for key in keys if (m := re.match(r"input_blocks\.(\d+)\.op\.weight", key)))
        if not downs:
            found = ", ".join(keys[:3])
            raise CheckpointError("state dict", "input_blocks.*.op.weight", found, "Use a network of this project.")
        return cls(len(downs) + 1, downs[0] - 1)

    def _with_upsamplers(self, attention_levels: set[int]) -> None:
        def keep(ours: str, theirs: str) -> bool:
            found = re.match(r"up_blocks\.(\d+)\.upsamplers", theirs)
            return not found or ours.split(".")[2] == ("3" if int(found[1]) in attention_levels else "1")

        self._pairs = [pair for pair in self._pairs if keep(*pair)]

    def rename(self, key: str, to_ours: bool) -> str:
        candidates = [(ours, theirs) if to_ours else (theirs, ours) for ours, theirs in self._pairs]
        matches = [(new, old) for new, old in candidates if key.startswith(old)]
        if not matches:
            raise CheckpointError(
                f"tensor {named(key)}", "a name of the UNetSD family", "this one", "Use the released file."
            )
        new, old = max(matches, key=lambda match: len(match[1]))
        return new + key[len(old) :]
