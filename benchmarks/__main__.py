"""`python -m benchmarks [--quick] [--out DIR] [--document JSON]`: the table of what this project costs beside diffusers."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import torch

from tests.host.available import why_no_host

from .report import document_section, draw, machine, rows_of, table
from .rows import GROUPS, QUICK, Plan, nodes

_DOCUMENT = Path(__file__).parents[1] / "docs" / "benchmarks.md"
_START, _END = "<!-- benchmarks -->\n", "<!-- end of benchmarks -->\n"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="smaller latents, one repeat: 3 minutes on 2 cores")
    parser.add_argument("--threads", type=int, default=1, help="of torch (%(default)s); seconds are of the processor")
    parser.add_argument(
        "--only", nargs="+", choices=GROUPS, help="these alone; the JSON keeps what it has of the others"
    )
    parser.add_argument("--out", type=Path, default=Path("build/benchmarks"), help="JSON and plot (%(default)s)")
    parser.add_argument(
        "--document", type=Path, metavar="JSON", help="write docs/benchmarks.md's table from a file; measure nothing"
    )
    options = parser.parse_args()
    if options.document:
        _write_document(json.loads(options.document.read_text()))
        return 0
    torch.set_num_threads(options.threads)
    options.out.mkdir(parents=True, exist_ok=True)
    file = options.out / "benchmarks.json"
    result = machine(options.threads) | {"quick": options.quick, "groups": {}}
    if options.only and file.is_file():
        result["groups"] = json.loads(file.read_text())["groups"]
    start = time.perf_counter()
    absent = why_no_host()
    for name in options.only or GROUPS:
        if absent and GROUPS[name] is nodes:
            sys.stderr.write(f"without the rows of {name}: {absent}\n")
            continue
        found = result["groups"][name] = []
        for row in GROUPS[name](QUICK if options.quick else Plan()):
            found.append(row.to_json())
            sys.stderr.write(f"{time.perf_counter() - start:5.0f} s  {row.what}: {row.value:.3g} {row.unit}\n")
        file.write_text(json.dumps(result, indent=1) + "\n")
    draw(result, options.out / "benchmarks.png")
    sys.stdout.write(table(result))
    return int(not all(row["passed"] for row in rows_of(result)))


def _write_document(result: dict) -> None:
    text = _DOCUMENT.read_text()
    before, rest = text.split(_START)
    _, after = rest.split(_END)
    _DOCUMENT.write_text(before + _START + document_section(result) + _END + after)


if __name__ == "__main__":
    sys.exit(main())
