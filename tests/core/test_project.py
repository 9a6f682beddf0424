"""The project's files agree with one another."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def lines(file: str) -> list[str]:
    stripped = (line.split("#")[0].strip() for line in (ROOT / file).read_text(encoding="utf-8").splitlines())
    return [line for line in stripped if line]


def name(requirement: str) -> str:
    return re.split(r"[<>=;\[ ]", requirement)[0].lower().replace("_", "-")


def test_requirements_are_the_projects_dependencies() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    dependencies = re.search(r"^dependencies = \[\n(.*?)^\]", text, re.M | re.S)
    assert dependencies is not None
    assert re.findall(r'"(.+?)"', dependencies[1]) == lines("requirements.txt")


def test_requirements_are_lower_bounds() -> None:
    for line in lines("requirements.txt"):
        assert re.fullmatch(r"[A-Za-z0-9_]+>=[\d.]+", line), line


def test_development_pins_every_requirement() -> None:
    pinned = {name(line) for line in lines("constraints-dev.txt") if "==" in line}
    assert {name(line) for line in lines("requirements.txt")} <= pinned
