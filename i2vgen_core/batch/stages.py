"""The cascade's jobs, and the workers of its four stages."""

from __future__ import annotations

import hashlib
import tempfile
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, get_args, get_type_hints

import torch
from torch import Tensor

from ..cascade import BaseConditions, Cascade
from ..config import DetailGain, Kind
from ..errors import InputError, check_range
from ..media.images import read_image
from ..media.video import write_video
from ..network.acceleration import Acceleration
from ..sampling.options import BaseOptions, RefineOptions
from .jobs import Job, Row, cast, fingerprint, name_of, resolve, seed_of
from .outputs import publish
from .worker import Stage, local_copy

_SPEED = get_type_hints(Acceleration)


def _hints(options: type[BaseOptions | RefineOptions]) -> dict[str, Any]:
    """Types of a stage's settings by name, those of its acceleration beside the others."""
    return {name: hint for name, hint in get_type_hints(options).items() if hint is not Acceleration} | _SPEED


_HINTS = _hints(BaseOptions) | {
    f"refine_{name}": hint for name, hint in _hints(RefineOptions).items() if name != "seed"
}
_KINDS: dict[str, type] = {
    "image": str,
    "prompt": str,
    **{
        name: next(kind for kind in (int, float, str) if kind in (hint, *get_args(hint)))
        for name, hint in _HINTS.items()
    },
    "refine_prompt": str,
    "file_fps": float,
}
COLUMNS = tuple(_KINDS)
"""What a row may have for the cascade: `generate`'s options by their names."""


def cascade_job(number: int, row: Row, folder: str, model: str, take: int = 0) -> Job:
    """The job of a row for the cascade.

    Args:
        number: the row's.
        row: columns of COLUMNS; None where it says nothing.
        folder: what a relative path of an image starts from.
        model: the model's hash, and whatever else changes the pixels.
        take: how many seeds after the row's own.

    Raises:
        InputError: image or prompt is missing, a column is unknown, or a value cannot be used.
    """
    named = ((_known(name), value) for name, value in row.items())
    given = {name: cast(name, value, _KINDS[name]) for name, value in named}
    given = {name: value for name, value in given.items() if value is not None}
    for name in ("image", "prompt"):
        if name not in given:
            raise InputError(name, "a value in every row", "none", f"Fill the column `{name}`.")
    check_range("file_fps", given.get("file_fps", 8), 0.1, 1000)
    given["image"] = resolve(folder, given["image"])
    seed = seed_of(given, take)
    base = {name: given[name] for name in _hints(BaseOptions) if name in given}
    refine = {name: given[key] for name in _hints(RefineOptions) if (key := f"refine_{name}") in given}
    content = {
        "image": given["image"],
        "prompt": given["prompt"],
        "refine_prompt": given.get("refine_prompt", given["prompt"]),
        "file_fps": given.get("file_fps", 8.0),
        "base": base | {"seed": seed},
        "refine": refine | {"seed": seed},
    }
    base_options(content).check()
    refine_options(content).check()
    name = name_of(content | {"picture": fingerprint(content["image"])}, model)
    return Job(number, name, seed, content)


def base_options(content: dict[str, Any]) -> BaseOptions:
    """Of a job's content."""
    settings, acceleration = _parted(content["base"])
    return BaseOptions(**settings, acceleration=acceleration)


def refine_options(content: dict[str, Any]) -> RefineOptions:
    """Of a job's content."""
    settings, acceleration = _parted(content["refine"])
    return RefineOptions(**settings, acceleration=acceleration)


def _parted(given: dict[str, Any]) -> tuple[dict[str, Any], Acceleration]:
    settings = {name: value for name, value in given.items() if name not in _SPEED}
    return settings, Acceleration(**{name: value for name, value in given.items() if name in _SPEED})


def _known(name: str) -> str:
    if (known := name.lower()) not in _KINDS:  # spreadsheets begin a cell with a capital by themselves
        raise InputError("column", ", ".join(COLUMNS), repr(name), "Rename or remove it; the first row has the names.")
    return known


