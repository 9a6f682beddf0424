"""docs/compatibility.md: what comes of the host's own nodes beside ours."""

from __future__ import annotations

import pytest

from . import matrix
from .available import PACK
from .in_process import Host

HOST_VERSION = "0.33.0"  # of the tables
DOCUMENT = PACK / "docs" / "compatibility.md"


@pytest.fixture(scope="module")
def judge() -> matrix.Judge:
    return matrix.Judge()


@pytest.fixture(scope="module")
def ready(host: Host) -> Host:
    matrix.prepare(host)
    return host


@pytest.fixture(scope="module")
def outcomes() -> dict[str, matrix.Outcome]:
    """Of the rows that this session has run."""
    return {}


def _lacking(host: Host, row: matrix.Row) -> str | None:
    used = {each["class_type"] for make in (row.graph, row.saves) if make for each in make(matrix.plain()).values()}
    return next((name for name in sorted(used) if name not in host.nodes), None)


@pytest.mark.parametrize("row", matrix.ROWS, ids=lambda row: row.name)
def test_nodes(ready, judge, outcomes, row):
    if lacking := _lacking(ready, row):
        pytest.skip(f"this ComfyUI has no {lacking}")
    outcomes[row.name] = outcome = matrix.run(ready, row, judge)
    assert outcome.runs == (not row.refused)
    assert outcome.shape == (not row.refused)


def test_samplers_and_schedulers(ready, judge, outcomes):
    names = matrix.Names.of(ready)
    assert len(names.samplers) > 30 and len(names.schedulers) > 8
    for row in names.rows():
        outcomes[row.name] = outcome = matrix.run(ready, row, judge)
        assert outcome.runs and outcome.shape, row.name


def test_the_tables_in_the_docs_are_up_to_date(ready, outcomes):
    from comfyui_version import __version__

    if __version__ != HOST_VERSION:
        pytest.skip(f"the tables are of ComfyUI {HOST_VERSION}")
    names = matrix.Names.of(ready).rows()
    if set(outcomes) != {row.name for row in (*matrix.ROWS, *names)}:
        pytest.skip("not every row was run")
    document = DOCUMENT.read_text(encoding="utf-8")
    remedy = "run: python -m tests.host.matrix docs/compatibility.md"
    made = matrix.table(matrix.ROWS, [outcomes[row.name] for row in matrix.ROWS])
    assert matrix.written(document, "nodes") == made, remedy
    made = matrix.sampler_table(names, [outcomes[row.name] for row in names])
    assert matrix.written(document, "samplers") == made, remedy


def test_the_docs_have_the_rows_that_take_minutes():
    written = matrix.written(DOCUMENT.read_text(encoding="utf-8"), "slow").splitlines()[2:]
    assert [line.split(" | ")[0] for line in written] == [f"| {row.name}" for row in matrix.SLOW]
