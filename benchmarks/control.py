"""Measures what docs/control.md offers on held-out scenes of the built-in cascade's world, without and with each control.

    python -m benchmarks.control --scenes 32      runs, writes the page's table and docs/control_*.png; look at them

A scene's runs are kept in build/control.pt as they come, so that a run that is stopped goes on.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

from i2vgen_core.cascade import Cascade
from i2vgen_core.directing import hold_area, hold_last
from i2vgen_core.media.compare import psnr
from i2vgen_core.media.images import write_image
from i2vgen_core.media.video import contact_sheet
from i2vgen_core.sampling.options import BaseOptions
from i2vgen_core.training.evaluate import Case, held_out_case

_ROOT = Path(__file__).parents[1]
_PAGE, _RUNS = _ROOT / "docs" / "control.md", _ROOT / "build" / "control.pt"
_START, _END = "<!-- benchmarks.control -->\n", "<!-- end of benchmarks.control -->\n"
_ROOM = 6
"""Pixels around what a shape ever covers that may move with it."""
_SHOWN = 5
"""Frames of a sheet's row."""

Runs = dict[int, dict[str, Tensor]]


def cases(cascade: Cascade, scenes: int) -> list[Case]:
    """The first held-out scenes whose camera stands."""
    release, seed, found = cascade.base.release, 0, []
    while len(found) < scenes:
        case = held_out_case(seed, release.width, release.height, release.frames)
        found += [] if case.scene.pan else [case]
        seed += 1
    return found


def moving(case: Case) -> Tensor:
    """What may move, [1, H, W, 3] of 0 and 1: all that a shape ever covers, with some room."""
    covered = (case.truth.masks.amax((0, 1)) > 0).float()
    grown = torch.nn.functional.max_pool2d(covered[None], 2 * _ROOM + 1, 1, _ROOM)
    return grown[..., None].expand(-1, -1, -1, 3)


def run(cascade: Cascade, case: Case) -> dict[str, Tensor]:
    """The videos of a scene by control."""
    options = BaseOptions(fps=case.truth.fps, seed=case.seed)
    first, last = case.truth.frames[:1], case.truth.frames[-1:]
    conditions = cascade.condition(first, case.prompt, options)
    held = {
        "without": None,
        "mask": hold_area(cascade, first, moving(case), options),
        "last": hold_last(cascade, last, options),
    }
    return {name: cascade.decode(cascade.sample_base(conditions, options, held=given)) for name, given in held.items()}


def jump(frames: Tensor) -> float:
    """Difference of the last frame to the one before it over the clip's median difference."""
    changes = frames.diff(dim=0).abs().mean((1, 2, 3))
    return (changes[-1] / changes.median()).item()


def flicker(case: Case, frames: Tensor) -> float:
    """Mean difference between neighbouring frames where nothing may move and no kernel of the decoder sees what does, of 255."""
    still = torch.nn.functional.max_pool2d(moving(case)[..., 0][None], 33, 1, 16)[0, 0] == 0
    return 255 * frames[:, still].diff(dim=0).abs().mean().item() if still.any() else float("nan")


def rows(judged: Sequence[Case], runs: Runs) -> list[tuple[str, str, float, float]]:
    """What is measured, its bar, and the medians over the scenes without and with the control."""

    def medians(name: str, figure: str) -> tuple[float, float]:
        def value(case: Case, frames: Tensor) -> float:
            if figure == "last":
                return psnr(frames[-1:], case.truth.frames[-1:])
            return jump(frames) if figure == "jump" else flicker(case, frames)

        pairs = [[value(case, runs[case.seed][each]) for each in ("without", name)] for case in judged]
        without, given = zip(*(pair for pair in pairs if pair[0] == pair[0]), strict=True)
        return median(without), median(given)

    return [
        ("a part that stays: change from frame to frame in it, of 255", "", *medians("mask", "flicker")),
        ("last frame: against the picture, PSNR, dB", "22 or more", *medians("last", "last")),
        ("last frame: difference to the frame before over the clip's median", "2 or less", *medians("last", "jump")),
    ]


def write(judged: Sequence[Case], runs: Runs) -> None:
    """The page's table, and a sheet for each control: the truth, without it, with it, of up to four scenes."""
    table = ["| What is measured | Bar | Without | With |", "|---|---|---|---|"]
    table += [f"| {name} | {bar} | {without:.2f} | {given:.2f} |" for name, bar, without, given in rows(judged, runs)]
    scenes = f"Medians over {len(judged)} held-out scenes of the built-in cascade, as it is shipped:\n\n"
    before, rest = _PAGE.read_text(encoding="utf-8").split(_START)
    after = rest.split(_END)[1]
    _PAGE.write_text(before + _START + scenes + "\n".join(table) + "\n" + _END + after, encoding="utf-8")
    for name in ("mask", "last"):
        parts = []
        for case in judged[:4]:
            chosen = torch.linspace(0, len(case.truth.frames) - 1, _SHOWN).round().long()
            clips = (case.truth.frames, runs[case.seed]["without"], runs[case.seed][name])
            parts += [clip[chosen] for clip in clips]
        write_image(_PAGE.parent / f"control_{name}.png", contact_sheet(torch.cat(parts), _SHOWN))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=32)
    arguments = parser.parse_args()
    cascade = Cascade()
    judged = cases(cascade, arguments.scenes)
    _RUNS.parent.mkdir(exist_ok=True)
    runs: Runs = torch.load(_RUNS, weights_only=True) if _RUNS.is_file() else {}
    for case in judged:
        if case.seed not in runs:
            runs[case.seed] = run(cascade, case)
            torch.save(runs, _RUNS)
    write(judged, runs)


if __name__ == "__main__":
    main()
