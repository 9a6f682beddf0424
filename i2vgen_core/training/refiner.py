"""Trains the refinement stage: a second video network, at the refined size, on the lower noise levels, with text alone
(paper, section 3.3)."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..checkpoints.unet_keys import CONTROL
from ..config import ControlConfig, Kind, UNetConfig
from ..errors import InputError
from ..network.control import Hint
from ..network.hooks import AttentionHooks, Hooks
from ..network.unet import UNet
from ..releases import RELEASES, Release, release_of
from ..sampling.schedules import schedule_for
from .data import Source, World, form_of, of_form
from .diffusion import (
    ClipShape,
    Encoders,
    add_noise,
    attention_for,
    draw_clips,
    draw_timesteps,
    initialise,
    noise_like,
    velocity_loss,
)
from .loop import Loop, LoopConfig
from .worse import worse


@dataclass(frozen=True)
class RefinerTraining:
    """The refiner's sizes and recipe.

    Args:
        unet: the network's sizes, of kind vid2vid_xl.
        width, height: of the clips in pixels.
        crop: width and height of a window that is cut out of each clip, anywhere; none takes all of it.
        shapes: lengths and frame rates; batches are drawn from them. The network is not told the frame rate.
        levels: it is trained on noise levels 0..levels - 1.
        repeats: noise levels that each clip is shown at.
        bias: see diffusion.draw_timesteps.
        suffix: how often the release's suffix follows the prompt, as it does when the refiner is used.
        drop_text: how often the prompt becomes the release's negative one; guidance needs it.
        hint: give the refiner a control branch as STAR has it, which reads the clean latent of the clip made worse, and train that
            branch alone.
        lora_rank: train low-rank matrices beside the attention layers (see lora.add_lora) and nothing else; 0 trains
            all weights.
        checkpointing: run blocks again for their gradients, to save memory.
        buckets: portrait and square clips of a folder keep their form, in sizes of about the same area.
        data: the world's scenes, where no folder is given.
        loop: how long and how.
    """

    unet: UNetConfig = field(default_factory=lambda: UNetConfig(kind="vid2vid_xl"))
    width: int = 288
    height: int = 144
    crop: tuple[int, ...] | None = None
    shapes: tuple[ClipShape, ...] = (ClipShape(16),)
    levels: int = 600
    repeats: int = 1
    bias: float = 1.0
    suffix: float = 0.8
    drop_text: float = 0.15
    hint: bool = False
    lora_rank: int = 0
    checkpointing: bool = False
    buckets: bool = False
    data: World = field(default_factory=World)
    loop: LoopConfig = field(default_factory=LoopConfig)

    def __post_init__(self) -> None:
        if self.hint and self.lora_rank:
            remedy = "Train the branch first, and low-rank matrices with a recipe of their own."
            raise InputError("lora rank", "0 with a hint", str(self.lora_rank), remedy)


def build_refiner(config: RefinerTraining) -> UNet:
    """A new refiner with the seed's weights."""
    network = UNet(config.unet)
    initialise(network, config.loop.seed)
    return network


def with_branch(network: UNet) -> UNet:
    """A refiner with a control branch as STAR has it: a copy of its way down, whose outputs are zero at first. Gates are zero
    too: half open, which the norms behind them take away."""
    hinted = UNet(replace(network.config, kind="star", gated=True, control=ControlConfig(network.config.in_channels)))
    state = network.state_dict()
    state |= {CONTROL + key: value for key, value in state.items()}
    new = hinted.state_dict()
    hinted.load_state_dict(new | {key: state[key] for key in new.keys() & state.keys()})
    with torch.no_grad():
        for name, parameter in hinted.named_parameters():
            if any(part in name for part in (".local", ".zero_convs.", ".middle_block_out.")):
                parameter.zero_()
    return hinted


def release_with_branch(kind: Kind, own: Mapping[str, Any]) -> dict[str, Any]:
    """What is to be told of a refiner's settings when it has become one of kind `star`, for the same runs as before: its own in
    the place of STAR's.

    Args:
        kind: that it had.
        own: settings that are not those of its kind.
    """
    star = asdict(RELEASES["star"])
    settings = asdict(replace(release_of(kind, own), enlarging=1.0))
    return {name: value for name, value in settings.items() if value != star[name]}


def train_refiner(
    network: UNet,
    encoders: Encoders,
    source: Source,
    folder: Path,
    config: RefinerTraining,
    device: torch.device | str = "cpu",
    release: Release | None = None,
) -> Loop[tuple[Tensor, Tensor, Tensor | None]]:
    """The loop that trains it.

    Args:
        network: a new one, or one from an earlier run.
        encoders: frozen, on the same device.
        source: of the clips.
        folder: for checkpoint and log.
        config: the recipe.
        device: where to train.
        release: whose suffix and negative prompt there are; that of the network's kind if None.
    """
    network.to(device)
    network.checkpointing = config.checkpointing
    release, schedule = release or RELEASES[network.config.kind], schedule_for(network.config.kind)

    def batch(number: int) -> tuple[Tensor, Tensor, Tensor | None]:
        samples = draw_clips(source, config.shapes, (config.width, config.height), number, config.loop.seed)
        rng = random.Random(f"drop {config.loop.seed} {number}")
        texts = [
            release.negative_prompt
            if rng.random() < config.drop_text
            else sample.subject + (release.prompt_suffix if rng.random() < config.suffix else "")
            for sample in samples
        ]
        frames = torch.stack([_cropped(sample.frames, config.crop, rng) for sample in samples])
        seen = encoders.latents(torch.stack([worse(clip, rng) for clip in frames]).to(device)) if config.hint else None
        return encoders.latents(frames.to(device)), encoders.prompts(texts), seen

    def loss(b: tuple[Tensor, Tensor, Tensor | None], generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        latents, text = (t.repeat_interleave(config.repeats, 0) for t in b[:2])
        hint = None if b[2] is None else Hint(b[2].repeat_interleave(config.repeats, 0).flatten(0, 1))
        timesteps = draw_timesteps(len(latents), config.levels, config.bias, generator)
        noised = add_noise(latents, schedule, timesteps, noise_like(latents, 0.0, generator))
        hooks = Hooks(AttentionHooks(attention_for(latents.device)))
        predicted = network(noised.x, timesteps, text, latents.shape[1], hooks=hooks, hint=hint)
        return velocity_loss(predicted, noised, config.levels)

    return Loop(network, loss, batch, folder, config.loop, device=device)


def _cropped(frames: Tensor, size: tuple[int, ...] | None, rng: random.Random) -> Tensor:
    """A window of this width and height out of frames [F, H, W, 3]; all of them if None."""
    if size is None:
        return frames
    width, height = of_form((size[0], size[1]), form_of(frames.shape[2], frames.shape[1]))
    y, x = rng.randint(0, frames.shape[1] - height), rng.randint(0, frames.shape[2] - width)
    return frames[:, y : y + height, x : x + width]
