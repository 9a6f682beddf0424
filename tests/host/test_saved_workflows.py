"""What a released version saved goes on working: its workflows run, and its blocks have only been added to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ..workflows_saved.record import HERE, schema
from .graphs import SMALL

SAVED = sorted(HERE.glob("*/*.json"))
SCHEMAS = sorted(HERE.glob("*/schema/blocks.json"))


def prompt(workflow: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """A saved graph in API format, as the front end makes it where nothing is bypassed."""
    links = {link: [str(source), slot] for link, source, slot, *_ in workflow["links"]}
    found = {}
    for node in workflow["nodes"]:
        if node["type"] == "MarkdownNote":
            continue
        inputs = {each["name"]: links[each["link"]] for each in node["inputs"] if each["link"] is not None}
        widgets = node.get("widgets_values_named", {})
        widgets = {name: value for name, value in widgets.items() if name not in ("control_after_generate", "upload")}
        found[str(node["id"])] = {"class_type": node["type"], "inputs": widgets | inputs}
    return found


@pytest.mark.parametrize("file", SAVED, ids=lambda file: f"{file.parent.name}-{file.stem}")
def test_saved_workflow_runs(host, file):
    graph = prompt(json.loads(file.read_text(encoding="utf-8")))
    for node in graph.values():
        node["inputs"].update(SMALL.get(node["class_type"], {}))
        if node["class_type"] == "I2VGenXLGlobalEncode":
            node["inputs"]["frames"] = 2
    result = host.run(graph, reuse_cache=True)
    assert result.error is None, f"{result.error_node}: {result.error}"
    assert any(node["class_type"] == "SaveVideo" and name in result.executed for name, node in graph.items())


@pytest.mark.parametrize("file", SCHEMAS, ids=lambda file: file.parents[1].name)
def test_blocks_are_only_added_to(host, file):
    recorded = json.loads(Path(file).read_text(encoding="utf-8"))
    for name, then in recorded.items():
        now = schema(host.nodes[name])
        for part in ("inputs", "outputs"):
            assert now[part][: len(then[part])] == then[part], f"{name}: {part}"
        for entry, choices in then["choices"].items():
            assert set(choices) <= set(now["choices"][entry]), f"{name}: {entry}"
