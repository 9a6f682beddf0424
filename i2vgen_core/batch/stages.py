"""The cascade's jobs, and the workers of its four stages."""

from __future__ import annotations

import hashlib
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Any, get_args, get_type_hints

import torch
from torch import Tensor

from ..cascade import BaseConditions, Cascade, inserted_like, sized_like
from ..config import DetailGain, Kind
from ..errors import InputError, check_range
from ..media.enlarge import Canvas
from ..media.images import read_image
from ..media.video import read_video, same_rate, write_video
from ..network.acceleration import Acceleration
from ..sampling.options import BaseOptions, RefineOptions
from .jobs import Job, Row, cast, fingerprint, name_of, resolve, seed_of
from .kept import KeptWindows
from .outputs import UNFINISHED, publish
from .worker import Stage, local_copy

_SPEED = get_type_hints(Acceleration)


def _hints(options: type[BaseOptions | RefineOptions]) -> dict[str, Any]:
    """Types of a stage's settings by name, those of its acceleration beside the others; no row has a latent to begin from."""
    hints = get_type_hints(options).items()
    return {name: hint for name, hint in hints if hint is not Acceleration and name != "denoise"} | _SPEED


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
    "video": str,
}
COLUMNS = tuple(_KINDS)
"""What a row may have for the cascade: `generate`'s options by their names."""


def cascade_job(number: int, row: Row, folder: str, model: str, take: int = 0, refines: bool = True) -> Job:
    """The job of a row for the cascade.

    Args:
        number: the row's.
        row: columns of COLUMNS; None where it says nothing.
        folder: what a relative path of an image or video starts from.
        model: the model's hash, and whatever else changes the pixels.
        take: how many seeds after the row's own.
        refines: whether the second stage runs, which is what a video is for.

    Raises:
        InputError: image or prompt is missing where there is no video, a column is unknown, or a value cannot be used.
    """
    named = ((_known(name), value) for name, value in row.items())
    given = {name: cast(name, value, _KINDS[name]) for name, value in named}
    given = {name: value for name, value in given.items() if value is not None}
    source = "video" if "video" in given else "image"
    if source == "video":
        if "image" in given or not refines:
            found = "an image too" if "image" in given else "the base stage alone"
            raise InputError("video", "a video for the refiner alone", found, "Leave one of them out.")
        given.setdefault("prompt", given.get("refine_prompt", ""))
    for name in (source, "prompt"):
        if name not in given:
            raise InputError(name, "a value in every row", "none", f"Fill the column `{name}`.")
    check_range("file_fps", given.get("file_fps", 8), 0.1, 1000)
    given[source] = resolve(folder, given[source])
    seed = seed_of(given, take)
    base = {name: given[name] for name in _hints(BaseOptions) if name in given}
    refine = {name: given[key] for name in _hints(RefineOptions) if (key := f"refine_{name}") in given}
    content = {
        source: given[source],
        "prompt": given["prompt"],
        "refine_prompt": given.get("refine_prompt", given["prompt"]),
        "file_fps": given.get("file_fps", None if source == "video" else 8.0),
        "base": base | {"seed": seed},
        "refine": refine | {"seed": seed},
    }
    base_options(content).check()
    refine_options(content).check()
    name = name_of(content | {"picture": fingerprint(content[source])}, model)
    return Job(number, name, seed, content)


def base_options(content: dict[str, Any]) -> BaseOptions:
    """Options of the base from a job's content."""
    settings, acceleration = _parted(content["base"])
    return BaseOptions(**settings, acceleration=acceleration)


def refine_options(content: dict[str, Any]) -> RefineOptions:
    """Options of the refiner from a job's content."""
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
        """Hash of every file of the folder, the LoRA files, and every setting that changes the pixels: all is read once."""
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

    def work(self, job: Job, value: None) -> BaseConditions | None:
        if "video" in job.content:
            return None
        with local_copy(job.content["image"]) as file:
            image = read_image(file)
        conditions = self._cascade.condition(image, job.content["prompt"], base_options(job.content))
        return _moved(conditions, torch.device("cpu"))


class Base(CascadeStage):
    """Conditions to the base's latent."""

    def __init__(self, model: Model, device: str):
        self._cascade = model.open(device)
        _ = self._cascade.base

    def work(self, job: Job, value: BaseConditions | None) -> Tensor | None:
        if value is None:
            return None
        conditions = _moved(value, self._cascade.device)
        return self._cascade.sample_base(conditions, base_options(job.content)).cpu()


class Refine(CascadeStage):
    """The base's latent to the refiner's, over the frames between. Holds the VAE and the text encoder too.

    A long video's windows are kept as they are made, and taken up again where a job was killed. Not where features are used
    again: a window then needs those of the step before."""

    def __init__(self, model: Model, device: str, folder: Path):
        self._cascade = model.open(device)
        self._folder = folder
        _ = self._cascade.refiner, self._cascade.text_encoder, self._cascade.vae

    def work(self, job: Job, value: Tensor | None) -> Tensor | Refined:
        options, rate, release = refine_options(job.content), None, self._cascade.refiner.release
        if value is not None:
            frames = self._cascade.decode(value.to(self._cascade.device))
        else:
            with local_copy(job.content["video"]) as file:
                frames, rate = read_video(file)
            options = inserted_like(rate, sized_like(frames, options, release), release)
        canvas = self._cascade.canvas(frames, options)
        latent = self._cascade.encode_video(frames, options)
        kept = KeptWindows(self._folder / UNFINISHED / job.name, self._cascade.device)
        around = kept if options.acceleration.reuse_interval == 1 else None
        latent = self._cascade.sample_refiner(latent, job.content["refine_prompt"], options, around=around).cpu()
        inserted = release.inserted if options.inserted is None else options.inserted
        return latent if rate is None and canvas is None else Refined(latent, rate, canvas, inserted)


@dataclass(frozen=True)
class Refined:
    """A latent of a video that came from a file, with the file's rate, or of one that was enlarged.

    Args:
        latent: unscaled.
        rate: of the file; None where the video was made here.
        canvas: see Cascade.decode_refined.
        inserted: frames between two of the video that it was made of.
    """

    latent: Tensor
    rate: Fraction | None
    canvas: Canvas | None = None
    inserted: int = 0


class Decode(CascadeStage):
    """A latent to the video file."""

    def __init__(self, model: Model, device: str, folder: Path):
        self._cascade = model.open(device)
        self._folder = folder
        _ = self._cascade.vae

    def work(self, job: Job, value: Tensor | Refined) -> None:
        fps = job.content["file_fps"]
        refined = value if isinstance(value, Refined) else Refined(value, None)
        with ExitStack() as stack:
            sound = None
            if refined.rate is not None:
                fps = refined.rate if fps is None else fps
                if same_rate(fps, refined.rate):
                    sound = stack.enter_context(local_copy(job.content["video"]))
            fps = fps * (refined.inserted + 1)
            frames = self._cascade.decode_refined(refined.latent.to(self._cascade.device), refined.canvas)
            file = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "video.mp4"
            write_video(file, frames, fps, sound=sound)
            publish(file, self._folder, job.name)


def _moved(conditions: BaseConditions, device: torch.device) -> BaseConditions:
    return replace(
        conditions,
        positive=conditions.positive.to(device),
        negative=conditions.negative.to(device),
        fps=conditions.fps.to(device),
        details=None if conditions.details is None else conditions.details.to(device),
    )
