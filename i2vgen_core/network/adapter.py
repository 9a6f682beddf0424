"""Ctrl-Adapter: what Stable Diffusion 1.5's ControlNets see of each frame, made to steer the video network (arXiv 2404.09967;
model/ctrl_adapter.py and model/adapter_spatial_temporal.py).

Each of a ControlNet's features goes through an adapter of its own, which knows the frames' order, and is added to the
feature of the network's that the way up meets. Attribute names are the release's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor, nn

from ..config import UNetConfig
from .attention import scaled_dot_product_attention
from .blocks import FeedForward, Layers, per_condition
from .hooks import BlockHooks, BlockName

_EPS = 1e-6


def steered_channels(config: UNetConfig) -> list[int]:
    """Channels of what a network hands up: of each block on the way down, and of the middle."""
    widths = [config.model_channels]
    for level, multiplier in enumerate(config.channel_mult):
        last = level == len(config.channel_mult) - 1
        widths += [config.model_channels * multiplier] * (config.num_res_blocks + (not last))
    return [*widths, widths[-1]]


@dataclass(frozen=True)
class AdapterSize:
    """Sizes of one adapter.

    Args:
        channels: of the features.
        width: of its tokens.
        token_dim: width of the CLIP image embedding.
        heads: of its attention; they are channels / heads wide.
    """

    channels: int
    width: int
    token_dim: int
    heads: int


def timestep_sinusoid(numbers: Tensor, width: int) -> Tensor:
    """Cosines, then sines, of numbers [n] as diffusers' networks have them: [n, width], float32.

    The exponents are float32's, as there. Their exponential is rounded once, from float64: torch's own in float32 is a last
    digit off on some processors, which angles of hundreds make 1e-5 of what follows.
    """
    half = width // 2
    exponents = -math.log(10000) * torch.arange(half, dtype=torch.float32) / half
    frequencies = exponents.double().exp().float().to(numbers.device)
    angles = numbers.float()[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=1)


class _TimeEmbedding(nn.Module):
    def __init__(self, inputs: int, width: int, layers: Layers):
        super().__init__()
        self.inputs = inputs
        self.linear_1 = layers.linear(inputs, width)
        self.linear_2 = layers.linear(width, width)

    def forward(self, numbers: Tensor, dtype: torch.dtype) -> Tensor:
        """Numbers [n] to [n, width]."""
        embedded = timestep_sinusoid(numbers, self.inputs).to(dtype)
        return self.linear_2(F.silu(self.linear_1(embedded)))


class _ResBlock(nn.Module):
    """Two convolutions with the time between them: within frames, or over frames."""

    def __init__(self, channels: int, over_frames: bool, layers: Layers):
        super().__init__()
        size, padding = ((3, 1), (1, 0)) if over_frames else ((3, 3), (1, 1))
        self.norm1 = layers.group_norm(channels, eps=_EPS)
        self.conv1 = layers.conv2d(channels, channels, size, padding=padding)
        self.time_emb_proj = layers.linear(channels, channels)
        self.norm2 = layers.group_norm(channels, eps=_EPS)
        self.conv2 = layers.conv2d(channels, channels, size, padding=padding)
        self.conv_shortcut = nn.Identity() if over_frames else layers.conv2d(channels, channels, 1)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """x [(b f), c, h, w], or [b, c, f, (h w)] over frames; time [1, c]."""
        y = self.conv1(F.silu(self.norm1(x))) + self.time_emb_proj(F.silu(time))[..., None, None]
        return self.conv_shortcut(x) + self.conv2(F.silu(self.norm2(y)))


class _Blend(nn.Module):
    def __init__(self, layers: Layers):
        super().__init__()
        self.mix_factor = layers.parameter(1)

    def forward(self, spatial: Tensor, temporal: Tensor) -> Tensor:
        share = torch.sigmoid(self.mix_factor).to(spatial)
        return share * spatial + (1 - share) * temporal


class _SelfAttention(nn.Module):
    def __init__(self, size: AdapterSize, layers: Layers):
        super().__init__()
        self.heads = size.heads
        self.to_q, self.to_k, self.to_v = (layers.linear(size.width, size.channels, bias=False) for _ in range(3))
        self.to_out = nn.Sequential(layers.linear(size.channels, size.width))

    def forward(self, x: Tensor) -> Tensor:
        """Tokens [n, t, width]."""
        return self.to_out(scaled_dot_product_attention(self.to_q(x), self.to_k(x), self.to_v(x), self.heads))


class _TokenAttention(nn.Module):
    """Attention to a single token is that token's value, whatever queries and keys are; the release's are not read."""

    def __init__(self, size: AdapterSize, layers: Layers):
        super().__init__()
        self.to_v = layers.linear(size.token_dim, size.channels, bias=False)
        self.to_out = nn.Sequential(layers.linear(size.channels, size.width))

    def forward(self, token: Tensor) -> Tensor:
        """[1, 1, token_dim] to [1, 1, width]."""
        return self.to_out(self.to_v(token))


class _Transformer(nn.Module):
    def __init__(self, size: AdapterSize, over_frames: bool, layers: Layers):
        super().__init__()
        width = size.width
        self.norm_in = layers.layer_norm(width) if over_frames else None
        self.ff_in = FeedForward(width, layers) if over_frames else None
        self.norm1, self.attn1 = layers.layer_norm(width), _SelfAttention(size, layers)
        self.attn2 = _TokenAttention(size, layers)
        self.norm3, self.ff = layers.layer_norm(width), FeedForward(width, layers)

    def forward(self, x: Tensor, token: Tensor) -> Tensor:
        """Tokens [n, t, width], those of a frame or of a place."""
        if self.ff_in is not None and self.norm_in is not None:
            x = self.ff_in(self.norm_in(x)) + x
        x = self.attn1(self.norm1(x)) + x
        x = self.attn2(token) + x
        return self.ff(self.norm3(x)) + x


class SpatioTemporalAdapter(nn.Module):
    """One adapter: residual blocks and transformers, within frames and over frames, each pair blended by a learnt share."""

    def __init__(self, size: AdapterSize, layers: Layers):
        super().__init__()
        channels, width = size.channels, size.width
        self.resnet_time_embedding = _TimeEmbedding(channels, channels, layers)
        self.spatial_resnets = nn.ModuleList([_ResBlock(channels, False, layers)])
        self.temporal_resnets = nn.ModuleList([_ResBlock(channels, True, layers)])
        self.resnets_time_mixer = nn.ModuleList([_Blend(layers)])
        self.norm = layers.group_norm(channels, eps=_EPS)
        self.proj_in = layers.linear(channels, width)
        self.transformer_time_embedding = _TimeEmbedding(channels, width, layers)
        self.spatial_attentions = nn.ModuleList([_Transformer(size, False, layers)])
        self.temporal_attentions = nn.ModuleList([_Transformer(size, True, layers)])
        self.transformers_time_mixer = nn.ModuleList([_Blend(layers)])
        self.proj_out = layers.linear(width, channels)

    def forward(self, x: Tensor, t: Tensor, token: Tensor, frames: int) -> Tensor:
        """Features of videos [(b f), c, h, w] to what steers the network, of the same shape.

        Args:
            x: a ControlNet's features.
            t: timestep [1].
            token: the CLIP image embedding [1, 1, token_dim], of all videos.
            frames: f; they are numbered from 0, wherever they stand in the video.
        """
        height, width = x.shape[2:]
        time = self.resnet_time_embedding(t, x.dtype)
        spatial = self.spatial_resnets[0](x, time)
        videos = rearrange(spatial, "(b f) c h w -> b c f (h w)", f=frames)
        temporal = rearrange(self.temporal_resnets[0](videos, time), "b c f (h w) -> (b f) c h w", h=height)
        x = self.resnets_time_mixer[0](spatial, temporal)

        tokens = self.proj_in(rearrange(self.norm(x), "n c h w -> n (h w) c"))
        spatial = self.spatial_attentions[0](tokens, token)
        numbers = self.transformer_time_embedding(torch.arange(frames, device=x.device), x.dtype)
        numbered = spatial + repeat(numbers, "f d -> (b f) 1 d", b=len(x) // frames)
        places = self.temporal_attentions[0](rearrange(numbered, "(b f) s d -> (b s) f d", f=frames), token)
        temporal = rearrange(places, "(b s) f d -> (b f) s d", s=height * width)
        tokens = self.proj_out(self.transformers_time_mixer[0](spatial, temporal))
        return x + rearrange(tokens, "n (h w) c -> n c h w", h=height)


class CtrlAdapter(nn.Module):
    """All adapters of a release: one for each block on the way down and one for the middle.

    Args:
        down: sizes of the first.
        middle: size of the last.
        layers: what layers are made of.
    """

    def __init__(self, down: Sequence[AdapterSize], middle: AdapterSize, layers: Layers):
        super().__init__()
        self.sizes = (*down, middle)
        self.down_blocks_adapter = nn.ModuleList([SpatioTemporalAdapter(size, layers) for size in down])
        self.mid_block_adapter = SpatioTemporalAdapter(middle, layers)

    def forward(
        self,
        features: Sequence[Tensor],
        t: Tensor,
        token: Tensor,
        frames: int,
        key_frames: Sequence[int] = (),
        middle_alone: bool = False,
    ) -> dict[BlockName, Tensor]:
        """What is added to the network's features, by block.

        Args:
            features: a ControlNet's of each block and the middle [(b f), c, h, w], times the strength; where the middle
                runs alone, its own.
            t: timestep [1].
            token: CLIP image embedding [1, 1, token_dim].
            frames: f of each video.
            key_frames: those that go through the adapters, as a video of their own; other frames get 0. All if empty.
            middle_alone: nothing is made for the blocks on the way down.
        """
        adapters = [self.mid_block_adapter] if middle_alone else [*self.down_blocks_adapter, self.mid_block_adapter]
        names = [BlockName("input", number) for number in range(len(adapters) - 1)]
        return {
            name: _at_key_frames(adapter, x, t, token, frames, key_frames)
            for name, adapter, x in zip([*names, BlockName("middle", 0)], adapters, features, strict=True)
        }


def _at_key_frames(
    adapter: nn.Module, x: Tensor, t: Tensor, token: Tensor, frames: int, key_frames: Sequence[int]
) -> Tensor:
    if not key_frames:
        return adapter(x, t, token, frames)
    videos, at = x.unflatten(0, (-1, frames)), list(key_frames)
    made = adapter(videos[:, at].flatten(0, 1), t, token, len(at))
    placed = torch.zeros_like(videos)
    placed[:, at] = made.unflatten(0, (-1, len(at)))
    return placed.flatten(0, 1)


class Steered(BlockHooks):
    """One evaluation with what an adapter has made of a control.

    Args:
        added: see CtrlAdapter, for the rows of the evaluation.
    """

    def __init__(self, added: Mapping[BlockName, Tensor]):
        self._added = added

    def hand_up(self, block: BlockName, x: Tensor) -> Tensor:
        if block not in self._added:
            return x
        added = self._added[block]
        return per_condition(x, len(added) // len(x)) + added.to(x)
