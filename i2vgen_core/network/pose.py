"""What Animate-X has beside UniAnimate: body points as tokens of each frame, and attention to them (IPI_module.py, util.py).

A driving video's body points go through a small transformer over the frames and become four tokens a frame; those and the
CLIP embedding of the frame's picture go through a resampler. In every block the frames then attend to their own tokens.
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ..config import PoseConfig, UNetConfig
from .attention import scaled_dot_product_attention
from .blocks import Layers, SpatialTransformer, at_once
from .evaluation import Evaluation
from .hooks import BlockName

_HEADS = 8
"""Of the transformer over the frames; they leave no trace in shapes."""


def sine_table(frames: int, width: int, like: Tensor) -> Tensor:
    """Sines and cosines in turn of a frame's number at `width / 2` frequencies from 1 down to 1/10000: [frames, width]."""
    frequencies = 10000.0 ** -(torch.arange(0, width, 2, dtype=torch.float64) / width)
    angles = torch.outer(torch.arange(frames, dtype=torch.float64), frequencies)
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1).to(like)


class _Attention(nn.Module):
    def __init__(self, width: int, layers: Layers):
        super().__init__()
        self.in_proj = layers.linear(width, 3 * width)
        self.out_proj = layers.linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.in_proj(x).chunk(3, dim=-1)
        return self.out_proj(scaled_dot_product_attention(q, k, v, _HEADS))


class _EncoderLayer(nn.Module):
    """Attention over the frames and two linear layers, each followed by its norm."""

    def __init__(self, config: PoseConfig, layers: Layers):
        super().__init__()
        self.self_attn = _Attention(config.width, layers)
        self.linear1 = layers.linear(config.width, config.hidden)
        self.linear2 = layers.linear(config.hidden, config.width)
        self.norm1 = layers.layer_norm(config.width)
        self.norm2 = layers.layer_norm(config.width)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm1(x + self.self_attn(x))
        return self.norm2(x + self.linear2(F.relu(self.linear1(x))))


class _Encoder(nn.Module):
    def __init__(self, config: PoseConfig, layers: Layers):
        super().__init__()
        self.layers = nn.ModuleList([_EncoderLayer(config, layers) for _ in range(config.layers)])


class PointEncoder(nn.Module):
    """Body points to tokens of each frame (Animate-X: `pose_embedding_before`)."""

    def __init__(self, config: PoseConfig, tokens: int, layers: Layers):
        super().__init__()
        width = config.width
        self.increase_embed_dim = nn.Sequential(
            layers.linear(2 * config.points, width // 2), layers.linear(width // 2, width)
        )
        self.encoder = _Encoder(config, layers)
        self.pre_image_condition_p = nn.Sequential(
            layers.linear(width, width), nn.SiLU(), layers.linear(width, tokens * width)
        )
        self.tokens = tokens

    def forward(self, points: Tensor) -> Tensor:
        """Points [b, f, 2, n], x's and then y's as shares of the picture's sides, -1 where they are missing, to tokens
        [(b f), tokens, width]."""
        x = self.increase_embed_dim(points.flatten(2))
        x = x + sine_table(x.shape[1], x.shape[2], x)
        for layer in self.encoder.layers:
            x = layer(x)
        return rearrange(self.pre_image_condition_p(x), "b f (n c) -> (b f) n c", n=self.tokens)


class _PerceiverAttention(nn.Module):
    """Of queries to a picture's features and to themselves."""

    def __init__(self, width: int, inner: int, heads: int, layers: Layers):
        super().__init__()
        self.heads = heads
        self.norm1 = layers.layer_norm(width)
        self.norm2 = layers.layer_norm(width)
        self.to_q = layers.linear(width, inner, bias=False)
        self.to_kv = layers.linear(width, 2 * inner, bias=False)
        self.to_out = layers.linear(inner, width, bias=False)

    def forward(self, picture: Tensor, queries: Tensor) -> Tensor:
        normed = self.norm2(queries)
        k, v = self.to_kv(torch.cat([self.norm1(picture), normed], dim=1)).chunk(2, dim=-1)
        return self.to_out(scaled_dot_product_attention(self.to_q(normed), k, v, self.heads))


class MotionResampler(nn.Module):
    """A frame's pose tokens, told by its picture (Animate-X: `pose_embedding_after`)."""

    def __init__(self, config: UNetConfig, poses: PoseConfig, layers: Layers):
        super().__init__()
        width, inner = poses.width, poses.resampler_width

        def layer() -> nn.Module:
            attention = _PerceiverAttention(width, inner, inner // config.head_dim, layers)
            wide, narrow = layers.linear(width, 4 * width, bias=False), layers.linear(4 * width, width, bias=False)
            return nn.ModuleList([attention, nn.Sequential(layers.layer_norm(width), wide, nn.GELU(), narrow)])

        self.latents = layers.parameter(1, config.image_tokens, width)
        self.proj_in = layers.linear(config.image_dim, width)
        self.layers = nn.ModuleList([layer() for _ in range(poses.resampler_layers)])
        self.proj_out = layers.linear(width, config.context_dim)
        self.norm_out = layers.layer_norm(config.context_dim)

    def forward(self, tokens: Tensor, embedding: Tensor) -> Tensor:
        """Tokens [n, t, width] and the CLIP embedding of each frame's picture [n, 1, image_dim] to tokens
        [n, t, context_dim]."""
        picture, x = self.proj_in(embedding), self.latents.to(tokens) + tokens
        for attention, feed_forward in cast("list[nn.ModuleList]", list(self.layers)):
            x = attention(picture, x) + x
            x = feed_forward(x) + x
        return self.norm_out(self.proj_out(x))


class PoseAttention(SpatialTransformer):
    """Attention within each frame, and of each frame to the tokens that it has to itself."""

    OVER = ("poses", "poses")

    def forward(self, x: Tensor, evaluation: Evaluation) -> Tensor:
        """x [(b f), c, h, w]."""
        hooks, context = evaluation.hooks.attention, evaluation.pose_context(self.block)
        few = len(x) if hooks.whole else at_once(x[0], len(x))
        parts = [
            self._frames(part, hooks, context[slice(few * number, few * (number + 1))], 1)
            for number, part in enumerate(x.split(few))
        ]
        return rearrange(torch.cat(parts), "n (h w) c -> n c h w", h=x.shape[2]) + x


class PosedTransformer(SpatialTransformer):
    """A spatial transformer, and attention to the poses after it."""

    def __init__(
        self, block: BlockName, channels: int, heads: int, context_dim: int, layers: Layers, gated: bool = False
    ):
        super().__init__(block, channels, heads, context_dim, layers, gated)
        self.pose_attention = PoseAttention(block, channels, heads, context_dim, layers)

    def forward(self, x: Tensor, evaluation: Evaluation) -> Tensor:
        """As in SpatialTransformer."""
        return self.pose_attention(super().forward(x, evaluation), evaluation)
