"""The stages of training as commands run them: a recipe, a model folder to read from and write to, a source of clips."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..checkpoints.bundle import stored, write_index, write_tower, write_unet, write_vae
from ..checkpoints.load import UNetCheckpoint, open_base, open_refiner
from ..checkpoints.read import read_config, read_state_dict
from ..checkpoints.unet_keys import GLOBAL_ENCODER
from ..config import COMPOSERS, UNetConfig, release_of
from ..errors import InputError, check_range, check_writable
from ..memory import DTYPES
from ..network.unet import UNet
from . import watch
from .alive import Alive
from .base import BaseTraining, TrainedBase, build_base, train_base
from .budget import Plan
from .cache import LISTING as ENCODED
from .cache import Cached
from .clip import CLIPTraining, build_clip, standardise_tokens, train_clip
from .compose import ComposeTraining, compose_from, train_compose
from .data import Folder, Sample, Source
from .diffusion import Encoders
from .distil import DistilTraining, train_distil
from .emoji import LISTING
from .grow import grow_vae
from .loop import Loop
from .lora import add_lora, save_lora
from .recipe import read_recipe
from .refiner import RefinerTraining, build_refiner, release_with_branch, train_refiner, with_branch
from .samples import sample_base, sample_refiner
from .vae import VAETraining, build_vae, fit_latent_rgb, normalise_latents, train_vae, unseen_pictures

logger = logging.getLogger("i2vgen_xl")

LORA = "lora.safetensors"
LEFT_OUT = "left_out.csv"
_RESULT = "result.txt"
_FOR_ALL = ("vae", "text_encoder")
"""The encoders that the training of a base and of a refiner load; a base's loads the picture's too."""

_PROMPTS = 256  # that the text's tokens are standardised over


@dataclass(frozen=True)
class TrainingJob:
    """What a stage is run on.

    Args:
        model: the model folder. Its encoders are read; a VAE, base or refiner that is there is trained further.
        recipe: a JSON file, or the name of one in training/recipes.
        run: folder for the checkpoint and the log; a run that was stopped goes on from there.
        out: where what is trained goes, as vae/, text_encoder/ and image_encoder/, unet/ or refiner/, or a LoRA file;
            the run's folder if None. A model that is there is written only where `model` and `out` both name it.
        data: a folder of captioned videos and images, or a prepared one of emoji (training.emoji), or for a base one of
            encoded clips (training.cache); the synthetic world of shapes if None.
        device: where to train.
        dtype: type of the weights that are written.
        until: the step to stop at; the recipe's last if None.
        sample_every: steps from one sample video to the next, of the base and the refiner; 0 for none.
        tensorboard: whether the figures are written for it too.
    """

    model: Path
    recipe: str
    run: Path
    data: Path | None = None
    out: Path | None = None
    device: str = "cpu"
    dtype: str = "fp16"
    until: int | None = None
    sample_every: int = 0
    tensorboard: bool = False

    @property
    def result(self) -> Path:
        """The folder that what is trained goes into."""
        return self.run if self.out is None else self.out

    def check(self, *parts: str) -> None:
        """Asks, before anything is loaded, whether the run's and the result's folders can be written. It leaves nothing there.

        Args:
            parts: that the stage writes into the result's folder.

        Raises:
            InputError: one cannot be written, or holds a part that this run has not made; or a package is missing.
        """
        if self.data is not None and not self.data.exists():
            raise InputError("--data", "a folder or a table", f"nothing at '{self.data}'", "Check the path.")
        for folder in (self.run, self.result):
            check_writable("train", folder)
        if self.tensorboard:
            watch.summary_writer()
        check_range("--sample-every", self.sample_every, 0, 10**9, whole=True)
        if self.sample_every and not set(parts) & {"unet", "refiner", LORA}:
            remedy = "Leave it out; they say how well they do in the log."
            raise InputError("--sample-every", "the base or the refiner", ", ".join(parts), remedy)
        mark, result = self.run / _RESULT, self.result.resolve()
        mine = result in (self.run.resolve(), self.model.resolve())
        mine = mine or (mark.is_file() and mark.read_text(encoding="utf-8") == str(result))
        if there := [part for part in parts if (self.result / part).exists() and not mine]:
            remedy = "Choose another folder, or name it as --model too, to train it further and write over it."
            raise InputError("--out", f"a folder without {there[0]}", f"one in '{self.result}'", remedy)

    def check_encoders(self, *names: str) -> None:
        """Raises InputError where the model has not all the encoders that a stage reads."""
        for name in names:
            if not (self.model / name).is_dir():
                stage = "vae" if name == "vae" else "clip"
                remedy = f"Train it first, with `train {stage}`, or name a model folder that is whole."
                raise InputError("--model", f"a folder with {name}/ in it", f"none in '{self.model}'", remedy)

    def begin(self) -> None:
        """Makes both folders, and notes in the run's which one its result goes into."""
        for folder in (self.run, self.result):
            folder.mkdir(parents=True, exist_ok=True)
        (self.run / _RESULT).write_text(str(self.result.resolve()), encoding="utf-8")

    def source(self, world: Source, seed: int, buckets: bool = False) -> Source:
        """The clips."""
        if self.data is None:
            return world
        return Alive.at(self.data, seed) if (self.data / LISTING).is_file() else Folder(self.data, seed, buckets)


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

    _finish(loop, job, write)


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

    _finish(loop, job, write)


