"""`inspect`: what a file is, and which loader takes it."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ..checkpoints.inspect import Inspection, inspect_file


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `inspect`."""
    parser.add_argument("file", type=Path, metavar="FILE", help="a file of weights, or a folder with them")


def run(options: argparse.Namespace) -> int:
    """Says what it is; 1 if it holds no whole network that this project uses."""
    found = inspect_file(options.file)
    sys.stdout.write("\n".join([f"file: {options.file.name}, {_size(options.file)}", *_lines(found)]) + "\n")
    return int(not any(finding.whole for finding in found.findings))


def _lines(found: Inspection) -> list[str]:
    numbers = max(1, sum(found.types.values()))
    types = ", ".join(f"{name} {count / numbers:.1%}" for name, count in found.types.most_common())
    lines = [f"tensors: {found.tensors}, {types}"]
    for name in ("kind", "source", "source_sha256"):
        if name in found.metadata:
            lines.append(f"says {name}: {found.metadata[name][:200]!r}")
    if not found.findings:
        lines.append("is: nothing that this project reads")
    for finding in found.findings:
        lines.append(f"is: {finding.title}" if finding.whole else f"is: no usable {finding.part}")
        lines.append(f"  {'sure' if finding.whole else 'why'}: {finding.sure}")
        if finding.whole:
            lines.append(f"  parameters: {finding.parameters / 1e6:,.1f} million")
            lines.append(f"  loader: {finding.loader}")
    return lines


def _size(path: Path) -> str:
    if not path.is_file():
        return "a folder"
    size = path.stat().st_size
    return f"{size / 1e9:.2f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"
