"""The blocks of the UNetSD family (VGen, tools/modules/unet/util.py).

Everything works on frames as the batch, [(b f), c, h, w], kept channels_last: then tokens [n, t, c], the frames of a
place and a video's [b, c, f, (h w)] are views of it, nothing is copied between convolutions, norms and attention, and
linear layers always meet contiguous rows (on strided ones torch expands the weight for every row).

Without gradients, what sees each frame or each place by itself runs on a few of them at a time (`at_once`): memory
holds wide intermediates, such as the feed-forward's eightfold width, of those few alone, and on the CPU they stay in
its cache.

Attribute names are the release's, its spelling of `temopral_conv` included, so that a state dict reads alike on both
sides. Weights of the release's 1x1 and (3, 1, 1) convolutions are kept without their trailing axes of size one (see
checkpoints/unet_keys.py).
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ..memory import even_part
from .attention import Attention
from .hooks import Hooks

GROUPS = 32

_PART_BYTES = {"cpu": 2**21}
_PART_BYTES_ELSEWHERE = 2**22
"""Bytes of a block's input that go through it at once. On the CPU the widest intermediate, eight times as wide, then
stays below what the C library takes from the system anew each time (32 MiB); a GPU wants larger parts to be busy."""

_HEADS_LIMIT = 2**15
"""Heads per call: CUDA's fused kernels put them on a grid axis that ends at 65535."""

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

    def forward(
        self, x: Tensor, context: Tensor, attention: Attention, keys_values: tuple[Tensor, Tensor] | None = None
    ) -> Tensor:
        """Attends over what `over` says.

        Args:
            x: tokens [n, t, c]; over frames [b, f, t, c].
            context: [b, m, d], shared by n / b consecutive sequences, which are all frames of a video; or x itself.
            attention: the attention to use.
            keys_values: of the context, where they are known; made here if None.
        """
        keys, values = keys_values or (self.to_k(context), self.to_v(context))
        if self.over == "frames":
            return self.to_out(_over_frames(self.to_q(x), keys, values, self.heads, attention))
        queries = _video_queries(self.to_q(x), keys)
        return self.to_out(attention(queries, keys, values, self.heads)).view(x.shape)


def _video_queries(queries: Tensor, keys: Tensor) -> Tensor:
    """All frames' queries of a video as one sequence, so that keys and values are there once a video, not once a frame."""
    return rearrange(queries, "(b f) t c -> b (f t) c", b=len(keys))


