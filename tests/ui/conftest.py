"""Fixtures of the tests that open the real front end in headless Chromium. Where that is missing, they are skipped."""

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import pytest

from ..host.available import HOST, PACK, skip, why_no_host
from ..host.server import Server
from .front_end import CHROMIUM, FrontEnd, opened


def _why_no_browser() -> str | None:
    if importlib.util.find_spec("playwright") is None:
        return "Playwright not installed: pip install playwright"
    if CHROMIUM is None:
        return "Chromium not found: set CHROMIUM_PATH"
    return None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    skip(items, Path(__file__).parent, why_no_host() or _why_no_browser())


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """ComfyUI with nothing but the pack: all that the templates name comes with it."""
    folder = tmp_path_factory.mktemp("front-end")
    for name in ("input", "output"):
        (folder / name).mkdir()
    running = Server(HOST, PACK, folder)
    yield running
    running.stop()


@pytest.fixture(scope="session")
def opened_front_end(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[FrontEnd]:
    """The front end on its first visit, one page for all tests: loading it takes most of their time."""
    with opened(server, tmp_path_factory.mktemp("screenshots")) as front_end:
        yield front_end


@pytest.fixture
def front_end(opened_front_end: FrontEnd) -> FrontEnd:
    """The same page for every test, with no dialog that an earlier one left open."""
    opened_front_end.close_dialogs()
    return opened_front_end
