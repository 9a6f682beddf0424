"""How well a composer that was trained on the synthetic world follows its guides, on scenes that it has never seen: each video is
made twice, with a guide and without it."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ..cascade import Cascade
from ..config import Stem
from ..errors import InputError
from ..family import compose
from ..media.captions import short_prompt
from ..media.compare import psnr
from ..media.guides import Guides
from ..media.rendering import render
from ..media.video import contact_sheet, moments
from ..media.world import opposite
from ..sampling.options import BaseOptions
from .evaluate import Case, held_out_case
from .figures import Criterion, Evaluation, Figure, Range
from .truths import flow, true_guides

logger = logging.getLogger("i2vgen_xl")

_GUIDES: dict[Stem, tuple[str, ...]] = {
    "local_image": ("image",),
    "sketch": ("sketch",),
    "single_sketch": ("single_sketch",),
    "depth": ("depth",),
    "motion": ("motion",),
    "masked": ("masked", "mask"),
}
"""Fields of Guides, by the stems that read them."""

CRITERIA: dict[str, Criterion] = {
    "plain": Criterion("the prompt alone: PSNR to the true clip", "dB"),
    "local_image": Criterion("with the first picture: nearer to the true clip than without it", "dB"),
    "sketch": Criterion("with a sketch: nearer than without it", "dB", Range(3)),
    "single_sketch": Criterion("with a sketch of the first frame: nearer", "dB"),
    "depth": Criterion("with depth: nearer", "dB", Range(3)),
    "motion": Criterion("with motion: nearer", "dB"),
    "masked": Criterion("with a masked video: nearer", "dB", Range(3)),
    "sketch_beside": Criterion("the first picture and a sketch: nearer than the first picture alone", "dB"),
    "depth_beside": Criterion("the first picture and depth: nearer", "dB"),
    "motion_beside": Criterion("the first picture and motion: nearer", "dB"),
    "masked_beside": Criterion("the first picture and a masked video: nearer", "dB"),
    "flow": Criterion("the shape goes where the flow says, with the first picture", "%", Range(90), share=True),
    "opposite_flow": Criterion("the same where the flow is the opposite", "%", share=True),
}
"""By the names of the JSON file."""

_SHEET = (3, 8)  # scenes and frames of a contact sheet


def followed(cascade: Cascade, seeds: Sequence[int] = range(16), base: BaseOptions | None = None) -> Evaluation:
    """Tries a composer on held-out scenes, at the size, length and settings that it comes with.

    A guide is the truth of the scene (training.truths). Nearer is the PSNR to the true clip with it, less the PSNR of the same
    prompt and noise without it. Of what the flow says, the prompt says nothing: it names the shapes alone. Scenes are
    counted whose main shape travels before a camera that stands.

    Args:
        cascade: whose folder has the composer in unet/.
        seeds: of the scenes, with those of caption and noise.
        base: steps, guidance and solver.

    Raises:
        InputError: there are no seeds, or the network is no composer.
    """
    if not seeds:
        raise InputError("the seeds", "at least one", "none", "Give a range whose end is above its start: 0:16.")
    release, base = cascade.base.release, base or BaseOptions()
    scores: dict[str, list[float]] = defaultdict(list)
    sheet: list[Tensor] = []
    for number, seed in enumerate(seeds):
        case = held_out_case(seed, release.width, release.height, release.frames, release.fps)
        rows = _score_guides(cascade, case, replace(base, seed=seed), scores)
        _score_flow(cascade, case, replace(base, seed=seed), scores)
        if number < _SHEET[0]:
            sheet += [moments(row, _SHEET[1]) for row in rows]
        logger.info("scene %d of %d: %s", number + 1, len(seeds), case.prompt)
    figures = {name: Figure(criterion, tuple(scores[name])) for name, criterion in CRITERIA.items()}
    return Evaluation(figures, {}, contact_sheet(torch.cat(sheet), _SHEET[1]))


def _score_guides(cascade: Cascade, case: Case, base: BaseOptions, scores: dict[str, list[float]]) -> list[Tensor]:
    """Adds a scene's figures; the true clip, and the videos of the prompt and of each guide beside it."""
    truth = true_guides(case.scene, case.truth, case.seed)

    def near(stems: Sequence[Stem]) -> tuple[float, Tensor]:
        given = {name: getattr(truth, name) for stem in stems for name in _GUIDES[stem]}
        video = _video(cascade, case.prompt, Guides(**given), base)
        return psnr(video, case.truth.frames), video

    without, video = near([])
    scores["plain"].append(without)
    rows = [case.truth.frames, video]
    pictured = 0.0
    for stem in _GUIDES:
        figure, video = near([stem])
        scores[stem].append(figure - without)
        rows.append(video)
        pictured = figure if stem == "local_image" else pictured
        if f"{stem}_beside" in CRITERIA:
            scores[f"{stem}_beside"].append(near(["local_image", stem])[0] - pictured)
    return rows


def _score_flow(cascade: Cascade, case: Case, base: BaseOptions, scores: dict[str, list[float]]) -> None:
    if case.scene.pan or not any(case.scene.shapes[0].velocity):
        return
    height, width = case.truth.frames.shape[1:3]
    other = opposite(case.scene)
    there = Case(case.seed, other, render(other, width, height, len(case.truth.frames), case.truth.fps))
    for name, each in (("flow", case), ("opposite_flow", there)):
        guides = Guides(image=each.truth.frames[:1], motion=flow(each.scene, each.truth))
        video = _video(cascade, short_prompt(each.scene), guides, base)
        scores[name].append(each.obeyed(each.tracker(video)))


def _video(cascade: Cascade, prompt: str, guides: Guides, base: BaseOptions) -> Tensor:
    return cascade.decode(compose(cascade, prompt, guides, base)).float().cpu()
