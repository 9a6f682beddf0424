"""A driving video's poses brought to the size, the proportions and the place of the person in a picture (UniAnimate,
run_align_pose.py: mp_main)."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np

from ..errors import InputError
from .keypoints import BODY, LEFT_HIP, LEFT_SHOULDER, NECK, RIGHT_HIP, RIGHT_SHOULDER, Points, Poses

_LEFT, _RIGHT = 0, 1


class Limb(NamedTuple):
    """A limb that gets the reference's length: its near and far end, the body's points that hang on it, the far end among
    them, and the hand."""

    near: int
    far: int
    points: tuple[int, ...]
    hand: int | None = None


LIMBS = (
    Limb(1, 0, (0, 14, 15, 16, 17)),
    Limb(1, 2, (2, 3, 4), _RIGHT),
    Limb(1, 5, (5, 6, 7), _LEFT),
    Limb(2, 3, (3, 4), _RIGHT),
    Limb(3, 4, (4,), _RIGHT),
    Limb(5, 6, (6, 7), _LEFT),
    Limb(6, 7, (7,), _LEFT),
    Limb(0, 14, (14, 16)),
    Limb(0, 15, (15, 17)),
    Limb(14, 16, (16,)),
    Limb(15, 17, (17,)),
    Limb(8, 9, (9, 10, 19)),
    Limb(9, 10, (10, 19)),
    Limb(11, 12, (12, 13, 18)),
    Limb(12, 13, (13, 18)),
)
"""In the order in which they are changed."""

_TORSO = (RIGHT_SHOULDER, LEFT_SHOULDER, RIGHT_HIP, LEFT_HIP)
_MOST = 10.0
"""Times that a body may be larger or smaller than the reference's."""


def align(poses: Poses, reference: Poses) -> tuple[Poses, list[str]]:
    """Poses with the build of the reference, at its place; all factors are those of the first pose.

    Shoulders' width and the torso's height are scaled to the reference's, limbs get its lengths, and the first neck comes
    to lie on the reference's. A limb of which the first pose or the reference lacks an end keeps its scaled length, and one
    of which a later pose lacks an end moves nothing that hangs on it.

    Args:
        poses: of a driving video.
        reference: of one picture, the person's.

    Returns:
        The poses, and the limbs that kept their length, by the names of their ends.

    Raises:
        InputError: shoulders or hips were not seen where they are measured, or cannot be brought together.
    """
    first = poses[:1]
    for pose, where in ((reference[:1], "the reference's picture"), (first, "the first picture of the driving video")):
        _check_torso(pose, where)
    body, hands = poses.body.copy(), poses.hands.copy()
    scale = _scale(reference.body[0], body[0])
    body *= scale
    hands *= scale
    kept, lengths = [], []
    for limb in LIMBS:
        ends = [limb.near, limb.far]
        there, own = _length(reference.body[0], limb), _length(body[0], limb)
        if not (reference.seen[0, ends].all() and poses.seen[0, ends].all() and there and own):
            kept.append(f"{BODY[limb.near]} to {BODY[limb.far]}")
            lengths.append(1.0)
            continue
        lengths.append(there / own)
    for limb, ratio in zip(LIMBS, lengths, strict=True):
        _move(body, hands, poses.seen, limb, ratio)
    shift = reference.body[0, NECK] - body[0, NECK]
    return replace(poses, body=body + shift, hands=hands + shift), kept


def _check_torso(pose: Poses, where: str) -> None:
    missing = [BODY[point] for point in _TORSO if not len(pose) or not pose.seen[0, point]]
    if missing:
        remedy = "Take one that shows the person from the head to the hips, or a driving video that begins so."
        raise InputError(
            where, "both shoulders and both hips, which give the body's size", f"no {', '.join(missing)}", remedy
        )


def _scale(reference: Points, first: Points) -> Points:
    """Factors of x and y: the shoulders' width, and the height from the shoulders' to the hips' middle."""

    def size(body: Points) -> Points:
        shoulders, hips = body[[RIGHT_SHOULDER, LEFT_SHOULDER]], body[[RIGHT_HIP, LEFT_HIP]]
        return np.array([shoulders[1, 0] - shoulders[0, 0], hips[:, 1].mean() - shoulders[:, 1].mean()])

    wanted, own = size(reference), size(first)
    for name, there, here in zip(("shoulders' width", "torso's height"), wanted, own, strict=True):
        if not here or not 1 / _MOST < there / here < _MOST:
            found = f"{here:.3f} of the picture in the first pose and {there:.3f} in the reference"
            remedy = (
                "Let the driving video begin with the person turned as in the reference's picture, and about upright."
            )
            raise InputError(f"the {name}", "of one sign, and no ten times another", found, remedy)
    return wanted / own


def _length(body: Points, limb: Limb) -> float:
    return float(np.hypot(*(body[limb.near] - body[limb.far])))


def _move(body: Points, hands: Points, seen: np.ndarray, limb: Limb, ratio: float) -> None:
    """Gives a limb `ratio` times its length in all poses, in place, with what hangs on it."""
    shift = (body[:, limb.far] - body[:, limb.near]) * (ratio - 1)
    whole = seen[:, [limb.near, limb.far]].all(axis=1)
    for point in limb.points:
        # what was not seen is moved as the official code does, which changes nothing that is drawn
        body[:, point] += np.where(np.asarray(whole | ~seen[:, point])[:, None], shift, 0)
    if limb.hand is not None:
        present = np.asarray((hands[:, limb.hand] > 0).any(axis=(1, 2)) & ~whole)
        hands[:, limb.hand] += np.where(present[:, None], 0, shift)[:, None]
