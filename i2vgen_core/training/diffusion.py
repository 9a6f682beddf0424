"""What the training of both video networks shares: noise, timesteps, the velocity's loss, frozen encoders, new weights."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ..checkpoints.encoders import load_image_encoder, load_text_encoder, load_vae
from ..config import VAE_SCALE
from ..encoders.clip import ImageEncoder
from ..media.guides import stretched_clip_pixels
from ..media.images import clip_pixels
from ..memory import encoding_bytes
from ..network.attention import Attention, scaled_dot_product_attention
from ..network.blocks import TemporalConv, TemporalTransformer
from ..network.unet import UNet
from ..sampling.schedules import Schedule
from .data import Folder, Sample, Source

_ENCODING = 2**30
"""Bytes that the VAE may hold while it encodes frames."""


@dataclass(frozen=True)
class ClipShape:
    """Length and frame rates of a batch's clips.

    Args:
        frames: of each clip.
        fps: frame rates, drawn evenly for each clip.
        clips: in a batch.
        weight: how often this shape is drawn, relative to the others.
    """

    frames: int
    fps: tuple[int, ...] = (8, 16)
    clips: int = 8
    weight: float = 1.0


def draw_clips(
    source: Source, shapes: Sequence[ClipShape], size: tuple[int, int], number: int, seed: int
) -> list[Sample]:
    """The clips of a batch's number, of one shape and of this width and height, each at a frame rate of its own."""
    rng = random.Random(f"{seed} {number}")
    shape = rng.choices(shapes, [shape.weight for shape in shapes])[0]
    rates = [rng.choice(shape.fps) for _ in range(shape.clips)]
    size = source.size(number, *size) if isinstance(source, Folder) else size
    return [source.clip(number * 1000 + i, *size, shape.frames, fps) for i, fps in enumerate(rates)]


@dataclass(frozen=True, eq=False)
class Batch:
    """Clips that a base or its student learns from, and what it is given of each.

    Attributes:
        latents: scaled [b, f, 4, h, w].
        text: tokens of the prompts [b, 77, width].
        image: CLIP image embeddings [b, 1, image_dim].
        fps: [b].
    """

    latents: Tensor
    text: Tensor
    image: Tensor
    fps: Tensor

    def repeated(self, times: int) -> tuple[Tensor, ...]:
        """Latents, text, image and fps, each clip so many times, to be shown at as many noise levels."""
        return tuple(each.repeat_interleave(times, 0) for each in (self.latents, self.text, self.image, self.fps))


