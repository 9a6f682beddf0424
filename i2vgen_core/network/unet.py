"""The video network of every stage: a Stable Diffusion UNet with convolutions and attention over time (UNetSD).

One class for the four releases. The bases read the frame rate and the CLIP image embedding, I2VGen-XL's also the image
latent; the refiners read text alone and pad their heights in their own way (VGen, unet_i2vgen.py and unet_sr600.py;
ModelScope, unet_i2v.py and unet_v2v.py).
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..config import UNetConfig
from .blocks import (
    Downsample,
    Layers,
    ResBlock,
    SpatialTransformer,
    TemporalTransformer,
    Upsample,
    fourier_filter,
    per_condition,
    sinusoidal_embedding,
)
from .cpu import cpu_operators
from .hooks import Hooks
from .image_conditioning import DetailConvolutions, DetailEncoder, DetailTransformer, ImageProjection, Prepared

_SR600_FILTERS = ((1.1, 0.6), (1.2, 0.4))
"""SR600, first two blocks on the way up: gain of half the backbone's channels, gain of the skip's low frequencies."""


class UNet(nn.Module):
    """Predicts the velocity of a noisy video latent.

    Args:
        config: the network's sizes.
        operations: namespace of layer classes, `torch.nn` or the host's.
        dtype: type of the weights.
        device: where the weights are made; `meta` makes none.

    Attributes:
        checkpointing: for training in less memory: the blocks keep their inputs alone, and run again for gradients.
    """

    checkpointing = False

    OUTER = 1
    """Blocks at either end that run at every evaluation, where a hook recalls what those between them make."""

    def __init__(
        self,
        config: UNetConfig,
        operations: Any = nn,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ):
        super().__init__()
        self.config = config
        layers = Layers(operations, dtype, device)
        embedding = 4 * config.model_channels

        def embed() -> nn.Sequential:
            first = layers.linear(config.model_channels, embedding)
            return nn.Sequential(first, nn.SiLU(), layers.linear(embedding, embedding))

        self.time_embed = embed()
        if config.reads_image:
            self.context_embedding = ImageProjection(config, layers)
            self.fps_embedding = embed()
        if config.reads_details:
            self.local_image_concat = DetailConvolutions(config.in_channels, layers)
            self.local_temporal_encoder = DetailTransformer(config.in_channels, layers)
        self._build_backbone(layers, embedding)

    def _build_backbone(self, layers: Layers, embedding: int) -> None:
        config = self.config
        levels = list(zip(config.channel_mult, config.attention_levels, strict=True))
        padding = (2, 1) if config.is_refiner else (1, 1)

        def block(inputs: int, outputs: int, attention: bool) -> nn.ModuleList:
            modules: list[nn.Module] = [ResBlock(inputs, outputs, embedding, layers)]
            if attention:
                heads = outputs // config.head_dim
                modules.append(SpatialTransformer(outputs, heads, config.context_dim, layers))
                modules.append(TemporalTransformer(outputs, outputs, heads, layers))
            return nn.ModuleList(modules)

        channels = config.model_channels
        heads = config.first_temporal_heads
        first = layers.conv3x3(config.in_channels * (2 if config.reads_details else 1), channels)
        first_temporal = TemporalTransformer(channels, heads * config.head_dim, heads, layers)
        self.input_blocks = nn.ModuleList([nn.ModuleList([first, first_temporal])])
        skips = [channels]
        for level, (multiplier, attention) in enumerate(levels):
            for _ in range(config.num_res_blocks):
                outputs = config.model_channels * multiplier
                self.input_blocks.append(block(channels, outputs, attention))
                channels = outputs
                skips.append(channels)
            if level < len(levels) - 1:
                self.input_blocks.append(Downsample(channels, padding, layers))
                skips.append(channels)

        self.middle_block = block(channels, channels, attention=True)
        self.middle_block.append(ResBlock(channels, channels, embedding, layers))

        self.output_blocks = nn.ModuleList()
        for level, (multiplier, attention) in reversed(list(enumerate(levels))):
            for number in range(config.num_res_blocks + 1):
                outputs = config.model_channels * multiplier
                modules = block(channels + skips.pop(), outputs, attention)
                channels = outputs
                if level > 0 and number == config.num_res_blocks:
                    modules.append(Upsample(channels, config.is_refiner, layers))
                self.output_blocks.append(modules)

        self.out = nn.Sequential(layers.group_norm(channels), nn.SiLU(), layers.conv3x3(channels, config.out_channels))

    @property
    def detail_encoder(self) -> DetailEncoder:
        """The detail path of an `i2vgen_xl` base, to be run before sampling."""
        return DetailEncoder(self.local_image_concat, self.local_temporal_encoder, self.config.detail_gain)

    def prepare(self, context: Tensor, fps: Tensor | None = None) -> Prepared:
        """What of an evaluation the conditions alone decide, for forward's `context`; arguments as there."""
        with cpu_operators(context):
            transformers = self._spatial_transformers()
            keys_values = [each for transformer in transformers for each in transformer.keys_values(context)]
            rate = None if fps is None else self.fps_embedding(self._sinusoidal(fps, context.dtype))
        return Prepared(context, torch.cat(keys_values, dim=-1), rate)

    def _spatial_transformers(self) -> list[SpatialTransformer]:
        return [module for module in self.modules() if isinstance(module, SpatialTransformer)]

    def forward(
        self,
        x: Tensor,
        timesteps: Tensor,
        context: Tensor | Prepared,
        frames: int,
        fps: Tensor | None = None,
        details: Tensor | None = None,
        hooks: Hooks | None = None,
    ) -> Tensor:
        """One evaluation.

        Args:
            x: noisy scaled latent of v videos [(v f), 4, h, w], any size.
            timesteps: [v], 0..999.
            context: [b, n, context_dim]. Text, global and CLIP image tokens in this order for `i2vgen_xl`, CLIP image
                tokens for `image2video`, text tokens for the refiners. Or what `prepare` made of them and `fps` before
                the first step. b is v, or a multiple of it: several conditions of the same videos, all of the first
                condition first.
            frames: f, 1 or more.
            fps: [b], the motion's frame rate (bases), the same in all conditions of a video.
            details: detail features [(v f), 4, h, w] (`i2vgen_xl`).
            hooks: what is to run otherwise than in the paper; its attention is used for every layer.

        Returns:
            The velocity [(b f), 4, h, w].
        """
        with cpu_operators(x):
            prepared = self.prepare(context, fps) if isinstance(context, Tensor) else context
            return self._velocity(x, timesteps, prepared, frames, details, hooks or Hooks())

    def _velocity(
        self, x: Tensor, timesteps: Tensor, prepared: Prepared, frames: int, details: Tensor | None, hooks: Hooks
    ) -> Tensor:
        embedding = self._embed(timesteps, prepared, x.dtype)
        transformers = self._spatial_transformers()
        widths = [each.norm.num_channels for each in transformers for _ in range(2)]
        parts = prepared.keys_values.split(widths, dim=-1)
        keys_values = dict(zip(transformers, zip(parts[::2], parts[1::2], strict=True), strict=True))

        height, width = x.shape[-2:]
        if details is not None:
            x = torch.cat([x, details], dim=1)
        if self.config.is_refiner:
            x = self._pad_to_fit(x)
        x = x.contiguous(memory_format=torch.channels_last)

        call = partial(checkpoint, use_reentrant=False) if self.checkpointing else nn.Module.__call__

        def run(module: nn.Module, x: Tensor) -> Tensor:
            match module:
                case ResBlock():
                    return call(module, x, embedding[: len(x) // frames], frames)
                case SpatialTransformer():
                    return call(module, x, frames, prepared.context, keys_values[module], hooks)
                case TemporalTransformer():
                    return call(module, x, frames, hooks)
                case Upsample():
                    return module(x, skips[-1].shape[-2:])
                case nn.ModuleList():
                    for part in module:
                        x = run(part, x)
                    return x
            return module(x)

        features = hooks.recall()
        inputs, outputs = list(enumerate(self.input_blocks)), list(enumerate(self.output_blocks))
        inner = len(outputs) - self.OUTER
        if features is not None:
            inputs, outputs = inputs[: self.OUTER], outputs[inner:]
        skips: list[Tensor] = []
        for number, module in inputs:
            x = hooks.block(("input", number), partial(run, module), x)
            skips.append(x)
        x = hooks.block(("middle", 0), partial(run, self.middle_block), x) if features is None else features
        for number, module in outputs:
            if features is None and number == inner:
                hooks.keep(x)
            skip = skips.pop()
            skip = per_condition(skip, len(x) // len(skip))
            if self.config.kind == "sr600" and number < len(_SR600_FILTERS):
                x, skip = _free_u(x, skip, *_SR600_FILTERS[number])
            x = hooks.join(("output", number), x, skip)
            del skip  # both are in x now: memory's peak is up here
            x = hooks.block(("output", number), partial(run, module), x)
        return self.out(x)[..., :height, :width]

    def _embed(self, timesteps: Tensor, prepared: Prepared, dtype: torch.dtype) -> Tensor:
        """The time embedding [b, e], with the frame rate's in the bases."""
        embedding = self.time_embed(self._sinusoidal(timesteps, dtype))
        embedding = per_condition(embedding, len(prepared.context) // len(embedding))
        return embedding if prepared.fps is None else embedding + prepared.fps

    def _sinusoidal(self, numbers: Tensor, dtype: torch.dtype) -> Tensor:
        return sinusoidal_embedding(numbers, self.config.model_channels).to(dtype)

    def _pad_to_fit(self, x: Tensor) -> Tensor:
        """Repeats the last row and column up to the next size that the refiners' padding brings back exactly: a height
        of 2 more, and a width of 0 more, than a multiple of what the levels halve in all."""
        multiple = 2 ** (len(self.config.channel_mult) - 1)
        height, width = x.shape[-2:]
        return F.pad(x, (0, -width % multiple, 0, (2 - height) % multiple), mode="replicate")


def _free_u(x: Tensor, skip: Tensor, backbone_gain: float, skip_gain: float) -> tuple[Tensor, Tensor]:
    half = x.shape[1] // 2
    x = torch.cat([x[:, :half] * backbone_gain, x[:, half:]], dim=1)
    return x, fourier_filter(skip, skip_gain)
