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
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ..memory import even_part
from .evaluation import Context, Evaluation, KeysValues
from .hooks import AttentionHooks, BlockHooks, BlockName, LayerName, Over

GROUPS = 32

_PART_BYTES = {"cpu": 2**21}
_PART_BYTES_ELSEWHERE = 2**22
"""Bytes of a block's input that go through it at once. On the CPU the widest intermediate, eight times as wide, then
stays below what the C library takes from the system anew each time (32 MiB); a GPU wants larger parts to be busy."""


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
        self._place = place = {"dtype": dtype, "device": device}
        self.linear = partial(operations.Linear, **place)
        self.conv2d = partial(operations.Conv2d, **place)
        self.layer_norm = partial(operations.LayerNorm, **place)
        self.group_norm = partial(operations.GroupNorm, GROUPS, **place)

    def parameter(self, *shape: int) -> nn.Parameter:
        return nn.Parameter(torch.empty(shape, **self._place))  # type: ignore[arg-type]

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

    def __init__(self, name: LayerName, width: int, context_dim: int, heads: int, layers: Layers):
        super().__init__()
        self.name, self.heads = name, heads
        self.to_q = layers.linear(width, width, bias=False)
        self.to_k = layers.linear(context_dim, width, bias=False)
        self.to_v = layers.linear(context_dim, width, bias=False)
        self.to_out = nn.Sequential(layers.linear(width, width))

    def keys_values(self, context: Tensor) -> KeysValues:
        """Keys and values [b, m, c] of a context [b, m, d]."""
        return self.to_k(context), self.to_v(context)

    def forward(self, x: Tensor, hooks: AttentionHooks, context: Context | None = None) -> Tensor:
        """Attends over what the layer's name says.

        Args:
            x: tokens [n, t, c]; over frames [b, f, t, c].
            hooks: compute the attention, and see its inputs and outputs.
            context: of b videos, each shared by n / b consecutive sequences, which are all its frames; x itself if None.
        """
        changed = hooks.tokens(self.name, self.heads, x, x if context is None else context.tokens)
        if changed is not None:
            x, for_keys, for_values = changed
            keys, values = self.to_k(for_keys), self.to_v(for_values)
        elif context is not None:
            keys, values = context.keys, context.values
        else:
            keys, values = self.keys_values(x)
        attended = hooks.attend(self.name, self.heads, self.to_q(x), keys, values)
        return hooks.output(self.name, self.to_out(attended))


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
    """Self-attention, attention to the context (to itself again where there is none), feed-forward.

    Args:
        gated: whether gates stand before its attention to itself: one over places, or two over frames (STAR).
    """

    def __init__(
        self,
        block: BlockName,
        width: int,
        heads: int,
        context_dim: int | None,
        layers: Layers,
        over: tuple[Over, Over],
        gated: bool = False,
    ):
        super().__init__()
        self.local1: nn.Module = nn.Identity()
        self.local2: nn.Module = nn.Identity()
        if gated and context_dim is not None:
            self.local1 = PlaceGate(layers)
        elif gated:
            self.local1, self.local2 = FrameGate(layers), FrameGate(layers)
        first, second = LayerName(block, over[0], "attn1"), LayerName(block, over[1], "attn2")
        self.attn1 = MultiHeadAttention(first, width, width, heads, layers)
        self.ff = FeedForward(width, layers)
        self.attn2 = MultiHeadAttention(second, width, context_dim or width, heads, layers)
        self.norm1 = layers.layer_norm(width)
        self.norm2 = layers.layer_norm(width)
        self.norm3 = layers.layer_norm(width)

    def forward(
        self, x: Tensor, hooks: AttentionHooks, context: Context | None = None, conditions: int = 1, rows: int = 1
    ) -> Tensor:
        """Tokens [n, t, c] of `rows` rows of places, with a context as in MultiHeadAttention, to [n * conditions, t, c];
        without one, tokens [b, f, t, c]. `conditions` contexts share each of x's videos, see per_condition."""
        x = per_condition(self.attn1(self.norm1(gated(self.local1, x, rows)), hooks) + x, conditions)
        if context is not None:
            x = hooks.between(self.attn1.name, x)
        x = self.attn2(self.norm2(gated(self.local2, x, rows)), hooks, context) + x
        return self.ff(self.norm3(x)) + x


