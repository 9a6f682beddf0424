"""Photographs that a camera moves over: a prepared folder's `photos/`, pictures of any size."""

from __future__ import annotations

import random
from functools import lru_cache
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from ..media.images import read_image
from ..media.world import Split

FOLDER = "photos"
HELD_OUT = "held_out"
"""What a name begins with that training does not see."""

_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
_REACH = 1.5  # heights that a view may see at its widest, where a camera zooms out or pans


class Photos:
    """A folder's photographs.

    Args:
        path: the prepared folder; there may be none in it.
    """

    def __init__(self, path: Path):
        files = [file for file in sorted((path / FOLDER).glob("*")) if file.suffix.lower() in _SUFFIXES]
        self.files = files
        self._of = {
            "train": [i for i, file in enumerate(files) if not file.name.startswith(HELD_OUT)],
            "held_out": [i for i, file in enumerate(files) if file.name.startswith(HELD_OUT)],
        }
        self._read = lru_cache(maxsize=64)(self._reduced)

    def count(self, split: Split) -> int:
        """How many a split has."""
        return len(self._of[split])

    def draw(self, rng: random.Random, split: Split) -> int:
        """A number for `at`: which photograph, and which part of it."""
        return rng.choice(self._of[split]) + 1000 * rng.getrandbits(20)

    def at(self, number: int, near: float, x: Tensor, y: Tensor) -> Tensor:
        """Colours [F, H, W, 3] at places x [F, 1, W] and y [F, H, 1], in picture heights from the centre of the view.

        Args:
            number: of `draw`.
            near: 0 for as much of the photograph as a camera's path leaves room for, to 1 for a third of it.
            x, y: the places; beyond the photograph it is mirrored.
        """
        which, part = number % 1000, random.Random(number // 1000)
        pixels = (x[0, 0, 1] - x[0, 0, 0]).item()  # picture heights a pixel, at the first frame
        width, height = self._size(which)
        # So that a view of 12:7 with its path fits: pixels of the photograph to a picture height.
        widest = min(height / _REACH, width / (_REACH * 12 / 7))
        scale = max(widest * (1 - 0.67 * near), min(widest, 0.6 / pixels))
        reduction = max(0, int(torch.tensor(scale * pixels).log2().round()))
        picture = self._read(which, reduction)
        room_x, room_y = (width - scale * 12 / 7) / 2, (height - scale) / 2
        centre_x = width / 2 + part.uniform(-1, 1) * max(0.0, room_x - 0.4 * scale)
        centre_y = height / 2 + part.uniform(-1, 1) * max(0.0, room_y - 0.25 * scale)
        u, v = (x * scale + centre_x) / width * 2 - 1, (y * scale + centre_y) / height * 2 - 1
        grid = torch.stack(torch.broadcast_tensors(u, v), dim=-1)
        picture = picture.expand(len(grid), -1, -1, -1)
        return F.grid_sample(picture, grid, padding_mode="reflection", align_corners=False).movedim(1, -1)

    @lru_cache(maxsize=64)  # noqa: B019 - as long as the folder
    def _size(self, which: int) -> tuple[int, int]:
        height, width = self._read(which, 0).shape[-2:]
        return width, height

    def _reduced(self, which: int, halvings: int) -> Tensor:
        """[1, 3, H, W], halved so many times."""
        picture = read_image(self.files[which])[..., :3].movedim(-1, 1).float()
        return F.avg_pool2d(picture, 2**halvings) if halvings else picture
