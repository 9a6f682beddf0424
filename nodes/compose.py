"""Compose block: pictures that a composer's video follows."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..i2vgen_core.media.guides import DEPTH_GAIN, Guides
from .host.composition import compose
from .host.schema import CATEGORY, FlowType, schema


class Compose(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="I2VGenXLCompose",
            display_name="I2VGen-XL Compose",
            category=CATEGORY,
            description="Lets a composer's video follow a sketch, depth, motion, a first picture, or a video with holes.",
            inputs=[
                io.Conditioning.Input("positive", tooltip="Stock CLIP Text Encode of the prompt."),
                io.Conditioning.Input("negative", tooltip="Stock CLIP Text Encode of the negative prompt."),
                io.Int.Input(
                    "width",
                    default=448,
                    min=64,
                    max=8192,
                    step=8,
                    tooltip="Width of the video, in steps of 8. Released for 448x256 and 896x512. Pictures are stretched to it.",
                ),
                io.Int.Input(
                    "height",
                    default=256,
                    min=64,
                    max=8192,
                    step=8,
                    tooltip="Height of the video, in steps of 8: see width.",
                ),
                io.Int.Input(
                    "frames",
                    default=16,
                    min=1,
                    max=4096,
                    tooltip="Length of the video: 16 or 32 were trained. One picture is that of all frames; of too few, the last "
                    "one is repeated.",
                ),
                io.ClipVisionOutput.Input(
                    "clip_vision_output",
                    optional=True,
                    tooltip="What the video is to look like: stock CLIP Vision Encode of a picture, with crop at none.",
                ),
                io.Image.Input(
                    "image", optional=True, tooltip="The video's first frame, read as pixels. Of a batch, the first."
                ),
                io.Image.Input(
                    "depth",
                    optional=True,
                    tooltip="Depth of each frame, near places bright, as depth blocks draw it. Its range is taken over the whole "
                    "clip.",
                ),
                io.Image.Input(
                    "sketch",
                    optional=True,
                    tooltip="Lines of each frame, as PiDiNet or Canny draw them; dark lines on white are turned round.",
                ),
                io.Image.Input(
                    "single_sketch", optional=True, tooltip="Lines of the first frame alone: the rest moves freely."
                ),
                FlowType.Input(
                    "motion",
                    optional=True,
                    tooltip="Optical flow from each frame to the next, in pixels, or pictures of it in the usual colours. One "
                    "vector a block of 16 pixels is kept, as training had them.",
                ),
                io.Image.Input(
                    "masked_video", optional=True, tooltip="A video of which the mask's places are made anew."
                ),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="White where the video is to be made. One for all frames, or one for each.",
                ),
                io.Float.Input(
                    "depth_gain",
                    default=DEPTH_GAIN,
                    min=0.0,
                    max=10.0,
                    step=0.1,
                    optional=True,
                    tooltip="What the nearest place counts as, in units of 20 of MiDaS's raw depth. Useful: 1 to 3.",
                ),
                io.Boolean.Input(
                    "far_is_bright",
                    default=False,
                    optional=True,
                    tooltip="On for depth pictures whose bright places are the far ones.",
                ),
                io.Float.Input(
                    "fastest",
                    default=8.0,
                    min=0.0,
                    max=1024.0,
                    step=0.5,
                    optional=True,
                    tooltip="Pixels a frame that the strongest colour of motion's pictures stands for; flow itself says its own.",
                ),
            ],
            outputs=[
                io.Conditioning.Output(display_name="positive", tooltip="With the pictures; to the sampler."),
                io.Conditioning.Output(display_name="negative", tooltip="With the same pictures; to the sampler."),
                io.Latent.Output(tooltip="Empty, [frames, 4, height / 8, width / 8]; to the same sampler."),
            ],
            search_aliases=[
                "i2vgen",
                "sketch to video",
                "depth to video",
                "video inpaint",
                "videocomposer",
                "tf-t2v",
                "videolcm",
            ],
        )

    @classmethod
    def execute(
        cls,
        positive: Any,
        negative: Any,
        width: int,
        height: int,
        frames: int,
        clip_vision_output: Any = None,
        image: Any = None,
        depth: Any = None,
        sketch: Any = None,
        single_sketch: Any = None,
        motion: Any = None,
        masked_video: Any = None,
        mask: Any = None,
        depth_gain: float = DEPTH_GAIN,
        far_is_bright: bool = False,
        fastest: float = 8.0,
    ) -> io.NodeOutput:
        guides = Guides(
            image, depth, sketch, single_sketch, motion, masked_video, mask, depth_gain, far_is_bright, fastest
        )
        sizes = {"width": width, "height": height, "frames": frames}
        return io.NodeOutput(*compose(positive, negative, guides, clip_vision_output, **sizes))
