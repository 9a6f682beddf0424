"""The way down and the middle of the UNet, which its control branch has too."""

from __future__ import annotations

from typing import Literal

from torch import nn

from ..config import UNetConfig
from .blocks import Block, Downsample, FirstBlock, Layers, ResBlock, SpatialTransformer, TemporalTransformer
from .hooks import BlockName
from .pose import PosedTransformer


def time_embedding(config: UNetConfig, layers: Layers) -> nn.Sequential:
    """Two layers between the sinusoids of a number and the embedding that blocks read."""
    width = 4 * config.model_channels
    return nn.Sequential(layers.linear(config.model_channels, width), nn.SiLU(), layers.linear(width, width))


def block_parts(
    config: UNetConfig, name: BlockName, inputs: int, outputs: int, attention: bool, layers: Layers
) -> list[nn.Module]:
    """What a block is made of: a residual block, and two transformers where its level has attention."""
    made: list[nn.Module] = [ResBlock(name, inputs, outputs, 4 * config.model_channels, layers)]
    if attention:
        heads, gated = outputs // config.head_dim, config.gated
        spatial = SpatialTransformer if config.poses is None else PosedTransformer
        made.append(spatial(name, outputs, heads, config.context_dim, layers, gated))
        made.append(TemporalTransformer(name, outputs, outputs, heads, layers, gated=gated))
    return made


def way_down(
    config: UNetConfig, layers: Layers, way: Literal["input", "control"]
) -> tuple[nn.ModuleList, Block, list[int]]:
    """The blocks on the way down, the middle block, and the channels of what each block on the way down gives.

    Args:
        config: the network's sizes.
        layers: what layers are made of.
        way: whose blocks they are, for their names.
    """
    levels = list(zip(config.channel_mult, config.attention_levels, strict=True))
    channels, heads = config.model_channels, config.first_temporal_heads
    name = BlockName(way, 0)
    pictures = config.concat_channels > 0
    convolution = layers.conv3x3(config.input_channels, channels)
    transformer = TemporalTransformer(name, channels, heads * config.head_dim, heads, layers, pictures, config.gated)
    blocks = nn.ModuleList([FirstBlock(name, [convolution, transformer])])
    given = [channels]
    for level, (multiplier, attention) in enumerate(levels):
        for _ in range(config.num_res_blocks):
            outputs = config.model_channels * multiplier
            name = BlockName(way, len(blocks))
            blocks.append(Block(name, block_parts(config, name, channels, outputs, attention, layers)))
            channels = outputs
            given.append(channels)
        if level < len(levels) - 1:
            padding = (2, 1) if config.is_refiner else (1, 1)
            blocks.append(Downsample(BlockName(way, len(blocks)), channels, padding, layers))
            given.append(channels)
    name = BlockName("middle", 0) if way == "input" else BlockName(way, len(blocks))
    last = ResBlock(name, channels, channels, 4 * config.model_channels, layers)
    middle = Block(name, [*block_parts(config, name, channels, channels, True, layers), last])
    return blocks, middle, given
