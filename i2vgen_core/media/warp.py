"""Rough animations, which say where things go: parts of a picture dragged along paths, or a moving camera."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from ..errors import InputError, check_finite, check_range
from .images import check_images, check_size, cover

_PATH = "Wire in a spline editor's coordinates, or write points as 100,50 180,60 in pixels of the picture."
_PART = "Paint what is to be dragged in white, or give a box around it."
_AROUND = 2
"""Pixels around a part that are drawn anew with it, since its edge is mixed with what is behind."""


@dataclass(frozen=True, eq=False)
class Rough:
    """A rough animation, for directing.follow.

    Args:
        frames: [F, H, W, 3] in 0..1.
        mask: where it is to be followed, [F, H, W] in 0..1; elsewhere the network may do otherwise.
    """

    frames: Tensor
    mask: Tensor


def drag(
    image: Tensor,
    parts: Tensor,
    path: Any,
    width: int,
    height: int,
    frames: int,
    *,
    scale: float = 1.0,
    rotation: float = 0.0,
) -> Rough:
    """Parts of a picture that go along paths. Where they were, what is around them is drawn on.

    Args:
        image: [1, H, W, 3] in 0..1, of any size; it is cropped to the video's shape.
        parts: what goes, [n, H, W] in 0..1 of the picture's size: one for each path, the last ones in front. One alone goes the
            mean way of all paths.
        path: see read_paths; in pixels of the picture. Its way counts, not its place: a part begins where it is.
        width, height, frames: of the video.
        scale: size of the parts in the last frame, 0.1..10.
        rotation: of the parts in the last frame, degrees clockwise.

    Raises:
        InputError: a part that is empty, another number of paths, or a size or number that cannot be.
    """
    check_images(image, "the picture")
    check_size(width, height)
    check_range("scale", scale, 0.1, 10)
    check_range("rotation", rotation, -3600, 3600)
    sides = image.shape[1:3]
    if parts.ndim != 3 or parts.shape[1:] != sides:
        raise InputError("the part", f"a mask of the picture's size, {list(sides)}", f"{list(parts.shape)}", _PART)
    ways = read_paths(path, frames) * max(width / sides[1], height / sides[0])
    if len(parts) == 1:
        ways = ways.mean(0, keepdim=True)
    if len(parts) != len(ways):
        raise InputError("paths", f"{len(parts)}, one for each part", f"{len(ways)}", "Give as many, or one part.")
    image, parts = cover(image[:1], width, height), cover(parts[..., None], width, height)
    if empty := [str(number) for number, part in enumerate(parts, 1) if not (part > 0.5).any()]:
        raise InputError("the part", "some white inside the video's crop", f"none in mask {', '.join(empty)}", _PART)
    was = functional.max_pool2d(parts.amax(0)[None, ..., 0], 2 * _AROUND + 1, 1, _AROUND)[0]
    drawn = torch.where(was[..., None] > 0, filled(image, was), image).expand(frames, -1, -1, -1)
    share, followed = torch.linspace(0, 1, frames), was.expand(frames, -1, -1)
    for part, way in zip(parts, ways, strict=True):
        rows, columns = torch.where(part[..., 0] > 0.5)
        centre = torch.stack((columns.float().mean(), rows.float().mean())) + 0.5
        both = torch.cat((image[0], part), dim=2)[None]
        colours, covered = _placed(both, centre, way - way[0], scale**share, rotation * share).split((3, 1), dim=3)
        drawn = drawn + covered * (colours - drawn)
        followed = torch.maximum(followed, covered[..., 0])
    return Rough(drawn.clamp(0, 1), followed.clamp(0, 1))


def camera(
    images: Tensor,
    width: int,
    height: int,
    frames: int,
    *,
    pan: float = 0.0,
    tilt: float = 0.0,
    zoom: float = 1.0,
    roll: float = 0.0,
) -> Rough:
    """A picture before a camera that moves evenly. What comes into sight is the picture's edge, drawn on, and not followed.

    Args:
        images: [1, H, W, 3] in 0..1, of any size, or an animation of as many frames as the video; cropped to the video's shape.
        width, height, frames: of the video.
        pan: of the camera to the right up to the last frame, in widths, -1..1; the picture goes to the left.
        tilt: of the camera downwards, in heights, -1..1.
        zoom: how large the picture's middle is in the last frame, 0.25..4; below 1 the camera goes back.
        roll: of the camera, degrees clockwise, -180..180; the picture turns the other way.

    Raises:
        InputError: another number of frames, or a size or number that cannot be.
    """
    check_images(images, "the picture")
    check_size(width, height)
    check_range("pan", pan, -1, 1)
    check_range("tilt", tilt, -1, 1)
    check_range("zoom", zoom, 0.25, 4)
    check_range("roll", roll, -180, 180)
    if len(images) not in (1, frames):
        raise InputError("the picture", f"1, or {frames} frames", f"{len(images)}", "Give one, or one for each frame.")
    share = torch.linspace(0, 1, frames)
    shift = -share[:, None] * torch.tensor([pan * width, tilt * height])
    centre, moves = torch.tensor([width / 2, height / 2]), (shift, zoom**share, -roll * share)
    shown = _placed(cover(images, width, height), centre, *moves, padding="border")
    seen = _placed(torch.ones(1, height, width, 1), centre, *moves)[..., 0]
    return Rough(shown.clamp(0, 1), (seen > 0.999).float())


def boxes(box: Any, width: int, height: int) -> Tensor:
    """Parts for `drag` from boxes of a picture, [n, height, width].

    Args:
        box: {"x", "y", "width", "height"} in pixels, as ComfyUI has it, or a list of such; or text `x,y,width,height ...`.
        width, height: of the picture.

    Raises:
        InputError: it is none of these.
    """
    try:
        if isinstance(box, str):
            sides = [tuple(float(side) for side in each.split(",")) for each in box.split()]
        else:
            each = [box] if isinstance(box, Mapping) else box
            sides = [tuple(float(one[name]) for name in ("x", "y", "width", "height")) for one in each]
        parts = torch.zeros(len(sides), height, width)
        for part, (x, y, wide, high) in zip(parts, sides, strict=True):
            left, top, right, low = (max(0, round(side)) for side in (x, y, x + wide, y + high))
            part[top:low, left:right] = 1
    except (ValueError, TypeError, KeyError, OverflowError) as error:
        remedy = "Use a box of the Bounding Box node, or write it as 10,20,64,64."
        raise InputError("box", "x, y, width and height in pixels", repr(box)[:60], remedy) from error
    return parts


def read_paths(path: Any, frames: int) -> Tensor:
    """Paths as [n, frames, 2], x and y in pixels. A path's points are spread evenly over the time.

    Args:
        path: JSON of points {"x": 1, "y": 2} or [1, 2], as spline editors give it, or of a list of such paths; the same as lists;
            plain `x,y x,y ...`, a line for each path; or ComfyUI's tracks.
        frames: how many positions a path has.

    Raises:
        InputError: there is no path of one point or more in it.
    """
    try:
        if isinstance(path, Mapping):
            found = [each.float().cpu() for each in path["track_path"].unbind(1)]
        else:
            found = [_points(each) for each in _split(path)]
        spread = [_spread(points, frames) for points in found]
        paths = torch.stack(spread)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RuntimeError, RecursionError) as error:
        raise InputError("path", "points x, y", repr(path)[:60], _PATH) from error
    check_finite("path", paths, _PATH)
    return paths


def _split(path: Any) -> Sequence[Any]:
    """The paths of text or lists."""
    if isinstance(path, str):
        if path.strip()[:1] not in ("[", "{"):
            return [[pair.split(",") for pair in line.split()] for line in path.splitlines() if line.strip()]
        path = json.loads(path.replace("'", '"'))  # spline editors of the field write Python's lists
    first = path[0]
    return path if isinstance(first, list) and isinstance(first[0], list | Mapping) else [path]


def _points(path: Any) -> Tensor:
    pairs = [(point["x"], point["y"]) if isinstance(point, Mapping) else point for point in path]
    return torch.tensor([[float(x), float(y)] for x, y in pairs])


def _spread(points: Tensor, frames: int) -> Tensor:
    """A path [n, 2] in another number of points, [frames, 2]."""
    return functional.interpolate(points.T[None], size=frames, mode="linear", align_corners=True)[0].T


def filled(image: Tensor, mask: Tensor) -> Tensor:
    """A picture [1, H, W, 3] of which a part [H, W], where the mask is above 0, is drawn smoothly from what is around it."""
    known = (mask == 0).float()[None, None]
    levels = [(image.permute(0, 3, 1, 2) * known, known)]
    while max(levels[-1][0].shape[-2:]) > 1:
        colours, known = (functional.avg_pool2d(each, 2, ceil_mode=True) for each in levels[-1])
        levels.append((colours, known))
    whole = levels[-1][0] / levels[-1][1].clamp(min=1e-6)
    for colours, known in reversed(levels[:-1]):
        whole = functional.interpolate(whole, colours.shape[-2:], mode="bilinear")
        whole = torch.where(known > 0, colours / known.clamp(min=1e-6), whole)
    return whole.permute(0, 2, 3, 1)


def _placed(
    pictures: Tensor, centre: Tensor, shift: Tensor, scale: Tensor, degrees: Tensor, padding: str = "zeros"
) -> Tensor:
    """Pictures [1 or F, H, W, C] put into F frames [F, H, W, C]: scaled and turned clockwise around a point, then shifted.

    Args:
        pictures: one for all frames, or one for each.
        centre: x and y of the point, in pixels.
        shift: of each frame, [F, 2] in pixels.
        scale, degrees: of each frame, [F].
        padding: what is outside, see torch's grid_sample.
    """
    height, width = pictures.shape[1:3]
    x, y = torch.arange(width) + 0.5, torch.arange(height) + 0.5
    at = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=2) - centre - shift[:, None, None]
    angle = degrees * (math.pi / 180)
    cos, sin = (each[:, None, None] / scale[:, None, None] for each in (angle.cos(), angle.sin()))
    source = torch.stack((cos * at[..., 0] + sin * at[..., 1], cos * at[..., 1] - sin * at[..., 0]), dim=3) + centre
    grid = source / torch.tensor([width, height]) * 2 - 1
    many = pictures.permute(0, 3, 1, 2).expand(len(shift), -1, -1, -1)
    drawn = functional.grid_sample(many, grid, mode="bilinear", padding_mode=padding, align_corners=False)
    return drawn.permute(0, 2, 3, 1)
