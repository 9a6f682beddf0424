"""The control branch of a refiner: the way down once more, which reads a hint too, and adds to what the way up meets.

STAR's reads the clean latent of every frame, VEnhancer's the noised latents of key frames, with their noise level and a scale
(both: video_to_video/modules/unet_v2v.py, VideoControlNet).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import ControlConfig, UNetConfig
from .backbone import time_embedding, way_down
from .blocks import Block, Downsample, Layers, per_condition, sinusoidal_embedding
from .evaluation import Evaluation
from .hooks import Hooks


@dataclass(frozen=True)
class Hint:
    """What a control branch reads beside the noisy videos, of which there are v.

    Args:
        latent: scaled, [(v k), 4, h, w]: of every frame, or of k key frames; None for none, with which the branch still runs.
        keys: for each frame the number of its key frame, or -1, [v, f]; read where the network knows key frames, which
            without it do not see the latent at all.
        noise_level: timestep that the latent is noised to, [v].
        scale: how far the video was enlarged, a whole number, [v].
    """

    latent: Tensor | None = None
    keys: Tensor | None = None
    noise_level: Tensor | None = None
    scale: Tensor | None = None

    def of_frames(self, frames: range) -> Hint:
        """The hint of one window of a video: its part of the mask and all key frames, or its frames of the latent."""
        part = slice(frames.start, frames.stop)
        if self.keys is not None:
            return replace(self, keys=self.keys[:, part])
        return replace(self, latent=None if self.latent is None else self.latent[part])


class ControlBranch(nn.Module):
    """Made of a UNet's own way down; it gives one feature map for each of that UNet's blocks there, and one for the middle.

    Args:
        config: the UNet's sizes.
        control: the branch's own.
        layers: what layers are made of.
    """

    def __init__(self, config: UNetConfig, control: ControlConfig, layers: Layers):
        super().__init__()
        self.channels, self.knows_keys = config.model_channels, control.key_frames
        embedding = 4 * config.model_channels
        self.time_embed = time_embedding(config, layers)
        self.input_blocks, self.middle_block, given = way_down(config, layers, "control")
        self.zero_convs = nn.ModuleList([nn.Sequential(layers.conv2d(width, width, 1)) for width in given])
        self.middle_block_out = nn.Sequential(layers.conv2d(given[-1], given[-1], 1))
        self.input_hint_block = layers.conv3x3(control.hint_channels, config.model_channels)
        if control.key_frames:
            self.hint_time_zero_linear = layers.linear(embedding, embedding)
            self.scale_cond = time_embedding(config, layers)

    def features(self, x: Tensor, timesteps: Tensor, hint: Hint, evaluation: Evaluation) -> Iterator[Tensor]:
        """What is added to the UNet's own features, [(b f), c, h, w] each, block by block: nothing of it runs before it is
        asked for.

        Args:
            x: what the UNet's first block reads, [(v f), 4, h, w].
            timesteps: [v].
            hint: see Hint; a latent may be smaller than x, which the UNet has padded.
            evaluation: the UNet's; of its hooks, those of attention.
        """
        embedding = self.embed(timesteps, hint, x.dtype)
        embedding = per_condition(embedding, len(evaluation.prepared.context) // len(embedding))
        own = replace(evaluation, embedding=embedding, hooks=Hooks(evaluation.hooks.attention))
        first, *down = cast("list[Block | Downsample]", list(self.input_blocks))
        convolution, transformer = cast(Block, first)
        x = own.run(transformer, self._with_hint(convolution(x), hint, evaluation.frames))
        yield self.zero_convs[0](x)
        for block, zero_conv in zip(down, list(self.zero_convs)[1:], strict=True):
            x = block(x, own)
            yield zero_conv(x)
        yield self.middle_block_out(self.middle_block(x, own))

    def embed(self, timesteps: Tensor, hint: Hint, dtype: torch.dtype) -> Tensor:
        """The branch's time embedding [v, e], or [v, f, e] where frames differ: noise level and scale are for key frames."""
        embedding = self.time_embed(self._sinusoidal(timesteps, dtype))
        if not self.knows_keys:
            return embedding
        told = torch.zeros_like(embedding)
        if hint.noise_level is not None:
            told = told + self.noise_level_embedding(hint.noise_level, dtype)
        if hint.scale is not None:
            told = told + self.scale_cond(self._sinusoidal(hint.scale, dtype))
        if hint.keys is None:
            return embedding + told
        return embedding[:, None] + told[:, None] * (hint.keys >= 0)[..., None]

    def noise_level_embedding(self, level: Tensor, dtype: torch.dtype) -> Tensor:
        """Embedding [v, e] of the hint's noise levels [v]."""
        return self.hint_time_zero_linear(self.time_embed(self._sinusoidal(level, dtype)))

    def _sinusoidal(self, numbers: Tensor, dtype: torch.dtype) -> Tensor:
        return sinusoidal_embedding(numbers, self.channels).to(dtype)

    def _with_hint(self, x: Tensor, hint: Hint, frames: int) -> Tensor:
        """Adds the hint's features to those frames [(v f), c, h, w] that have any."""
        if hint.latent is None or (self.knows_keys and hint.keys is None):
            return x
        latent = hint.latent.to(x)
        rows = torch.arange(len(x), device=x.device)
        if self.knows_keys:
            assert hint.keys is not None
            keys = hint.keys.to(x.device)
            first = torch.arange(len(keys), device=x.device) * (len(latent) * frames // len(x))
            rows = rows[keys.flatten() >= 0]
            latent = latent[(keys + first[:, None]).flatten()[rows]]
        if not len(rows):
            return x
        down, across = x.shape[2] - latent.shape[2], x.shape[3] - latent.shape[3]
        if down or across:
            latent = F.pad(latent, (0, across, 0, down), mode="replicate")
        added = self.input_hint_block(latent.contiguous(memory_format=torch.channels_last))
        return x + added if len(rows) == len(x) else x.index_add(0, rows, added)
