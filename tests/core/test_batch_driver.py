"""Batches on a Ray cluster of two nodes: what dies, hangs or fails stops nothing, and nothing is made twice."""

import asyncio
import json
import logging
import os
from collections import Counter
from pathlib import Path

import pytest

os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # the loopback alone, on every system; read when ray is imported
ray = pytest.importorskip("ray", reason="ray not installed: pip install 'comfyui-i2vgen-xl[batch]'")

import batch_stubs  # noqa: E402  beside this file; conftest.py has put the folder on the path

from i2vgen_core.batch.driver import Batch, Plan, Policy  # noqa: E402
from i2vgen_core.batch.jobs import Job, name_of  # noqa: E402
from i2vgen_core.batch.ledger import Ledger  # noqa: E402
from i2vgen_core.batch.outputs import Outputs  # noqa: E402
from i2vgen_core.errors import InputError  # noqa: E402

pytestmark = pytest.mark.slow

QUICK_LOSS = {"_system_config": {"health_check_initial_delay_ms": 0, "health_check_period_ms": 1000}}
HERE = Path(__file__).parent
QUICK = Policy(attempts=2, backoff=0.05, timeout=20)


@pytest.fixture(scope="module")
def cluster():
    from ray.cluster_utils import Cluster

    seen = {"PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parents[1])])}
    # No usage statistics; and workers as nice as the tests are, since a busy machine starves Ray's own.
    seen |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"}
    made = Cluster(initialize_head=True, head_node_args={"include_dashboard": False, "env_vars": seen, **QUICK_LOSS})
    made.add_node(env_vars={**seen, "STUB_NODE": "2"})
    ray.init(address=made.address, log_to_driver=False, logging_level=logging.ERROR)
    yield made
    ray.shutdown()
    made.shutdown()


@pytest.fixture
def batch(cluster, tmp_path):
    """batch(contents): runs it in one folder; the counts, and the manifest's lines by row. Further calls go on there."""
    notes, out = tmp_path / "notes", tmp_path / "out"
    notes.mkdir()

    def run(contents, policy=QUICK, first=batch_stubs.First, workers=2):
        jobs = [Job(row, name_of(content, ""), 0, content) for row, content in enumerate(contents, 1)]
        outputs = Outputs(out)
        plans = [Plan(kind, (notes, out), workers) for kind in (first, batch_stubs.Last)]
        ledger = Ledger([plan.name for plan in plans], outputs, len(jobs))
        made = Batch(plans, outputs, policy, ledger)
        try:
            asyncio.run(made.run(jobs))
        finally:
            outputs.close()
            ledger.close()
        lines = [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()]
        for job in jobs:
            if file := outputs.find(job.name):
                assert file.read_text() == str((contents.index(job.content) + 1) * 2**20)
        assert not list(out.glob("*/.*"))
        return (
            (ledger.done, ledger.skipped, ledger.same, ledger.failed),
            lines,
            Counter((notes / "ran").read_text().splitlines()),
        )

    run.out = out
    return run


def test_what_fails_is_tried_again_and_set_aside_and_the_rest_is_made_once(batch):
    contents = [{"n": n} for n in range(8)]
    contents += [
        {"First": "kill"},
        {"Last": "once kill"},
        {"First": "fail"},
        {"First": "once break"},
        {"First": "refuse"},
        {"after": True},
        {"n": 0},
    ]
    counts, lines, ran = batch(contents)
    assert counts == (11, 0, 1, 3)
    assert len(lines) == 14
    by_row = {line["row"]: line for line in lines}
    assert {row: line["attempts"] for row, line in by_row.items() if line["attempts"] != 1} == dict.fromkeys(
        (9, 10, 11, 12, 14), 2
    )
    assert {row for row, line in by_row.items() if line["status"] == "failed"} == {9, 11, 13}
    assert "died" in by_row[9]["error"] and "_Unpicklable: no luck" in by_row[11]["error"]
    assert by_row[13]["error"] == "the image: expected one, found none. Give one."
    aside = (batch.out / "failed" / f"{by_row[11]['name']}.txt").read_text()
    assert 'raise _Unpicklable("no", "luck")' in aside
    assert by_row[10]["seconds"].keys() == {"first", "last"} and by_row[9]["seconds"] == {}
    assert ran["First 10"] == 1 and ran["Last 10"] == 2, "a stage that was done is not done again"
    assert ran["Last 14"] == 1, "made, although the worker did not live to say so"
    assert all(ran[f"Last {row}"] == 1 for row in range(1, 9))

    again, more, ran = batch(contents)
    assert again == (0, 11, 1, 3) and len(more) == 17
    assert ran["First 13"] == 2 and all(ran[f"First {row}"] == 1 for row in range(1, 9))


def test_a_worker_that_hangs_or_may_be_broken_is_replaced(batch):
    contents = [{"First": "once hang"}, {"First": "once break"}, {"First": "once fail"}]
    counts, lines, _ = batch(contents, Policy(2, 0.05, timeout=3), workers=1)
    assert counts == (3, 0, 0, 0)
    assert [line["attempts"] for line in lines] == [2, 2, 2]
    pids = {line for line in (batch.out.parent / "notes" / "pids").read_text().splitlines() if line.startswith("First")}
    assert len(pids) == 3


def test_workers_that_do_not_start_end_the_batch(batch):
    with pytest.raises(InputError, match="stage neverstarts: expected workers that start"):
        batch([{}], first=batch_stubs.NeverStarts, workers=1)


def test_a_full_disk_ends_the_batch(batch):
    with pytest.raises(InputError, match=r"^the output folder: .* without \(No space left on device\)"):
        batch([{}, {"First": "no room"}, *({"n": n} for n in range(20))], workers=1)


def test_a_node_that_is_lost_costs_its_work_alone(batch, caplog):
    counts, lines, ran = batch(
        [{"n": n, "First": "kill the node", "Last": "wait for that"} for n in range(12)], workers=3
    )
    assert counts == (12, 0, 0, 0)
    assert len(lines) == 12
    assert sum(ran[f"First {row}"] for row in range(1, 13)) > 12
    assert "from the first stage again" in caplog.text
