"""Size block: one choice of width and height for every block that takes them."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..i2vgen_core.media.images import FRAME_SIZES
from .host.schema import CATEGORY, schema
from .host.sizes import OWN, size_of


class Size(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="I2VGenXLSize",
            display_name="I2VGen-XL Size",
            category=CATEGORY,
            description="A size that the networks like, for CLIP Encode, Global Encode and Upscale Image alike.",
            inputs=[
                io.Combo.Input(
                    "size",
                    options=[*FRAME_SIZES, OWN],
                    default=OWN,
                    tooltip="the model's own: of the model that is wired in. base: for CLIP Encode and Global Encode. "
                    "refiner: for the frames before the second stage. The base's time and memory grow with the pixels: 448x256 has an eighth of 1280x704's. "
                    "Other multiples of 8 are typed into the blocks themselves.",
                ),
                io.Model.Input(
                    "model", optional=True, tooltip="Of a loader of this pack; read for the model's own size."
                ),
            ],
            outputs=[
                io.Int.Output(display_name="width", tooltip="To CLIP Encode's and Global Encode's width, in pixels."),
                io.Int.Output(display_name="height", tooltip="To Global Encode's height, in pixels."),
            ],
            search_aliases=["i2vgen", "resolution", "aspect ratio", "width height", "video size"],
        )

    @classmethod
    def execute(cls, size: str, model: Any = None) -> io.NodeOutput:
        return io.NodeOutput(*size_of(size, model))
