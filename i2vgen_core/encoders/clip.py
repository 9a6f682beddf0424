"""CLIP's two towers without a host, through transformers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from ..errors import InputError
from ..memory import like_weights
from .config import TextConfig, VisionConfig
from .tokenizer import Tokenizer


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

    def encode(self, prompts: list[str], whose: Sequence[str] = (), added: str = "") -> Tensor:
        """Embeddings float32 [B, 77, width] of prompts, on the model's device. An empty prompt is a prompt.

        Args:
            prompts: what is cut of them is logged.
            whose, added: see Tokenizer.
        """
        return self(self.tokenizer(prompts, whose, added))


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
        return self.model(pixel_values=like_weights(pixels, self.model)).image_embeds.float()


def text_model(config: TextConfig) -> Any:
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


def vision_model(config: VisionConfig) -> Any:
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


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device
