"""Fixtures of the tests that need ComfyUI. Where there is none, every test in this folder is skipped and says why."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from .in_process import Host
from .install_host import requirements, unmet
from .server import Server

PACK = Path(__file__).resolve().parents[2]
HOST = Path(os.environ.get("COMFYUI_PATH") or Path.home() / "ComfyUI").expanduser()


def _why_not() -> str | None:
    if not (HOST / "main.py").is_file():
        return "ComfyUI not found: set COMFYUI_PATH"
    if absent := unmet([Requirement(needed.name) for needed in requirements(HOST)]):
        return f"ComfyUI needs {', '.join(absent)}: run tests/host/install_host.py"
    return None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = [item for item in items if Path(__file__).parent in item.path.parents]
    if here and (reason := _why_not()):
        for item in here:
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def host(tmp_path_factory: pytest.TempPathFactory) -> Host:
    """ComfyUI in this process, on the CPU, with the pack loaded."""
    return Host(HOST, PACK, tmp_path_factory.mktemp("host"))


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """ComfyUI as a server of its own, on the CPU, with the pack linked in."""
    running = Server(HOST, PACK, tmp_path_factory.mktemp("server"))
    yield running
    running.stop()
