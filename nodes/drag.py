"""Blocks for where things go: a part of the picture dragged along a path, a moving camera, and a video that follows it."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..i2vgen_core.sampling.held import WEAK_SIGNAL
from .host.directing import camera_before, drag_parts, follow_animation
from .host.schema import CATEGORY, BoxType, TracksType, schema


class Drag(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="I2VGenXLDrag",
            display_name="I2VGen-XL Drag",
            category=CATEGORY,
            description="Drags a part of a picture along a path: a rough animation, which Follow Animation makes a video of.",
            inputs=[
                io.Image.Input("image", tooltip="The picture of Global Encode. Of a batch, the first."),
                io.Latent.Input("latent", tooltip="From Global Encode: gives size and frames."),
                io.String.Input(
                    "path",
                    default="0,0 100,0",
                    multiline=True,
                    tooltip="Points x,y in pixels of the picture, spread evenly over the time, or a spline editor's coordinates. The "
                    "part begins where it is, and goes the same way. A line for each part.",
                ),
                io.Float.Input(
                    "scale",
                    default=1.0,
                    min=0.1,
                    max=10.0,
                    step=0.01,
                    tooltip="Size of the part in the last frame. 1: the same.",
                ),
                io.Float.Input(
                    "rotation",
                    default=0.0,
                    min=-3600.0,
                    max=3600.0,
                    step=1.0,
                    tooltip="How far the part has turned in the last frame, degrees clockwise.",
                ),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="The part, in white, of the picture's size. Of a batch, one for each path.",
                ),
                BoxType.Input(
                    "box",
                    optional=True,
                    extra_dict={"forceInput": True},
                    tooltip="In place of a mask: a box around the part, in pixels of the picture.",
                ),
                TracksType.Input(
                    "tracks", optional=True, tooltip="In place of the path: tracks, of which a part goes the mean way."
                ),
            ],
            outputs=[
                io.Image.Output(tooltip="The rough animation; to Follow Animation, Camera or a preview."),
                io.Mask.Output(tooltip="Where it is to be followed; to Follow Animation."),
            ],
            search_aliases=[
                "as a motion brush",
                "trajectory",
                "along a motion path",
                "spline",
                "move object",
                "i2vgen",
            ],
        )

    @classmethod
    def execute(
        cls,
        image: Any,
        latent: Any,
        path: Any,
        scale: float,
        rotation: float,
        mask: Any = None,
        box: Any = None,
        tracks: Any = None,
    ) -> io.NodeOutput:
        part = {"mask": mask, "box": box}
        return io.NodeOutput(*drag_parts(image, latent, path if tracks is None else tracks, scale, rotation, **part))


class Camera(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="I2VGenXLCamera",
            display_name="I2VGen-XL Camera",
            category=CATEGORY,
            description="Moves the camera before a picture: a rough animation, which Follow Animation makes a video of.",
            inputs=[
                io.Image.Input(
                    "image",
                    tooltip="The picture of Global Encode, or Drag's animation, before which the camera moves too.",
                ),
                io.Latent.Input("latent", tooltip="From Global Encode: gives size and frames."),
                io.Float.Input(
                    "pan",
                    default=0.0,
                    min=-1.0,
                    max=1.0,
                    step=0.01,
                    tooltip="To the right up to the last frame, in widths of the picture. Useful: -0.4 to 0.4.",
                ),
                io.Float.Input(
                    "tilt",
                    default=0.0,
                    min=-1.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Downwards up to the last frame, in heights of the picture. Useful: -0.4 to 0.4.",
                ),
                io.Float.Input(
                    "zoom",
                    default=1.0,
                    min=0.25,
                    max=4.0,
                    step=0.01,
                    tooltip="How large the picture's middle is in the last frame. Above 1 goes in, below 1 out.",
                ),
                io.Float.Input(
                    "roll",
                    default=0.0,
                    min=-180.0,
                    max=180.0,
                    step=1.0,
                    tooltip="How far the camera has turned in the last frame, degrees clockwise; the picture turns the other way.",
                ),
            ],
            outputs=[
                io.Image.Output(tooltip="The rough animation; to Follow Animation or a preview."),
                io.Mask.Output(tooltip="Where it is to be followed: not where the picture's edge comes into sight."),
            ],
            search_aliases=["pan", "zoom", "tilt", "roll", "of camera motion", "ken burns", "i2vgen"],
        )

    @classmethod
    def execute(cls, image: Any, latent: Any, pan: float, tilt: float, zoom: float, roll: float) -> io.NodeOutput:
        return io.NodeOutput(*camera_before(image, latent, pan, tilt, zoom, roll))


class FollowAnimation(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="I2VGenXLFollowAnimation",
            display_name="I2VGen-XL Follow Animation",
            category=CATEGORY,
            description="Makes a video go as a rough animation goes: Drag's, Camera's or one of your own.",
            inputs=[
                io.Model.Input("model", tooltip="A base, from the Cascade Loader or the Base Loader."),
                io.Vae.Input("vae", tooltip="The loader's, or Stable Diffusion 2.1's. Encodes the animation."),
                io.Latent.Input(
                    "latent",
                    tooltip="From Global Encode: gives size and frames. What its noise mask holds longer stays.",
                ),
                io.Image.Input(
                    "images",
                    tooltip="The animation: as many frames as the video, the first one the picture of Global Encode. Scaled to cover "
                    "the video's size and cropped to its centre.",
                ),
                io.Float.Input(
                    "strong",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="How long the animation is held where the mask is white, as a share of the signal. 0: the model's own. "
                    "Useful: 0.3 to 0.97. Higher follows it more closely, its faults too. Costs nothing.",
                ),
                io.Float.Input(
                    "weak",
                    default=WEAK_SIGNAL,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="The same where the mask is black. 0: there the prompt alone says what moves.",
                ),
                io.Mask.Input(
                    "mask", optional=True, tooltip="Where the animation is to be followed. None: everywhere."
                ),
            ],
            outputs=[
                io.Model.Output(tooltip="To the Base Sampler or a stock sampler, with the latent beside it."),
                io.Latent.Output(tooltip="With the animation and its noise mask; to the same sampler."),
            ],
            search_aliases=["time-to-move", "rough animation", "drag", "for motion control", "i2vgen"],
        )

    @classmethod
    def execute(
        cls, model: Any, vae: Any, latent: Any, images: Any, strong: float, weak: float, mask: Any = None
    ) -> io.NodeOutput:
        return io.NodeOutput(*follow_animation(model, vae, latent, images, mask, weak, strong))