@dataclass(frozen=True)
class Model:
    """Which cascade, and how it runs. The fields are `generate`'s options."""

    folder: Path
    refiner: Kind | None = None
    detail_gain: DetailGain = "official"
    dtype: str | None = None
    loras: tuple[tuple[Path, float], ...] = ()

    def new(self, device: str) -> Cascade:
        """The cascade, on a device, nothing of which is read."""
        cascade = Cascade(
            self.folder,
            dtype=self.dtype,
            device=device,
            refiner_kind=self.refiner,
            detail_gain=self.detail_gain,
        )
        for file, strength in self.loras:
            cascade.add_lora(file, strength)
        return cascade

    def open(self, device: str) -> Cascade:
        """The cascade, on a device; one for all stages of a process."""
        return _open(self, device)

    def hash(self, stage: str) -> str:
        """Of every file of the folder, the LoRA files, and every setting that changes the pixels: all is read once."""
        loras = tuple((fingerprint(str(file)), strength) for file, strength in self.loras)
        whole = hashlib.sha256(repr((stage, self.refiner, self.detail_gain, self.dtype, *loras)).encode())
        for path in sorted(path for path in self.folder.rglob("*") if path.is_file()):
            whole.update(path.relative_to(self.folder).as_posix().encode())
            with path.open("rb") as file:
                while data := file.read(2**20):
                    whole.update(data)
        return whole.hexdigest()


@lru_cache(maxsize=1)
def _open(model: Model, device: str) -> Cascade:
    return model.new(device)


class CascadeStage(Stage):
    """A stage of the cascade, which shares the networks with the other stages of its process."""

    def close(self) -> None:
        _open.cache_clear()


class Encode(CascadeStage):
    """Image and prompts to what the base reads. Holds CLIP, the VAE, and of the base what encodes the details."""

    def __init__(self, model: Model, device: str):
        self._cascade = model.open(device)
        _ = self._cascade.text_encoder, self._cascade.image_encoder, self._cascade.vae, self._cascade.base

    def work(self, job: Job, value: None) -> BaseConditions:
        with local_copy(job.content["image"]) as file:
            image = read_image(file)
        conditions = self._cascade.condition(image, job.content["prompt"], base_options(job.content))
        return _moved(conditions, torch.device("cpu"))


class Base(CascadeStage):
    """Conditions to the base's latent."""

    def __init__(self, model: Model, device: str):
        self._cascade = model.open(device)
        _ = self._cascade.base

    def work(self, job: Job, value: BaseConditions) -> Tensor:
        conditions = _moved(value, self._cascade.device)
        return self._cascade.sample_base(conditions, base_options(job.content)).cpu()


class Refine(CascadeStage):
    """The base's latent to the refiner's, over the frames between. Holds the VAE and the text encoder too."""

    def __init__(self, model: Model, device: str):
        self._cascade = model.open(device)
        _ = self._cascade.refiner, self._cascade.text_encoder, self._cascade.vae

    def work(self, job: Job, value: Tensor) -> Tensor:
        options = refine_options(job.content)
        frames = self._cascade.decode(value.to(self._cascade.device))
        latent = self._cascade.encode_video(frames, options)
        return self._cascade.sample_refiner(latent, job.content["refine_prompt"], options).cpu()


class Decode(CascadeStage):
    """A latent to the video file."""

    def __init__(self, model: Model, device: str, folder: Path):
        self._cascade = model.open(device)
        self._folder = folder
        _ = self._cascade.vae

    def work(self, job: Job, value: Tensor) -> None:
        frames = self._cascade.decode(value.to(self._cascade.device))
        with tempfile.TemporaryDirectory() as temporary:
            file = Path(temporary) / "video.mp4"
            write_video(file, frames, job.content["file_fps"])
            publish(file, self._folder, job.name)


def _moved(conditions: BaseConditions, device: torch.device) -> BaseConditions:
    return replace(
        conditions,
        positive=conditions.positive.to(device),
        negative=conditions.negative.to(device),
        fps=conditions.fps.to(device),
        details=None if conditions.details is None else conditions.details.to(device),
    )
