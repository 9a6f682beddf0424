"""What each means of going faster gains, and what it costs in quality.

    python -m benchmarks.accelerate --scenes 24      # quality, on the built-in base: half an hour on one core
    python -m benchmarks.accelerate --full-size      # seconds of 1.42 G parameters, the default against all together
    python -m benchmarks.accelerate --write          # docs/acceleration.md's table and plot from the JSON; nothing runs

Quality is that of the built-in base on held-out scenes whose shape travels or stays, since there the prompt can be judged.
Seconds are the processor's, for sampling alone. The built-in's sizes are not the release's, so what the release's would
gain is counted: floating-point operations of a whole run at 448x256, on meta.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from i2vgen_core.acceleration import Acceleration
from i2vgen_core.cascade import BaseOptions, Cascade
from i2vgen_core.compare import psnr
from i2vgen_core.schedules import BASE_SOLVERS
from i2vgen_core.training.evaluate import Case, held_out_case

_PAGE = Path(__file__).parents[1] / "docs" / "acceleration.md"
_START, _END = "<!-- benchmarks.accelerate -->\n", "<!-- end of benchmarks.accelerate -->\n"

PAPER = BaseOptions(steps=50)
"""The default: DDIM, 50 steps, everything guided, every block at every step."""

_INTERVAL = Acceleration(guidance_end=0.6)
_REUSE = Acceleration(reuse_interval=3)
_BOTH = replace(_INTERVAL, reuse_interval=3)

STEPS = {
    f"{solver}, {steps} steps": replace(PAPER, solver=solver, steps=steps)
    for solver in BASE_SOLVERS
    for steps in (4, 6, 10, 20)
}
PARTS = {
    "guided for 0 to 0.6": replace(PAPER, acceleration=_INTERVAL),
    "features reused, interval 3": replace(PAPER, acceleration=_REUSE),
    "features reused, interval 5": replace(PAPER, acceleration=Acceleration(reuse_interval=5)),
    "fp8 weights": PAPER,
    "together: dpmpp_2m, 20 steps, guided for 0 to 0.6, interval 3": replace(
        PAPER, solver="dpmpp_2m", steps=20, acceleration=_BOTH
    ),
}
TOGETHER = "together: dpmpp_2m, 20 steps, guided for 0 to 0.6, interval 3"
DEFAULT = "default: ddim, 50 steps"
VARIANTS = {DEFAULT: PAPER} | STEPS | PARTS

Figures = dict[str, float]


def measure_quality(scenes: int, file: Path) -> None:
    """Adds to a JSON file, scene by scene, figures of every variant; scenes that it has are not measured again."""
    result = json.loads(file.read_text()) if file.is_file() else {}
    found: dict[str, dict[str, Figures]] = result.setdefault("scenes", {})
    cascade, fp8 = Cascade(), Cascade()
    for parameter in fp8.base[0].parameters():
        parameter.data = parameter.to(torch.float8_e4m3fn).to(parameter.dtype)
    for number, case in enumerate(_judged(cascade, scenes)):
        rows = found.setdefault(str(case.seed), {})
        reference: Tensor | None = None
        if rows.keys() >= VARIANTS.keys():
            continue
        conditions = cascade.condition(case.truth.frames[:1], case.prompt, replace(PAPER, fps=case.truth.fps))
        for name, options in VARIANTS.items():
            options = replace(options, fps=case.truth.fps, seed=case.seed)
            start = time.process_time()
            latent = (fp8 if name == "fp8 weights" else cascade).sample_base(conditions, options)
            seconds, frames = time.process_time() - start, cascade.decode(latent)
            reference = frames if reference is None else reference
            rows[name] = _figures(case, frames, reference) | {"seconds": seconds}
        file.write_text(json.dumps(result, indent=1) + "\n")
        sys.stderr.write(f"\r{number + 1} of {scenes} scenes")
    sys.stderr.write("\n")


def _judged(cascade: Cascade, scenes: int) -> list[Case]:
    release, seed, cases = cascade.base_release, 0, []
    while len(cases) < scenes:
        case = held_out_case(seed, release.width, release.height, release.frames)
        cases += [case] if case.measurable else []
        seed += 1
    return cases


def _figures(case: Case, frames: Tensor, reference: Tensor) -> Figures:
    masks = case.tracker(frames)
    return {
        "direction, %": 100.0 * case.obeyed(masks),
        "last frame's IoU": case.kept(masks),
        "PSNR to the true clip, dB": psnr(frames, case.truth.frames),
        "PSNR to the default's clip, dB": min(99.0, psnr(frames, reference)),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=0, help="measure quality on so many")
    parser.add_argument("--out", type=Path, default=Path("build/acceleration"), help="JSON (%(default)s)")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    file = options.out / "quality.json"
    if options.scenes:
        measure_quality(options.scenes, file)
    return 0


if __name__ == "__main__":
    sys.exit(main())
