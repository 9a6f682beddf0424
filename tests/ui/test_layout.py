"""What the templates look like in a window of 1440x900, in both renderers of the front end."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ..host.graphs import TEMPLATE_FRAMES
from ..templates.directing import DIRECTING
from ..templates.editing import EDITING
from ..templates.templates import TEMPLATES
from ..templates.waiting import WAITING
from .front_end import FrontEnd

PACK = Path(__file__).resolve().parents[2]
SMALL = {"cascade_step_by_step", "base_swap_encoder"}
"""Templates of too many blocks for a scale at which the classic renderer writes their names, on a screen of one pixel to
the page's."""

ONCE = {make.__name__ for make in DIRECTING + EDITING}
"""Templates that open in both renderers and run in Nodes 2.0 alone, whose blocks need more room: a run takes seconds."""

_OUTSIDE = """app.graph.nodes.filter(node => node.subgraph).map(node =>
    node.widgets.find(widget => widget.name === '$$node-text-preview')?.value?.split('\\n')[0])"""
"""First lines of the texts on the blocks that hold a stage."""


@pytest.fixture(scope="module", params=[False, True], ids=["classic", "Nodes 2.0"])
def rendered(request: Any, opened_front_end: FrontEnd) -> Iterator[FrontEnd]:
    """The front end with each of its renderers."""
    opened_front_end.close_dialogs()
    opened_front_end.resize(1440, 900)
    opened_front_end.set_renderer(request.param)
    yield opened_front_end
    opened_front_end.set_renderer(False)
    opened_front_end.resize(1920, 1080)


@pytest.mark.parametrize("make", WAITING, ids=lambda make: make.__name__)
def test_template_that_waits_for_files_opens(rendered, make):
    rendered.load(make().workflow(), seconds=0.5, source="template")
    rendered.watch()
    assert rendered.page.evaluate("app.canvas.ds.scale") >= 0.5
    assert rendered.lying() == [] and rendered.errors == []


@pytest.mark.parametrize("make", TEMPLATES, ids=lambda make: make.__name__)
def test_template_opens_and_runs(rendered, make, request):
    """Whole, as saved, without complaint; what is sent to the server is what the other tests run. Nothing lies on anything:
    neither when it opens, nor in a run with previews, nor after it, nor after a look into another tab. The whole graph is
    seen, the note to its end and without an empty half."""
    page, name = rendered.page, make.__name__
    workflow = json.loads((PACK / "workflows" / f"{make().title}.json").read_text(encoding="utf-8"))
    rendered.load(workflow, seconds=0.5, source="template")
    rendered.watch()
    _assert_as_saved(rendered.prompt(), workflow, make().prompt())
    scale = page.evaluate("app.canvas.ds.scale")
    assert scale >= (0.5 if name in SMALL else 0.57)
    if scale > 8 / 14:  # below it the classic renderer shows no text
        text, room = rendered.note()
        assert 0.6 * room < text <= room
    if name in ONCE and not page.evaluate("LiteGraph.vueNodesMode"):
        assert rendered.lying() == [] and rendered.errors == []
        return
    rendered.shrink(TEMPLATE_FRAMES.get(name, 2), seed=len(request.node.name))  # another one in each renderer
    result = rendered.run()
    assert result.error is None, f"{result.error_node}: {result.error}"
    if name == "cascade":
        assert page.evaluate(_OUTSIDE) == ["step 1 of 1", "step 1 of 1"]
    page.screenshot(path=rendered.screenshots / f"{request.node.name}.png")
    for there in ("Previous", "Next"):
        page.evaluate(f"app.extensionManager.command.execute('Workspace.{there}OpenedWorkflow')")
    page.wait_for_function("count => app.graph.nodes.length === count", arg=len(workflow["nodes"]))
    assert rendered.lying() == []
    if name == "cascade_step_by_step" and page.evaluate("LiteGraph.vueNodesMode"):
        assert page.locator(".comfy-markdown-content table").count() == 3
    assert rendered.complaints() == [] and rendered.errors == []


def _assert_as_saved(found: dict[str, Any], workflow: dict[str, Any], prompt: dict[str, Any]) -> None:
    """What the front end has of a file, and the graph in API format that it makes of it."""
    opened = {node["id"]: node for node in found["workflow"]["nodes"]}
    assert _wires(found["workflow"]) == _wires(workflow)
    for saved in workflow["nodes"]:
        assert (opened[saved["id"]].get("widgets_values") or []) == saved["widgets_values"], saved["type"]
    for each in found["output"].values():
        each["inputs"].pop("video-preview", None)  # the front end's own, of Load Video
    sent = {
        node: {"class_type": each["class_type"], "inputs": each["inputs"]} for node, each in found["output"].items()
    }
    assert sent == prompt


def _wires(workflow: dict[str, Any]) -> dict[int, tuple]:
    """By link: from which output of which node, to which input by its name, since what the front end saves lacks the
    sockets of widgets without a wire, and so numbers the others anew."""
    ends = {slot["link"]: (node["id"], slot["name"]) for node in workflow["nodes"] for slot in node.get("inputs", ())}
    return {link: (origin, output, *ends[link], kind) for link, origin, output, _, _, kind in workflow["links"]}
