"""A video to work on, as people have it: a file, or its frames as pictures in a folder."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import torch
from torch import Tensor

from ..errors import InputError
from .decoding import moves
from .images import read_image
from .photo import ENDINGS
from .video import read_video


@dataclass(frozen=True)
class Source:
    """A video that was read.

    Args:
        frames: [F, H, W, 3] in 0..1.
        rate: frames per second; None of pictures.
        sound: the file that has its sound; None of pictures.
    """

    frames: Tensor
    rate: Fraction | None
    sound: Path | None


def source_files(what: str, words: Sequence[str]) -> list[Path]:
    """The files that are meant: a video, or pictures in the order of the numbers in their names.

    Args:
        what: the option, for messages.
        words: a file, or files of pictures, folders of them, and patterns such as `shot_*.png`.

    Raises:
        InputError: there is no such file, or several videos.
    """
    files = [file for word in words for file in _files(what, word)]
    if len(files) > 1 and (others := [file for file in files if not _is_still(file)]):
        found = f"{len(files)} files, '{others[0]}' among them"
        raise InputError(what, "one video, or pictures alone", found, "Give videos one by one.")
    return files


def read_source(files: Sequence[Path]) -> Source:
    """Reads what source_files gives.

    Raises:
        InputError: a file that cannot be read, or pictures of several sizes.
    """
    if not _is_still(files[0]):
        frames, rate = read_video(files[0])
        return Source(frames, rate, files[0])
    pictures = [read_image(file) for file in files]
    for file, picture in zip(files, pictures, strict=True):
        if picture.shape != pictures[0].shape:
            sizes = [f"{each.shape[2]}x{each.shape[1]}" for each in (pictures[0], picture)]
            remedy = "Leave out what does not belong to the video."
            raise InputError("the pictures", f"frames of one size, {sizes[0]}", f"'{file}' of {sizes[1]}", remedy)
    return Source(torch.cat(pictures), None, None)


def _files(what: str, word: str) -> list[Path]:
    if "://" in word:
        raise InputError(what, "a file of this machine", f"the address '{word}'", "Fetch it first, and name the file.")
    if os.path.isdir(word):
        found = [file for file in Path(word).iterdir() if file.suffix.lower() in ENDINGS and file.name[0] != "."]
    elif not os.path.exists(word) and glob.has_magic(word):
        found = [Path(file) for file in glob.glob(word)]
    else:
        return [Path(word)]
    if not found:
        raise InputError(what, f"pictures ({', '.join(ENDINGS)})", f"none in '{word}'", "Check the path.")
    return sorted(found, key=_by_number)


def _by_number(file: Path) -> list[tuple[int, str]]:
    """shot_2 before shot_10."""
    return [(int(part), "") if part.isdigit() else (0, part) for part in re.split(r"(\d+)", file.name)]


def _is_still(file: Path) -> bool:
    return file.suffix.lower() in ENDINGS and not moves(file)
