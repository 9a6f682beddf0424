"""ComfyUI with this pack, in this process."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.host import graphs
from tests.host.available import HOST, PACK, why_no_host
from tests.host.in_process import Host


@contextmanager
def comfyui() -> Iterator[tuple[Host, Path]]:
    """The host with the tests' photo in its `input`, and its folder, which is gone afterwards.

    Raises SystemExit where there is no ComfyUI at COMFYUI_PATH or ~/ComfyUI.
    """
    if why := why_no_host():
        raise SystemExit(why)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "input").mkdir()
        (folder / "output").mkdir()
        (folder / "input" / graphs.PHOTO).write_bytes((PACK / "demo" / "scene.png").read_bytes())
        yield Host(HOST, PACK, folder), folder
