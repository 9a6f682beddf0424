"""The evaluation of a cascade on held-out scenes: perfect videos get full marks, and wrong ones do not."""

import json
import math
import shutil
from dataclasses import replace

import pytest
import torch

from i2vgen_core.cascade import BaseConditions, Cascade
from i2vgen_core.errors import InputError
from i2vgen_core.media.captions import caption, short_prompt
from i2vgen_core.media.compare import psnr
from i2vgen_core.media.rendering import render
from i2vgen_core.media.spectrum import Spectrum, band_levels
from i2vgen_core.media.tables import plain_table
from i2vgen_core.media.world import TRAVEL, Shape, opposite, sample_scene
from i2vgen_core.parts import StageNetwork
from i2vgen_core.releases import RELEASES
from i2vgen_core.training import measure
from i2vgen_core.training.edits import recoloured, weighted_psnr
from i2vgen_core.training.evaluate import (
    ABLATIONS,
    CRITERIA,
    Case,
    ablations,
    evaluate,
    held_out_case,
    spectra_plot,
)
from i2vgen_core.training.figures import Criterion, Figure, Range, table

SEEDS = range(8)
UNPANNED = (1, 2, 3, 4, 6, 7)  # where the camera stands: jitter can be measured
SQUARE = Shape("square", "red", "flat", 0.2, 0.5, 0.5, 0.0, "right", "slowly")


def line(x, y, frames=16, fps=8):
    """A path with this displacement from the first to the last frame, in what "slowly" travels."""
    end = torch.tensor((x, y)) * TRAVEL["slowly"] * (frames - 1) / fps
    return 0.5 + torch.linspace(0, 1, frames)[:, None] * end


def case(seed):
    return held_out_case(seed, 128, 64, 16)


def noisy(frames, deviation, seed=0):
    noise = torch.randn(frames.shape, generator=torch.Generator().manual_seed(seed))
    return (frames + deviation * noise).clamp(0, 1)


# ---------------------------------------------------------------- measures, on what has known answers


def test_psnr():
    black = torch.zeros(2, 4, 4, 3)
    assert psnr(black, black + 0.1) == pytest.approx(20, abs=1e-4)
    assert psnr(black, black) == 100


def test_a_path_is_the_centre_of_its_mask():
    masks = torch.zeros(2, 64, 128)
    masks[0, 16:32, 32:64] = 0.7
    path = measure.path(masks)
    assert path[0].tolist() == pytest.approx([48 / 128, 24 / 64])
    assert path[1].isnan().all()


def test_displacement_bridges_lost_frames():
    path = line(1, -0.5)
    expected = path[-1] - path[0]
    path[[0, 7, 15]] = math.nan
    assert torch.allclose(measure.displacement(path), expected, atol=1e-6)
    path[[3, 4]] = math.nan
    assert measure.displacement(path) is None


@pytest.mark.parametrize("fps", [8, 16])
@pytest.mark.parametrize(
    ("motion", "x", "y", "obeyed"),
    [
        ("right", 1, 0, True),
        ("left", 1, 0, False),
        ("left", -0.3, 0, True),
        ("left", -0.2, 0, False),  # hardly moves
        ("up", 0, -2.4, True),
        ("down", 0, -2.4, False),
        ("right", 1, 1.9, True),  # in pixels 43.5 degrees: the picture is twice as wide as high
        ("right", 1, 2.1, False),
        ("still", 0.2, 0.1, True),
        ("still", 0.2, 0.2, False),
        ("still", -1, 0, False),
    ],
)
def test_moves_as_told(motion, x, y, obeyed, fps):
    shape = replace(SQUARE, motion=motion)
    assert measure.moves_as_told(line(x, y, fps=fps), shape, fps, aspect=2) == obeyed


