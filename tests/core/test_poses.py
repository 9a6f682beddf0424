"""Body points of detectors, aligned to a person's picture and drawn as the animators were trained."""

import json
import sys

import numpy as np
import pytest
import torch
import toy
from PIL import Image
from safetensors.torch import load_file

from i2vgen_core.errors import InputError
from i2vgen_core.poses.alignment import align
from i2vgen_core.poses.drawing import draw
from i2vgen_core.poses.keypoints import BODY, poses_of_frames, poses_of_whole_body

FOLDER = toy.GOLDEN / "unianimate"
GOLDEN = load_file(FOLDER / "pose.safetensors")
CASE = json.loads((FOLDER / "cases.json").read_text(encoding="utf-8"))["pose"]
WRIST, KNEE, ANKLE, HIP, SHOULDER, NOSE, EYE = (
    BODY.index(name)
    for name in ("right wrist", "right knee", "right ankle", "right hip", "right shoulder", "nose", "right eye")
)


@pytest.fixture
def driving():
    return poses_of_whole_body(GOLDEN["keypoints"], *CASE["video"])


@pytest.fixture
def reference():
    return poses_of_whole_body(GOLDEN["reference_keypoints"][None], *CASE["reference"])


def hide(poses, frame, *points):
    for point in points:
        poses.seen[frame, point] = False
        poses.body[frame, point] = -1
    return poses


def test_pictures_are_the_official_ones_to_the_pixel(driving, reference):
    aligned, kept = align(driving, reference)
    assert kept == []
    for name in CASE["images"]:
        pose = reference if name == "ref" else aligned[[int(name)]]
        expected = np.array(Image.open(FOLDER / f"pose_{name}.png").convert("RGB"))
        assert np.array_equal((draw(pose)[0].numpy() * 255).round(), expected)


def test_aligned_points_are_the_official_ones(driving, reference):
    aligned, _ = align(driving, reference)
    for ours, name in ((aligned.body, "body"), (aligned.hands, "hands")):
        assert toy.error(torch.from_numpy(ours), GOLDEN[name].double()) <= 1e-5


@pytest.mark.parametrize("size", [(64, 64), (512, 768), (40, 200)])
def test_what_lies_outside_is_cut(driving, reference, size):
    aligned, _ = align(driving, reference)
    aligned.body[:] += np.array([0.45, -0.3])
    aligned.hands[:] -= np.array([0.9, 0.0])
    assert draw(aligned, *size).shape == (3, size[1], size[0], 3)


# ---------------------------------------------------------------- partial bodies


@pytest.mark.parametrize("whose", ["reference", "driving"])
def test_without_shoulders_or_hips_there_is_a_sentence(driving, reference, whose):
    hide({"reference": reference, "driving": driving}[whose], 0, HIP, SHOULDER)
    where = "the reference's picture" if whose == "reference" else "the first picture of the driving video"
    with pytest.raises(InputError, match=f"{where}.*found no right shoulder, right hip.*head to the hips"):
        align(driving, reference)


def test_a_person_turned_the_other_way_is_refused(driving, reference):
    reference.body[0] = reference.body[0] * [-1, 1] + [1, 0]
    with pytest.raises(InputError, match=r"shoulders' width.*of one sign.*turned as in the reference"):
        align(driving, reference)


def test_a_limb_that_cannot_be_measured_keeps_its_length(driving, reference):
    whole, _ = align(driving, reference)
    hide(reference, 0, ANKLE)
    aligned, kept = align(driving, reference)
    assert kept == ["right knee to right ankle"]
    assert np.allclose(aligned.body[:, KNEE], whole.body[:, KNEE])
    limb = aligned.body[0, ANKLE] - aligned.body[0, KNEE]
    scale = (aligned.body[0, HIP] - aligned.body[0, 1]) / (driving.body[0, HIP] - driving.body[0, 1])
    assert np.allclose(limb, (driving.body[0, ANKLE] - driving.body[0, KNEE]) * scale)


def test_a_point_that_is_missing_later_moves_nothing(driving, reference):
    """The official code takes a missing nose for one at the corner, and bends the head after it."""
    whole, _ = align(driving, reference)
    aligned, _ = align(hide(driving, 1, NOSE), reference)
    far = np.abs(aligned.body[1, EYE] - whole.body[1, EYE]).max()
    assert far < 0.05 and not aligned.seen[1, NOSE]
    assert np.allclose(aligned.body[2], whole.body[2])