def run_base(job: TrainingJob) -> None:
    """Trains the base network with its global encoder."""
    config = read_recipe(BaseTraining, job.recipe)
    job.check(LORA if config.lora_rank else "unet")
    job.check_encoders(*_FOR_ALL, "image_encoder")
    folder, release, checkpoint = job.model / "unet", {}, None
    if folder.is_dir():
        checkpoint, release = open_base(folder), read_config(folder).get("release", {})
    plan = _plan(config, checkpoint.config if checkpoint else config.unet, (config.width, config.height))
    plan.check(job.device, _encoder_bytes(job, config.loop.precision, (*_FOR_ALL, "image_encoder")))
    if checkpoint is None:
        base = build_base(config)
        longest = max(config.shapes, key=lambda shape: shape.frames)
        release = {"width": config.width, "height": config.height, "frames": longest.frames, "fps": longest.fps[-1]}
    else:
        base = _base_of(folder, checkpoint, plan.dtype if config.lora_rank else torch.float32)
    if config.lora_rank:
        base.requires_grad_(False)
        torch.manual_seed(config.loop.seed)
        add_lora(base.network, config.lora_rank, config.lora_rank)
    encoders = Encoders(job.model, job.device, _encoder_type(job, config.loop.precision))
    source = _clips(job, config.data, config.loop.seed, config.buckets)
    loop = train_base(base, encoders, source, job.run, config, job.device)
    _with_samples(job, loop, source, config, lambda clip: sample_base(base, encoders, clip))
    _with_left_out(job, loop, source, config)

    def write() -> None:
        if config.lora_rank:
            return write_lora(job, base.network)
        return _write_base(job, base, release)

    _finish(loop, job, write)


def _base_of(folder: Path, checkpoint: UNetCheckpoint, dtype: torch.dtype = torch.float32) -> TrainedBase:
    """The network of a folder's checkpoint, and its global encoder in float32. Raises InputError where it has none."""
    encoder = checkpoint.build_global_encoder(torch.float32)
    if encoder is None:
        kind = checkpoint.config.kind
        raise InputError(str(folder), "a base with a global encoder", kind, "Train an I2VGen-XL base.")
    return TrainedBase(_trainable(checkpoint.build_network(dtype)), _trainable(encoder))


def _clips(job: TrainingJob, world: Source, seed: int, buckets: bool = False) -> Source | Cached:
    """A base's clips, which may be encoded already."""
    if job.data is not None and (job.data / ENCODED).is_file():
        return Cached(job.data, job.device)
    return job.source(world, seed, buckets)


def _write_base(job: TrainingJob, base: TrainedBase, release: Mapping[str, Any]) -> None:
    state = {**base.network.state_dict()}
    state |= {GLOBAL_ENCODER + key: value for key, value in base.encoder.state_dict().items()}
    write_unet(job.result / "unet", base.network.config, stored(state, DTYPES[job.dtype]), release)


def run_refiner(job: TrainingJob) -> None:
    """Trains the refinement network."""
    config = read_recipe(RefinerTraining, job.recipe)
    job.check(LORA if config.lora_rank else "refiner")
    job.check_encoders(*_FOR_ALL)
    folder, release, checkpoint = job.model / "refiner", {}, None
    if folder.is_dir():
        checkpoint, release = open_refiner(folder), read_config(folder).get("release", {})
    width, height = config.crop or (config.width, config.height)
    plan = _plan(config, checkpoint.config if checkpoint else config.unet, (width, height))
    plan.check(job.device, _encoder_bytes(job, config.loop.precision, _FOR_ALL))
    if checkpoint is None:
        network = build_refiner(config)
    else:
        network = _trainable(checkpoint.build_network(plan.dtype if config.lora_rank else torch.float32))
    if config.hint:
        network, release = _hinted(network, release, config.loop.seed)
    if config.lora_rank:
        torch.manual_seed(config.loop.seed)
        add_lora(network, config.lora_rank, config.lora_rank)
    encoders = Encoders(job.model, job.device, _encoder_type(job, config.loop.precision))
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

    _finish(loop, job, write)


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


