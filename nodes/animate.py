"""Blocks of the animators: a person's picture follows poses."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from .host.persons import MODES, aligned_poses, animate
from .host.schema import CATEGORY, PoseKeypointType, schema


class AlignPose(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="I2VGenXLAlignPose",
            display_name="I2VGen-XL Align Pose",
            category=CATEGORY,
            description="Gives a driving video's poses the build and place of a person, and draws them as Poses to Video reads them.",
            inputs=[
                PoseKeypointType.Input(
                    "keypoints",
                    tooltip="Of the driving video: stock SDPose Keypoint Extractor, or DWPose Estimator of other packs. Of more "
                    "people, the first.",
                ),
                PoseKeypointType.Input(
                    "reference",
                    tooltip="Of the person's picture, by the same block. Shoulders and hips have to be seen in it.",
                ),
                io.Boolean.Input(
                    "align",
                    default=True,
                    tooltip="Off draws the poses as they are, which Animate-X was trained on.",
                ),
            ],
            outputs=[
                io.Image.Output(
                    display_name="poses",
                    tooltip="[frames + 1, 768, 512, 3], the reference's first; to Poses to Video. Red and blue are swapped, as in training.",
                )
            ],
            search_aliases=["i2vgen", "unianimate", "dwpose", "openpose", "pose to video"],
        )

    @classmethod
    def execute(cls, keypoints: Any, reference: Any, align: bool) -> io.NodeOutput:
        return io.NodeOutput(aligned_poses(keypoints, reference, align))


class Animate(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="I2VGenXLAnimate",
            display_name="I2VGen-XL Poses to Video",
            category=CATEGORY,
            description="Puts a person's picture and poses on the conditionings of UniAnimate or Animate-X.",
            inputs=[
                io.Clip.Input("clip", tooltip="OpenCLIP ViT-H/14's text encoder. It reads the empty prompt alone."),
                io.ClipVision.Input("clip_vision", tooltip="OpenCLIP ViT-H/14's image encoder."),
                io.Vae.Input("vae", tooltip="Stable Diffusion 2.1's VAE. Encodes one image."),
                io.Image.Input(
                    "image", tooltip="The person. Stretched to the video's size: crop it to the same shape before."
                ),
                io.Image.Input("poses", tooltip="From Align Pose: the reference's pose, then those of the video."),
                io.Int.Input(
                    "width",
                    default=512,
                    min=64,
                    max=8192,
                    step=8,
                    tooltip="Width of the video, in steps of 8; 64 is better. Trained: 512x768; 768x1216 is known to work.",
                ),
                io.Int.Input(
                    "height",
                    default=768,
                    min=64,
                    max=8192,
                    step=8,
                    tooltip="Height of the video, in steps of 8: see width.",
                ),
                io.Int.Input(
                    "frames",
                    default=0,
                    min=0,
                    max=4096,
                    tooltip="Length of the video. 0: as many as poses. 16 or 32 were trained; more go in windows of 32.",
                ),
                io.Int.Input(
                    "interval",
                    default=1,
                    min=1,
                    max=64,
                    tooltip="Every so many poses one is taken. The release's examples take every second one.",
                ),
                io.Combo.Input(
                    "mode",
                    options=list(MODES),
                    default="reference",
                    tooltip="reference: the picture is a frame of its own that the video looks at. first frame: the video begins with "
                    "it, as Animate-X does, and as a long video goes on from its last frame.",
                ),
                io.Boolean.Input(
                    "swap_red_blue",
                    default=False,
                    tooltip="On for poses in ControlNet's colours. Align Pose's are right as they are.",
                ),
                io.Image.Input(
                    "driving_video", optional=True, tooltip="For Animate-X: the video that the poses are of."
                ),
                PoseKeypointType.Input("keypoints", optional=True, tooltip="For Animate-X: that video's keypoints."),
            ],
            outputs=[
                io.Conditioning.Output(display_name="positive", tooltip="The person and the poses; to Base Sampler."),
                io.Conditioning.Output(display_name="negative", tooltip="Nothing of them; to Base Sampler."),
                io.Latent.Output(tooltip="The person's picture in every frame; the first noise keeps a share of it."),
            ],
            search_aliases=["i2vgen", "unianimate", "animate-x", "person", "dance", "pose to video"],
        )

    @classmethod
    def execute(
        cls,
        clip: Any,
        clip_vision: Any,
        vae: Any,
        image: Any,
        poses: Any,
        width: int,
        height: int,
        frames: int,
        interval: int,
        mode: str,
        swap_red_blue: bool,
        driving_video: Any = None,
        keypoints: Any = None,
    ) -> io.NodeOutput:
        made = animate(
            clip,
            clip_vision,
            vae,
            image,
            poses,
            width=width,
            height=height,
            frames=frames,
            interval=interval,
            mode=mode,
            swaps=swap_red_blue,
            driving=driving_video,
            keypoints=keypoints,
        )
        return io.NodeOutput(*made)
