"""Rough animations: parts of a picture on paths, a moving camera, and the forms that paths and boxes come in."""

import json

import pytest
import torch

from i2vgen_core.errors import InputError
from i2vgen_core.media.warp import boxes, camera, drag, filled, read_paths

POINTS = [{"x": 10, "y": 20}, {"x": 30, "y": 20}, {"x": 30, "y": 60}]
PATH = torch.tensor([[10.0, 20], [20, 20], [30, 20], [30, 40], [30, 60]])
TRACKS = {"track_path": torch.tensor([[[10.0, 20], [0, 0]], [[30, 20], [8, 4]], [[30, 60], [16, 8]]])}

WIDTH, HEIGHT, FRAMES = 96, 64, 5


def _scene(enlarged=1):
    """A white square of 16 pixels, with its centre at 24, 32, on a ground that goes from black to blue; and where it is."""
    image, part = torch.zeros(1, HEIGHT, WIDTH, 3), torch.zeros(1, HEIGHT, WIDTH)
    image[..., 2] = torch.linspace(0, 1, WIDTH)
    image[:, 24:40, 16:32], part[:, 24:40, 16:32] = 1, 1
    return (each.repeat_interleave(enlarged, 1).repeat_interleave(enlarged, 2) for each in (image, part))


def _centre(frame):
    """Of what is red, x and y in pixels."""
    red, (rows, columns) = frame[..., 0], (torch.arange(side) + 0.5 for side in frame.shape[:2])
    return [((red.sum(axis) * at).sum() / red.sum()).item() for axis, at in ((0, columns), (1, rows))]


@pytest.mark.parametrize(
    "path",
    [
        "10,20 30,20 30,60",
        json.dumps(POINTS),
        str(POINTS),  # as spline editors write it, in Python's form
        json.dumps([POINTS]),
        json.dumps([[10, 20], [30, 20], [30, 60]]),
        POINTS,
        [(10, 20), (30, 20), (30, 60)],
    ],
)
def test_a_path_in_every_form(path):
    assert torch.equal(read_paths(path, 5), PATH[None])


def test_several_paths():
    lines = read_paths("10,20 30,20 30,60\n5,5", 5)
    assert torch.equal(lines[0], PATH) and torch.equal(lines[1], torch.full((5, 2), 5.0)), "a point alone stays"
    assert torch.equal(read_paths(json.dumps([POINTS, POINTS[:1]]), 5)[0], PATH)
    assert torch.equal(read_paths(TRACKS, 3), TRACKS["track_path"].movedim(1, 0))


@pytest.mark.parametrize(
    "path", ["", "[]", "[[]]", "5", "1,2,3", "a,b", "[1, 2", "nan,1", None, {}, "[" * 9999, {"track_path": 1}]
)
def test_what_is_no_path(path):
    with pytest.raises(InputError, match=r"^path"):
        read_paths(path, 5)


@pytest.mark.parametrize("enlarged", [1, 3])
def test_a_part_goes_its_way(enlarged):
    """From where it is, in pixels of the picture; its old place is filled, and the rest stays."""
    image, part = _scene(enlarged)
    path = f"{enlarged * 90},0 {enlarged * 130},{enlarged * 8}"
    rough = drag(image, part, path, WIDTH, HEIGHT, FRAMES)
    for number, frame in enumerate(rough.frames):
        assert _centre(frame) == pytest.approx([24 + 10 * number, 32 + 2 * number], abs=0.3)
    still, _ = _scene()
    assert (rough.frames[0] - still[0]).abs().max() < 0.02, "drawn on at its edge alone"
    assert (rough.frames[:, :20] - still[0, :20]).abs().max() < 1e-5
    ground = torch.linspace(0, 1, WIDTH)
    assert (rough.frames[-1, 28:36, 20:28, 2] - ground[20:28]).abs().max() < 0.1
    assert rough.mask[-1, 32, 24] == 1 and rough.mask[-1, 40, 64] == 1, "where it was, and where it is"
    assert rough.mask[-1, 10, 80] == 0 and rough.mask[0, 40, 64] == 0


def test_parts_grow_and_turn():
    image, part = _scene()
    rough = drag(image, part, "0,0", WIDTH, HEIGHT, FRAMES, scale=2.0, rotation=45)
    areas = rough.frames[..., 0].sum((1, 2)) / 256
    assert areas.tolist() == pytest.approx([2 ** (2 * n / 4) for n in range(5)], rel=0.05)
    assert rough.frames[-1, 32 - 20, 24, 0] > 0.9, "a corner is above the centre"
    image[:, 24:40, 16:24, 1:] = 0  # red on the left: clockwise it goes up
    up = drag(image, part, "0,0", WIDTH, HEIGHT, 2, rotation=90).frames[-1]
    assert up[26, 24].tolist() == pytest.approx([1, 0, 0], abs=0.1) and up[38, 24, 1] > 0.9


