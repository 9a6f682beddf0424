"""Comparison block: two videos in one picture, with PSNR and sharpness of every frame."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..i2vgen_core.media.compare import LAYOUTS, Layout, compare
from .host.schema import INSPECT, schema


class CompareVideos(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="I2VGenXLCompareVideos",
            display_name="I2VGen-XL Compare Videos",
            category=INSPECT,
            description="Puts two videos into one picture, frame by frame, and states PSNR and sharpness of each frame.",
            inputs=[
                io.Image.Input(
                    "images_a",
                    tooltip="The video on the left, or above. Sizes may differ: the smaller one is enlarged to the larger one's. Of "
                    "different lengths, as many frames are compared as the shorter one has.",
                ),
                io.Image.Input("images_b", tooltip="The video on the right, or below, such as the same one refined."),
                io.Combo.Input(
                    "mode",
                    options=list(LAYOUTS),
                    default="side_by_side",
                    tooltip="side_by_side shows both whole, in twice the width. split shows the left half of a and the right "
                    "half of b in one frame. stacked shows both whole, b below a.",
                ),
            ],
            outputs=[
                io.Image.Output(tooltip="The frames; to Create Video, Preview Image or Save Image."),
                io.String.Output(
                    display_name="table",
                    tooltip="PSNR and sharpness, means and frame by frame, as a Markdown table; to Preview as Text.",
                ),
            ],
            search_aliases=["i2vgen", "side by side", "before after", "psnr", "sharpness", "video compare"],
        )

    @classmethod
    def execute(cls, images_a: Any, images_b: Any, mode: Layout) -> io.NodeOutput:
        comparison = compare(images_a, images_b, mode)
        return io.NodeOutput(comparison.frames, comparison.table())
