"""What all tiers of tests share."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from .host.available import why_no_browser, why_no_host

LACKING = {"host": why_no_host, "ui": why_no_browser}
"""What each folder of tests lacks, if anything: then all of its tests are skipped, and say so."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skips what cannot run here, and puts the browser's and the host's tests first.

    Their files take minutes: shared out last, one process would run them while the others have nothing left to do.
    """
    items.sort(key=lambda item: item.path.parent.name, reverse=True)  # ui, host, core
    for folder, lacking in LACKING.items():
        reason = lacking()
        for item in items:
            if reason and Path(__file__).parent / folder in item.path.parents:
                item.add_marker(pytest.mark.skip(reason=reason))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """States the number of skipped tests, 0 included, which pytest's last line leaves out, and why each was."""
    skipped = terminalreporter.stats.get("skipped", [])
    terminalreporter.write_line(f"{len(skipped)} skipped")
    for reason, count in Counter(report.longrepr[2] for report in skipped).items():
        terminalreporter.write_line(f"{count:6} {reason}")
