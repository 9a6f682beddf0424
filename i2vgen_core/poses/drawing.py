"""Poses as the pictures that the animators were trained on (UniAnimate, dwpose/util.py: draw_body_and_foot, draw_handpose).

The official pictures are drawn by OpenCV, in whole pixels and without smoothing, and those of a trained network are given
here to the pixel: lines step along their longer side, outlines of areas are lines, and rows between are filled. Red and blue
are swapped, as the saved files of the official code have them.
"""

from __future__ import annotations

import colorsys
import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from .keypoints import Points, Poses

CANVAS = 512, 768
"""Width and height that poses were drawn at for training, whatever the video's size; they are stretched to it later."""

_LIMBS = (
    *((1, 2), (1, 5), (2, 3), (3, 4), (5, 6), (6, 7), (1, 8), (8, 9), (9, 10), (1, 11), (11, 12), (12, 13)),
    *((1, 0), (0, 14), (14, 16), (0, 15), (15, 17), (13, 18), (10, 19)),
)
_COLOURS = (
    *((255, 0, 0), (255, 85, 0), (255, 170, 0), (255, 255, 0), (170, 255, 0), (85, 255, 0), (0, 255, 0)),
    *((0, 255, 85), (0, 255, 170), (0, 255, 255), (0, 170, 255), (0, 85, 255), (0, 0, 255), (85, 0, 255)),
    *((170, 0, 255), (255, 0, 255), (255, 0, 170), (255, 0, 85), (170, 255, 255), (255, 255, 0)),
)
"""Of the limbs, and of the points; before red and blue are swapped."""
_DIMMED = 0.6
_HALF_WIDTH = 4
_FINGERS = tuple(
    (0 if joint == 0 else 4 * finger + joint, 4 * finger + joint + 1) for finger in range(5) for joint in range(4)
)
_KNUCKLE = (0, 0, 255)
_DOT = {0: 4, 1: 3, 2: 3, 3: 2, 4: 0}
"""Half widths of a disc of radius 4, by rows from its middle."""
_ROUND_END = {0: 1, 1: 0}
_ONE = 2**16
"""Fixed-point one of coordinates between pixels."""

# to seven places, as a table of them has; points on half a pixel fall by it
_SINES = np.round(np.sin(np.radians(np.arange(361))), 7).astype(np.float32).astype(np.float64)
_COSINES = np.round(np.cos(np.radians(np.arange(361))), 7).astype(np.float32).astype(np.float64)

Pixel = tuple[int, int]


def draw(poses: Poses, width: int = CANVAS[0], height: int = CANVAS[1]) -> Tensor:
    """Pictures of poses.

    Args:
        poses: see Poses; what was not seen, and what lies outside, is not drawn.
        width, height: of the pictures.

    Returns:
        [f, height, width, 3] float32 in 0..1, in steps of 1/255.
    """
    return torch.stack([_picture(poses[row : row + 1], width, height) for row in range(len(poses))])


def _picture(pose: Poses, width: int, height: int) -> Tensor:
    canvas, size = np.zeros((height, width, 3), np.uint8), np.array([width, height])
    body, seen = pose.body[0] * size, pose.seen[0]
    for (near, far), colour in zip(_LIMBS, _COLOURS, strict=False):
        if seen[near] and seen[far]:
            _fill(canvas, _ellipse(body[near], body[far]), colour)
    canvas = (canvas * _DIMMED).astype(np.uint8)
    for point, colour in enumerate(_COLOURS):
        if seen[point]:
            _disc(canvas, _pixel(body[point]), colour, _DOT)
    for hand in pose.hands[0] * size:
        _draw_hand(canvas, [_pixel(point) for point in hand])
    return torch.from_numpy(canvas[..., ::-1].copy()).float() / 255


def _draw_hand(canvas: np.ndarray, points: list[Pixel]) -> None:
    for number, (near, far) in enumerate(_FINGERS):
        ends = points[near], points[far]
        if all(coordinate > 0 for end in ends for coordinate in end):
            hue = colorsys.hsv_to_rgb(number / len(_FINGERS), 1.0, 1.0)
            _thick_line(canvas, *ends, tuple(round(255 * value) for value in hue))
    for point in points:
        if min(point) > 0:
            _disc(canvas, point, _KNUCKLE, _DOT)


def _pixel(point: Points) -> Pixel:
    return int(point[0]), int(point[1])


# ---------------------------------------------------------------- in whole pixels


def _ellipse(start: Points, end: Points) -> list[Pixel]:
    """The outline of a limb, in steps of a degree."""
    middle = _pixel((start + end) / 2)
    x, y = start - end
    half, angle = int(math.hypot(x, y) / 2), int(math.degrees(math.atan2(y, x))) % 360
    cosine, sine = _COSINES[angle], _SINES[angle]
    along, across = half * _COSINES, _HALF_WIDTH * _SINES
    xs, ys = middle[0] + along * cosine - across * sine, middle[1] + along * sine + across * cosine
    points = list(zip(np.rint(xs).astype(int).tolist(), np.rint(ys).astype(int).tolist(), strict=True))
    return [point for point, before in zip(points, [None, *points[:-1]], strict=True) if point != before]


