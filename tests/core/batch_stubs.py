"""Two stages that do as their job says, for tests of the driver. A module, so that Ray's workers can import it."""

import os
import signal
import sys
import time
from pathlib import Path

import numpy as np

from i2vgen_core.batch.outputs import NoRoom, publish
from i2vgen_core.batch.worker import Stage
from i2vgen_core.errors import InputError


class _Unpicklable(Exception):
    def __init__(self, one, two):
        super().__init__(f"{one} {two}")
        self.stream = sys.stderr


def _first_time(folder: Path, name: str) -> bool:
    try:
        (folder / name).touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def _kill_node():
    """The raylet is the worker's parent; Ray ends all workers of a node whose raylet is gone."""
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(60)


class First(Stage):
    """Makes an array too large to travel inside a message, so that it lies in the object store."""

    def __init__(self, notes: Path, out: Path):
        self._notes, self._out, self._calls = notes, out, 0

    def work(self, job, value):
        with (self._notes / "ran").open("a") as file:
            file.write(f"{type(self).__name__} {job.row}\n")
        with (self._notes / "pids").open("a") as file:
            file.write(f"{type(self).__name__} {os.getpid()}\n")
        what = job.content.get(type(self).__name__, "")
        if what.startswith("once ") and _first_time(self._notes, f"{job.name} {what}"):
            what = what.removeprefix("once ")
        self._do(what, job)
        return self._make(job, value)

    def _do(self, what, job):
        if what == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if what == "hang":
            time.sleep(600)
        if what == "fail":
            raise _Unpicklable("no", "luck")
        if what == "break":
            raise RuntimeError("CUDA error")
        if what == "no room":
            raise NoRoom(self._out, "No space left on device")
        if what == "refuse":
            raise InputError("the image", "one", "none", "Give one.")
        if what == "kill the node":
            self._calls += 1
            if os.environ.get("STUB_NODE") != "2":
                what = "wait for that" if self._calls > 1 else ""  # so that the other node gets jobs in any case
            elif self._calls == 2 and _first_time(self._notes, "node"):
                _kill_node()
        while what == "wait for that" and not (self._notes / "node").exists():
            time.sleep(0.1)

    def _make(self, job, value):
        return np.full(2**20, job.row, np.uint8)


class Last(First):
    """Writes the file."""

    def _make(self, job, value):
        file = self._notes / f"{job.name} {os.getpid()}.txt"
        file.write_text(str(value.sum()))
        publish(file, self._out, job.name)
        if job.content.get("after") and _first_time(self._notes, f"{job.name} after"):
            os.kill(os.getpid(), signal.SIGKILL)


class NeverStarts(First):
    """A worker whose model is not there."""

    def __init__(self, notes: Path, out: Path):
        raise InputError("the model", "one", "none", "Give one.")
