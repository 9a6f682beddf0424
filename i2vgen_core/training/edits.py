"""What editing by the first frame does on the synthetic world, where the true edited clip is known: the main shape of a
held-out scene gets another colour in the first frame, and its clip is to follow."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from statistics import median

import torch
from torch import Tensor
from torch.nn import functional

from ..cascade import Cascade
from ..editing import edit_clip, invert_clip
from ..errors import InputError
from ..media.captions import caption
from ..media.rendering import render
from ..media.video import contact_sheet, moments
from ..media.world import BACKGROUNDS, COLOURS, Scene, sample_scene
from ..sampling.options import BaseOptions, EditOptions
from . import measure

logger = logging.getLogger("i2vgen_xl")

VARIANTS: dict[str, Callable[[EditOptions], EditOptions]] = {
    "edited": lambda options: options,
    "edited, fractions of 1": lambda options: replace(options, convolution=1.0, spatial=1.0, temporal=1.0),
    "edited, fractions of 0": lambda options: replace(options, convolution=0.0, spatial=0.0, temporal=0.0),
    "edited, half fresh noise": lambda options: replace(options, fresh_noise=0.5),
    "edited, 10 times the inversion": lambda options: replace(options, inversion_steps=10 * (options.steps or 20)),
}
"""Changes to the settings that are tried. The last is the published way, 500 steps for 50."""

_BASE = "the base alone"
_FRAMES = 8  # of a contact sheet
_MARGIN = 5  # pixels about the shapes that are no background


def recoloured(scene: Scene) -> Scene:
    """The scene with its main shape in the colour that is furthest from its own and from what else is in the picture."""
    main, *others = scene.shapes
    there = [COLOURS[shape.colour] for shape in scene.shapes] + [BACKGROUNDS[name] for name in scene.background.colours]
    colour = max(COLOURS, key=lambda name: min(math.dist(COLOURS[name], each) for each in there))
    return replace(scene, shapes=(replace(main, colour=colour), *others))


def edits(
    cascade: Cascade, seeds: Sequence[int] = range(8), options: EditOptions | None = None
) -> tuple[dict[str, dict[str, float | None]], Tensor]:
    """Figures by column and row, medians over the scenes; and a picture [H, W, 3] with a row of frames of each.

    The base alone makes its video of the edited frame and the same prompt, without the source. Inside the true shape, the
    PSNR to the true edited clip is set against the source's own. The shape's centre is found by its colour. The background's
    PSNR is set against that of the true clip through the VAE.

    Args:
        cascade: trained on the synthetic world.
        seeds: of the held-out scenes.
        options: of the edits.

    Raises:
        InputError: there are no seeds.
    """
    if not seeds:
        raise InputError("seeds", "at least one", "none", "Use 0:8.")
    options = options or EditOptions(steps=cascade.base.release.steps)
    found: dict[str, list[tuple[float, float | None, float]]] = {name: [] for name in (_BASE, *VARIANTS)}
    sheet: list[Tensor] = []
    for number, seed in enumerate(seeds):
        for name, figures, frames in _scene(cascade, seed, options):
            if figures is not None:
                found[name].append(figures)
            if number == 0:
                sheet.append(moments(frames, _FRAMES))
        logger.info("scene %d of %d", number + 1, len(seeds))
    return {name: _row(figures) for name, figures in found.items()}, contact_sheet(torch.cat(sheet), _FRAMES)


def _scene(
    cascade: Cascade, seed: int, options: EditOptions
) -> list[tuple[str, tuple[float, float | None, float] | None, Tensor]]:
    """Names, figures and frames of a scene: source, truth, the base and each variant."""
    release, scene = cascade.base.release, sample_scene(seed, split="held_out")
    edited, shape = recoloured(scene), (release.width, release.height, release.frames, release.fps)
    source, truth = render(scene, *shape), render(edited, *shape)
    prompt, picture = caption(edited, seed), truth.frames[:1]
    tracker = measure.Tracker(truth.frames[0], truth.masks[0, 0])
    inside = truth.masks[:, 0]
    shapes = functional.max_pool2d(truth.masks.amax(1)[:, None], _MARGIN, 1, _MARGIN // 2)[:, 0]
    seen = cascade.decode(cascade.vae.encode(truth.frames.to(cascade.device), frames_per_batch=1))

    def figures(frames: Tensor) -> tuple[float, float | None, float]:
        off = (measure.path(tracker(frames)) - measure.path(inside))[:, 0].abs()
        off = off[off.isfinite()]
        gain = weighted_psnr(frames, truth.frames, inside) - weighted_psnr(source.frames, truth.frames, inside)
        lost = weighted_psnr(seen, truth.frames, 1 - shapes) - weighted_psnr(frames, truth.frames, 1 - shapes)
        return gain, 100 * float(off.mean()) if len(off) > len(frames) // 2 else None, lost

    base = BaseOptions(seed=seed)
    alone = cascade.decode(cascade.sample_base(cascade.condition(picture, prompt, base), base))
    rows: list[tuple[str, tuple[float, float | None, float] | None, Tensor]] = [
        ("source", None, source.frames),
        ("truth", None, truth.frames),
        (_BASE, figures(alone), alone),
    ]
    clips = {}
    for name, change in VARIANTS.items():
        own = change(replace(options, seed=seed))
        if own.inversion_steps not in clips:
            clips[own.inversion_steps] = invert_clip(cascade, source.frames, own)
        frames = edit_clip(cascade, clips[own.inversion_steps], picture, prompt, own)
        rows.append((name, figures(frames), frames))
    return rows


def weighted_psnr(frames: Tensor, truth: Tensor, weights: Tensor) -> float:
    """Peak signal-to-noise ratio in dB of frames [F, H, W, 3] where weights [F, H, W] are; at most 100."""
    squared = (frames.clamp(0, 1) - truth).square().mean(-1)
    return -10 * math.log10(max(float((squared * weights).sum() / weights.sum()), 1e-10))


def _row(figures: list[tuple[float, float | None, float]]) -> dict[str, float | None]:
    gains, offs, lost = zip(*figures, strict=True)
    found = [off for off in offs if off is not None]
    return {
        "shape, dB nearer than the source": round(median(gains), 2),
        "centre off, % of the width": round(median(found), 2) if found else None,
        "found, % of the scenes": round(100 * len(found) / len(offs)),
        "background, dB below the VAE's": round(median(lost), 2),
    }
