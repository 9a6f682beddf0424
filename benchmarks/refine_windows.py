"""Long videos in a refiner's windows: seams, and the distance from one window, for each way of joining.

    python -m benchmarks.refine_windows --scenes 3 --frames 48 --window 16      runs, and writes the page's table

Refines held-out clips of the built-in world with the built-in refiner. The seam is the difference between two frames at a
joint (where a window begins, where it ends, and half way between) over the median of all such differences; the sharpest joint of
each clip counts. One window has no joints: it is looked at in the places of the others'. A scene's figures are kept in
build/refine_windows.json as they come, so that a run that is stopped goes on.
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
from i2vgen_core.config import JOININGS
from i2vgen_core.media.compare import psnr
from i2vgen_core.media.world import caption, render, sample_scene
from i2vgen_core.sampling.options import RefineOptions
from i2vgen_core.sampling.windows import refiner_windows

_ROOT = Path(__file__).parents[1]
_PAGE, _RUNS = _ROOT / "docs" / "refiners.md", _ROOT / "build" / "refine_windows.json"
_START, _END = "<!-- benchmarks.refine_windows -->\n", "<!-- end of benchmarks.refine_windows -->\n"
_ONE = "one window"
_HEADER = "| joined by | windows | frames at once | seam | PSNR to one window, dB | PSNR to the truth, dB |\n"


def joints_of(windows: Sequence[range]) -> list[int]:
    """First frames behind each place where windows may meet: where the later begins, the middle, where the earlier ends."""
    pairs = pairwise(windows)
    return sorted({at for a, b in pairs for at in (b.start, (b.start + a.stop) // 2, a.stop)})


def seam(frames: Tensor, joints: Sequence[int]) -> float:
    """The largest difference between the frames on both sides of a joint, over the median of all."""
    changes = (frames[1:] - frames[:-1]).abs().mean(dim=(1, 2, 3))
    return (changes[[joint - 1 for joint in joints]].max() / changes.median()).item()


@torch.no_grad()
def run(cascade: Cascade, seed: int, arguments: argparse.Namespace) -> dict[str, list[float]]:
    """Of a scene: seam, distance to one window and to the truth, by the way of joining."""
    release, count = cascade.refiner.release, arguments.frames
    scene = sample_scene(seed, split="held_out")
    truth = render(scene, release.width, release.height, frames=count, fps=8).frames
    small = functional.interpolate(truth.movedim(-1, 1), scale_factor=0.5, mode="area").movedim(1, -1)
    joints = joints_of(refiner_windows(count, arguments.window, "blend"))
    made: dict[str, Tensor] = {}
    for name in (_ONE, *JOININGS):
        options = RefineOptions(
            width=release.width,
            height=release.height,
            steps=arguments.steps,
            seed=seed,
            window=0 if name == _ONE else arguments.window,
            joining=None if name == _ONE else name,
        )
        latent = cascade.encode_video(small, options)
        made[name] = cascade.decode(cascade.sample_refiner(latent, caption(scene, seed), options))
    return {
        name: [seam(frames, joints), psnr(frames, made[_ONE]), psnr(frames, truth)] for name, frames in made.items()
    }


def table(runs: Sequence[dict[str, list[float]]], frames: int, window: int) -> str:
    """Medians over the scenes, by the way of joining."""
    lines = [_HEADER, "|---|---|---|---|---|---|\n"]
    for name in (_ONE, *JOININGS):
        windows = refiner_windows(frames, 0 if name == _ONE else window, "blend" if name == _ONE else name)
        seams, near, true = zip(*(each[name] for each in runs), strict=True)
        one = "" if name == _ONE else f"{median(near):.1f}"
        figures = f"{median(seams):.2f} | {one} | {median(true):.2f}"
        lines.append(f"| {name} | {len(windows)} | {max(map(len, windows))} | {figures} |\n")
    return "".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=3)
    parser.add_argument("--frames", type=int, default=48)
    parser.add_argument("--window", type=int, default=16)
    parser.add_argument("--steps", type=int, default=6)
    arguments = parser.parse_args()
    cascade = Cascade()
    _RUNS.parent.mkdir(exist_ok=True)
    kept = json.loads(_RUNS.read_text()) if _RUNS.is_file() else {}
    runs = []
    for seed in range(arguments.scenes):
        key = f"{seed} {arguments.frames} {arguments.window} {arguments.steps}"
        kept[key] = kept.get(key) or run(cascade, seed, arguments)
        _RUNS.write_text(json.dumps(kept))
        runs.append(kept[key])
    said = f"Medians over {len(runs)} held-out clips of {arguments.frames} frames, {arguments.steps} steps of the built-in refiner:\n\n"
    before, rest = _PAGE.read_text(encoding="utf-8").split(_START)
    written = before + _START + said + table(runs, arguments.frames, arguments.window) + _END + rest.split(_END)[1]
    _PAGE.write_text(written, encoding="utf-8")


if __name__ == "__main__":
    main()
