"""The promises of SECURITY.md that no other test shows, and that every test it names is there."""

import ast
import re
import socket
from pathlib import Path

import pytest

from i2vgen_core.cascade import Cascade
from i2vgen_core.media.images import read_image
from i2vgen_core.sampling.options import BaseOptions, RefineOptions

ROOT = Path(__file__).parents[2]
SHIPPED = [ROOT / "__init__.py", *(ROOT / "i2vgen_core").rglob("*.py"), *(ROOT / "nodes").rglob("*.py")]
UNPICKLING = {"pickle.load", "pickle.loads", "pickle.Unpickler", "joblib.load", "numpy.load", "np.load", "dill.load"}
ALLOWED = {"i2vgen_core/batch/workflow.py": ["subprocess.Popen"]}
"""`batch --workflow` starts the ComfyUI that it is given."""

STARTING = {"eval", "exec", "compile", "__import__", "os.system", "os.popen", "os.startfile"}


def calls(code: str) -> dict[str, list[ast.Call]]:
    """The calls of a module by the dotted name that is called."""
    found: dict[str, list[ast.Call]] = {}
    for each in ast.walk(ast.parse(code)):
        if isinstance(each, ast.Call):
            found.setdefault(ast.unparse(each.func), []).append(each)
    return found


def unpickles(code: str) -> list[str]:
    found = calls(code)
    free = [name for name in found if name in UNPICKLING]
    for call in found.get("torch.load", []):
        settings = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
        if settings.get("weights_only") != "True":
            free.append(ast.unparse(call))
    return free


def starts(code: str) -> list[str]:
    return [name for name in calls(code) if name in STARTING or name.split(".")[0] in {"subprocess", "pty"}]


def test_nothing_is_unpickled_freely():
    assert (
        unpickles("torch.load(path)") and unpickles("pickle.loads(data)") and unpickles("torch.load(p, weights_only=x)")
    )
    assert sum("torch.load" in file.read_text(encoding="utf-8") for file in SHIPPED) >= 2, "looked in the wrong place"
    found = {str(file.relative_to(ROOT)): unpickles(file.read_text(encoding="utf-8")) for file in SHIPPED}
    assert not {file: free for file, free in found.items() if free}


def test_no_code_from_text_and_no_programs():
    assert starts("eval(text)") and starts("subprocess.run(command)")
    found = {file.relative_to(ROOT).as_posix(): starts(file.read_text(encoding="utf-8")) for file in SHIPPED}
    assert {file: free for file, free in found.items() if free} == ALLOWED


def test_a_run_reaches_for_no_network(monkeypatch):
    reached = []

    def refuse(*arguments):
        reached.append(arguments)
        raise OSError("no network in this test")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    cascade = Cascade()
    options = BaseOptions(width=64, height=64, frames=2, steps=1)
    image = read_image(ROOT / "demo" / "scene.png")
    latent = cascade.sample_base(cascade.condition(image, "A red circle.", options), options)
    refined = RefineOptions(width=64, height=64, steps=1)
    video = cascade.encode_video(cascade.decode(latent), refined)
    cascade.decode(cascade.sample_refiner(video, "A red circle.", refined))
    assert not reached
    with pytest.raises(OSError, match="no network"):
        socket.create_connection(("127.0.0.1", 9))
    assert reached


def test_every_test_that_is_named_is_there():
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", (ROOT / "SECURITY.md").read_text(encoding="utf-8"))
    assert len(named) >= 12
    for file, name in named:
        assert f"def {name}(" in (ROOT / file).read_text(encoding="utf-8"), f"{file} has no {name}"
