"""Words at the right moment in the real front end: missing files, text below blocks, errors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from i2vgen_core.__main__ import main
from i2vgen_core.checkpoints.download import FILES, SETS

from ..templates.templates import base, cascade

PACK = Path(__file__).resolve().parents[2]
CASCADE = {(FILES[key].name, FILES[key].folder) for key in SETS["cascade"]}


def _template(make: Any, **widgets: dict[str, Any]) -> dict[str, Any]:
    """A template with widgets' values by type of node, or by the name of a block of blocks, and without wires into them."""
    workflow = json.loads((PACK / "workflows" / f"{make().title}.json").read_text(encoding="utf-8"))
    for node in workflow["nodes"]:
        shown = [each["widget"]["name"] for each in node["inputs"] if "widget" in each]
        names = list(node.get("widgets_values_named", shown))
        kind = node["type"] if "widgets_values_named" in node else node["title"].split(" (")[0].title().replace(" ", "")
        for name, value in widgets.get(kind.removeprefix("I2VGenXL"), {}).items():
            node["widgets_values"][names.index(name)] = value
            node.get("widgets_values_named", {})[name] = value
            (entry,) = (each for each in node["inputs"] if each["name"] == name)
            workflow["links"] = [link for link in workflow["links"] if link[0] != entry["link"]]
            entry["link"] = None
    return workflow


def _open_shared(front_end, bundle: str) -> None:
    """Opens the cascade's template as somebody has saved it who chose a bundle."""
    front_end.load(_template(cascade))
    front_end.page.evaluate(
        """bundle => {
            for (const node of app.graph.nodes)
                for (const widget of node.widgets ?? []) if (widget.name === 'bundle') widget.value = bundle
        }""",
        bundle,
    )
    front_end.load(front_end.prompt()["workflow"])


def _offered(front_end) -> set[tuple[str, str]]:
    found = front_end.missing_models()
    assert all(each["url"].startswith("https://huggingface.co/ali-vilab/") for each in found)
    return {(each["name"], each["directory"]) for each in found}


def _texts(front_end) -> dict[str, str]:
    """What stands below blocks, by their types."""
    return front_end.page.evaluate(
        """() => Object.fromEntries(app.graph.nodes.map(node =>
            [node.type, node.widgets?.find(widget => widget.name === '$$node-text-preview')?.value]).filter(each => each[1]))"""
    )


@pytest.mark.parametrize(
    ("bundle", "missing"), [("tiny (built in)", set()), ("released files", CASCADE), ("i2vgen-xl", CASCADE)]
)
def test_missing_files_are_all_offered(front_end, bundle, missing):
    """Each with its address and folder, by one choice in one block; what is saved and sent has no word of it."""
    _open_shared(front_end, bundle)
    assert _offered(front_end) == missing
    assert front_end.errors == []
    (sent,) = (
        node["inputs"]
        for node in front_end.prompt()["output"].values()
        if node["class_type"] == "I2VGenXLCascadeLoader"
    )
    assert sent == {"bundle": bundle, "weight_dtype": "default"}
    front_end.page.screenshot(path=front_end.screenshots / "missing.png")


def test_a_blocks_missing_files_are_offered(front_end):
    """Where the choice is a widget of an outer block."""
    saved = json.loads((PACK / "subgraphs" / "Image to Video (I2VGen-XL).json").read_text(encoding="utf-8"))
    front_end.load(saved)
    assert _offered(front_end) == set()
    front_end.page.evaluate("app.graph.nodes[0].widgets.find(each => each.name === 'bundle').value = 'released files'")
    front_end.load(front_end.prompt()["workflow"])
    assert {name for name, _ in _offered(front_end)} == {
        FILES[key].name for key in ("i2vgen_xl", "text", "vision", "vae")
    }


def _choose(front_end, choice: str) -> None:
    """Clicks a bundle in the block that holds the loader."""
    page, entry = front_end.page, front_end.page.locator(".litecontextmenu .litemenu-entry", has_text=choice).first
    for _ in range(5):  # the canvas takes a first click for the end of what came before
        x, y = page.evaluate(
            """() => {
                const node = app.graph.nodes.find(each => each.widgets?.some(widget => widget.name === 'bundle'))
                const widget = node.widgets.find(each => each.name === 'bundle')
                const at = [node.pos[0] + node.size[0] / 2, node.pos[1] + widget.y + 10]
                const [x, y] = app.canvas.ds.convertOffsetToCanvas(at)
                const { left, top } = app.canvas.canvas.getBoundingClientRect()
                return [left + x, top + y]
            }"""
        )
        page.mouse.move(x - 5, y)
        page.mouse.move(x, y)
        page.mouse.down()
        page.wait_for_timeout(100)
        page.mouse.up()
        page.wait_for_timeout(1000)
        if entry.count():
            break
    entry.click()


