"""What is given of a video of `generate`: the options of areas that stay, the last image, drags, and the camera."""

from __future__ import annotations

import argparse
import math
import re
from pathlib import Path

import torch

from ..cascade import Cascade
from ..directing import follow, hold_area, hold_last
from ..errors import InputError
from ..media.source import read_source, source_files
from ..media.warp import Rough, boxes, camera, drag
from ..sampling.held import Held
from ..sampling.options import BaseOptions

DIRECTING = ("mask", "last_image", "drag", "follow", "camera")
"""The options that give something of a video."""


def add_directing(parser: argparse.ArgumentParser) -> None:
    """The options of held_of."""
    add = parser.add_argument
    masks = "what may move of the photo, in white; what is black stays: one picture, or one for each frame"
    add("--mask", nargs="+", default=[], metavar="FILE", help=masks)
    add("--last-image", metavar="FILE", help="what the video ends in")
    path = "where a part of the photo goes: points in its pixels as '100,50 180,60', a line for each part, or a spline editor's JSON"
    add("--drag", metavar="PATH", help=f"{path}; or a file of that")
    part = "what --drag drags: pictures in which it is white, one for each path, or boxes x,y,width,height; also of --follow"
    add("--part", nargs="+", default=[], metavar="FILE", help=part)
    moves = "up to the last frame: pan and tilt in widths and heights, zoom in times, roll in degrees"
    add("--camera", nargs="+", default=[], metavar="MOVE=AMOUNT", help=f"how the camera moves {moves}")
    rough = "a rough animation that the video follows, in place of --drag: a video, or its frames"
    add("--follow", nargs="+", default=[], metavar="FILE", help=rough)
    signal = "how long drag, camera and animation are held, a share of the signal, 0..1 (the model's own)"
    add("--follow-signal", type=float, metavar="0..1", help=signal)


def held_of(options: argparse.Namespace, cascade: Cascade, image: torch.Tensor, base: BaseOptions) -> Held | None:
    """What the options give of the base's video of a picture [1, H, W, 3]; None without them.

    Raises:
        InputError: options that do not go together, or a file or setting that cannot be.
    """
    held = None
    if options.mask:
        held = hold_area(cascade, image, read_source(source_files("--mask", options.mask)).frames, base)
    if options.drag or options.follow or options.camera or options.part:
        rough = _rough(options, image, cascade.video_size(base))
        held = follow(cascade, rough, base, held, strong=options.follow_signal)
    if options.last_image:
        held = hold_last(cascade, options.last_image, base, held)
    return held


def _rough(options: argparse.Namespace, image: torch.Tensor, size: tuple[int, int, int]) -> Rough:
    """The animation that --drag, --follow and --camera make of a picture [1, H, W, 3]; one of them is given, or --part."""
    if options.drag and options.follow:
        raise InputError("--drag and --follow", "one of them", "both", "Drag in the animation, or leave it out.")
    rough = None
    if options.follow:
        frames = read_source(source_files("--follow", options.follow)).frames
        mask = _parts(options, frames).expand(len(frames), -1, -1) if options.part else torch.ones(frames.shape[:3])
        rough = Rough(frames, mask)
    elif options.drag:
        if not options.part:
            raise InputError("--part", "what --drag drags", "none", "Give a mask's file, or a box as 10,20,64,64.")
        path = _text_of(options.drag) if options.drag.lower().endswith((".json", ".txt")) else options.drag
        rough = drag(image, _parts(options, image), path, *size)
    elif options.part:
        raise InputError(
            "--part", "--drag or --follow with it", "neither", "Say where the part goes: --drag '0,0 90,0'."
        )
    if options.camera:
        moves = _moves(options.camera)
        moving = image if rough is None else rough.frames
        pan, tilt, zoom, roll = moves["pan"], moves["tilt"], moves["zoom"], moves["roll"]
        return camera(moving, *size, pan=pan, tilt=tilt, zoom=zoom, roll=roll)
    assert rough is not None
    return rough


def _text_of(file: str) -> str:
    try:
        return Path(file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError("--drag", "a file of text", f"'{file}'", "Name the file, or write the points.") from error


def _parts(options: argparse.Namespace, images: torch.Tensor) -> torch.Tensor:
    """--part as masks [n, H, W] of the size of images."""
    if all(re.fullmatch(r"[\d.,+-]+", word) for word in options.part):
        return boxes(" ".join(options.part), images.shape[2], images.shape[1])
    return read_source(source_files("--part", options.part)).frames.mean(3)


def _moves(words: list[str]) -> dict[str, float]:
    """--camera's moves by name, see camera."""
    moves = {"pan": 0.0, "tilt": 0.0, "zoom": 1.0, "roll": 0.0}
    for word in words:
        name, _, amount = word.partition("=")
        try:
            moves[name] = float(amount)
        except ValueError:
            moves[name] = math.nan
        if name not in ("pan", "tilt", "zoom", "roll") or not math.isfinite(moves[name]):
            raise InputError("--camera", "pan=, tilt=, zoom= or roll= and a number", f"'{word}'", "Write pan=0.3.")
    return moves