# ---------------------------------------------------------------- POSE_KEYPOINT


def frames_of(keypoints, size, crossed=False, scale=1.0, feet=True, scores=None):
    """As ComfyUI's own detector gives them: OpenPose's JSON, the left hand called the right one if `crossed`."""
    frames = []
    for points in keypoints.double().numpy():
        points = points.copy()
        points[:, :2] *= scale
        if scores is not None:
            points[:, 2] = (points[:, 2] > 0.3) * scores
            points[points[:, 2] == 0] = 0
        shoulders = points[[5, 6]]
        neck = [*shoulders[:, :2].mean(axis=0), shoulders[:, 2].min()]
        order = (0, None, 6, 8, 10, 5, 7, 9, 12, 14, 16, 11, 13, 15, 2, 1, 4, 3)
        body = np.array([neck if number is None else points[number] for number in order])
        hands = ("hand_right", "hand_left") if crossed else ("hand_left", "hand_right")
        parts = {"pose": body, hands[0]: points[91:112], hands[1]: points[112:133]}
        if feet:
            parts["foot"] = points[17:23]
        person = {f"{name}_keypoints_2d": part.flatten().tolist() for name, part in parts.items()}
        frames.append({"canvas_width": size[0] * scale, "canvas_height": size[1] * scale, "people": [person]})
    return frames


@pytest.mark.parametrize("crossed", [False, True])
def test_both_ways_lead_to_the_same_poses(driving, crossed):
    """Hands go by the wrist that they are at, whatever they are called."""
    found = poses_of_frames(frames_of(GOLDEN["keypoints"], CASE["video"], crossed))
    assert np.array_equal(found.seen, driving.seen)
    assert np.allclose(found.body, driving.body)
    assert np.allclose(found.hands[:2], driving.hands[:2])


def test_shares_of_the_canvas_are_taken_as_such(driving):
    frames = frames_of(GOLDEN["keypoints"], CASE["video"])
    for frame in frames:
        for flat in frame["people"][0].values():
            flat[0::3] = [x / frame["canvas_width"] for x in flat[0::3]]
            flat[1::3] = [y / frame["canvas_height"] for y in flat[1::3]]
    assert np.allclose(poses_of_frames(frames).body, driving.body)


def test_a_detector_without_feet_and_hands_gives_no_toes():
    """As the DWPose of other packs: scores of 1 or 0, no feet, None for a hand that was not seen."""
    frames = frames_of(GOLDEN["keypoints"], CASE["video"], feet=False, scores=1.0)
    frames[1]["people"][0]["hand_left_keypoints_2d"] = None
    found = poses_of_frames(frames)
    assert not found.seen[:, 18:].any() and found.seen[:, :18].all()
    assert (found.hands[1, 0] == -1).all()


def test_a_picture_without_anybody_is_empty():
    frames = [*frames_of(GOLDEN["keypoints"][:1], CASE["video"]), {"canvas_width": 8, "canvas_height": 8, "people": []}]
    found = poses_of_frames(frames)
    assert found.somebody == [True, False]
    assert draw(found)[1].max() == 0 < draw(found)[0].max()


@pytest.mark.parametrize(
    "frames",
    [
        None,
        [],
        "text",
        [{}],
        [{"canvas_width": 8, "canvas_height": 0, "people": []}],
        [{"canvas_width": 8, "canvas_height": 8, "people": [{"pose_keypoints_2d": [1.0, 2.0, 1.0]}]}],
        [{"canvas_width": 8, "canvas_height": 8, "people": [{"pose_keypoints_2d": [float("nan")] * 54}]}],
        [{"canvas_width": 8, "canvas_height": 8, "people": [7]}],
    ],
)
def test_other_forms_are_refused_by_a_sentence(frames):
    with pytest.raises(InputError, match="POSE_KEYPOINT"):
        poses_of_frames(frames)


def test_the_check_compares_the_pictures():
    sys.path.append(str(toy.GOLDEN))
    check = toy.load_module(toy.GOLDEN / "check.py")
    pictures = check.load_module(toy.GOLDEN / "animator_golden.py").pose_pictures(FOLDER)
    assert set(pictures) == {"pose_ref.png", "pose_0.png", "pose_2.png"}
    assert all(check._error(*pair, absolute=True) == 0 for pair in pictures.values())
