"""Where ComfyUI and Chromium are, and whether they can be tested with."""

import importlib.util
import os
import shutil
from pathlib import Path

from packaging.requirements import Requirement

from .install_host import requirements, unmet

PACK = Path(__file__).resolve().parents[2]
HOST = Path(os.environ.get("COMFYUI_PATH") or Path.home() / "ComfyUI").expanduser()
CHROMIUM = os.environ.get("CHROMIUM_PATH") or shutil.which("chromium") or shutil.which("chromium-browser")


def why_no_host() -> str | None:
    """What is missing; None if nothing is."""
    if not (HOST / "main.py").is_file():
        return "ComfyUI not found: set COMFYUI_PATH"
    if absent := unmet([Requirement(needed.name) for needed in requirements(HOST)]):
        return f"ComfyUI needs {', '.join(absent)}: run tests/host/install_host.py"
    return None


def why_no_browser() -> str | None:
    """What is missing for tests of the front end; None if nothing is."""
    if importlib.util.find_spec("playwright") is None:
        return "Playwright not installed: pip install playwright"
    if CHROMIUM is None:
        return "Chromium not found: set CHROMIUM_PATH"
    return why_no_host()
