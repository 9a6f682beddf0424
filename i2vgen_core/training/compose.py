"""Trains a composer on the synthetic world, whose sketches, depth, motion and holes are known exactly. It begins with the
weights of an I2VGen-XL base, where the two have them in common (VideoComposer, arXiv 2306.02018; TF-T2V, arXiv 2312.15770)."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from ..config import TIMESTEPS, Stem
from ..media.captions import caption, short_prompt
from ..media.guides import guide_pictures
from ..media.rendering import render
from ..network.hooks import AttentionHooks, Hooks
from ..network.unet import UNet
from ..releases import RELEASES
from ..sampling.schedules import schedule_for
from .data import World
from .diffusion import (
    ClipShape,
    Encoders,
    add_noise,
    attention_for,
    draw_timesteps,
    noise_like,
    velocity_loss,
)
from .loop import Loop, LoopConfig
from .truths import true_guides

_NONE, _ALL = 0.1, 0.1  # of the clips; the rest has each guide by itself


@dataclass(frozen=True)
class ComposeTraining:
    """A composer's recipe; its sizes are those of the base that it begins with.

    Args:
        width, height: of the clips in pixels.
        shapes: lengths and frame rates; batches are drawn from them. The network is not told the frame rate.
        repeats: noise levels that each clip is shown at.
        bias: see diffusion.draw_timesteps.
        keep: how often a clip has each of the guides. A tenth of the clips have none at all, and a tenth all.
        looks: how often a batch is shown its first frames as CLIP sees them.
        subject: how often the prompt does not say what happens.
        drop_text: how often it becomes the release's negative one; guidance needs it.
        data: the world's scenes.
        loop: how long and how.
    """

    width: int = 128
    height: int = 64
    shapes: tuple[ClipShape, ...] = (ClipShape(16, (8,)),)
    repeats: int = 1
    bias: float = 1.0
    keep: float = 0.5
    looks: float = 0.2
    subject: float = 0.3
    drop_text: float = 0.1
    data: World = field(default_factory=World)
    loop: LoopConfig = field(default_factory=LoopConfig)


@dataclass(frozen=True, eq=False)
class _Batch:
    latents: Tensor
    text: Tensor
    image: Tensor | None
    pictures: dict[Stem, Tensor]
    kept: dict[Stem, Tensor]


def train_compose(
    network: UNet,
    encoders: Encoders,
    folder: Path,
    config: ComposeTraining,
    device: torch.device | str = "cpu",
) -> Loop[_Batch]:
    """The loop that trains it.

    Args:
        network: a composer, see begun.begin, or one from an earlier run.
        encoders: frozen, on the same device.
        folder: for checkpoint and log.
        config: the recipe.
        device: where to train.
    """
    network.to(device)
    kind, stems = network.config.kind, network.config.stems
    schedule, negative = schedule_for(kind), RELEASES[kind].negative_prompt

    def batch(number: int) -> _Batch:
        rng = random.Random(f"compose {config.loop.seed} {number}")
        shape = rng.choices(config.shapes, [shape.weight for shape in config.shapes])[0]
        clips, prompts, guides, kept = [], [], [], []
        for index in range(number * 1000, number * 1000 + shape.clips):
            scene = config.data.scene(index)
            clip = render(scene, config.width, config.height, shape.frames, rng.choice(shape.fps))
            clips.append(clip.frames)
            prompts.append(_prompt(caption(scene, index), short_prompt(scene), rng))
            guides.append(guide_pictures(true_guides(scene, clip, index), config.width, config.height, shape.frames)[0])
            share = rng.choices((0.0, 1.0, config.keep), (_NONE, _ALL, 1 - _NONE - _ALL))[0]
            kept.append([float(rng.random() < share) for _ in stems])
        frames = torch.stack(clips).to(device)
        return _Batch(
            encoders.latents(frames),
            encoders.prompts(prompts),
            encoders.stretched_images(frames[:, 0]) if rng.random() < config.looks else None,
            {name: torch.cat([each[name] for each in guides]).to(device) for name in stems},
            dict(zip(stems, torch.tensor(kept, device=device).unbind(1), strict=True)),
        )

    def _prompt(whole: str, subject: str, rng: random.Random) -> str:
        u = rng.random()
        if u < config.drop_text:
            return negative
        return subject if u < config.drop_text + config.subject else whole

    def loss(b: _Batch, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        frames, height, width = b.latents.shape[1], *b.latents.shape[3:]
        context = b.text if b.image is None else torch.cat([b.text, network.pre_image_condition(b.image)], dim=1)
        features = [
            network.stems[name](b.pictures[name], height, width) * b.kept[name].view(-1, 1, 1, 1, 1) for name in stems
        ]
        beside = sum(features[1:], start=features[0]).expand(-1, frames, -1, -1, -1)
        latents, context, beside = (t.repeat_interleave(config.repeats, 0) for t in (b.latents, context, beside))
        timesteps = draw_timesteps(len(latents), TIMESTEPS, config.bias, generator)
        noised = add_noise(latents, schedule, timesteps, noise_like(latents, 0.0, generator))
        hooks = Hooks(AttentionHooks(attention_for(latents.device)))
        predicted = network(noised.x, timesteps, context, frames, details=beside.flatten(0, 1), hooks=hooks)
        return velocity_loss(predicted, noised, TIMESTEPS)

    return Loop(network, loss, batch, folder, config.loop, device=device)
