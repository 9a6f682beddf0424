"""The blocks of the UNetSD family (VGen, tools/modules/unet/util.py).

Everything works on frames as the batch, [(b f), c, h, w]; what mixes frames gets their number. Attribute names are the
release's, its spelling of `temopral_conv` included, so that a state dict reads alike on both sides. Weights of the
release's 1x1 and (3, 1, 1) convolutions are kept without their trailing axes of size one (see checkpoints/unet_keys.py). Tokens are made contiguous before a linear layer: on strided ones torch
expands the weight instead.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from .attention import Attention
from .hooks import Hooks

GROUPS = 32

Over = Literal["places", "context", "frames"]
"""What an attention layer attends to: the places of a frame, the context, the frames at a place."""


class Layers:
    """The layer constructors of a namespace, with the type and device of the weights bound.

    Args:
        operations: a namespace with Linear, Conv2d, GroupNorm and LayerNorm; `torch.nn`, or the host's own.
        dtype: type of the weights; torch's default if None.
        device: where they are made; `meta` makes none.
    """

    def __init__(
        self, operations: Any = nn, dtype: torch.dtype | None = None, device: torch.device | str | None = None
    ):
        place = {"dtype": dtype, "device": device}
        self.linear = partial(operations.Linear, **place)
        self.conv2d = partial(operations.Conv2d, **place)
        self.layer_norm = partial(operations.LayerNorm, **place)
        self.group_norm = partial(operations.GroupNorm, GROUPS, **place)

    def conv3x3(self, inputs: int, outputs: int, stride: int = 1, padding: int | tuple[int, int] = 1) -> nn.Module:
        return self.conv2d(inputs, outputs, 3, stride=stride, padding=padding)


def sinusoidal_embedding(positions: Tensor, width: int) -> Tensor:
    """Cosines, then sines, of `positions` [b] at `width / 2` frequencies from 1 down to 1/10000: [b, width], float32."""
    half = width // 2
    frequencies = 10000.0 ** -(torch.arange(half, dtype=torch.float32, device=positions.device) / half)
    angles = torch.outer(positions.float(), frequencies)
    return torch.cat([angles.cos(), angles.sin()], dim=1)


class MultiHeadAttention(nn.Module):
    """Attention of tokens to a context, or to themselves."""

    def __init__(self, over: Over, width: int, context_dim: int, heads: int, layers: Layers):
        super().__init__()
        self.over, self.heads = over, heads
        self.to_q = layers.linear(width, width, bias=False)
        self.to_k = layers.linear(context_dim, width, bias=False)
        self.to_v = layers.linear(context_dim, width, bias=False)
        self.to_out = nn.Sequential(layers.linear(width, width))

    def forward(self, x: Tensor, context: Tensor, attention: Attention) -> Tensor:
        """Tokens x [n, t, c]; context [b, m, d] is shared by n / b consecutive sequences, which are all frames of a video.
        They make one sequence here, so that keys and values are made once a video, not once a frame."""
        queries = self.to_q(rearrange(x, "(b f) t c -> b (f t) c", b=len(context)))
        return self.to_out(attention(queries, self.to_k(context), self.to_v(context), self.heads)).view(x.shape)


class GEGLU(nn.Module):
    """A linear layer whose second half gates the first (arXiv 2002.05202)."""

    def __init__(self, width: int, hidden: int, layers: Layers):
        super().__init__()
        self.proj = layers.linear(width, 2 * hidden)

    def forward(self, x: Tensor) -> Tensor:
        x, gate = self.proj(x).chunk(2, dim=-1)
        return x * F.gelu(gate)


class FeedForward(nn.Module):
    def __init__(self, width: int, layers: Layers):
        super().__init__()
        self.net = nn.Sequential(GEGLU(width, 4 * width, layers), nn.Identity(), layers.linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class TransformerBlock(nn.Module):
    """Self-attention, attention to the context (to itself again where there is none), feed-forward."""

    def __init__(self, width: int, heads: int, context_dim: int | None, layers: Layers):
        super().__init__()
        over: tuple[Over, Over] = ("frames", "frames") if context_dim is None else ("places", "context")
        self.attn1 = MultiHeadAttention(over[0], width, width, heads, layers)
        self.ff = FeedForward(width, layers)
        self.attn2 = MultiHeadAttention(over[1], width, context_dim or width, heads, layers)
        self.norm1 = layers.layer_norm(width)
        self.norm2 = layers.layer_norm(width)
        self.norm3 = layers.layer_norm(width)

    def forward(self, x: Tensor, context: Tensor | None, hooks: Hooks) -> Tensor:
        """Tokens x [n, t, c]; context [b, m, d] is shared by the n / b consecutive sequences of a video."""
        y = self.norm1(x)
        x = hooks.attend(self.attn1, y, y) + x
        y = self.norm2(x)
        x = hooks.attend(self.attn2, y, y if context is None else context) + x
        return self.ff(self.norm3(x)) + x


class SpatialTransformer(nn.Module):
    """Attention within each frame, and of each frame to the context."""

    def __init__(self, channels: int, heads: int, context_dim: int, layers: Layers):
        super().__init__()
        self.norm = layers.group_norm(channels, eps=1e-6)
        self.proj_in = layers.linear(channels, channels)
        self.transformer_blocks = nn.ModuleList([TransformerBlock(channels, heads, context_dim, layers)])
        self.proj_out = layers.linear(channels, channels)

    def forward(self, x: Tensor, context: Tensor, hooks: Hooks) -> Tensor:
        """x [(b f), c, h, w], context [b, m, d]."""
        tokens = self.proj_in(rearrange(self.norm(x), "n c h w -> n (h w) c").contiguous())
        for block in self.transformer_blocks:
            tokens = block(tokens, context, hooks)
        return rearrange(self.proj_out(tokens), "n (h w) c -> n c h w", h=x.shape[2]) + x


class TemporalTransformer(nn.Module):
    """Attention over the frames at each place of the image. Its norm takes its statistics over the whole video."""

    def __init__(self, channels: int, width: int, heads: int, layers: Layers):
        super().__init__()
        self.norm = layers.group_norm(channels, eps=1e-6)
        self.proj_in = layers.linear(channels, width)
        self.transformer_blocks = nn.ModuleList([TransformerBlock(width, heads, None, layers)])
        self.proj_out = layers.linear(width, channels)

    def forward(self, x: Tensor, frames: int, hooks: Hooks) -> Tensor:
        """x [(b f), c, h, w]."""
        _, _, h, w = x.shape
        y = self.norm(rearrange(x, "(b f) c h w -> b c f (h w)", f=frames))
        tokens = self.proj_in(rearrange(y, "b c f s -> (b s) f c").contiguous())
        for block in self.transformer_blocks:
            tokens = block(tokens, None, hooks)
        return rearrange(self.proj_out(tokens), "(b h w) f c -> (b f) c h w", h=h, w=w) + x


class TemporalConv(nn.Module):
    """Four convolutions over time, with norms over the whole video."""

    def __init__(self, channels: int, layers: Layers):
        super().__init__()

        def conv() -> nn.Module:
            return layers.conv2d(channels, channels, (3, 1), padding=(1, 0))

        self.conv1 = nn.Sequential(layers.group_norm(channels), nn.SiLU(), conv())
        self.conv2 = nn.Sequential(layers.group_norm(channels), nn.SiLU(), nn.Identity(), conv())
        self.conv3 = nn.Sequential(layers.group_norm(channels), nn.SiLU(), nn.Identity(), conv())
        self.conv4 = nn.Sequential(layers.group_norm(channels), nn.SiLU(), nn.Identity(), conv())

    def forward(self, x: Tensor, frames: int) -> Tensor:
        """x [(b f), c, h, w]."""
        _, _, h, w = x.shape
        video = rearrange(x, "(b f) c h w -> b c f (h w)", f=frames)
        y = self.conv4(self.conv3(self.conv2(self.conv1(video))))
        return rearrange(y, "b c f (h w) -> (b f) c h w", h=h, w=w) + x


class ResBlock(nn.Module):
    """Two spatial convolutions with the time embedding between them, then the temporal convolutions."""

    def __init__(self, channels: int, outputs: int, embedding: int, layers: Layers):
        super().__init__()
        self.in_layers = nn.Sequential(layers.group_norm(channels), nn.SiLU(), layers.conv3x3(channels, outputs))
        self.emb_layers = nn.Sequential(nn.SiLU(), layers.linear(embedding, outputs))
        self.out_layers = nn.Sequential(
            layers.group_norm(outputs), nn.SiLU(), nn.Identity(), layers.conv3x3(outputs, outputs)
        )
        self.skip_connection = nn.Identity() if outputs == channels else layers.conv2d(channels, outputs, 1)
        self.temopral_conv = TemporalConv(outputs, layers)

    def forward(self, x: Tensor, embedding: Tensor, frames: int) -> Tensor:
        """x [(b f), c, h, w], embedding [b, e]."""
        shift = self.emb_layers(embedding).repeat_interleave(frames, dim=0)[..., None, None]
        y = self.out_layers(self.in_layers(x) + shift)
        return self.temopral_conv(self.skip_connection(x) + y, frames)


class Downsample(nn.Module):
    """Halves the size. The refiners pad the height by two, which adds a row."""

    def __init__(self, channels: int, padding: tuple[int, int], layers: Layers):
        super().__init__()
        self.op = layers.conv3x3(channels, channels, stride=2, padding=padding)

    def forward(self, x: Tensor) -> Tensor:
        return self.op(x)


class Upsample(nn.Module):
    """Doubles the size to that of the features it will meet. The refiners drop the first and the last row on the way."""

    def __init__(self, channels: int, drop_rows: bool, layers: Layers):
        super().__init__()
        self.drop_rows = drop_rows
        self.conv = layers.conv3x3(channels, channels)

    def forward(self, x: Tensor, size: torch.Size) -> Tensor:
        """x [n, c, h, w] to [n, c, *size]; size is (2h, 2w), one less where the way down rounded up."""
        if self.drop_rows:
            return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest")[:, :, 1:-1])
        return self.conv(F.interpolate(x, size=size, mode="nearest"))


def fourier_filter(x: Tensor, scale: float) -> Tensor:
    """Multiplies the lowest frequencies of [n, c, h, w], -1 and 0 cycles a side, by `scale` (FreeU, arXiv 2309.11497;
    VGen, unet_sr600.py: Fourier_filter with threshold 1)."""
    spectrum = torch.fft.fftn(x.float(), dim=(-2, -1))
    for row in {0, x.shape[-2] - 1}:
        for column in {0, x.shape[-1] - 1}:
            spectrum[..., row, column] *= scale
    return torch.fft.ifftn(spectrum, dim=(-2, -1)).real.to(x.dtype)
