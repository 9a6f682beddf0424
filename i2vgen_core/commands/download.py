"""`download`: the released files, into ComfyUI's model folders."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ..checkpoints.download import FILES, SETS, download, listing
from ..checkpoints.model_folders import default_models
from ..errors import InputError

_NAMES = [*SETS, *FILES]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `download`."""
    add = parser.add_argument
    add("what", nargs="*", metavar="WHAT", help=f"{', '.join(_NAMES)}; without any, the list of them alone")
    add("--to", type=Path, metavar="DIR", help="ComfyUI's models folder (that of the ComfyUI this pack lies in)")


def run(options: argparse.Namespace) -> None:
    """Lists what will be fetched, then fetches it."""
    for name in options.what:
        if name not in _NAMES:
            raise InputError("WHAT", f"some of {', '.join(_NAMES)}", name, "Choose from these.")
    if not options.what:
        sys.stdout.write("\n".join(listing(name, options.to) for name in FILES) + "\n")
        return
    models = options.to or default_models()
    chosen = dict.fromkeys(file for name in options.what for file in SETS.get(name, (name,)))
    sys.stdout.write("\n".join(listing(name, models) for name in chosen) + "\n")
    sys.stdout.flush()
    for name in chosen:
        download(FILES[name], models)
