"""A story of shots: a list of prompts with lengths becomes one video, a clip a shot, each going on where the last one ended.

A shot's clip begins with the last frames of the one before it, which are held at their latents while the rest is sampled, and
are shown once. Its picture is the first of them: so the network knows where it begins, and from two frames on how things moved.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from .cascade import Cascade
from .errors import InputError, check_range, checked
from .media.colour import match_colours
from .media.given import ImageLike, as_images
from .sampling.held import Held
from .sampling.options import BaseOptions
from .sampling.solvers import Callback

MOST_FRAMES = 4096
"""Of one shot."""

OVERLAP = 2
"""Frames of the shot before that a clip begins with: one says where things are, two how they move."""

_LINE = re.compile(r"(?:(\d+)\s*:)?\s*(.*)")
_WHAT = "Write one shot a line, its frames first: '16: a fox wakes up'."


@dataclass(frozen=True)
class Shot:
    """One line of a storyboard.

    Args:
        prompt: what happens.
        frames: that it adds to the video; None: as many as the model's clips have.
    """

    prompt: str
    frames: int | None = None


@dataclass(frozen=True)
class Clip:
    """How a shot is made.

    Args:
        prompt: of the shot.
        frames: of the clip that is sampled, the held ones with them.
        held: frames at its beginning that are the last ones of the shot before; 0 in the first.
        seed: of its noise.
    """

    prompt: str
    frames: int
    held: int
    seed: int


def read_shots(text: str) -> list[Shot]:
    """The shots of a storyboard in plain text: a line each, `16: a fox wakes up`, or the prompt alone. Empty lines and lines
    that begin with # are left out.

    Raises:
        InputError: there is no shot, one has no prompt, or a length that cannot be.
    """
    shots = []
    for number, line in enumerate(map(str.strip, text.splitlines()), 1):
        if not line or line.startswith("#"):
            continue
        frames, prompt = _LINE.fullmatch(line).groups()  # type: ignore[union-attr]  # any line matches
        if not prompt:
            raise InputError(f"line {number} of the shots", "what happens, after the length", repr(line[:80]), _WHAT)
        if frames is not None and not 1 <= int(frames) <= MOST_FRAMES:
            raise InputError(f"line {number} of the shots", f"1 to {MOST_FRAMES} frames", frames[:20], _WHAT)
        shots.append(Shot(prompt, None if frames is None else int(frames)))
    if not shots:
        raise InputError("the shots", "at least one", "none", _WHAT)
    return shots


def read_storyboard(file: str | os.PathLike[str]) -> list[Shot]:
    """The shots of a text file, see read_shots. Raises InputError for a file that is none."""
    try:
        text = Path(file).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError("the storyboard", "a text file in UTF-8", f"'{file}': {error}"[:200], _WHAT) from error
    return read_shots(text)


def clips_of(shots: Sequence[Shot], frames: int, seed: int = 0, overlap: int = OVERLAP) -> list[Clip]:
    """How shots are made, one after the other.

    Args:
        shots: one or more.
        frames: of a shot that does not say how many.
        seed: of the first one; each has one more than the one before, so that a shot keeps its noise whatever comes before.
        overlap: frames that a clip shares with the shot before it, 1 or more; of a shorter shot, all of its own.
    """
    check_range("overlap", overlap, 1, MOST_FRAMES, whole=True)
    clips: list[Clip] = []
    for number, shot in enumerate(shots):
        held = min(overlap, clips[-1].frames - clips[-1].held) if clips else 0
        clips.append(Clip(shot.prompt, held + (shot.frames or frames), held, (seed + number) % 2**64))
    return clips


def held_start(start: Tensor, frames: int) -> Held:
    """What is held of a clip that goes on from another.

    Args:
        start: the last frames of the other, unscaled latent [n, 4, h, w].
        frames: of the clip, more than n.

    Raises:
        InputError: the clip has no frames of its own.
    """
    if len(start) >= frames:
        remedy = "Make the clip longer, or hold less."
        raise InputError("frames", f"more than the {len(start)} that are held", f"{frames}", remedy)
    latent = torch.zeros(frames, *start.shape[1:]).to(start)
    latent[: len(start)] = start
    mask = torch.ones(frames, *start.shape[-2:]).to(start)
    mask[: len(start)] = 0
    return Held(latent, mask)


@checked
def film(
    cascade: Cascade,
    image: ImageLike,
    shots: Sequence[Shot],
    options: BaseOptions,
    *,
    overlap: int = OVERLAP,
    strength: float = 1.0,
    callback: Callback | None = None,
) -> Iterator[Tensor]:
    """Makes the shots of a story, one after the other: what is held in memory is one shot.

    Args:
        cascade: with a base.
        image: the first frame of the first shot.
        shots: what happens, see read_shots.
        options: of every shot, but for frames, which a shot says, and for the seed, which grows.
        overlap: see clips_of.
        strength: how much the colours of a shot are brought back to those of the shot before, 0..1.
        callback: see solvers.Callback, of each shot.

    Yields:
        The frames of each shot as they are made, [frames, H, W, 3] in 0..1; behind each other they are the video.
    """
    _, _, usual = cascade.video_size(options)
    picture, before = as_images(image)[:1], None
    for clip in clips_of(shots, usual, options.seed, overlap):
        setting = replace(options, frames=clip.frames, seed=clip.seed)
        held = None
        if before is not None:
            last = before[-clip.held :]
            picture = last[:1]
            held = held_start(cascade.encode_images(last, setting), clip.frames)
        conditions = cascade.condition(picture, clip.prompt, setting)
        frames = cascade.decode(cascade.sample_base(conditions, setting, held=held, callback=callback))
        if held is not None:
            frames = match_colours(frames, picture, "wavelet", strength)[clip.held :]
        before = frames
        yield frames