def _over_frames(q: Tensor, k: Tensor, v: Tensor, heads: int, attention: Attention) -> Tensor:
    """Attention over the frames of each place, [b, f, t, c], without a copy: every place's heads are heads of one
    attention over the frames, as they lie in memory. A sequence for each place would have to be copied together."""
    if (places := _HEADS_LIMIT // heads) < q.shape[2]:
        parts = zip(q.split(places, 2), k.split(places, 2), v.split(places, 2), strict=True)
        return torch.cat([_over_frames(*part, heads, attention) for part in parts], dim=2)
    return attention(q.flatten(2), k.flatten(2), v.flatten(2), q.shape[2] * heads).view(q.shape)


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
        """Tokens [..., c]."""
        tokens = x.flatten(0, -2)
        parts = [self.net(part) for part in tokens.split(at_once(tokens[0], len(tokens)))]
        return (parts[0] if len(parts) == 1 else torch.cat(parts)).view(x.shape)


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

    def forward(
        self,
        x: Tensor,
        context: Tensor | None,
        hooks: Hooks,
        keys_values: tuple[Tensor, Tensor] | None = None,
        conditions: int = 1,
    ) -> Tensor:
        """Tokens x [n, t, c] and context [b, m, d] as in MultiHeadAttention, to [n * conditions, t, c]; without a context
        tokens [b, f, t, c]. `conditions` contexts share each of x's videos, see per_condition."""
        y = self.norm1(x)
        x = per_condition(hooks.attend(self.attn1, y, y) + x, conditions)
        y = self.norm2(x)
        x = hooks.attend(self.attn2, y, y if context is None else context, keys_values) + x
        return self.ff(self.norm3(x)) + x


class SpatialTransformer(nn.Module):
    """Attention within each frame, and of each frame to the context."""

    def __init__(self, channels: int, heads: int, context_dim: int, layers: Layers):
        super().__init__()
        self.norm = layers.group_norm(channels, eps=1e-6)
        self.proj_in = layers.linear(channels, channels)
        self.transformer_blocks = nn.ModuleList([TransformerBlock(channels, heads, context_dim, layers)])
        self.proj_out = layers.linear(channels, channels)

    def keys_values(self, context: Tensor) -> list[Tensor]:
        """Keys and values [b, m, c] of a context [b, m, d], which no step changes."""
        attention = cast(TransformerBlock, self.transformer_blocks[0]).attn2
        return [attention.to_k(context), attention.to_v(context)]

    def forward(
        self, x: Tensor, frames: int, context: Tensor, keys_values: tuple[Tensor, Tensor], hooks: Hooks
    ) -> Tensor:
        """x [(v f), c, h, w], context [b, m, d] and its keys and values, to [(b f), c, h, w]; see per_condition."""
        videos = len(x) // frames
        conditions = len(context) // videos
        few = frames if hooks.sees_tokens else at_once(x[0], frames)
        if few == frames:
            y = self._frames(x, context, keys_values, conditions, hooks)
        else:
            parts = []
            for video, every in enumerate(x.split(frames)):
                keys, values = (each[video::videos] for each in keys_values)
                for part in every.split(few):
                    tokens = self._frames(part, context[video::videos], (keys, values), conditions, hooks)
                    parts.append(tokens.unflatten(0, (conditions, -1)))
            y = torch.cat(parts, dim=1).flatten(0, 1)
        return rearrange(y, "n (h w) c -> n c h w", h=x.shape[2]) + per_condition(x, conditions)

    def _frames(
        self, x: Tensor, context: Tensor, keys_values: tuple[Tensor, Tensor], conditions: int, hooks: Hooks
    ) -> Tensor:
        tokens = self.proj_in(rearrange(self.norm(x), "n c h w -> n (h w) c").contiguous())
        return self.proj_out(self.transformer_blocks[0](tokens, context, hooks, keys_values, conditions))


def per_condition(x: Tensor, conditions: int) -> Tensor:
    """Features [n, ...] of videos for several conditions, [(conditions n), ...].

    The guided halves of a step have the same noisy video and step. Up to the first attention to a context they are the
    same, and computed once.
    """
    return x if conditions == 1 else torch.cat([x] * conditions)


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
        y = rearrange(self.norm(as_videos(x, frames)), "b c f s -> b f s c")
        few = at_once(y[:, :, 0], y.shape[2])
        parts = [self._places(part, hooks) for part in y.split(few, dim=2)]
        y = parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)
        return rearrange(y, "b f (h w) c -> (b f) c h w", h=x.shape[2]) + x

    def _places(self, x: Tensor, hooks: Hooks) -> Tensor:
        tokens = self.proj_in(x.contiguous())
        for block in self.transformer_blocks:
            tokens = block(tokens, None, hooks)
        return self.proj_out(tokens)


class TemporalConv(nn.Module):
    """Four convolutions over time, with norms over the whole video."""

    def __init__(self, channels: int, layers: Layers):
        super().__init__()

        def conv() -> nn.Module:
            return layers.conv2d(channels, channels, (3, 1), padding=(1, 0))

        self.conv1 = nn.Sequential(layers.group_norm(channels), SiLU(), conv())
        self.conv2 = nn.Sequential(layers.group_norm(channels), SiLU(), nn.Identity(), conv())
        self.conv3 = nn.Sequential(layers.group_norm(channels), SiLU(), nn.Identity(), conv())
        self.conv4 = nn.Sequential(layers.group_norm(channels), SiLU(), nn.Identity(), conv())

    def forward(self, x: Tensor, frames: int) -> Tensor:
        """x [(b f), c, h, w]."""
        y = self.conv4(self.conv3(self.conv2(self.conv1(as_videos(x, frames)))))
        return rearrange(y, "b c f (h w) -> (b f) c h w", h=x.shape[2]) + x


