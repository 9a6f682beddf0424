"""Writes the templates and the subgraph blueprints.

    python -m tests.templates.make               workflows/*.json and subgraphs/*.json, from the code beside this file
    python -m tests.templates.make --nodes       first records from the front end what nodes.json has: when a block changes
    python -m tests.templates.make --pictures    then runs every template: its thumbnail workflows/*.jpg, and its graph
                                                 as docs/templates/*.jpg. When the weights or a graph change

Names of templates after the option restrict the pictures to those. The last two need what the UI tests need.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from i2vgen_core.media.video import read_video

from ..host.available import HOST, PACK
from ..host.server import Server
from ..ui.front_end import FrontEnd, opened
from .blueprints import BLUEPRINTS
from .family import FAMILY
from .graph import NODES, text
from .templates import TEMPLATES

WORKFLOWS, SUBGRAPHS, PICTURES = PACK / "workflows", PACK / "subgraphs", PACK / "docs" / "templates"
THUMBNAIL = (800, 400)
"""The front end crops other shapes to its own; two to one is that of the tiny cascade's videos."""

_TYPES = [
    "BasicScheduler",
    "BatchImagesNode",
    "Canny",
    "CFGGuider",
    "CheckpointLoaderSimple",
    "CLIPLoader",
    "CLIPTextEncode",
    "CLIPVisionLoader",
    "ConditioningCombine",
    "ContextWindowsManual",
    "CreateVideo",
    "EmptyImage",
    "EmptyLatentImage",
    "FrameInterpolate",
    "FrameInterpolationModelLoader",
    "GetVideoComponents",
    "I2VGenXLAlignPose",
    "I2VGenXLAnimate",
    "I2VGenXLBaseLoader",
    "I2VGenXLBaseSampler",
    "I2VGenXLCascadeLoader",
    "I2VGenXLCLIPEncode",
    "I2VGenXLColorMatch",
    "I2VGenXLCompareVideos",
    "I2VGenXLCompose",
    "I2VGenXLGlobalEncode",
    "I2VGenXLInspectConditioning",
    "I2VGenXLRefinerLoader",
    "I2VGenXLRefineSampler",
    "I2VGenXLSize",
    "I2VGenXLSpectrum",
    "I2VGenXLTinyScene",
    "I2VGenXLVAEDecode",
    "ImageFromBatch",
    "ImageScale",
    "ImageToMask",
    "ImageUpscaleWithModel",
    "KSampler",
    "KSamplerSelect",
    "LoadImage",
    "LoadImageMask",
    "LoadMoGeModel",
    "LoadVideo",
    "LoraLoaderModelOnly",
    "MoGeInference",
    "MoGeRender",
    "PreviewAny",
    "PreviewImage",
    "RandomNoise",
    "RepeatLatentBatch",
    "SamplerCustomAdvanced",
    "SaveVideo",
    "SDPoseKeypointExtractor",
    "SetLatentNoiseMask",
    "UpscaleModelLoader",
    "VAEDecode",
    "VAEDecodeTiled",
    "VAEEncode",
    "VAELoader",
]
_RECORD = """type => {
    const made = [LiteGraph.createNode(type)]
    const [node] = made
    app.graph.add(node)
    if (type === 'BatchImagesNode') // a wire into its last input makes it grow another: three pictures are joined
        for (let slot = 0; slot < 3; slot++) {
            const picture = LiteGraph.createNode('EmptyImage')
            made.push(picture)
            app.graph.add(picture)
            picture.connect(0, node, slot)
        }
    const saved = node.serialize()
    const slot = ({name, type, shape, widget}) =>
        ({name, type, ...(shape !== undefined && {shape}), ...(widget && {widget: widget.name})})
    const widgets = (node.widgets ?? []).filter(widget => widget.serialize !== false)
    const found = {
        inputs: (saved.inputs ?? []).map(slot),
        outputs: (saved.outputs ?? []).map(slot),
        widgets: Object.fromEntries(widgets.map(widget => [widget.name, widget.value])),
        size: [...node.computeSize()].map(Math.ceil),
    }
    for (const each of made) app.graph.remove(each)
    return found
}"""


