"""What a cascade that was trained on the synthetic world can do, on scenes that it has never seen."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from statistics import fmean, median

import torch
from torch import Tensor

from ..cascade import BaseConditions, Cascade
from ..config import GLOBAL_TOKENS, TEXT_TOKENS
from ..errors import InputError
from ..media.captions import caption, short_prompt
from ..media.compare import psnr
from ..media.rendering import Clip, render
from ..media.spectrum import Spectrum, plot, spatial_spectrum, temporal_spectrum
from ..media.video import contact_sheet, moments
from ..media.world import Scene, opposite, sample_scene
from ..sampling.options import BaseOptions, RefineOptions
from . import measure
from .figures import Criterion, Evaluation, Figure, Range
from .measure import Tracker

logger = logging.getLogger("i2vgen_xl")

FRAME_RATES = (8, 16)
NOISE_LEVELS = (200, 400, 600, 800)

_LEAST_STATIC = 0.05  # of the picture, for jitter to be measured
_SHEET = (4, 8)  # scenes and frames of a contact sheet
_AS_IT_COMES = BaseOptions()
_BEFORE_IMAGE = TEXT_TOKENS + GLOBAL_TOKENS  # tokens of the context; the CLIP image's come last
_TURNS = 36  # angles that a turning shape is compared at


CRITERIA: dict[str, Criterion] = {
    "frame_0": Criterion("frame 0 against the given image, PSNR", "dB", Range(22), Range(27)),
    "direction": Criterion("the shape moves, or stays, as the prompt says", "%", Range(85), Range(97), share=True),
    "opposites": Criterion("both of two opposite prompts are obeyed", "%", Range(75), Range(95), share=True),
    "speed": Criterion("motion a frame at 8 fps over that at 16 fps", "", Range(1.5, 2.6), Range(1.8, 2.2)),
    "kept": Criterion("the shape in the last frame, IoU with the truth", "", Range(0.6), Range(0.8)),
    "refiner_high_band": Criterion(
        "refiner: high-band spectral distance against its input's", "%", Range(high=-40), Range(high=-70)
    ),
    "refiner_psnr": Criterion("refiner: PSNR against its input's", "dB", Range(-1), Range(0.5)),
    "refiner_jitter": Criterion(
        "refiner: jitter of static regions against its input's", "%", Range(high=-20), Range(high=-50)
    ),
    "growth": Criterion("the shape grows or shrinks as the prompt says", "%", share=True),
    "vae_frame_0": Criterion("the given image through the VAE alone, PSNR", "dB"),
    "vae_high_band": Criterion("true refined clip through the VAE alone: high-band distance against input's", "%"),
    "vae_psnr": Criterion("true refined clip through the VAE alone: PSNR against input's", "dB"),
    "input_high_band": Criterion("the refiner's input: high-band spectral distance to the truth", "dB"),
    "input_psnr": Criterion("the refiner's input: PSNR", "dB"),
    "still_jitter": Criterion("jitter of static regions that the refiner adds to the true clip", "/255"),
}
"""By the names of the JSON file; the order is that of the table."""


@dataclass(frozen=True)
class Case:
    """A scene to be tried, at the base's size and frame rate.

    Args:
        seed: of the scene, of its caption's wording and of the noise.
        scene: what is to happen.
        truth: the true clip.
    """

    seed: int
    scene: Scene
    truth: Clip

    @property
    def prompt(self) -> str:
        """The base's."""
        return caption(self.scene, self.seed)

    @property
    def measurable(self) -> bool:
        """Whether the main shape travels or stays still, before a camera that stands: its centroid says all."""
        main = self.scene.shapes[0]
        return not self.scene.pan and (main.motion == "still" or any(main.velocity))

    @cached_property
    def tracker(self) -> Tracker:
        """Tracker of the main shape."""
        return Tracker(self.truth.frames[0], self.truth.masks[0, 0])

    def obeyed(self, masks: Tensor) -> bool:
        """Whether the main shape moves as told; of a measurable case."""
        height, width = masks.shape[1:]
        return measure.moves_as_told(measure.path(masks), self.scene.shapes[0], self.truth.fps, width / height)

    def kept(self, masks: Tensor) -> float:
        """IoU of the main shape's last mask with the true one; of a turning shape with the best of all angles."""
        truth, main = self.truth.masks[-1:, 0], self.scene.shapes[0]
        if main.turn_rate:
            height, width = masks.shape[1:]
            x, y = self.truth.positions[-1, 0].tolist()
            placed = (replace(main, motion="still", x=x, y=y, angle=360 * i / _TURNS) for i in range(_TURNS))
            alone = [replace(self.scene, shapes=(shape,), pan=0.0) for shape in placed]
            truth = torch.cat([render(scene, width, height, 1, self.truth.fps).masks[:, 0] for scene in alone])
        return max(measure.overlap(masks[-1] > 0, mask > 0.5) for mask in truth)


