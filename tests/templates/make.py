"""Writes the templates and the subgraph blueprints.

    python -m tests.templates.make               workflows/*.json and subgraphs/*.json, from the code beside this file
    python -m tests.templates.make --nodes       first records from the front end what nodes.json has: when a block changes
    python -m tests.templates.make --pictures    then runs every template: its thumbnail workflows/*.jpg, which moves, and
                                                 its graph as docs/templates/*.jpg. When the weights or a graph change

Names of templates after the option restrict the pictures to those. The last two need what the UI tests need.

Of a pack's templates the front end reads the names of the files alone (no index, no descriptions, no tags), and shows
NAME.jpg in a square. A browser plays what is in the file, whatever it is called: an animated WebP.
"""

from __future__ import annotations

import argparse
import io
import json
import tempfile
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageOps

from i2vgen_core.media.video import read_video

from ..host.available import HOST, PACK
from ..host.result import Result
from ..host.server import Server
from ..ui.front_end import FrontEnd, opened
from .blueprints import BLUEPRINTS
from .graph import NODES, Graph, text
from .settings import BASE_VIDEO
from .templates import TEMPLATES, base
from .waiting import WAITING

WORKFLOWS, SUBGRAPHS, PICTURES = PACK / "workflows", PACK / "subgraphs", PACK / "docs" / "templates"
SIDE, PLAYED = 320, 24
"""Of a thumbnail: pixels, and frames at most."""

_PICTURE, _VIDEO = ("picture", 0), ("video", -1)
_BASE, _REFINED = ("first stage", 1), ("refined", -1)
THUMBNAILS: dict[str, tuple[tuple[str, int | str], tuple[str, int | str]]] = {
    "cascade": (_BASE, _REFINED),
    "base": (_PICTURE, _VIDEO),
    "refine_video": (("your video", "i2vgen_xl_base_00001_.mp4"), ("refined", 0)),
    "cascade_step_by_step": (("what the network reads", 1), ("before, after", -1)),
    "base_chain": (_PICTURE, ("two clips, joined", -1)),
    "base_long_video": (_PICTURE, ("64 frames", -1)),
    "base_loop": (_PICTURE, ("a loop", -1)),
    "base_two_prompts": (_PICTURE, ("one prompt, then another", -1)),
    "base_lora": (_PICTURE, ("video, with a LoRA of yours", -1)),
    "base_stock_ksampler": (("KSampler", 1), ("the same in single blocks", -1)),
    "base_swap_encoder": (("another picture for CLIP", 1), ("own, swapped", -1)),
    "cascade_text_to_image": (("a sentence's picture", 0), _REFINED),
    "cascade_upscale_model": (_PICTURE, ("an upscale model, refined", -1)),
    "cascade_interpolate": (_PICTURE, ("refined, frames between", -1)),
    "cascade_beyond_720p": (_PICTURE, ("refined, any size", -1)),
    "refine_long_video": (("your video", "i2vgen_xl_base_00001_.mp4"), ("refined in windows", 0)),
    "first_last": (("the last frame", 1), ("ends there", -1)),
    "part_moves": (_PICTURE, ("the ring is held", -1)),
    "drag": (("rough animation", 1), ("a thing dragged", -1)),
    "camera": (_PICTURE, ("the camera pans", -1)),
    "shots": (_PICTURE, ("a story of four shots", -1)),
    "prompt_help": (_PICTURE, ("a prompt, checked", -1)),
    "video_recolour": (("its first frame, painted", 0), ("the whole clip follows", -2)),
    "video_image_edit": (("its first frame, for a model", 0), ("the whole clip follows", -2)),
    "video_style": (("a style for its first frame", 0), ("the whole clip follows", -2)),
}
"""What the two halves of a thumbnail say and show: which of the run's pictures and videos, in the order of the nodes' ids,
or a file of an earlier one."""

