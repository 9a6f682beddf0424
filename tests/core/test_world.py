"""The synthetic world: the same everywhere, true to its captions, and split so that held-out scenes stay unseen."""

import itertools
import math
from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from i2vgen_core.errors import InputError
from i2vgen_core.media.captions import caption, short_prompt
from i2vgen_core.media.rendering import render
from i2vgen_core.media.world import (
    COLOURS,
    DURATION,
    GROWTH,
    KINDS,
    LEVELS,
    MOTIONS,
    OPPOSITES,
    TRAVEL,
    TURN,
    Background,
    Scene,
    Shape,
    held_out,
    opposite,
    sample_scene,
)

PLAIN = Background("plain", ("navy", "navy"), 0.0, 0.3, (0.0, 0.0))
CIRCLE = Shape("circle", "red", "flat", 0.2, 0.5, 0.5, 0.0, "still", "slowly")
COMBINATIONS = set(itertools.product(COLOURS, KINDS, MOTIONS))
WORDS = {
    "left": {"left", "leftwards"},
    "right": {"right", "rightwards"},
    "up": {"up", "upwards", "top"},
    "down": {"down", "downwards", "bottom"},
    "clockwise": {"clockwise"},
    "anticlockwise": {"anticlockwise"},
    "growing": {"grows", "growing", "bigger", "expands", "expanding"},
    "shrinking": {"shrinks", "shrinking", "smaller", "contracts", "contracting"},
    "still": {"still", "rests", "resting", "not"},
    "slowly": {"slowly", "gently", "slow"},
    "quickly": {"quickly", "swiftly", "fast"},
}


def words(text):
    return set(text.lower().replace(",", "").replace(".", "").split())


def named(text, names):
    """Which of these a text names."""
    return {name for name in names if words(text) & WORDS[name]}


def psnr(a, b):
    return -10 * (a - b).square().mean().log10().item()


def centroids(mask):
    """[F, 2] x and y in pixels, of a mask [F, H, W]."""
    y, x = torch.arange(mask.shape[1]) + 0.5, torch.arange(mask.shape[2]) + 0.5
    return torch.stack(((mask.sum(1) * x).sum(1), (mask.sum(2) * y).sum(1)), dim=1) / mask.sum((1, 2))[:, None]


def inside(mask):
    """Which frames of a mask [F, H, W] have nothing of it at the picture's edge."""
    return mask[:, [0, -1]].amax((1, 2)) + mask[:, :, [0, -1]].amax((1, 2)) == 0


def test_the_same_seed_gives_the_same_clip():
    for split, level in itertools.product(("train", "held_out"), LEVELS):
        scene = sample_scene(5, split, level)
        assert scene == sample_scene(5, split, level)
        first, second = (render(scene, 128, 64, 4, 8) for _ in range(2))
        assert torch.equal(first.frames, second.frames) and torch.equal(first.masks, second.masks)
        assert caption(scene, 3) == caption(scene, 3)
    scenes = {sample_scene(seed, split) for seed in range(50) for split in ("train", "held_out")}
    assert len(scenes) == 100


def test_a_seed_means_the_same_scene_on_every_machine():
    scene = sample_scene(6, "held_out")
    assert caption(scene, 6) == "A video of a yellow ring sliding left swiftly."
    assert (scene.shapes[0].x, scene.shapes[0].y) == pytest.approx((0.5969763593723185, 0.32317155918111445))


@pytest.mark.parametrize("seed", range(12))
def test_every_size_shows_the_same_clip(seed):
    scene = sample_scene(seed)
    base, refined = render(scene, 128, 64, 4, 4), render(scene, 288, 144, 4, 4)
    assert base.frames.shape == (4, 64, 128, 3) and base.frames.dtype == torch.float32
    assert base.masks.shape == (4, len(scene.shapes), 64, 128)
    for clip in (base, refined):
        assert clip.frames.min() >= 0 and clip.frames.max() <= 1
    assert torch.equal(base.positions, refined.positions)
    smaller = functional.interpolate(refined.frames.movedim(-1, 1), (64, 128), mode="bicubic", antialias=True)
    assert psnr(smaller.movedim(1, -1), base.frames) > 38  # one pixel of displacement gives 20 to 30
    masks = functional.interpolate(refined.masks, (64, 128), mode="bicubic", antialias=True)
    assert psnr(masks, base.masks) > 38


