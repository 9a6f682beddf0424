"""Score block: figures of a video, so that many seeds can be sorted."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from .host.schema import INSPECT, schema
from .host.score import score_video


class Score(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="I2VGenXLScore",
            display_name="I2VGen-XL Score",
            category=INSPECT,
            description="Measures a video: motion, smoothness, flicker, likeness to the picture, sharpness, frames that failed.",
            inputs=[
                io.Image.Input(
                    "images",
                    tooltip="The video's frames, 2 or more. Costs some seconds for 16 frames, whatever their size.",
                ),
                io.Image.Input(
                    "reference",
                    optional=True,
                    tooltip="The picture that the video was made of. Of a batch, the first. Without it, likeness is to the first "
                    "frame.",
                ),
                io.ClipVision.Input(
                    "clip_vision",
                    optional=True,
                    tooltip="Of the Cascade Loader or stock Load CLIP Vision. With it, likeness and consistency over time are "
                    "measured by what CLIP sees in each frame.",
                ),
            ],
            outputs=[
                io.Image.Output(tooltip="The figures over the frames; to Preview Image or Save Image."),
                io.String.Output(display_name="table", tooltip="All figures as a Markdown table; to Preview as Text."),
                io.Float.Output(
                    display_name="motion",
                    tooltip="How far the fastest places go in a frame, in pixels of a picture 256 high or wide.",
                ),
                io.Float.Output(
                    display_name="smoothness", tooltip="How well a frame fits between its neighbours, 0 to 1."
                ),
                io.Float.Output(
                    display_name="likeness",
                    tooltip="To the picture, 0 to 1: by CLIP, the mean of all frames. 0 without clip_vision.",
                ),
                io.Float.Output(display_name="sharpness", tooltip="The mean of the frames' sharpness."),
            ],
            search_aliases=[
                "i2vgen",
                "vbench",
                "quality",
                "amount of motion",
                "flicker",
                "sort seeds",
                "metric",
                "best seed",
            ],
        )

    @classmethod
    def execute(cls, images: Any, reference: Any = None, clip_vision: Any = None) -> io.NodeOutput:
        found = score_video(images, reference, clip_vision)
        likeness = found.likeness_to_the_end if found.similarities else 0.0
        smoothness = 0.0 if len(images) < 3 else found.smoothness
        return io.NodeOutput(found.plot()[None], found.table(), found.motion, smoothness, likeness, found.sharpness)
