"""Sample videos of networks that are in training, on a clip of the data: its first frame and its caption."""

from __future__ import annotations

import torch
from torch import Tensor

from ..config import VAE_SCALE, VAE_STEP
from ..network.unet import UNet
from ..releases import RELEASES
from ..sampling.guidance import guided
from ..sampling.options import BaseOptions, RefineOptions
from ..sampling.schedules import schedule_for
from ..sampling.stages import BaseStage, RefineStage
from .base import TrainedBase
from .data import Sample
from .diffusion import Encoders

_STEPS = 20


@torch.no_grad()
def sample_base(base: TrainedBase, encoders: Encoders, clip: Sample) -> Tensor:
    """A video [F, H, W, 3] in 0..1 of the clip's first frame and caption, of its size, length and frame rate.

    Args:
        base: as it is; where it trains in mixed precision, to be called under autocast.
        encoders: of its model.
        clip: of the data.
    """
    network, kind = base.network, base.network.config.kind
    frames, height, width, _ = clip.frames.shape
    options = BaseOptions(width=width, height=height, frames=frames, fps=clip.fps, steps=_STEPS, solver="dpmpp_2m")
    stage = BaseStage(options, RELEASES[kind], schedule_for(kind))
    picture = clip.frames[:1].to(_device(network))
    latent, image = encoders.latents(picture[None])[:, 0], encoders.images(picture)
    texts = encoders.prompts([clip.prompt, stage.settings.negative_prompt])
    tokens = base.encoder(latent)
    contexts = [
        torch.cat([text[None], tokens, network.context_embedding(seen)], dim=1)
        for text, seen in zip(texts, (image, torch.zeros_like(image)), strict=True)
    ]
    fps = torch.tensor([float(clip.fps)], device=latent.device)
    details = network.detail_encoder(latent, frames)
    both = [network.prepare(context, fps) for context in contexts]
    denoise = guided(network, stage.schedule, both, stage.settings.guidance, details=details)
    noise = stage.noise((frames, *latent.shape[1:])).to(latent.device)
    return encoders.vae.decode(stage.sample(denoise, noise) / VAE_SCALE, frames_per_batch=1).cpu()


@torch.no_grad()
def sample_refiner(network: UNet, encoders: Encoders, clip: Sample) -> Tensor:
    """The clip, half as large and back, refined: [F, H, W, 3] in 0..1. Arguments as for sample_base."""
    kind = network.config.kind
    stage = RefineStage(RefineOptions(steps=_STEPS, entry="noise"), RELEASES[kind], schedule_for(kind))
    prompts = [clip.subject + stage.settings.prompt_suffix, stage.settings.negative_prompt]
    texts = encoders.prompts(prompts).split(1)
    frames = _blurred(clip.frames).to(_device(network))
    latent = encoders.latents(frames[None])[0]
    both = [network.prepare(text) for text in texts]
    hint = None if network.config.control is None else stage.hint(network.config.control, latent)
    denoise = guided(network, stage.schedule, both, stage.settings.guidance, stage.settings.rescale, hint=hint)
    x = stage.add_noise(latent, stage.noise(tuple(latent.shape)).to(latent))
    return encoders.vae.decode(stage.sample(denoise, x) / VAE_SCALE, frames_per_batch=1).cpu()


def _blurred(frames: Tensor) -> Tensor:
    """Frames without their details: half the size, in multiples of the VAE's step, and back."""
    height, width = frames.shape[1:3]
    half = [max(VAE_STEP, side // 2 // VAE_STEP * VAE_STEP) for side in (height, width)]
    planes = frames.permute(0, 3, 1, 2)
    for size in (half, (height, width)):
        planes = torch.nn.functional.interpolate(planes, size, mode="bilinear", antialias=True)
    return planes.permute(0, 2, 3, 1).clamp(0, 1)


def _device(network: UNet) -> torch.device:
    return next(network.parameters()).device