def _fill(canvas: np.ndarray, outline: Sequence[Pixel], colour: Sequence[int]) -> None:
    """A convex area, its outline among it; corners are whole pixels."""
    for start, end in zip([outline[-1], *outline[:-1]], outline, strict=True):
        _put(canvas, _line(start, end), colour)
    _fill_rows(canvas, [(x * _ONE, y) for x, y in outline], colour)


def _line(start: Pixel, end: Pixel) -> np.ndarray:
    """Pixels [n, 2] of a line, from the left."""
    (x, y), (to_x, to_y) = sorted((start, end), key=lambda point: point[0]) if start[0] != end[0] else (start, end)
    dx, dy = to_x - x, abs(to_y - y)
    long, short = max(dx, dy), min(dx, dy)
    steps = np.arange(long + 1)
    # the nearer row; the lower number of two as near
    side = -((long - 2 * steps * short) // (2 * long)) if long else steps
    down = 1 if to_y > y else -1
    return np.stack([x + side, y + down * steps] if dy > dx else [x + steps, y + down * side], axis=1)


def _thick_line(canvas: np.ndarray, start: Pixel, end: Pixel, colour: Sequence[int]) -> None:
    """A line two pixels wide with round ends."""
    dx, dy = start[0] - end[0], end[1] - start[1]
    if length := math.hypot(dx, dy):
        aside = round(dy * _ONE / length), round(dx * _ONE / length)
        corners = [
            (point[0] * _ONE + sign * aside[0], point[1] * _ONE + sign * aside[1])
            for point, sign in ((start, 1), (start, -1), (end, -1), (end, 1))
        ]
        for before, corner in zip([corners[-1], *corners[:-1]], corners, strict=True):
            _put(canvas, _fine_line(before, corner), colour)
        _fill_rows(canvas, [(x, (y + _ONE // 2) // _ONE) for x, y in corners], colour)
    for point in (start, end):
        _disc(canvas, point, colour, _ROUND_END)


def _fine_line(start: Pixel, end: Pixel) -> np.ndarray:
    """Pixels [n, 2] of a line between fixed-point coordinates."""
    across = abs(end[0] - start[0]) > abs(end[1] - start[1])
    axis = 0 if across else 1
    first, last = sorted((start, end), key=lambda point: point[axis]) if start[axis] != end[axis] else (start, end)
    long, short = last[axis] - first[axis], last[1 - axis] - first[1 - axis]
    step = int(math.copysign(abs(short) * _ONE // (long | 1), short))
    steps = np.arange(long // _ONE + 1)
    along = (first[axis] + _ONE // 2) // _ONE + steps
    beside = (first[1 - axis] + _ONE // 2 + steps * step) // _ONE
    pixels = np.stack([along, beside] if across else [beside, along], axis=1)
    return np.concatenate([pixels, [[(value + _ONE // 2) // _ONE for value in last]]])


def _fill_rows(canvas: np.ndarray, corners: Sequence[Pixel], colour: Sequence[int]) -> None:
    """Fills between the two sides of a convex outline, of fixed-point x and whole y."""
    if len(corners) < 3:
        return
    height, width = canvas.shape[:2]
    top = min(range(len(corners)), key=lambda corner: corners[corner][1])
    bottom = max(y for _, y in corners)
    sides = [_side(corners, top, step, bottom) for step in (1, -1)]
    for y, ends in enumerate(zip(*sides, strict=True), corners[top][1]):
        left, right = ((end + _ONE // 2) // _ONE for end in sorted(ends))
        if 0 <= y < height and right >= 0 and left < width:
            canvas[y, max(left, 0) : right + 1] = colour


def _side(corners: Sequence[Pixel], top: int, step: int, bottom: int) -> Iterator[int]:
    """The fixed-point x of each row down one side."""
    here, y = top, corners[top][1]
    x = slope = 0
    ends = y
    left = len(corners)
    for row in range(y, bottom + 1):
        while row >= ends and left:
            following = (here + step) % len(corners)
            left -= 1
            if corners[following][1] > row:
                rows = corners[following][1] - row
                x, ends = corners[here][0], corners[following][1]
                slope = ((corners[following][0] - x) * 2 + rows) // (2 * rows)
            here = following
        yield x
        x += slope


def _disc(canvas: np.ndarray, middle: Pixel, colour: Sequence[int], half_widths: dict[int, int]) -> None:
    height, width = canvas.shape[:2]
    for row, half in half_widths.items():
        for y in {middle[1] - row, middle[1] + row}:
            if 0 <= y < height:
                canvas[y, max(middle[0] - half, 0) : max(min(middle[0] + half + 1, width), 0)] = colour


def _put(canvas: np.ndarray, pixels: np.ndarray, colour: Sequence[int]) -> None:
    height, width = canvas.shape[:2]
    x, y = pixels[:, 0], pixels[:, 1]
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    canvas[y[inside], x[inside]] = colour
