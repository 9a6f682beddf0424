"""CLIP and the image VAE without a host, through transformers and diffusers.

Weights come in the releases' own layouts (open_clip, ldm) or in transformers' and diffusers'; sizes come from shapes.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from einops import rearrange
from torch import Tensor, nn

from .checkpoints import clip_keys, vae_keys
from .checkpoints.check import check_tensors, of_sizes
from .checkpoints.read import read_config, read_state_dict
from .encoder_config import Settings, TextConfig, VAEConfig, VisionConfig
from .errors import CheckpointError, InputError
from .tokenizer import VOCABULARY_SIZE, Tokenizer
from .vae_decoder import decode

Source = str | Path | Mapping[str, Tensor]


class TextEncoder:
    """CLIP's text tower up to the penultimate block, then the final norm (VGen: clip_embedder.py).

    Args:
        config: sizes.
        model: transformers.CLIPTextModel without the last `config.skip_last` blocks.
        tokenizer: for `encode`.
    """

    def __init__(self, config: TextConfig, model: nn.Module, tokenizer: Tokenizer):
        self.config, self.model, self.tokenizer = config, model, tokenizer

    def to(self, device: torch.device | str) -> TextEncoder:
        """Moves the weights."""
        self.model.to(device)
        return self

    @torch.no_grad()
    def __call__(self, tokens: Tensor) -> Tensor:
        """Embeddings float32 [B, N, width] of tokens [B, N], N at most the context length."""
        return self.model(input_ids=tokens.to(_device(self.model)).long()).last_hidden_state.float()

    def encode(self, prompts: list[str]) -> Tensor:
        """Embeddings float32 [B, 77, width] of prompts, on the model's device. An empty prompt is a prompt."""
        return self(self.tokenizer(prompts))


class ImageEncoder:
    """CLIP's vision tower with its projection (VGen: clip_embedder.py, FrozenOpenCLIPTextVisualEmbedder).

    Args:
        config: sizes.
        model: transformers.CLIPVisionModelWithProjection.
    """

    def __init__(self, config: VisionConfig, model: nn.Module):
        self.config, self.model = config, model

    def to(self, device: torch.device | str) -> ImageEncoder:
        """Moves the weights."""
        self.model.to(device)
        return self

    @torch.no_grad()
    def encode(self, pixels: Tensor) -> Tensor:
        """Image embeddings float32 [B, projection], projected, of their own length, on the model's device.

        Args:
            pixels: [B, 3, S, S], S = config.image_size (224 as released), with CLIP's mean and deviation taken out.

        Raises:
            InputError: another size.
        """
        expected = (self.config.channels, self.config.image_size, self.config.image_size)
        if pixels.ndim != 4 or tuple(pixels.shape[1:]) != expected:
            remedy = "Crop and resize the image to the encoder's size."
            raise InputError(
                "CLIP image", f"shape [B, {expected[0]}, {expected[1]}, {expected[2]}]", f"{list(pixels.shape)}", remedy
            )
        return self.model(pixel_values=_like(pixels, self.model)).image_embeds.float()


