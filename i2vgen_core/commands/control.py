"""What steers a video of `generate`: the options of a ControlNet and a Ctrl-Adapter."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import torch

from ..cascade import Cascade
from ..errors import InputError
from ..media.source import read_source, source_files
from ..sampling.control import Control, ControlOptions
from ..sampling.options import BaseOptions
from ..steering import load_control, steer

_FILES = {
    "ctrl_adapter": "a Ctrl-Adapter's file, for the kind of the pictures; best with --detail-gain once",
    "control_net": "a ControlNet of Stable Diffusion 1.5 for the same: control_v11*.pth, .safetensors or a folder",
    "control_text": "Stable Diffusion 1.5's text encoder: its folder text_encoder/, or its file",
}


def add_control(parser: argparse.ArgumentParser) -> None:
    """The options of control_of."""
    add, usual = parser.add_argument, ControlOptions()
    pictures = (
        "depth, edges or scribbles of each frame, which the video follows: a video, pictures, or a folder of them"
    )
    add("--control", nargs="+", default=[], metavar="FILE", help=pictures)
    for name, words in _FILES.items():
        add(f"--{name.replace('_', '-')}", type=Path, metavar="FILE", help=f"with --control: {words}")
    strength = "of what the ControlNet sees, 0..10; useful are 0.5 to 1 (%(default)s)"
    add("--control-strength", type=float, default=usual.strength, metavar="STRENGTH", help=strength)
    for end in ("start", "end"):
        words = f"part of the steps at which the control {end}s; of --control-end useful are 0.4 to 0.8 (%(default)s)"
        add(f"--control-{end}", type=float, default=getattr(usual, end), metavar="0..1", help=words)
    keys = "numbers of the frames that are steered, 0 the first, for an adapter of sparse scribbles (all)"
    add("--key-frames", nargs="+", type=int, default=[], metavar="N", help=keys)


def control_of(
    options: argparse.Namespace, cascade: Cascade, base: BaseOptions
) -> Callable[[torch.Tensor, str], Control | None]:
    """What steers the video of a picture [1, H, W, 3] and a prompt, as a function of the two; it gives None without --control.

    Raises:
        InputError: an option without the others, a file that is no such network, or a setting that cannot be.
    """
    files = {name: getattr(options, name) for name in _FILES}
    if not options.control:
        if named := [name for name, file in files.items() if file is not None]:
            option = "--" + named[0].replace("_", "-")
            raise InputError(option, "--control beside it", "none", "Name the pictures of the control.")
        return lambda image, prompt: None
    if missing := [name for name, file in files.items() if file is None]:
        names = " and ".join("--" + name.replace("_", "-") for name in missing)
        remedy = "Name the files; `download` has the adapters."
        raise InputError("--control", "a Ctrl-Adapter, a ControlNet and its text encoder", f"no {names}", remedy)
    settings = ControlOptions(
        options.control_strength, options.control_start, options.control_end, tuple(options.key_frames)
    )
    settings.check(cascade.video_size(base)[2])
    pictures = read_source(source_files("--control", options.control)).frames
    networks = load_control(cascade, options.ctrl_adapter, options.control_net, options.control_text)
    return lambda image, prompt: steer(cascade, networks, image, pictures, prompt, base, settings)
