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
import os
import sys
import time
from dataclasses import replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import torch
from torch import Tensor

from i2vgen_core.cascade import Cascade
from i2vgen_core.config import UNetConfig
from i2vgen_core.media.compare import psnr
from i2vgen_core.network.acceleration import Acceleration
from i2vgen_core.network.unet import UNet
from i2vgen_core.releases import RELEASES
from i2vgen_core.sampling.guidance import guided
from i2vgen_core.sampling.options import BaseOptions
from i2vgen_core.sampling.schedules import BASE_SOLVERS, cosine_zero_snr
from i2vgen_core.sampling.stages import BaseStage
from i2vgen_core.training.evaluate import Case, held_out_case

from . import peer
from .plot import Plot, draw
from .rows import BASE, GIB
from .work import teraflops_of_runs

_ROOT = Path(__file__).parents[1]
_PAGE, _PICTURE = _ROOT / "docs" / "acceleration.md", _ROOT / "docs" / "acceleration.png"
_START, _END = "<!-- benchmarks.accelerate -->\n", "<!-- end of benchmarks.accelerate -->\n"

_DIRECTION, _IOU = "direction, %", "last frame's IoU"
_PSNR, _SAME = "PSNR to the true clip, dB", "PSNR to the default's clip, dB"

Figures = dict[str, float]
Result = dict[str, Any]

PAPER = BaseOptions(steps=50)
"""The default: DDIM, 50 steps, everything guided, every block at every step."""

_INTERVAL = Acceleration(guidance_end=0.5)
NUMBERS = (4, 6, 10, 20)
STEPS = {
    f"{solver}, {steps} steps": replace(PAPER, solver=solver, steps=steps)
    for solver in BASE_SOLVERS
    for steps in NUMBERS
}
DEFAULT = "default: ddim, 50 steps"
INTERVAL = "guided for 0 to 0.5"
REUSE = "features reused, interval 3"
FP8 = "fp8 weights"
TOGETHER = "together: dpmpp_2m, 20 steps, guided for 0 to 0.5, interval 3"
PARTS = {
    INTERVAL: replace(PAPER, acceleration=_INTERVAL),
    REUSE: replace(PAPER, acceleration=Acceleration(reuse_interval=3)),
    "features reused, interval 5": replace(PAPER, acceleration=Acceleration(reuse_interval=5)),
    FP8: PAPER,
    TOGETHER: replace(PAPER, solver="dpmpp_2m", steps=20, acceleration=replace(_INTERVAL, reuse_interval=3)),
}
VARIANTS = {DEFAULT: PAPER} | STEPS | PARTS


def measure_quality(scenes: int, variants: dict[str, BaseOptions], file: Path) -> None:
    """Adds to a JSON file, scene by scene, figures of variants; what it has is not measured again."""
    result = json.loads(file.read_text()) if file.is_file() else {}
    found: dict[str, dict[str, Figures]] = result.setdefault("scenes", {})
    cascades = {FP8: Cascade()}
    for parameter in cascades[FP8].base[0].parameters():
        parameter.data = parameter.to(torch.float8_e4m3fn).to(parameter.dtype)
    usual = Cascade()
    for number, case in enumerate(_judged(usual, scenes)):
        rows = found.setdefault(str(case.seed), {})
        lacking = {name: options for name, options in variants.items() if name not in rows}
        reference: Tensor | None = None
        for name, options in ({DEFAULT: PAPER} | lacking if lacking else {}).items():
            cascade, options = cascades.get(name, usual), replace(options, fps=case.truth.fps, seed=case.seed)
            conditions = cascade.condition(case.truth.frames[:1], case.prompt, options)
            start = time.process_time()
            latent = cascade.sample_base(conditions, options)
            seconds, frames = time.process_time() - start, cascade.decode(latent)
            reference = frames if reference is None else reference
            rows[name] = _figures(case, frames, reference) | {"seconds": seconds}
        result["load"] = os.getloadavg()[1]
        file.write_text(json.dumps(result, indent=1) + "\n")
        sys.stderr.write(f"{number + 1} of {scenes} scenes\n")


def _judged(cascade: Cascade, scenes: int) -> list[Case]:
    release, seed, cases = cascade.base.release, 0, []
    while len(cases) < scenes:
        case = held_out_case(seed, release.width, release.height, release.frames)
        cases += [case] if case.measurable else []
        seed += 1
    return cases


def _figures(case: Case, frames: Tensor, reference: Tensor) -> Figures:
    masks = case.tracker(frames)
    return {
        _DIRECTION: 100.0 * case.obeyed(masks),
        _IOU: case.kept(masks),
        _PSNR: psnr(frames, case.truth.frames),
        _SAME: min(99.0, psnr(frames, reference)),
    }


def measure_full_size(file: Path) -> None:
    """Wall seconds of a whole run of 1.42 G parameters in bf16, the default and all together: 16x16 latents, 4 frames."""
    step = peer.Step(peer.made_up_networks(torch.bfloat16), 4, 16, 16)
    step.prepare()
    schedule = cosine_zero_snr()
    result: dict[str, Any] = {"load": os.getloadavg()[0]}
    for name in (TOGETHER, DEFAULT):
        options = VARIANTS[name]
        denoise = guided(
            step.networks.ours,
            schedule,
            step.conditions,
            9.0,
            details=step.details,
            acceleration=options.acceleration,
            dtype=torch.bfloat16,
        )
        stage = BaseStage(options, RELEASES["i2vgen_xl"], schedule)
        start, processor = time.perf_counter(), time.process_time()
        with torch.no_grad():
            stage.sample(denoise, stage.noise((4, 4, 16, 16)))
        result[name] = {"wall": time.perf_counter() - start, "processor": time.process_time() - processor}
        sys.stderr.write(f"{name}: {result[name]}\n")
    result["load after"] = os.getloadavg()[0]
    file.write_text(json.dumps(result, indent=1) + "\n")