_TYPES = [
    "BasicScheduler",
    "BatchImagesNode",
    "Canny",
    "CFGGuider",
    "CheckpointLoaderSimple",
    "CLIPLoader",
    "CLIPTextEncode",
    "CLIPVisionEncode",
    "CLIPVisionLoader",
    "ColorTransfer",
    "ConditioningCombine",
    "ContextWindowsManual",
    "ControlNetLoader",
    "CreateVideo",
    "EmptyImage",
    "EmptyLatentImage",
    "FrameInterpolate",
    "FrameInterpolationModelLoader",
    "GetImageSize",
    "GetVideoComponents",
    "I2VGenXLAlignPose",
    "I2VGenXLAnimate",
    "I2VGenXLApplyCtrlAdapter",
    "I2VGenXLBaseLoader",
    "I2VGenXLBaseSampler",
    "I2VGenXLCamera",
    "I2VGenXLCascadeLoader",
    "I2VGenXLCLIPEncode",
    "I2VGenXLColorMatch",
    "I2VGenXLCompareVideos",
    "I2VGenXLCompose",
    "I2VGenXLCtrlAdapterLoader",
    "I2VGenXLDrag",
    "I2VGenXLFirstLast",
    "I2VGenXLFollowAnimation",
    "I2VGenXLGlobalEncode",
    "I2VGenXLInspectConditioning",
    "I2VGenXLPrompt",
    "I2VGenXLRefinePrepare",
    "I2VGenXLRefinerLoader",
    "I2VGenXLRefineSampler",
    "I2VGenXLShots",
    "I2VGenXLSize",
    "I2VGenXLSpectrum",
    "I2VGenXLTinyScene",
    "I2VGenXLVAEDecode",
    "I2VGenXLVideoEdit",
    "ImageBlend",
    "ImageCompositeMasked",
    "ImageFlip",
    "ImageFromBatch",
    "ImageInvert",
    "ImageScale",
    "ImageToMask",
    "ImageUpscaleWithModel",
    "InstructPixToPixConditioning",
    "InvertMask",
    "KSampler",
    "KSamplerSelect",
    "LoadImage",
    "LoadImageMask",
    "LoadMoGeModel",
    "LoadVideo",
    "LoraLoaderModelOnly",
    "MaskComposite",
    "MaskToImage",
    "MoGeInference",
    "MoGeRender",
    "PreviewAny",
    "PreviewImage",
    "PrimitiveBoundingBox",
    "RandomNoise",
    "RepeatLatentBatch",
    "SamplerCustomAdvanced",
    "SaveVideo",
    "SDPoseKeypointExtractor",
    "SetLatentNoiseMask",
    "SolidMask",
    "StringConcatenate",
    "ThresholdMask",
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

_SIZES = """async types => {
    app.graph.clear()
    const made = types.map(type => [type, LiteGraph.createNode(type)])
    for (const [number, [, node]] of made.entries()) {
        node.pos = [number % 8 * 400, Math.floor(number / 8) * 500]
        node.setSize([225, 10])
        app.graph.add(node)
    }
    await app.extensionManager.command.execute('Comfy.Canvas.FitView')
    await new Promise(resolve => setTimeout(resolve, 4000)) // blocks are drawn, measured, and drawn again
    return Object.fromEntries(made.map(([type, node]) => [type, [...node.size].map(Math.ceil)]))
}"""


def write() -> None:
    """All graphs, from the code."""
    for folder, makers in ((WORKFLOWS, TEMPLATES + WAITING), (SUBGRAPHS, BLUEPRINTS)):
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
    """nodes.json, as the front end knows each type of node in an empty graph, its size that of the renderer that needs
    more."""
    with browser() as (front_end, _):
        found = {kind: front_end.page.evaluate(_RECORD, kind) for kind in _TYPES}
        front_end.set_renderer(vue=True)
        for kind, size in front_end.page.evaluate(_SIZES, _TYPES).items():
            found[kind]["size"] = [max(sides) for sides in zip(found[kind]["size"], size, strict=True)]
    NODES.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def pictures(names: list[str]) -> None:
    """Runs templates in the front end, and keeps what each one shows and a picture of its graph."""
    PICTURES.mkdir(exist_ok=True)
    with browser() as (front_end, server):
        for make in TEMPLATES + WAITING:
            graph = make()
            if names and graph.name not in names:
                continue
            if make not in WAITING and json.dumps(BASE_VIDEO) in text(graph.workflow()):
                _make_base_video(front_end, server)
            if make in WAITING:  # their files do not come with the pack
                front_end.load(graph.workflow())
                save_jpeg(front_end.picture(), PICTURES / f"{graph.name}.jpg", 1400)
                save_jpeg(front_end.picture(), WORKFLOWS / f"{graph.title}.jpg", SIDE)
                continue
            result = _run(front_end, graph)
            save_jpeg(front_end.picture(), PICTURES / f"{graph.name}.jpg", 1400)
            shown = [_frames(file, server) for file in shown_files(result)]
            halves = [
                (
                    label,
                    _frames({"filename": which, "subfolder": "video"}, server)
                    if isinstance(which, str)
                    else shown[which],
                )
                for label, which in THUMBNAILS[graph.name]
            ]
            save_thumbnail(halves, WORKFLOWS / f"{graph.title}.jpg")


def _make_base_video(front_end: FrontEnd, server: Server) -> None:
    """What templates of videos load: the video of the first template, which is run for it, unless it has been."""
    file = server.output_dir / BASE_VIDEO.removesuffix(" [output]")
    if not file.is_file():
        _run(front_end, base())
    assert file.is_file(), sorted(server.output_dir.rglob("*"))


def _run(front_end: FrontEnd, graph: Graph) -> Result:
    front_end.resize(400, 300)  # drawing a large page takes the time that the video needs
    front_end.load(graph.workflow())
    result = front_end.run()
    if result.error is not None:
        raise SystemExit(f"{graph.name}: {result.error_node}: {result.error}")
    return result


def shown_files(result: Result) -> list[dict[str, str]]:
    """The pictures and videos of a run, in the order of the nodes' ids."""
    return [
        file
        for node in sorted(result.outputs, key=int)
        for files in result.outputs[node].values()
        for file in files
        if isinstance(file, dict) and file["filename"].endswith((".png", ".mp4"))
    ]


def _frames(file: dict[str, str], server: Server) -> list[Image.Image]:
    """Of a video, or the one of a picture."""
    if file["filename"].endswith(".mp4"):
        frames, _ = read_video(server.output_dir / file["subfolder"] / file["filename"])
        return [Image.fromarray((frame * 255).round().to(torch.uint8).numpy()) for frame in frames]
    picture = server.get_bytes(f"/view?{urllib.parse.urlencode(file)}")
    return [Image.open(io.BytesIO(picture)).convert("RGB")]


def save_thumbnail(halves: list[tuple[str, list[Image.Image]]], file: Path) -> None:
    """Two frames above each other, each with its label; a video plays, a picture stays."""
    length = max(len(frames) for _, frames in halves)
    step = -(-length // PLAYED)
    sheets = []
    for number in range(0, length, step):
        sheet = Image.new("RGB", (SIDE, SIDE))
        for top, (label, frames) in zip((0, SIDE // 2), halves, strict=True):
            frame, room = frames[number % len(frames)], (SIDE, SIDE // 2)
            # two videos of 2:1 below or beside each other stay whole
            pair = frame.width == frame.height or frame.width > 3 * frame.height
            fit = ImageOps.pad if pair else ImageOps.fit
            sheet.paste(fit(frame, room, Image.Resampling.BICUBIC), (0, top))
            draw = ImageDraw.Draw(sheet, "RGBA")
            left, high, right, low = draw.textbbox((10, top + SIDE // 2 - 26), label, font_size=15)
            draw.rounded_rectangle((left - 5, high - 4, right + 5, low + 4), 5, fill=(0, 0, 0, 140))
            draw.text((10, top + SIDE // 2 - 26), label, fill="white", font_size=15)
        sheets.append(sheet)
    sheets[0].save(
        file, "WEBP", save_all=True, append_images=sheets[1:], duration=125 * step, loop=0, quality=70, method=6
    )


def save_jpeg(picture: Image.Image, file: Path, width: int) -> None:
    height = round(picture.height * width / picture.width)
    picture.convert("RGB").resize((width, height), Image.Resampling.LANCZOS).save(file, quality=82, optimize=True)


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
