"""Sizes of CLIP's two towers and of the VAE, read from the shapes of their tensors in any layout."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ..config import VAE_SCALE
from ..encoders.config import CORRECT, Settings, TextConfig, VAEConfig, VisionConfig
from ..errors import CheckpointError
from . import clip_keys, vae_keys

TEXT_HEAD_DIM = 64  # ViT-H/14, both as released
VISION_HEAD_DIM = 80
_MOST_LEVELS = 8
PENULTIMATE_LAYERS = 23  # ViT-H/14's 24 text blocks less the last, as Stable Diffusion 2's folder stores them

_SDXL_SCALE = 0.13025


def text_config(
    state_dict: Mapping[str, Tensor], settings: Settings | None = None, *, head_dim: int | None = None
) -> TextConfig:
    """Reads the sizes from a text tower in any layout of `checkpoints.clip_keys`.

    Args:
        settings: config.json of a CLIPTextModel or a CLIPModel, or a file's metadata (`text_head_dim`): what
            leaves no trace in shapes.
        head_dim: goes before the settings; without either it is the release's 64.

    Raises:
        CheckpointError: no text tower, or sizes that do not fit together.
    """
    weights = clip_keys.text_to_transformers(state_dict)
    settings = _of_tower(settings, "text_config")
    what, stem = "CLIP text encoder", "text_model."
    vocabulary, width = _shape(what, weights, f"{stem}embeddings.token_embedding.weight", 2)
    layers = clip_keys.count(weights, r"text_model\.encoder\.layers\.(\d+)\.")
    skip_last = _whole(what, settings, "i2vgen_skip_last", 0 if layers == PENULTIMATE_LAYERS else 1)
    if not 0 <= skip_last < layers:
        remedy = "Correct i2vgen_skip_last in config.json, or choose a whole text encoder."
        raise CheckpointError(what, f"more than {skip_last} blocks, which are left out", f"{layers}", remedy)
    return TextConfig(
        vocabulary=vocabulary,
        context_length=_shape(what, weights, f"{stem}embeddings.position_embedding.weight", 2)[0],
        width=width,
        layers=layers,
        head_dim=_head_dim(what, width, head_dim or settings.get("text_head_dim"), settings, TEXT_HEAD_DIM),
        mlp_width=_shape(what, weights, f"{stem}encoder.layers.0.mlp.fc1.weight", 2)[0],
        skip_last=skip_last,
        activation=_text(what, settings, "hidden_act", TextConfig.activation),
        norm_eps=_epsilon(what, settings, TextConfig.norm_eps),
    )


def vision_config(
    state_dict: Mapping[str, Tensor], settings: Settings | None = None, *, head_dim: int | None = None
) -> VisionConfig:
    """Reads the sizes from a vision tower in any layout of `checkpoints.clip_keys`.

    Args:
        settings: config.json of a CLIPVisionModelWithProjection or a CLIPModel, or a file's metadata
            (`vision_head_dim`): what leaves no trace in shapes.
        head_dim: goes before the settings; without either it is the release's 80.

    Raises:
        CheckpointError: no vision tower, or sizes that do not fit together.
    """
    weights = clip_keys.vision_to_transformers(state_dict)
    settings = _of_tower(settings, "vision_config")
    what, stem = "CLIP vision encoder", "vision_model."
    width, channels, patch, _ = _shape(what, weights, f"{stem}embeddings.patch_embedding.weight", 4)
    positions = _shape(what, weights, f"{stem}embeddings.position_embedding.weight", 2)[0]
    side = math.isqrt(positions - 1)
    if side * side != positions - 1:
        remedy = "Choose a CLIP vision encoder of square images."
        raise CheckpointError(what, "one position and a square number of them", f"{positions} positions", remedy)
    return VisionConfig(
        image_size=side * patch,
        patch_size=patch,
        channels=channels,
        width=width,
        layers=clip_keys.count(weights, r"vision_model\.encoder\.layers\.(\d+)\."),
        head_dim=_head_dim(what, width, head_dim or settings.get("vision_head_dim"), settings, VISION_HEAD_DIM),
        mlp_width=_shape(what, weights, f"{stem}encoder.layers.0.mlp.fc1.weight", 2)[0],
        projection=_shape(what, weights, "visual_projection.weight", 2)[0],
        activation=_text(what, settings, "hidden_act", VisionConfig.activation),
        norm_eps=_epsilon(what, settings, VisionConfig.norm_eps),
    )


def vae_config(state_dict: Mapping[str, Tensor], settings: Settings | None = None) -> VAEConfig:
    """Reads the sizes from a VAE in any layout of `checkpoints.vae_keys`.

    Args:
        settings: config.json of an AutoencoderKL, for what leaves no trace in shapes: `norm_num_groups`, and
            `scaling_factor`, by which SDXL's VAE is told from Stable Diffusion's.

    Raises:
        CheckpointError: no VAE, SDXL's, or a tensor that the sizes are read from is missing.
    """
    _refuse_sdxl(settings or {})
    weights = vae_keys.vae_to_diffusers(state_dict)
    # From the decoder, which has a block in every level; an encoder without any has nothing in its last level.
    levels = clip_keys.count(weights, r"decoder\.up_blocks\.(\d+)\.")
    blocks = clip_keys.count(weights, r"encoder\.down_blocks\.\d+\.resnets\.(\d+)\.")
    if max(levels, blocks) > _MOST_LEVELS:
        found = f"{levels} levels of {blocks} blocks"
        raise CheckpointError("VAE", f"at most {_MOST_LEVELS} of each", found, "Use the released file.")
    level_keys = [f"decoder.up_blocks.{i}.resnets.0.conv1.weight" for i in reversed(range(levels))]
    return VAEConfig(
        in_channels=_shape("VAE", weights, "encoder.conv_in.weight", 4)[1],
        out_channels=_shape("VAE", weights, "decoder.conv_out.weight", 4)[0],
        latent_channels=_shape("VAE", weights, "decoder.conv_in.weight", 4)[1],
        channels=tuple(_shape("VAE", weights, key, 4)[0] for key in level_keys),
        blocks=blocks,
        norm_groups=_whole("VAE", settings or {}, "norm_num_groups", VAEConfig.norm_groups),
    )


def _refuse_sdxl(settings: Settings) -> None:
    """Its tensors have the same names and shapes, and another latent space."""
    try:
        scale = float(settings.get("scaling_factor", VAE_SCALE))
    except (TypeError, ValueError, OverflowError):
        value = repr(settings["scaling_factor"])[:60]
        raise CheckpointError("VAE", "a number for scaling_factor", value, CORRECT) from None
    if abs(scale - _SDXL_SCALE) < 1e-3:
        remedy = "Use the VAE of Stable Diffusion 2.1 (or 1.5)."
        raise CheckpointError("VAE", "one of Stable Diffusion 1 or 2", f"SDXL's, scaling_factor {scale}", remedy)


def _of_tower(settings: Settings | None, name: str) -> Settings:
    """One tower's settings; config.json of a whole CLIPModel holds them under `name`."""
    settings = settings or {}
    return settings | settings[name] if isinstance(settings.get(name), Mapping) else settings