@pytest.mark.parametrize("seed", range(16))
def test_positions_are_the_centroids_of_the_masks(seed):
    scene = sample_scene(seed)
    clip = render(scene, 128, 64, 16, 8)
    for index in range(len(scene.shapes)):
        whole = inside(clip.masks[:, index])
        assert whole[0]
        expected = clip.positions[whole, index] * torch.tensor((128.0, 64.0))
        assert (centroids(clip.masks[whole, index]) - expected).abs().max() < 0.1


@pytest.mark.parametrize("seed", range(8))
def test_speed_is_per_second(seed):
    scene = sample_scene(seed)
    slow, fast = render(scene, 128, 64, 8, 8), render(scene, 128, 64, 16, 16)
    assert torch.equal(slow.frames, fast.frames[::2])
    assert torch.allclose(slow.positions.diff(dim=0), 2 * fast.positions.diff(dim=0)[:7], atol=1e-6)


@pytest.mark.parametrize("speed", TRAVEL)
@pytest.mark.parametrize(
    ("motion", "x", "y"), [("left", -1, 0), ("right", 1, 0), ("up", 0, -1), ("down", 0, 1), ("still", 0, 0)]
)
def test_travel(motion, x, y, speed):
    clip = render(Scene((replace(CIRCLE, motion=motion, speed=speed),), PLAIN), 128, 64, 2, 1)
    moved = centroids(clip.masks[:, 0]).diff(dim=0)[0]
    expected = torch.tensor((x * 128.0, y * 64.0)) * TRAVEL[speed]
    assert (moved - expected).abs().max() < 0.05


@pytest.mark.parametrize("speed", TURN)
@pytest.mark.parametrize(("motion", "sign"), [("clockwise", 1), ("anticlockwise", -1)])
def test_turning(motion, sign, speed):
    star = replace(CIRCLE, kind="star", texture="striped", motion=motion, speed=speed)
    turned = render(Scene((star,), PLAIN), 128, 64, 2, 2).frames[1]
    still = replace(star, motion="still", angle=sign * TURN[speed] / 2)
    assert torch.allclose(turned, render(Scene((still,), PLAIN), 128, 64, 1, 2).frames[0], atol=1e-4)


def test_angles_are_clockwise():
    triangle = replace(CIRCLE, kind="triangle", angle=90.0)  # upright it points up; now it points to the right
    columns = render(Scene((triangle,), PLAIN), 128, 64, 1, 8).masks[0, 0].sum(0).nonzero().flatten() - 63.5
    assert columns.max() > 1.5 * -columns.min()


@pytest.mark.parametrize("speed", GROWTH)
@pytest.mark.parametrize(("motion", "sign"), [("growing", 1), ("shrinking", -1)])
def test_growth(motion, sign, speed):
    clip = render(Scene((replace(CIRCLE, motion=motion, speed=speed),), PLAIN), 288, 144, 2, 1)
    before, after = clip.masks[:, 0].sum((1, 2))
    assert after / before == pytest.approx(math.exp(2 * sign * GROWTH[speed]), rel=0.01)


@pytest.mark.parametrize("pattern", ["stripes", "checks", "dots", "gradient"])
def test_a_pan_moves_the_whole_picture(pattern):
    background = Background(pattern, ("mint", "lavender"), 30.0, 0.3, (0.2, 0.7))
    clip = render(Scene((CIRCLE,), background, pan=0.05), 128, 64, 3, 6.4)  # one pixel a frame
    assert torch.allclose(clip.frames[1:, :, :-1], clip.frames[:-1, :, 1:], atol=1e-3)
    assert (clip.frames[1:] - clip.frames[:-1]).abs().amax((1, 2, 3)).min() > 0.002
    assert torch.allclose(clip.positions[:, 0, 0], 0.5 - torch.arange(3) / 128)


