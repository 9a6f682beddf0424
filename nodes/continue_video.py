"""Continue block: a clip that begins with the last frames of a video."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..i2vgen_core.shots import MOST_FRAMES, OVERLAP
from .host.schema import CATEGORY, schema
from .host.shots import continue_from


class Continue(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="I2VGenXLContinue",
            display_name="I2VGen-XL Continue Video",
            category=CATEGORY,
            description="Makes a clip begin with the last frames of a video, so that its motion goes on without a jump.",
            inputs=[
                io.Vae.Input("vae", tooltip="Stable Diffusion 2.1's VAE, of the Cascade Loader or stock Load VAE."),
                io.Latent.Input(
                    "latent",
                    tooltip="From Global Encode, whose image is the first of the held frames: size and frames.",
                ),
                io.Image.Input("images", tooltip="The video that goes on."),
                io.Int.Input(
                    "frames",
                    default=OVERLAP,
                    min=1,
                    max=MOST_FRAMES,
                    tooltip="How many of its last frames the clip begins with. 1 says where things are, 2 and more how they "
                    "move. Cut them off again behind the sampler.",
                ),
            ],
            outputs=[
                io.Latent.Output(tooltip="With the held frames and a noise mask; to the Base Sampler or KSampler.")
            ],
            search_aliases=["i2vgen", "extend video", "chain clips", "overlap", "longer video", "continue"],
        )

    @classmethod
    def execute(cls, vae: Any, latent: Any, images: Any, frames: int) -> io.NodeOutput:
        return io.NodeOutput(continue_from(vae, latent, images, frames))
