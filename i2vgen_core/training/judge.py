"""What a cascade makes of the world of emoji: of scenes, emoji and photographs that training has not seen.

`evaluate --data FOLDER` prints the figures beside their bars and aims.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count, islice
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor
from torch.nn import functional

from ..cascade import Cascade
from ..media.compare import psnr
from ..media.images import luma
from ..media.spectrum import Spectrum, spatial_spectrum, temporal_spectrum
from ..media.video import contact_sheet
from ..sampling.options import BaseOptions, RefineOptions
from . import measure
from .alive import MOVES, OPPOSITES, TRAVEL, Alive, Clip, Scene, caption, opposite, render, subject
from .evaluate import mean_spectra
from .figures import Criterion, Evaluation, Figure, Range

logger = logging.getLogger("i2vgen_xl")

CRITERIA: dict[str, Criterion] = {
    "vae": Criterion("VAE alone, held-out pictures, PSNR", "dB", Range(30), Range(33)),
    "vae_ssim": Criterion("the same, SSIM", "", Range(0.92), Range(0.95)),
    "vae_photos": Criterion("VAE alone, held-out photographs, PSNR", "dB"),
    "frame_0": Criterion("frame 0 against the given picture, PSNR", "dB", Range(27), Range(29)),
    "clip": Criterion("whole clip against the truth, where it is determined, PSNR", "dB", Range(24), Range(27)),
    "clip_ssim": Criterion("the same, SSIM", "", Range(0.85), Range(0.90)),
    "still": Criterion("the first picture repeated, against the truth, PSNR", "dB"),
    "kept": Criterion("the thing in the last frame, IoU with the truth", "", Range(0.80), Range(0.90)),
    "ground": Criterion("ground that stands still: mean error", "/255", Range(high=3), Range(high=2)),
    "flicker": Criterion(
        "ground that stands still: change from frame to frame", "/255", Range(high=1), Range(high=0.5)
    ),
    "direction": Criterion("whole moves go where the prompt says", "%", Range(95), Range(99), share=True),
    "opposites": Criterion("both of two opposite prompts are obeyed", "%", Range(90), Range(97), share=True),
    "own": Criterion("own motion: nearer to its clip than to others", "%", Range(80), Range(95), share=True),
    "photos": Criterion("a camera over held-out photographs, PSNR", "dB", Range(22), Range(25)),
    "few_steps": Criterion(
        "4 steps of dpmpp_2m against 20 of the same, PSNR of the clip", "dB", Range(-0.5), Range(-0.2)
    ),
    "refined": Criterion("base refined against base enlarged, PSNR", "dB", Range(0), Range(1)),
    "refined_band": Criterion("the same, high-band distance", "%", Range(high=-50), Range(high=-70)),
    "refined_true": Criterion("true clip enlarged and refined, PSNR against its input's", "dB", Range(-1.5), Range(0)),
}
"""By short names; the order is that of the table."""

_DIFFERS = 0.12  # of a colour channel, for a pixel not to be ground
_WINDOW = 7  # pixels, of SSIM
_C1, _C2 = 0.01**2, 0.03**2
_FPS = 8.0
_COLUMNS = 6  # of the sheet
_FEW_STEPS = 4  # scenes that are sampled in few steps
_SEED = 999  # of scenes that no recipe draws

Case = TypeVar("Case")


@dataclass(frozen=True)
class Trial:
    """A scene to be tried.

    Attributes:
        number: of the scene, the wording and the noise.
        scene: what is to happen.
        world: where its pictures are from.
        truth: the true clip, of the base's size.
        ground: the same without its things, [F, H, W, 3].
    """

    number: int
    scene: Scene
    world: Alive
    truth: Clip
    ground: Tensor

    @property
    def prompt(self) -> str:
        """The base's."""
        return caption(self.world.emoji, self.scene, self.number)

    def other(self, scene: Scene) -> Trial:
        """The same first frame and wording where something else happens."""
        frames, height, width = self.truth.frames.shape[:3]
        return trial(self.world, self.number, scene, (width, height), frames)

    def shows(self, frames: Tensor) -> Tensor:
        """Where there is no ground in frames, [F, H, W] of bool."""
        return (frames - self.ground).abs().amax(-1) > _DIFFERS