def test_a_lost_shape_obeys_nothing():
    lost = torch.full((16, 2), math.nan)
    for motion in ("still", "left"):
        assert not measure.moves_as_told(lost, replace(SQUARE, motion=motion), 8, aspect=2)
    assert measure.speed_ratio(lost, line(1, 0)) == measure.speed_ratio(line(1, 0), lost) == 0
    assert not measure.grows_as_told(torch.zeros(16, 8, 8), replace(SQUARE, motion="growing"), 8)


def test_speed_ratio():
    assert measure.speed_ratio(line(1, 0, fps=8), line(1, 0, fps=16)) == pytest.approx(2, abs=1e-4)
    assert measure.speed_ratio(line(0, 0), line(0, 0)) == 0


@pytest.mark.parametrize("speed", ["slowly", "quickly"])
@pytest.mark.parametrize(("motion", "other"), [("growing", "shrinking"), ("shrinking", "growing")])
def test_grows_as_told(motion, other, speed):
    shape = replace(SQUARE, motion=motion, speed=speed)
    scene = replace(sample_scene(0), shapes=(shape,), pan=0.0)
    masks = render(scene, 128, 64, 16, 8).masks[:, 0]
    assert measure.grows_as_told(masks, shape, 8)
    assert not measure.grows_as_told(masks, replace(shape, motion=other), 8)
    assert not measure.grows_as_told(masks[:1].expand(16, -1, -1), shape, 8)


def test_overlap():
    a, b = torch.zeros(2, 10, 10, dtype=torch.bool)
    assert measure.overlap(a, b) == 0
    a[:, :6], b[:, 3:9] = True, True
    assert measure.overlap(a, b) == pytest.approx(1 / 3)


def test_jitter_of_what_stands_still():
    frames = torch.full((4, 40, 80, 3), 0.5)
    frames[1, 5, 5] += 0.1
    region = measure.static_region(frames)
    margin = 2  # a twentieth of the height
    assert not region[5 - margin : 6 + margin, 5 - margin : 6 + margin].any()
    assert region.sum() == 40 * 80 - (2 * margin + 1) ** 2
    frames[::2, 20:] += 0.01
    assert measure.jitter(frames, region) == pytest.approx(0.01 * (region[20:].sum() / region.sum()).item(), rel=1e-4)
    moving = torch.zeros(40, 80, dtype=torch.bool)
    moving[:, 40:] = True
    assert not measure.static_region(frames[:1], moving)[:, 38:].any()


def test_upsampling_keeps_a_ramp():
    ramp = torch.linspace(0.1, 0.9, 128)[:, None].expand(2, 64, 128, 3)
    large = measure.upsample(ramp, 288, 144)
    expected = 0.1 + 0.8 * ((torch.arange(288) + 0.5) * 128 / 288 - 0.5) / 127
    assert large.shape == (2, 144, 288, 3)
    assert torch.allclose(large[0, 70, 5:-5, 1], expected[5:-5], atol=1e-3)


def test_mean_spectrum_is_of_decibels():
    frequencies = torch.tensor((0.25, 0.5), dtype=torch.float64)
    spectra = [Spectrum(frequencies, torch.tensor(p, dtype=torch.float64)) for p in ((1e-2, 1e-4), (1e-4, 1e-4))]
    assert measure.mean_spectrum(spectra).power.tolist() == pytest.approx([1e-3, 1e-4])


# ---------------------------------------------------------------- the tracker


@pytest.mark.parametrize("seed", range(24))
@pytest.mark.slow
def test_the_tracker_finds_the_true_shape(seed):
    each = case(seed)
    truth = measure.path(each.truth.masks[:, 0])
    for frames, least in ((each.truth.frames, 0.8), (noisy(each.truth.frames * 0.95, 0.05), 0.75)):
        masks = each.tracker(frames)
        pixels = (measure.path(masks) - truth) * torch.tensor((128.0, 64.0))
        assert pixels.norm(dim=1).max() < 1
        assert each.kept(masks) > least
        if each.measurable:
            assert each.obeyed(masks)
        if each.scene.shapes[0].growth:
            assert measure.grows_as_told(masks, each.scene.shapes[0], each.truth.fps)


