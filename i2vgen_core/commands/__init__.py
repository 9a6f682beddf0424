"""The command line's commands, one module each: `add_arguments(parser)` and `run(options)`."""

from __future__ import annotations

import sysconfig
from importlib import metadata
from pathlib import Path

_PAGE = "library.md"


def pages() -> Path:
    """The folder with the pages of `docs/`: that of a checkout, or where pip has put it."""
    checkout = Path(__file__).parents[2] / "docs"
    if (checkout / _PAGE).is_file():
        return checkout
    try:
        files = metadata.files("comfyui-i2vgen-xl") or []
    except metadata.PackageNotFoundError:
        files = []
    found = [Path(str(file.locate())).resolve().parent for file in files if file.name == _PAGE]
    return found[0] if found else Path(sysconfig.get_path("data")) / "share" / "doc" / "comfyui-i2vgen-xl" / "docs"
