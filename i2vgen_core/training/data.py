"""Where clips come from: the synthetic world, or a folder of captioned videos and images."""

from __future__ import annotations

import csv
import logging
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from ..errors import InputError
from ..media.captions import caption, short_prompt
from ..media.decoding import moves
from ..media.images import read_image, video_frame
from ..media.photo import ENDINGS as IMAGES
from ..media.rendering import render
from ..media.rows import read_rows, read_text
from ..media.video import read_video, read_video_at, video_seconds
from ..media.world import MOTIONS, OPPOSITES, Level, Scene, held_out, opposite, sample_scene

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


VIDEOS = (".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi", ".wmv", ".flv", ".mpg", ".mpeg", ".gif")
LISTINGS = (".jsonl", ".csv")
FILE_COLUMNS = ("file_name", "video_path", "image_path")
TEXT_COLUMNS = ("text", "caption")
_BAR = "|||"
_NAMED = 5  # of what is counted, so many are named


class Folder:
    """A person's own captioned videos and images.

    A caption is in a text file beside the video or image, `walk.txt` for `walk.mp4`, one caption a line; or in a table
    in the same folder or in one above: `metadata.jsonl` or `metadata.csv` with `file_name` and `text` (as the
    videofolder and imagefolder of Hugging Face datasets have it), any .jsonl or .csv with one of FILE_COLUMNS and one of
    TEXT_COLUMNS; or in a list of VGen's, a .txt of lines `videos/walk.mp4|||a person walks`. Of several captions one
    is drawn each time.

    Frames are scaled to cover the size asked for and cut at the centre. A clip starts anywhere in its video. Videos
    that are shorter than a clip are passed over, and so are images where a clip has more frames than one: what stands
    still would teach that captions of motion mean nothing.

    What has no caption, and what cannot be read, is said and left out: at the start, or when it is first drawn, where
    the next of the order takes its place. So a number is the same clip in a run that was stopped and goes on.

    Args:
        path: the folder; the folders in it count too, but for hidden ones. Or one of its tables or lists, which then
            says alone what belongs to it.
        seed: of the order, the start in each video and the choice of caption.
        buckets: whether a batch has clips of one form, landscape, portrait or square, in a size of that form.

    Attributes:
        left_out: why a file is left out, by the file; it grows as files are drawn.

    Raises:
        InputError: nothing that can be read and has a caption, or a table that is none.
    """

    def __init__(self, path: Path, seed: int = 0, buckets: bool = False):
        self._path, self.seed = path, seed
        found, captions, reasons = _captioned(path)
        self._captions = {file: texts for file, texts in captions.items() if texts}
        self._seconds: dict[Path, float] = {}
        self._broken: set[Path] = set()
        self._forms: dict[Path, str] = {}
        self.left_out: dict[Path, str] = {file: "no caption" for file in found if not captions[file]}
        for file in self._captions:
            try:
                still = file.suffix.lower() in IMAGES and not moves(file)
                self._seconds[file] = 0.0 if still else video_seconds(file)
                if buckets:
                    self._forms[file] = _form_of_file(file, still)
            except InputError as error:
                self._seconds.pop(file, None)
                self.left_out[file] = str(error)
                reasons.append(str(error))
                logger.warning("%s is left out: %s", file, error)
        if not self._seconds:
            what = f"{len(found)} videos and images, none of them with one that can be read" if found else "none"
            what += f" ({' '.join(reasons[:_NAMED])})" if reasons else ""
            tables = f"metadata.jsonl or .csv with {' or '.join(FILE_COLUMNS)} and {' or '.join(TEXT_COLUMNS)}"
            remedy = f"Put a text file with the caption beside each, walk.txt for walk.mp4; or name both in {tables}."
            raise InputError(str(path), "videos or images with captions", what, remedy)
        if alone := [file for file in found if not captions[file]]:
            logger.warning(
                "%s: %d of %d files have no caption and are left out: %s", path, len(alone), len(found), _some(alone)
            )
        if broken := len(self._captions) - len(self._seconds):
            logger.warning("%s: %d of %d files cannot be read and are left out", path, broken, len(found))

    def size(self, number: int, width: int, height: int) -> tuple[int, int]:
        """Width and height for the batch of a number: with buckets, those of about this area in the form of some file."""
        if not self._forms:
            return width, height
        return of_form((width, height), random.Random(f"form {self.seed} {number}").choice(list(self._forms.values())))

    def name_short(self, lengths: Sequence[tuple[int, float]]) -> None:
        """Adds to left_out what is too short for every clip that is drawn: of so many frames, at such a rate."""
        least = min((frames - 1) / fps for frames, fps in lengths)
        for file, seconds in self._seconds.items():
            if seconds < least:
                what = f"{seconds:.2f} s" if seconds else "a picture"
                self.left_out[file] = f"{what}; the shortest clip that is drawn takes {least:.2f} s"

    def write_left_out(self, file: Path) -> None:
        """A CSV of what is left out, by name and reason; the file goes where nothing is."""
        if not self.left_out:
            file.unlink(missing_ok=True)
            return
        with file.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.writer(stream)
            writer.writerow(["file", "reason"])
            writer.writerows(sorted((str(each), why) for each, why in self.left_out.items()))

    def clip(self, number: int, width: int, height: int, frames: int, fps: float) -> Sample:
        """A clip, see Source. Raises InputError where no video is as long as the clip, or none of those can be read."""
        seconds = (frames - 1) / fps
        files = [file for file, length in self._seconds.items() if length >= seconds]
        if self._forms:
            files = [file for file in files if self._forms[file] == form_of(width, height)] or files
        if not files:
            what, longest = f"{frames} frames at {fps:g} fps", max(self._seconds.values())
            found = f"none longer than {longest:.2f} s" if longest else "images alone"
            remedy = "Train on fewer frames (images: on 1), or add longer videos."
            raise InputError(what, f"videos of {seconds:.2f} s or more", found, remedy)
        round_, place = divmod(number, len(files))
        order = random.Random(f"{self.seed} {round_}").sample(files, len(files))
        for file in order[place:] + order[:place]:  # the first that can be read
            rng = random.Random(f"{self.seed} {number}")
            prompt = rng.choice(self._captions[file])
            is_image = not self._seconds[file]
            try:
                pictures = read_image(file) if is_image else read_video_at(file, frames, fps, rng.random())
            except InputError as error:
                self._leave_out(file, error)
                continue
            return Sample(torch.cat([video_frame(p[None], width, height) for p in pictures]), fps, prompt, prompt)
        remedy = "Look at the reasons above, and replace them."
        raise InputError(str(self._path), "videos or images that can be read", f"{len(files)} that cannot", remedy)

    def picture(self, number: int, width: int, height: int) -> Tensor:
        return self.clip(number, width, height, 1, 1).frames[0]

    def _leave_out(self, file: Path, error: InputError) -> None:
        """Says it, once: a video may be whole elsewhere, so it is tried again."""
        if file not in self._broken:
            self._broken.add(file)
            self.left_out[file] = str(error)
            count = f"{len(self._broken)} of {len(self._seconds)}"
            logger.warning("%s is left out, another takes its place: %s (%s so far)", file, error, count)