def held_out_case(seed: int, width: int, height: int, frames: int, fps: float | None = None) -> Case:
    """The case of a seed; even seeds have 8 frames a second and odd ones 16, if not said otherwise."""
    scene = sample_scene(seed, split="held_out")
    rate = FRAME_RATES[seed % len(FRAME_RATES)] if fps is None else fps
    return Case(seed, scene, render(scene, width, height, frames, rate))


def evaluate(
    cascade: Cascade, seeds: Sequence[int] = range(64), *, refined: int = 16, base: BaseOptions = _AS_IT_COMES
) -> Evaluation:
    """Tries a cascade on held-out scenes; sizes, length, steps and guidance are those that it comes with.

    The base is given the true first frame and a caption. Direction and opposite prompts are judged on scenes whose main
    shape travels or stays still and whose camera stands, the effect of the frame rate on those that travel, growth on
    those that grow or shrink, and the rest on all.

    The refiner is given the true clip at the base's size, enlarged bicubically, and a brief prompt; its spectral distance
    and PSNR to the true clip at its own size are set against those of that input. The input's static regions do not
    flicker at all, so jitter is measured where there is some to be taken away: the base's own video is refined too, and
    the mean absolute difference from frame to frame is compared, where neither the true clip nor the shape that is
    tracked in the base's video moves. Scenes with a panning camera have no such region.

    Args:
        cascade: the model to be tried.
        seeds: of the scenes, with those of caption and noise.
        refined: how many of them, the first ones, are refined; 0 tries the base alone.
        base: steps, guidance, solver and acceleration of the base.

    Raises:
        InputError: a part of the model is missing, or there are no seeds.
    """
    _check(seeds)
    release = cascade.base.release
    scores: dict[str, list[float]] = defaultdict(list)
    spectra: dict[str, dict[str, list[Spectrum]]] = {"spatial": defaultdict(list), "temporal": defaultdict(list)}
    sheet: list[Tensor] = []
    for number, seed in enumerate(seeds):
        case = held_out_case(seed, release.width, release.height, release.frames)
        video = base_video(cascade, case, options=base)
        masks = _score_base(cascade, case, video, scores, base)
        rows = [case.truth.frames, video]
        if number < refined:
            rows = _score_refiner(cascade, case, video, masks, scores, spectra)
        if number < _SHEET[0]:
            sheet += [moments(row, _SHEET[1]) for row in rows]
        logger.info("scene %d of %d: %s", number + 1, len(seeds), case.prompt)
    height, width = max(row.shape[1:3] for row in sheet)
    return Evaluation(
        {name: Figure(criterion, tuple(scores[name])) for name, criterion in CRITERIA.items()},
        mean_spectra(spectra),
        contact_sheet(torch.cat([_sized(row, width, height) for row in sheet]), _SHEET[1]),
    )


def mean_spectra(spectra: Mapping[str, Mapping[str, Sequence[Spectrum]]]) -> dict[str, dict[str, Spectrum]]:
    """Mean spectra of the videos of each name, as an Evaluation keeps them; an axis without videos is left out."""
    return {
        axis: {name: measure.mean_spectrum(each) for name, each in videos.items()}
        for axis, videos in spectra.items()
        if videos
    }


def base_video(
    cascade: Cascade,
    case: Case,
    change: Callable[[BaseConditions], BaseConditions] | None = None,
    options: BaseOptions = _AS_IT_COMES,
) -> Tensor:
    """The base's video [F, H, W, 3] of a case, with a change to what it reads; frame rate and seed are the case's."""
    options = replace(options, fps=case.truth.fps, seed=case.seed)
    conditions = cascade.condition(case.truth.frames[:1], case.prompt, options)
    latent = cascade.sample_base(change(conditions) if change else conditions, options)
    return _pictures(cascade, latent)


def refined_video(cascade: Cascade, frames: Tensor, case: Case, noise_level: int | None = None) -> Tensor:
    """Frames [F, H, W, 3] of the refined size after the refiner, with the case's brief prompt."""
    options = RefineOptions(seed=case.seed, noise_level=noise_level)
    latent = cascade.encode_video(frames, options)
    return _pictures(cascade, cascade.sample_refiner(latent, short_prompt(case.scene), options))