def test_a_choice_offers_what_is_missing_at_once(front_end):
    """In the block that holds the loader, before anything is run; what is chosen back takes it away."""
    front_end.load(_template(cascade))
    for choice, missing in (("released files", CASCADE), ("tiny (built in)", set())):
        _choose(front_end, choice)
        front_end.page.wait_for_timeout(3000)
        assert _offered(front_end) == missing


def test_the_download_walk(front_end, server, caplog):
    """Opened without files, fetched, R, Run: the one complaint is that a file is a dummy."""
    _open_shared(front_end, "released files")
    assert _offered(front_end) == CASCADE
    models = server.base_directory / "models"
    files = [models / folder / name for name, folder in CASCADE]
    try:
        for file in files:  # in the place of the network
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(bytes(1000))
        with caplog.at_level("INFO", logger="i2vgen_xl"):
            assert main(["download", "cascade", "--to", str(models)]) == 0
        assert sum("is there already" in line for line in caplog.messages) == len(CASCADE)
        front_end.page.evaluate("app.extensionManager.command.execute('Comfy.RefreshNodeDefinitions')")
        front_end.page.wait_for_function(
            """() => !document.querySelector('#vue-app').__vue_app__.config.globalProperties.$pinia._s
                .get('missingModel').missingModelCandidates?.length"""
        )
        result = front_end.run()
        assert result.error_node == "I2VGenXLCascadeLoader"
        assert result.error.startswith("file i2vgen_xl_fp16.safetensors: expected a safetensors file, found ")
    finally:
        for file in files:
            file.unlink()


def test_a_warning_goes_with_its_cause(front_end):
    front_end.load(
        _template(base, GlobalEncode={"frames": 1}, BaseSampler={"steps": 1}, CLIPEncode={"prompt": "fox " * 80})
    )
    assert front_end.run().error is None
    assert _texts(front_end)["I2VGenXLCLIPEncode"].startswith("prompt: 5 tokens after the first 75 are not read")
    front_end.set_widgets({"I2VGenXLCLIPEncode": {"prompt": "A triangle slides gently up."}})
    assert front_end.run().error is None
    texts = _texts(front_end)
    assert "I2VGenXLCLIPEncode" not in texts and texts["I2VGenXLBaseSampler"] == "step 1 of 1"
    assert texts["I2VGenXLCascadeLoader"].startswith("knows moving shapes alone")  # it has not run again
    front_end.page.screenshot(path=front_end.screenshots / "warning_gone.png")


ONE_BLOCK = {
    "Image to Video (I2VGen-XL)": (
        "i2v",
        "i2vgen",
        "image to video",
        "img2vid",
        "animate",
        "motion",
        "photo",
        "photo to video",
        "clip vision",
    ),
    "Refine a Video (I2VGen-XL)": ("refine", "vid2vid", "upscale video", "enhance video"),
}
"""What people type, by the blueprint that has to come before the stages."""


def test_what_people_type_brings_the_one_block_solution_first(front_end):
    found = front_end.page.evaluate(
        """async searched => {
            const stores = document.querySelector('#vue-app').__vue_app__.config.globalProperties.$pinia._s
            const search = words => stores.get('nodeDef').nodeSearchService.searchNode(words).map(node => node.display_name)
            return Object.fromEntries(searched.map(words => [words, search(words).filter(name => name.includes('I2VGen-XL'))]))
        }""",
        [*(words for typed in ONE_BLOCK.values() for words in typed), "base sampler", "poses"],
    )
    for block, typed in ONE_BLOCK.items():
        for words in typed:
            assert found[words][0] == block, words
            assert words == "photo to video" or len(found[words]) >= 3, words
    assert found["base sampler"] == ["I2VGen-XL Base Sampler"]
    assert found["poses"][0] == "I2VGen-XL Poses to Video"


@pytest.mark.parametrize("renderer", ["classic", "Nodes 2.0"])
def test_nothing_stays_after_a_cancel(front_end, renderer):
    page = front_end.page
    page.evaluate("on => app.extensionManager.setting.set('Comfy.VueNodes.Enabled', on)", renderer == "Nodes 2.0")
    try:
        front_end.load(_template(base, BaseSampler={"steps": 999}))  # minutes
        page.evaluate("() => void app.queuePrompt(0)")
        page.wait_for_function(
            """() => app.graph.nodes.some(node => node.type === 'I2VGenXLBaseSampler' && node.widgets.some(
                widget => widget.name === '$$node-text-preview' && /^step [1-9]/.test(widget.value)))"""
        )
        interrupted = page.evaluate(
            """async () => {
                const end = new Promise(resolve => app.api.addEventListener('execution_interrupted', resolve, {once: true}))
                app.extensionManager.command.execute('Comfy.Interrupt')
                await end
                return true
            }"""
        )
        page.wait_for_timeout(500)
        assert interrupted and "I2VGenXLBaseSampler" not in _texts(front_end)
    finally:
        page.evaluate("app.extensionManager.setting.set('Comfy.VueNodes.Enabled', false)")
