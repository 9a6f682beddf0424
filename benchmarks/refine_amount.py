"""What a refiner does to clean, blurred, noisy and compressed clips, over `amount`.

    python -m benchmarks.refine_amount --scenes 2      runs, writes the page's table and the help's picture; look at it

Refines held-out clips of the built-in world with the built-in refiner. A run's figures are kept in build/refine_amount.json as
they come, so that a benchmark that is stopped goes on; delete it when the weights change.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from statistics import fmean

import torch
from torch import Tensor

from i2vgen_core.cascade import Cascade
from i2vgen_core.media.captions import caption
from i2vgen_core.media.compare import psnr
from i2vgen_core.media.rendering import render
from i2vgen_core.media.spectrum import band_level, spatial_spectrum
from i2vgen_core.media.world import sample_scene
from i2vgen_core.sampling.options import RefineOptions
from i2vgen_core.training.judge import ssim
from i2vgen_core.training.worse import blurred, compressed, noisy

from .plot import Plot, draw

_ROOT = Path(__file__).parents[1]
_PAGE, _RUNS = _ROOT / "docs" / "refiners.md", _ROOT / "build" / "refine_amount.json"
_PICTURE = _ROOT / "web" / "pictures" / "refine_amount.png"
_START, _END = "<!-- benchmarks.refine_amount -->\n", "<!-- end of benchmarks.refine_amount -->\n"

AMOUNTS = (0.1, 0.25, 0.5, 1.0, 1.5)

Figures = list[float]
"""PSNR in dB, SSIM, and the level of the high band in dB."""


GIVEN: dict[str, Callable[[Tensor, torch.Generator], Tensor]] = {
    "clean": lambda frames, _: frames,
    "blurred": lambda frames, _: blurred(frames, 1.5),
    "noisy": lambda frames, generator: noisy(frames, 0.05, generator),
    "compressed": lambda frames, _: compressed(frames, 20),
}
"""What is refined: a clip that is sharp, blurred by 1.5 pixels, with noise of 13 of 255, or a JPEG of quality 20."""


def figures(frames: Tensor, truth: Tensor) -> Figures:
    return [psnr(frames, truth), ssim(frames, truth), band_level(spatial_spectrum(frames), "high")]


@torch.no_grad()
def run(cascade: Cascade, seed: int, given: str, amount: float, frames: int) -> dict[str, Figures]:
    """Of a scene: the figures of the truth, of what is refined, and of what comes out."""
    release = cascade.refiner.release
    scene = sample_scene(seed, split="held_out")
    truth = render(scene, release.width, release.height, frames=frames, fps=8).frames
    clip = GIVEN[given](truth, torch.Generator().manual_seed(seed))
    options = RefineOptions(width=release.width, height=release.height, amount=amount, seed=seed)
    latent = cascade.encode_video(clip, options)
    refined = cascade.decode(cascade.sample_refiner(latent, caption(scene, seed), options))
    return {"truth": figures(truth, truth), "in": figures(clip, truth), "out": figures(refined, truth)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=2)
    parser.add_argument("--frames", type=int, default=8)
    arguments = parser.parse_args()
    cascade = Cascade()
    _RUNS.parent.mkdir(exist_ok=True)
    kept = json.loads(_RUNS.read_text()) if _RUNS.is_file() else {}

    def mean(given: str, amount: float, which: str, figure: int) -> float:
        return fmean(
            kept[f"{seed} {given} {amount} {arguments.frames}"][which][figure] for seed in range(arguments.scenes)
        )

    for seed in range(arguments.scenes):
        for given in GIVEN:
            for amount in AMOUNTS:
                key = f"{seed} {given} {amount} {arguments.frames}"
                kept[key] = kept.get(key) or run(cascade, seed, given, amount, arguments.frames)
                _RUNS.write_text(json.dumps(kept))

    titles = ("PSNR to the truth, dB", "SSIM to the truth", "High band against the truth's, dB")
    head = ["given", "", *(f"amount {amount:g}" for amount in AMOUNTS)]
    lines = [f"| {' | '.join(cells)} |" for cells in (["", *head], ["---"] * (len(head) + 1))]
    plots = []
    for figure, title in enumerate(titles):
        curves = {}
        for given in GIVEN:
            of_truth = mean(given, AMOUNTS[0], "truth", figure) if figure == 2 else 0.0
            before = mean(given, AMOUNTS[0], "in", figure) - of_truth
            after = [mean(given, amount, "out", figure) - of_truth for amount in AMOUNTS]
            shown = "{:.3f}" if figure == 1 else "{:.1f}"
            first = title if given == "clean" else ""
            exact = "exact" if given == "clean" and figure < 2 else f"in {shown.format(before)}"
            lines.append(f"| {' | '.join([first, given, exact, *map(shown.format, after)])} |")
            curves[given] = list(zip(AMOUNTS, after, strict=True))
        plots.append(Plot(title, "amount", curves, from_zero=False))
    draw(plots, _PICTURE)
    said = f"Means over {arguments.scenes} held-out clips of {arguments.frames} frames, by the built-in refiner as it is shipped:\n\n"
    before, rest = _PAGE.read_text(encoding="utf-8").split(_START)
    text = before + _START + said + "\n".join(lines) + "\n" + _END + rest.split(_END)[1]
    _PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
