"""`convert`: one network of a file as a safetensors file."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from tqdm import tqdm

from ..checkpoints.convert import convert
from ..config import COMPOSERS, REFINERS
from ..memory import DTYPES
from ..releases import RELEASES

_ALIKE = (*REFINERS, "text2video", *COMPOSERS)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `convert`."""
    add = parser.add_argument
    add("source", type=Path, metavar="IN", help="a file of weights, or a folder with them")
    add("target", type=Path, metavar="OUT.safetensors", help="a new file")
    add("--dtype", choices=["fp16", "bf16", "fp8"], help="of the stored weights (as they are in IN)")
    add("--part", choices=["unet", "vae", "text", "vision"], help="which network, where IN has more than one")
    add(
        "--kind",
        "--refiner",
        choices=RELEASES,
        metavar="KIND",
        help=f"which network it is, where neither IN nor its tensors say: {', '.join(_ALIKE)}",
    )


def run(options: argparse.Namespace) -> None:
    """Writes the file."""
    dtype = torch.float8_e4m3fn if options.dtype == "fp8" else DTYPES.get(options.dtype)
    with tqdm(desc=options.target.name, unit="B", unit_scale=True, unit_divisor=1000) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        convert(options.source, options.target, dtype=dtype, part=options.part, kind=options.kind, progress=progress)
