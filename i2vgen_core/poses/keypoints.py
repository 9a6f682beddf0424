"""Body points as detectors give them, in the order that the animators' poses have (UniAnimate, run_align_pose.py)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import InputError

Points = npt.NDArray[np.float64]

BODY = (
    *("nose", "neck", "right shoulder", "right elbow", "right wrist", "left shoulder", "left elbow", "left wrist"),
    *("right hip", "right knee", "right ankle", "left hip", "left knee", "left ankle"),
    *("right eye", "left eye", "right ear", "left ear", "left toes", "right toes"),
)
"""The 20 points of a body: OpenPose's 18, and the middle of each foot's toes."""

NECK, RIGHT_SHOULDER, LEFT_SHOULDER, RIGHT_HIP, LEFT_HIP = 1, 2, 5, 8, 11
RIGHT_WRIST, LEFT_WRIST = 4, 7

MISSING = -1.0
"""Place of a point that was not seen."""

_SEEN = 0.3
"""A detector's score above which a point is taken for seen."""

_WHOLE_BODY = 133
# of COCO's 17 body points, those of OpenPose's 18 but for the neck
_OF_COCO = {
    0: 0,
    2: 6,
    3: 8,
    4: 10,
    5: 5,
    6: 7,
    7: 9,
    8: 12,
    9: 14,
    10: 16,
    11: 11,
    12: 13,
    13: 15,
    14: 2,
    15: 1,
    16: 4,
    17: 3,
}
_REMEDY = "Wire in the POSE_KEYPOINT of a pose detector, such as SDPose Keypoint Extractor or DWPose Estimator."


@dataclass(frozen=True)
class Poses:
    """One person in the pictures of a video, as shares of a picture's width and height.

    Args:
        body: [f, 20, 2], see BODY.
        seen: [f, 20], whether a point was.
        hands: the left and the right one [f, 2, 21, 2]; MISSING where a point was not seen.
    """

    body: Points
    seen: npt.NDArray[np.bool_]
    hands: Points

    def __len__(self) -> int:
        return len(self.body)

    def __getitem__(self, rows: Any) -> Poses:
        return Poses(self.body[rows], self.seen[rows], self.hands[rows])

    @property
    def somebody(self) -> list[bool]:
        """Whether a body was seen in each picture."""
        return [bool(each.any()) for each in self.seen]


def poses_of_whole_body(keypoints: Any, width: int, height: int) -> Poses:
    """Poses of COCO-WholeBody's 133 points [f, 133, 3]: x and y in pixels, and a score; of pictures width x height."""
    points = np.asarray(keypoints, dtype=np.float64)
    if points.ndim != 3 or points.shape[1:] != (_WHOLE_BODY, 3):
        raise InputError(
            "body points", f"[frames, {_WHOLE_BODY}, 3]", f"{list(points.shape)}", "Give COCO-WholeBody's."
        )
    body = np.zeros((len(points), 18, 3))
    for ours, theirs in _OF_COCO.items():
        body[:, ours] = points[:, theirs]
    shoulders = points[:, [6, 5]]
    body[:, NECK, :2] = shoulders[..., :2].mean(axis=1)
    body[:, NECK, 2] = (shoulders[..., 2] > _SEEN).all(axis=1)
    return _poses(body, points[:, 17:23], points[:, 91:133].reshape(-1, 2, 21, 3), np.array([width, height]))


def poses_of_frames(frames: Any, what: str = "the poses") -> Poses:
    """Poses of a POSE_KEYPOINT: OpenPose's JSON, a dict for each picture, of which the first person is taken.

    Coordinates are pixels of the canvas or shares of it. A hand belongs to the wrist that it is nearer to, whatever it is
    called: detectors do not agree. Feet are read where there are any.

    Raises:
        InputError: another form, or pictures without anybody.
    """
    frames = [frames] if isinstance(frames, Mapping) else frames
    if not isinstance(frames, Sequence) or isinstance(frames, str) or not len(frames):
        raise InputError(what, "a list with the people of each picture", type(frames).__name__, _REMEDY)
    read = [_of_frame(frame, number, what) for number, frame in enumerate(frames)]
    return Poses(*(np.concatenate([getattr(each, name) for each in read]) for name in ("body", "seen", "hands")))


def _of_frame(frame: Any, number: int, what: str) -> Poses:
    try:
        size = np.array([frame["canvas_width"], frame["canvas_height"]], dtype=np.float64)
        people = frame["people"]
        person = people[0] if people else {}
        parts = {
            name: _triples(person.get(f"{name}_keypoints_2d"), count)
            for name, count in (("pose", 18), ("foot", 6), ("hand_left", 21), ("hand_right", 21))
        }
    except (TypeError, KeyError, ValueError, AttributeError, IndexError) as error:
        found = f"in picture {number + 1} something else ({type(error).__name__}: {error})"[:120]
        expected = "canvas_width, canvas_height and people with pose_keypoints_2d of 18 points"
        raise InputError(what, expected, found, _REMEDY) from error
    if not (size > 0).all():
        raise InputError(what, "a canvas of one pixel or more", f"{size.tolist()}", _REMEDY)
    every = np.concatenate(list(parts.values()))
    seen = every[every[:, 2] > _SEEN, :2]
    if len(seen) and np.abs(seen).max() <= 1:  # shares already
        size = np.ones(2)
    hands = np.stack(_by_wrist(parts["pose"], parts["hand_left"], parts["hand_right"]))
    return _poses(parts["pose"][None], parts["foot"][None], hands[None], size)


def _triples(flat: Any, count: int) -> Points:
    """[count, 3] of x, y and score in a row; zeros where there is nothing."""
    if not flat:
        return np.zeros((count, 3))
    points = np.asarray(flat, dtype=np.float64).reshape(-1, 3)
    if len(points) != count or not np.isfinite(points).all():
        raise ValueError(f"{len(points)} points instead of {count}")
    return points


def _by_wrist(body: Points, left: Points, right: Points) -> tuple[Points, Points]:
    """The hands as left and right, each with the wrist that it is nearer to."""

    def far(hand: Points, wrist: int) -> float:
        if hand[0, 2] <= _SEEN or body[wrist, 2] <= _SEEN:
            return 0.0
        return float(np.hypot(*(hand[0, :2] - body[wrist, :2])))

    if min(body[LEFT_WRIST, 2], body[RIGHT_WRIST, 2]) <= _SEEN:
        return left, right  # nothing to choose between
    as_called = far(left, LEFT_WRIST) + far(right, RIGHT_WRIST)
    return (right, left) if far(left, RIGHT_WRIST) + far(right, LEFT_WRIST) < as_called else (left, right)


def _poses(body: Points, feet: Points, hands: Points, size: Points) -> Poses:
    """Of points with scores: body [f, 18, 3], feet [f, 6, 3] (big toe, small toe and heel, left and right), hands."""
    toes = np.stack([feet[:, [0, 1]], feet[:, [3, 4]]], axis=1)
    middles = np.concatenate([toes[..., :2].mean(axis=2), toes[..., 2:].min(axis=2)], axis=-1)
    points = np.concatenate([body, middles], axis=1)
    seen, hands_seen = points[..., 2] > _SEEN, hands[..., 2:] > _SEEN
    return Poses(
        np.where(seen[..., None], points[..., :2] / size, MISSING),
        seen,
        np.where(hands_seen, hands[..., :2] / size, MISSING),
    )
