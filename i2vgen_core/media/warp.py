"""Rough animations, which say where things go: a part of a picture dragged along a path, or a moving camera."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from ..errors import InputError, check_finite, check_range
from .images import check_images

_PATH = "Wire in a spline editor's coordinates, or write points as 100,50 180,60 in pixels of the video."


@dataclass(frozen=True, eq=False)
class Rough:
    """A rough animation.

    Args:
        frames: [F, H, W, 3] in 0..1.
        mask: what is shown in its place, [F, H, W] in 0..1; the rest was filled in.
    """

    frames: Tensor
    mask: Tensor


def read_path(path: Any, frames: int) -> Tensor:
    """A path as [frames, 2], x and y in pixels, its points spread evenly over the time.

    Args:
        path: JSON of points {"x": 1, "y": 2} or [1, 2], as spline editors give it, the first of several such lists; plain
            `x,y x,y ...`; a tensor [n, 2]; or ComfyUI's tracks, of which the first is taken.
        frames: how many positions come back.

    Raises:
        InputError: it is no path of one point or more.
    """
    if isinstance(path, dict) and isinstance(path.get("track_path"), Tensor) and path["track_path"].ndim == 3:
        path = path["track_path"][:, 0]
    points = path if isinstance(path, Tensor) else _points(path)
    if points.ndim != 2 or points.shape[1] != 2 or not len(points):
        raise InputError("path", "a list of points x, y", f"{list(points.shape)}", _PATH)
    points = points.float()
    check_finite("path", points, _PATH)
    spread = functional.interpolate(points.T[None], size=frames, mode="linear", align_corners=True)
    return spread[0].T.contiguous()


def _points(path: Any) -> Tensor:
    try:
        if isinstance(path, str):
            text = path.strip()
            path = (
                json.loads(text.replace("'", '"'))
                if text[:1] in "[{"
                else [tuple(pair.split(",")) for pair in text.split()]
            )
        if path and isinstance(path[0], list) and path[0] and isinstance(path[0][0], (list, dict)):
            path = path[0]  # the first of several
        pairs = [(point["x"], point["y"]) if isinstance(point, dict) else tuple(point) for point in path]
        return torch.tensor([[float(x), float(y)] for x, y in pairs]).reshape(-1, 2)
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise InputError("path", "a list of points x, y", repr(path)[:60], _PATH) from error


def drag(image: Tensor, mask: Tensor, path: Tensor, *, scale: float = 1.0, rotation: float = 0.0) -> Rough:
    """A part of a picture that goes along a path; where it was, what is around it is drawn in.

    Args:
        image: [1, H, W, 3] in 0..1.
        mask: the part that goes, [H, W] in 0..1.
        path: [F, 2] in pixels, see read_path. Its way counts, not its place: the part begins where it is.
        scale: size of the part in the last frame, 0.1..10, evenly from 1.
        rotation: of it in the last frame, degrees clockwise, evenly from 0.

    Raises:
        InputError: no part is masked, or a shape or number that cannot be.
    """
    check_images(image, "the picture")
    check_range("scale", scale, 0.1, 10)
    check_range("rotation", rotation, -3600, 3600)
    if mask.shape != image.shape[1:3] or not (mask > 0.5).any():
        raise InputError(
            "mask", "a part of the picture in white, of its size", f"{list(mask.shape)}", "Paint the part."
        )
    rows, columns = torch.where(mask > 0.5)
    centre = torch.stack((columns.float().mean() + 0.5, rows.float().mean() + 0.5))
    share = torch.linspace(0, 1, len(path))
    moved = _placed(
        torch.cat([image[0], mask[..., None]], dim=2), centre, path - path[0], scale**share, rotation * share
    )
    part, cover = moved[..., :3], moved[..., 3:]
    behind = filled(image, mask)
    behind = torch.where(_grown(mask, 2)[..., None] > 0, behind, image)
    frames = behind * (1 - cover) + part * cover
    return Rough(frames.clamp(0, 1), cover[..., 0])


def camera(
    image: Tensor, frames: int, *, pan: float = 0.0, tilt: float = 0.0, zoom: float = 1.0, roll: float = 0.0
) -> Rough:
    """A picture before a camera that moves evenly; what comes into sight is the picture's edge, drawn on.

    Args:
        image: [1, H, W, 3] in 0..1.
        frames: how many.
        pan: of the camera to the right up to the last frame, in widths of the picture, -1..1; the picture goes left.
        tilt: of the camera downwards, in heights.
        zoom: how large the picture's middle is in the last frame, 0.25..4; below 1 the camera goes back.
        roll: of the camera, degrees clockwise; the picture turns the other way.

    Raises:
        InputError: a number out of range.
    """
    check_images(image, "the picture")
    for name, value, low, high in (
        ("pan", pan, -1, 1),
        ("tilt", tilt, -1, 1),
        ("zoom", zoom, 0.25, 4),
        ("roll", roll, -180, 180),
    ):
        check_range(name, value, low, high)
    height, width = image.shape[1:3]
    share = torch.linspace(0, 1, frames)
    shift = -share[:, None] * torch.tensor([pan * width, tilt * height])
    centre = torch.tensor([width / 2, height / 2])
    seen = _placed(
        torch.cat([image[0], torch.ones(height, width, 1)], dim=2), centre, shift, zoom**share, -roll * share
    )
    drawn = _placed(image[0], centre, shift, zoom**share, -roll * share, padding="border")
    return Rough(drawn.clamp(0, 1), (seen[..., 3] > 0.999).float())


def filled(image: Tensor, mask: Tensor) -> Tensor:
    """A picture [1, H, W, 3] with a part [H, W] drawn in from what is around it, smoothly."""
    known = (_grown(mask, 2) == 0).float()[None, None]
    colours = image.permute(0, 3, 1, 2) * known
    levels = [(colours, known)]
    while min(levels[-1][0].shape[-2:]) > 1:
        levels.append(tuple(functional.avg_pool2d(each, 2, ceil_mode=True) for each in levels[-1]))  # type: ignore[arg-type]
    whole = levels[-1][0] / levels[-1][1].clamp(min=1e-6)
    for colours, known in reversed(levels[:-1]):
        whole = functional.interpolate(whole, colours.shape[-2:], mode="bilinear")
        whole = torch.where(known > 0, colours / known.clamp(min=1e-6), whole)
    return whole.permute(0, 2, 3, 1)


def _grown(mask: Tensor, pixels: int) -> Tensor:
    """A mask [H, W] with so many pixels around it."""
    return functional.max_pool2d(mask[None, None], 2 * pixels + 1, 1, pixels)[0, 0]


def _placed(
    picture: Tensor, centre: Tensor, shift: Tensor, scale: Tensor, degrees: Tensor, padding: str = "zeros"
) -> Tensor:
    """A picture [H, W, C] put into each of F frames [F, H, W, C]: scaled and turned clockwise around a point of it, then
    shifted; all in pixels."""
    height, width = picture.shape[:2]
    x, y = torch.arange(width) + 0.5, torch.arange(height) + 0.5
    at = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=2) - centre - shift[:, None, None]
    angle = degrees * (math.pi / 180)
    cos, sin = (each[:, None, None] / scale[:, None, None] for each in (angle.cos(), angle.sin()))
    source = torch.stack((cos * at[..., 0] + sin * at[..., 1], cos * at[..., 1] - sin * at[..., 0]), dim=3) + centre
    grid = source / torch.tensor([width, height]) * 2 - 1
    many = picture.permute(2, 0, 1).expand(len(shift), -1, -1, -1)
    drawn = functional.grid_sample(many, grid, mode="bilinear", padding_mode=padding, align_corners=False)
    return drawn.permute(0, 2, 3, 1)