_SQUARE = 1.25  # a picture whose sides differ by less counts as square


def form_of(width: int, height: int) -> str:
    """`landscape`, `portrait` or `square`."""
    if max(width, height) < _SQUARE * min(width, height):
        return "square"
    return "landscape" if width > height else "portrait"


def of_form(size: tuple[int, int], form: str) -> tuple[int, int]:
    """A width and height of about this area in another form: the sides exchanged, or a square in multiples of 64 where
    both are, else of 8."""
    short, long = sorted(size)
    if form == "square" and form_of(*size) != "square":
        step = 64 if short % 64 == long % 64 == 0 else 8
        side = int((short * long) ** 0.5) // step * step
        return side, side
    return (long, short) if form == "landscape" else (short, long)


def _form_of_file(file: Path, still: bool) -> str:
    picture = read_image(file) if still else read_video(file, 1)[0]
    return form_of(picture.shape[2], picture.shape[1])


def _captioned(path: Path) -> tuple[list[Path], dict[Path, list[str]], list[str]]:
    """The videos and images of a folder or of a list, the captions of each, and why some have none."""
    folder, alone = (path.parent, path) if path.is_file() else (path, None)
    every = sorted(file for file in folder.rglob("*") if not _hidden(file, folder) and file.is_file())
    captions: dict[Path, list[str]] = {file: [] for file in every if file.suffix.lower() in VIDEOS + IMAGES}
    beside = {file: text for file in captions if (text := file.with_suffix(".txt")).is_file()}
    reasons = []
    for file, caption_file in beside.items() if alone is None else ():
        try:
            captions[file] += [line.strip() for line in read_text(caption_file).splitlines() if line.strip()]
        except InputError as error:
            reasons.append(str(error))
            logger.warning("%s is left out: %s", file, error)
    texts = set(beside.values())
    by_name: dict[str, list[Path]] = {}
    for file in captions:
        by_name.setdefault(file.name, []).append(file)
    for listing in [file for file in every if file not in texts] if alone is None else [alone]:
        missing = []
        entries = _entries(listing, required=listing == alone or listing.stem == "metadata")
        for name, said_of in entries:
            named = _find(listing, name, captions, by_name)
            if named is None:
                missing.append(Path(name))
            elif said_of.strip():
                captions[named].append(said_of.strip())
        if missing:
            said = f"{len(missing)} of {len(entries)} files that it names are no videos or images of this folder"
            reasons.append(f"{listing}: {said}: {_some(missing)}.")
            logger.warning("%s: %s and are left out: %s", listing, said, _some(missing))
    if alone is not None:
        captions = {file: texts for file, texts in captions.items() if texts}
    return list(captions), captions, reasons


