"""The templates and the help pages in the real front end."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from i2vgen_core.media.video import read_video

from ..host.available import HOST
from ..host.server import Server
from ..templates.templates import TEMPLATES

PACK = Path(__file__).resolve().parents[2]
SEARCHED = {"i2vgen": "base", "I2VGen-XL": "cascade", "image to video": "base", "refine": "refine_video"}
"""What people type, and a template that it has to bring."""

MAKERS = {make.__name__: make for make in TEMPLATES}
TITLES = {make.__name__: make().title for make in TEMPLATES}
WORKFLOWS = {
    name: json.loads((PACK / "workflows" / f"{title}.json").read_text(encoding="utf-8"))
    for name, title in TITLES.items()
}
HELP = sorted((PACK / "web" / "docs").glob("*.md"))

WIDTH, HEIGHT, FRAMES, REFINED = 128, 64, 3, (288, 144)
TINY: dict[str, dict[str, Any]] = {"I2VGenXLGlobalEncode": {"frames": FRAMES}, "I2VGenXLBaseSampler": {"steps": 2}}
"""A length and steps that take seconds, by node type."""


_CARDS = (
    "[...document.querySelectorAll('[data-testid^=template-workflow-]')].map(card => card.dataset.testid.slice(18))"
)
"""Titles that the templates' dialog shows, in their order."""


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
    route = f"/api/workflow_templates/i2vgen_xl/{quote(TITLES[name])}"
    assert json.loads(front_end.fetch(f"{route}.json") or "null") == WORKFLOWS[name]
    assert front_end.fetch(f"{route}.jpg") is not None


def test_templates_are_offered(front_end):
    """Under the pack's name and by what people search for, each with its picture; a click opens one."""
    page = front_end.page
    page.evaluate("app.extensionManager.command.execute('Comfy.BrowseTemplates')")
    dialog = page.get_by_role("dialog")
    for category in ("Video", "All Templates"):  # the dialog's first list has none of them while it loads
        dialog.get_by_text(category, exact=True).first.click()
    search = dialog.locator("input").first
    for words, name in SEARCHED.items():
        search.fill(words)
        dialog.get_by_test_id(f"template-workflow-{TITLES[name]}").wait_for()
    page.screenshot(path=front_end.screenshots / "templates_search.png")
    search.fill("i2vgen")
    page.wait_for_function(f"{_CARDS}[0] === {json.dumps(TITLES['cascade'])}")
    search.fill("")
    dialog.get_by_text("i2vgen_xl", exact=True).click()
    in_order = sorted(TITLES.values())[:6]  # a list is made as far as it is scrolled
    page.wait_for_function(f"titles => titles.every((title, at) => {_CARDS}[at] === title)", arg=in_order)
    for name in sorted(
        WORKFLOWS, key=TITLES.__getitem__
    ):  # as they are listed: a list is made as far as it is scrolled
        card = dialog.get_by_test_id(f"template-workflow-{TITLES[name]}")
        card.scroll_into_view_if_needed()
        picture = card.get_by_role("img")
        picture.wait_for()
        assert picture.evaluate("image => [image.naturalWidth, image.naturalHeight]") == [320, 320], name
    shown = [card.screenshot() for _ in range(4) if not page.wait_for_timeout(300)]
    assert len(set(shown)) > 1  # it moves
    page.screenshot(path=front_end.screenshots / "templates.png")
    dialog.get_by_test_id(f"template-workflow-{TITLES['cascade']}").click()
    page.wait_for_function("count => app.graph.nodes.length === count", arg=len(WORKFLOWS["cascade"]["nodes"]))
    dialog.wait_for(state="hidden")


def test_a_missing_node_and_image_are_complained_about(front_end):
    """So that no complaint, as above, means that nothing is missing."""
    workflow = json.loads(json.dumps(WORKFLOWS["base"]).replace("I2VGenXLBaseSampler", "Absent"))
    (picture,) = (node for node in workflow["nodes"] if node["type"] == "I2VGenXLTinyScene")
    picture |= {"type": "LoadImage", "properties": {}, "widgets_values": ["absent.png", "image"]}
    front_end.load(workflow)
    assert any("2 errors found" in complaint for complaint in front_end.complaints())


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
    front_end.load(WORKFLOWS["cascade_beyond_720p"])
    page.evaluate("app.canvas.selectNode(app.graph.nodes.find(node => node.type === 'I2VGenXLRefineSampler'))")
    page.get_by_test_id("info-button").click()
    page.get_by_role("heading", name="The release's values").wait_for()
    page.screenshot(path=front_end.screenshots / "help.png")


