"""Curves over a number, several plots beside each other, as one PNG."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

_COLOURS = ("#1f5fa8", "#c8501e", "#2a7f62", "#8a4fa3")
_WIDTH, _HEIGHT, _LEFT, _TOP, _BOTTOM = 560, 420, 76, 48, 62

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Plot:
    """One plot.

    Args:
        title: above it.
        across: what is below it.
        curves: points by the names for the legend, four at most.
        from_zero: whether the upright axis begins at 0; else just below the least value.
        ticks: words at places of the lower axis; the points' own numbers where there are none.
    """

    title: str
    across: str
    curves: Mapping[str, Points]
    from_zero: bool = True
    ticks: Mapping[float, str] | None = None


def draw(plots: Sequence[Plot], file: Path) -> None:
    """Writes plots beside each other."""
    picture = Image.new("RGB", (_WIDTH * len(plots), _HEIGHT), "white")
    for number, plot in enumerate(plots):
        picture.paste(_drawn(plot), (_WIDTH * number, 0))
    file.parent.mkdir(parents=True, exist_ok=True)
    picture.save(file, optimize=True)


def _drawn(plot: Plot) -> Image.Image:
    picture = Image.new("RGB", (_WIDTH, _HEIGHT), "white")
    pen, font, small = ImageDraw.Draw(picture), ImageFont.load_default(16), ImageFont.load_default(13)
    xs = sorted({x for points in plot.curves.values() for x, _ in points})
    ys = [y for points in plot.curves.values() for _, y in points]
    least, most = (0.0 if plot.from_zero else min(ys)), max(ys)
    step = _round_step((most - least) or 1)
    low, high = step * math.floor(least / step), step * math.ceil(most / step + 0.01)
    right, floor = _WIDTH - 22, _HEIGHT - _BOTTOM

    def place(x: float, y: float) -> tuple[float, float]:
        across = (x - xs[0]) / ((xs[-1] - xs[0]) or 1)
        return _LEFT + 12 + (right - _LEFT - 24) * across, floor - (floor - _TOP) * (y - low) / (high - low)

    for number in range(round((high - low) / step) + 1):
        y = place(xs[0], low + number * step)[1]
        pen.line((_LEFT, y, right, y), "#dddddd")
        pen.text((_LEFT - 8, y), f"{low + number * step:g}", "black", small, anchor="rm")
    written = -1e9
    for x, word in (plot.ticks or {x: f"{x:g}" for x in xs}).items():
        middle = place(x, low)[0]
        pen.line((middle, floor, middle, floor + 5), "black")
        if middle - written > 7 * len(word) + 6:
            pen.text((min(middle, _WIDTH - 4 * len(word)), floor + 8), word, "black", small, anchor="mt")
            written = middle
    for row, (colour, (name, points)) in enumerate(zip(_COLOURS, plot.curves.items(), strict=False)):
        places = [place(*point) for point in points]
        pen.line(places, colour, 3, joint="curve")
        for x, y in places:
            pen.ellipse((x - 4, y - 4, x + 4, y + 4), colour)
        if len(plot.curves) > 1:
            above = plot.from_zero or places[-1][1] > (floor + _TOP) / 2  # where the curves are not
            top = _TOP + 12 + 20 * row if above else floor - 14 - 20 * row
            side = (_LEFT + 16, "lm") if plot.from_zero else (right - 8, "rm")
            pen.text((side[0], top), name, colour, font, anchor=side[1])
    pen.text((_LEFT, _TOP / 2), plot.title, "black", font, anchor="lm")
    pen.text(((_LEFT + right) / 2, _HEIGHT - 12), plot.across, "black", font, anchor="ms")
    return picture


def _round_step(span: float) -> float:
    """1, 2 or 5 times a power of ten, for four to nine lines."""
    power = 10.0 ** math.floor(math.log10(span / 4))
    return next(power * factor for factor in (1, 2, 5, 10) if span / (power * factor) <= 8)
