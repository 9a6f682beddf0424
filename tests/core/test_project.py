"""The project's files agree with one another."""

import ast
import importlib
import re
from pathlib import Path
from types import SimpleNamespace

import pytest

import run

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted(file for folder in (".", "docs", "demo", "i2vgen_core") for file in (ROOT / folder).glob("*.md"))
DOCUMENTS += sorted((ROOT / "i2vgen_core").glob("*/**/*.md"))


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


def prose(file: Path) -> str:
    """A document without its code."""
    return re.sub(r"^```.*?^```$|`[^`\n]*`", "", file.read_text(encoding="utf-8"), flags=re.M | re.S)


def anchors(file: Path) -> set[str]:
    """What GitHub calls the headings of a document."""
    headings = re.findall(r"^#+ (.+)$", prose(file), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("file", DOCUMENTS, ids=[file.relative_to(ROOT).as_posix() for file in DOCUMENTS])
def test_links_lead_somewhere(file: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(file)):
        if not link.startswith("http"):
            path, _, anchor = link.partition("#")
            target = (file.parent / path).resolve() if path else file
            assert target.exists(), link
            assert not anchor or anchor in anchors(target), link


def test_the_readme_is_short() -> None:
    """A person reads it before they install anything; the rest belongs into docs/."""
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 160


def test_every_document_is_found_from_the_readme() -> None:
    found, left = set(), [ROOT / "README.md"]
    while left:
        file = left.pop()
        found.add(file)
        links = re.findall(r"\]\(([^)\s#]+\.md)", prose(file))
        left += {(file.parent / link).resolve() for link in links if not link.startswith("http")} - found
    assert set((ROOT / "docs").glob("*.md")) <= found


@pytest.mark.parametrize("file", DOCUMENTS, ids=[file.relative_to(ROOT).as_posix() for file in DOCUMENTS])
def test_code_of_the_documents_imports_what_is_there(file: Path) -> None:
    for code in re.findall(r"^```python\n(.*?)^```$", file.read_text(encoding="utf-8"), re.M | re.S):
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("i2vgen_core"):
                module = importlib.import_module(node.module)
                assert all(hasattr(module, alias.name) for alias in node.names), ast.unparse(node)


def test_the_training_page_can_be_followed_to_its_end() -> None:
    page = (ROOT / "i2vgen_core" / "training" / "README.md").read_text(encoding="utf-8")
    runs, recipes = re.findall(r" --run +(\S+)", page), set(re.findall(r" --config +(\w+)", page))
    assert len(runs) > 20 and len(runs) == len(set(runs)), "a folder that another run is in goes on with that one"
    assert recipes <= {file.stem for file in (ROOT / "i2vgen_core" / "training" / "recipes").glob("*.json")}


def test_the_benchmarks_have_one_place_for_their_table() -> None:
    text = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    assert re.search(r"<!-- benchmarks -->\n[^<]*\| What \| Found \|[^<]*<!-- end of benchmarks -->\n", text)
    assert text.count("<!-- ") == 2


def test_the_version_is_the_changelogs() -> None:
    project = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.M)
    latest = re.search(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.M)
    assert project is not None and latest is not None
    assert project[1] == latest[1]


def test_comfyui_starts_with_previews(monkeypatch, tmp_path) -> None:
    started: list[tuple] = []
    monkeypatch.setattr(run, "find_host", lambda: tmp_path)
    monkeypatch.setattr(run, "prepare", lambda extra: None)
    monkeypatch.setattr(run, "HOST_BASE", tmp_path / "base")
    monkeypatch.setattr(run.subprocess, "run", lambda *_, **__: SimpleNamespace(returncode=1))
    monkeypatch.setattr(run, "step", lambda *command, **_: started.append(command) and 0)
    run.comfyui(["--port", "9000"])
    *_, command = started
    assert command[command.index("--preview-method") + 1] == "auto" and command[-2:] == ("--port", "9000")
