"""The pack as users get it: the archive of ComfyUI's registry, without what .comfyignore lists."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from . import graphs
from .available import HOST, PACK
from .server import Server
from .test_pack_loads import NODES


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A copy of the files that git knows, but for those that .comfyignore names."""
    if not (PACK / ".git").exists():
        pytest.skip("not a git checkout: what would be published is not known")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=PACK, capture_output=True, check=True, text=True).stdout
    ignored = [line for line in (PACK / ".comfyignore").read_text().splitlines() if line and line[0] != "#"]
    copy = tmp_path_factory.mktemp("published") / "i2vgen_xl"
    for name in filter(None, listed.split("\0")):
        if not name.startswith(tuple(ignored)):
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(PACK / name, copy / name)
    return copy


def test_it_runs_without_tests_and_benchmarks(published, tmp_path):
    assert not (published / "tests").exists() and not (published / "benchmarks").exists()
    assert {each.name for each in published.iterdir()} >= {
        "__init__.py",
        "nodes",
        "i2vgen_core",
        "workflows",
        "LICENSE",
    }
    server = Server(HOST, published, tmp_path)
    try:
        assert set(server.get("/object_info")) >= NODES
        offered = server.get("/workflow_templates")["i2vgen_xl"]
        assert set(offered) == {file.stem for file in (PACK / "workflows").glob("*.json")}
        graph = graphs.base_only() | {"photo": graphs.node("I2VGenXLTinyScene", seed=6)}
        graph = graphs.changed(graph, loader__bundle="tiny (built in)", base__steps=1)
        result = server.run(graph)
        assert result.error is None, result.error
        assert result.outputs
    finally:
        server.stop()
