"""Scenes of the small world as frames, with where each shape is: anti-aliased, at any size and frame rate."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import InputError
from .world import BACKGROUNDS, COLOURS, LIGHT_BACKGROUNDS, REACH, Background, Outline, Scene, Shape

_RING = (0.55, 1.15)  # inner and outer radius, in sizes
_POLYGONS: dict[str, tuple[int, float, float]] = {  # corners, their radius, the radius half-way between them, in sizes
    "triangle": (3, 1.45, 1.45 * math.cos(math.pi / 3)),
    "square": (4, 1.25, 1.25 * math.cos(math.pi / 4)),
    "star": (5, 1.40, 0.68),
}
_OUTLINE = 0.13  # width, in sizes


@dataclass(frozen=True)
class Clip:
    """A rendered scene and its ground truth.

    Attributes:
        frames: [F, H, W, 3] float32 in 0..1.
        masks: [F, shapes, H, W] in 0..1, how much of each pixel shows that shape; what is hidden is not counted.
        positions: [F, shapes, 2], x and y of the centres in fractions of the picture, also where hidden or outside.
        fps: frames a second.
    """

    frames: Tensor
    masks: Tensor
    positions: Tensor
    fps: float


def render(scene: Scene, width: int, height: int, frames: int, fps: float, device: torch.device | str = "cpu") -> Clip:
    """Renders a scene, anti-aliased; every size shows the same clip, and 2:1 is the shape of picture it is made for.

    Args:
        scene: what to render.
        width, height: in pixels.
        frames: how many, the first at 0 seconds.
        fps: frames a second.
        device: where to compute.

    Raises:
        InputError: a size, the number of frames or fps is not positive.
    """
    for name, value in (("width", width), ("height", height), ("frames", frames), ("fps", fps)):
        if not value > 0:
            raise InputError(
                name, "a number above 0", str(value), "Use 128x64 or 288x144, 8 or 16 frames, 8 or 16 fps."
            )
    times = torch.arange(frames, device=device, dtype=torch.float32) / fps
    unit = min(height, width / 2)  # pixels a picture height
    x = (torch.arange(width, device=device) + 0.5 - width / 2) / unit
    y = (torch.arange(height, device=device) + 0.5 - height / 2) / unit

    shift = times * (scene.pan * width / unit) if scene.pan else times[:1]  # a still background is rendered once
    pixels = _background(scene.background, x + shift[:, None], y, 1 / unit).expand(frames, -1, -1, -1).clone()
    masks = torch.zeros(frames, len(scene.shapes), height, width, device=device)
    positions = torch.stack([_path(scene, shape, times) for shape in scene.shapes], dim=1)
    for index in reversed(range(len(scene.shapes))):
        shape = scene.shapes[index]
        centres = (positions[:, index] - 0.5) * torch.tensor((width, height), device=device) / unit
        sizes = shape.size * torch.exp(shape.growth * times)
        rows, columns = _window(y, centres[:, 1], sizes, 1 / unit), _window(x, centres[:, 0], sizes, 1 / unit)
        local = (x[columns] - centres[:, :1], y[rows] - centres[:, 1:])
        colours, cover = _shape(shape, local, times, sizes, 1 / unit)
        part = pixels[:, rows, columns]
        part += cover[..., None] * (colours - part)
        masks[:, :, rows, columns] *= 1 - cover[:, None]
        masks[:, index, rows, columns] = cover
    return Clip(pixels, masks, positions, fps)


def _path(scene: Scene, shape: Shape, times: Tensor) -> Tensor:
    """Centres [F, 2] in fractions of the picture."""
    start = times.new_tensor((shape.x, shape.y))
    velocity = times.new_tensor((shape.velocity[0] - scene.pan, shape.velocity[1]))
    return start + times[:, None] * velocity


def _window(coordinates: Tensor, centres: Tensor, sizes: Tensor, pixel: float) -> slice:
    """The pixels of one axis that a shape can touch in any frame."""
    reach = REACH * sizes + pixel
    low, high = (centres - reach).min(), (centres + reach).max()
    inside = ((coordinates >= low) & (coordinates <= high)).nonzero()
    return slice(int(inside[0]), int(inside[-1]) + 1) if len(inside) else slice(0, 0)


def _rotate(x: Tensor, y: Tensor, radians: Tensor) -> tuple[Tensor, Tensor]:
    cos, sin = torch.cos(radians), torch.sin(radians)
    return x * cos + y * sin, y * cos - x * sin


def _cover(distance: Tensor, pixel: Tensor | float) -> Tensor:
    """How much of a pixel is inside an edge, from the signed distance to it (negative inside)."""
    return (0.5 - distance / pixel).clamp(0, 1)


def _wave(coordinate: Tensor, period: float, pixel: Tensor | float) -> Tensor:
    """An anti-aliased square wave between -1 and 1."""
    edge = ((coordinate / period).remainder(1) - 0.5).abs() - 0.25
    return (edge * (2 * period) / pixel).clamp(-1, 1)


def _dots(x: Tensor, y: Tensor, period: float, pixel: Tensor | float) -> Tensor:
    """Anti-aliased dots on a square grid, 0 to 1."""
    x, y = ((axis / period).remainder(1) - 0.5 for axis in (x, y))
    return _cover((torch.hypot(x, y) - 0.28) * period, pixel)


def _background(background: Background, x: Tensor, y: Tensor, pixel: float) -> Tensor:
    """Colours [F, H, W, 3] at x [F, W] and y [H]."""
    first, second = (x.new_tensor(BACKGROUNDS[name]) for name in background.colours)
    x, y = x[:, None, :], y[None, :, None]
    if background.pattern == "plain":
        return first.expand(*torch.broadcast_shapes(x.shape, y.shape), 3)
    u, v = _rotate(x, y, x.new_tensor(math.radians(background.angle)))
    if background.pattern == "gradient":
        return torch.lerp(first, second, (0.5 + u / 2.6)[..., None])  # linear on, wherever a pan goes
    u, v = u + background.phase[0] * background.period, v + background.phase[1] * background.period
    if background.pattern == "stripes":
        amount = 0.5 + 0.5 * _wave(u, background.period, pixel)
    elif background.pattern == "checks":
        amount = 0.5 + 0.5 * _wave(u, background.period, pixel) * _wave(v, background.period, pixel)
    else:
        amount = _dots(u, v, background.period, pixel)
    shade = first * 0.88 if background.colours[0] in LIGHT_BACKGROUNDS else first * 0.8 + 0.13
    return torch.lerp(first, shade, amount[..., None])


def _shape(
    shape: Shape, local: tuple[Tensor, Tensor], times: Tensor, sizes: Tensor, pixel: float
) -> tuple[Tensor, Tensor]:
    """Colours [F, H, W, 3] and cover [F, H, W], from x [F, W] and y [F, H] about the centre."""
    scale = sizes[:, None, None]
    x, y = local[0][:, None, :] / scale, local[1][:, :, None] / scale
    turned = torch.deg2rad(shape.angle + shape.turn_rate * times)[:, None, None]
    u, v = _rotate(x, y, turned)
    pixels = pixel / scale  # from here on lengths are in sizes
    distance = _distance(shape.kind, u, v)

    base = x.new_tensor(COLOURS[shape.colour])
    colours: Tensor = base
    if shape.texture == "glossy":
        lit = 1 - torch.hypot(x + 0.4, y + 0.5) / 1.9  # the light comes from the top left
        colours = base * (0.6 + 0.6 * lit).clamp(0.6, 1)[..., None]
        colours = torch.lerp(colours, torch.ones_like(base), (1.5 * (lit - 0.55)).clamp(0, 1)[..., None])
    elif shape.texture == "striped":
        colours = torch.lerp(base, base * 0.6, (0.5 + 0.5 * _wave(u, 0.8, pixels))[..., None])
    elif shape.texture == "spotted":
        spots = base * 0.65 if shape.colour == "white" else torch.lerp(base, torch.ones_like(base), 0.6)
        colours = torch.lerp(base, spots, _dots(u + 0.38, v + 0.38, 0.76, pixels)[..., None])
    outline = 1 - _cover(distance + _OUTLINE, pixels)
    return torch.lerp(colours, base * 0.45, outline[..., None]), _cover(distance, pixels)


def _distance(kind: Outline, u: Tensor, v: Tensor) -> Tensor:
    """Signed distance to the outline, negative inside, in sizes; beyond a corner that to the longer edge line."""
    radius = torch.hypot(u, v)
    if kind == "circle":
        return radius - 1
    if kind == "ring":
        inner, outer = _RING
        return (radius - (inner + outer) / 2).abs() - (outer - inner) / 2
    # All sectors are folded onto the half of one, whose single edge goes from a corner to the middle between corners.
    corners, outer, inner = _POLYGONS[kind]
    half = math.pi / corners
    angle = ((torch.atan2(u, -v) + half).remainder(2 * half) - half).abs()
    edge_x, edge_y = inner * math.cos(half) - outer, inner * math.sin(half)
    length = math.hypot(edge_x, edge_y)
    return ((radius * torch.cos(angle) - outer) * edge_y - radius * torch.sin(angle) * edge_x) / length
