"""What importing the core brings in: no host, no network, and only what the part needs."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CORE = ROOT / "i2vgen_core"
HOST = ("comfy", "comfy_api", "comfy_extras", "comfy_execution", "folder_paths", "nodes", "server", "execution")

PROBE = """
import importlib, json, pkgutil, socket, sys

asked, connected = [], []

class Recorder:
    # first in line: sees every import that is tried, those caught by an except included
    def find_spec(self, name, path=None, target=None):
        asked.append(name)

sys.meta_path.insert(0, Recorder())
socket.socket.connect = lambda *arguments: connected.append(str(arguments))
names = sys.argv[1:]
if not names:
    import i2vgen_core
    names = [m.name for m in pkgutil.walk_packages(i2vgen_core.__path__, "i2vgen_core.")]
for name in names:
    importlib.import_module(name)
json.dump({"asked": asked, "connected": connected, "names": names}, sys.stdout)
"""


def probe(*names):
    """Imports modules in a fresh process; all of the core if none is named."""
    done = subprocess.run(
        [sys.executable, "-c", PROBE, *names], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def everything():
    return probe()


def test_the_core_imports_no_host(everything):
    assert {"i2vgen_core.network.unet", "i2vgen_core.cascade", "i2vgen_core.__main__"} <= set(everything["names"])
    tops = {name.split(".")[0] for name in everything["asked"]}
    assert "torch" in tops, "the recorder sees nothing"
    assert not tops & set(HOST)


def test_nothing_is_fetched_at_import(everything):
    assert everything["connected"] == []


def test_networks_and_samplers_are_light():
    tops = {name.split(".")[0] for name in probe("i2vgen_core.network.unet", "i2vgen_core.sampling.solvers")["asked"]}
    assert "torch" in tops
    assert not tops & {"diffusers", "transformers", "kornia", "av", "PIL"}


def imports(file):
    """(module, level) of every import of a file, those inside functions included."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, 0) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or "", node.level


FILES = sorted(CORE.rglob("*.py"))


@pytest.mark.parametrize("file", FILES, ids=[str(file.relative_to(ROOT)) for file in FILES])
def test_no_import_of_the_host_nor_of_the_pack_by_name(file):
    found = list(imports(file))
    absolute = {name.split(".")[0] for name, level in found if level == 0}
    assert not absolute & {*HOST, "i2vgen_core"}
    depth = len(file.relative_to(ROOT).parts) - 1
    assert all(level <= depth for _, level in found), "an import that leaves the core"
