"""The frames that the built-in cascade makes of the demo's picture, as pictures in this folder.

    python tests/frames/make.py

writes them anew, which is due when the weights change, and at no other time: tests compare with them. Look at them.
"""

from __future__ import annotations

import sys
from pathlib import Path

from torch import Tensor

from i2vgen_core.cascade import Cascade
from i2vgen_core.media.images import read_image, write_image
from i2vgen_core.media.video import contact_sheet
from i2vgen_core.sampling.options import BaseOptions, RefineOptions

HERE = Path(__file__).resolve().parent
IMAGE = HERE.parents[1] / "demo" / "scene.png"
PROMPT = "A green triangle slides gently up."
REFINE_PROMPT = "a green triangle"
BASE, REFINE = BaseOptions(steps=20, seed=1), RefineOptions(steps=8, seed=1)
SHOWN = (0, 5, 10, 15)
"""Of the 16 frames."""


def base(cascade: Cascade) -> Tensor:
    """The base's frames [16, 64, 128, 3]."""
    return cascade.decode(cascade.sample_base(cascade.condition(read_image(IMAGE), PROMPT, BASE), BASE))


def refined(cascade: Cascade, frames: Tensor) -> Tensor:
    """The refined frames [16, 144, 288, 3]."""
    return cascade.decode(cascade.sample_refiner(cascade.encode_video(frames, REFINE), REFINE_PROMPT, REFINE))


def sheet(frames: Tensor) -> Tensor:
    """What a picture in this folder shows of frames [16, H, W, 3]: [2H, 2W, 3]."""
    return contact_sheet(frames[list(SHOWN)], columns=2)


def main() -> None:
    cascade = Cascade()
    frames = base(cascade)
    write_image(HERE / "base.png", sheet(frames))
    write_image(HERE / "refined.png", sheet(refined(cascade, frames)))


if __name__ == "__main__":
    sys.exit(main())
