"""`evaluate`: figures of a cascade that was trained on the synthetic world, or on that of emoji; and of what began with its base."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import torch

from .. import assets
from ..cascade import Cascade
from ..config import ANIMATORS, COMPOSERS
from ..errors import InputError
from ..media.images import check_image_file, write_image
from ..media.spectrum import band_levels
from ..media.tables import plain_table
from ..memory import DTYPES
from ..sampling.options import AnimateOptions, BaseOptions, EditOptions
from ..sampling.schedules import BASE_SOLVERS
from .generate import acceleration_of, add_acceleration, add_lora_option, loras_of


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `evaluate`."""
    add = parser.add_argument
    add("--model", type=Path, default=assets.FOLDER, metavar="DIR", help="model folder (the built-in tiny cascade)")
    add("--data", type=Path, metavar="DIR", help="prepared emoji, to be tried on instead of moving shapes")
    add(
        "--seeds",
        type=_seeds,
        metavar="A:B",
        help="held-out scenes A to B - 1 (0:64; of emoji 0:24, of a composer or animator 0:16, with --teacher 0:32)",
    )
    add("--refined", type=int, default=16, metavar="N", help="how many of them are refined too (%(default)s)")
    add("--ablations", action="store_true", help="the paper's ablations instead, at inference")
    add("--edits", action="store_true", help="edits by the first frame instead, with --seeds, --steps and --sheet")
    add("--teacher", type=Path, metavar="DIR", help="of a base of few steps: beside the one that it was distilled from")
    add("--steps", type=int, help="of the base (the model's own)")
    add("--guidance", type=float, help="of the base (the model's own)")
    add("--solver", choices=BASE_SOLVERS, default="ddim", help="of the base (%(default)s)")
    add_acceleration(parser, "", "base")
    add_lora_option(parser)
    add("--json", type=Path, metavar="FILE", help="the figures in a file too")
    add("--sheet", type=Path, metavar="FILE.png", help="frames of some scenes, to look at")
    add("--plot", type=Path, metavar="FILE.png", help="spatial and temporal spectra")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="(%(default)s)")
    add("--dtype", choices=list(DTYPES), help="of weights and arithmetic (fp16 on a GPU, fp32 on the CPU)")


def run(options: argparse.Namespace) -> int:
    """Measures; 1 if a figure misses its limit."""
    from ..training import evaluate, figures, judge

    if options.ablations and options.data:
        raise InputError("--ablations", "the world of shapes", "--data", "Leave one of them out.")
    for picture in filter(None, (options.sheet, options.plot)):
        check_image_file(picture)
    cascade = Cascade(options.model, dtype=DTYPES.get(options.dtype), device=options.device)
    base = BaseOptions(
        steps=options.steps,
        guidance=options.guidance,
        solver=options.solver,
        acceleration=acceleration_of(options),
    )
    base.check()
    for file, strength in loras_of(options):
        cascade.add_lora(file, strength)
    if options.teacher:
        from ..training.students import WITHIN, beside_teacher

        teacher = Cascade(options.teacher, dtype=cascade.dtype, device=options.device)
        rows, sheet = beside_teacher(cascade, teacher, options.seeds or range(32))
        sys.stdout.write(plain_table(rows) + "\n")
        _write_json(options.json, rows)
        if options.sheet:
            write_image(options.sheet, sheet)
        nearer = list(rows.values())[-1]["nearer than the teacher, dB"]
        return int(nearer is None or nearer < -WITHIN)
    kind = cascade.base.unet.config.kind
    follows = kind in COMPOSERS or kind in ANIMATORS
    seeds = options.seeds or range(24 if options.data else 16 if follows else 64)
    if options.edits:
        from ..training.edits import edits

        rows, sheet = edits(cascade, seeds, EditOptions(steps=base.steps or cascade.base.release.steps))
        sys.stdout.write(plain_table(rows) + "\n")
        _write_json(options.json, rows)
        if options.sheet:
            write_image(options.sheet, sheet)
        return 0
    if options.ablations:
        tables = evaluate.ablations(cascade, seeds, refined=options.refined, base=base)
        for rows in tables.values():
            sys.stdout.write(plain_table(rows) + "\n\n")
        _write_json(options.json, tables)
        return 0
    if kind in COMPOSERS:
        from ..training.followed import followed

        result = followed(cascade, seeds, base)
    elif kind in ANIMATORS:
        from ..training.posed import posed

        told = AnimateOptions(steps=base.steps, guidance=base.guidance, acceleration=base.acceleration)
        result = posed(cascade, seeds, told)
    elif options.data:
        result = judge.judge(cascade, options.data, seeds, refined=options.refined, base=base)
    else:
        result = evaluate.evaluate(cascade, seeds, refined=options.refined, base=base)
    sys.stdout.write(figures.table(result.figures) + "\n")
    if result.spectra:
        sys.stdout.write("\n" + plain_table(band_levels(result.spectra)) + "\n")
    _write_json(options.json, result.json())
    if options.sheet:
        write_image(options.sheet, result.sheet)
    if options.plot and result.spectra:
        write_image(options.plot, evaluate.spectra_plot(result.spectra))
    return int(bool(result.missed))


def _seeds(text: str) -> range:
    first, colon, last = text.partition(":")
    if not colon or not first.isdecimal() or not last.isdecimal() or int(first) >= int(last):
        raise argparse.ArgumentTypeError(f"expected A:B with A below B, found {text!r}")
    return range(int(first), int(last))


def _write_json(file: Path | None, content: object) -> None:
    if file is not None:
        file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
