"""Fixtures of the tests that open the real front end in headless Chromium."""

from collections.abc import Iterator

import pytest
import torch

from i2vgen_core.media.video import write_video

from ..host.available import HOST, PACK
from ..host.server import Server
from ..templates.settings import BASE_VIDEO
from .front_end import FrontEnd, opened


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """ComfyUI with nothing but the pack, and the video of the first template: all that the templates name."""
    folder = tmp_path_factory.mktemp("front-end")
    for name in ("input", "output/video"):
        (folder / name).mkdir(parents=True)
    name, _ = BASE_VIDEO.split()
    write_video(folder / "output" / name, torch.rand(3, 64, 128, 3), fps=8)
    running = Server(HOST, PACK, folder)
    yield running
    running.stop()


@pytest.fixture(scope="module")
def opened_front_end(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[FrontEnd]:
    """The front end on its first visit, one page for a file of tests: loading it takes most of their time. It is closed behind
    them, since Playwright's event loop would be in the way of the host's in this process."""
    with opened(server, tmp_path_factory.mktemp("screenshots")) as front_end:
        yield front_end


@pytest.fixture
def front_end(opened_front_end: FrontEnd) -> FrontEnd:
    """The same page for every test, with no dialog that an earlier one left open."""
    opened_front_end.close_dialogs()
    return opened_front_end
