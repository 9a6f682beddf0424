"""What every worker does with a job. A worker is an actor of Ray, in a process of its own; nothing here knows Ray."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import fsspec

from ..errors import InputError
from .jobs import Job
from .outputs import NoRoom


@dataclass(frozen=True)
class Report:
    """How a stage of a job went.

    Args:
        seconds: of the work alone.
        error: what went wrong, in one line; None if nothing.
        traceback: of the error.
        final: the same input would fail again.
        broken: the worker may be, so another has to take its place.
        no_room: why the output folder takes no more; None if it does.
    """

    seconds: float = 0.0
    error: str | None = None
    traceback: str = ""
    final: bool = False
    broken: bool = False
    no_room: str | None = None


class Stage:
    """A worker: `work` is what it does. Errors are reported rather than raised, since not every one can be pickled."""

    def ready(self) -> int:
        """Answers when the worker has started: its process id."""
        return os.getpid()

    def run(self, job: Job, value: Any) -> tuple[Report, Any]:
        """A stage of a job, on what the stage before it made."""
        start = time.perf_counter()
        try:
            made = self.work(job, value)
        except Exception as error:
            name = "" if isinstance(error, InputError) else f"{type(error).__name__}: "
            final, no_room = isinstance(error, InputError), error.reason if isinstance(error, NoRoom) else None
            # CUDA's errors are RuntimeErrors, and some leave a process that no further job can use.
            broken = isinstance(error, RuntimeError)
            line = " ".join(f"{name}{error}".split())[:2000]
            return Report(0.0, line, traceback.format_exc(), final, broken, no_room), None
        return Report(time.perf_counter() - start), made

    def close(self) -> None:
        """Lets go of what would outlive the worker. Not called where a worker is killed."""

    def work(self, job: Job, value: Any) -> Any:
        """What goes to the next stage."""
        raise NotImplementedError


@contextmanager
def local_copy(url: str) -> Iterator[str]:
    """A local path of a file that fsspec reads; a copy while it is in use, if it is not on this machine."""
    if "://" not in url:
        yield url
        return
    with tempfile.TemporaryDirectory() as temporary:
        copy = os.path.join(temporary, "copy" + os.path.splitext(url.partition("?")[0])[1][:8])
        with fsspec.open(url, "rb") as remote, open(copy, "wb") as file:
            shutil.copyfileobj(remote, file)
        yield copy
