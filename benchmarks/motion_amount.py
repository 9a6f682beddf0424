"""How much moves, over two means that are said to calm or enliven a video: whether a control of it would hold.

    python -m benchmarks.motion_amount --scenes 12      runs, writes the page's table and docs/control_amount.png; look at it

Adaptive low-pass guidance (arXiv 2506.08456) gives the network, for the first part of a run, the picture shrunk and enlarged
again. The other scales the logits of the attention over frames. A scene's figures are kept in build/motion_amount.json as they come,
so that a benchmark that is stopped goes on; delete it when the weights change.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import fmean

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from i2vgen_core.cascade import Cascade
from i2vgen_core.config import VAE_SCALE
from i2vgen_core.media.compare import psnr
from i2vgen_core.media.score import score
from i2vgen_core.network.evaluation import Prepared
from i2vgen_core.network.hooks import AttentionHooks, Hooks, LayerName
from i2vgen_core.sampling.options import BaseOptions
from i2vgen_core.sampling.schedules import schedule_for
from i2vgen_core.sampling.solvers import guide
from i2vgen_core.sampling.stages import BaseStage
from i2vgen_core.training.evaluate import Case, held_out_case
from i2vgen_core.training.measure import displacement, path

from .plot import Plot, draw

_ROOT = Path(__file__).parents[1]
_PAGE, _RUNS, _PICTURE = (
    _ROOT / "docs" / "control.md",
    _ROOT / "build" / "motion_amount.json",
    _ROOT / "docs" / "control_amount.png",
)
_START, _END = "<!-- benchmarks.motion_amount -->\n", "<!-- end of benchmarks.motion_amount -->\n"

_SHRUNK = 4
_SHARES = (0.0, 0.05, 0.1, 0.2, 0.4)
_SCALES = (0.5, 0.75, 1.0, 1.5, 2.0)
FIGURES = ("motion, pixels", "share of the way told", "frame 0, dB", "clip, dB")


class _Scaled(AttentionHooks):
    """Attention over frames whose logits are so many times as large."""

    def __init__(self, factor: float):
        super().__init__()
        self._factor = factor

    def attend(self, name: LayerName, heads: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return super().attend(name, heads, q * self._factor if name.over == "frames" else q, k, v)


def low_pass(image: Tensor) -> Tensor:
    """A picture [1, H, W, 3] shrunk and enlarged again."""
    planes = image.movedim(-1, 1)
    small = interpolate(planes, scale_factor=1 / _SHRUNK, mode="area")
    return interpolate(small, size=planes.shape[2:], mode="bicubic", align_corners=False).movedim(1, -1).clamp(0, 1)


@torch.no_grad()
def run(cascade: Cascade, case: Case, share: float, scale: float) -> list[float]:
    """The figures of a scene, see FIGURES.

    Args:
        share: of the steps, from the first, that are given the picture shrunk.
        scale: of the logits over frames.
    """
    base, release = cascade.base.unet, cascade.base.release
    options = BaseOptions(fps=case.truth.fps, seed=case.seed)
    stage = BaseStage(options, release, schedule_for(base.config.kind))
    first, hooks = case.truth.frames[:1], Hooks(_Scaled(scale))
    given = []
    for picture in (first, low_pass(first)):
        conditions = cascade.condition(picture, case.prompt, options)
        both = [base.prepare(each, conditions.fps) for each in (conditions.positive, conditions.negative)]
        given.append((Prepared.together(both), conditions.details))
    shrunk = set(stage.timesteps[: round(share * stage.steps)])

    def denoise(x: Tensor, t: int) -> Tensor:
        prepared, details = given[t in shrunk]
        both = base(x, torch.tensor([t]), prepared, len(x), None, details, hooks)
        return stage.schedule.denoised(x, guide(*both.chunk(2), stage.settings.guidance, 0.0), t)

    latent = stage.run(denoise, stage.noise(conditions.shape)) / VAE_SCALE
    video = cascade.decode(latent)
    moved = displacement(path(case.tracker(video)))
    told = case.truth.positions[-1, 0] - case.truth.positions[0, 0]
    way = 0.0 if moved is None else ((moved * told).sum() / told.square().sum()).item()
    return [score(video).motion, way, psnr(video[0], first[0]), psnr(video, case.truth.frames)]


def cases(cascade: Cascade, scenes: int) -> list[Case]:
    """The first held-out scenes whose main shape is told to travel slowly, before a camera that stands: there is room for
    less and for more."""
    release, seed, found = cascade.base.release, 0, []
    while len(found) < scenes:
        case = held_out_case(seed, release.width, release.height, release.frames)
        main = case.scene.shapes[0]
        if any(main.velocity) and main.speed == "slowly" and not case.scene.pan:
            found.append(case)
        seed += 1
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=12)
    arguments = parser.parse_args()
    cascade = Cascade()
    judged = cases(cascade, arguments.scenes)
    settings = [(share, 1.0) for share in _SHARES] + [(0.0, scale) for scale in _SCALES if scale != 1]
    _RUNS.parent.mkdir(exist_ok=True)
    kept = json.loads(_RUNS.read_text()) if _RUNS.is_file() else {}
    for case in judged:
        for share, scale in settings:
            key = f"{case.seed} {share} {scale}"
            kept[key] = kept.get(key) or run(cascade, case, share, scale)
            _RUNS.write_text(json.dumps(kept))

    def mean(share: float, scale: float, figure: int) -> float:
        return fmean(kept[f"{case.seed} {share} {scale}"][figure] for case in judged)

    means = {
        "the picture shrunk, share of the steps": [(share, (share, 1.0)) for share in _SHARES],
        "attention over frames, scale": [(scale, (0.0, scale)) for scale in _SCALES],
    }
    lines = [f"Means over {len(judged)} held-out scenes in which a shape is told to travel slowly:\n\n"]
    lines.append("| | " + " | ".join(FIGURES) + " |\n|---|" + "---|" * len(FIGURES) + "\n")
    for name, points in means.items():
        for value, setting in points:
            told = " | ".join(f"{mean(*setting, figure):.2f}" for figure in range(len(FIGURES)))
            lines.append(f"| {name} {value:g} | {told} |\n")
    plots = [
        Plot(name, name, {"motion, pixels": [(value, mean(*setting, 0)) for value, setting in points]})
        for name, points in means.items()
    ]
    draw(plots, _PICTURE)
    before, rest = _PAGE.read_text(encoding="utf-8").split(_START)
    _PAGE.write_text(before + _START + "".join(lines) + _END + rest.split(_END)[1], encoding="utf-8")


if __name__ == "__main__":
    main()
