"""The templates and the help pages in the real front end."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from i2vgen_core.video import read_video

PACK = Path(__file__).resolve().parents[2]
WORKFLOWS = {file.stem: json.loads(file.read_text(encoding="utf-8")) for file in (PACK / "workflows").glob("*.json")}
HELP = sorted((PACK / "web" / "docs").glob("*.md"))

WIDTH, HEIGHT, FRAMES, REFINED = 96, 64, 3, (120, 88)
TINY: dict[str, dict[str, Any]] = {
    "I2VGenXLCLIPEncode": {"width": WIDTH},
    "I2VGenXLGlobalEncode": {"width": WIDTH, "height": HEIGHT, "frames": FRAMES},
    "I2VGenXLBaseSampler": {"steps": 2},
    "KSampler": {"steps": 2},
    "ImageScale": {"width": REFINED[0], "height": REFINED[1]},
    "I2VGenXLRefineSampler": {"steps": 2},
}
"""Sizes and steps that take seconds, by node type."""


def _saved_sizes(result, server) -> list[tuple[int, int, int]]:
    """Frames, height and width of every video that a run has saved, in the order of the nodes' ids."""
    found = []
    for node in sorted(result.outputs, key=int):
        for files in result.outputs[node].values():
            for file in files:
                if isinstance(file, dict) and file["filename"].endswith(".mp4"):
                    frames, _ = read_video(server.output_dir / file["subfolder"] / file["filename"])
                    found.append(tuple(frames.shape[:3]))
    return found


@pytest.mark.parametrize("name", WORKFLOWS)
def test_template_is_served(front_end, name):
    route = f"/api/workflow_templates/i2vgen_xl/{name}"
    assert json.loads(front_end.fetch(f"{route}.json") or "null") == WORKFLOWS[name]
    assert front_end.fetch(f"{route}.jpg") is not None


def test_templates_are_offered(front_end):
    """Under the pack's name, each with its picture; a click opens one."""
    page = front_end.page
    page.evaluate("app.extensionManager.command.execute('Comfy.BrowseTemplates')")
    dialog = page.get_by_role("dialog")
    dialog.get_by_text("i2vgen_xl", exact=True).click()
    for name in WORKFLOWS:
        picture = dialog.get_by_test_id(f"template-workflow-{name}").get_by_role("img")
        picture.wait_for()
        assert picture.evaluate("image => image.naturalWidth") == 800, name
    page.screenshot(path=front_end.screenshots / "templates.png")
    dialog.get_by_test_id("template-workflow-cascade").click()
    page.wait_for_function("count => app.graph.nodes.length === count", arg=len(WORKFLOWS["cascade"]["nodes"]))
    dialog.wait_for(state="hidden")


@pytest.mark.parametrize("name", WORKFLOWS)
def test_workflow_opens(front_end, name):
    """Whole, as saved, and without complaint."""
    workflow = WORKFLOWS[name]
    front_end.load(workflow)
    front_end.page.screenshot(path=front_end.screenshots / f"{name}.png")

    assert front_end.complaints() == []
    assert front_end.errors == []
    opened = front_end.prompt()["workflow"]
    assert opened["links"] == workflow["links"]
    for saved in workflow["nodes"]:
        (node,) = (node for node in opened["nodes"] if node["id"] == saved["id"])
        assert front_end.page.evaluate("type => type in LiteGraph.registered_node_types", node["type"]), node["type"]
        assert node.get("widgets_values") == saved.get("widgets_values"), node["type"]


def test_a_missing_node_and_image_are_complained_about(front_end):
    """So that no complaint, as above, means that nothing is missing."""
    workflow = json.loads(json.dumps(WORKFLOWS["base"]).replace("I2VGenXLBaseSampler", "Absent"))
    (picture,) = (node for node in workflow["nodes"] if node["type"] == "I2VGenXLTinyScene")
    picture |= {"type": "LoadImage", "properties": {}, "widgets_values": ["absent.png", "image"]}
    front_end.load(workflow)
    assert any("2 errors found" in complaint for complaint in front_end.complaints())


@pytest.mark.parametrize("name", WORKFLOWS)
def test_nodes_do_not_overlap(front_end, name):
    front_end.load(WORKFLOWS[name])
    boxes = front_end.page.evaluate("app.graph.nodes.map(node => [node.title, ...node.boundingRect])")
    for i, (title, x, y, width, height) in enumerate(boxes):
        for other, x2, y2, width2, height2 in boxes[:i]:
            apart = x + width <= x2 or x2 + width2 <= x or y + height <= y2 or y2 + height2 <= y
            assert apart, f"{title} and {other}"


