"""What the checks of all golden folders have in common: networks of their cases, forms of tensors, made photos, limits."""

from __future__ import annotations

import math
from functools import cache
from types import ModuleType
from typing import Any

from einops import rearrange
from torch import Tensor

from i2vgen_core.checkpoints.load import UNetCheckpoint
from i2vgen_core.checkpoints.unet_keys import GLOBAL_ENCODER, from_official, to_official
from i2vgen_core.config import Kind, UNetConfig
from i2vgen_core.network.blocks import Layers
from i2vgen_core.network.image_conditioning import GlobalEncoder
from i2vgen_core.network.unet import UNet
from i2vgen_core.releases import RELEASES

EXACT = 1e-5
LOOP = 1e-4
"""Limit where a whole sampling loop ran."""

Values = dict[str, tuple[Tensor, float]]
"""Ours, and the limit of max|ours - golden| / max|golden|; a limit of 1 or more is an absolute one (of 255)."""


def unet_config(kind: Kind, case: dict[str, Any], **others: Any) -> UNetConfig:
    levels = range(len(case["multipliers"]))
    context_dim = case.get("context_dim", UNetConfig.context_dim)
    return UNetConfig(
        kind=kind,
        in_channels=case.get("in_channels", UNetConfig.in_channels),
        model_channels=case["model_channels"],
        channel_mult=tuple(case["multipliers"]),
        attention_levels=tuple(2.0**-level in case["attention_scales"] for level in levels),
        num_res_blocks=case["blocks"],
        head_dim=case["head_dim"],
        first_temporal_heads=case["first_temporal_heads"],
        context_dim=context_dim,
        image_dim=context_dim,
        **others,
    )


def official_shapes(config: UNetConfig) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a network's file in the official layout, global encoder included."""
    state = dict(UNet(config, device="meta").state_dict())
    if config.reads_details:
        encoder = GlobalEncoder(config.in_channels, config.context_dim, Layers(device="meta"))
        state |= {GLOBAL_ENCODER + key: value for key, value in encoder.state_dict().items()}
    return {key: tuple(value.shape) for key, value in to_official(state).items()}


@cache
def _weight(weights: ModuleType, key: str, shape: tuple[int, ...]) -> Tensor:
    return weights.weight(key, shape)  # most are the same in every network


def official_state(config: UNetConfig, weights: ModuleType) -> dict[str, Tensor]:
    """The golden values' weights of a network's file, by their official names. Not to be changed."""
    return {key: _weight(weights, key, shape) for key, shape in official_shapes(config).items()}


def network_of(config: UNetConfig, weights: ModuleType) -> UNet:
    """A network without a global encoder, with the golden values' weights, from their official names."""
    return UNetCheckpoint(
        config, from_official(official_state(config, weights)), {}, RELEASES[config.kind]
    ).build_network()


def flat(x: Tensor) -> Tensor:
    return rearrange(x, "b c f h w -> (b f) c h w")


def video(x: Tensor, batch: int) -> Tensor:
    return rearrange(x, "(b f) c h w -> b c f h w", b=batch)


def photo(weights: ModuleType, name: str, height: int, width: int) -> Tensor:
    """A made photo [1, height, width, 3] in 0..1, in steps of 1/255."""
    blocks = weights.noise(name, (3, height // 16 + 1, width // 16 + 1))
    blocks = blocks.repeat_interleave(16, 1).repeat_interleave(16, 2)[:, :height, :width]
    x = blocks + 0.15 * weights.noise(f"{name}.grain", (3, height, width))
    levels = ((x / math.sqrt(3) + 1) / 2 * 255).clamp(0, 255).round()
    return levels.permute(1, 2, 0)[None] / 255
