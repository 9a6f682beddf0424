"""`python -m tests.ui.help_pictures [BLOCK ...]`: the picture of each block on its help page, from the templates in the
real front end; without names, of all."""

from __future__ import annotations

import io
import json
import sys
import tempfile
from pathlib import Path

from PIL import Image

from ..host.available import HOST, PACK
from ..host.server import Server
from .front_end import FrontEnd, opened

DOCS = PACK / "web" / "docs"
PICTURES = DOCS.parent / "pictures"
_WIDTH, _AROUND = 420, 24  # of a picture at most, and around a block, in pixels


def main() -> None:
    """Runs the first template that has a block, short, and takes the block's picture; a block of none stands alone."""
    PICTURES.mkdir(exist_ok=True)
    missing = set(sys.argv[1:]) or {file.stem for file in DOCS.glob("*.md")}
    with tempfile.TemporaryDirectory() as name:
        for folder in ("input", "output"):
            (Path(name) / folder).mkdir()
        server = Server(HOST, PACK, Path(name))
        try:
            with opened(server, Path(name)) as front_end:
                for file in sorted((PACK / "workflows").glob("*.json")):
                    workflow = json.loads(file.read_text(encoding="utf-8"))
                    found = missing & {node["type"] for node in workflow["nodes"]}
                    if found:
                        front_end.load(workflow)
                        front_end.set_widgets({"I2VGenXLGlobalEncode": {"frames": 9}})
                        front_end.run()
                        for block in sorted(found):
                            _take(front_end, block)
                        missing -= found
                for block in sorted(missing):
                    front_end.load({"nodes": [], "links": [], "version": 0.4, "last_node_id": 0, "last_link_id": 0})
                    front_end.page.evaluate("type => app.graph.add(LiteGraph.createNode(type))", block)
                    _take(front_end, block)
        finally:
            server.stop()


def _take(front_end: FrontEnd, block: str) -> None:
    box = front_end.page.evaluate(
        """([type, around]) => {
            app.extensionManager.setting.set('Comfy.Minimap.Visible', false)
            const node = app.graph.nodes.find(node => node.type === type)
            for (const each of app.graph.nodes) if (each.pos[1] < -4000) each.pos = [each.pos[0], each.pos[1] + 9000]
            node.pos = [node.pos[0], node.pos[1] - 9000] // where nothing lies beside it
            node.updateArea?.()
            const [x, y, width, height] = node.boundingRect
            app.canvas.deselectAll?.()
            app.canvas.ds.scale = 1
            app.canvas.ds.offset = [300 - x, 200 - y]
            app.canvas.draw(true, true)
            const bounds = app.canvas.canvas.getBoundingClientRect()
            return {x: bounds.x + 300 - around, y: bounds.y + 200 - around, width: width + 2 * around, height: height + 2 * around}
        }""",
        [block, _AROUND],
    )
    front_end.page.wait_for_timeout(1500)
    shot = Image.open(io.BytesIO(front_end.page.screenshot(clip=box))).convert("RGB")
    shot.thumbnail((_WIDTH, 2 * _WIDTH))
    shot.save(PICTURES / f"{block}.jpg", quality=82, optimize=True)


if __name__ == "__main__":
    main()
