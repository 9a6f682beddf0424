"""`train`: a part of a model, on a synthetic world or your own videos."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from ..memory import DTYPES


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `train`."""
    add = parser.add_argument
    add("stage", choices=["vae", "clip", "base", "refiner"], help="what to train; the video networks need vae and clip")
    add("--config", required=True, metavar="RECIPE", help="a JSON file, or the name of one in training/recipes")
    add(
        "--model",
        type=Path,
        required=True,
        metavar="DIR",
        help="model folder: what is there is read, or trained further",
    )
    add(
        "--run",
        type=Path,
        required=True,
        metavar="DIR",
        help="for checkpoint and log; a stopped run goes on from there",
    )
    add("--data", type=Path, metavar="DIR", help="captioned videos and images (a synthetic world of moving shapes)")
    add("--until", type=int, metavar="STEP", help="stop there, with a checkpoint (the recipe's last)")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="(%(default)s)")
    add("--dtype", choices=list(DTYPES), default="fp16", help="of the weights that are written (%(default)s)")


def run(options: argparse.Namespace) -> None:
    """Trains, or trains further."""
    from ..training.stages import STAGES, Job

    job = Job(
        options.model,
        options.config,
        options.run,
        options.data,
        device=options.device,
        dtype=options.dtype,
        until=options.until,
    )
    STAGES[options.stage](job)