def _hidden(file: Path, folder: Path) -> bool:
    return any(part.startswith(".") for part in file.relative_to(folder).parts)


def _some(files: Sequence[Path]) -> str:
    return ", ".join(map(str, files[:_NAMED])) + (", ..." if len(files) > _NAMED else "")


def _entries(listing: Path, required: bool) -> list[tuple[str, str]]:
    """Names and captions of a list. A file that is no list has none, or is an error where it has to be one."""
    try:
        if listing.suffix.lower() in LISTINGS:
            return _table_entries(listing)
        if listing.suffix.lower() == ".txt":
            lines = [line.partition(_BAR) for line in read_text(listing).splitlines() if line.strip()]
            if lines and lines[0][1]:
                return [(name.strip(), text) for name, _, text in lines]
        expected = f"lines `videos/walk.mp4{_BAR}a person walks`, or a table ({', '.join(LISTINGS)})"
        if required and listing.suffix.lower() not in VIDEOS + IMAGES:
            raise InputError(str(listing), expected, "something else", "Name the folder, or write such a list.")
    except InputError:
        if required:
            raise
    return []


def _table_entries(listing: Path) -> list[tuple[str, str]]:
    entries = []
    for number, row in enumerate(read_rows(str(listing), str(listing)), 1):
        given = {} if isinstance(row, InputError) else row
        name, text = (next((given[key] for key in keys if key in given), None) for keys in (FILE_COLUMNS, TEXT_COLUMNS))
        if text is None and listing.suffix.lower() == ".csv" and set(given) & set(TEXT_COLUMNS):
            text = ""  # an empty cell
        if not isinstance(name, str) or not isinstance(text, str):
            expected = f"{' or '.join(FILE_COLUMNS)}, and {' or '.join(TEXT_COLUMNS)}"
            remedy = 'As {"file_name": "walk.mp4", "text": "a person walks"}.'
            raise InputError(f"{listing}, row {number}", expected, str(row)[:200], remedy)
        entries.append((name, text))
    return entries


def _find(listing: Path, name: str, files: Mapping[Path, Any], by_name: Mapping[str, list[Path]]) -> Path | None:
    """The file of a folder that a list names, from the list's own place; never another."""
    name = name.replace("\\", "/")
    if (file := listing.parent / name) in files:
        return file
    if listing.suffix.lower() != ".txt":
        return None
    # VGen's lists start from a folder that its configuration names: the one file that ends so.
    parts = Path(name).parts
    ends = [file for file in by_name.get(Path(name).name, ()) if file.parts[-len(parts) :] == parts]
    return ends[0] if len(ends) == 1 else None
