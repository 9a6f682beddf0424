"""Trains the image VAE: Stable Diffusion's network, by reconstruction, on single frames."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..checkpoints.bundle import write_json
from ..checkpoints.read import read_config
from ..config import VAE_SCALE
from ..encoders.config import LATENT_RGB
from .data import Source, World
from .loop import Loop, LoopConfig


@dataclass(frozen=True)
class View:
    """What a batch of pictures may be.

    Args:
        width, height: of the pictures, multiples of 8.
        count: in a batch.
        crop: width and height of the part of each that is taken; the whole of it if empty. Crops are where the detail
            is; only whole pictures have large grounds, and the borders that a network has to know.
        weight: how often this view is drawn, relative to the others.
    """

    width: int
    height: int
    count: int
    crop: tuple[int, ...] = ()
    weight: float = 1.0


@dataclass(frozen=True)
class VAETraining:
    """The VAE's sizes and recipe.

    Args:
        channels: of each resolution, the full one first, multiples of 32.
        blocks: residual blocks of a resolution in the encoder; the decoder has one more.
        kl: weight of the posterior's distance to a unit Gaussian (mean over the latent's numbers).
        edges: weight of the error of differences between neighbouring pixels: it is the edges that a VAE blurs.
        spectrum: weight of the error of the logarithm of the amplitude spectrum. The other errors are least where a
            decoder that is not sure blurs; this one asks for as much detail as there was.
        widths: of the pictures, each twice as wide as high, from which a batch's crops are cut.
        crop: width and height of the crops, multiples of 8.
        candidates: crops tried for each one that is taken, which is the one with the most contrast: most of a picture is
            background, and learnt soon.
        batch: crops in a batch.
        views: of which a batch is one, in place of `widths`, `crop` and `batch`.
        freeze_encoder: train the decoder alone, for networks that are used to this latent space.
        data: the world's scenes, where no folder is given.
        loop: how long and how.
    """

    channels: tuple[int, ...] = (64, 64, 64, 64)
    blocks: int = 0
    kl: float = 1e-6
    edges: float = 0.25
    spectrum: float = 0.0
    widths: tuple[int, ...] = (128, 192, 288)
    crop: tuple[int, ...] = (64, 64)
    candidates: int = 3
    batch: int = 8
    views: tuple[View, ...] = ()
    freeze_encoder: bool = False
    data: World = field(default_factory=World)
    loop: LoopConfig = field(default_factory=LoopConfig)


def build_vae(config: VAETraining) -> Any:
    """A new diffusers.AutoencoderKL with the seed's weights."""
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    torch.manual_seed(config.loop.seed)
    levels = len(config.channels)
    vae = AutoencoderKL(
        block_out_channels=config.channels,
        layers_per_block=config.blocks,
        latent_channels=4,
        norm_num_groups=32,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        scaling_factor=VAE_SCALE,
    )
    with torch.no_grad():  # a posterior as wide as the prior at first would drown the picture, and training stops there
        vae.quant_conv.bias[vae.config.latent_channels :] = -6
    return vae


