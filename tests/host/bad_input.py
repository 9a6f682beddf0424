"""Bad input through the blocks and the command line: a right result or one sentence, soon, and the host goes on.

    python -m tests.host.bad_input --count 2000 --seed 1

runs so many generated cases, states what became of them, and exits with 1 if one broke a rule.
"""

from __future__ import annotations

import argparse
import logging
import os
import re
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from i2vgen_core.__main__ import main as command_line
from i2vgen_core.media.video import read_video

from . import bad_cases, bad_commands
from .available import HOST, PACK
from .bad_cases import Case
from .bad_commands import Command
from .in_process import Host

MOST_SECONDS = 5.0
"""Of processor time with one thread, so that a busy machine fails no case."""

SENTENCE = re.compile(r"^[^\n]+: expected [^\n]+, found [^\n]+\. [^\n]+\.$")
"""An InputError's: what was expected, what was found, what to do."""

_LONGEST = 700  # characters of a message
_EVERY = 25  # cases after which a good graph has to give its frames again


@dataclass
class Report:
    """What became of the cases.

    Attributes:
        outcomes: how many ran, were refused by the host's own check, or by a message of ours.
        problems: cases that broke a rule, each with what it did.
        slowest: processor seconds, and the name of the case.
    """

    outcomes: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    slowest: tuple[float, str] = (0.0, "")

    @property
    def count(self) -> int:
        return sum(self.outcomes.values())


class Runner:
    """Runs cases on a host, and keeps the report.

    Args:
        host: with the pack loaded.
        folder: an empty one, for the command line's files.
    """

    def __init__(self, host: Host, folder: Path):
        self.report = Report()
        self._host, self._files, self._out = host, folder, folder / "out.mp4"
        bad_commands.write_files(folder)
        self._good = self._frames()

    def run(self, case: Case | Command) -> None:
        """Runs a case, and judges it."""
        start = time.process_time()
        try:
            outcome, problem = self._node(case) if isinstance(case, Case) else self._command(case)
        except Exception as error:
            outcome, problem = "raised", f"{type(error).__name__}: {str(error)[:300]}"
        seconds = time.process_time() - start
        self.report.outcomes[outcome] += 1
        self.report.slowest = max(self.report.slowest, (seconds, case.name))
        if seconds > MOST_SECONDS:
            problem = f"{problem or outcome}, after {seconds:.1f} s"
        if not problem and self.report.count % _EVERY == 0 and not torch.equal(self._frames(), self._good):
            problem = "after it, a good graph gives other frames"
        if problem:
            self.report.problems.append(f"{case.name}: {problem}")

    def _node(self, case: Case) -> tuple[str, str]:
        self._host.given.clear()
        self._host.given.update(case.given)
        result = self._host.run(case.graph, {"output": (case.at, 0)}, reuse_cache=True)
        if result.error is None:
            return "ran", "" if case.right(result.kept["output"]) else "ran, with a wrong result"
        if result.error_type is None:
            return "refused by the host's check", ""
        problem = _judge(result.error)
        if result.error_type not in ("InputError", "CheckpointError"):
            problem = f"{result.error_type} in {result.raised_in}: {result.error[:300]}"
        return "refused with a sentence", problem

    def _command(self, case: Command) -> tuple[str, str]:
        self._out.unlink(missing_ok=True)
        said = _Said()
        logger = logging.getLogger("i2vgen_xl")
        logger.addHandler(said)
        there = os.getcwd()
        os.chdir(self._files)  # a relative name is a file there
        try:
            code = command_line(case.arguments(self._files, self._out))
        except SystemExit as stopped:  # argparse's own, after it has said what an option takes
            return "refused by the command's parser", "" if stopped.code == 2 else f"exit code {stopped.code}"
        finally:
            os.chdir(there)
            logger.removeHandler(said)
        if code:
            error = said.lines[-1].removeprefix("error: ")
            return "refused with a sentence", _judge(error) or ("" if code == 2 else f"exit code {code}")
        written = next((path for path in (self._out, *self._elsewhere(case)) if path.is_file()), None)
        return "ran", "" if written and read_video(written)[0].isfinite().all() else "ran, without a video"

    def _elsewhere(self, case: Command) -> list[Path]:
        return [self._files / word.removeprefix("--out=") for word in case.changes if word.startswith("--out=")]

    def _frames(self) -> torch.Tensor:
        """Of the good graph, sampled and decoded anew."""
        graph = bad_cases.good()
        for number in (1, 0):
            for sampler in ("base", "refine"):
                graph[sampler]["inputs"]["seed"] = number
            frames = self._host.value(graph, "frames")
        return frames


class _Said(logging.Handler):
    """Keeps what a command says."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def _judge(message: str) -> str:
    if not SENTENCE.match(message):
        return f"not a sentence on what was expected, found and is to be done: {message[:300]!r}"
    return "" if len(message) <= _LONGEST else f"{len(message)} characters: {message[:100]!r}"


def run(runner: Runner, count: int, number: int) -> Report:
    """Runs `count` cases, drawn by a seed: the same ones on every machine with the same version of hypothesis."""
    cases = st.one_of(*[bad_cases.CASES] * 4, bad_commands.COMMANDS)

    @seed(number)
    @settings(
        max_examples=count,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(cases)
    def draw(case: Case | Command) -> None:
        runner.run(case)

    draw()
    return runner.report


def make_host(folder: Path) -> Host:
    """ComfyUI in this process with the built-in cascade alone, in an empty folder."""
    for name in ("input", "output", "models/diffusion_models", "models/diffusers"):
        (folder / name).mkdir(parents=True)
    return Host(HOST, PACK, folder)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(1)
    say: Callable[[Any], Any] = lambda text: sys.stdout.write(f"{text}\n")  # noqa: E731
    with TemporaryDirectory() as folder:
        files = Path(folder) / "files"
        files.mkdir()
        report = run(Runner(make_host(Path(folder) / "host"), files), options.count, options.seed)
    say(f"{report.count} cases: " + ", ".join(f"{count} {outcome}" for outcome, count in report.outcomes.most_common()))
    say("slowest: {:.2f} s of processor time, {}".format(*report.slowest))
    for problem in report.problems:
        say(f"BROKEN {problem}")
    say(f"{len(report.problems)} broke a rule")
    return int(bool(report.problems))


if __name__ == "__main__":
    sys.exit(main())