def as_videos(x: Tensor, frames: int) -> Tensor:
    """Frames [(b f), c, h, w] as [b, c, f, (h w)], whose 2-D convolutions run over time: much faster than 3-D ones."""
    return rearrange(x, "(b f) c h w -> b c f (h w)", f=frames)


class ResBlock(nn.Module):
    """Two spatial convolutions with the time embedding between them, then the temporal convolutions."""

    def __init__(self, channels: int, outputs: int, embedding: int, layers: Layers):
        super().__init__()
        self.in_layers = nn.Sequential(layers.group_norm(channels), SiLU(), layers.conv3x3(channels, outputs))
        self.emb_layers = nn.Sequential(nn.SiLU(), layers.linear(embedding, outputs))
        self.out_layers = nn.Sequential(
            layers.group_norm(outputs), SiLU(), nn.Identity(), layers.conv3x3(outputs, outputs)
        )
        self.skip_connection = nn.Identity() if outputs == channels else layers.conv2d(channels, outputs, 1)
        self.temopral_conv = TemporalConv(outputs, layers)
        self.kernel_numel = 3 * 3 * channels * outputs

    def forward(self, x: Tensor, embedding: Tensor, frames: int) -> Tensor:
        """x [(b f), c, h, w], embedding [b, e]."""
        shift = self.emb_layers(embedding).repeat_interleave(frames, dim=0)[..., None, None]
        few = at_once(x[0], len(x), at_least=self.kernel_numel * x.element_size())
        parts = [self._frames(*part) for part in zip(x.split(few), shift.split(few), strict=True)]
        return self.temopral_conv(parts[0] if len(parts) == 1 else torch.cat(parts), frames)

    def _frames(self, x: Tensor, shift: Tensor) -> Tensor:
        return self.skip_connection(x) + self.out_layers(self.in_layers(x) + shift)


class SiLU(nn.Module):
    """SiLU of what a norm has just made; without gradients in its memory."""

    def forward(self, x: Tensor) -> Tensor:
        return F.silu(x, inplace=not torch.is_grad_enabled())


def at_once(one: Tensor, number: int, at_least: int = 0) -> int:
    """How many of `number` frames or places, of which `one` is one, go through a block together: all for gradients,
    which keep every intermediate anyway, else as many as _PART_BYTES hold, in parts of like size.

    `at_least` are bytes that may be taken in any case: where weights are larger than what they meet, reading them again
    for each part costs more than the part saves.
    """
    if torch.is_grad_enabled():
        return number
    part = max(at_least, _PART_BYTES.get(one.device.type, _PART_BYTES_ELSEWHERE))
    return even_part(number, part // (one.numel() * one.element_size()))


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
    VGen, unet_sr600.py: Fourier_filter with threshold 1).

    They are four waves, at most: taken out and put back by products with their cosines and sines, since not every device
    has complex numbers.
    """
    height, width = x.shape[-2:]
    down, across = (torch.arange(side, dtype=torch.float32, device=x.device) / side for side in (height, width))
    phases = [
        (-2 * math.pi * (u * down[:, None] + v * across)).flatten()
        for u in range(min(2, height))
        for v in range(min(2, width))
    ]
    waves = torch.stack([wave for phase in phases for wave in (phase.cos(), phase.sin())])
    places = x.float().flatten(2)
    low = places @ waves.T @ waves / (height * width)
    return (places + (scale - 1) * low).view(x.shape).to(x.dtype)