def write() -> None:
    """All graphs, from the code."""
    for folder, makers in ((WORKFLOWS, TEMPLATES + FAMILY), (SUBGRAPHS, BLUEPRINTS)):
        folder.mkdir(exist_ok=True)
        for make in makers:
            graph = make()
            (folder / f"{graph.title}.json").write_text(text(graph.workflow()), encoding="utf-8")


@contextmanager
def browser(width: int = 1920, height: int = 1080) -> Iterator[tuple[FrontEnd, Server]]:
    """ComfyUI with nothing but the pack, and its front end."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for part in ("input", "output"):
            (folder / part).mkdir()
        server = Server(HOST, PACK, folder)
        try:
            with opened(server, folder, width, height) as front_end:
                yield front_end, server
        finally:
            server.stop()


def record() -> None:
    """nodes.json, as the front end knows each type of node in an empty graph."""
    with browser() as (front_end, _):
        found = {kind: front_end.page.evaluate(_RECORD, kind) for kind in _TYPES}
    NODES.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def pictures(names: list[str]) -> None:
    """Runs templates in the front end, and keeps a frame of each one's last video and a picture of its graph."""
    PICTURES.mkdir(exist_ok=True)
    with browser() as (front_end, server):
        for make in TEMPLATES + FAMILY:
            graph = make()
            if names and graph.name not in names:
                continue
            if make in FAMILY:  # their files do not come with the pack
                front_end.load(graph.workflow())
                save_jpeg(front_end.picture(), PICTURES / f"{graph.name}.jpg", 1400)
                save_jpeg(front_end.picture(), WORKFLOWS / f"{graph.title}.jpg", THUMBNAIL[0])
                continue
            front_end.resize(400, 300)  # drawing a large page takes the time that the video needs
            front_end.load(graph.workflow())
            result = front_end.run()
            if result.error is not None:
                raise SystemExit(f"{graph.name}: {result.error_node}: {result.error}")
            save_jpeg(front_end.picture(), PICTURES / f"{graph.name}.jpg", 1400)
            video = saved_videos(result, server)[-1]
            save_jpeg(thumbnail(read_video(video)[0]), WORKFLOWS / f"{graph.title}.jpg", THUMBNAIL[0])


def thumbnail(frames: torch.Tensor) -> Image.Image:
    """Four of the frames [F, H, W, 3], two above two, read like a page."""
    chosen = frames[torch.linspace(0, len(frames) - 1, 4).round().long()]
    width, height = THUMBNAIL[0] // 2, THUMBNAIL[1] // 2
    sheet = Image.new("RGB", THUMBNAIL)
    for number, frame in enumerate(chosen):
        picture = Image.fromarray((frame * 255).round().to(torch.uint8).numpy())
        scale = max(width / picture.width, height / picture.height)
        covered = picture.resize(
            (round(picture.width * scale), round(picture.height * scale)), Image.Resampling.BICUBIC
        )
        left, top = (covered.width - width) // 2, (covered.height - height) // 2
        cell = covered.crop((left, top, left + width, top + height))
        sheet.paste(cell, (width * (number % 2), height * (number // 2)))
    return sheet


def save_jpeg(picture: Image.Image, file: Path, width: int) -> None:
    height = round(picture.height * width / picture.width)
    picture.convert("RGB").resize((width, height), Image.Resampling.LANCZOS).save(file, quality=82, optimize=True)


def saved_videos(result: Any, server: Server) -> list[Path]:
    """The files of a run, in the order of the nodes' ids."""
    return [
        server.output_dir / file["subfolder"] / file["filename"]
        for node in sorted(result.outputs, key=int)
        for files in result.outputs[node].values()
        for file in files
        if isinstance(file, dict) and file["filename"].endswith(".mp4")
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", action="store_true")
    parser.add_argument("--pictures", nargs="*", metavar="NAME")
    arguments = parser.parse_args()
    if arguments.nodes:
        record()
    write()
    if arguments.pictures is not None:
        pictures(arguments.pictures)


if __name__ == "__main__":
    main()
