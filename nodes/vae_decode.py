"""VAE decode block: a few frames at a time."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..i2vgen_core.errors import check_range
from .host import compat
from .host.decode import decode_video
from .load import CATEGORY

_MOST_FRAMES = 4096


class VAEDecode(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return compat.schema(
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
                    max=_MOST_FRAMES,
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
        check_range("frames_per_batch", frames_per_batch, 0, _MOST_FRAMES)
        return io.NodeOutput(decode_video(vae, latent, frames_per_batch))
