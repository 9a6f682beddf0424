"""Figures as Markdown tables, for a terminal, a file or a block's text output."""

from __future__ import annotations

from collections.abc import Mapping


def plain_table(rows: Mapping[str, Mapping[str, float | None]], corner: str = "") -> str:
    """Figures by row and column, with two decimals; an empty cell for None. All rows have the first one's columns.

    Args:
        rows: by name, each by its columns' names.
        corner: what stands above the rows' names.
    """
    columns = list(next(iter(rows.values()), {}))
    lines = [f"| {corner} ".replace("  ", " ") + "| " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for name, row in rows.items():
        values = ("" if (value := row[column]) is None else f"{value:.2f}" for column in columns)
        lines.append(f"| {name} | " + " | ".join(values) + " |")
    return "\n".join(lines)