def train_vae(
    vae: Any, source: Source, folder: Path, config: VAETraining, device: torch.device | str = "cpu"
) -> Loop[Tensor]:
    """The loop that trains it.

    Args:
        vae: a diffusers.AutoencoderKL.
        source: of the pictures.
        folder: for checkpoint and log.
        config: the recipe.
        device: where to train.
    """
    vae.to(device)
    for part in (vae.encoder, vae.quant_conv):
        part.requires_grad_(not config.freeze_encoder)

    def loss(images: Tensor, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        pixels = (images.to(device) * 2 - 1).permute(0, 3, 1, 2)
        mean, log_variance = vae.quant_conv(vae.encoder(pixels)).float().chunk(2, dim=1)
        log_variance = log_variance.clamp(-30, 20)
        noise = torch.randn(mean.shape, generator=generator, device=mean.device)
        decoded = vae.decoder(vae.post_quant_conv(mean + (log_variance / 2).exp() * noise)).float()
        kl = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()
        squared = F.mse_loss(decoded, pixels)
        edges = sum(F.l1_loss(decoded.diff(dim=axis), pixels.diff(dim=axis)) for axis in (2, 3))
        total = F.l1_loss(decoded, pixels) + 5 * squared + config.edges * edges + config.kl * kl
        if config.spectrum:
            total = total + config.spectrum * F.l1_loss(_log_amplitude(decoded), _log_amplitude(pixels))
        psnr = -10 * math.log10(squared.item() / 4 + 1e-12)  # of pictures in 0..1
        return total, {"psnr": psnr, "kl": kl.item()}

    return Loop(vae, loss, lambda number: pictures(source, number, config), folder, config.loop, device=device)


_LEAST_AMPLITUDE = 0.3
"""Of a crop's spectrum: what rounding to 8 bits amounts to in 64x64 pixels. Differences below it do not count."""


def _log_amplitude(pixels: Tensor) -> Tensor:
    """Of pixels [N, 3, H, W] in -1..1, under a window that takes away the edges."""
    windows = (torch.hann_window(size, periodic=False, device=pixels.device) for size in pixels.shape[2:])
    window = torch.outer(*windows)
    return torch.log(torch.fft.rfft2(pixels.float() * window).abs() + _LEAST_AMPLITUDE)


def pictures(source: Source, number: int, config: VAETraining) -> Tensor:
    """A batch of crops or whole pictures [batch, height, width, 3] in 0..1, each from some moment of a clip."""
    views, rng = config.views, random.Random(f"view {config.loop.seed} {number}")
    if not views:
        views = tuple(View(width, width // 2, config.batch, config.crop) for width in config.widths)
        count, view = config.batch, None
    else:
        view = rng.choices(views, [each.weight for each in views])[0]
        count = view.count
    taken = []
    for index in range(number * count, (number + 1) * count):
        rng = random.Random(f"{config.loop.seed} {index}")
        each = view or rng.choice(views)
        picture = source.picture(index, each.width, each.height)
        if not each.crop:
            taken.append(picture)
            continue
        width, height = each.crop
        places = [
            (rng.randint(0, each.height - height), rng.randint(0, each.width - width)) for _ in range(config.candidates)
        ]
        found = [picture[y : y + height, x : x + width] for y, x in places]
        taken.append(max(found, key=lambda crop: crop.std(dim=(0, 1)).sum().item()))
    return torch.stack(taken)


@torch.no_grad()
def normalise_latents(vae: Any, batches: list[Tensor], earlier: Any = None) -> None:
    """Turns and scales the latent space so that `VAE_SCALE` times a latent has mean 0, deviation 1 and no correlation
    between channels on these images; the change is linear and goes into the 1x1 convolutions between the parts.

    Args:
        vae: a diffusers.AutoencoderKL.
        batches: images [N, H, W, 3] in 0..1.
        earlier: the VAE that this one was trained further from. Of all such spaces the one nearest to its own is
            taken, so that networks that know the earlier one have little to learn anew (orthogonal Procrustes problem).
    """
    values = _latents(vae, batches)
    mean = values.mean(1)
    variances, axes = torch.linalg.eigh(torch.cov(values))
    # To unit variance and back to the old axes: of all whitenings the one that changes channels the least.
    whiten = axes @ torch.diag(variances.rsqrt()) @ axes.T / VAE_SCALE
    if earlier is not None:
        known = _latents(earlier, batches)
        left, _, right = torch.linalg.svd((known - known.mean(1, keepdim=True)) @ (whiten @ (values - mean[:, None])).T)
        whiten = left @ right @ whiten
    colour = torch.linalg.inv(whiten)

    quant, post = vae.quant_conv, vae.post_quant_conv
    channels = len(mean)
    matrix, bias = quant.weight[:channels, :, 0, 0].double(), quant.bias[:channels].double()
    quant.weight[:channels] = (whiten @ matrix)[..., None, None].to(quant.weight)
    quant.bias[:channels] = (whiten @ (bias - mean)).to(quant.bias)
    quant.bias[channels:] += 2 * torch.log(whiten.diagonal().abs()).to(quant.bias)  # the deviation, along each channel
    matrix, bias = post.weight[:, :, 0, 0].double(), post.bias.double()
    post.weight.copy_((matrix @ colour)[..., None, None])
    post.bias.copy_(bias + matrix @ mean)


def _latents(vae: Any, batches: list[Tensor]) -> Tensor:
    """The posterior's mode of images, unscaled: [4, numbers], float64."""
    latents = []
    for images in batches:
        pixels = (images * 2 - 1).permute(0, 3, 1, 2).to(next(vae.parameters()))
        latents.append(vae.quant_conv(vae.encoder(pixels))[:, : vae.config.latent_channels].transpose(0, 1).flatten(1))
    return torch.cat(latents, dim=1).double()


@torch.no_grad()
def fit_latent_rgb(vae: Any, batches: list[Tensor]) -> list[list[float]]:
    """The colours to preview a VAE's latents by: the affine map from `VAE_SCALE` times a latent to the picture in -1..1
    at the latent's size that has the least squared error on these images.

    Args:
        vae: a diffusers.AutoencoderKL.
        batches: images [N, H, W, 3] in 0..1.

    Returns:
        A row of red, green and blue for each channel, and one for the constant, see encoders.config.latent_rgb.
    """
    values = F.pad(VAE_SCALE * _latents(vae, batches).T.cpu(), (0, 1), value=1.0)
    pixels = [(images * 2 - 1).permute(0, 3, 1, 2) for images in batches]
    reduction = 2 ** (len(vae.config.block_out_channels) - 1)
    colours = [F.avg_pool2d(each, reduction).movedim(1, -1).flatten(0, 2).double().cpu() for each in pixels]
    rows = torch.linalg.lstsq(values, torch.cat(colours)).solution
    return [[round(value, 4) for value in row] for row in rows.tolist()]


def write_latent_rgb(model: Path) -> None:
    """Fits the preview's colours of a model folder's VAE anew, on pictures of the world, into its config.json."""
    from ..checkpoints.encoders import load_vae

    folder, config = model / "vae", VAETraining()
    rows = fit_latent_rgb(load_vae(folder).model, unseen_pictures(config.data, config))
    write_json(folder / "config.json", read_config(folder) | {LATENT_RGB: rows})


def unseen_pictures(
    source: Source, config: VAETraining, device: torch.device | str = "cpu", count: int = 32
) -> list[Tensor]:
    """Batches that training has not seen, for what is measured of a VAE at its end."""
    return [pictures(source, -1 - i, config).to(device) for i in range(count)]