def _head_dim(what: str, width: int, given: Any, settings: Settings, released: int) -> int:
    heads = _whole(what, settings, "num_attention_heads", 0)
    head_dim = _whole(what, {"head_dim": given or 0}, "head_dim", 0) or (width // heads if heads else released)
    if not head_dim or width % head_dim:
        expected = f"a width that is a multiple of the head dimension {head_dim}"
        remedy = "Put the model's config.json beside its weights."
        raise CheckpointError(what, expected, f"{width}", remedy)
    return head_dim


def _whole(what: str, settings: Settings, name: str, default: int) -> int:
    """A whole number of config.json or, as text, of metadata."""
    value = str(settings.get(name, default))
    if not value.isdecimal() or len(value) > 5:
        raise CheckpointError(what, f"a whole number for {name}", repr(value)[:60], CORRECT)
    return int(value)


def _text(what: str, settings: Settings, name: str, default: str) -> str:
    value = settings.get(name, default)
    if not isinstance(value, str):
        raise CheckpointError(what, f"text for {name}", repr(value)[:60], CORRECT)
    return value


def _epsilon(what: str, settings: Settings, default: float) -> float:
    value = settings.get("layer_norm_eps", default)
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not 0 <= number < 1:
        raise CheckpointError(what, "a number from 0 to 1 for layer_norm_eps", repr(value)[:60], CORRECT)
    return number


def _shape(what: str, weights: Mapping[str, Tensor], key: str, ndim: int) -> tuple[int, ...]:
    if key not in weights or weights[key].ndim != ndim or not weights[key].numel():
        found = f"shape {list(weights[key].shape)}" if key in weights else "no such tensor"
        raise CheckpointError(what, f"tensor {key} of {ndim} dimensions", found, "Use the released file.")
    return tuple(weights[key].shape)