def test_several_parts():
    image, part = _scene()
    other = torch.zeros_like(part)
    other[:, 24:40, 70:80] = 1
    rough = drag(image, torch.cat([part, other]), "0,0 0,20\n0,0", WIDTH, HEIGHT, FRAMES)
    assert _centre(rough.frames[-1]) == pytest.approx([24, 52], abs=0.3)
    assert rough.mask[-1, 32, 75] == 1, "a part that stays is followed too"
    mean = drag(image, part, "0,0 40,0\n0,0 0,20", WIDTH, HEIGHT, FRAMES)
    assert _centre(mean.frames[-1]) == pytest.approx([44, 42], abs=0.3)
    with pytest.raises(InputError, match="paths"):
        drag(image, torch.cat([part, other]), "0,0", WIDTH, HEIGHT, FRAMES)


def test_a_box_is_a_part():
    box = {"x": 16, "y": 24, "width": 16, "height": 16}
    _, part = _scene()
    for given in (box, [box], "16,24,16,16"):
        assert torch.equal(boxes(given, WIDTH, HEIGHT), part)
    assert boxes([box, {**box, "x": -8}], WIDTH, HEIGHT)[1].sum() == 8 * 16
    for wrong in ("16,24", {"x": 1}, "nan,1,2,3", 5):
        with pytest.raises(InputError, match=r"^box"):
            boxes(wrong, WIDTH, HEIGHT)


def test_nothing_to_drag():
    image, part = _scene()
    for wrong, found in ((0 * part, "none in mask 1"), (part[:, 1:], "63"), (part[0], "64, 96")):
        with pytest.raises(InputError, match=f"the part.*{found}"):
            drag(image, wrong, "0,0", WIDTH, HEIGHT, FRAMES)
    for wrong in ({"scale": 0.0}, {"rotation": float("nan")}):
        with pytest.raises(InputError, match=next(iter(wrong))):
            drag(image, part, "0,0", WIDTH, HEIGHT, FRAMES, **wrong)


def test_what_is_filled_is_like_what_is_around():
    image, part = _scene()
    whole = filled(image, part[0])
    assert torch.equal(whole[0, part[0] == 0], image[0, part[0] == 0])
    assert (whole[0, 24:40, 16:32, 2] - torch.linspace(0, 1, WIDTH)[16:32]).abs().max() < 0.1


@pytest.mark.parametrize(
    "moves, centre",
    [({"pan": -0.5}, [72, 32]), ({"tilt": 0.25}, [24, 16]), ({"zoom": 2.0}, [0, 32]), ({"roll": -90}, [48, 8])],
)
def test_a_camera_moves(moves, centre):
    """The square of the scene, whose place says all."""
    image, _ = _scene()
    rough = camera(image, WIDTH, HEIGHT, FRAMES, **moves)
    assert (rough.frames[0] - image[0]).abs().max() < 1e-4
    if "zoom" in moves:  # half of the square has left
        assert rough.frames[-1, 32, :15, 0].min() > 0.9 and rough.frames[-1, 32, 17:, 0].max() < 0.1
    else:
        assert _centre(rough.frames[-1]) == pytest.approx(centre, abs=0.3)
    assert rough.mask[0].min() == 1, "all of the picture is seen"
    seen = {"pan": rough.mask[-1, 32, 96 // 4], "tilt": rough.mask[-1, 60, 48], "roll": rough.mask[-1, 32, 8]}
    for name, value in seen.items():
        assert value == (0 if name in moves else value), "what comes into sight is not followed"
    if "zoom" in moves:
        assert rough.mask.min() == 1


def test_a_camera_before_an_animation():
    image, part = _scene()
    moving = drag(image, part, "0,0 20,0", WIDTH, HEIGHT, FRAMES).frames
    rough = camera(moving, WIDTH, HEIGHT, FRAMES, pan=-0.25)
    assert _centre(rough.frames[-1]) == pytest.approx([24 + 20 + 24, 32], abs=0.3)
    with pytest.raises(InputError, match=f"1, or {FRAMES + 1} frames"):
        camera(moving, WIDTH, HEIGHT, FRAMES + 1)
    for wrong in ({"pan": 2}, {"tilt": -2}, {"zoom": 0}, {"roll": 200}):
        with pytest.raises(InputError, match=next(iter(wrong))):
            camera(image, WIDTH, HEIGHT, FRAMES, **wrong)
