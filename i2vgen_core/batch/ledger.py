"""What becomes of each job of a run: counts, progress bars, the manifest, and the links by name."""

from __future__ import annotations

import logging
import sys
from typing import Any

from tqdm import tqdm

from ..errors import InputError
from .jobs import Job
from .outputs import Outputs, key_of
from .worker import Report

logger = logging.getLogger("i2vgen_xl")

_NAMED = 5  # of what is counted, so many are named


class Ledger:
    """The books of a run, however its jobs are run.

    Args:
        stages: names of the stages, first to last.
        outputs: where the last stage writes.
        count: of the jobs, for the time left.

    Attributes:
        done, skipped, same, failed: jobs made, there before, equal to one of another row, and given up.
    """

    def __init__(self, stages: list[str], outputs: Outputs, count: int):
        self.done = self.skipped = self.same = self.failed = 0
        self._outputs = outputs
        self._failures: list[str] = []
        self._rows: dict[int, int] = {}
        self._titles: dict[str, list[str]] = {}
        quiet = not sys.stderr.isatty()  # a log: a line now and then
        self._bars = [
            tqdm(total=count, desc=stage, unit="job", position=index, mininterval=30 if quiet else 0.5)
            for index, stage in enumerate(stages)
        ]

    def close(self) -> None:
        """Ends the progress bars."""
        for bar in self._bars:
            bar.close()

    def admit(self, job: Job) -> bool:
        """Whether a job is to be made: not if it is there, nor if another row says the same."""
        first = self._rows.setdefault(key_of(job.name), job.row)
        there = self._outputs.find(job.name)
        if first != job.row:
            self.same += 1
            if self.same <= _NAMED:
                logger.info("row %d says the same as row %d: one output for both", job.row, first)
            if job.name in self._titles:
                self._titles[job.name].append(job.title)
        elif there:
            self.skipped += 1
            if not self._outputs.is_recorded(job.name):  # the batch before was killed before its line
                self._outputs.forget(job.name)
                self._outputs.record(self._line(job, "done", {}, 0))
        else:
            self._titles[job.name] = [job.title]
            return True
        if there:
            self._outputs.link(job.name, job.title)
        self._shorten(0)
        return False

    def is_there(self, job: Job) -> bool:
        """Whether its output is whole, whatever its worker said."""
        return self._outputs.find(job.name) is not None

    def advance(self, stage: int) -> None:
        """A job has passed a stage for the first time."""
        self._bars[stage].update()

    def finish(self, job: Job, seconds: dict[str, float], attempts: int) -> None:
        """A job is made."""
        self.done += 1
        self._outputs.forget(job.name)
        self._outputs.record(self._line(job, "done", seconds, attempts))
        for title in self._titles.pop(job.name):
            self._outputs.link(job.name, title)

    def give_up(self, job: Job, report: Report, attempts: int, seconds: dict[str, float], reached: int) -> None:
        """A job is set aside, with its traceback."""
        self._fail(job.row, report.error or "", reached)
        self._titles.pop(job.name)
        if report.final:
            self._outputs.forget(job.name)
        line = self._line(job, "failed", seconds, attempts) | {"error": report.error}
        self._outputs.record(line, f"row {job.row}: {job.content}\n\n{report.traceback}")

    def refuse(self, number: int, name: str, error: InputError) -> None:
        """A row is no job."""
        self._fail(number, str(error), 0)
        line = {"name": name, "row": number, "status": "failed", "file": None, "seed": None, "attempts": 0}
        self._outputs.record(line | {"seconds": {}, "error": str(error), "job": None}, f"row {number}: {error}\n")

    def say(self) -> None:
        """The counts, and the first failures with their reasons."""
        same = f", {self.same} the same as another row" if self.same else ""
        logger.info("%d made, %d there before, %d failed%s", self.done, self.skipped, self.failed, same)
        for failure in self._failures:
            logger.info("failed: %s", failure)
        if self.failed > len(self._failures):
            more = self.failed - len(self._failures)
            logger.info("... and %d more: see %s", more, self._outputs.path / "failed")

    def _line(self, job: Job, status: str, seconds: dict[str, float], attempts: int) -> dict[str, Any]:
        file = self._outputs.find(job.name)
        return {
            "name": job.name,
            "title": job.title,
            "row": job.row,
            "status": status,
            "file": file and file.relative_to(self._outputs.path).as_posix(),
            "seed": job.seed,
            "attempts": attempts,
            "seconds": seconds,
            "error": None,
            "job": job.content,
        }

    def _fail(self, row: int, reason: str, reached: int) -> None:
        self.failed += 1
        self._shorten(reached)
        if len(self._failures) < _NAMED:
            self._failures.append(f"row {row}: {reason}")

    def _shorten(self, reached: int) -> None:
        for bar in self._bars[reached:]:
            bar.total -= 1
