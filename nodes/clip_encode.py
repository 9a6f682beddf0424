"""CLIP block: the prompts and the image, as the base stage reads them."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..i2vgen_core.releases import RELEASES
from .host.prompts import encode_with_clip
from .host.schema import CATEGORY, schema


class CLIPEncode(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="I2VGenXLCLIPEncode",
            display_name="I2VGen-XL CLIP Encode",
            category=CATEGORY,
            description="Encodes the prompts and the image with CLIP. The image goes to the positive side alone.",
            inputs=[
                io.Clip.Input(
                    "clip",
                    tooltip="OpenCLIP ViT-H/14's text encoder, of the Cascade Loader or stock Load CLIP. Another one is refused later.",
                ),
                io.ClipVision.Input(
                    "clip_vision",
                    tooltip="OpenCLIP ViT-H/14's image encoder, of the Cascade Loader or stock Load CLIP Vision. Runs once a video.",
                ),
                io.Image.Input(
                    "image",
                    tooltip="The photo: the video's first frame. Of a batch, the first image; no alpha channel.",
                ),
                io.String.Input(
                    "prompt",
                    multiline=True,
                    dynamic_prompts=True,
                    tooltip="What happens in the video, in English: one sentence, as the paper's. The first 75 tokens are read.",
                ),
                io.String.Input(
                    "negative_prompt",
                    multiline=True,
                    dynamic_prompts=True,
                    default=RELEASES["i2vgen_xl"].negative_prompt,
                    tooltip="What to keep away from. The official code never leaves it empty; this is its text. 75 tokens.",
                ),
                io.Int.Input(
                    "width",
                    default=0,
                    min=0,
                    max=8192,
                    step=8,
                    tooltip="The video's width, equal to Global Encode's: wire one I2VGen-XL Size into both. The square that "
                    "CLIP sees is cropped at this size, then reduced to 224. 0: the model's own.",
                ),
            ],
            outputs=[
                io.Conditioning.Output(
                    display_name="positive", tooltip="Prompt and image embedding; to Global Encode's positive."
                ),
                io.Conditioning.Output(
                    display_name="negative", tooltip="Negative prompt, without the image; to Global Encode's negative."
                ),
                io.ClipVisionOutput.Output(tooltip="For stock blocks that take one; the graph does not need it."),
            ],
            search_aliases=["image to video", "i2vgen", "to animate a photo", "with clip vision", "clip text encode"],
        )

    @classmethod
    def execute(
        cls, clip: Any, clip_vision: Any, image: Any, prompt: str, negative_prompt: str, width: int
    ) -> io.NodeOutput:
        return io.NodeOutput(*encode_with_clip(clip, clip_vision, image, prompt, negative_prompt, width))