ABLATIONS: dict[str, Callable[[BaseConditions], BaseConditions]] = {
    "as shipped": lambda conditions: conditions,
    "without the global encoder": lambda conditions: replace(
        conditions, positive=_without_global(conditions.positive), negative=_without_global(conditions.negative)
    ),
    "without the CLIP image tokens": lambda conditions: replace(
        conditions,
        positive=torch.cat([conditions.positive[:, :_BEFORE_IMAGE], conditions.negative[:, _BEFORE_IMAGE:]], dim=1),
    ),
    "without the detail path": lambda conditions: replace(conditions, details=_details(conditions) * 0),
    "detail gain once": lambda conditions: replace(conditions, details=_details(conditions) / 2),
}
"""Changes to what a base with the official detail gain reads. Global tokens are taken out of the context; the CLIP image's
become those of no image, which the negative branch has; detail features become 0, or half of the official ones."""


def ablations(
    cascade: Cascade, seeds: Sequence[int] = range(32), *, refined: int = 8, base: BaseOptions = _AS_IT_COMES
) -> dict[str, dict[str, dict[str, float | None]]]:
    """The paper's ablations, at inference: figures by column, row and table ("base", "refiner").

    Args:
        cascade: with the official detail gain.
        seeds: of the held-out scenes.
        refined: how many of them, the first ones, are refined at each noise level; 0 leaves that table out.
        base: steps, guidance, solver and acceleration of the base.

    Raises:
        InputError: a part of the model is missing, or its base has no global encoder and detail path.
    """
    _check(seeds)
    if cascade.base.global_encoder is None:
        remedy = "Ablate a base of kind i2vgen_xl."
        raise InputError("the base", "one with a global encoder and a detail path", "one that has none", remedy)
    release = cascade.base.release
    cases = [held_out_case(seed, release.width, release.height, release.frames) for seed in seeds]
    tables: dict[str, dict[str, dict[str, float | None]]] = {"base": {}}
    videos: list[Tensor] = []
    for name, change in ABLATIONS.items():
        made = [base_video(cascade, case, change, base) for case in cases]
        videos = videos or made[:refined]
        tables["base"][name] = _base_row(cases, made)
        logger.info("base, %s: done", name)
    if not refined:
        return tables

    size = cascade.refiner.release.width, cascade.refiner.release.height
    cases = cases[:refined]
    truths = [render(case.scene, *size, len(case.truth.frames), case.truth.fps).frames for case in cases]
    found = [case.tracker(video) for case, video in zip(cases, videos, strict=True)]
    regions = [_static(*each) for each in zip(cases, truths, found, strict=True)]
    inputs = {
        "base": [measure.upsample(video, *size) for video in videos],
        "true clip": [measure.upsample(case.truth.frames, *size) for case in cases],
    }
    rows = tables["refiner"] = {}
    for name, enlarged in inputs.items():
        rows[f"{name}, enlarged"] = _refiner_row(enlarged, truths, regions)
        for level in NOISE_LEVELS:
            made = [refined_video(cascade, frames, case, level) for frames, case in zip(enlarged, cases, strict=True)]
            rows[f"{name}, refined from level {level}"] = _refiner_row(made, truths, regions)
            logger.info("refiner, %s from level %d: done", name, level)
    return tables


def spectra_plot(spectra: Mapping[str, Mapping[str, Spectrum]]) -> Tensor:
    """Evaluation.spectra of a refined cascade as one picture [H, W, 3], spatial above temporal."""
    units = {"spatial": "cycles per pixel", "temporal": "cycles per frame"}
    return torch.cat([plot(videos, axis, units[axis]) for axis, videos in spectra.items()])


def _score_base(
    cascade: Cascade, case: Case, video: Tensor, scores: dict[str, list[float]], options: BaseOptions
) -> Tensor:
    """Adds the base's figures of a case, and returns its masks [F, H, W]."""
    given, main = case.truth.frames[:1], case.scene.shapes[0]
    masks = case.tracker(video)
    scores["frame_0"].append(psnr(video[:1], given))
    scores["vae_frame_0"].append(psnr(_through_vae(cascade, given), given))
    scores["kept"].append(case.kept(masks))
    if main.growth:
        scores["growth"].append(measure.grows_as_told(masks, main, case.truth.fps))
    if not case.measurable:
        return masks
    obeyed = case.obeyed(masks)
    scores["direction"].append(obeyed)
    if main.motion == "still":
        return masks

    scene, fps = opposite(case.scene), case.truth.fps
    frames, height, width = masks.shape
    other = Case(case.seed, scene, render(scene, width, height, frames, fps))
    scores["opposites"].append(obeyed and other.obeyed(case.tracker(base_video(cascade, other, options=options))))
    other_fps = next(rate for rate in FRAME_RATES if rate != fps)
    other = held_out_case(case.seed, width, height, frames, other_fps)
    paths = {
        fps: measure.path(masks),
        other_fps: measure.path(case.tracker(base_video(cascade, other, options=options))),
    }
    scores["speed"].append(measure.speed_ratio(*(paths[rate] for rate in FRAME_RATES)))
    return masks


