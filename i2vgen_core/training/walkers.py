"""People drawn of simple forms who walk, wave, jump and bend, with the points of their bodies known: the world of an animator.

A body stands in three dimensions, x to its left, y up and z to the front, in units of its own height, and is seen from
some side without perspective. The same seed always gives the same person and the same movement.
"""

from __future__ import annotations

import colorsys
import math
import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..media.world import Rgb, Split
from ..poses.keypoints import BODY, MISSING, Poses

Gait = Literal["walks", "waves", "jumps", "bends"]
GAITS: tuple[Gait, ...] = get_args(Gait)

_Joints = dict[str, npt.NDArray[np.float64]]

_LEG, _ARM, _HEAD, _FOOT = 0.48, 0.36, 0.11, 0.08  # of the height; the head's is its radius
_SKINS: tuple[Rgb, ...] = ((0.98, 0.83, 0.70), (0.88, 0.67, 0.48), (0.66, 0.45, 0.29), (0.40, 0.26, 0.17))
_HELD_OUT = 7  # of the seeds' hues: each that many-th is kept from training


@dataclass(frozen=True)
class Walker:
    """A person and what it does.

    Attributes:
        height: in picture heights.
        x, ground: where it stands, in picture widths and heights.
        shoulders, hips: half their widths, in body heights.
        limb: half a limb's thickness, in body heights.
        turn: of the body to the viewer's right, in degrees; 0 faces the viewer.
        skin, shirt, trousers, hair: colours, each 0..1.
        behind: colours of the ground, above and below.
        gait: what it does.
        pace: its turns a second.
        phase: of the gait at the first frame, in turns.
        reach: how far the limbs go, 1 as usual.
    """

    height: float
    x: float
    ground: float
    shoulders: float
    hips: float
    limb: float
    turn: float
    skin: Rgb
    shirt: Rgb
    trousers: Rgb
    hair: Rgb
    behind: tuple[Rgb, Rgb]
    gait: Gait
    pace: float
    phase: float
    reach: float

    @property
    def standing(self) -> Walker:
        """The same person, who stands and faces the viewer: as in a picture that somebody would give."""
        return replace(self, gait="walks", pace=0.0, phase=0.0, reach=0.0, turn=0.0)


def sample_walker(seed: int, split: Split = "train") -> Walker:
    """Draws a person. Shirts of some hues, and all seeds, are for one split alone."""
    rng = random.Random(f"walker {split} {seed}")
    shirt = rng.randrange(_HELD_OUT * 4)
    shirt += (shirt % _HELD_OUT == 0) if split == "train" else -(shirt % _HELD_OUT)
    bright = rng.random() < 0.5
    return Walker(
        height=rng.uniform(0.72, 0.86),
        x=rng.uniform(0.42, 0.58),
        ground=rng.uniform(0.92, 0.95),
        shoulders=rng.uniform(0.085, 0.12),
        hips=rng.uniform(0.055, 0.075),
        limb=rng.uniform(0.034, 0.048),
        turn=rng.choice((0.0, rng.uniform(-70, 70))),
        skin=rng.choice(_SKINS),
        shirt=colorsys.hsv_to_rgb(shirt / (_HELD_OUT * 4), 0.75, 0.85),
        trousers=colorsys.hsv_to_rgb(rng.random(), rng.uniform(0.2, 0.7), rng.uniform(0.25, 0.6)),
        hair=rng.choice(((0.12, 0.09, 0.08), (0.36, 0.22, 0.12), (0.75, 0.58, 0.28), (0.55, 0.55, 0.56))),
        behind=(_pale(rng, bright), _pale(rng, bright)),
        gait=rng.choice(GAITS),
        pace=rng.uniform(0.5, 1.1),
        phase=rng.random(),
        reach=rng.uniform(0.75, 1.15),
    )


def points(walker: Walker, frames: int, fps: float, aspect: float) -> Poses:
    """The points of its body.

    Args:
        walker: who.
        frames: how many, the first at 0 seconds.
        fps: frames a second.
        aspect: the picture's width over its height.
    """
    body = np.zeros((frames, len(BODY), 2))
    for row in range(frames):
        joints = _seen(walker, _joints(walker, row / fps))
        for number, name in enumerate(BODY):
            body[row, number] = _placed(walker, joints[name], aspect)
    return Poses(body, np.ones((frames, len(BODY)), np.bool_), np.full((frames, 2, 21, 2), MISSING))


