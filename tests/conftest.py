"""What all tiers of tests share."""

import pytest


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """States the number of skipped tests, 0 included, which pytest's last line leaves out."""
    terminalreporter.write_line(f"{len(terminalreporter.stats.get('skipped', []))} skipped")
