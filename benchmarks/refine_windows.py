"""Long videos in a refiner's windows: seams, distance from one window, and memory, for each way of joining.

    python -m benchmarks.refine_windows --scenes 1 --frames 200 --window 32 --width 144 --height 80 --steps 3

Refines held-out clips of the built-in world, which go forth and back, with the built-in refiner, and writes the page's tables. A
joint is where a window begins, where it ends, and half way between; its seam is the difference between the two frames there over the
median of all such differences. A refined clip flickers by itself: one window is looked at in the places of the others' joints, and
the last column is how much sharper they are than there. A scene's figures are kept in build/refine_windows.json as they come, so
that a run that is stopped goes on.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from statistics import median

import torch
from torch import Tensor
from torch.nn import functional

from i2vgen_core.cascade import Cascade
from i2vgen_core.media.captions import caption
from i2vgen_core.media.compare import psnr
from i2vgen_core.media.rendering import render
from i2vgen_core.media.world import Scene, sample_scene
from i2vgen_core.releases import JOININGS
from i2vgen_core.sampling.options import RefineOptions
from i2vgen_core.sampling.windows import refiner_windows

from .measure import live_peak

_ROOT = Path(__file__).parents[1]
_PAGE, _RUNS = _ROOT / "docs" / "refiners.md", _ROOT / "build" / "refine_windows.json"
_START, _END = "<!-- benchmarks.refine_windows -->\n", "<!-- end of benchmarks.refine_windows -->\n"
_ONE = "one window"
_HEADER = (
    "| joined by | windows | frames at once | seams, mean | the sharpest | against one window | PSNR to one window, dB |"
    " PSNR to the truth, dB |\n|---|---|---|---|---|---|---|---|\n"
)
_RENDERED = 16
"""Frames of a scene in which its shapes stay in sight."""
_LENGTHS = (50, 100, 200)
"""Frames whose memory is counted."""


def joints_of(windows: Sequence[range]) -> list[int]:
    """First frames behind each place where windows may meet: where the later begins, the middle, where the earlier ends."""
    pairs = pairwise(windows)
    return sorted({at for a, b in pairs for at in (b.start, (b.start + a.stop) // 2, a.stop)})


def seams(frames: Tensor, joints: Sequence[int]) -> Tensor:
    """Of each joint, the difference between the frames on both sides of it over the median of all."""
    changes = (frames[1:] - frames[:-1]).abs().mean(dim=(1, 2, 3))
    return changes[[joint - 1 for joint in joints]] / changes.median()


def long_clip(scene: Scene, width: int, height: int, frames: int) -> Tensor:
    """A scene that goes forth and back for so many frames [F, H, W, 3]."""
    forth = render(scene, width, height, frames=_RENDERED, fps=8).frames
    back = 2 * (_RENDERED - 1)
    return forth[[min(number % back, back - number % back) for number in range(frames)]]


@torch.no_grad()
def run(cascade: Cascade, seed: int, arguments: argparse.Namespace) -> dict[str, list[float]]:
    """Of a scene: seams, distance to one window and to the truth, by the way of joining."""
    count = arguments.frames
    scene = sample_scene(seed, split="held_out")
    truth = long_clip(scene, arguments.width, arguments.height, count)
    small = functional.interpolate(truth.movedim(-1, 1), scale_factor=0.5, mode="area").movedim(1, -1)
    joints = joints_of(refiner_windows(count, arguments.window, "blend"))
    made: dict[str, Tensor] = {}
    for name in (_ONE, *JOININGS):
        options = RefineOptions(
            width=arguments.width,
            height=arguments.height,
            steps=arguments.steps,
            seed=seed,
            window=0 if name == _ONE else arguments.window,
            joining=None if name == _ONE else name,
        )
        latent = cascade.encode_video(small, options)
        made[name] = cascade.decode(cascade.sample_refiner(latent, caption(scene, seed), options))
    at = {name: seams(frames, joints) for name, frames in made.items()}
    return {
        name: [
            at[name].mean().item(),
            at[name].max().item(),
            (at[name] / at[_ONE]).max().item(),
            psnr(frames, made[_ONE]),
            psnr(frames, truth),
        ]
        for name, frames in made.items()
    }


def peak(cascade: Cascade, frames: int, window: int) -> float:
    """Most MiB of tensors that are alive at once in a step of 64x80 pixels."""
    latent, options = torch.zeros(frames, 4, 10, 8), RefineOptions(steps=1, window=window)
    return live_peak(lambda: cascade.sample_refiner(latent, "a red circle", options)) / 2**20


def table(runs: Sequence[dict[str, list[float]]], frames: int, window: int) -> str:
    """Medians over the scenes, by the way of joining."""
    lines = [_HEADER]
    for name in (_ONE, *JOININGS):
        windows = refiner_windows(frames, 0 if name == _ONE else window, "blend" if name == _ONE else name)
        mean, sharpest, against, near, true = (
            median(each) for each in zip(*(each[name] for each in runs), strict=True)
        )
        one = "" if name == _ONE else f"{near:.1f}"
        figures = f"{mean:.2f} | {sharpest:.2f} | {against:.2f} | {one} | {true:.2f}"
        lines.append(f"| {name} | {len(windows)} | {max(map(len, windows))} | {figures} |\n")
    return "".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=3)
    parser.add_argument("--frames", type=int, default=200)
    parser.add_argument("--window", type=int, default=32)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--width", type=int, default=288)
    parser.add_argument("--height", type=int, default=144)
    arguments = parser.parse_args()
    cascade = Cascade()
    _RUNS.parent.mkdir(exist_ok=True)
    kept = json.loads(_RUNS.read_text()) if _RUNS.is_file() else {}
    runs = []
    for seed in range(arguments.scenes):
        key = " ".join(str(value) for value in (seed, *list(vars(arguments).values())[1:]))
        kept[key] = kept.get(key) or run(cascade, seed, arguments)
        _RUNS.write_text(json.dumps(kept))
        runs.append(kept[key])
    count, size = arguments.frames, f"{arguments.width}x{arguments.height}"
    clips = "One held-out clip" if len(runs) == 1 else f"Medians over {len(runs)} held-out clips"
    said = f"{clips} of {count} frames of {size}, {arguments.steps} steps of the built-in refiner:\n\n"
    lines = [f"\n| frames of 64x80 | live MiB in windows of {arguments.window} | in one |\n|---|---|---|\n"]
    for frames in _LENGTHS:
        inside, one = peak(cascade, frames, arguments.window), peak(cascade, frames, 0)
        lines.append(f"| {frames} | {inside:.2f} | {one:.2f} |\n")
    before, rest = _PAGE.read_text(encoding="utf-8").split(_START)
    tables = said + table(runs, count, arguments.window) + "".join(lines)
    _PAGE.write_text(before + _START + tables + _END + rest.split(_END)[1], encoding="utf-8")


if __name__ == "__main__":
    main()
