"""Runs jobs one after the other in this process, without Ray: for one small machine."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from typing import Any

from ..errors import InputError
from .driver import Plan, Policy, short
from .jobs import Job
from .ledger import Ledger
from .outputs import NoRoom, Outputs
from .worker import Stage


def run_plain(
    plans: list[Plan],
    outputs: Outputs,
    policy: Policy,
    ledger: Ledger,
    jobs: Iterable[Job | tuple[int, str, InputError]],
) -> None:
    """Makes every output that is not there, as Batch does. A stage that hangs is waited for: nothing can end it.

    Args:
        plans: the stages, first to last; how many workers they ask for does not count.
        outputs: where the last stage writes.
        policy: what is tried again.
        ledger: of the run.
        jobs: see Batch.run.

    Raises:
        NoRoom: the output folder is full.
    """
    stages: list[Stage | None] = [None] * len(plans)
    try:
        for job in jobs:
            if isinstance(job, tuple):
                ledger.refuse(*job)
            elif ledger.admit(job):
                _make(job, plans, stages, outputs, policy, ledger)
    finally:
        for stage in stages:
            if stage:
                stage.close()


def _make(
    job: Job, plans: list[Plan], stages: list[Stage | None], outputs: Outputs, policy: Policy, ledger: Ledger
) -> None:
    seconds: dict[str, float] = {}
    failures = 0
    value: Any = None
    for index, plan in enumerate(plans):
        while True:
            stage = stages[index] = stages[index] or plan.kind(*plan.arguments)
            report, made = stage.run(job, value)
            if report.error is None:
                break
            if report.no_room:
                raise NoRoom(outputs.path, report.no_room)
            failures += 1
            if report.broken:
                stage.close()
                stages[index] = None
            if report.final or failures >= policy.attempts:
                ledger.give_up(job, report, failures, seconds, index)
                return
            logging.getLogger("i2vgen_xl").warning(
                "row %d: stage %s, attempt %d: %s", job.row, plan.name, failures, short(report.error)
            )
            time.sleep(policy.wait(failures))
        seconds[plan.name] = round(report.seconds, 3)
        value = made
        ledger.advance(index)
    ledger.finish(job, seconds, failures + 1)
