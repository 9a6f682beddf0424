"""Pictures that guide a composer, in the form that its stems were trained on."""

import math

import pytest
import torch

from i2vgen_core.errors import InputError
from i2vgen_core.media.guides import Guides, flow_of_pictures, guide_pictures, motion_vectors

WIDTH, HEIGHT, FRAMES = 64, 48, 4


def made(**guides):
    return guide_pictures(Guides(**guides), WIDTH, HEIGHT, FRAMES)


def grey(values, height=HEIGHT, width=WIDTH):
    """Frames of one grey each."""
    return torch.tensor(values).view(-1, 1, 1, 1).expand(-1, height, width, 3).contiguous()


def test_nothing_makes_nothing():
    assert made() == ({}, [])


def test_depth_has_one_range_over_the_clip():
    pictures, notes = made(depth=grey([0.2, 0.4, 0.6, 0.6]), depth_gain=3.0)
    depth = pictures["depth"]
    assert depth.shape == (1, FRAMES, 1, HEIGHT, WIDTH) and notes == []
    assert depth[0, :, 0, 0, 0].tolist() == pytest.approx([0, 1.5, 3, 3], abs=0.03)
    turned = made(depth=grey([0.2, 0.4, 0.6, 0.6]), depth_gain=3.0, far_is_bright=True)[0]["depth"]
    assert torch.allclose(depth + turned, torch.tensor(3.0))


def test_lines_are_bright_on_black_whichever_way_they_come():
    lines = torch.zeros(FRAMES, HEIGHT, WIDTH, 3)
    lines[:, 5] = 1
    bright, notes = made(sketch=lines)
    dark, said = made(sketch=1 - lines)
    assert torch.allclose(bright["sketch"], dark["sketch"], atol=1e-6)
    assert notes == [] and said == ["sketch: dark lines on bright are read the other way round"]


@pytest.mark.parametrize(("there", "rows"), [(1, [0]), (4, [0, 1, 2, 3]), (6, [0, 1, 2, 3]), (2, [0, 1, 1, 1])])
def test_pictures_of_another_number(there, rows):
    values = [0.0, *(0.1 + 0.1 * number for number in range(there - 1))]
    pictures, notes = made(sketch=grey(values))
    assert pictures["sketch"][0, :, 0, 0, 0].tolist() == pytest.approx([values[row] for row in rows], abs=0.01)
    assert bool(notes) == (there not in (1, FRAMES))


def test_a_first_picture_is_read_as_pixels():
    pictures, _ = made(image=grey([0.25, 1.0], 30, 90), single_sketch=grey([0.1, 0.9]))
    assert pictures["local_image"].shape == (1, 1, 3, HEIGHT, WIDTH)
    assert pictures["local_image"].mean().item() == pytest.approx(0.25, abs=0.01)
    assert pictures["single_sketch"].shape == (1, 1, 1, HEIGHT, WIDTH)


# ---------------------------------------------------------------- masked