@pytest.mark.parametrize("seed", range(40))
def test_the_main_shape_stays_in_sight_and_alone(seed):
    scene = sample_scene(seed)
    for each in (scene, opposite(scene)) if scene.shapes[0].motion in OPPOSITES else (scene,):
        main = each.shapes[0]
        masks = render(each, 128, 64, 16, 8).masks
        whole = render(Scene((replace(main, x=0.5, y=0.5, motion="still"),), PLAIN), 128, 64, 1, 8).masks.sum()
        times = torch.linspace(0, DURATION, 16)
        assert (masks[:, 0].sum((1, 2)) / (whole * torch.exp(2 * main.growth * times))).min() > 0.75
        if len(each.shapes) == 2:
            assert (masks[:, 0] * masks[:, 1]).max() == 0
            alone = render(Scene(each.shapes[1:], PLAIN, each.pan), 128, 64, 16, 8).masks
            assert torch.equal(masks[:, 1], alone[:, 0])


def test_the_main_shape_is_in_front():
    behind = replace(CIRCLE, kind="square", colour="white", size=0.3)
    clip = render(Scene((CIRCLE, behind), PLAIN), 128, 64, 1, 8)
    assert torch.equal(clip.masks[:, :1], render(Scene((CIRCLE,), PLAIN), 128, 64, 1, 8).masks)
    assert clip.masks[0, 1, 32, 64] == 0 and clip.masks.sum(1).max() <= 1 + 1e-6
    assert torch.allclose(clip.frames[0, 32, 64], torch.tensor(COLOURS["red"]))


def test_a_shape_outside_the_picture():
    clip = render(Scene((replace(CIRCLE, x=2.0),), PLAIN), 128, 64, 2, 8)
    assert clip.masks.max() == 0 and torch.allclose(clip.positions[:, 0, 0], torch.tensor(2.0))


@pytest.mark.parametrize(("width", "height"), [(128, 64), (288, 144), (64, 64)])
def test_edges_are_anti_aliased(width, height):
    mask = render(Scene((CIRCLE,), PLAIN), width, height, 1, 8).masks[0, 0]
    radius = 0.2 * min(height, width / 2)
    assert mask.sum() == pytest.approx(math.pi * radius**2, abs=0.5)
    # An edge of one pixel's width: about its length in pixels are between, and no others.
    between = ((mask > 0) & (mask < 1)).sum()
    assert 0.8 < between / (2 * math.pi * radius) < 1.5
    assert len(mask[(mask > 0) & (mask < 1)].unique()) > 3


@pytest.mark.parametrize("kind", KINDS)
def test_kinds_differ_in_outline_but_little_in_area(kind):
    masks = {k: render(Scene((replace(CIRCLE, kind=k),), PLAIN), 288, 144, 1, 8).masks for k in KINDS}
    assert masks[kind].sum().item() == pytest.approx(masks["circle"].sum().item(), rel=0.2)
    for other in set(KINDS) - {kind}:
        assert torch.minimum(masks[kind], masks[other]).sum() / torch.maximum(masks[kind], masks[other]).sum() < 0.85


@pytest.mark.parametrize("level", LEVELS)
def test_captions_name_the_truth(level):
    seen = set()
    for seed in range(200):
        scene = sample_scene(seed, level=level)
        text = caption(scene, seed)
        seen.add(text)
        assert text[0].isupper() and text.endswith(".")
        camera = text.find("camera")
        assert (camera >= 0) == (scene.pan != 0)
        if scene.pan:
            assert named(text[camera:], ("left", "right")) == {"right" if scene.pan > 0 else "left"}
            text = text[:camera]
        nouns = [f"{shape.colour} {shape.kind}" for shape in scene.shapes]
        assert short_prompt(scene).count(" and ") == len(nouns) - 1
        starts = [text.lower().index(noun) for noun in nouns]
        assert starts == sorted(starts)
        for shape, noun, start, end in zip(scene.shapes, nouns, starts, [*starts[1:], len(text)], strict=True):
            assert noun in short_prompt(scene)
            assert named(text[start:end], MOTIONS) == {shape.motion}
            assert named(text[start:end], TRAVEL) == ({shape.speed} if shape.motion != "still" else set())
        if "background" in text:
            assert scene.background.colours[0] in words(text)
        assert not words(text) & (set(COLOURS) - {shape.colour for shape in scene.shapes})
    assert len(seen) > 150


