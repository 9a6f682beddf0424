"""The stages of training as commands run them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..checkpoints.bundle import stored, write_tower, write_unet, write_vae
from ..checkpoints.load import open_base, open_refiner
from ..checkpoints.read import read_config, read_state_dict
from ..config import UNetConfig
from ..errors import InputError
from ..memory import DTYPES
from ..network.unet import UNet
from ..releases import release_of
from . import watch
from .base import BaseTraining, build_base, train_base
from .begun import run_animate, run_compose, run_distil
from .budget import Plan
from .cache import Cached
from .clip import CLIPTraining, build_clip, standardise_tokens, train_clip
from .data import Folder, Sample
from .diffusion import Encoders
from .grow import grow_vae
from .job import ENCODERS, LORA, TrainingJob, base_of, clips_of, encoder_type, finish, trainable, write_base
from .loop import Loop
from .lora import add_lora, save_lora
from .recipe import read_recipe
from .refiner import RefinerTraining, build_refiner, release_with_branch, train_refiner, with_branch
from .samples import sample_base, sample_refiner
from .vae import VAETraining, build_vae, fit_latent_rgb, normalise_latents, train_vae, unseen_pictures

logger = logging.getLogger("i2vgen_xl")

LEFT_OUT = "left_out.csv"
_PROMPTS = 256  # that the text's tokens are standardised over


def run_vae(job: TrainingJob) -> None:
    """Trains the VAE, and normalises its latent space at the end where its encoder was trained."""
    config = read_recipe(VAETraining, job.recipe)
    job.check("vae")
    vae, earlier = build_vae(config), None
    if (job.model / "vae").is_dir():
        from ..checkpoints.encoders import load_vae

        earlier = load_vae(job.model / "vae", device=job.device).model
        vae = grow_vae(earlier, config.channels, config.blocks)
    source = job.source(config.data, config.loop.seed)
    loop = train_vae(vae, source, job.run, config, job.device)

    def write() -> None:
        unseen = unseen_pictures(source, config, job.device)
        if not config.freeze_encoder:
            normalise_latents(vae, unseen, earlier)
        rgb = fit_latent_rgb(vae, unseen)
        write_vae(job.result / "vae", vae, stored(vae.state_dict(), DTYPES[job.dtype]), rgb)

    finish(loop, job, write)


def run_clip(job: TrainingJob) -> None:
    """Trains both of CLIP's towers, from new weights."""
    config = read_recipe(CLIPTraining, job.recipe)
    job.check("text_encoder", "image_encoder")
    model, source = build_clip(config), job.source(config.data, config.loop.seed)
    loop = train_clip(model, source, job.run, config, job.device)

    def write() -> None:
        prompts = [source.clip(i, 64, 64, 1, 1).prompt for i in range(_PROMPTS)]
        standardise_tokens(model.text, prompts, config.token_scale)
        for name, tower in (("text_encoder", model.text), ("image_encoder", model.vision)):
            write_tower(job.result / name, tower, stored(tower.state_dict(), DTYPES[job.dtype]))

    finish(loop, job, write)


def run_base(job: TrainingJob) -> None:
    """Trains the base network with its global encoder."""
    config = read_recipe(BaseTraining, job.recipe)
    job.check(LORA if config.lora_rank else "unet")
    job.check_encoders(*ENCODERS)
    folder, release, checkpoint = job.model / "unet", {}, None
    if folder.is_dir():
        checkpoint, release = open_base(folder), read_config(folder).get("release", {})
    plan = _plan(config, checkpoint.config if checkpoint else config.unet, (config.width, config.height))
    plan.check(job.device, _encoder_bytes(job, config.loop.precision, ENCODERS))
    if checkpoint is None:
        base = build_base(config)
        longest = max(config.shapes, key=lambda shape: shape.frames)
        release = {"width": config.width, "height": config.height, "frames": longest.frames, "fps": longest.fps[-1]}
    else:
        base = base_of(folder, checkpoint, plan.dtype if config.lora_rank else torch.float32)
    if config.lora_rank:
        base.requires_grad_(False)
        torch.manual_seed(config.loop.seed)
        add_lora(base.network, config.lora_rank, config.lora_rank)
    encoders = Encoders(job.model, job.device, encoder_type(job, config.loop.precision))
    source = clips_of(job, config.data, config.loop.seed, config.buckets)
    loop = train_base(base, encoders, source, job.run, config, job.device)
    _with_samples(job, loop, source, config, lambda clip: sample_base(base, encoders, clip))
    _with_left_out(job, loop, source, config)

    def write() -> None:
        if config.lora_rank:
            return write_lora(job, base.network)
        return write_base(job, base, release)

    finish(loop, job, write)