def _score_refiner(
    cascade: Cascade,
    case: Case,
    video: Tensor,
    masks: Tensor,
    scores: dict[str, list[float]],
    spectra: dict[str, dict[str, list[Spectrum]]],
) -> list[Tensor]:
    """Adds the refiner's figures of a case, and returns the true clip, the base's video, the same refined, and the true
    clip refined, all of the refined size."""
    size = cascade.refiner.release.width, cascade.refiner.release.height
    truth = render(case.scene, *size, len(video), case.truth.fps).frames
    enlarged = measure.upsample(case.truth.frames, *size)
    refined = refined_video(cascade, enlarged, case)
    distance, closeness = measure.high_band(enlarged, truth), psnr(enlarged, truth)
    scores["input_high_band"].append(distance)
    scores["input_psnr"].append(closeness)
    for name, frames in (("refiner", refined), ("vae", _through_vae(cascade, truth))):
        scores[f"{name}_high_band"].append(100 * (measure.high_band(frames, truth) / distance - 1))
        scores[f"{name}_psnr"].append(psnr(frames, truth) - closeness)

    base = measure.upsample(video, *size)
    base_refined = refined_video(cascade, base, case)
    region = _static(case, truth, masks)
    if region is not None:
        scores["still_jitter"].append(255 * measure.jitter(refined, region))
        before = measure.jitter(base, region)
        if before > 0:
            scores["refiner_jitter"].append(100 * (measure.jitter(base_refined, region) / before - 1))
    for name, frames in (("base", base), ("refined", base_refined), ("true", truth)):
        spectra["spatial"][name].append(spatial_spectrum(frames))
        spectra["temporal"][name].append(temporal_spectrum(frames))
    return [truth, base, base_refined, refined]


def _static(case: Case, truth: Tensor, masks: Tensor) -> Tensor | None:
    """Where neither the true clip nor, if it is to do anything, the shape that was found moves; None if hardly anywhere."""
    seen = None
    if case.scene.shapes[0].motion != "still":
        seen = _sized((masks > 0).any(0)[None, ..., None].float(), truth.shape[2], truth.shape[1])[0, ..., 0] > 0
    region = measure.static_region(truth, seen)
    return region if region.float().mean() >= _LEAST_STATIC else None


def _base_row(cases: Sequence[Case], videos: Sequence[Tensor]) -> dict[str, float | None]:
    masks = [case.tracker(video) for case, video in zip(cases, videos, strict=True)]
    scored = list(zip(cases, videos, masks, strict=True))
    return {
        "frame 0 PSNR, dB": median(psnr(video[0], case.truth.frames[0]) for case, video, _ in scored),
        "as the prompt says, %": _percent([case.obeyed(mask) for case, _, mask in scored if case.measurable]),
        "last frame's IoU": median(case.kept(mask) for case, _, mask in scored),
        "PSNR to the true clip, dB": median(psnr(video, case.truth.frames) for case, video, _ in scored),
        "high-band distance, dB": median(measure.high_band(video, case.truth.frames) for case, video, _ in scored),
    }


def _refiner_row(
    made: Sequence[Tensor], truths: Sequence[Tensor], regions: Sequence[Tensor | None]
) -> dict[str, float | None]:
    pairs = list(zip(made, truths, strict=True))
    jitters = [255 * measure.jitter(m, region) for m, region in zip(made, regions, strict=True) if region is not None]
    return {
        "high-band distance, dB": median(measure.high_band(*pair) for pair in pairs),
        "PSNR to the true clip, dB": median(psnr(*pair) for pair in pairs),
        "static jitter, /255": median(jitters) if jitters else None,
    }


def _percent(obeyed: Sequence[bool]) -> float | None:
    return 100 * fmean(obeyed) if obeyed else None


def _through_vae(cascade: Cascade, frames: Tensor) -> Tensor:
    height, width = frames.shape[1:3]
    return _pictures(cascade, cascade.encode_video(frames, RefineOptions(width=width, height=height)))


def _pictures(cascade: Cascade, latent: Tensor) -> Tensor:
    return cascade.decode(latent).float().cpu()


def _sized(frames: Tensor, width: int, height: int) -> Tensor:
    """Repeats or drops pixels of frames [F, H, W, C]."""
    pixels = torch.nn.functional.interpolate(frames.movedim(-1, 1), (height, width), mode="nearest")
    return pixels.movedim(1, -1)


def _without_global(context: Tensor) -> Tensor:
    return torch.cat([context[:, :TEXT_TOKENS], context[:, _BEFORE_IMAGE:]], dim=1)


def _details(conditions: BaseConditions) -> Tensor:
    assert conditions.details is not None
    return conditions.details


def _check(seeds: Sequence[int]) -> None:
    if not seeds:
        raise InputError("the seeds", "at least one", "none", "Give a range whose end is above its start: 0:64.")
