"""Fixtures of the tests that open the real front end in headless Chromium."""

from collections.abc import Iterator

import pytest

from ..host.available import HOST, PACK
from ..host.server import Server
from .front_end import FrontEnd, opened


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
