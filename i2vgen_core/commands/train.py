"""`train`: a part of a model, on a synthetic world or your own videos."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

import torch

from ..memory import DTYPES, usable_device

logger = logging.getLogger("i2vgen_xl")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `train`."""
    add = parser.add_argument
    stages = ["vae", "clip", "base", "refiner", "compose", "animate", "distil"]
    add(
        "stage",
        choices=stages,
        help="what to train; the video networks need vae and clip; a composer, an animator and few steps a base",
    )
    add("--config", required=True, metavar="RECIPE", help="a JSON file, or the name of one in training/recipes")
    add(
        "--model",
        type=Path,
        required=True,
        metavar="DIR",
        help="model folder: what is there is read, or trained further; it stays as it is",
    )
    add(
        "--run",
        type=Path,
        required=True,
        metavar="DIR",
        help="for checkpoint and log; a stopped run goes on from there",
    )
    add(
        "--out",
        type=Path,
        metavar="DIR",
        help="model folder that the result goes into; the one of --model to write over it (the run's folder)",
    )
    add(
        "--data",
        type=Path,
        metavar="DIR",
        help="captioned videos and images, or a list of them (a synthetic world of moving shapes)",
    )
    add("--until", type=int, metavar="STEP", help="stop there, with a checkpoint (the recipe's last)")
    add(
        "--sample-every",
        type=int,
        default=0,
        metavar="STEPS",
        help="a video of the base or refiner, in RUN/samples (none)",
    )
    add("--tensorboard", action="store_true", help="the figures in RUN/tensorboard too; they are always in RUN/log.csv")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="(%(default)s)")
    add("--dtype", choices=list(DTYPES), default="fp16", help="of the weights that are written (%(default)s)")


def run(options: argparse.Namespace) -> int:
    """Trains, or trains further; 130 where a signal stopped it."""
    from ..training.loop import Stopped
    from ..training.stages import STAGES, TrainingJob

    job = TrainingJob(
        options.model,
        options.config,
        options.run,
        options.data,
        options.out,
        device=str(usable_device(options.device)),
        dtype=options.dtype,
        until=options.until,
        sample_every=options.sample_every,
        tensorboard=options.tensorboard,
    )
    try:
        STAGES[options.stage](job)
    except Stopped as stopped:
        logger.info("%s, with a checkpoint; the same command goes on from there", stopped)
        return 130
    return 0
