"""First and last frame block: a video that ends in a picture."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..i2vgen_core.sampling.held import LAST_SIGNAL
from .host.directing import end_in
from .host.schema import CATEGORY, schema


class FirstLast(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="I2VGenXLFirstLast",
            display_name="I2VGen-XL First and Last Frame",
            category=CATEGORY,
            description="Makes a video end in a picture. The first frame is the picture of Global Encode.",
            inputs=[
                io.Model.Input("model", tooltip="A base, from the Cascade Loader or the Base Loader."),
                io.Vae.Input(
                    "vae", tooltip="The loader's, or Stable Diffusion 2.1's. Encodes the picture, once a video."
                ),
                io.Latent.Input(
                    "latent",
                    tooltip="From Global Encode: gives size and frames. A noise mask on it stays.",
                ),
                io.Image.Input(
                    "last_image",
                    tooltip="The last frame. Scaled to cover the video's size and cropped to its centre. Of a batch, the first.",
                ),
                io.Float.Input(
                    "until",
                    default=LAST_SIGNAL,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="How long the last frame is held, as a share of the signal. 1: to the end, the picture itself. Lower "
                    "fits it to the frames before it; below 0.5 it may be lost. Costs nothing.",
                ),
            ],
            outputs=[
                io.Model.Output(tooltip="To the Base Sampler or a stock sampler, with the latent beside it."),
                io.Latent.Output(tooltip="With the last frame and its noise mask; to the same sampler."),
            ],
            search_aliases=["first last frame", "flf2v", "end frame", "keyframe", "i2vgen", "interpolate"],
        )

    @classmethod
    def execute(cls, model: Any, vae: Any, latent: Any, last_image: Any, until: float) -> io.NodeOutput:
        return io.NodeOutput(*end_in(model, vae, latent, last_image, until))