@pytest.mark.parametrize("seed", range(6))
def test_the_tracker_finds_nothing_where_there_is_nothing(seed):
    each = case(seed)
    noise = torch.rand(4, 64, 128, 3, generator=torch.Generator().manual_seed(seed))
    for frames in (torch.full_like(noise, 0.5), noise):
        assert each.kept(each.tracker(frames)) < 0.2
    assert not each.obeyed(each.tracker(torch.full_like(noise, 0.5)))


def test_a_turning_shape_is_compared_at_every_angle():
    scene = replace(sample_scene(0), shapes=(replace(SQUARE, kind="triangle", motion="clockwise"),), pan=0.0)
    each = Case(0, scene, render(scene, 128, 64, 16, 8))
    first, last = each.truth.masks[[0, -1], 0] > 0.5
    assert measure.overlap(first, last) < 0.8 and each.kept(first[None]) > 0.95
    assert each.kept(first[None].roll(12, 2)) < 0.6


# ---------------------------------------------------------------- figures


def test_a_range_holds_both_its_ends():
    assert 1.5 in Range(1.5, 2.6) and 2.6 in Range(1.5, 2.6) and 2.61 not in Range(1.5, 2.6)
    assert -40 in Range(high=-40) and -39.9 not in Range(high=-40)
    assert Range(22).words("dB") == "22 dB or more" and Range(high=-40).words("%") == "-40 % or less"
    assert Range(1.5, 2.6).words("") == "1.5 to 2.6"


@pytest.mark.parametrize(
    ("values", "verdict"), [((21, 30, 21), "miss"), ((22, 22, 22), "pass"), ((20, 28, 27), "aim"), ((), "not measured")]
)
def test_verdicts(values, verdict):
    figure = Figure(Criterion("", "dB", Range(22), Range(27)), values)
    assert figure.verdict == verdict
    assert Figure(Criterion("", "dB"), values).verdict == ""


def test_a_share_is_in_percent():
    figure = Figure(Criterion("", "%", Range(75), Range(95), share=True), (True, True, True, False))
    assert figure.value == 75 and figure.verdict == "pass"


def test_bars_and_aims_are_ranges_within_one_another():
    judged = [criterion for criterion in CRITERIA.values() if criterion.bar]
    assert len(judged) == 8
    for criterion in judged:
        for end in (criterion.aim.low, criterion.aim.high):
            assert end in criterion.bar


# ---------------------------------------------------------------- whole evaluations


class Oracle:
    """A cascade that knows the truth; latents are the pictures themselves. Its base flickers, so that there is something
    to refine."""

    base = StageNetwork(None, replace(RELEASES["i2vgen_xl"], width=128, height=64), object())
    refiner = StageNetwork(None, replace(RELEASES["vid2vid_xl"], width=288, height=144))

    def __init__(self, seeds=SEEDS):
        scenes = {seed: sample_scene(seed, "held_out") for seed in seeds}
        self.scenes = {(seed, caption(scene, seed)): scene for seed, scene in scenes.items()}
        for seed, scene in scenes.items():
            if any(scene.shapes[0].velocity):
                self.scenes[seed, caption(opposite(scene), seed)] = opposite(scene)
        self.refined = {seed: case(seed).scene for seed in seeds}
        self.seen = []

    def condition(self, image, prompt, options):
        self.clip = self.video(self.scenes[options.seed, prompt], options.fps)
        assert torch.equal(image, render(self.scenes[options.seed, prompt], 128, 64, 1, 8).frames)
        tokens = torch.arange(145.0)[None, :, None]
        return BaseConditions(tokens, -tokens, torch.tensor([options.fps]), torch.ones(16, 4, 8, 16), (16, 4, 8, 16))

    def sample_base(self, conditions, options):
        self.seen.append(conditions)
        return noisy(self.clip, 0.01, options.seed)

    def video(self, scene, fps):
        return render(scene, 128, 64, 16, fps).frames

    def decode(self, latent):
        return latent

    def encode_video(self, images, options):
        return images

    def sample_refiner(self, latent, prompt, options):
        assert latent.shape == (16, 144, 288, 3) and prompt == short_prompt(self.refined[options.seed])
        return held_out_case(options.seed, 288, 144, 16).truth.frames


