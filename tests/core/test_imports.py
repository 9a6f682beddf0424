"""What the pack imports: rooms on floors with all arrows pointing down, no host and no network in the core."""

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CORE, BLOCKS = ROOT / "i2vgen_core", ROOT / "nodes"
HOST = ("comfy", "comfy_api", "comfy_extras", "comfy_execution", "folder_paths", "nodes", "server", "execution")
HOST_ALONE = (*HOST, "latent_preview", "node_helpers")
"""What only nodes/host may import, but for comfy_api, with which a block declares its inputs and outputs."""

FLOORS = (
    ("errors", "assets"),
    ("config",),
    ("memory", "releases"),
    ("media", "network", "poses"),
    ("encoders",),
    ("sampling",),
    ("checkpoints",),
    ("parts",),
    ("cascade",),
    ("family", "editing", "directing", "steering", "shots"),
    ("training", "batch", "__init__"),
    ("commands",),
    ("__main__",),
)
"""The rooms of i2vgen_core, folders and single files, from the ground up. A room imports from the floors below its own."""

TRAINS = {"i2vgen_core/commands/train.py", "i2vgen_core/commands/evaluate.py"}
"""What may reach training/, beside training/ itself."""

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


@pytest.mark.slow
def test_the_core_imports_no_host(everything):
    assert {"i2vgen_core.network.unet", "i2vgen_core.cascade", "i2vgen_core.__main__"} <= set(everything["names"])
    tops = {name.split(".")[0] for name in everything["asked"]}
    assert "torch" in tops, "the recorder sees nothing"
    assert not tops & set(HOST)


@pytest.mark.slow
def test_nothing_is_fetched_at_import(everything):
    assert everything["connected"] == []


def test_networks_and_samplers_are_light():
    tops = {name.split(".")[0] for name in probe("i2vgen_core.network.unet", "i2vgen_core.sampling.solvers")["asked"]}
    assert "torch" in tops
    assert not tops & {"diffusers", "transformers", "kornia", "av", "PIL"}


def test_the_library_imports_what_is_asked_for():
    assert not {name.split(".")[0] for name in probe("i2vgen_core")["asked"]} & {"torch", "numpy", "PIL"}


def imports(file):
    """Every import statement of a file, those inside functions and under TYPE_CHECKING included."""
    nodes = ast.walk(ast.parse(file.read_text(encoding="utf-8")))
    return [node for node in nodes if isinstance(node, ast.Import | ast.ImportFrom)]


def absolute(file):
    """Top names of the packages that a file imports from outside the pack."""
    for node in imports(file):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif node.level == 0:
            yield node.module.split(".")[0]


def relative(file):
    """The pack's files that a file imports."""
    for node in imports(file):
        if isinstance(node, ast.ImportFrom) and node.level:
            module = file.parents[node.level - 1].joinpath(*(node.module or "").split("."))
            for alias in node.names:
                places = (module / f"{alias.name}.py", module / alias.name / "__init__.py", module.with_suffix(".py"))
                yield next((place for place in places if place.is_file()), module / "__init__.py")


def name(file):
    return file.relative_to(ROOT).as_posix()


def room(file):
    return file.relative_to(CORE).parts[0].removesuffix(".py")


def reached(graph, file):
    """What a file imports, and what that imports, and so on; the file itself where there is a circle."""
    found, left = set(), [file]
    while left:
        new = graph[left.pop()] - found
        found |= new
        left += new
    return found


FILES = sorted(CORE.rglob("*.py"))
GRAPH = {file: set(relative(file)) for file in [*FILES, *BLOCKS.rglob("*.py")]}
FLOOR = {name: number for number, names in enumerate(FLOORS) for name in names}


@pytest.mark.parametrize("file", FILES, ids=[name(file) for file in FILES])
def test_no_import_of_the_host_nor_of_the_pack_by_name(file):
    assert not set(absolute(file)) & {*HOST, "i2vgen_core"}
    depth = len(file.relative_to(ROOT).parts) - 1
    assert all(node.level <= depth for node in imports(file) if isinstance(node, ast.ImportFrom)), "leaves the core"


def test_every_import_inside_the_pack_is_followed():
    assert all(file in GRAPH for files in GRAPH.values() for file in files)
    assert CORE / "errors.py" in GRAPH[CORE / "memory.py"]
    assert CORE / "assets" / "__init__.py" in GRAPH[CORE / "parts.py"]


def test_every_room_has_a_floor():
    assert {room(file) for file in FILES} == set(FLOOR)


def test_the_architecture_page_has_the_floors():
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d+) \| `(\w+)` \|", page, re.M)
    assert {name: int(number) - 1 for number, name in rows} == FLOOR


def test_rooms_import_from_the_floors_below():
    upwards = [
        f"{name(file)} imports {name(other)}"
        for file in FILES
        for other in GRAPH[file]
        if room(file) != room(other) and FLOOR[room(other)] >= FLOOR[room(file)]
    ]
    assert not upwards


def test_no_file_imports_itself_through_others():
    assert not {name(file) for file in GRAPH if file in reached(GRAPH, file)}


def test_inference_and_the_blocks_import_nothing_of_training():
    def trains(file):
        return "training" in file.relative_to(ROOT).parts

    reaching = {name(file) for file in GRAPH if not trains(file) and any(map(trains, reached(GRAPH, file)))}
    assert reaching == TRAINS


def test_only_nodes_host_knows_the_host():
    files = sorted(BLOCKS.glob("*.py"))
    assert len(files) >= 10
    for file in files:
        assert not set(absolute(file)) & {*HOST_ALONE} - {"comfy_api"}, name(file)
    assert not [name(file) for file in (BLOCKS / "host").rglob("*.py") for other in GRAPH[file] if other in files]
