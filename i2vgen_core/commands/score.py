"""`score`: figures of videos, so that many seeds can be sorted."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ..errors import InputError
from ..media.images import read_image, write_image
from ..media.score import score, scores_table
from ..media.source import read_source, source_files


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `score`."""
    parser.add_argument("videos", nargs="+", metavar="FILE", help="videos, or folders of frames")
    parser.add_argument("--reference", metavar="FILE", help="the picture that they were made of")
    parser.add_argument(
        "--plot", type=Path, metavar="FILE.png", help="where the figures over the frames go, of one video"
    )


def run(options: argparse.Namespace) -> None:
    """Writes the figures as a table, a line a video; docs/control.md says what they are."""
    if options.plot and len(options.videos) > 1:
        found = f"{len(options.videos)} videos"
        raise InputError("--plot", "one video", found, "Name one, or leave the plot out.")
    reference = read_image(options.reference) if options.reference else None
    scores = {}
    for name in options.videos:
        scores[name] = score(read_source(source_files("FILE", [name])).frames, reference)
    if options.plot:
        write_image(options.plot, scores[options.videos[0]].plot())
    sys.stdout.write(scores_table(scores) + "\n")
