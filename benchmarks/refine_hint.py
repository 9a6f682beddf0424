"""What a control branch is worth on the built-in refiner: clean, blurred, noisy and compressed clips, with it and without.

    python -m i2vgen_core train refiner --config tiny_refiner_4_hint --model i2vgen_core/assets/tiny \\
        --run build/runs/hint --out build/hinted
    python -m benchmarks.refine_hint build/hinted --scenes 6      runs, writes the page's table and docs/refiners_hint.png; look at it

A run's figures and last frames are kept in build/refine_hint.pt as they come, so that a benchmark that is stopped goes on; delete
it when the weights change.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from statistics import fmean

import torch
from torch import Tensor

from i2vgen_core.cascade import Cascade
from i2vgen_core.checkpoints.load import open_refiner
from i2vgen_core.media.captions import caption
from i2vgen_core.media.images import write_image
from i2vgen_core.media.rendering import render
from i2vgen_core.media.world import sample_scene
from i2vgen_core.parts import StageNetwork
from i2vgen_core.sampling.options import RefineOptions

from .refine_amount import GIVEN, Figures, figures

_ROOT = Path(__file__).parents[1]
_PAGE, _RUNS = _ROOT / "docs" / "refiners.md", _ROOT / "build" / "refine_hint.pt"
_PICTURE = _ROOT / "docs" / "refiners_hint.png"
_START, _END = "<!-- benchmarks.refine_hint -->\n", "<!-- end of benchmarks.refine_hint -->\n"


@torch.no_grad()
def run(
    cascade: Cascade, hinted: StageNetwork, seed: int, given: str, frames: int
) -> tuple[dict[str, Figures], dict[str, Tensor]]:
    """Of a scene: the figures of what is refined, of the VAE alone, and of the refiner without and with the branch; and the
    last frames of all."""
    release, plain = cascade.refiner.release, cascade.refiner
    scene = sample_scene(seed, split="held_out")
    truth = render(scene, release.width, release.height, frames=frames, fps=8).frames
    clip = GIVEN[given](truth, torch.Generator().manual_seed(seed))
    options = RefineOptions(width=release.width, height=release.height, seed=seed)
    latent = cascade.encode_video(clip, options)
    made = {"in": clip, "VAE": cascade.decode(latent)}
    for name, network in (("plain", plain), ("hint", hinted)):
        cascade.refiner = network
        made[name] = cascade.decode(cascade.sample_refiner(latent, caption(scene, seed), options))
    cascade.refiner = plain
    return {name: figures(video, truth) for name, video in made.items()}, {
        name: each[-1] for name, each in made.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="with the trained refiner/")
    parser.add_argument("--scenes", type=int, default=2)
    parser.add_argument("--frames", type=int, default=4)
    arguments = parser.parse_args()
    cascade, checkpoint = Cascade(), open_refiner(arguments.folder / "refiner")
    hinted = StageNetwork(checkpoint.build_network(), checkpoint.release)
    _RUNS.parent.mkdir(exist_ok=True)
    kept = torch.load(_RUNS, weights_only=True) if _RUNS.is_file() else {}
    for seed in range(arguments.scenes):
        for given in GIVEN:
            key = f"{seed} {given} {arguments.frames}"
            kept[key] = kept.get(key) or run(cascade, hinted, seed, given, arguments.frames)
            torch.save(kept, _RUNS)

    lines = ["| PSNR to the truth, dB | given | by the VAE alone | plain refiner | with the hint | gain |\n"]
    lines.append("|---|---|---|---|---|---|\n")
    for given in GIVEN:
        runs = [kept[f"{seed} {given} {arguments.frames}"][0] for seed in range(arguments.scenes)]
        before, vae, plain, hint = (fmean(each[name][0] for each in runs) for name in ("in", "VAE", "plain", "hint"))
        shown = "exact" if given == "clean" else f"{before:.1f}"
        lines.append(f"| {given} | {shown} | {vae:.1f} | {plain:.1f} | {hint:.1f} | {hint - plain:+.1f} |\n")
    shown = [
        kept[f"{seed} {given} {arguments.frames}"][1] for seed in range(min(2, arguments.scenes)) for given in GIVEN
    ]
    rows = [torch.cat([each[name] for name in ("in", "plain", "hint")], dim=1) for each in shown]
    write_image(_PICTURE, torch.cat(rows))
    said = f"Means over {arguments.scenes} held-out clips of {arguments.frames} frames:\n\n"
    before, rest = _PAGE.read_text(encoding="utf-8").split(_START)
    _PAGE.write_text(before + _START + said + "".join(lines) + _END + rest.split(_END)[1], encoding="utf-8")


if __name__ == "__main__":
    main()
