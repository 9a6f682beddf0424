"""The stages of training whose networks begin with a base that was trained: composers, animators, bases of few steps."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from ..checkpoints.bundle import stored, write_unet
from ..checkpoints.load import open_base
from ..checkpoints.read import read_config
from ..config import ANIMATOR_STEMS, ANIMATORS, COMPOSER_STEMS, COMPOSERS, Kind, Stem
from ..errors import InputError
from ..memory import DTYPES
from ..network.unet import UNet
from ..releases import RELEASES, release_of
from .animate import AnimateTraining, train_animate
from .compose import ComposeTraining, train_compose
from .diffusion import Encoders, initialise
from .distil import DistilTraining, train_distil
from .job import ENCODERS, TrainingJob, base_of, clips_of, encoder_type, finish, trainable, write_base
from .recipe import read_recipe

CONCAT_CHANNELS = 8
"""Features beside the noise of composers and animators."""


def run_compose(job: TrainingJob) -> None:
    """Trains a composer on the world of shapes: the folder's, or a new one that begins with its I2VGen-XL base."""
    config = read_recipe(ComposeTraining, job.recipe)
    _check_without_data(job, "a composer", "of other videos depth, motion and holes are not known")
    longest = max(config.shapes, key=lambda shape: shape.frames)
    settings = {"width": config.width, "height": config.height, "frames": longest.frames, "fps": longest.fps[0]}
    network, release = _begun(job, COMPOSERS, COMPOSER_STEMS, config.loop.seed, "Composer", settings)
    encoders = Encoders(job.model, job.device, encoder_type(job, config.loop.precision))
    loop = train_compose(network, encoders, job.run, config, job.device)
    finish(loop, job, lambda: _write(job, network, release))


def run_animate(job: TrainingJob) -> None:
    """Trains an animator on people drawn of simple forms: the folder's, or a new one that begins with its I2VGen-XL base."""
    config = read_recipe(AnimateTraining, job.recipe)
    _check_without_data(job, "an animator", "of other videos the bodies' points are not known")
    settings: dict[str, Any] = {
        "width": config.width,
        "height": config.height,
        "frames": config.frames,
        "fps": config.fps,
        "guidance": RELEASES[ANIMATORS[0]].guidance,
    }
    network, release = _begun(job, ANIMATORS[:1], ANIMATOR_STEMS, config.loop.seed, "Animator", settings)
    encoders = Encoders(job.model, job.device, encoder_type(job, config.loop.precision))
    loop = train_animate(network, encoders, job.run, config, job.device)
    finish(loop, job, lambda: _write(job, network, release))


def _check_without_data(job: TrainingJob, what: str, why: str) -> None:
    job.check("unet")
    job.check_encoders(*ENCODERS)
    if job.data is not None:
        raise InputError("--data", f"none for {what}", f"'{job.data}'", f"Leave it out: {why}.")


def _begun(
    job: TrainingJob, kinds: tuple[Kind, ...], stems: tuple[Stem, ...], seed: int, title: str, settings: dict[str, Any]
) -> tuple[UNet, dict[str, Any]]:
    """The folder's network of one of these kinds, to be trained further; or a new one of the first of them with what the
    folder's I2VGen-XL base has learnt, and its settings."""
    checkpoint = open_base(job.model / "unet")
    kind, release = checkpoint.config.kind, read_config(job.model / "unet").get("release", {})
    network = trainable(checkpoint.build_network(torch.float32))
    if kind in kinds:
        return network, release
    if kind != "i2vgen_xl":
        expected = f"{' or '.join(kinds)}, or an I2VGen-XL base"
        raise InputError(str(job.model / "unet"), expected, kind, "Name another model.")
    _check_beside(job)
    title = f"{title} on {release.get('title', 'I2VGen-XL base')}"
    own = {"title": title, "prompt_suffix": "", **settings}
    return begin(network, kinds[0], stems, settings["fps"], seed), release | own


@torch.no_grad()
def begin(base: UNet, kind: Kind, stems: tuple[Stem, ...], fps: float, seed: int = 0) -> UNet:
    """A new network of the family that has what a base has learnt: all tensors of the same name and shape, and of the first
    convolution what reads the noise and, in the place of the stems' first channels, the details. Of the frame rate it knows one.

    Args:
        base: of kind i2vgen_xl.
        kind, stems: of the new one.
        fps: the frame rate.
        seed: of the weights that are new.
    """
    network = UNet(replace(base.config, kind=kind, concat_channels=CONCAT_CHANNELS, stems=stems))
    initialise(network, seed)
    learnt = base.state_dict()
    for name, tensor in network.state_dict().items():
        if name in learnt and learnt[name].shape == tensor.shape:
            tensor.copy_(learnt[name])
    first, known = network.state_dict()["input_blocks.0.0.weight"], learnt["input_blocks.0.0.weight"]
    first[:, : known.shape[1]] = known
    rate = base.prepare(torch.zeros(1, 1, base.config.context_dim), torch.tensor([float(fps)])).fps
    assert rate is not None
    network.state_dict()["time_embed.2.bias"] += rate[0]
    return network


def _write(job: TrainingJob, network: UNet, release: dict[str, Any]) -> None:
    write_unet(job.result / "unet", network.config, stored(network.state_dict(), DTYPES[job.dtype]), release)


def run_distil(job: TrainingJob) -> None:
    """Distils the base of the model's folder into one of few steps, with its global encoder."""
    config = read_recipe(DistilTraining, job.recipe)
    job.check("unet")
    job.check_encoders(*ENCODERS)
    _check_beside(job)
    folder = job.model / "unet"
    checkpoint, own = open_base(folder), read_config(folder).get("release", {})
    release = release_of(checkpoint.config.kind, own)
    if checkpoint.config.kind != "i2vgen_xl" or release.sampler != "ddim":
        remedy = "Train an I2VGen-XL base."
        raise InputError(str(folder), "a base with a global encoder, for many steps", release.title, remedy)
    student, teacher = (base_of(folder, checkpoint) for _ in range(2))
    encoders = Encoders(job.model, job.device, encoder_type(job, config.loop.precision))
    guidance = release.guidance if config.guidance is None else config.guidance
    source, negative = clips_of(job, config.data, config.loop.seed), release.negative_prompt
    loop = train_distil(student, teacher, encoders, source, job.run, config, guidance, negative, job.device)
    own |= {"title": f"{release.title}, few steps", "sampler": "lcm", "steps": 4, "guidance": 1.0}
    finish(loop, job, lambda: write_base(job, student, own))


def _check_beside(job: TrainingJob) -> None:
    """Raises InputError where what is trained would be written over the base that it begins with."""
    if job.result.resolve() == job.model.resolve():
        raise InputError("--out", "another folder than --model", f"'{job.model}'", "Name one: the base is kept.")
