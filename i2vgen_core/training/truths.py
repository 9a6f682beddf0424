"""What the guides of a composer say of a rendered clip, exactly: its lines, its depth, its motion, and a hole in it."""

from __future__ import annotations

import random

import torch
from kornia.filters import sobel
from torch import Tensor

from ..media.guides import Guides
from ..media.rendering import Clip
from ..media.world import Scene

_LINES = 6.0  # a Sobel filter's answer to a shape's edge is about a sixth of the step


def true_guides(scene: Scene, clip: Clip, seed: int = 0) -> Guides:
    """All guides of a clip; see media.guides.

    Args:
        scene: what was rendered.
        clip: its rendering, of two frames or more.
        seed: of the hole.
    """
    lines = sketch(clip.frames)
    height, width = clip.frames.shape[1:3]
    return Guides(
        image=clip.frames[:1],
        depth=depth(clip),
        sketch=lines,
        single_sketch=lines[:1],
        motion=flow(scene, clip),
        masked=clip.frames,
        mask=hole(height, width, seed)[None],
    )


def sketch(frames: Tensor) -> Tensor:
    """The edges of frames [F, H, W, 3] in 0..1: bright lines on black, [F, H, W, 3] in 0..1."""
    edges = sobel(frames.movedim(-1, 1)).amax(1)
    return (_LINES * edges).clamp(0, 1)[..., None].expand(-1, -1, -1, 3)


def depth(clip: Clip) -> Tensor:
    """The order of the layers, [F, H, W, 3] in 0..1: the shape in front is 1, the next 1/2, the background 0."""
    nearness = 1 / torch.arange(1, clip.masks.shape[1] + 1, device=clip.masks.device)
    return torch.einsum("fshw,s->fhw", clip.masks, nearness)[..., None].expand(-1, -1, -1, 3)


def flow(scene: Scene, clip: Clip) -> Tensor:
    """How far what each pixel shows has moved since the frame before, [F - 1, H, W, 2] in pixels, x to the right and y down.

    Args:
        scene: what was rendered.
        clip: its rendering.
    """
    count, _, height, width = clip.masks.shape
    x = (torch.arange(width) + 0.5).expand(count - 1, height, -1)
    y = (torch.arange(height) + 0.5)[:, None].expand(count - 1, -1, width)
    moved = torch.zeros(count - 1, height, width, 2)
    moved[..., 0] = -scene.pan * width / clip.fps
    centres = clip.positions * torch.tensor((width, height))
    for index, shape in enumerate(scene.shapes):
        now, before = (each[:, None, None] for each in (centres[1:, index], centres[:-1, index]))
        turn = torch.deg2rad(torch.tensor(shape.turn_rate / clip.fps))
        grown = torch.exp(torch.tensor(shape.growth / clip.fps))
        along, down = x - now[..., 0], y - now[..., 1]
        there = torch.stack(
            (along * turn.cos() + down * turn.sin(), down * turn.cos() - along * turn.sin()), dim=-1
        )  # turned back
        place = before + there / grown
        shown = clip.masks[1:, index] > 0.5
        moved[shown] = (torch.stack((x, y), dim=-1) - place)[shown]
    return moved


def hole(height: int, width: int, seed: int) -> Tensor:
    """A place to be made anew, [H, W], 1 inside a rectangle of a quarter to a half of the picture, 0 outside."""
    rng = random.Random(f"hole {seed}")
    wide, high = (round(side * rng.uniform(0.5, 0.7)) for side in (width, height))
    left, top = rng.randint(0, width - wide), rng.randint(0, height - high)
    made = torch.zeros(height, width)
    made[top : top + high, left : left + wide] = 1
    return made
