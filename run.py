"""Sets the project up and runs it, with Python alone:

    python run.py demo           a video from the example picture
    python run.py test           linter, types, tests
    python run.py test --quick   the same without the slow tests and those that need ComfyUI: under 3 minutes
    python run.py comfyui        ComfyUI with this pack in it, for a look at the graph

All of them make .venv here and install what they need into it, once. `test` and `comfyui` hand further arguments on, to
pytest and to ComfyUI. COMFYUI_PATH says where ComfyUI is (default ~/ComfyUI).
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent
ENVIRONMENT = ROOT / ".venv"
PYTHON = ENVIRONMENT / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
HOST_BASE = ROOT / "build" / "comfyui"
TYPES = ROOT / "build" / "types"
PACK = "i2vgen_xl"
"""A name under which Python can import the pack's folder, whatever that is called: nodes/ imports across it."""

BESIDE_EACH_OTHER = ("-n", str(min(os.cpu_count() or 1, 4)), "--dist", "loadfile", "--no-loadscope-reorder")
"""Files of tests are shared out to processes of one thread each, in their order; `-n 0` after `test` runs all in one."""

TYPED = ("-p", f"{PACK}.i2vgen_core", "-p", f"{PACK}.nodes")


def demo() -> int:
    """Writes output/demo.mp4 and output/demo.png."""
    prepare()
    return step(PYTHON, ROOT / "demo" / "demo.py")


def test(arguments: list[str]) -> int:
    """Lints, checks types and tests. pytest comes last, so that its summary closes the output."""
    quick = arguments[:1] == ["--quick"]
    if quick:
        arguments = ["tests/core", "-m", "not slow", *arguments[1:]]
    host = None if quick else find_host()
    chromium = os.environ.get("CHROMIUM_PATH") or shutil.which("chromium") or shutil.which("chromium-browser")
    prepare("dev,ui" if host and chromium else "dev")
    link(TYPES / PACK, ROOT)
    environment = {**os.environ, "MYPYPATH": str(TYPES), "OMP_NUM_THREADS": "1"}
    if host:
        if step(PYTHON, ROOT / "tests" / "host" / "install_host.py", host):
            return 1
        environment["COMFYUI_PATH"] = str(host)
    elif not quick:
        say("no ComfyUI at COMFYUI_PATH or ~/ComfyUI: the tests that need it will be skipped")
    checks = [
        ("ruff", "check", "."),
        ("ruff", "format", "--check", "."),
        ("mypy", *TYPED),
        ("pytest", *BESIDE_EACH_OTHER, "--durations=10", *arguments),
    ]
    failed = [check[0] for check in checks if step(PYTHON, "-m", *check, environment=environment)]
    if failed:
        say(f"failed: {', '.join(failed)}")
    return int(bool(failed))


def comfyui(arguments: list[str]) -> int:
    """Starts ComfyUI on a base directory of the project's own, with the pack and the photo in it."""
    host = find_host()
    if host is None:
        raise SystemExit("ComfyUI not found. Set COMFYUI_PATH to its folder, the one with main.py.")
    prepare("test")
    if step(PYTHON, ROOT / "tests" / "host" / "install_host.py", host):
        return 1
    for name in ("input", "user", "models/diffusers"):
        (HOST_BASE / name).mkdir(parents=True, exist_ok=True)
    link(HOST_BASE / "custom_nodes" / PACK, ROOT)
    shutil.copy(ROOT / "demo" / "photo.jpg", HOST_BASE / "input")
    gpu = subprocess.run([PYTHON, "-c", "import torch; raise SystemExit(not torch.accelerator.is_available())"])
    options = ["--cpu"] if gpu.returncode else []
    options += ["--base-directory", str(HOST_BASE)]
    options += ["--preview-method", "auto"]
    options += ["--database-url", f"sqlite:///{(HOST_BASE / 'user' / 'comfyui.db').as_posix()}"]
    return step(PYTHON, "main.py", *options, *arguments, folder=host)


def prepare(extra: str = "") -> None:
    """Makes .venv, with requirements.txt, this project and one of its extras, unless it is there and up to date."""
    files = [ROOT / name for name in ("requirements.txt", "constraints-dev.txt", "pyproject.toml")]
    wanted = hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
    stamp = ENVIRONMENT / f"installed-{extra or 'plain'}"
    if PYTHON.exists() and stamp.exists() and stamp.read_text() == wanted:
        return
    say(f"setting up {ENVIRONMENT}: some minutes, the first time")
    if not PYTHON.exists() and step(sys.executable, "-m", "venv", ENVIRONMENT):
        raise SystemExit("Python could not make an environment. On Debian and Ubuntu: apt install python3-venv")
    pip = [PYTHON, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    project = f"{ROOT}[{extra}]" if extra else ROOT
    if step(*pip, "--constraint", files[1], "--requirement", files[0], "--editable", project):
        raise SystemExit("pip could not install what the project needs; its message is above.")
    stamp.write_text(wanted)


def find_host() -> Path | None:
    """ComfyUI's folder, if there is one."""
    given = os.environ.get("COMFYUI_PATH")
    host = Path(given or Path.home() / "ComfyUI").expanduser().resolve()
    if (host / "main.py").is_file():
        return host
    if given:
        raise SystemExit(f"COMFYUI_PATH: expected ComfyUI's folder, the one with main.py, found {host}. Correct it.")
    return None


def link(place: Path, target: Path) -> None:
    """Makes `place` show the folder `target`: a symbolic link, on Windows a junction, which needs no rights."""
    if place.exists():
        return
    place.parent.mkdir(parents=True, exist_ok=True)
    if os.name == "nt":
        subprocess.run(["cmd", "/c", "mklink", "/J", str(place), str(target)], check=True)
    else:
        place.unlink(missing_ok=True)  # a link whose target has moved
        place.symlink_to(target, target_is_directory=True)


def step(*command: str | Path, folder: Path = ROOT, environment: dict[str, str] | None = None) -> int:
    """Runs a command and returns its exit status; says what it ran and, if it took a while, how long that took."""
    words = [str(word) for word in command]
    say(" ".join(words).replace(str(ROOT) + os.sep, ""))
    start = time.monotonic()
    try:
        status = subprocess.run(words, cwd=folder, env=environment).returncode
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    if words[1:3] != ["-m", "pytest"]:  # its own last line says it, and is the last one
        say(f"{time.monotonic() - start:.0f} s")
    return status


def say(text: str) -> None:
    print(f"-- {text}", flush=True)


def main() -> int:
    if sys.version_info < (3, 10):
        raise SystemExit(f"Python 3.10 or newer is needed; this is {sys.version.split()[0]}.")
    task, arguments = sys.argv[1:2], sys.argv[2:]
    if task == ["demo"] and not arguments:
        return demo()
    if task == ["test"]:
        return test(arguments)
    if task == ["comfyui"]:
        return comfyui(arguments)
    raise SystemExit(__doc__)


if __name__ == "__main__":
    sys.exit(main())
