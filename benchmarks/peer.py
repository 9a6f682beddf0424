"""Both networks on the same made-up weights, in the released sizes, and one guided step of each."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import AutoencoderKL, I2VGenXLUNet
from einops import rearrange
from torch import Tensor

from i2vgen_core.checkpoints.encoders import load_vae
from i2vgen_core.checkpoints.load import parse_unet
from i2vgen_core.encoders.vae import VAE
from i2vgen_core.network.image_conditioning import position_ramp
from i2vgen_core.network.unet import UNet
from i2vgen_core.sampling.guidance import Predictor

VAE_SIZES: dict[str, Any] = {
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
}
"""Stable Diffusion's."""


@dataclass
class Networks:
    """diffusers' network and ours, which share their weights' memory."""

    theirs: I2VGenXLUNet
    ours: UNet


def made_up_networks(dtype: torch.dtype, device: str = "cpu") -> Networks:
    """The released sizes, 1.42 G parameters, of uniform noise that keeps activations at their size; none on meta."""
    with torch.device("meta"):
        theirs = I2VGenXLUNet()
    state = made_up(theirs.state_dict(), dtype, device)
    theirs.load_state_dict(state, strict=True, assign=True)
    theirs.eval().requires_grad_(False)
    return Networks(theirs, _ours(state, theirs.config, dtype, device))


def _ours(state: dict[str, Tensor], config: Any, dtype: torch.dtype, device: str = "cpu") -> UNet:
    return parse_unet(state, config, detail_gain="once").build_network(dtype, device)


def made_up_vaes(dtype: torch.dtype, device: str = "cpu") -> tuple[Any, VAE]:
    """diffusers' VAE in Stable Diffusion's sizes, and ours of the same weights."""
    with torch.device("meta"):
        theirs = AutoencoderKL(**VAE_SIZES)
    state = made_up(theirs.state_dict(), dtype, device)
    theirs.load_state_dict(state, strict=True, assign=True)
    theirs.eval().requires_grad_(False)
    return theirs, load_vae(dict(state), dtype=dtype, device=device)


def made_up(shapes: dict[str, Tensor], dtype: torch.dtype, device: str) -> dict[str, Tensor]:
    """Weights by name: norms near 1, biases near 0, the rest so that a layer keeps the size of what goes through it."""
    generator = torch.Generator().manual_seed(0)

    def make(key: str, like: Tensor) -> Tensor:
        if device == "meta":
            return torch.empty(like.shape, dtype=dtype, device=device)
        if like.ndim < 2:
            values = 0.05 * torch.randn(like.shape, generator=generator)
            return (values if key.endswith("bias") else values + 1).to(dtype)
        bound = 1.5 / math.sqrt(like[0].numel())
        return torch.empty(like.shape).uniform_(-bound, bound, generator=generator).to(dtype)

    return {key: make(key, value) for key, value in shapes.items()}


@dataclass
class Step:
    """Inputs of one guided step on `frames` frames of latents h x w, for both networks.

    Args:
        networks: both.
        frames, height, width: of the latent.
    """

    networks: Networks
    frames: int
    height: int
    width: int

    def __post_init__(self) -> None:
        parameter = next(self.networks.ours.parameters())
        self.dtype, self.device = parameter.dtype, parameter.device
        generator = torch.Generator().manual_seed(1)

        def noise(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator).to(self.device, self.dtype)

        self.x = noise(self.frames, 4, self.height, self.width)
        self.latent, self.text, self.image = noise(1, 4, self.height, self.width), noise(2, 77, 1024), noise(1, 1, 1024)
        self.timestep = torch.tensor([501], device=self.device)
        self.fps = torch.tensor([16], device=self.device)

    @torch.no_grad()
    def prepare(self) -> None:
        """What either computes once a video and before sampling."""
        theirs, ours = self.networks.theirs, self.networks.ours
        video = rearrange(position_ramp(self.latent, self.frames), "b f c h w -> b c f h w")
        self.their_inputs = (
            rearrange(torch.cat([self.x, self.x]), "(b f) c h w -> b c f h w", b=2).contiguous(),
            self.timestep.expand(2),
            self.fps.expand(2),
            torch.cat([video, video]),
            torch.cat([self.image, torch.zeros_like(self.image)]),
            self.text,
        )
        their_global = _their_global_tokens(theirs, self.latent)
        image = torch.cat([self.image, torch.zeros_like(self.image)])
        context = torch.cat([self.text, their_global.expand(2, -1, -1), ours.context_embedding(image)], dim=1)
        self.conditions = [ours.prepare(tokens, self.fps) for tokens in context.split(1)]
        self.details = ours.detail_encoder(self.latent, self.frames)

    @torch.no_grad()
    def theirs(self) -> Tensor:
        """Both halves [2, frames, 4, h, w] as diffusers' pipeline computes them, in one batch."""
        return rearrange(self.networks.theirs(*self.their_inputs).sample, "b c f h w -> b f c h w")

    @torch.no_grad()
    def ours(self) -> Tensor:
        """The same as our cascade does."""
        predict = Predictor(self.networks.ours, self.details)
        return torch.stack(predict(self.x, self.timestep, self.conditions))

    @torch.no_grad()
    def our_half(self) -> Tensor:
        """One half alone, as where memory is short."""
        return self.networks.ours(self.x, self.timestep, self.conditions[0], self.frames, details=self.details)


def _their_global_tokens(network: I2VGenXLUNet, latent: Tensor) -> Tensor:
    return rearrange(network.image_latents_context_embedding(latent), "b c h w -> b (h w) c")