def run_refiner(job: TrainingJob) -> None:
    """Trains the refinement network."""
    config = read_recipe(RefinerTraining, job.recipe)
    job.check(LORA if config.lora_rank else "refiner")
    job.check_encoders(*ENCODERS[:2])
    folder, release, checkpoint = job.model / "refiner", {}, None
    if folder.is_dir():
        checkpoint, release = open_refiner(folder), read_config(folder).get("release", {})
    width, height = config.crop or (config.width, config.height)
    plan = _plan(config, checkpoint.config if checkpoint else config.unet, (width, height))
    plan.check(job.device, _encoder_bytes(job, config.loop.precision, ENCODERS[:2]))
    if checkpoint is None:
        network = build_refiner(config)
    else:
        network = trainable(checkpoint.build_network(plan.dtype if config.lora_rank else torch.float32))
    if config.hint:
        network, release = _hinted(network, release, config.loop.seed)
    if config.lora_rank:
        torch.manual_seed(config.loop.seed)
        add_lora(network, config.lora_rank, config.lora_rank)
    encoders = Encoders(job.model, job.device, encoder_type(job, config.loop.precision))
    source = job.source(config.data, config.loop.seed, config.buckets)
    settings = release_of(network.config.kind, release)
    loop = train_refiner(network, encoders, source, job.run, config, job.device, settings)
    _with_samples(job, loop, source, config, lambda clip: sample_refiner(network, encoders, clip))
    _with_left_out(job, loop, source, config)

    def write() -> None:
        if config.lora_rank:
            return write_lora(job, network)
        return write_unet(
            job.result / "refiner", network.config, stored(network.state_dict(), DTYPES[job.dtype]), release
        )

    finish(loop, job, write)


def _hinted(network: UNet, release: dict[str, Any], seed: int) -> tuple[UNet, dict[str, Any]]:
    """A refiner with a control branch that alone is trained, and its settings."""
    if network.config.control is None:
        torch.manual_seed(seed)
        network, release = with_branch(network), release_with_branch(network.config.kind, release)
    elif network.config.control.key_frames:
        remedy = "Leave it out, or train the branch of STAR or of a plain refiner."
        raise InputError("hint", "a refiner without key frames", network.config.kind, remedy)
    network.requires_grad_(False)
    network.VideoControlNet.requires_grad_(True)
    return network, release


def _with_samples(
    job: TrainingJob,
    loop: Loop[Any],
    source: Any,
    config: BaseTraining | RefinerTraining,
    sample: Callable[[Sample], Tensor],
) -> None:
    """Adds sample videos to a run, of the first clip of the data that is of the recipe's longest shape."""
    if not job.sample_every:
        return
    if isinstance(source, Cached):
        remedy = "Leave it out, or name the data that was encoded."
        raise InputError("--sample-every", "data with pictures", "encoded clips", remedy)
    shape = max(config.shapes, key=lambda each: each.frames)
    clip = source.clip(0, config.width, config.height, shape.frames, shape.fps[0])
    loop.watchers.append(watch.samples(loop, job.sample_every, shape.fps[0], lambda: sample(clip)))


def _with_left_out(job: TrainingJob, loop: Loop[Any], source: Any, config: BaseTraining | RefinerTraining) -> None:
    """Names in RUN/left_out.csv what of a folder is left out, now and as files are drawn."""
    if not isinstance(source, Folder):
        return
    source.name_short([(shape.frames, fps) for shape in config.shapes for fps in shape.fps])
    job.begin()
    file = job.run / LEFT_OUT
    source.write_left_out(file)
    if source.left_out:
        logger.warning("%d files are left out: %s has their names and the reasons", len(source.left_out), file)
    loop.watchers.append(lambda step, figures: source.write_left_out(file) if figures else None)


def _plan(config: BaseTraining | RefinerTraining, network: UNetConfig, size: tuple[int, int]) -> Plan:
    loop = config.loop
    return Plan(
        network,
        size,
        config.shapes,
        config.repeats,
        config.lora_rank,
        config.checkpointing,
        loop.precision,
        loop.optimiser,
    )


def _encoder_bytes(job: TrainingJob, precision: str, names: Sequence[str]) -> int:
    """Of the encoders that a stage loads."""
    folders = [job.model / name for name in names]
    numbers = sum(
        value.numel() for folder in folders if folder.is_dir() for value in read_state_dict(folder)[0].values()
    )
    return numbers * encoder_type(job, precision).itemsize


def write_lora(job: TrainingJob, network: UNet) -> None:
    """Writes the low-rank matrices into the result's folder."""
    save_lora(network, job.result / LORA)


STAGES: dict[str, Callable[[TrainingJob], None]] = {
    "vae": run_vae,
    "clip": run_clip,
    "base": run_base,
    "refiner": run_refiner,
    "compose": run_compose,
    "animate": run_animate,
    "distil": run_distil,
}
