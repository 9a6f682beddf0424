"""VAE decode block: a few frames at a time."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from .host.decode import MOST_FRAMES, decode_video
from .host.schema import CATEGORY, schema


class VAEDecode(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="I2VGenXLVAEDecode",
            display_name="I2VGen-XL VAE Decode",
            category=CATEGORY,
            description="Decodes the video's latent to frames.",
            inputs=[
                io.Vae.Input("vae", tooltip="Stable Diffusion 2.1's VAE, of the Cascade Loader or stock Load VAE."),
                io.Latent.Input("latent", tooltip="From a sampler; frames are the batch."),
                io.Int.Input(
                    "frames_per_batch",
                    default=0,
                    min=0,
                    max=MOST_FRAMES,
                    tooltip="Frames decoded at once. 0: as many as fit into free memory. Useful: 1 to 8; fewer need less memory, "
                    "and the frames are the same.",
                ),
            ],
            outputs=[
                io.Image.Output(
                    tooltip="The frames, in order; to Create Video, or to Upscale Image for the second stage."
                )
            ],
            search_aliases=["i2vgen", "decode video"],
        )

    @classmethod
    def execute(cls, vae: Any, latent: Any, frames_per_batch: int) -> io.NodeOutput:
        return io.NodeOutput(decode_video(vae, latent, frames_per_batch))