class Frozen(Oracle):
    """Its videos are the given image, and its refiner does nothing."""

    def video(self, scene, fps):
        return super().video(scene, fps)[:1].expand(16, -1, -1, -1)

    def sample_refiner(self, latent, prompt, options):
        return latent


class Reversed(Oracle):
    """Its videos run backwards, and its refiner makes noise."""

    def video(self, scene, fps):
        return super().video(scene, fps).flip(0)

    def sample_refiner(self, latent, prompt, options):
        return noisy(latent, 0.1)


class Deaf(Oracle):
    """It shows what its scene does whatever it is told, and always at 8 frames a second."""

    def video(self, scene, fps):
        seed = next(seed for (seed, _), known in self.scenes.items() if known == scene)
        return super().video(self.refined[seed], 8)


class Noise(Oracle):
    """Nothing is to be seen."""

    def video(self, scene, fps):
        return torch.rand(16, 64, 128, 3, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def perfect():
    return evaluate(Oracle(), SEEDS, refined=2)


@pytest.mark.slow
def test_a_perfect_cascade_reaches_every_aim(perfect):
    judged = {name: figure.verdict for name, figure in perfect.figures.items() if figure.criterion.bar}
    assert judged == dict.fromkeys(judged, "aim") and perfect.missed == []
    value = {name: figure.value for name, figure in perfect.figures.items()}
    assert value["direction"] == value["opposites"] == value["growth"] == 100
    assert value["speed"] == pytest.approx(2, abs=0.05)
    assert value["kept"] > 0.9
    assert value["refiner_high_band"] == value["refiner_jitter"] == -100
    assert value["vae_frame_0"] == 100 and value["vae_high_band"] == -100  # the oracle's VAE loses nothing
    assert len(perfect.figures["frame_0"].values) == len(SEEDS) and len(perfect.figures["refiner_psnr"].values) == 2


@pytest.mark.parametrize(
    ("kind", "refined", "missed"),
    [
        (Frozen, 1, {"direction", "opposites", "speed", "refiner_high_band", "refiner_jitter"}),
        (Reversed, 1, {"direction", "opposites", "refiner_high_band", "refiner_psnr", "refiner_jitter", "frame_0"}),
        (Deaf, 0, {"opposites", "speed"}),
        (Noise, 0, {"frame_0", "direction", "opposites", "speed", "kept"}),
    ],
)
@pytest.mark.slow
def test_wrong_cascades_miss_their_bars(kind, refined, missed):
    evaluation = evaluate(kind(), UNPANNED, refined=refined)
    assert missed <= set(evaluation.missed)
    if kind is Deaf:
        assert missed == set(evaluation.missed)


@pytest.mark.slow
def test_what_is_reported(perfect):
    text = table(perfect.figures)
    assert len(text.splitlines()) == 2 + len(CRITERIA)
    assert "| the shape moves, or stays, as the prompt says | 100.0 % | 85 % or more | 97 % or more | aim |" in text
    report = json.loads(json.dumps(perfect.json(), allow_nan=False))
    assert report["figures"]["direction"]["value"] == 100 and report["figures"]["growth"]["bar"] is None
    levels = report["bands"]["spatial high, dB"]
    assert levels["refined"] == levels["true"] and abs(levels["base"] - levels["true"]) > 3
    assert plain_table(band_levels(perfect.spectra)).splitlines()[0] == "| | base | refined | true |"
    assert perfect.sheet.shape == ((2 * 4 + 2 * 2) * 144, 8 * 288, 3)
    assert spectra_plot(perfect.spectra).shape[2] == 3


@pytest.mark.slow
def test_the_base_alone():
    evaluation = evaluate(Oracle(), range(2), refined=0)
    assert evaluation.figures["refiner_psnr"].verdict == "not measured" and evaluation.missed == []
    assert evaluation.spectra == {} and evaluation.sheet.shape == (4 * 64, 8 * 128, 3)
    with pytest.raises(InputError, match="at least one"):
        evaluate(Oracle(), range(0))


def test_ablations_change_what_the_base_reads():
    oracle = Oracle((1, 2))
    tables = ablations(oracle, (1, 2), refined=1)
    assert list(tables["base"]) == list(ABLATIONS)
    shipped, no_global, no_image, no_details, once = oracle.seen[::2]
    text, tokens, image = range(77), range(77, 141), range(141, 145)
    assert shipped.positive.flatten().tolist() == [*text, *tokens, *image]
    assert no_global.positive.flatten().tolist() == [*text, *image]
    assert no_global.negative.flatten().tolist() == [-float(t) for t in (*text, *image)]
    assert no_image.positive.flatten().tolist() == [*text, *tokens, *(-float(t) for t in image)]
    assert torch.equal(no_image.negative, shipped.negative)
    assert no_details.details.unique().tolist() == [0] and once.details.unique().tolist() == [0.5]
    refiner = tables["refiner"]
    assert len(refiner) == 2 * (1 + 4)
    assert refiner["true clip, enlarged"]["static jitter, /255"] == 0 < refiner["base, enlarged"]["static jitter, /255"]
    assert refiner["base, refined from level 600"]["high-band distance, dB"] == 0
    lines = plain_table(refiner).splitlines()
    assert lines[1] == "|---|---|---|---|" and len(lines) == 12


def test_a_base_without_a_global_encoder_has_nothing_to_leave_out():
    oracle = Oracle(range(1))
    oracle.base = replace(oracle.base, global_encoder=None)
    with pytest.raises(InputError, match="i2vgen_xl"):
        ablations(oracle, range(1))


@pytest.mark.slow
def test_a_real_cascade(bundles, tmp_path):
    """With made-up weights: everything runs at the settings that the bundle comes with, and nothing is reached."""
    folder = tmp_path / "bundle"
    shutil.copytree(bundles(), folder)
    for part, release in (
        ("unet", {"width": 64, "height": 64, "frames": 8, "fps": 8, "steps": 1, "guidance": 1}),
        ("refiner", {"width": 72, "height": 72, "steps": 1, "guidance": 1}),
    ):
        file = folder / part / "config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), "release": release}))
    cascade = Cascade(folder)
    seeds = [next(seed for seed in range(9) if any(case(seed).scene.shapes[0].velocity))]
    evaluation = evaluate(cascade, seeds, refined=1)
    assert {"frame_0", "kept", "refiner_psnr"} <= set(evaluation.missed)
    assert evaluation.sheet.shape == (4 * 72, 8 * 72, 3)
    assert ablations(cascade, seeds, refined=0).keys() == {"base"}


# ---------------------------------------------------------------- edits by the first frame


def test_a_recoloured_scene_differs_in_the_main_shapes_colour_alone():
    for seed in range(8):
        scene = sample_scene(seed, split="held_out")
        other = recoloured(scene)
        assert other.shapes[0].colour not in {shape.colour for shape in scene.shapes}
        assert replace(other, shapes=scene.shapes) == scene
        assert replace(other.shapes[0], colour=scene.shapes[0].colour) == scene.shapes[0]


def test_psnr_where_the_weights_are():
    truth, weights = torch.zeros(1, 2, 2, 3), torch.zeros(1, 2, 2)
    frames = truth.clone()
    frames[0, 0, 0], weights[0, 0, 0] = 0.1, 1.0
    assert weighted_psnr(frames, truth, weights) == pytest.approx(20)
    assert weighted_psnr(frames, truth, 1 - weights) == pytest.approx(100)
