"""Long videos in a refiner's windows: seams, and the distance from one window, for each way of joining.

    python -m benchmarks.refine_windows --frames 96 --window 16

Refines a clip of the built-in world with the built-in refiner, or one of --model. The seam is the mean difference between two
frames at a joint over the median of all such differences; the sharpest of the joints counts.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

from i2vgen_core import assets
from i2vgen_core.cascade import Cascade
from i2vgen_core.config import JOININGS
from i2vgen_core.media.world import caption, render, sample_scene
from i2vgen_core.sampling.options import RefineOptions
from i2vgen_core.sampling.windows import refiner_windows


def seam(frames: torch.Tensor, joints: list[int]) -> float:
    """The largest difference between the frames on both sides of a joint, over the median of all."""
    differences = (frames[1:] - frames[:-1]).abs().mean(dim=(1, 2, 3))
    around = [differences[max(0, joint - 1) : joint + 1].max() for joint in joints]
    return float(torch.stack(around).max() / differences.median()) if around else 1.0


def psnr(frames: torch.Tensor, truth: torch.Tensor) -> float:
    return float(-10 * torch.log10(((frames - truth) ** 2).mean()))


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=assets.FOLDER)
    parser.add_argument("--frames", type=int, default=96)
    parser.add_argument("--window", type=int, default=16)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--noise-level", type=int, default=300)
    parser.add_argument("--seed", type=int, default=3)
    options = parser.parse_args()
    cascade = Cascade(options.model)
    release = cascade.refiner.release
    scene = sample_scene(options.seed, split="held_out")
    truth = render(scene, release.width, release.height, frames=options.frames, fps=8).frames
    small = torch.nn.functional.interpolate(truth.movedim(-1, 1), scale_factor=0.5, mode="area").movedim(1, -1)
    sys.stdout.write("| joined by | windows | seam | PSNR to one window | PSNR to the truth | frames at once |\n")
    sys.stdout.write("|---|---|---|---|---|---|\n")
    whole: torch.Tensor | None = None
    for joining in (None, *JOININGS):
        window = options.window if joining else 0
        settings = RefineOptions(
            width=release.width,
            height=release.height,
            steps=options.steps,
            noise_level=options.noise_level,
            window=window,
            joining=joining,
        )
        latent = cascade.encode_video(small, settings)
        frames = cascade.decode(cascade.sample_refiner(latent, caption(scene, options.seed), settings))
        whole = frames if whole is None else whole
        windows = refiner_windows(options.frames, window, joining or "blend")
        joints = [edge for each in windows[1:] for edge in (each.start, (each.start + each.stop) // 2)]
        joints += [each.stop for each in windows[:-1]]
        near = psnr(frames, whole) if joining else float("inf")
        cells = f"{seam(frames, sorted(joints)):.2f} | {near:.1f} dB | {psnr(frames, truth):.2f} dB | {max(map(len, windows))}"
        sys.stdout.write(f"| {joining or 'one window'} | {len(windows)} | {cells} |\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