def trial(world: Alive, number: int, scene: Scene, size: tuple[int, int], frames: int) -> Trial:
    """A trial with its truth."""
    truth = render(world.emoji, scene, *size, frames, _FPS, world.photos)
    ground = render(world.emoji, replace(scene, things=()), *size, frames, _FPS, world.photos).frames
    return Trial(number, scene, world, truth, ground)


def whole_moves(world: Alive) -> Iterator[tuple[int, Scene]]:
    """Held-out scenes of one thing that moves as a whole, or stands still, before a ground that does."""
    for number in count():
        scene = world.scene(number)
        if len(scene.things) == 1 and scene.determined and scene.camera == "still":
            yield number, scene


def own_motions(world: Alive) -> Iterator[tuple[int, Scene]]:
    """Scenes of one thing that lives where it is: of a known kind, in a tone or before a ground that is new."""
    for number in count():
        scene = world.scene(number)
        if len(scene.things) == 1 and scene.things[0].alive and scene.things[0].move == scene.camera == "still":
            yield number, scene


def photographs(world: Alive) -> Iterator[tuple[int, Scene]]:
    """Scenes of a camera that moves over a held-out photograph; none where there is none."""
    if world.photos is None or not world.photos.count(world.split):
        return
    for number in count():
        scene = world.scene(number)
        if not scene.things and scene.camera != "still":
            yield number, scene


def ssim(a: Tensor, b: Tensor) -> float:
    """Structural similarity of the luma of two videos [F, H, W, 3] in 0..1: 1 where they are the same.

    Wang et al. 2004, with a window of 7x7 pixels of even weight.
    """
    x, y = (luma(frames)[:, None] for frames in (a, b))

    def mean(values: Tensor) -> Tensor:
        return functional.avg_pool2d(values, _WINDOW, 1)

    x_mean, y_mean = mean(x), mean(y)
    x_variance, y_variance = mean(x * x) - x_mean**2, mean(y * y) - y_mean**2
    covariance = mean(x * y) - x_mean * y_mean
    similar = (2 * x_mean * y_mean + _C1) * (2 * covariance + _C2)
    similar /= (x_mean**2 + y_mean**2 + _C1) * (x_variance + y_variance + _C2)
    return similar.mean().item()


def _picked(cases: Iterable[Case], seeds: Sequence[int]) -> Iterable[Case]:
    """The cases of these numbers."""
    return islice(cases, seeds[0], seeds[-1] + 1) if seeds else ()


def moves_as_told(shown: Tensor, scene: Scene) -> bool:
    """Whether the main thing goes where it is told: within 45 degrees, a quarter as far as "slowly" or more; one that is to
    stay where it is, less far.

    Args:
        shown: where the thing is, [F, H, W] of bool.
        scene: of one thing.
    """
    height, width = shown.shape[1:]
    moved = measure.displacement(measure.path(shown.float()))
    if moved is None:
        return False
    moved = moved * torch.tensor((width / height, 1.0))
    wanted = torch.tensor(scene.things[0].velocity)
    moves = moved.norm().item() >= TRAVEL["slowly"] * (len(shown) - 1) / _FPS / 4
    if not wanted.norm():
        return not moves
    return moves and functional.cosine_similarity(moved, wanted, dim=0).item() >= 0.5**0.5