def test_blocks_and_help_are_in_the_users_language(front_end):
    page = front_end.page
    block, texts = "I2VGenXLRefineSampler", json.loads((PACK / "locales" / "zh" / "nodeDefs.json").read_text("utf-8"))
    try:
        front_end.set_language("zh", block, texts[block]["display_name"])
        front_end.load(WORKFLOWS["cascade_beyond_720p"])
        titles = page.evaluate("app.graph.nodes.map(node => [node.type, node.title])")
        assert {type: title for type, title in titles if type in texts} == {
            type: texts[type]["display_name"] for type, _ in titles if type in texts
        }
        node = f"app.graph.nodes.find(node => node.type === '{block}')"
        labels = dict(page.evaluate(f"{node}.widgets.map(widget => [widget.name, widget.label])"))
        shown = {name: entry["name"] for name, entry in texts[block]["inputs"].items() if name in labels}
        assert len(shown) == 10
        assert labels | shown == labels

        front_end.hover_widget(block, "noise_level")
        tooltip = page.locator(".node-tooltip")
        tooltip.wait_for()
        assert tooltip.inner_text() == texts[block]["inputs"]["noise_level"]["tooltip"]
        page.screenshot(path=front_end.screenshots / "language-tooltip.png")

        page.evaluate(f"app.canvas.selectNode({node})")
        page.get_by_test_id("info-button").click()
        for heading in re.findall("(?m)^## (.+)", (PACK / "web" / "docs" / block / "zh.md").read_text("utf-8")):
            page.get_by_role("heading", name=heading, exact=True).first.wait_for()
        page.screenshot(path=front_end.screenshots / "language-help.png")
    finally:
        front_end.set_language("en", block, "I2VGen-XL Refine Sampler")


def _events(front_end, *names: str) -> None:
    """Counts the server's events from now on, in `window.counted`."""
    front_end.page.evaluate(
        """names => {
            window.counted = Object.fromEntries(names.map(name => [name, 0]))
            for (const name of names) app.api.addEventListener(name, () => window.counted[name]++)
        }""",
        list(names),
    )


def _wait_for(front_end, event: str) -> None:
    front_end.page.wait_for_function("event => window.counted[event] > 0", arg=event)


def test_a_latent_dragged_to_the_canvas_proposes_stock_nodes(front_end):
    """As any LATENT does: a search over what takes one."""
    page = front_end.page
    front_end.load(WORKFLOWS["base"])
    page.evaluate("app.extensionManager.command.execute('Comfy.Canvas.FitView')")
    page.wait_for_timeout(1000)
    start, end = page.evaluate(
        """() => {
            const node = app.graph.nodes.find(node => node.type === 'I2VGenXLBaseSampler')
            const out = app.canvas.convertOffsetToCanvas(node.getOutputPos(0))
            const box = app.canvas.canvas.getBoundingClientRect()
            return [[box.x + out[0], box.y + out[1]], [box.x + out[0] + 40, box.y + box.height - 120]]
        }"""
    )
    page.mouse.move(*start)
    page.mouse.down()
    page.mouse.move(*end, steps=8)
    page.mouse.up()
    page.get_by_text("KSampler", exact=True).first.wait_for()
    page.screenshot(path=front_end.screenshots / "drag.png")
    page.keyboard.press("Escape")


BLOCKS = sorted((PACK / "subgraphs").glob("*.json"))
STAGES = [PACK / "subgraphs" / f"{name} (I2VGen-XL).json" for name in ("Image to Video", "Refine a Video")]


@pytest.mark.parametrize("file", BLOCKS, ids=lambda file: file.stem)
def test_block_is_offered(front_end, file):
    """Among the subgraph blueprints, found by a search and placed by a click, with its settings."""
    page = front_end.page
    front_end.load({"nodes": [], "links": [], "version": 0.4, "last_node_id": 0, "last_link_id": 0})
    for attempt in range(4):  # on a busy machine the front end's search may take Enter before it has a result
        page.mouse.dblclick(900, 700)
        page.wait_for_timeout(500)
        page.keyboard.type(file.stem)
        page.wait_for_timeout(1500 * (attempt + 1))
        page.keyboard.press("Enter")
        page.wait_for_timeout(1000 * (attempt + 1))
        if page.evaluate("app.graph.nodes.length"):
            break
        page.keyboard.press("Escape")
        page.wait_for_timeout(500)
    assert page.evaluate("app.graph.nodes.length") == 1
    page.mouse.click(900, 700)
    exposed = [each["name"] for each in json.loads(file.read_text(encoding="utf-8"))["nodes"][0]["inputs"]]
    assert page.evaluate("app.graph.nodes[0].inputs.map(input => input.name)") == exposed
    widgets = page.evaluate("app.graph.nodes[0].widgets.map(widget => widget.name)")
    assert len(widgets) == 8 and set(widgets) <= set(exposed)
    complaints = [text for text in front_end.complaints() if not text.startswith("Blueprints")]  # the search itself
    assert complaints == [] and front_end.errors == []


