"""Stable Diffusion's VAE without a host, through diffusers."""

from __future__ import annotations

from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from ..errors import InputError
from ..memory import like_weights
from .config import VAEConfig
from .vae_decoder import decode


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
        return self.model.encode(like_weights(pixels, self.model)).latent_dist.parameters.float()

    @torch.no_grad()
    def decode_pixels(self, latent: Tensor) -> Tensor:
        """Pixels float32 [N, 3, H, W], near -1..1 and not cut to it, of an unscaled latent [N, 4, H/8, W/8]."""
        return decode(self.model, like_weights(latent, self.model)).float()

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


def vae_model(config: VAEConfig) -> Any:
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


def _positive(frames_per_batch: int) -> int:
    if frames_per_batch < 1:
        raise InputError(
            "frames_per_batch", "at least 1", f"{frames_per_batch}", "Give how many frames to run at once."
        )
    return frames_per_batch
