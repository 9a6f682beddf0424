"""What an evaluation finds: figures, beside what is asked of each."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean, median
from typing import Any, Literal

from torch import Tensor

from ..media.spectrum import Spectrum, band_levels


@dataclass(frozen=True)
class Range:
    """Where a figure is to be; both ends belong to it."""

    low: float = -math.inf
    high: float = math.inf

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high

    def words(self, unit: str) -> str:
        """For people: "22 dB or more"."""
        ends = [f"{end:g} {unit}".strip() for end in (self.low, self.high) if math.isfinite(end)]
        return " to ".join(ends) if len(ends) == 2 else f"{ends[0]} or {'more' if self.high == math.inf else 'less'}"


@dataclass(frozen=True)
class Criterion:
    """What is measured of each scene, and what is asked of all.

    Args:
        name: for people.
        unit: of the figure; "%" of a share has scenes' values of 0 and 1.
        bar: what has to be reached; None for what is only stated.
        aim: what is hoped for.
        share: the figure is the share of the scenes, else their median.
    """

    name: str
    unit: str
    bar: Range | None = None
    aim: Range | None = None
    share: bool = False


@dataclass(frozen=True)
class Figure:
    """A figure and what it is made of.

    Args:
        criterion: what it says.
        values: one a scene that it could be measured of.
    """

    criterion: Criterion
    values: tuple[float, ...]

    @property
    def value(self) -> float | None:
        """The median, or the share in %; None where no scene could be measured."""
        if not self.values:
            return None
        return 100 * fmean(self.values) if self.criterion.share else median(self.values)

    @property
    def verdict(self) -> Literal["aim", "pass", "miss", "not measured", ""]:
        """How it stands to bar and aim; nothing where there is no bar."""
        if self.criterion.bar is None:
            return ""
        if self.value is None:
            return "not measured"
        if self.criterion.aim is not None and self.value in self.criterion.aim:
            return "aim"
        return "pass" if self.value in self.criterion.bar else "miss"


@dataclass(frozen=True)
class Evaluation:
    """The outcome of `evaluate`.

    Args:
        figures: by the names of CRITERIA.
        spectra: "spatial" and "temporal": mean spectra of the base's videos, of the same refined, and of the true clips,
            all at the refined size; empty where nothing was refined.
        sheet: a picture [H, W, 3] to look at. Each scene has a row of the true clip and one of the base's video; where
            it was refined, one of that refined and one of the true clip refined follow.
    """

    figures: dict[str, Figure]
    spectra: dict[str, dict[str, Spectrum]]
    sheet: Tensor

    @property
    def missed(self) -> list[str]:
        """The names of the figures that miss their bars."""
        return [name for name, figure in self.figures.items() if figure.verdict == "miss"]

    def json(self) -> dict[str, Any]:
        """Figures and levels of the bands, for a JSON file."""
        return {
            "figures": {name: _figure_json(figure) for name, figure in self.figures.items()},
            "bands": band_levels(self.spectra),
        }


def table(figures: Mapping[str, Figure]) -> str:
    """Figures beside their bars and aims, as Markdown."""
    lines = ["| what | figure | bar | aim | verdict | scenes |", "|---|---|---|---|---|---|"]
    for figure in figures.values():
        c = figure.criterion
        value = "" if figure.value is None else f"{figure.value:.{2 if not c.unit else 1}f} {c.unit}".strip()
        bar, aim = ("" if wanted is None else wanted.words(c.unit) for wanted in (c.bar, c.aim))
        lines.append(f"| {c.name} | {value} | {bar} | {aim} | {figure.verdict} | {len(figure.values)} |")
    return "\n".join(lines)


def _figure_json(figure: Figure) -> dict[str, Any]:
    c = figure.criterion
    return {
        "name": c.name,
        "unit": c.unit,
        "value": figure.value,
        "bar": c.bar and c.bar.words(c.unit),
        "aim": c.aim and c.aim.words(c.unit),
        "verdict": figure.verdict,
        "values": [round(float(value), 4) for value in figure.values],
    }
