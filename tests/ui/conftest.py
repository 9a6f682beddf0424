"""Fixtures of the tests that open the real front end in headless Chromium. Where that is missing, they are skipped."""

import importlib.util
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from ..host.available import HOST, PACK, skip, why_no_host
from ..host.server import Server
from .front_end import FrontEnd

CHROMIUM = os.environ.get("CHROMIUM_PATH") or shutil.which("chromium") or shutil.which("chromium-browser")


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
    from playwright.sync_api import sync_playwright

    switches = ["no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-background-networking"]
    switches += ["disable-component-update", "disable-sync"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=[f"--{switch}" for switch in switches])
        page = browser.new_page(viewport={"width": 1920, "height": 1080})
        yield FrontEnd(page, server, tmp_path_factory.mktemp("screenshots"))
        browser.close()


@pytest.fixture
def front_end(opened_front_end: FrontEnd) -> FrontEnd:
    """The same page for every test, with no dialog that an earlier one left open."""
    opened_front_end.close_dialogs()
    return opened_front_end
