"""What a release is checked with: the core tests on the lowest and the newest versions of every dependency but torch.

    python tests/release.py [--python python3.10 python3.11 ...] [--torch VERSION] [--only lowest|newest]

Each interpreter gets two environments of its own, into which the last commit is installed: one with the lower bounds of
pyproject.toml as they are, one with the newest versions that pip finds. torch is the development version in both, from
wherever pip has it for that interpreter. Prints a table in Markdown, then what pip-audit says of the newest versions.
Takes some minutes an environment. Exits 1 where a test failed.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
EXTRAS = "test,train,batch"
PYTHONS = ("python3.10", "python3.11", "python3.12", "python3.13")


def lower_bounds(project: str) -> list[str]:
    """`name==lowest` of every dependency, those of the extras among them, but torch's."""
    found = re.findall(r'"([A-Za-z0-9_-]+)(?:\[\w+\])?>=([\d.]+)"', project.partition("[tool.")[0])
    others = ("torch", "setuptools", "playwright", "ruff", "mypy")  # not of EXTRAS, but for torch
    return [f"{name}=={version}" for name, version in found if name not in others]


def pinned_torch() -> str:
    pins = (ROOT / "constraints-dev.txt").read_text(encoding="utf-8")
    found = re.search(r"^torch==(\S+)$", pins, re.M)
    assert found is not None
    return found[1]


def checked_out(place: Path) -> Path:
    """The last commit's files."""
    source = place / "source"
    subprocess.run(["git", "clone", "--quiet", "--depth", "1", f"file://{ROOT}", source], check=True)
    return source


def environment(python: str, place: Path, source: Path, torch: str, constraints: list[str]) -> Path:
    """An environment with the project in it. Gives its interpreter."""
    subprocess.run([python, "-m", "venv", place], check=True)
    inside = place / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    bounds = place / "bounds.txt"
    bounds.write_text("\n".join([f"torch=={torch}", *constraints]) + "\n", encoding="utf-8")
    pip = [inside, "-m", "pip", "install", "--quiet", "--constraint", bounds]
    subprocess.run([*pip, f"torch=={torch}"], check=True)
    subprocess.run([*pip, "--editable", f"{source}[{EXTRAS}]"], check=True)
    return inside


def installed(python: Path) -> dict[str, str]:
    """Versions by name."""
    listed = subprocess.run([python, "-m", "pip", "list", "--format", "json"], check=True, capture_output=True).stdout
    return {each["name"].lower().replace("_", "-"): each["version"] for each in json.loads(listed)}


def core_tests(python: Path, source: Path) -> tuple[bool, str]:
    """Whether they passed, and pytest's last line."""
    command = [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/core"]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True)
    lines = done.stdout.strip().splitlines() or [done.stderr.strip()[-200:]]
    for line in lines:
        if line.startswith(("FAILED", "ERROR")):
            sys.stderr.write(f"{line}\n")
    return done.returncode == 0, lines[-1].strip("= ")


def audit(python: Path) -> str:
    """What pip-audit says of an environment: its findings, or why it could not look them up."""
    subprocess.run([python, "-m", "pip", "install", "--quiet", "pip-audit"], check=True)
    done = subprocess.run(
        [python, "-m", "pip_audit", "--format", "json", "--skip-editable"], capture_output=True, text=True
    )
    try:
        packages = json.loads(done.stdout)["dependencies"]
    except ValueError:
        return f"pip-audit could not run: {done.stderr.strip()[-300:]}"
    skipped = [each["name"] for each in packages if "skip_reason" in each]
    found = [f"{each['name']} {each['version']}: {hole['id']}" for each in packages for hole in each.get("vulns", [])]
    if len(skipped) == len(packages):
        return "pip-audit could look nothing up: is PyPI's own service reached from here?"
    looked = f"pip-audit looked up {len(packages) - len(skipped)} of {len(packages)} packages"
    return f"{looked}: {'; '.join(found) or 'nothing found'}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", nargs="+", default=[each for each in PYTHONS if shutil.which(each)])
    parser.add_argument("--torch", default=pinned_torch(), metavar="VERSION")
    parser.add_argument("--only", choices=["lowest", "newest"])
    options = parser.parse_args()
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    wanted = {"lowest": lower_bounds(project), "newest": []}
    names = [line.partition("==")[0] for line in wanted["lowest"]]
    sys.stdout.write("| Python | Versions | torch | Core tests |\n|---|---|---|---|\n")
    fine, audited = True, ""
    for python in options.python:
        for kind in [options.only] if options.only else list(wanted):
            with tempfile.TemporaryDirectory() as place:
                source = checked_out(Path(place))
                try:
                    inside = environment(python, Path(place) / "venv", source, options.torch, wanted[kind])
                except subprocess.CalledProcessError as error:
                    fine = False
                    sys.stdout.write(f"| {python} | {kind} | {options.torch} | not installed: {error} |\n")
                    continue
                versions = installed(inside)
                passed, line = core_tests(inside, source)
                fine &= passed
                shown = ", ".join(f"{name} {versions.get(name.lower().replace('_', '-'), '-')}" for name in names)
                sys.stdout.write(f"| {python} | {kind}: {shown} | {versions['torch']} | {line} |\n")
                sys.stdout.flush()
                if kind == "newest":
                    audited = audit(inside)
    sys.stdout.write(f"\n{audited}\n")
    return int(not fine)


if __name__ == "__main__":
    sys.exit(main())