@pytest.mark.parametrize(("name", "videos"), [("base_stock_ksampler", 1), ("cascade", 2)])
def test_api_format_runs(front_end, server, name, videos):
    """What the front end makes of the graph is what the server takes."""
    front_end.load(WORKFLOWS[name])
    front_end.set_widgets(TINY)
    result = front_end.run_prompt()
    assert result.error is None, f"{result.error_node}: {result.error}"
    sizes = [(FRAMES, HEIGHT, WIDTH), (FRAMES, REFINED[1], REFINED[0])]
    assert _saved_sizes(result, server) == sizes[:videos]


def test_run_button_gives_a_video(front_end, server):
    """Run is pressed, and the video plays in the Save Video node."""
    page = front_end.page
    front_end.load(WORKFLOWS["base"])
    front_end.set_widgets(TINY)
    page.get_by_test_id("queue-button").click()
    video = page.locator("video[src*='i2vgen_xl_base'], video:has(source[src*='i2vgen_xl_base'])").first
    video.wait_for(state="attached")
    page.wait_for_function("video => video.videoWidth > 0", arg=video.element_handle())
    assert video.evaluate("video => [video.videoWidth, video.videoHeight]") == [WIDTH, HEIGHT]
    page.screenshot(path=front_end.screenshots / "base-done.png")
    assert front_end.complaints() == []
    assert front_end.errors == []


@pytest.mark.parametrize("file", HELP, ids=lambda file: file.stem)
def test_help_is_served(front_end, file):
    """At the address where the front end looks for a node's help."""
    assert front_end.fetch(f"/extensions/i2vgen_xl/docs/{file.name}") == file.read_text(encoding="utf-8")


def test_help_is_shown(front_end):
    """By a click on the selected node's info button."""
    page = front_end.page
    front_end.load(WORKFLOWS["cascade"])
    page.evaluate("app.canvas.selectNode(app.graph.nodes.find(node => node.type === 'I2VGenXLRefineSampler'))")
    page.get_by_test_id("info-button").click()
    page.get_by_role("heading", name="The release's values").wait_for()
    page.screenshot(path=front_end.screenshots / "help.png")


def test_blocks_and_help_are_in_the_users_language(front_end):
    """Titles, labels, a tooltip and a help page follow the setting, as soon as it is changed."""
    page = front_end.page
    block, texts = "I2VGenXLRefineSampler", json.loads((PACK / "locales" / "zh" / "nodeDefs.json").read_text("utf-8"))
    help_page = (PACK / "web" / "docs" / block / "zh.md").read_text("utf-8")
    titles = "app.graph.nodes.filter(node => node.type.startsWith('I2VGenXL')).map(node => [node.type, node.title])"
    front_end.load(WORKFLOWS["cascade"])
    front_end.set_language("zh")
    try:
        page.wait_for_function(f"title => {titles}.some(node => node[1] === title)", arg=texts[block]["display_name"])
        assert all(title == texts[node]["display_name"] for node, title in page.evaluate(titles))

        node = f"app.graph.nodes.find(node => node.type === '{block}')"
        labels = page.evaluate(f"{node}.widgets.map(widget => [widget.name, widget.label])")
        assert {name: label for name, label in labels if name in texts[block]["inputs"]} == {
            name: texts[block]["inputs"][name]["name"] for name, _ in labels if name in texts[block]["inputs"]
        }
        front_end.hover_widget(block, "noise_level")
        tooltip = page.locator(".node-tooltip")
        tooltip.wait_for()
        assert tooltip.inner_text() == texts[block]["inputs"]["noise_level"]["tooltip"]
        page.screenshot(path=front_end.screenshots / "language-tooltip.png")

        page.evaluate(f"app.canvas.selectNode({node})")
        page.get_by_test_id("info-button").click()
        (heading,) = re.findall("(?m)^# (.+)", help_page)
        page.get_by_role("heading", name=heading).wait_for()
        for heading in re.findall("(?m)^## (.+)", help_page):
            page.get_by_role("heading", name=heading, exact=True).first.wait_for()
        page.screenshot(path=front_end.screenshots / "language-help.png")
    finally:
        front_end.set_language("en")
