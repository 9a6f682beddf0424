"""Where clips come from: the synthetic world, or a folder of captioned videos and images."""

from __future__ import annotations

import json
import logging
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from ..errors import InputError
from ..media.images import read_image, video_frame
from ..media.video import read_video_at, video_seconds
from ..media.world import (
    MOTIONS,
    OPPOSITES,
    Level,
    Scene,
    caption,
    held_out,
    opposite,
    render,
    sample_scene,
    short_prompt,
)

logger = logging.getLogger("i2vgen_xl")


@dataclass(frozen=True)
class Sample:
    """A clip to train on.

    Attributes:
        frames: [F, H, W, 3] float32 in 0..1.
        fps: frames a second.
        prompt: what happens in it.
        subject: what is to be seen in it; the refiner's brief prompt.
    """

    frames: Tensor
    fps: float
    prompt: str
    subject: str


class Source(Protocol):
    """Clips by number, the same ones on every run."""

    def clip(self, number: int, width: int, height: int, frames: int, fps: float) -> Sample:
        """A clip of this size, length and frame rate. Numbers have no end; they may bring the same video again."""
        ...

    def picture(self, number: int, width: int, height: int) -> Tensor:
        """Some moment of a clip, [H, W, 3]."""
        ...


@dataclass(frozen=True)
class World:
    """Scenes of the synthetic world, media.world.

    Args:
        levels: drawn from evenly; name one twice to have it more often.
        seed: scenes of different seeds do not meet.
    """

    levels: Sequence[Level] = ("plain", "varied", "full")
    seed: int = 0

    def scene(self, number: int) -> Scene:
        """The scene of a number."""
        number += self.seed * 10**9
        return sample_scene(number, level=self.levels[number % len(self.levels)])

    def clip(self, number: int, width: int, height: int, frames: int, fps: float) -> Sample:
        return _rendered(self.scene(number), number, width, height, frames, fps)

    def picture(self, number: int, width: int, height: int) -> Tensor:
        seconds = random.Random(f"moment {self.seed} {number}").uniform(0.1, 1.8)
        return self.clip(number, width, height, 2, 1 / seconds).frames[-1]

    def pair(self, number: int, width: int, height: int, frames: int, fps: float) -> tuple[Sample, Sample]:
        """A clip, and one with the same first frame where the opposite happens; what stays still moves slowly there."""
        scene = self.scene(number)
        main = scene.shapes[0]
        if main.motion in OPPOSITES or scene.pan:
            other = opposite(scene)
        else:
            motions = [motion for motion in MOTIONS[:4] if not held_out(main.colour, main.kind, motion)]
            moved = replace(main, motion=motions[number % len(motions)], speed="slowly")
            other = replace(scene, shapes=(moved, *scene.shapes[1:]))
        first, second = (_rendered(s, number, width, height, frames, fps) for s in (scene, other))
        return first, second


def _rendered(scene: Scene, number: int, width: int, height: int, frames: int, fps: float) -> Sample:
    clip = render(scene, width, height, frames, fps)
    return Sample(clip.frames, fps, caption(scene, number), short_prompt(scene))


VIDEOS = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".gif")
IMAGES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
LISTING = "metadata.jsonl"


class Folder:
    """A person's own captioned videos and images.

    A caption is in a text file beside the video or image, `walk.txt` for `walk.mp4`, one caption a line; or in a
    `metadata.jsonl` (as the videofolder and imagefolder of Hugging Face datasets have it), in the same folder or in one
    above, a line `{"file_name": "walk.mp4", "text": "..."}` each. Of several captions one is drawn each time.

    Frames are scaled to cover the size asked for and cut at the centre. A clip starts anywhere in its video. Videos
    that are shorter than a clip are passed over, and so are images where a clip has more frames than one: what stands
    still would teach that captions of motion mean nothing.

    Args:
        path: the folder; the folders in it count too.
        seed: of the order, the start in each video and the choice of caption.

    Raises:
        InputError: nothing with a caption in it, a video that cannot be read, or a listing that names no file of the
            folder.
    """

    def __init__(self, path: Path, seed: int = 0):
        found = sorted(f for f in path.rglob("[!.]*") if f.suffix.lower() in VIDEOS + IMAGES)
        captions = _captions(path, found)
        files = [file for file in found if captions[file]]
        if not files:
            what = f"{len(found)} videos and images, none of them with one" if found else "no video and no image"
            remedy = "Put a text file with the caption beside each: walk.mp4, walk.txt."
            raise InputError(str(path), "videos or images with captions", what, remedy)
        if len(files) < len(found):
            logger.warning(
                "%s: %d of %d files have no caption and are left out", path, len(found) - len(files), len(found)
            )
        self.seed = seed
        self._captions = captions
        self._seconds = {file: 0.0 if file.suffix.lower() in IMAGES else video_seconds(file) for file in files}

    def clip(self, number: int, width: int, height: int, frames: int, fps: float) -> Sample:
        """As Source has it. Raises InputError where no video is as long as the clip."""
        seconds = (frames - 1) / fps
        files = [file for file, length in self._seconds.items() if length >= seconds]
        if not files:
            what, longest = f"{frames} frames at {fps:g} fps", max(self._seconds.values())
            found = f"none longer than {longest:.2f} s" if longest else "images alone"
            remedy = "Train on fewer frames (images: on 1), or add longer videos."
            raise InputError(what, f"videos of {seconds:.2f} s or more", found, remedy)
        round_, place = divmod(number, len(files))
        file = random.Random(f"{self.seed} {round_}").sample(files, len(files))[place]
        rng = random.Random(f"{self.seed} {number}")
        prompt = rng.choice(self._captions[file])
        is_image = file.suffix.lower() in IMAGES
        pictures = read_image(file) if is_image else read_video_at(file, frames, fps, rng.random())
        return Sample(torch.cat([video_frame(p[None], width, height) for p in pictures]), fps, prompt, prompt)

    def picture(self, number: int, width: int, height: int) -> Tensor:
        return self.clip(number, width, height, 1, 1).frames[0]


def _captions(folder: Path, files: list[Path]) -> dict[Path, list[str]]:
    """Every file's captions, from the text beside it and from listings."""
    captions: dict[Path, list[str]] = {file: [] for file in files}
    for file in files:
        if (beside := file.with_suffix(".txt")).is_file():
            captions[file] += [line.strip() for line in _text(beside).splitlines() if line.strip()]
    for listing in sorted(folder.rglob(LISTING)):
        for number, line in enumerate(_text(listing).split("\n"), start=1):
            if line.strip():
                file, caption = _entry(listing, number, line)
                if file not in captions:
                    expected, remedy = "a video or image in the listing's folder", "Correct its file_name."
                    raise InputError(f"{listing}, line {number}", expected, str(file), remedy)
                captions[file] += [caption.strip()] if caption.strip() else []
    return captions


def _entry(listing: Path, number: int, line: str) -> tuple[Path, str]:
    try:
        entry = json.loads(line)
        name, caption = entry["file_name"], entry["text"]
    except (ValueError, RecursionError, KeyError, TypeError):
        name = caption = None
    if not isinstance(name, str) or not isinstance(caption, str):
        expected = '{"file_name": "walk.mp4", "text": "a person walks"}'
        raise InputError(f"{listing}, line {number}", expected, line[:80], "Write one such object a line.")
    return listing.parent / name, caption


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(str(file), "text in UTF-8", str(error), "Save it as UTF-8.") from error