def render(walker: Walker, width: int, height: int, frames: int, fps: float) -> Tensor:
    """Pictures of it, [frames, height, width, 3] in 0..1, anti-aliased; every size shows the same."""
    y, x = torch.meshgrid((torch.arange(height) + 0.5) / height, (torch.arange(width) + 0.5) / height, indexing="ij")
    above, below = (torch.tensor(colour) for colour in walker.behind)
    ground = torch.lerp(above, below, (y > walker.ground - 0.06).float()[..., None])
    made = []
    for row in range(frames):
        joints = _seen(walker, _joints(walker, row / fps))
        picture = ground
        for start, end, thick, colour in _parts(walker, joints):
            near, far = (_placed(walker, place, 1.0) for place in (start, end))
            near[0], far[0] = (place[0] + walker.x * (width / height - 1) for place in (near, far))
            cover = (0.5 + height * (thick * walker.height - _distance(x, y, near, far))).clamp(0, 1)[..., None]
            picture = picture * (1 - cover) + torch.tensor(colour) * cover
        made.append(picture)
    return torch.stack(made)


def _pale(rng: random.Random, bright: bool) -> Rgb:
    return colorsys.hsv_to_rgb(rng.random(), rng.uniform(0.05, 0.25), rng.uniform(0.8, 0.97) if bright else 0.4)


def _joints(walker: Walker, seconds: float) -> _Joints:
    """Places of all points at a time, in body heights; the origin is between the feet of one who stands."""
    wave = 2 * math.pi * (walker.phase + walker.pace * seconds)
    swings = {"right": math.sin(wave), "left": -math.sin(wave)}
    lean, root, limbs = _GAITS[walker.gait](walker.reach, wave, swings)
    hip = np.array([0.0, _LEG, 0.0]) + np.array(root)
    spine = np.array([0.0, math.cos(lean), math.sin(lean)])
    neck = hip + 0.32 * spine
    head = neck + (0.06 + _HEAD) * spine
    front = np.array([0.0, -math.sin(lean), math.cos(lean)])
    places = {"neck": neck, "nose": head + _HEAD * front, "hip": hip, "head": head}
    for side, sign in (("right", -1.0), ("left", 1.0)):
        across = np.array([sign, 0.0, 0.0])
        thigh, knee, spread, arm, elbow, raised = limbs[side]
        places[f"{side} hip"] = hip + walker.hips * across
        places[f"{side} knee"] = places[f"{side} hip"] + _LEG / 2 * _along(thigh, spread, sign)
        places[f"{side} ankle"] = places[f"{side} knee"] + _LEG / 2 * _along(thigh - knee, spread, sign)
        places[f"{side} toes"] = places[f"{side} ankle"] + _FOOT * np.array([0.3 * sign, -0.2, 1.0])
        places[f"{side} shoulder"] = neck + walker.shoulders * across - 0.01 * spine
        places[f"{side} elbow"] = places[f"{side} shoulder"] + _ARM / 2 * _along(arm, raised, sign)
        places[f"{side} wrist"] = places[f"{side} elbow"] + _ARM / 2 * _along(arm + elbow[0], raised + elbow[1], sign)
        places[f"{side} eye"] = head + _HEAD * (0.4 * across + 0.2 * spine + 0.85 * front)
        places[f"{side} ear"] = head + _HEAD * (0.95 * across + 0.05 * spine)
    return places


def _along(forward: float, outward: float, sign: float) -> npt.NDArray[np.float64]:
    """Where a limb points that hangs at 0 and 0, swung to the front and then out to its side, both in radians."""
    return np.array(
        [sign * math.sin(outward), -math.cos(forward) * math.cos(outward), math.sin(forward) * math.cos(outward)]
    )


_Limb = tuple[float, float, float, float, tuple[float, float], float]
"""Radians of the thigh to the front, of the knee's bend, of the leg to the side, of the arm to the front, of the lower arm
against it to the front and to the side, and of the arm to the side."""
_Movement = tuple[float, tuple[float, float, float], dict[str, _Limb]]
"""The spine's lean to the front in radians, how far the hips are from where they stand, and the limbs."""


def _walks(reach: float, wave: float, swings: dict[str, float]) -> _Movement:
    limbs: dict[str, _Limb] = {}
    for side, swing in swings.items():
        ahead = math.cos(wave) * (1 if side == "right" else -1)
        knee = reach * (0.15 + 0.9 * max(0.0, ahead))
        limbs[side] = (0.6 * reach * swing + 0.2 * knee, knee, 0.03, -0.6 * reach * swing, (0.5 * reach, 0.0), 0.12)
    return 0.04 * reach, (0.0, -0.015 * reach * (1 - math.cos(2 * wave)), 0.0), limbs