class Encoders:
    """The frozen encoders of a model folder.

    Args:
        folder: with vae/, text_encoder/ and, for a base, image_encoder/.
        device: where they run.
        dtype: of their weights.
    """

    def __init__(self, folder: Path, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32):
        self.device = torch.device(device)
        place: dict[str, Any] = {"device": device, "dtype": dtype}
        self.vae = load_vae(folder / "vae", **place)
        self.text = load_text_encoder(folder / "text_encoder", tokenizer=folder / "tokenizer", **place)
        self._folder, self._place = folder, place
        self._image: ImageEncoder | None = None

    def latents(self, frames: Tensor) -> Tensor:
        """Scaled latents [b, f, 4, h, w] of clips [b, f, H, W, 3] in 0..1: the posterior's mode."""
        height, width = frames.shape[2:4]
        at_once = max(1, min(32, _ENCODING // encoding_bytes(height, width, self._place["dtype"].itemsize)))
        latent = self.vae.encode(rearrange(frames, "b f h w c -> (b f) h w c"), frames_per_batch=at_once) * VAE_SCALE
        return rearrange(latent, "(b f) c h w -> b f c h w", b=len(frames))

    def prompts(self, texts: list[str]) -> Tensor:
        """Text tokens [b, 77, width]; each text is encoded once."""
        distinct = sorted(set(texts))
        tokens = self.text.encode(distinct)
        return tokens[torch.tensor([distinct.index(text) for text in texts], device=tokens.device)]

    def images(self, images: Tensor) -> Tensor:
        """CLIP image embeddings [b, 1, image_dim] of images [b, H, W, 3], as a base reads them."""
        pixels = clip_pixels(images, images.shape[2], self._image_encoder().config.image_size)
        return self._image_encoder().encode(pixels)[:, None]

    def stretched_images(self, images: Tensor) -> Tensor:
        """The same as a composer reads them: not cropped, but stretched."""
        pixels = stretched_clip_pixels(images, self._image_encoder().config.image_size)
        return self._image_encoder().encode(pixels)[:, None]

    def _image_encoder(self) -> ImageEncoder:
        if self._image is None:
            self._image = load_image_encoder(self._folder / "image_encoder", **self._place)
        return self._image


def draw_timesteps(count: int, levels: int, bias: float, generator: torch.Generator) -> Tensor:
    """Timesteps [count] in 0..levels - 1, spread evenly over the range in a random order of strata.

    Args:
        bias: 1 draws evenly; above 1 the noisy end is drawn more often, where a video's motion is decided.
    """
    strata = torch.arange(count, device=generator.device)
    u = (strata + torch.rand(count, generator=generator, device=generator.device)) / count
    u = u[torch.randperm(count, generator=generator, device=generator.device)] ** (1 / bias)
    return (u * levels).long().clamp(max=levels - 1)


def noise_like(x: Tensor, offset: float, generator: torch.Generator) -> Tensor:
    """Gaussian noise for x [b, f, 4, h, w], with an offset of its own in each frame and channel of strength `offset`."""
    noise = torch.randn(x.shape, generator=generator, device=x.device)
    if offset:
        noise += offset * torch.randn((*x.shape[:3], 1, 1), generator=generator, device=x.device)
    return noise


@dataclass(frozen=True, eq=False)
class Noised:
    """What a network is given and what it has to say.

    Attributes:
        x: noisy latents [(b f), 4, h, w].
        velocity: the target [(b f), 4, h, w] (arXiv 2202.00512).
        timesteps: [b].
    """

    x: Tensor
    velocity: Tensor
    timesteps: Tensor


def add_noise(latents: Tensor, schedule: Schedule, timesteps: Tensor, noise: Tensor) -> Noised:
    """Latents [b, f, 4, h, w] noised to timesteps [b], one level a clip."""
    level = schedule.alphas_cumprod.to(latents)[timesteps][:, None, None, None, None]
    signal, sigma = level.sqrt(), (1 - level).sqrt()
    x, velocity = signal * latents + sigma * noise, signal * noise - sigma * latents
    return Noised(x.flatten(0, 1), velocity.flatten(0, 1), timesteps)


def velocity_loss(predicted: Tensor, noised: Noised, levels: int) -> tuple[Tensor, dict[str, float]]:
    """The mean squared error, and the same by thirds of the noise levels for the log."""
    errors = F.mse_loss(predicted.float(), noised.velocity, reduction="none").flatten(1).mean(1)
    errors = errors.view(len(noised.timesteps), -1).mean(1)
    third = noised.timesteps * 3 // levels
    figures = {
        name: errors[third == i].mean().item() for i, name in enumerate(("low", "middle", "high")) if (third == i).any()
    }
    return errors.mean(), figures


def attention_for(device: torch.device) -> Attention:
    """torch's fused attention, but on the CPU, where its backward pass in bfloat16 costs ten times the plain products'."""
    return _plain_attention if device.type == "cpu" else scaled_dot_product_attention


def _plain_attention(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    if q.shape[1] != k.shape[1] or q.dtype == torch.float32:
        return scaled_dot_product_attention(q.float(), k.float(), v.float(), heads).to(q.dtype)
    q, k, v = (rearrange(tokens, "b n (h d) -> b h n d", h=heads) for tokens in (q, k, v))
    weights = ((q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)).softmax(-1).to(v.dtype)
    return rearrange(weights @ v, "b h n d -> b n (h d)")


_ZERO_AT_FIRST = ("proj_out", "temopral_conv.conv4.3", "out_layers.3", "out.2")


def initialise(network: UNet, seed: int) -> None:
    """New weights: torch's own, with zeros where a residual branch ends, so that every block begins as the identity."""
    torch.manual_seed(seed)
    for name, module in network.named_modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
        if name.endswith(_ZERO_AT_FIRST) and isinstance(module, (nn.Conv2d, nn.Linear)):
            nn.init.zeros_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def temporal_parts(network: UNet) -> list[str]:
    """Names of the modules that mix frames: what an image-only run leaves alone."""
    return [name for name, module in network.named_modules() if isinstance(module, (TemporalConv, TemporalTransformer))]
