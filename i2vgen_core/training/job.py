"""What a command of training runs on: a recipe, a model folder to read from and write to, a source of clips."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..checkpoints.bundle import stored, write_index, write_unet
from ..checkpoints.load import UNetCheckpoint
from ..checkpoints.unet_keys import GLOBAL_ENCODER
from ..errors import InputError, check_range, check_writable
from ..memory import DTYPES
from . import watch
from .alive import Alive
from .base import TrainedBase
from .cache import LISTING as ENCODED
from .cache import Cached
from .data import Folder, Source
from .emoji import LISTING
from .loop import Loop

logger = logging.getLogger("i2vgen_xl")

LORA = "lora.safetensors"
ENCODERS = ("vae", "text_encoder", "image_encoder")
"""What the training of a first stage reads of a model; a refiner's reads the first two."""
_RESULT = "result.txt"


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


def base_of(folder: Path, checkpoint: UNetCheckpoint, dtype: torch.dtype = torch.float32) -> TrainedBase:
    """The network of a folder's checkpoint, and its global encoder in float32. Raises InputError where it has none."""
    encoder = checkpoint.build_global_encoder(torch.float32)
    if encoder is None:
        kind = checkpoint.config.kind
        raise InputError(str(folder), "a base with a global encoder", kind, "Train an I2VGen-XL base.")
    return TrainedBase(trainable(checkpoint.build_network(dtype)), trainable(encoder))


def clips_of(job: TrainingJob, world: Source, seed: int, buckets: bool = False) -> Source | Cached:
    """A base's clips, which may be encoded already."""
    if job.data is not None and (job.data / ENCODED).is_file():
        return Cached(job.data, job.device)
    return job.source(world, seed, buckets)


def write_base(job: TrainingJob, base: TrainedBase, release: Mapping[str, Any]) -> None:
    state = {**base.network.state_dict()}
    state |= {GLOBAL_ENCODER + key: value for key, value in base.encoder.state_dict().items()}
    write_unet(job.result / "unet", base.network.config, stored(state, DTYPES[job.dtype]), release)


def encoder_type(job: TrainingJob, precision: str) -> torch.dtype:
    """Of the frozen encoders: as the arithmetic's, but on the CPU, where 16 bits cost time."""
    return torch.float32 if torch.device(job.device).type == "cpu" else DTYPES[precision]


def finish(loop: Loop[Any], job: TrainingJob, write: Callable[[], None]) -> None:
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


def trainable(module: nn.Module) -> Any:
    return module.train().requires_grad_(True)
