"""Trains an animator on people drawn of simple forms, whose poses are known. It begins with the weights of an I2VGen-XL base,
where the two have them in common (UniAnimate, arXiv 2406.01188)."""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

import torch
from einops import rearrange
from torch import Tensor

from ..config import TIMESTEPS
from ..media.guides import stretched
from ..network.hooks import AttentionHooks, Hooks
from ..network.unet import UNet
from ..poses.drawing import draw
from ..sampling.schedules import schedule_for
from . import walkers
from .diffusion import Encoders, add_noise, attention_for, draw_timesteps, noise_like, velocity_loss
from .loop import Loop, LoopConfig

_ALONE = 0.1
"""Share of the clips that are shown without the person and the poses: guidance needs it."""


@dataclass(frozen=True)
class AnimateTraining:
    """An animator's recipe; its sizes are those of the base that it begins with.

    Args:
        width, height: of the clips in pixels.
        frames, fps: of the clips.
        clips: in a batch.
        people: how many there are; each is drawn and encoded once, for twice as many frames as a clip has.
        repeats: noise levels that each clip is shown at.
        bias: see diffusion.draw_timesteps.
        first_frame: how often a clip's own first frame is given beside the person's picture.
        seed: of the people.
        loop: how long and how.
    """

    width: int = 64
    height: int = 96
    frames: int = 16
    fps: int = 8
    clips: int = 4
    people: int = 240
    repeats: int = 1
    bias: float = 1.0
    first_frame: float = 0.2
    seed: int = 0
    loop: LoopConfig = field(default_factory=LoopConfig)


@dataclass(frozen=True, eq=False)
class _Person:
    """A person's picture and what it does, encoded: scaled latents [n, 4, h, w], pose pictures and frames [n, 3, H, W] in
    0..255, CLIP's embedding [1, image_dim]; the picture that is given comes first."""

    latents: Tensor
    poses: Tensor
    frames: Tensor
    image: Tensor


@dataclass(frozen=True, eq=False)
class _Batch:
    latents: Tensor
    reference: Tensor
    image: Tensor
    poses: Tensor
    reference_pose: Tensor
    first_frame: Tensor
    given: Tensor
    begins: Tensor


def shown(walker: walkers.Walker, width: int, height: int, frames: int, fps: float) -> tuple[Tensor, Tensor]:
    """Frames and pose pictures of a person, [frames + 1, height, width, 3] in 0..1; the first is the person standing."""
    both = ((walker.standing, 1), (walker, frames))
    pictures = [walkers.render(who, width, height, count, fps) for who, count in both]
    poses = [stretched(draw(walkers.points(who, count, fps, width / height)), width, height) for who, count in both]
    return torch.cat(pictures), torch.cat(poses)


def _kept(pictures: Tensor) -> Tensor:
    return (255 * rearrange(pictures, "f h w c -> f c h w")).round().byte().cpu()


def train_animate(
    network: UNet,
    encoders: Encoders,
    folder: Path,
    config: AnimateTraining,
    device: torch.device | str = "cpu",
) -> Loop[_Batch]:
    """The loop that trains it.

    Args:
        network: an animator, see begun.begin, or one from an earlier run.
        encoders: frozen, on the same device.
        folder: for checkpoint and log.
        config: the recipe.
        device: where to train.
    """
    network.to(device)
    schedule = schedule_for(network.config.kind)
    nothing = encoders.prompts([""])

    @cache
    def person(number: int) -> _Person:
        walker = walkers.sample_walker(config.seed * 100_000 + number)
        frames, poses = shown(walker, config.width, config.height, 2 * config.frames, config.fps)
        frames = frames.to(device)
        latents, image = encoders.latents(frames[None])[0], encoders.stretched_images(frames[:1])[0]
        return _Person(latents.half(), _kept(poses), _kept(frames), image)

    def batch(number: int) -> _Batch:
        rng = random.Random(f"animate {config.loop.seed} {number}")
        rows = []
        for _ in range(config.clips):
            who = person(rng.randrange(config.people))
            start = rng.randint(1, config.frames + 1)
            there = slice(start, start + config.frames)
            given, begins = float(rng.random() >= _ALONE), float(rng.random() < config.first_frame)
            poses, frame = who.poses[there].float() / 255, who.frames[start].float() / 255
            told = torch.tensor([given, given * begins])
            latents = who.latents.float()  # torch's autocast on the CPU stacks no float16
            rows.append((latents[there], latents[0], who.image, poses, who.poses[0].float() / 255, frame, told))
        latents, reference, image, poses, reference_pose, frame, told = (
            torch.stack(parts).to(device) for parts in zip(*rows, strict=True)
        )
        return _Batch(latents, reference, image, poses, reference_pose, frame, *told.unbind(1))

    def loss(b: _Batch, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        frames, height, width = b.latents.shape[1], *b.latents.shape[3:]
        given, begins = b.given[:, None, None], b.begins[:, None, None, None, None]
        tokens = network.pre_image_condition(b.image) * given
        context = torch.cat([nothing.expand(len(tokens), -1, -1), tokens], dim=1)
        beside = network.stems["pose"](b.poses, height, width) * given[..., None, None]
        beside = beside + network.stems["local_image"](b.first_frame[:, None], height, width) * begins
        in_front = network.stems.in_front(b.reference, b.reference_pose) * given[..., None]
        latents, context, beside, in_front = (
            each.repeat_interleave(config.repeats, 0) for each in (b.latents, context, beside, in_front)
        )
        timesteps = draw_timesteps(len(latents), TIMESTEPS, config.bias, generator)
        noised = add_noise(latents, schedule, timesteps, noise_like(latents, 0.0, generator))
        conditions = replace(network.prepare(context), details=beside.flatten(0, 1), in_front=in_front)
        hooks = Hooks(AttentionHooks(attention_for(latents.device)))
        predicted = network(noised.x, timesteps, conditions, frames, hooks=hooks)
        return velocity_loss(predicted, noised, TIMESTEPS)

    return Loop(network, loss, batch, folder, config.loop, device=device)