def test_blocks_run(front_end, server):
    """The one behind the other, from a picture to a refined video."""
    graph = {"nodes": [], "links": [], "version": 0.4, "definitions": {"subgraphs": []}}
    for number, file in enumerate(STAGES, 1):
        saved = json.loads(file.read_text(encoding="utf-8"))
        graph["definitions"]["subgraphs"] += saved["definitions"]["subgraphs"]
        graph["nodes"].append(saved["nodes"][0] | {"id": number, "pos": [500 * number, 0]})
    front_end.load(graph | {"last_node_id": 2, "last_link_id": 0})
    front_end.page.evaluate(
        """() => {
            const [base, refine] = app.graph.nodes
            const add = type => { const node = LiteGraph.createNode(type); app.graph.add(node); return node }
            const [scene, save] = ['I2VGenXLTinyScene', 'SaveVideo'].map(add)
            const wire = (from, output, to, input) =>
                from.connect(from.findOutputSlot(output), to, to.findInputSlot(input))
            wire(scene, 'IMAGE', base, 'image')
            wire(base, 'IMAGE', refine, 'images')
            wire(base, 'CLIP', refine, 'clip')
            wire(base, 'VAE', refine, 'vae')
            wire(base, 'MODEL', refine, 'base')
            wire(refine, 'VIDEO', save, 'video')
            for (const block of [base, refine])
                for (const widget of block.widgets)
                    if (['frames', 'steps'].includes(widget.name)) widget.value = widget.name === 'frames' ? 2 : 1
        }"""
    )
    sent = front_end.prompt()["output"]
    assert {each["inputs"]["frames"] for each in sent.values() if "frames" in each["inputs"]} == {2}
    result = front_end.run_prompt()
    assert result.error is None, f"{result.error_node}: {result.error}"
    assert _saved_sizes(result, server) == [(2, REFINED[1], REFINED[0])]


@pytest.mark.parametrize(
    "file", sorted((PACK / "tests" / "workflows_saved").glob("*/*.json")), ids=lambda file: file.stem
)
def test_saved_workflow_opens(front_end, file):
    """One that an earlier version has saved, with its values where they were."""
    workflow = json.loads(file.read_text(encoding="utf-8"))
    front_end.load(workflow)
    assert front_end.complaints() == [] and front_end.errors == []
    opened = {node["id"]: node for node in front_end.prompt()["workflow"]["nodes"]}
    for saved in workflow["nodes"]:
        values = saved.get("widgets_values") or []
        assert opened[saved["id"]].get("widgets_values", [])[: len(values)] == values, saved["type"]


def test_new_user(front_end, tmp_path):
    """Copies the folder, starts ComfyUI, opens a template, runs it, watches, reads the help, cancels, runs again."""
    absent = shutil.ignore_patterns(".*", "tests", "build", "output", "__pycache__")
    shutil.copytree(PACK, tmp_path / "copy", ignore=absent)
    for name in ("input", "output"):
        (tmp_path / name).mkdir()
    server = Server(HOST, tmp_path / "copy", tmp_path)
    try:
        with front_end.beside(server, tmp_path) as first_visit:
            page = first_visit.page
            page.evaluate("app.extensionManager.command.execute('Comfy.BrowseTemplates')")
            dialog = page.get_by_role("dialog")
            dialog.get_by_text("i2vgen_xl", exact=True).click()
            dialog.get_by_test_id(f"template-workflow-{TITLES['base']}").click()
            dialog.wait_for(state="hidden")
            page.wait_for_function("count => app.graph.nodes.length === count", arg=len(WORKFLOWS["base"]["nodes"]))
            first_visit.set_widgets({"I2VGenXLBaseSampler": {"steps": 999}})  # minutes: it is cancelled
            _events(first_visit, "b_preview", "execution_interrupted", "execution_success")
            page.get_by_test_id("queue-button").click()
            _wait_for(first_visit, "b_preview")
            page.evaluate("app.canvas.selectNode(app.graph.nodes.find(node => node.type === 'I2VGenXLBaseSampler'))")
            page.get_by_test_id("info-button").click()
            page.get_by_role("heading", name="I2VGen-XL Base Sampler").first.wait_for()
            page.evaluate("app.extensionManager.command.execute('Comfy.Interrupt')")
            _wait_for(first_visit, "execution_interrupted")
            first_visit.set_widgets({"I2VGenXLGlobalEncode": {"frames": 2}, "I2VGenXLBaseSampler": {"steps": 1}})
            page.get_by_test_id("queue-button").click()
            _wait_for(first_visit, "execution_success")
            assert first_visit.errors == []
    finally:
        server.stop()
