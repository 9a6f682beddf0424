"""ComfyUI's front end in a browser page, driven as a user does or through its own `app`."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from ..host.available import CHROMIUM
from ..host.result import Result
from ..host.server import Server

if TYPE_CHECKING:
    from playwright.sync_api import Page

_SECONDS = 1000.0  # in Playwright's milliseconds
_PATIENCE = 90 * _SECONDS  # two busy cores take 20 s to start the front end, and as long to show its templates


class FrontEnd:
    """One page of the front end.

    Attributes:
        errors: exceptions that the page's scripts have thrown so far.
        screenshots: folder for pictures of the opened graphs, to look at.
    """

    def __init__(self, page: Page, server: Server, screenshots: Path):
        """Opens the front end and closes the templates that a first visit shows."""
        self.page = page
        self._server = server
        self.errors: list[str] = []
        self.screenshots = screenshots
        page.set_default_timeout(_PATIENCE)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        (address,) = re.findall(r"To see the GUI go to: (\S+)", server.log)
        page.goto(address)
        page.wait_for_function("window.app?.vueAppReady && window.app.graph")
        page.get_by_role("dialog").wait_for()
        self.close_dialogs()

    @contextmanager
    def beside(self, server: Server, screenshots: Path) -> Iterator[FrontEnd]:
        """The front end of another server, as a first visit, in the same browser."""
        context = self.page.context.browser.new_context(viewport=self.page.viewport_size)
        try:
            yield FrontEnd(context.new_page(), server, screenshots)
        finally:
            context.close()

    def close_dialogs(self) -> None:
        dialogs = self.page.get_by_role("dialog")
        while dialogs.count():
            self.page.keyboard.press("Escape")
            self.page.wait_for_timeout(0.5 * _SECONDS)

    def fetch(self, route: str) -> str | None:
        """The text that the server gives the page for a route; None if it has none."""
        return self.page.evaluate("async url => { const r = await fetch(url); return r.ok ? r.text() : null }", route)

    def load(self, workflow: dict[str, Any], seconds: float = 2, source: str = "file") -> None:
        """Opens a workflow as its file would be, in a tab of its own, or as a `template`, and waits: what is missing is
        looked for after loading."""
        given = [workflow, {"openSource": source}]
        self.page.evaluate("([workflow, options]) => app.loadGraphData(workflow, true, true, null, options)", given)
        self.page.wait_for_timeout(seconds * _SECONDS)

    def complaints(self) -> list[str]:
        """Texts of open dialogs and of error messages."""
        return self.page.locator("[role=dialog], [role=alert], [data-testid=error-overlay]").all_inner_texts()

    def missing_models(self) -> list[dict[str, Any]]:
        """Files that the front end offers to download: name, url, directory."""
        return self.page.evaluate(
            """() => {
                const stores = document.querySelector('#vue-app').__vue_app__.config.globalProperties.$pinia._s
                return JSON.parse(JSON.stringify(stores.get('missingModel').missingModelCandidates ?? []))
            }"""
        )

    def prompt(self) -> dict[str, Any]:
        """The opened graph as the front end sends it to the server: `workflow` and, in API format, `output`."""
        return self.page.evaluate("async () => JSON.parse(JSON.stringify(await app.graphToPrompt()))")

    def set_widgets(self, values: dict[str, dict[str, Any]]) -> None:
        """Sets widgets by node type and name, in every node of the type."""
        self.page.evaluate(
            """values => {
                for (const node of app.graph.nodes)
                    for (const [name, value] of Object.entries(values[node.type] ?? {}))
                        node.widgets.find(widget => widget.name === name).value = value
            }""",
            values,
        )

    def set_renderer(self, vue: bool) -> None:
        """Nodes 2.0, or the classic one."""
        self.page.evaluate("vue => app.extensionManager.setting.set('Comfy.VueNodes.Enabled', vue)", vue)
        self.page.wait_for_timeout(_SECONDS)

    def watch(self) -> None:
        """From now on looks ten times a second for blocks that lie on each other."""
        self.page.evaluate(
            """() => {
                clearInterval(window.watching)
                window.lying = new Set()
                const box = node => {
                    const [x, y, width, height] = node.boundingRect
                    const drawn = document.querySelector(`[data-node-id="${node.id}"]`)?.getBoundingClientRect()
                    const scale = app.canvas.ds.scale
                    const size = drawn ? [drawn.width / scale, drawn.height / scale] : [0, 0]
                    return [x, y, x + Math.max(width, size[0]), y + Math.max(height, size[1])]
                }
                window.watching = setInterval(() => {
                    const boxes = app.graph.nodes.map(node => [node.title, ...box(node)])
                    for (const [i, [title, left, top, right, bottom]] of boxes.entries())
                        for (const [other, left2, top2, right2, bottom2] of boxes.slice(0, i))
                            if (left < right2 - 1 && left2 < right - 1 && top < bottom2 - 1 && top2 < bottom - 1)
                                window.lying.add(`${title} and ${other}`)
                }, 100)
            }"""
        )

    def lying(self) -> list[str]:
        """Blocks that have lain on each other since `watch`."""
        self.page.wait_for_timeout(0.25 * _SECONDS)
        return self.page.evaluate("[...window.lying]")

    def note(self) -> tuple[float, float]:
        """Heights of the note's text and of the room for it, in the screen's pixels."""
        return self.page.evaluate(
            """() => {
                const shown = '.comfy-markdown-content, .comfy-markdown .tiptap'
                const text = [...document.querySelectorAll(shown)].find(each => each.clientHeight > 0)
                const room = text.closest('.comfy-markdown') ?? text
                const [first, last] = [text.firstElementChild, text.lastElementChild].map(each => each.getBoundingClientRect())
                return [last.bottom - first.top, room.getBoundingClientRect().height]
            }"""
        )

    def shrink(self, frames: int, seed: int) -> None:
        """Makes a template's run take seconds, and its samplers run again: one step, and frames where they are free."""
        self.page.evaluate(
            """([frames, seed]) => {
                const values = {steps: 1, frames, seed, noise_seed: seed}
                for (const node of app.graph.nodes) {
                    if (['I2VGenXLTinyScene', 'VAEDecodeTiled'].includes(node.type)) continue
                    const linked = new Set(node.inputs.filter(input => input.link !== null).map(input => input.name))
                    const given = node.type === 'ImageScale' ? {width: 120, height: 88} : values
                    for (const widget of node.widgets ?? [])
                        if (widget.name in given && !linked.has(widget.name)) widget.value = given[widget.name]
                }
            }""",
            [frames, seed],
        )

    def set_language(self, language: str, node_type: str, title: str) -> None:
        """Sets the language as the settings' dialog does, and refreshes the blocks until one has its title."""
        self.page.evaluate("language => app.extensionManager.setting.set('Comfy.Locale', language)", language)
        self.page.evaluate("window.inARow = 0")
        self.page.wait_for_function(  # the front end's own refresh may come before the language's texts, or end after this one
            """async ([type, title]) => {
                await app.extensionManager.command.execute('Comfy.RefreshNodeDefinitions')
                window.inARow = LiteGraph.registered_node_types[type].title === title ? window.inARow + 1 : 0
                return window.inARow > 2
            }""",
            arg=[node_type, title],
            polling=_SECONDS,
        )

    def hover_widget(self, node_type: str, name: str) -> None:
        """Brings a node into view, and the mouse to one of its widgets."""
        x, y = self.page.evaluate(
            """([type, name]) => {
                const node = app.graph.nodes.find(node => node.type === type)
                app.canvas.centerOnNode(node)
                const top = node.widgets.find(widget => widget.name === name).y
                const [x, y] = app.canvas.ds.convertOffsetToCanvas([node.pos[0] + node.size[0] / 2, node.pos[1] + top + 10])
                const { left, top: above } = app.canvas.canvas.getBoundingClientRect()
                return [left + x, above + y]
            }""",
            [node_type, name],
        )
        self.page.mouse.move(x - 1, y)
        self.page.mouse.move(x, y)

    def run(self) -> Result:
        """Presses Run, so that the nodes show what they give, and waits for the end."""
        finished = self.page.evaluate(
            """async () => {
                const {api} = app
                const end = new Promise(resolve => {
                    for (const event of ['execution_success', 'execution_error', 'execution_interrupted'])
                        api.addEventListener(event, ({detail}) => resolve({event, ...detail}), {once: true})
                })
                const queued = await app.queuePrompt(0)
                return queued === false ? {event: 'refused'} : await end
            }"""
        )
        self.page.wait_for_timeout(_SECONDS)  # what was saved is loaded and shown
        if finished["event"] == "execution_success":
            history = json.loads(self.fetch(f"/api/history/{finished['prompt_id']}") or "{}")
            return Result(outputs=history[finished["prompt_id"]]["outputs"])
        message = finished.get("exception_message", f"{finished['event']}: {self.complaints()}")
        return Result(error=message.strip(), error_node=finished.get("node_type"))

    def resize(self, width: int, height: int) -> None:
        """The page's size in pixels."""
        self.page.set_viewport_size({"width": width, "height": height})

    def picture(self) -> Image.Image:
        """The whole graph and nothing else, in a page as large as it needs at four fifths of its size."""
        edges = self.page.evaluate(
            """() => {
                const boxes = [...app.graph.nodes, ...app.graph.groups].map(item => item.boundingRect ?? item.bounding)
                const low = axis => Math.min(...boxes.map(box => box[axis]))
                const high = axis => Math.max(...boxes.map(box => box[axis] + box[axis + 2]))
                return [low(0), low(1), high(0), high(1)]
            }"""
        )
        scale, around = 0.8, 140  # the front end's bars and messages are in the margin, which is cut off
        width, height = (round(scale * (edges[axis + 2] - edges[axis])) for axis in (0, 1))
        self.resize(width + 2 * around, height + 2 * around)
        self.page.evaluate(
            """([scale, x, y]) => {
                app.extensionManager.setting.set('Comfy.Minimap.Visible', false)
                app.canvas.ds.scale = scale
                app.canvas.ds.offset = [x, y]
                app.canvas.draw(true, true)
            }""",
            [scale, around / scale - edges[0], around / scale - edges[1]],
        )
        self.page.wait_for_timeout(1.5 * _SECONDS)
        shot = Image.open(io.BytesIO(self.page.screenshot()))
        border = around - 20
        return shot.crop((border, border, shot.width - border, shot.height - border))

    def run_prompt(self) -> Result:
        """Hands the opened graph's API format to the server, and waits for its end."""
        graph = self.prompt()["output"]
        with ThreadPoolExecutor(1) as own_loop:  # Playwright's event loop is this thread's
            return own_loop.submit(self._server.run, graph).result()


@contextmanager
def opened(server: Server, screenshots: Path, width: int = 1920, height: int = 1080) -> Iterator[FrontEnd]:
    """The front end in a headless Chromium of its own; width and height are the page's, in pixels."""
    from playwright.sync_api import sync_playwright

    switches = ["no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-background-networking"]
    switches += ["disable-component-update", "disable-sync"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=[f"--{switch}" for switch in switches])
        try:
            yield FrontEnd(browser.new_page(viewport={"width": width, "height": height}), server, screenshots)
        finally:
            browser.close()
