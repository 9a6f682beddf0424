"""How well an animator that was trained on drawn people follows poses, with people that it has never seen: each video is made
with the poses of a movement, and with those of somebody who stands."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ..cascade import Cascade
from ..errors import InputError
from ..family import animate
from ..media.compare import psnr
from ..media.video import contact_sheet, moments
from ..sampling.options import AnimateOptions
from .animate import shown
from .figures import Criterion, Evaluation, Figure, Range
from .walkers import sample_walker

logger = logging.getLogger("i2vgen_xl")

CRITERIA: dict[str, Criterion] = {
    "standing": Criterion("with the poses of somebody who stands: PSNR to the true clip", "dB"),
    "posed": Criterion(
        "with the poses: nearer to the true clip than with those of somebody who stands", "dB", Range(3)
    ),
    "own": Criterion(
        "with the poses: nearer to its own true clip than to the same person's other movement",
        "%",
        Range(90),
        share=True,
    ),
}
"""By the names of the JSON file."""

_SHEET = (6, 8)  # people and frames of a contact sheet


def posed(cascade: Cascade, seeds: Sequence[int] = range(16), options: AnimateOptions | None = None) -> Evaluation:
    """Tries an animator on held-out people, at the size, length and settings that it comes with.

    Args:
        cascade: whose folder has the animator in unet/.
        seeds: of the people and the noise.
        options: steps and guidance.

    Raises:
        InputError: there are no seeds, or the network is no animator.
    """
    if not seeds:
        raise InputError("the seeds", "at least one", "none", "Give a range whose end is above its start: 0:16.")
    release, options = cascade.base.release, options or AnimateOptions()
    size = release.width, release.height, release.frames, release.fps
    scores: dict[str, list[float]] = defaultdict(list)
    sheet: list[Tensor] = []
    for number, seed in enumerate(seeds):
        walker = sample_walker(seed, "held_out")
        frames, poses = shown(walker, *size)
        other, _ = shown(replace(walker, gait="jumps" if walker.gait != "jumps" else "bends"), *size)
        still = poses[:1].expand_as(poses)
        told = replace(options, seed=seed)
        with_poses, standing = (
            cascade.decode(animate(cascade, frames[:1], each, told)).float().cpu() for each in (poses, still)
        )
        truth = frames[1:]
        near = psnr(with_poses, truth)
        scores["standing"].append(psnr(standing, truth))
        scores["posed"].append(near - scores["standing"][-1])
        scores["own"].append(float(near > psnr(with_poses, other[1:])))
        if number < _SHEET[0]:
            sheet += [moments(each, _SHEET[1]) for each in (poses[1:], truth, with_poses)]
        logger.info("person %d of %d: %s", number + 1, len(seeds), walker.gait)
    figures = {name: Figure(criterion, tuple(scores[name])) for name, criterion in CRITERIA.items()}
    return Evaluation(figures, {}, contact_sheet(torch.cat(sheet), _SHEET[1]))