def _waves(reach: float, wave: float, swings: dict[str, float]) -> _Movement:
    lower = 0.5 * reach * swings["right"]
    right: _Limb = (0.0, 0.0, 0.05, 0.0, (0.0, lower + 0.2), 2.3)
    return (
        0.0,
        (0.02 * reach * swings["left"], 0.0, 0.0),
        {"right": right, "left": (0.0, 0.0, 0.05, 0.0, (0.2, 0.0), 0.15)},
    )


def _jumps(reach: float, wave: float, swings: dict[str, float]) -> _Movement:
    apart = (1 - math.cos(wave)) / 2
    limb: _Limb = (0.0, 0.0, 0.05 + 0.4 * reach * apart, 0.0, (0.0, 0.1), 0.15 + 2.4 * reach * apart)
    return 0.0, (0.0, 0.05 * reach * math.sin(wave) ** 2 - 0.03 * reach * apart, 0.0), {"right": limb, "left": limb}


def _bends(reach: float, wave: float, swings: dict[str, float]) -> _Movement:
    down = reach * (1 - math.cos(wave)) / 2
    limb: _Limb = (0.9 * down, 1.8 * down, 0.12, 1.3 * down, (0.1, 0.0), 0.1)
    sunk = _LEG / 2 * (2 - 2 * math.cos(0.9 * down))
    return 0.35 * down, (0.0, -sunk, -0.08 * down), {"right": limb, "left": limb}


_GAITS: dict[Gait, Callable[[float, float, dict[str, float]], _Movement]] = {
    "walks": _walks,
    "waves": _waves,
    "jumps": _jumps,
    "bends": _bends,
}


def _seen(walker: Walker, joints: _Joints) -> _Joints:
    """The places turned to the viewer: x to the viewer's right, y up, z to the viewer."""
    turn = math.radians(walker.turn)
    turned = np.array([[math.cos(turn), 0, math.sin(turn)], [0, 1, 0], [-math.sin(turn), 0, math.cos(turn)]])
    return {name: turned @ place for name, place in joints.items()}


def _placed(walker: Walker, place: npt.NDArray[np.float64], aspect: float) -> npt.NDArray[np.float64]:
    """A place in the picture, in shares of its width and height."""
    across, up = walker.height * place[0] / aspect, walker.height * place[1]
    return np.array([walker.x + across, walker.ground - up])


def _parts(
    walker: Walker, joints: _Joints
) -> list[tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], float, Rgb]]:
    """What is drawn, the farthest first: ends, half the thickness in body heights, and the colour."""
    sleeve, leg = _darker(walker.shirt), walker.trousers
    made = [
        (joints["neck"] - 0.05 * (joints["neck"] - joints["hip"]), joints["hip"], 0.9 * walker.shoulders, walker.shirt),
        (joints["neck"], joints["head"], walker.limb, walker.skin),
        (joints["head"], joints["head"], _HEAD, walker.skin),
    ]
    for side in ("right", "left"):
        made += [
            (joints[f"{side} hip"], joints[f"{side} knee"], 1.25 * walker.limb, leg),
            (joints[f"{side} knee"], joints[f"{side} ankle"], walker.limb, _darker(leg)),
            (joints[f"{side} ankle"], joints[f"{side} toes"], 0.8 * walker.limb, (0.15, 0.15, 0.17)),
            (joints[f"{side} shoulder"], joints[f"{side} elbow"], walker.limb, sleeve),
            (joints[f"{side} elbow"], joints[f"{side} wrist"], 0.85 * walker.limb, walker.skin),
        ]
    made.sort(key=lambda part: part[0][2] + part[1][2])
    up = joints["head"] - joints["neck"]
    back = joints["head"] - joints["nose"]
    made.append(
        (joints["head"] + 0.45 * up + 0.3 * back, joints["head"] + 0.45 * up + 0.3 * back, 0.75 * _HEAD, walker.hair)
    )
    made += [
        (joints[f"{side} eye"],) * 2 + (0.016, (0.08, 0.08, 0.1))
        for side in ("right", "left")
        if joints[f"{side} eye"][2] > joints["head"][2]
    ]
    return made


def _darker(colour: Rgb) -> Rgb:
    red, green, blue = (0.85 * value for value in colour)
    return red, green, blue


def _distance(x: Tensor, y: Tensor, near: npt.NDArray[np.float64], far: npt.NDArray[np.float64]) -> Tensor:
    """Of every pixel from a line between two places."""
    (ax, ay), (bx, by) = near.tolist(), far.tolist()
    length = (bx - ax) ** 2 + (by - ay) ** 2
    share = (((x - ax) * (bx - ax) + (y - ay) * (by - ay)) / length).clamp(0, 1) if length else torch.zeros_like(x)
    return torch.hypot(x - ax - share * (bx - ax), y - ay - share * (by - ay))