class PlaceGate(nn.Module):
    """How far each place of a frame is open, from the largest and the mean of its channels around it (STAR,
    modules/unet_v2v.py: the spatial transformers' local1)."""

    def __init__(self, layers: Layers):
        super().__init__()
        self.conv1 = layers.conv2d(2, 1, 7, padding=3, bias=False)

    def forward(self, x: Tensor, rows: int) -> Tensor:
        """Tokens [n, t, c] of `rows` rows to [n, t, 1] in 0..1."""
        places = rearrange(largest_and_mean(x), "n (h w) s -> n s h w", h=rows)
        return rearrange(self.conv1(places).sigmoid(), "n s h w -> n (h w) s")


class FrameGate(nn.Module):
    """How far each token is open, from the largest and the mean of its channels (STAR, modules/unet_v2v.py: the temporal
    transformers' local1 and local2)."""

    def __init__(self, layers: Layers):
        super().__init__()
        self.conv1 = layers.linear(2, 1, bias=False)

    def forward(self, x: Tensor, rows: int) -> Tensor:
        """Tokens [..., c] to [..., 1] in 0..1."""
        return self.conv1(largest_and_mean(x)).sigmoid()


def largest_and_mean(x: Tensor) -> Tensor:
    """The largest and the mean of the channels [..., c], in this order: [..., 2]."""
    return torch.stack([x.amax(dim=-1), x.mean(dim=-1)], dim=-1)


def gated(gate: nn.Module, x: Tensor, rows: int) -> Tensor:
    """Tokens times how far their gate is open; as they are where there is none."""
    return x if isinstance(gate, nn.Identity) else x * gate(x, rows)


class SpatialTransformer(nn.Module):
    """Attention within each frame, and of each frame to the context."""

    OVER: tuple[Over, Over] = ("places", "context")

    def __init__(
        self, block: BlockName, channels: int, heads: int, context_dim: int, layers: Layers, gated: bool = False
    ):
        super().__init__()
        self.block, self.channels = block, channels
        self.norm = layers.group_norm(channels, eps=1e-6)
        self.proj_in = layers.linear(channels, channels)
        self.transformer_blocks = nn.ModuleList(
            [TransformerBlock(block, channels, heads, context_dim, layers, self.OVER, gated)]
        )
        self.proj_out = layers.linear(channels, channels)

    def keys_values(self, context: Tensor) -> KeysValues:
        """Keys and values [b, m, c] of a context [b, m, d], which no step changes."""
        return cast(TransformerBlock, self.transformer_blocks[0]).attn2.keys_values(context)

    def forward(self, x: Tensor, evaluation: Evaluation) -> Tensor:
        """x [(v f), c, h, w] of v videos to [(b f), c, h, w] under b conditions, see per_condition."""
        hooks, context = evaluation.hooks.attention, evaluation.context(self.block)
        hooks.enter(self.block, tuple(x.shape))
        videos = len(x) // evaluation.frames
        conditions = len(context.tokens) // videos
        few = evaluation.frames if hooks.whole else at_once(x[0], evaluation.frames)
        if few == evaluation.frames:
            y = self._frames(x, hooks, context, conditions)
        else:
            parts = []
            for video, every in enumerate(x.split(evaluation.frames)):
                for part in every.split(few):
                    tokens = self._frames(part, hooks, context[video::videos], conditions)
                    parts.append(tokens.unflatten(0, (conditions, -1)))
            y = torch.cat(parts, dim=1).flatten(0, 1)
        return rearrange(y, "n (h w) c -> n c h w", h=x.shape[2]) + per_condition(x, conditions)

    def _frames(self, x: Tensor, hooks: AttentionHooks, context: Context, conditions: int) -> Tensor:
        tokens = self.proj_in(rearrange(self.norm(x), "n c h w -> n (h w) c").contiguous())
        return self.proj_out(self.transformer_blocks[0](tokens, hooks, context, conditions, x.shape[2]))


