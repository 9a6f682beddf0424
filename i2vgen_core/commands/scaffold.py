"""`scaffold`: a model folder with made-up weights."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..checkpoints.scaffold import SIZES, scaffold
from ..config import BASES, FIRST_STAGES, HINTED, REFINERS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `scaffold`."""
    parser.add_argument("folder", type=Path, metavar="DIR", help="a new folder")
    parser.add_argument("--size", choices=list(SIZES), default="tiny", help="full: the releases' sizes (%(default)s)")
    parser.add_argument("--base", choices=FIRST_STAGES, default=BASES[0], help="kind of the base (%(default)s)")
    kinds = (*REFINERS, *HINTED)
    parser.add_argument("--refiner", choices=kinds, default=REFINERS[0], help="kind of the refiner (%(default)s)")


def run(options: argparse.Namespace) -> None:
    """Writes the folder."""
    scaffold(options.folder, SIZES[options.size], base=options.base, refiner=options.refiner)
