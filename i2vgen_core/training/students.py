"""A base of few steps beside the one that it was distilled from, on scenes of the synthetic world that neither has seen."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from statistics import median

import torch
from torch import Tensor

from ..cascade import Cascade
from ..errors import InputError
from ..media.compare import psnr
from ..media.video import contact_sheet, moments
from ..sampling.options import BaseOptions
from .evaluate import held_out_case

logger = logging.getLogger("i2vgen_xl")

WITHIN = 0.5
"""The most dB that a student of 4 steps may be below its teacher."""
_SHEET = (4, 8)  # scenes and frames of a contact sheet


def beside_teacher(
    student: Cascade, teacher: Cascade, seeds: Sequence[int] = range(32)
) -> tuple[dict[str, dict[str, float | None]], Tensor]:
    """Figures by column and row, medians over the scenes; and a picture [H, W, 3], of each scene a row of the true clip, one of
    the teacher's video and one of the student's.

    The teacher takes its own steps and guidance, and then as many steps as the student, with DPM-Solver++(2M), which is the
    best that it does without being distilled.

    Args:
        student: whose base samples in few steps.
        teacher: of the same sizes.
        seeds: of the scenes, with those of caption and noise.

    Raises:
        InputError: there are no seeds, or the first base is of many steps.
    """
    if not seeds:
        raise InputError("the seeds", "at least one", "none", "Give a range whose end is above its start: 0:32.")
    release = student.base.release
    if release.sampler != "lcm":
        raise InputError("--model", "a base of few steps", release.title, "Name the student's folder.")
    whole, few = teacher.base.release.steps, release.steps
    runs = {
        f"teacher, {whole} steps": (teacher, BaseOptions()),
        f"teacher, {few} steps, dpmpp_2m": (teacher, BaseOptions(steps=few, solver="dpmpp_2m")),
        f"student, {few} steps": (student, BaseOptions()),
    }
    near: dict[str, list[float]] = {name: [] for name in runs}
    first: dict[str, list[float]] = {name: [] for name in runs}
    obeyed: dict[str, list[bool]] = {name: [] for name in runs}
    sheet: list[Tensor] = []
    for number, seed in enumerate(seeds):
        case = held_out_case(seed, release.width, release.height, release.frames)
        rows = [case.truth.frames]
        for name, (cascade, options) in runs.items():
            options = replace(options, fps=case.truth.fps, seed=seed)
            conditions = cascade.condition(case.truth.frames[:1], case.prompt, options)
            video = cascade.decode(cascade.sample_base(conditions, options)).float().cpu()
            near[name].append(psnr(video, case.truth.frames))
            first[name].append(psnr(video[0], case.truth.frames[0]))
            if case.measurable:
                obeyed[name].append(case.obeyed(case.tracker(video)))
            rows.append(video)
        if number < _SHEET[0]:
            sheet += [moments(row, _SHEET[1]) for row in rows]
        logger.info("scene %d of %d: %s", number + 1, len(seeds), case.prompt)
    teachers = near[next(iter(runs))]
    table = {
        name: {
            "PSNR to the true clip, dB": round(median(near[name]), 2),
            "nearer than the teacher, dB": round(median(a - b for a, b in zip(near[name], teachers, strict=True)), 2),
            "frame 0 PSNR, dB": round(median(first[name]), 2),
            "as the prompt says, %": round(100 * sum(obeyed[name]) / len(obeyed[name])) if obeyed[name] else None,
        }
        for name in runs
    }
    return table, contact_sheet(torch.cat(sheet), _SHEET[1])
