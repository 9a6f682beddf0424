"""What the image tells the base network, made once a video and before sampling.

The hierarchical encoders of section 3.2 of the paper: the CLIP image embedding becomes four context tokens, the
learnt global encoder turns the image latent into 64 more, and the detail path puts the image latent beside the noise.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor, nn

from ..config import DetailGain, UNetConfig
from ..errors import InputError
from .attention import scaled_dot_product_attention
from .blocks import Layers

_GLOBAL_GRID = 32


class GlobalEncoder(nn.Sequential):
    """The learnt global encoder: an image latent of any size to 8x8 context tokens (VGen: `local_image_embedding`)."""

    def __init__(self, latent_channels: int, context_dim: int, layers: Layers):
        channels = latent_channels
        super().__init__(
            layers.conv3x3(channels, 8 * channels),
            nn.SiLU(),
            nn.AdaptiveAvgPool2d((_GLOBAL_GRID, _GLOBAL_GRID)),
            layers.conv3x3(8 * channels, 16 * channels, stride=2),
            nn.SiLU(),
            layers.conv3x3(16 * channels, context_dim, stride=2),
        )

    def forward(self, latent: Tensor) -> Tensor:
        """Scaled image latent [b, 4, h, w] to tokens [b, 64, context_dim]."""
        return rearrange(super().forward(latent), "b c h w -> b (h w) c")


class ImageProjection(nn.Sequential):
    """The CLIP image embedding as context tokens (VGen: `context_embedding`, `pre_image_condition`)."""

    def __init__(self, config: UNetConfig, hidden: int, layers: Layers):
        super().__init__(
            layers.linear(config.image_dim, hidden),
            nn.SiLU(),
            layers.linear(hidden, config.context_dim * config.image_tokens),
        )
        self.tokens = config.image_tokens

    def forward(self, embedding: Tensor) -> Tensor:
        """Embedding [b, 1, image_dim], zeros where there is no image, to tokens [b, image_tokens, context_dim]."""
        return rearrange(super().forward(embedding), "b 1 (n c) -> b n c", n=self.tokens)


class DetailConvolutions(nn.Sequential):
    """Three convolutions over each frame of the detail video (VGen: `local_image_concat`)."""

    def __init__(self, channels: int, layers: Layers):
        super().__init__(
            layers.conv3x3(channels, 4 * channels),
            nn.SiLU(),
            layers.conv3x3(4 * channels, 4 * channels),
            nn.SiLU(),
            layers.conv3x3(4 * channels, channels),
        )


class _QKVAttention(nn.Module):
    def __init__(self, width: int, heads: int, head_dim: int, layers: Layers):
        super().__init__()
        self.heads = heads
        self.to_qkv = layers.linear(width, 3 * heads * head_dim, bias=False)
        self.to_out = nn.Sequential(layers.linear(heads * head_dim, width))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.to_qkv(x).chunk(3, dim=-1)
        return self.to_out(scaled_dot_product_attention(q, k, v, self.heads))


class _PreNormAttention(nn.Module):
    def __init__(self, width: int, heads: int, head_dim: int, layers: Layers):
        super().__init__()
        self.norm = layers.layer_norm(width)
        self.fn = _QKVAttention(width, heads, head_dim, layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.fn(self.norm(x)) + x


class _FeedForward(nn.Module):
    def __init__(self, width: int, layers: Layers):
        super().__init__()
        project = nn.Sequential(layers.linear(width, 4 * width), nn.GELU())
        self.net = nn.Sequential(project, nn.Identity(), layers.linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x) + x


class DetailTransformer(nn.Module):
    """A small transformer over the frames at each place of the detail video (VGen: `local_temporal_encoder`)."""

    HEADS = 2

    def __init__(self, width: int, layers: Layers):
        super().__init__()
        block = nn.Sequential(_PreNormAttention(width, self.HEADS, width, layers), _FeedForward(width, layers))
        self.layers = nn.Sequential(block)

    def forward(self, x: Tensor) -> Tensor:
        """x [n, frames, width]."""
        return self.layers(x)


@dataclass(frozen=True)
class DetailEncoder:
    """The detail path: what is concatenated to the noisy latent. A view on two modules of the base network."""

    convolutions: nn.Module
    transformer: nn.Module
    gain: DetailGain = "official"

    def __call__(self, latent: Tensor, frames: int) -> Tensor:
        """Scaled image latent [b, 4, h, w] to detail features [(b f), 4, h, w]."""
        b, _, h, w = latent.shape
        y = self.convolutions(rearrange(position_ramp(latent, frames), "b f c h w -> (b f) c h w"))
        y = self.transformer(rearrange(y, "(b f) c h w -> (b h w) f c", b=b))
        y = rearrange(y, "(b h w) f c -> (b f) c h w", h=h, w=w)
        return 2 * y if self.gain == "official" else y


def position_ramp(latent: Tensor, frames: int) -> Tensor:
    """The detail video [b, f, 4, h, w]: the image latent [b, 4, h, w], then frame i of F constant at i / (F - 1)."""
    if frames < 1:
        raise InputError("frames", "at least 1", str(frames), "Ask for one frame or more.")
    ramp = torch.arange(1, frames, dtype=latent.dtype, device=latent.device) / max(frames - 1, 1)
    later = ramp[None, :, None, None, None].expand(len(latent), -1, *latent.shape[1:])
    return torch.cat([latent[:, None], later], dim=1)