def run_compose(job: TrainingJob) -> None:
    """Trains a composer on the world of shapes: the folder's, or a new one that begins with its I2VGen-XL base."""
    config = read_recipe(ComposeTraining, job.recipe)
    job.check("unet")
    job.check_encoders(*_FOR_ALL, "image_encoder")
    if job.data is not None:
        remedy = "Leave it out: of other videos depth, motion and holes are not known."
        raise InputError("--data", "none for a composer", f"'{job.data}'", remedy)
    checkpoint = open_base(job.model / "unet")
    kind, release = checkpoint.config.kind, read_config(job.model / "unet").get("release", {})
    if kind in COMPOSERS:
        network = _trainable(checkpoint.build_network(torch.float32))
    elif kind == "i2vgen_xl":
        _check_beside(job)
        longest = max(config.shapes, key=lambda shape: shape.frames)
        network = compose_from(checkpoint.build_network(torch.float32), longest.fps[0], config.loop.seed)
        release |= {"title": f"Composer on {release.get('title', 'I2VGen-XL base')}", "prompt_suffix": ""}
        release |= {"width": config.width, "height": config.height, "frames": longest.frames, "fps": longest.fps[0]}
    else:
        raise InputError(str(job.model / "unet"), "a composer or an I2VGen-XL base", kind, "Name another model.")
    encoders = Encoders(job.model, job.device, _encoder_type(job, config.loop.precision))
    loop = train_compose(network, encoders, job.run, config, job.device)

    def write() -> None:
        state = stored(network.state_dict(), DTYPES[job.dtype])
        write_unet(job.result / "unet", network.config, state, release)

    _finish(loop, job, write)


def run_distil(job: TrainingJob) -> None:
    """Distils the base of the model's folder into one of few steps, with its global encoder."""
    config = read_recipe(DistilTraining, job.recipe)
    job.check("unet")
    job.check_encoders(*_FOR_ALL, "image_encoder")
    _check_beside(job)
    folder = job.model / "unet"
    checkpoint, own = open_base(folder), read_config(folder).get("release", {})
    release = release_of(checkpoint.config.kind, own)
    if checkpoint.config.kind != "i2vgen_xl" or release.sampler != "ddim":
        remedy = "Train an I2VGen-XL base."
        raise InputError(str(folder), "a base with a global encoder, for many steps", release.title, remedy)
    student, teacher = (_base_of(folder, checkpoint) for _ in range(2))
    encoders = Encoders(job.model, job.device, _encoder_type(job, config.loop.precision))
    guidance = release.guidance if config.guidance is None else config.guidance
    source, negative = _clips(job, config.data, config.loop.seed), release.negative_prompt
    loop = train_distil(student, teacher, encoders, source, job.run, config, guidance, negative, job.device)
    own |= {"title": f"{release.title}, few steps", "sampler": "lcm", "steps": 4, "guidance": 1.0}
    _finish(loop, job, lambda: _write_base(job, student, own))


def _check_beside(job: TrainingJob) -> None:
    """Raises InputError where what is trained would be written over the base that it begins with."""
    if job.result.resolve() == job.model.resolve():
        raise InputError("--out", "another folder than --model", f"'{job.model}'", "Name one: the base is kept.")


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


def _encoder_type(job: TrainingJob, precision: str) -> torch.dtype:
    """Of the frozen encoders: as the arithmetic's, but on the CPU, where 16 bits cost time."""
    return torch.float32 if torch.device(job.device).type == "cpu" else DTYPES[precision]


def _encoder_bytes(job: TrainingJob, precision: str, names: Sequence[str]) -> int:
    """Of the encoders that a stage loads."""
    folders = [job.model / name for name in names]
    numbers = sum(
        value.numel() for folder in folders if folder.is_dir() for value in read_state_dict(folder)[0].values()
    )
    return numbers * _encoder_type(job, precision).itemsize


def write_lora(job: TrainingJob, network: UNet) -> None:
    """Writes the low-rank matrices into the result's folder."""
    save_lora(network, job.result / LORA)


STAGES: dict[str, Callable[[TrainingJob], None]] = {
    "vae": run_vae,
    "clip": run_clip,
    "base": run_base,
    "refiner": run_refiner,
    "compose": run_compose,
    "distil": run_distil,
}


def _finish(loop: Loop[Any], job: TrainingJob, write: Callable[[], None]) -> None:
    job.begin()
    loop.watchers.append(watch.curves(job.run))
    if job.tensorboard:
        loop.watchers.append(watch.tensorboard(job.run))
    loop.run(job.until)
    loop.module.eval()
    with loop.averaged():
        write()
    if job.out is not None:
        write_index(job.out)
    logger.info("wrote the averaged weights of step %d into %s", loop.step, job.result)


def _trainable(module: nn.Module) -> Any:
    return module.train().requires_grad_(True)