def judge(
    cascade: Cascade, data: Path, seeds: range = range(24), *, refined: int = 0, base: BaseOptions | None = None
) -> Evaluation:
    """Tries a cascade on the held-out part of a prepared folder, at the sizes that it comes with.

    Args:
        cascade: the model to be tried.
        data: the folder, see training.prepare.
        seeds: which of the scenes that move as a whole, and which pictures for the VAE alone; half as many scenes of own
            motion and a quarter as many photographs are tried too.
        refined: how many of them, the first ones, are refined; 0 tries the base alone.
        base: steps, guidance, solver and acceleration of the base.

    Raises:
        InputError: a part of the model is missing, or the folder is no such one.
    """
    tried = Judge(cascade, Alive.at(data, _SEED, "held_out"), Alive.at(data, _SEED, "train"), base)
    tried.vae(seeds)
    tried.base(seeds, _share(seeds, 2), _share(seeds, 4))
    tried.refiner(range(seeds.start, min(seeds.start + refined, seeds.stop)))
    return Evaluation(tried.figures, mean_spectra(tried.spectra), tried.sheet())


def _share(seeds: range, part: int) -> range:
    return range(seeds.start // part, -(-seeds.stop // part))


class Judge:
    """Measures a cascade.

    Args:
        cascade: the model.
        world: the held-out split of a prepared folder.
        known: the training split, of other scenes than those that were trained on, for motions that cannot be guessed.
        base: steps and guidance of the base.
    """

    def __init__(self, cascade: Cascade, world: Alive, known: Alive, base: BaseOptions | None = None):
        self.cascade, self.world, self.known = cascade, world, known
        release = cascade.base.release
        self.size = release.width, release.height
        self.frames = release.frames
        self.options = base or BaseOptions()
        self.scores: dict[str, list[float]] = defaultdict(list)
        self.spectra: dict[str, dict[str, list[Spectrum]]] = {
            "spatial": defaultdict(list),
            "temporal": defaultdict(list),
        }
        self.rows: list[Tensor] = []

    @property
    def figures(self) -> dict[str, Figure]:
        """What has been measured."""
        return {name: Figure(c, tuple(self.scores[name])) for name, c in CRITERIA.items() if self.scores[name]}

    @torch.no_grad()
    def vae(self, pictures: range) -> None:
        """The VAE alone, on pictures of held-out emoji and half as many of photographs."""
        for name, seeds, things in (("vae", pictures, True), ("vae_photos", _share(pictures, 2), False)):
            if not things and not (self.world.photos and self.world.photos.count(self.world.split)):
                continue
            drawn = (number for number in count() if bool(self.world.scene(number).things) == things)
            for number in _picked(drawn, seeds):
                picture = self.world.picture(number, *self.size)[None]
                decoded = self._decoded(self.cascade.vae.encode(picture))
                self.scores[name].append(psnr(picture, decoded))
                if things:
                    self.scores["vae_ssim"].append(ssim(picture, decoded))

    def base(self, whole: range, own: range, photos: range) -> None:
        """The base, on scenes of each sort."""
        for index, (number, scene) in enumerate(_picked(whole_moves(self.world), whole)):
            self._whole_move(trial(self.world, number, scene, self.size, self.frames))
            logger.info("whole moves: %d of %d", index + 1, len(whole))
        for index, (number, scene) in enumerate(_picked(own_motions(self.known), own)):
            self._own_motion(trial(self.known, number, scene, self.size, self.frames))
            logger.info("own motions: %d of %d", index + 1, len(own))
        for number, scene in _picked(photographs(self.world), photos):
            case = trial(self.world, number, scene, self.size, self.frames)
            video = self.video(case)
            self.scores["photos"].append(psnr(video, case.truth.frames))
            self.rows += [case.truth.frames, video]

    def refiner(self, scenes: range) -> None:
        """The refiner, on scenes that move as a whole."""
        for index, (number, scene) in enumerate(_picked(whole_moves(self.world), scenes)):
            release = self.cascade.refiner.release
            size = release.width, release.height
            case = trial(self.world, number, scene, self.size, self.frames)
            truth = trial(self.world, number, scene, size, self.frames).truth.frames
            prompt = subject(self.world.emoji, scene)
            for name, frames in (("refined", self.video(case)), ("refined_true", case.truth.frames)):
                enlarged = measure.upsample(frames, *size)
                options = RefineOptions(seed=number)
                latent = self.cascade.encode_video(enlarged, options)
                refined = self._decoded(self.cascade.sample_refiner(latent, prompt, options))
                self.scores[name].append(psnr(refined, truth) - psnr(enlarged, truth))
                if name == "refined":
                    before = measure.high_band(enlarged, truth)
                    self.scores["refined_band"].append(100 * (measure.high_band(refined, truth) / before - 1))
                    for kind, video in (("base", enlarged), ("refined", refined), ("true", truth)):
                        self.spectra["spatial"][kind].append(spatial_spectrum(video))
                        self.spectra["temporal"][kind].append(temporal_spectrum(video))
                    self.rows += [truth, refined]
            logger.info("refined: %d of %d", index + 1, len(scenes))

    def video(self, case: Trial, options: BaseOptions | None = None) -> Tensor:
        """The base's video of a trial, [F, H, W, 3]."""
        width, height = self.size
        options = replace(options or self.options, width=width, height=height, fps=_FPS, seed=case.number)
        conditions = self.cascade.condition(case.truth.frames[:1], case.prompt, options)
        return self._decoded(self.cascade.sample_base(conditions, options))

    def sheet(self) -> Tensor:
        """Moments of what has been tried, each true clip above the base's, then above that refined: a picture [H, W, 3]."""
        moments = torch.linspace(0, self.frames - 1, _COLUMNS).long()
        height, width = max(row.shape[1:3] for row in self.rows)
        rows = (row[moments] for row in self.rows)
        same = [row if row.shape[1] == height else measure.upsample(row, width, height) for row in rows]
        return contact_sheet(torch.cat(same), _COLUMNS)

    def _whole_move(self, case: Trial) -> None:
        video, truth, scores = self.video(case), case.truth.frames, self.scores
        self.rows += [truth, video]
        scores["frame_0"].append(psnr(video[0], truth[0]))
        scores["clip"].append(psnr(video, truth))
        scores["clip_ssim"].append(ssim(video, truth))
        scores["still"].append(psnr(truth[:1].expand_as(truth), truth))
        shown = case.shows(video)
        scores["kept"].append(measure.overlap(shown[-1], case.shows(truth)[-1]))
        still = measure.static_region(truth, case.truth.masks.amax((0, 1)) > 0)
        if still.any():
            scores["ground"].append(255 * (video - truth)[:, still].abs().mean().item())
            scores["flicker"].append(255 * measure.jitter(video, still))
        move = case.scene.things[0].move
        if move in MOVES[:5]:
            obeyed = moves_as_told(shown, case.scene)
            scores["direction"].append(obeyed)
            if obeyed and move in OPPOSITES:
                other = case.other(opposite(case.scene))
                obeyed = moves_as_told(other.shows(self.video(other)), other.scene)
            if move in OPPOSITES:
                scores["opposites"].append(obeyed)
        if len(scores["few_steps"]) < _FEW_STEPS:
            few, many = (replace(self.options, steps=steps, solver="dpmpp_2m") for steps in (4, 20))
            scores["few_steps"].append(psnr(self.video(case, few), truth) - psnr(self.video(case, many), truth))

    def _own_motion(self, case: Trial) -> None:
        video, truth = self.video(case), case.truth.frames
        self.rows += [truth, video]
        thing = case.scene.things[0]
        moves = case.other(replace(case.scene, things=(replace(thing, alive=False, move="left"),))).truth.frames
        others = [truth[:1].expand_as(truth), moves]
        self.scores["own"].append(psnr(video, truth) > max(psnr(video, other) for other in others))

    def _decoded(self, latent: Tensor) -> Tensor:
        return self.cascade.decode(latent, frames_per_batch=4).float().cpu()
