"""Where ComfyUI is, and whether it can be tested with."""

import os
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from .install_host import requirements, unmet

PACK = Path(__file__).resolve().parents[2]
HOST = Path(os.environ.get("COMFYUI_PATH") or Path.home() / "ComfyUI").expanduser()


def why_no_host() -> str | None:
    """What is missing; None if nothing is."""
    if not (HOST / "main.py").is_file():
        return "ComfyUI not found: set COMFYUI_PATH"
    if absent := unmet([Requirement(needed.name) for needed in requirements(HOST)]):
        return f"ComfyUI needs {', '.join(absent)}: run tests/host/install_host.py"
    return None


def skip(items: list[pytest.Item], folder: Path, reason: str | None) -> None:
    """Skips a folder's tests if there is a reason."""
    for item in items:
        if reason and folder in item.path.parents:
            item.add_marker(pytest.mark.skip(reason=reason))
