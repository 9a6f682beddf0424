"""Global encoder block: the image's details and global tokens, and the size, length and frame rate of the video."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from .host.image_conditioning import condition_on_image
from .host.schema import CATEGORY, GlobalEncoderType, schema


class GlobalEncode(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="I2VGenXLGlobalEncode",
            display_name="I2VGen-XL Global Encode",
            category=CATEGORY,
            description="Puts the image's details and global tokens on both conditionings, and makes the empty latent.",
            inputs=[
                io.Conditioning.Input("positive", tooltip="From the CLIP Encode block, or stock text encoding."),
                io.Conditioning.Input("negative", tooltip="The negative prompt; it gets the same image details."),
                GlobalEncoderType.Input("global_encoder", tooltip="From the loader of the base that will sample."),
                io.Vae.Input(
                    "vae", tooltip="Stable Diffusion 2.1's VAE. Encodes one image, once a video. SDXL's is refused."
                ),
                io.Image.Input(
                    "image",
                    tooltip="The photo. Scaled to cover the video's size and cropped to its centre. Of a batch, the first image.",
                ),
                io.Int.Input(
                    "width",
                    default=0,
                    min=0,
                    max=8192,
                    step=8,
                    tooltip="Width of the video, in steps of 8. Released for 1280x704, MS-Image2Video for 448x256; the block "
                    "I2VGen-XL Size has more that the networks like. Time and memory grow with the pixels. 0: the model's own.",
                ),
                io.Int.Input(
                    "height",
                    default=0,
                    min=0,
                    max=8192,
                    step=8,
                    tooltip="Height of the video, in steps of 8: see width. 0: the model's own.",
                ),
                io.Int.Input(
                    "frames",
                    default=16,
                    min=1,
                    max=4096,
                    tooltip="Length of the video: 16 is I2VGen-XL's, 32 MS-Image2Video's; 1 gives a still. Memory and time "
                    "grow with it.",
                ),
                io.Int.Input(
                    "fps",
                    default=0,
                    min=0,
                    max=120,
                    tooltip="A condition on motion: 16 calmer, 8 livelier from frame to frame; training saw these two. 0: the "
                    "model's own. Not the saved file's rate. Costs nothing.",
                ),
            ],
            outputs=[
                io.Conditioning.Output(display_name="positive", tooltip="With the image's details; to the sampler."),
                io.Conditioning.Output(display_name="negative", tooltip="With the same details; to the sampler."),
                io.Latent.Output(tooltip="Empty, [frames, 4, height / 8, width / 8]; to the same sampler."),
            ],
            search_aliases=["image to video", "i2vgen", "to animate a photo", "of motion", "empty video latent"],
        )

    @classmethod
    def execute(
        cls,
        positive: Any,
        negative: Any,
        global_encoder: Any,
        vae: Any,
        image: Any,
        width: int,
        height: int,
        frames: int,
        fps: int,
    ) -> io.NodeOutput:
        encoded = condition_on_image(
            positive, negative, global_encoder, vae, image, width=width, height=height, frames=frames, fps=fps
        )
        return io.NodeOutput(*encoded)
