"""Trains the base stage: the video network with its learnt global encoder and detail path (paper, sections 3.2 and 4.1)."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from ..config import TIMESTEPS, UNetConfig
from ..network.blocks import Layers
from ..network.hooks import AttentionHooks, Hooks
from ..network.image_conditioning import GlobalEncoder
from ..network.unet import UNet
from ..releases import RELEASES
from ..sampling.schedules import schedule_for
from .cache import Cached, Fresh
from .data import Source, World
from .diffusion import (
    Batch,
    ClipShape,
    Encoders,
    add_noise,
    attention_for,
    draw_timesteps,
    initialise,
    noise_like,
    temporal_parts,
    velocity_loss,
)
from .loop import Loop, LoopConfig
from .still import LEFT_ALONE, SLOW, SLOWLY, stand_still


@dataclass(frozen=True)
class BaseTraining:
    """The base's sizes and recipe.

    Args:
        unet: the network's sizes, of kind i2vgen_xl.
        still: a new network begins as a video of the picture standing still, see training.still; and in this run and the
            later ones what makes it so is left alone, or learns slowly.
        width, height: of the clips in pixels.
        shapes: lengths and frame rates; batches are drawn from them.
        image_only: train single frames and leave what mixes frames alone: the first of the runs.
        spatial_rate: learning rate of what an image-only run has trained, relative to that of the temporal layers.
        repeats: noise levels that each clip is shown at.
        bias: see diffusion.draw_timesteps.
        offset_noise: strength of the noise that is the same all over a frame.
        drop_both, drop_text, drop_image: how often the prompt becomes the release's negative one and the CLIP image
            embedding zero, together or alone; guidance needs it.
        lora_rank: train low-rank matrices beside the attention layers (see lora.add_lora) and nothing else; 0 trains
            all weights.
        checkpointing: run blocks again for their gradients, to save memory.
        buckets: portrait and square clips of a folder keep their form, in sizes of about the same area.
        data: the world's scenes, where no folder is given.
        loop: how long and how.
    """

    unet: UNetConfig = field(default_factory=UNetConfig)
    still: bool = False
    width: int = 128
    height: int = 64
    shapes: tuple[ClipShape, ...] = (ClipShape(16),)
    image_only: bool = False
    spatial_rate: float = 1.0
    repeats: int = 1
    bias: float = 1.0
    offset_noise: float = 0.1
    drop_both: float = 0.1
    drop_text: float = 0.05
    drop_image: float = 0.05
    lora_rank: int = 0
    checkpointing: bool = False
    buckets: bool = False
    data: World = field(default_factory=World)
    loop: LoopConfig = field(default_factory=LoopConfig)


class TrainedBase(nn.Module):
    """The video network and its global encoder, which are trained together.

    Args:
        network: a UNet of kind i2vgen_xl.
        encoder: its global encoder.
    """

    def __init__(self, network: UNet, encoder: GlobalEncoder):
        super().__init__()
        self.network, self.encoder = network, encoder

    def forward(
        self, x: Tensor, timesteps: Tensor, text: Tensor, image: Tensor, latent: Tensor, fps: Tensor, frames: int
    ) -> Tensor:
        """The velocity [(b f), 4, h, w].

        Args:
            x: noisy latents [(b f), 4, h, w].
            timesteps: [b].
            text: tokens [b, 77, context_dim].
            image: CLIP image embeddings [b, 1, image_dim], zeros where there is none.
            latent: scaled image latents [b, 4, h, w].
            fps: [b].
            frames: f.
        """
        context = torch.cat([text, self.encoder(latent), self.network.context_embedding(image)], dim=1)
        details = self.network.detail_encoder(latent, frames)
        return self.network(x, timesteps, context, frames, fps, details, Hooks(AttentionHooks(attention_for(x.device))))


def build_base(config: BaseTraining) -> TrainedBase:
    """A new base with the seed's weights."""
    network = UNet(config.unet)
    initialise(network, config.loop.seed)
    if config.still:
        stand_still(network)
    return TrainedBase(network, GlobalEncoder(config.unet.in_channels, config.unet.context_dim, Layers()))


def train_base(
    base: TrainedBase,
    encoders: Encoders,
    source: Source | Cached,
    folder: Path,
    config: BaseTraining,
    device: torch.device | str = "cpu",
) -> Loop[Batch]:
    """The loop that trains it.

    Args:
        base: a new one, or one from an earlier run.
        encoders: frozen, on the same device.
        source: of the clips; or those that are encoded.
        folder: for checkpoint and log.
        config: the recipe.
        device: where to train.
    """
    base.to(device)
    clips = source if isinstance(source, Cached) else Fresh(source, encoders, device)
    kind = base.network.config.kind
    schedule, negative = schedule_for(kind), RELEASES[kind].negative_prompt
    temporal = tuple("network." + name for name in temporal_parts(base.network))
    for name, parameter in base.named_parameters():
        if (config.image_only and name.startswith(temporal)) or (config.still and name.startswith(LEFT_ALONE)):
            parameter.requires_grad_(False)
    base.network.checkpointing = config.checkpointing

    def batch(number: int) -> Batch:
        drawn = clips.draw(config.shapes, (config.width, config.height), number, config.loop.seed)
        texts, keep = _drop(drawn.prompts, number)
        image = drawn.image * torch.tensor(keep, device=drawn.image.device)[:, None, None]
        return Batch(drawn.latents, encoders.prompts(texts), image, drawn.fps)

    def _drop(prompts: list[str], number: int) -> tuple[list[str], list[float]]:
        rng = random.Random(f"drop {config.loop.seed} {number}")
        texts, keep = [], []
        for prompt in prompts:
            u = rng.random()
            both = u < config.drop_both
            text = both or u < config.drop_both + config.drop_text
            image = both or (not text and u < config.drop_both + config.drop_text + config.drop_image)
            texts.append(negative if text else prompt)
            keep.append(0.0 if image else 1.0)
        return texts, keep

    def loss(b: Batch, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        latents, text, image, fps = b.repeated(config.repeats)
        timesteps = draw_timesteps(len(latents), TIMESTEPS, config.bias, generator)
        noise = noise_like(latents, config.offset_noise, generator)
        noised = add_noise(latents, schedule, timesteps, noise)
        frames = latents.shape[1]
        # torch 2.13 crashes in a group norm's gradient on the CPU where its input, made by what is frozen, needs none.
        x = noised.x.requires_grad_(config.still)
        predicted = base(x, timesteps, text, image, latents[:, 0], fps, frames)
        return velocity_loss(predicted, noised, TIMESTEPS)

    rates = {name: config.spatial_rate for name, _ in base.named_parameters() if not name.startswith(temporal)}
    if config.still:
        rates |= {name: SLOWLY * rates.get(name, 1.0) for name, _ in base.named_parameters() if name.startswith(SLOW)}
    return Loop(base, loss, batch, folder, config.loop, rates=rates, device=device)
