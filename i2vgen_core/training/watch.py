"""What watches a run: curves as a picture, TensorBoard, and sample videos."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ..errors import InputError
from ..media.images import write_image
from ..media.video import write_video
from .loop import LOG, Loop, autocast

Watcher = Callable[[int, dict[str, float]], None]
"""watch(step, figures), after a step; figures are empty where none were logged."""

CURVES = "curves.png"
_PANEL = 480, 240


def curves(folder: Path) -> Watcher:
    """Draws every figure of a run's log.csv over its steps into curves.png, whenever there are new ones."""

    def watch(step: int, figures: dict[str, float]) -> None:
        if figures:
            write_image(folder / CURVES, draw_curves(read_log(folder / LOG)))

    return watch


def read_log(file: Path) -> dict[str, list[tuple[int, float]]]:
    """Steps and values of each figure of a log.csv."""
    found: dict[str, list[tuple[int, float]]] = {}
    with file.open(newline="", encoding="utf-8") as stream:
        for row in csv.DictReader(stream):
            found.setdefault(row["figure"], []).append((int(row["step"]), float(row["value"])))
    return found


def draw_curves(figures: dict[str, list[tuple[int, float]]]) -> Tensor:
    """A picture [H, W, 3] in 0..1 with a panel for each figure, two in a row, over the same steps; one value is a dot."""
    width, height = _PANEL
    last = max((step for points in figures.values() for step, _ in points), default=1)
    image = Image.new("RGB", (2 * width, height * -(-len(figures) // 2)), "white")
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(14)
    for number, (name, points) in enumerate(figures.items()):
        x, y = width * (number % 2), height * (number // 2)
        values = [value for _, value in points]
        low, high = min(values), max(values)
        left, right, top, bottom = x + 70, x + width - 20, y + 34, y + height - 30
        span = (high - low) or 1.0
        line = [
            (left + (right - left) * step / last, bottom - (bottom - top) * (value - low) / span)
            for step, value in points
        ]
        draw.rectangle((left, top, right, bottom), outline="lightgrey")
        if len(line) > 1:
            draw.line(line, fill="navy", width=2)
        else:
            draw.ellipse([line[0][0] - 3, line[0][1] - 3, line[0][0] + 3, line[0][1] + 3], fill="navy")
        draw.text((left, y + 10), name, "black", font)
        draw.text((left - 6, top), f"{high:.3g}", "grey", font, anchor="rt")
        draw.text((left - 6, bottom), f"{low:.3g}", "grey", font, anchor="rb")
        draw.text((right, bottom + 6), f"step {last}", "grey", font, anchor="rt")
    return torch.from_numpy(np.array(image)).float() / 255


def summary_writer() -> Any:
    """TensorBoard's own class that writes figures. Raises InputError where the package is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise InputError("--tensorboard", "the package tensorboard", "none", "pip install tensorboard") from None
    return SummaryWriter


def tensorboard(folder: Path) -> Watcher:
    """Writes the figures for TensorBoard into RUN/tensorboard, through its own library. Raises InputError as above."""
    writer = summary_writer()(str(folder / "tensorboard"))

    def watch(step: int, figures: dict[str, float]) -> None:
        for name, value in figures.items():
            writer.add_scalar(name, value, step)
        if figures:
            writer.flush()

    return watch


def samples(loop: Loop[Any], every: int, fps: float, draw: Callable[[], Tensor]) -> Watcher:
    """Writes a video of the averaged weights into RUN/samples, once in so many steps.

    Args:
        loop: whose module is watched.
        every: steps.
        fps: of the files.
        draw: the frames [F, H, W, 3].
    """
    folder = loop.folder / "samples"

    def watch(step: int, figures: dict[str, float]) -> None:
        if step % every:
            return
        folder.mkdir(exist_ok=True)
        loop.module.eval()
        with loop.averaged(), autocast(loop.device, loop.config.precision):
            frames = draw()
        loop.module.train()
        write_video(folder / f"step_{step:06}.mp4", frames, fps)

    return watch
