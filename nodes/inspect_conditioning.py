"""Inspection block: a conditioning's tokens and detail features as a picture and a table."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from .host.conditioning import draw
from .host.schema import INSPECT, schema


class InspectConditioning(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="I2VGenXLInspectConditioning",
            display_name="I2VGen-XL Inspect Conditioning",
            category=INSPECT,
            description="Draws what the network reads of a conditioning: text, global and CLIP image tokens, and details.",
            inputs=[
                io.Conditioning.Input(
                    "positive",
                    tooltip="From Global Encode for everything there is; from CLIP Encode or stock text encoding for the "
                    "tokens so far. Of several conditionings in one, the first is drawn. Costs under a second.",
                ),
                io.Conditioning.Input(
                    "negative",
                    optional=True,
                    tooltip="The other side, drawn beside the first with the cosine similarity token by token.",
                ),
                io.Model.Input(
                    "model",
                    optional=True,
                    tooltip="The network that will sample. With it the CLIP image embedding is drawn as the four tokens "
                    "that the network makes of it, and the details as its features; it is loaded for that. Without it: "
                    "the embedding and the image latent.",
                ),
            ],
            outputs=[
                io.Image.Output(tooltip="The picture, 1024x1024 or less high; to Preview Image or Save Image."),
                io.String.Output(display_name="table", tooltip="The figures as a Markdown table; to Preview as Text."),
            ],
            search_aliases=["i2vgen", "conditioning", "tokens", "debug", "visualize", "global tokens"],
        )

    @classmethod
    def execute(cls, positive: Any, negative: Any = None, model: Any = None) -> io.NodeOutput:
        return io.NodeOutput(*draw(positive, negative, model))