def test_wording_varies():
    scene = Scene((replace(CIRCLE, motion="left"),), PLAIN)
    assert len({caption(scene, seed) for seed in range(400)}) > 150


@pytest.mark.parametrize("seed", range(40))
def test_the_opposite_starts_with_the_same_picture(seed):
    scene = sample_scene(seed)
    if scene.shapes[0].motion == "still" and not scene.pan:
        with pytest.raises(InputError, match="still main shape"):
            opposite(scene)
        return
    other = opposite(scene)
    assert opposite(other) == scene and other.shapes[1:] == scene.shapes[1:]
    ours, theirs = render(scene, 128, 64, 2, 1), render(other, 128, 64, 2, 1)
    assert torch.equal(ours.frames[0], theirs.frames[0]) and (ours.frames[1] - theirs.frames[1]).abs().max() > 0.1
    if any(scene.shapes[0].velocity):
        moves = [clip.positions[1, 0] - clip.positions[0, 0] for clip in (ours, theirs)]
        assert torch.allclose(moves[0], -moves[1], atol=1e-6) and moves[0].norm() > 0.05
    # The wording is the same but for the words of the motion.
    changed = words(caption(scene, seed)) ^ words(caption(other, seed))
    assert changed and changed <= set().union(*(WORDS[motion] for motion in MOTIONS if motion != "still")) | {"a", "an"}


def test_the_splits_never_meet():
    apart = {combination for combination in COMBINATIONS if held_out(*combination)}
    assert len(apart) == len(COMBINATIONS) // 10
    for colour, kind, motion in COMBINATIONS:
        assert held_out(colour, kind, motion) == held_out(colour, kind, OPPOSITES.get(motion, motion))
    for part in (apart, COMBINATIONS - apart):  # the parts are all known, only their combinations are new
        assert [{c[i] for c in part} for i in range(3)] == [set(COLOURS), set(KINDS), set(MOTIONS)]

    drawn = {"train": set(), "held_out": set()}
    for split, level, seed in itertools.product(drawn, LEVELS, range(700)):
        for shape in sample_scene(seed, split, level).shapes:
            drawn[split].add((shape.colour, shape.kind, shape.motion))
    assert drawn["held_out"] == apart
    assert drawn["train"] <= COMBINATIONS - apart and len(drawn["train"]) > 0.9 * (len(COMBINATIONS) - len(apart))


def test_motions_are_drawn_evenly():
    for level, motions in (("plain", MOTIONS[:5]), ("full", MOTIONS)):
        drawn = [sample_scene(seed, level=level).shapes[0].motion for seed in range(900)]
        for motion in motions:
            assert drawn.count(motion) == pytest.approx(900 / len(motions), rel=0.3)


def test_levels():
    scenes = {level: [sample_scene(seed, level=level) for seed in range(200)] for level in LEVELS}
    for scene in scenes["plain"]:
        assert len(scene.shapes) == 1 and scene.background.pattern == "plain" and not scene.pan
        assert scene.shapes[0].texture in ("flat", "glossy") and not scene.shapes[0].turn_rate
    assert all(len(scene.shapes) == 1 and not scene.pan for scene in scenes["varied"])
    patterns = {"plain", "gradient", "stripes", "checks", "dots"}
    assert {scene.background.pattern for scene in scenes["varied"]} == patterns
    assert 0.2 < sum(len(scene.shapes) == 2 for scene in scenes["full"]) / 200 < 0.5
    assert 0.05 < sum(scene.pan != 0 for scene in scenes["full"]) / 200 < 0.25


@pytest.mark.parametrize(
    ("width", "height", "frames", "fps"), [(0, 64, 1, 8), (128, -1, 1, 8), (128, 64, 0, 8), (128, 64, 1, 0)]
)
def test_wrong_sizes(width, height, frames, fps):
    with pytest.raises(InputError, match="above 0"):
        render(Scene((CIRCLE,), PLAIN), width, height, frames, fps)


def test_wrong_names():
    with pytest.raises(InputError, match="train or held_out"):
        sample_scene(0, "test")
    with pytest.raises(InputError, match="plain or varied or full"):
        sample_scene(0, level="hard")
