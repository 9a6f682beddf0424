"""Sizes of CLIP's two towers and of the VAE."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import CheckpointError

LATENT_RGB = "latent_rgb"  # key of a VAE's config.json

Settings = Mapping[str, Any]

CORRECT = "Correct the model's config.json or metadata."


@dataclass(frozen=True)
class TextConfig:
    """Sizes of CLIP's text tower.

    Args:
        layers: blocks that the weights hold.
        skip_last: blocks at the end that are left out, so that the output is the release's penultimate one
            (VGen: clip_embedder.py). `i2vgen_skip_last` in config.json if given; else 0 for exactly 23 blocks, which
            Stable Diffusion 2's folder has and which end at the penultimate one; else 1.
        activation: of the feed-forward layers, by transformers' name; `gelu` is the exact one.
    """

    vocabulary: int
    context_length: int
    width: int
    layers: int
    head_dim: int
    mlp_width: int
    skip_last: int
    activation: str = "gelu"
    norm_eps: float = 1e-5


@dataclass(frozen=True)
class VisionConfig:
    """Sizes of CLIP's vision tower.

    Args:
        image_size: side of the square input in pixels.
        projection: width of the image embedding.
        activation: of the feed-forward layers, by transformers' name; `gelu` is the exact one.
    """

    image_size: int
    patch_size: int
    channels: int
    width: int
    layers: int
    head_dim: int
    mlp_width: int
    projection: int
    activation: str = "gelu"
    norm_eps: float = 1e-5


@dataclass(frozen=True)
class VAEConfig:
    """Sizes of Stable Diffusion's VAE.

    Args:
        channels: of each resolution, the full one first.
        blocks: residual blocks of one resolution in the encoder, 0 or more; the decoder has one more.
    """

    in_channels: int
    out_channels: int
    latent_channels: int
    channels: tuple[int, ...]
    blocks: int
    norm_groups: int = 32

    @property
    def scale_factor(self) -> int:
        """Pixels to one latent position, along a side."""
        return int(2 ** (len(self.channels) - 1))


def latent_rgb(settings: Settings) -> list[list[float]] | None:
    """The colours that a VAE's latent stands for, to preview it by: five rows of red, green and blue in -1..1, what one
    unit of each of the four channels (times config.VAE_SCALE) adds, and what is there without.

    Args:
        settings: config.json of the VAE. One of Stable Diffusion's has no such entry.

    Raises:
        CheckpointError: not five rows of three numbers.
    """
    rows = settings.get(LATENT_RGB)
    if rows is None:
        return None
    shaped = isinstance(rows, list) and [len(row) if isinstance(row, list) else 0 for row in rows] == [3] * 5
    if not shaped or not all(isinstance(value, (int, float)) and math.isfinite(value) for row in rows for value in row):
        raise CheckpointError("VAE", f"five rows of three numbers for {LATENT_RGB}", repr(rows)[:60], CORRECT)
    return rows