def rows(quality: Result, work: dict[str, float]) -> dict[str, dict[str, float]]:
    """Means over the scenes that have a variant, differences from the default on the same scenes, and gains over it."""
    table: dict[str, dict[str, float]] = {}
    for name in VARIANTS:
        scenes = [scene for scene in quality["scenes"].values() if name in scene]
        mean = {key: fmean(scene[name][key] for scene in scenes) for key in scenes[0][name]}
        default = {key: fmean(scene[DEFAULT][key] for scene in scenes) for key in mean}
        changes = [scene[name][_PSNR] - scene[DEFAULT][_PSNR] for scene in scenes]
        table[name] = mean | {
            "scenes": len(scenes),
            "the default's PSNR": default[_PSNR],
            "direction against the default": mean[_DIRECTION] - default[_DIRECTION],
            "PSNR against the default": fmean(changes),
            "its standard error": stdev(changes) / len(changes) ** 0.5 if len(changes) > 1 else 0.0,
            "gain": default["seconds"] / mean["seconds"],
            "counted gain": work[DEFAULT] / work[name],
        }
    return table


def verdicts(table: dict[str, dict[str, float]]) -> list[tuple[str, bool]]:
    """What was asked of the means, and whether it was reached."""
    interval, reuse, together = table[INTERVAL], table[REUSE], table[TOGETHER]
    lost = interval["PSNR against the default"] + 2 * interval["its standard error"]
    return [
        (
            f"guidance interval: {interval['counted gain']:.2f} x (bar 1.25), no measurable loss",
            interval["counted gain"] >= 1.25 and interval["direction against the default"] >= 0 and lost >= 0,
        ),
        (
            f"features reused, interval 3: {reuse['counted gain']:.2f} x (bar 2), direction within 2 points, "
            "PSNR within 0.5 dB",
            reuse["counted gain"] >= 2
            and abs(reuse["direction against the default"]) <= 2
            and abs(reuse["PSNR against the default"]) <= 0.5,
        ),
        (f"all together: {together['counted gain']:.2f} x (bar 5)", together["counted gain"] >= 5),
    ]


def section(table: dict[str, dict[str, float]]) -> str:
    """The table of docs/acceleration.md."""
    weights = sum(each.numel() for each in UNet(UNetConfig(), device="meta").parameters()) / GIB
    lines = [
        f"The released network's weights: {2 * weights:.2f} GiB in fp16, {weights:.2f} in fp8.",
        "",
        "| | scenes | gain, counted | gain, measured | direction | PSNR to the true clip | to the default's clip | IoU |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, row in table.items():
        change = f"{row['PSNR against the default']:+.2f} +- {row['its standard error']:.2f}"
        psnr_ = f"{row[_PSNR]:.2f} dB" + ("" if name == DEFAULT else f" ({change})")
        same = "" if name == DEFAULT else f"{row[_SAME]:.1f} dB"
        gains = f"{row['counted gain']:.2f} x | {row['gain']:.2f} x"
        lines.append(
            f"| {name} | {row['scenes']:g} | {gains} | {row[_DIRECTION]:.1f} % | {psnr_} | {same} | {row[_IOU]:.2f} |"
        )
    lines += ["", *(f"- {words}: {'reached' if reached else 'missed'}" for words, reached in verdicts(table))]
    return "\n".join(lines) + "\n"


def plots(table: dict[str, dict[str, float]]) -> list[Plot]:
    """Quality over steps of each solver, the rest as the paper's."""

    def curves(figure: str) -> dict[str, list[tuple[float, float]]]:
        of_curve = table[f"ddim, {NUMBERS[-1]} steps"]["the default's PSNR"]  # on the scenes that the curve has
        last = {} if figure == _SAME else {"ddim": [(50.0, of_curve)]}
        return {
            solver: [(float(steps), table[f"{solver}, {steps} steps"][figure]) for steps in NUMBERS]
            + last.get(solver, [])
            for solver in BASE_SOLVERS
        }

    return [
        Plot("PSNR to the true clip, dB", "steps", curves(_PSNR), from_zero=False),
        Plot("PSNR to the clip of 50 DDIM steps, dB", "steps", curves(_SAME), from_zero=False),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=0, help="measure quality on so many")
    parser.add_argument("--parts", action="store_true", help="quality without the curve over steps")
    parser.add_argument("--full-size", action="store_true", help="seconds at the release's sizes")
    parser.add_argument("--write", action="store_true", help="write the table and the plot into docs/")
    parser.add_argument("--out", type=Path, default=Path("build/acceleration"), help="JSON (%(default)s)")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    if options.full_size:
        measure_full_size(options.out / "full_size.json")
        return 0
    if options.scenes:
        measure_quality(options.scenes, PARTS if options.parts else VARIANTS, options.out / "quality.json")
    work = options.out / "work.json"
    if not work.is_file():
        work.write_text(json.dumps(teraflops_of_runs(VARIANTS, 16, BASE), indent=1) + "\n")
    table = rows(json.loads((options.out / "quality.json").read_text()), json.loads(work.read_text()))
    sys.stdout.write(section(table))
    if options.write:
        before, rest = _PAGE.read_text().split(_START)
        _PAGE.write_text(before + _START + section(table) + _END + rest.split(_END)[1])
        draw(plots(table), _PICTURE)
    return int(not all(reached for _, reached in verdicts(table)))


if __name__ == "__main__":
    sys.exit(main())
