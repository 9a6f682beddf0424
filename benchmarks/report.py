"""A result as a table, as a picture and as the section of docs/benchmarks.md."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

import diffusers
import torch
from PIL import Image, ImageDraw, ImageFont

Result = dict[str, Any]


def machine(threads: int) -> Result:
    """What a figure depends on: processor, threads and versions."""
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        names = [line.split(":")[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
        name = names[0] if names else name
    versions = {"torch": torch.__version__, "diffusers": diffusers.__version__}
    return {"processor": name, "threads": threads, "versions": versions}


def rows_of(result: Result) -> list[dict[str, Any]]:
    """All rows that there are."""
    return [row for rows in result["groups"].values() for row in rows]


def table(result: Result) -> str:
    """For a terminal."""
    lines = [f"{'what':62} {'found':>8} {'bar':>6} {'aim':>6}"]
    for row in rows_of(result):
        mark = "" if row["passed"] else "  MISSED"
        lines.append(f"{row['what']:62} {row['value']:8.3g} {row['bar']:6} {row['aim']:6}  {row['unit']}{mark}")
        lines.append(f"    {row['detail']}")
    return "\n".join(lines) + "\n"


def document_section(result: Result) -> str:
    """The table of docs/benchmarks.md and the words above it."""
    threads = "one core" if result["threads"] == 1 else f"{result['threads']} cores"
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    words = [
        f"Measured on {threads} of an {result['processor']} with {versions}, no GPU, by `python -m benchmarks"
        f"{' --quick' if result['quick'] else ''}`:",
        "the same made-up weights in both, runs in turns, medians of processor seconds, outputs compared.",
        "Memory is counted, tensor by tensor.",
    ]
    lines = ["\n".join(words), "", "| What | Found | Bar | Aim |", "|---|---|---|---|"]
    for row in rows_of(result):
        found = f"{row['value']:.3g} {row['unit']}" + ("" if row["passed"] else ", missed")
        lines.append(f"| {row['what']}: {row['detail']} | {found} | {row['bar']} | {row['aim']} |")
    return "\n".join(lines) + "\n"


def draw(result: Result, file: Path) -> None:
    """Each row's figure as a share of its bar, as bars; right of the line is better than the bar."""
    width, height, left = 1200, 46, 560
    rows = [row for row in rows_of(result) if row["bar"]]
    picture = Image.new("RGB", (width, height * (len(rows) + 1)), "white")
    pen, font = ImageDraw.Draw(picture), ImageFont.load_default(16)
    most = max(_better_than_bar(row) for row in rows)
    scale = (width - left - 90) / max(most, 1.2)
    for number, row in enumerate(rows):
        top, share = height * number + 8, _better_than_bar(row)
        pen.text((10, top + 5), row["what"], "black", font)
        pen.rectangle((left, top, left + share * scale, top + 28), "#2a7f62" if row["passed"] else "#b23a48")
        pen.text((left + share * scale + 6, top + 5), f"{row['value']:.3g}", "black", font)
    pen.line((left + scale, 0, left + scale, height * len(rows)), "black", 2)
    pen.text((left + scale - 14, height * len(rows) + 8), "bar", "black", font)
    file.parent.mkdir(parents=True, exist_ok=True)
    picture.save(file)


def _better_than_bar(row: dict[str, Any]) -> float:
    return row["value"] / row["bar"] if row["at_least"] else row["bar"] / row["value"]