def per_condition(x: Tensor, conditions: int) -> Tensor:
    """Features [n, ...] of videos for several conditions, [(conditions n), ...].

    The guided halves of a step have the same noisy video and step. Up to the first attention to a context they are the
    same, and computed once.
    """
    return x if conditions == 1 else torch.cat([x] * conditions)


class TemporalTransformer(nn.Module):
    """Attention over the frames at each place of the image. Its norm takes its statistics over the whole video.

    Args:
        channels_first: whether the norm is given its features in that order. torch's statistics on the CPU lose digits in
            the other one where a channel's mean is large, as pictures beside the noise make it.
        gated: see TransformerBlock.
    """

    def __init__(
        self,
        block: BlockName,
        channels: int,
        width: int,
        heads: int,
        layers: Layers,
        channels_first: bool = False,
        gated: bool = False,
    ):
        super().__init__()
        self.block = block
        self.channels_first = channels_first
        self.norm = layers.group_norm(channels, eps=1e-6)
        self.proj_in = layers.linear(channels, width)
        self.transformer_blocks = nn.ModuleList(
            [TransformerBlock(block, width, heads, None, layers, ("frames", "frames"), gated)]
        )
        self.proj_out = layers.linear(width, channels)

    def forward(self, x: Tensor, evaluation: Evaluation) -> Tensor:
        """x [(b f), c, h, w]."""
        videos = as_videos(x, evaluation.frames)
        y = rearrange(self.norm(videos.contiguous() if self.channels_first else videos), "b c f s -> b f s c")
        few = at_once(y[:, :, 0], y.shape[2])
        parts = [self._places(part, evaluation.hooks.attention) for part in y.split(few, dim=2)]
        y = parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)
        return rearrange(y, "b f (h w) c -> (b f) c h w", h=x.shape[2]) + x

    def _places(self, x: Tensor, hooks: AttentionHooks) -> Tensor:
        return self.proj_out(self.transformer_blocks[0](self.proj_in(x.contiguous()), hooks))


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

    def __init__(self, block: BlockName, channels: int, outputs: int, embedding: int, layers: Layers):
        super().__init__()
        self.block = block
        self.in_layers = nn.Sequential(layers.group_norm(channels), SiLU(), layers.conv3x3(channels, outputs))
        self.emb_layers = nn.Sequential(nn.SiLU(), layers.linear(embedding, outputs))
        self.out_layers = nn.Sequential(
            layers.group_norm(outputs), SiLU(), nn.Identity(), layers.conv3x3(outputs, outputs)
        )
        self.skip_connection = nn.Identity() if outputs == channels else layers.conv2d(channels, outputs, 1)
        self.temopral_conv = TemporalConv(outputs, layers)
        self.kernel_numel = 3 * 3 * channels * outputs

    def forward(self, x: Tensor, evaluation: Evaluation) -> Tensor:
        """x [(v f), c, h, w] of v videos, with the first v embeddings: those of a video's conditions are alike."""
        frames = evaluation.frames
        embedding = evaluation.embedding[: len(x) // frames]
        shift = self.emb_layers(embedding)
        shift = shift.flatten(0, 1) if embedding.ndim == 3 else shift.repeat_interleave(frames, dim=0)
        shift = shift[..., None, None]
        hooks = evaluation.hooks.blocks
        few = at_once(x[0], len(x), at_least=self.kernel_numel * x.element_size())
        few = len(x) if self.block in hooks.whole else few
        parts = [self._frames(*part, hooks) for part in zip(x.split(few), shift.split(few), strict=True)]
        return self.temopral_conv(parts[0] if len(parts) == 1 else torch.cat(parts), frames)

    def _frames(self, x: Tensor, shift: Tensor, hooks: BlockHooks) -> Tensor:
        residual = hooks.residual(self.block, self.out_layers(self.in_layers(x) + shift))
        return self.skip_connection(x) + residual


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
    """A block that halves the size. The refiners pad the height by two, which adds a row."""

    def __init__(self, name: BlockName, channels: int, padding: tuple[int, int], layers: Layers):
        super().__init__()
        self.name = name
        self.op = layers.conv3x3(channels, channels, stride=2, padding=padding)

    def forward(self, x: Tensor, evaluation: Evaluation) -> Tensor:
        if x.shape[3] > 2 or x.device.type != "cpu" or _is_single(x):
            return self.op(x)
        # A result of one column: oneDNN's convolution in 16 bits for AMX (torch 2.13) leaves most of its rows as the memory was.
        return self.op(F.pad(x, (0, 2)))[..., :1]


def _is_single(x: Tensor) -> bool:
    """Whether the CPU computes with it in float32."""
    return x.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")


class Upsample(nn.Module):
    """Doubles the size to that of the features it will meet. The refiners drop the first and the last row on the way."""

    def __init__(self, channels: int, drop_rows: bool, layers: Layers):
        super().__init__()
        self.drop_rows = drop_rows
        self.conv = layers.conv3x3(channels, channels)

    def forward(self, x: Tensor, evaluation: Evaluation) -> Tensor:
        """x [n, c, h, w] to [n, c, *evaluation.size], which is (2h, 2w), one less where the way down rounded up."""
        if self.drop_rows:
            return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest")[:, :, 1:-1])
        return self.conv(F.interpolate(x, size=evaluation.size, mode="nearest"))


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


@dataclass(frozen=True)
class FreeU:
    """What SR600 does to the features that meet on the way up (FreeU, arXiv 2309.11497).

    Args:
        backbone_gain: of the first half of the channels of what comes from below.
        skip_gain: of the lowest frequencies of what comes from the side.
    """

    backbone_gain: float
    skip_gain: float

    def __call__(self, x: Tensor, skip: Tensor) -> tuple[Tensor, Tensor]:
        """x and skip [n, c, h, w]."""
        half = x.shape[1] // 2
        x = torch.cat([x[:, :half] * self.backbone_gain, x[:, half:]], dim=1)
        return x, fourier_filter(skip, self.skip_gain)


class Block(nn.ModuleList):
    """A block of the UNet: its parts in turn."""

    def __init__(self, name: BlockName, parts: Iterable[nn.Module]):
        super().__init__(parts)
        self.name = name

    def forward(self, x: Tensor, evaluation: Evaluation) -> Tensor:
        for part in self:
            x = evaluation.run(part, x)
        return x


class FirstBlock(Block):
    """The first convolution, and a transformer over the frames."""

    def forward(self, x: Tensor, evaluation: Evaluation) -> Tensor:
        convolution, transformer = self
        return evaluation.run(transformer, convolution(x))


class OutputBlock(Block):
    """A block on the way up, which reads what comes from below and the features of its size from the way down.

    Args:
        free_u: what is done to both before; nothing if None.
    """

    def __init__(self, name: BlockName, parts: Iterable[nn.Module], free_u: FreeU | None = None):
        super().__init__(name, parts)
        self.free_u = free_u

    def join(self, x: Tensor, skips: list[Tensor], hooks: BlockHooks) -> Tensor:
        """What the block reads: x [(b f), c, h, w] and the last of the skips, which is taken out of them."""
        skip = skips.pop()
        skip = per_condition(skip, len(x) // len(skip))
        if self.free_u is not None:
            x, skip = self.free_u(x, skip)
        return torch.cat(hooks.join(self.name, x, skip), dim=1)
