"""Tiny Scene block: a picture for the built-in cascade, which knows moving shapes and nothing else."""

from __future__ import annotations

from comfy_api.latest import io

from ..i2vgen_core.media.captions import caption
from ..i2vgen_core.media.rendering import render
from ..i2vgen_core.media.world import sample_scene
from .host.schema import CATEGORY, schema

_WIDTH, _HEIGHT = 512, 256


class TinyScene(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="I2VGenXLTinyScene",
            display_name="I2VGen-XL Tiny Scene",
            category=CATEGORY,
            description="Draws a picture for the built-in tiny cascade: shapes that its training never saw together.",
            inputs=[
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=2**32 - 1,
                    control_after_generate=True,
                    tooltip="Of the scene; every number draws another one. The released models take photos: use Load Image instead of "
                    "this block.",
                ),
            ],
            outputs=[
                io.Image.Output(tooltip="One picture, 512x256; to CLIP Encode and Global Encode."),
                io.String.Output(
                    display_name="prompt", tooltip="What is there and how it moves; to CLIP Encode's prompt."
                ),
            ],
            search_aliases=["i2vgen", "test image", "example"],
        )

    @classmethod
    def execute(cls, seed: int) -> io.NodeOutput:
        scene = sample_scene(seed, split="held_out")
        return io.NodeOutput(render(scene, _WIDTH, _HEIGHT, frames=1, fps=8).frames, caption(scene, seed))
