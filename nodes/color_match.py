"""Colour block: a clip's colours brought back to those of its image."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..i2vgen_core.media.colour import METHODS, Method, match_colours
from .host.schema import CATEGORY, schema


class ColorMatch(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="I2VGenXLColorMatch",
            display_name="I2VGen-XL Color Match",
            category=CATEGORY,
            description="Brings a clip's colours back to those of the image it began from, where they have drifted.",
            inputs=[
                io.Image.Input(
                    "images",
                    tooltip="The decoded frames, in order; the first one shows the reference. Costs a fraction of a second "
                    "a frame.",
                ),
                io.Image.Input(
                    "reference",
                    tooltip="The image that Global Encode was given; of a batch, the first. It is cropped to the frames' "
                    "shape in the same way.",
                ),
                io.Combo.Input(
                    "method",
                    options=list(METHODS),
                    default="wavelet",
                    tooltip="adain: one gain and one offset a channel for the whole frame. wavelet: the low band, so that one "
                    "corner may be corrected otherwise than another. Both compare only what has not moved.",
                ),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    tooltip="0 leaves the frames as they are, 1 matches. Useful: 0.5 to 1. Lower it where the light is "
                    "meant to change.",
                ),
            ],
            outputs=[io.Image.Output(tooltip="The frames; to Create Video, or on to the second stage.")],
            search_aliases=["i2vgen", "colour match", "color drift", "color correction", "wavelet", "adain"],
        )

    @classmethod
    def execute(cls, images: Any, reference: Any, method: Method, strength: float) -> io.NodeOutput:
        return io.NodeOutput(match_colours(images, reference, method, strength))