class VAE:
    """Stable Diffusion's VAE. Latents are unscaled: the factor 0.18215 is the sampler's.

    Args:
        config: sizes.
        model: diffusers.AutoencoderKL.
    """

    def __init__(self, config: VAEConfig, model: Any):
        self.config, self.model = config, model

    def to(self, device: torch.device | str) -> VAE:
        """Moves the weights."""
        self.model.to(device)  # type: ignore[arg-type]  # diffusers wraps it and loses the signature
        return self

    @torch.no_grad()
    def moments(self, pixels: Tensor) -> Tensor:
        """Mean and log-variance float32 [N, 2 * latent channels, H/8, W/8] of pixels [N, 3, H, W] in -1..1."""
        return self.model.encode(_like(pixels, self.model)).latent_dist.parameters.float()

    @torch.no_grad()
    def decode_pixels(self, latent: Tensor) -> Tensor:
        """Pixels float32 [N, 3, H, W], near -1..1 and not cut to it, of an unscaled latent [N, 4, H/8, W/8]."""
        return decode(self.model, _like(latent, self.model)).float()

    def encode(self, images: Tensor, frames_per_batch: int = 4) -> Tensor:
        """The posterior's mode, unscaled, float32 [N, 4, H/8, W/8], on the images' device.

        The official code samples the posterior; the mode makes one video of one seed.

        Args:
            images: [N, H, W, 3] in 0..1, H and W multiples of 8.
            frames_per_batch: how many go through the network at once.

        Raises:
            InputError: no image, an alpha channel, or a size that the network would cut.
        """
        factor, channels = self.config.scale_factor, self.config.in_channels
        if images.ndim != 4 or images.shape[0] == 0 or images.shape[3] != channels:
            remedy = "Give at least one image, without an alpha channel."
            raise InputError("image", f"shape [N, H, W, {channels}]", f"{list(images.shape)}", remedy)
        height, width = images.shape[1:3]
        if min(height, width) < factor or height % factor or width % factor:
            remedy = "Crop or resize the image."
            raise InputError("image", f"height and width in multiples of {factor}", f"{width}x{height}", remedy)
        means = [
            self.moments(rearrange(part, "n h w c -> n c h w") * 2 - 1)[:, : self.config.latent_channels]
            for part in images.split(_positive(frames_per_batch))
        ]
        return torch.cat(means).to(images.device)

    def decode(self, latent: Tensor, frames_per_batch: int = 4) -> Tensor:
        """Images float32 [N, H, W, 3] in 0..1, on the latent's device.

        Args:
            latent: unscaled, [N, 4, H/8, W/8].
            frames_per_batch: how many go through the network at once.

        Raises:
            InputError: no frame, or another number of channels.
        """
        channels = self.config.latent_channels
        if latent.ndim != 4 or latent.shape[0] == 0 or latent.shape[1] != channels:
            remedy = "Give the latent of the VAE that belongs to this model, frames as the batch."
            raise InputError("latent", f"shape [N, {channels}, h, w]", f"{list(latent.shape)}", remedy)
        factor = self.config.scale_factor
        size = len(latent), factor * latent.shape[2], factor * latent.shape[3], self.config.in_channels
        images = torch.empty(size, device=latent.device)
        parts = _positive(frames_per_batch)
        for few, place in zip(latent.split(parts), images.split(parts), strict=True):
            pixels = self.decode_pixels(few)
            place.copy_(rearrange(pixels.add_(1).div_(2).clamp_(0, 1), "n c h w -> n h w c"))
        return images


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
        head_dim: see TextConfig.from_state_dict.
        tokenizer: a bundle's `tokenizer/` folder; the built-in vocabulary if None or not there.

    Raises:
        CheckpointError: unreadable, another model, or tensors missing, unknown or of a wrong shape.
    """
    what = "CLIP text encoder"
    state_dict, settings = _open(source, settings)
    tower = clip_keys.text_tower(state_dict)
    config = TextConfig.from_state_dict(tower, settings, head_dim=head_dim)
    if config.vocabulary < VOCABULARY_SIZE:
        remedy = "Choose a CLIP text encoder."
        raise CheckpointError(what, f"{VOCABULARY_SIZE} token embeddings", f"{config.vocabulary}", remedy)
    model = of_sizes(what, lambda: _text_model(config))
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
        head_dim: see VisionConfig.from_state_dict.

    Raises:
        CheckpointError: unreadable, another model, or tensors missing, unknown or of a wrong shape.
    """
    what = "CLIP vision encoder"
    state_dict, settings = _open(source, settings)
    tower = clip_keys.vision_tower(state_dict)
    config = VisionConfig.from_state_dict(tower, settings, head_dim=head_dim)
    model = of_sizes(what, lambda: _vision_model(config))
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
    config = VAEConfig.from_state_dict(tensors, settings)
    model = of_sizes("VAE", lambda: _vae_model(config))
    expected = model.state_dict()
    check_tensors(tensors, vae_keys.vae_to_ldm(expected) if vae_keys.is_ldm(tensors) else expected, "VAE")
    _assign(model, vae_keys.vae_to_diffusers(tensors), dtype, device)
    return VAE(config, model)


def _text_model(config: TextConfig) -> Any:
    return transformers.CLIPTextModel(
        transformers.CLIPTextConfig(
            vocab_size=config.vocabulary,
            max_position_embeddings=config.context_length,
            hidden_size=config.width,
            num_hidden_layers=config.layers,
            num_attention_heads=config.width // config.head_dim,
            intermediate_size=config.mlp_width,
            hidden_act=config.activation,
            layer_norm_eps=config.norm_eps,
        )
    )


def _vision_model(config: VisionConfig) -> Any:
    return transformers.CLIPVisionModelWithProjection(
        transformers.CLIPVisionConfig(
            image_size=config.image_size,
            patch_size=config.patch_size,
            num_channels=config.channels,
            hidden_size=config.width,
            num_hidden_layers=config.layers,
            num_attention_heads=config.width // config.head_dim,
            intermediate_size=config.mlp_width,
            projection_dim=config.projection,
            hidden_act=config.activation,
            layer_norm_eps=config.norm_eps,
        )
    )


def _vae_model(config: VAEConfig) -> Any:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL  # seconds to import, and only needed here

    levels = len(config.channels)
    return AutoencoderKL(
        in_channels=config.in_channels,
        out_channels=config.out_channels,
        latent_channels=config.latent_channels,
        block_out_channels=config.channels,
        layers_per_block=config.blocks,
        norm_num_groups=config.norm_groups,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
    )


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


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device


def _like(tensor: Tensor, model: nn.Module) -> Tensor:
    parameter = next(model.parameters())
    return tensor.to(device=parameter.device, dtype=parameter.dtype)


def _positive(frames_per_batch: int) -> int:
    if frames_per_batch < 1:
        raise InputError(
            "frames_per_batch", "at least 1", f"{frames_per_batch}", "Give how many frames to run at once."
        )
    return frames_per_batch
