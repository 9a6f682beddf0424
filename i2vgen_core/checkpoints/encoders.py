"""CLIP and the VAE from files.

Weights come in the releases' own layouts (open_clip, ldm) or in transformers' and diffusers'; sizes come from shapes.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from ..encoders.clip import ImageEncoder, TextEncoder, text_model, vision_model
from ..encoders.config import CORRECT, Settings
from ..encoders.tokenizer import VOCABULARY_SIZE, Tokenizer
from ..encoders.vae import VAE, vae_model
from ..errors import CheckpointError
from . import clip_keys, vae_keys
from .check import check_tensors, of_sizes
from .encoder_sizes import text_config, vae_config, vision_config
from .read import read_config, read_state_dict

Source = str | Path | Mapping[str, Tensor]


def load_text_encoder(
    source: Source,
    *,
    settings: Settings | None = None,
    head_dim: int | None = None,
    tokenizer: Path | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> TextEncoder:
    """CLIP's text encoder from a file, a bundle's `text_encoder/` folder, or a state dict.

    Args:
        source: open_clip's or transformers' layout; the other tower beside it is left alone.
        settings: config.json or metadata as a dict; read from the source if None.
        head_dim: see encoder_sizes.text_config.
        tokenizer: a bundle's `tokenizer/` folder; the built-in vocabulary if None or not there.

    Raises:
        CheckpointError: unreadable, another model, or tensors missing, unknown or of a wrong shape.
    """
    what = "CLIP text encoder"
    state_dict, settings = _open(source, settings)
    tower = clip_keys.text_tower(state_dict)
    config = text_config(tower, settings, head_dim=head_dim)
    if config.vocabulary < VOCABULARY_SIZE:
        remedy = "Choose a CLIP text encoder."
        raise CheckpointError(what, f"{VOCABULARY_SIZE} token embeddings", f"{config.vocabulary}", remedy)
    _check_activation(what, config.activation)
    model = of_sizes(what, lambda: text_model(config))
    inner = getattr(model, "text_model", model)  # transformers before 5 wraps it
    named = nn.ModuleDict({"text_model": inner})
    expected = named.state_dict()
    check_tensors(tower, clip_keys.text_to_open_clip(expected) if clip_keys.is_open_clip(tower) else expected, what)
    inner.encoder.layers = inner.encoder.layers[: config.layers - config.skip_last]
    _assign(named, clip_keys.text_to_transformers(tower), dtype, device)
    return TextEncoder(config, inner, Tokenizer(tokenizer, config.context_length))


def load_image_encoder(
    source: Source,
    *,
    settings: Settings | None = None,
    head_dim: int | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> ImageEncoder:
    """CLIP's image encoder from a file, a bundle's `image_encoder/` folder, or a state dict.

    Args:
        source: open_clip's or transformers' layout; the other tower beside it is left alone.
        settings: config.json or metadata as a dict; read from the source if None.
        head_dim: see encoder_sizes.vision_config.

    Raises:
        CheckpointError: unreadable, another model, or tensors missing, unknown or of a wrong shape.
    """
    what = "CLIP vision encoder"
    state_dict, settings = _open(source, settings)
    tower = clip_keys.vision_tower(state_dict)
    config = vision_config(tower, settings, head_dim=head_dim)
    _check_activation(what, config.activation)
    model = of_sizes(what, lambda: vision_model(config))
    expected = model.state_dict()
    expected = clip_keys.vision_to_open_clip(expected) if clip_keys.is_open_clip(tower) else expected
    check_tensors(tower, expected, what)
    _assign(model, clip_keys.vision_to_transformers(tower), dtype, device)
    return ImageEncoder(config, model)


def load_vae(
    source: Source,
    *,
    settings: Settings | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> VAE:
    """The VAE from a file, a bundle's `vae/` folder, or a state dict.

    Args:
        source: ldm's or diffusers' layout; a whole Stable Diffusion checkpoint will do.
        settings: config.json or metadata as a dict; read from the source if None.

    Raises:
        CheckpointError: unreadable, another model, or tensors missing, unknown or of a wrong shape.
    """
    state_dict, settings = _open(source, settings)
    tensors = vae_keys.vae_tensors(state_dict)
    config = vae_config(tensors, settings)
    model = of_sizes("VAE", lambda: vae_model(config))
    expected = model.state_dict()
    check_tensors(tensors, vae_keys.vae_to_ldm(expected) if vae_keys.is_ldm(tensors) else expected, "VAE")
    _assign(model, vae_keys.vae_to_diffusers(tensors), dtype, device)
    return VAE(config, model)


def _check_activation(what: str, name: str) -> None:
    from transformers.activations import ACT2FN

    if name not in ACT2FN:
        raise CheckpointError(what, "one of transformers' names for hidden_act", repr(name)[:60], CORRECT)


def _open(source: Source, settings: Settings | None) -> tuple[Mapping[str, Tensor], Settings]:
    if isinstance(source, Mapping):
        return source, settings or {}
    path = Path(source)
    state_dict, metadata = read_state_dict(path)
    if settings is None:
        settings = metadata | read_config(path) if path.is_dir() else metadata
    return state_dict, settings


def _assign(model: nn.Module, weights: Mapping[str, Tensor], dtype: torch.dtype, device: torch.device | str) -> None:
    """Puts weights into a model on meta; those of blocks that it does not have are left out."""
    weights = {key: weights[key].to(device=device, dtype=dtype) for key in model.state_dict()}
    model.load_state_dict(weights, strict=True, assign=True)
    for module in model.modules():
        for name, buffer in module.named_buffers(recurse=False):
            if name == "position_ids":  # the only buffer that transformers' CLIP keeps out of its state dict
                setattr(module, name, torch.arange(buffer.shape[-1], device=device)[None])
    model.eval().requires_grad_(False)