def test_holes_are_grey_and_what_is_missing_is_a_hole():
    mask = torch.zeros(1, HEIGHT // 2, WIDTH // 2)
    mask[:, :, : WIDTH // 4] = 1
    pictures, notes = made(masked=grey([1.0, 1.0, 1.0]), mask=mask)
    masked = pictures["masked"][0]
    assert masked.shape == (FRAMES, 4, HEIGHT, WIDTH)
    assert (masked[:3, :, :, : WIDTH // 2] == 0).all() and (masked[:3, :, :, WIDTH // 2 :] == 1).all()
    assert (masked[3] == 0).all() and "made whole" in notes[0]


@pytest.mark.parametrize(
    ("guides", "word"),
    [
        ({"masked": grey([0.5])}, "the video alone"),
        ({"mask": torch.zeros(1, 8, 8)}, "the mask alone"),
        ({"masked": grey([0.5]), "mask": torch.zeros(8, 8)}, "the mask"),
        ({"masked": grey([0.5] * 4), "mask": torch.zeros(2, 8, 8)}, "one frame, or 4"),
        ({"masked": grey([0.5]), "mask": torch.full((1, 8, 8), math.nan)}, "the mask"),
        ({"motion": torch.zeros(3, 8, 8, 5)}, "optical flow"),
        ({"motion": "a model"}, "optical flow"),
        ({"motion": torch.full((3, 8, 8, 2), math.inf)}, "motion"),
        ({"sketch": torch.zeros(4, 8, 8)}, "sketch"),
        ({"depth": grey([0.5]), "depth_gain": 11.0}, "depth gain"),
    ],
)
def test_what_cannot_be_is_a_sentence(guides, word):
    with pytest.raises(InputError, match=word):
        made(**guides)


# ---------------------------------------------------------------- motion


def test_motion_is_that_of_blocks_at_their_middles():
    """A flow of half the video's size, to the right and up: twice as many pixels there."""
    flow = torch.zeros(FRAMES - 1, HEIGHT // 2, WIDTH // 2, 2)
    flow[..., 0], flow[..., 1] = 3, -1
    motion = made(motion=flow)[0]["motion"]
    assert motion.shape == (1, FRAMES, 2, HEIGHT, WIDTH)
    assert (motion[0, 0] == 0).all(), "the first frame has none"
    assert (motion[0, 1:, 0, 8::16, 8::16] == 6).all() and (motion[0, 1:, 1, 8::16, 8::16] == -2).all()
    assert int((motion != 0).sum()) == (FRAMES - 1) * 2 * 3 * 4


def test_motion_of_any_size_and_length():
    assert motion_vectors(torch.ones(9, 7, 5, 2), 72, 40, 3)[0, 2].sum() > 0
    short = motion_vectors(torch.ones(1, 7, 5, 2), 72, 40, 3)
    assert (short[0, 2] == 0).all() and (short[0, 1] != 0).any()


def colours(angle, length):
    """Of a flow, as the usual block draws it: directions round a wheel of colours, on white."""
    wheel = torch.zeros(55, 3)
    steps = ((0, 1, 15, 1), (1, 0, 6, -1), (1, 2, 4, 1), (2, 1, 11, -1), (2, 0, 13, 1), (0, 2, 6, -1))
    at = 0
    for full, changing, count, sign in steps:
        ramp = torch.arange(count) / count
        wheel[at : at + count, full] = 1
        wheel[at : at + count, changing] = ramp if sign > 0 else 1 - ramp
        at += count
    # rows where one fades are full in the other colour
    wheel[15:21, 1], wheel[25:36, 2], wheel[49:55, 0] = 1, 1, 1
    wheel[15:21, 0], wheel[25:36, 1], wheel[49:55, 2] = (1 - torch.arange(n) / n for n in (6, 11, 6))
    place = (math.atan2(-math.sin(angle), -math.cos(angle)) / math.pi + 1) / 2 * 54
    low, share = int(place), place - int(place)
    colour = (1 - share) * wheel[low] + share * wheel[(low + 1) % 55]
    return 1 - length * (1 - colour)


@pytest.mark.parametrize("angle", [0.1, 0.9, 1.7, 2.5, 3.3, 4.1, 4.9, 5.7])
def test_pictures_of_flow_say_its_direction_and_length(angle):
    picture = torch.stack([colours(angle, 1.0), colours(angle, 0.5)]).view(1, 1, 2, 3)
    strong, weak = flow_of_pictures(picture, 6.0)[0, 0]
    assert strong.tolist() == pytest.approx([6 * math.cos(angle), 6 * math.sin(angle)], abs=0.3)
    assert weak.norm().item() == pytest.approx(3, abs=0.2)
    video = picture[:, :, :1].expand(3, 48, 64, 3)
    assert 5.5 < made(motion=video, fastest=6.0)[0]["motion"].norm(dim=2).amax() < 6.5
