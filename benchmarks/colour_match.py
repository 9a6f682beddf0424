"""Whether matching a clip's colours to its image helps: the built-in base on held-out scenes, where the truth is known.

    python -m benchmarks.colour_match                 # 32 scenes, 16 frames each, the base's own settings
    python -m benchmarks.colour_match --drift 0.1     # the true clips instead, with a known drift put on them

Prints means over the scenes: PSNR to the true clip; the colour error, which is CIE76's Delta E of frames whose details
are averaged away (blocks of 8x8 pixels), over all of the frames and over the last one; and the same where nothing moves
in the true clip. Truth and frames are 128x64. A drift of d raises red by d and lowers blue by d, in proportion to time.
"""

from __future__ import annotations

import argparse
import sys
from statistics import fmean

import kornia
import torch
from torch import Tensor

from i2vgen_core.cascade import Cascade
from i2vgen_core.media.colour import METHODS, match_colours
from i2vgen_core.media.compare import psnr
from i2vgen_core.media.tables import plain_table
from i2vgen_core.training.evaluate import base_video, held_out_case
from i2vgen_core.training.measure import static_region

_BLOCK = 8


def colour_error(frames: Tensor, truth: Tensor) -> Tensor:
    """Delta E of each block of each frame, [F, H / 8, W / 8]."""
    lab = [
        kornia.color.rgb_to_lab(torch.nn.functional.avg_pool2d(video.movedim(-1, 1), _BLOCK))
        for video in (frames, truth)
    ]
    return (lab[0] - lab[1]).norm(dim=1)


def drifted(frames: Tensor, amount: float) -> Tensor:
    time = torch.linspace(0, 1, len(frames))[:, None, None, None]
    return (frames + amount * time * torch.tensor((1.0, 0.0, -1.0))).clamp(0, 1)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=32, help="(%(default)s)")
    parser.add_argument("--drift", type=float, help="of the true clips; without it, the base's own videos")
    options = parser.parse_args()
    cascade = None if options.drift is not None else Cascade()
    rows: dict[str, dict[str, list[float]]] = {}
    for seed in range(options.scenes):
        case = held_out_case(seed, 128, 64, 16, fps=8)
        truth = case.truth.frames
        video = base_video(cascade, case) if cascade else drifted(truth, options.drift)
        still = static_region(truth)
        still = torch.nn.functional.avg_pool2d(still.float()[None], _BLOCK)[0] == 1
        variants = {"as it is": video}
        for method in METHODS:
            for strength in (0.5, 1.0):
                variants[f"{method}, strength {strength:g}"] = match_colours(video, truth[:1], method, strength)
        for name, frames in variants.items():
            error = colour_error(frames, truth)
            figures = {
                "PSNR, dB": psnr(frames, truth),
                "colour error": error.mean().item(),
                "last frame": error[-1].mean().item(),
            }
            if still.any():
                figures["still places"] = error[:, still].mean().item()
                figures["still, last frame"] = error[-1][still].mean().item()
            for figure, value in figures.items():
                rows.setdefault(name, {}).setdefault(figure, []).append(value)
        sys.stderr.write(f"\r{seed + 1} of {options.scenes}")
    sys.stderr.write("\n")
    means = {name: {figure: fmean(values) for figure, values in row.items()} for name, row in rows.items()}
    sys.stdout.write(plain_table(means) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
