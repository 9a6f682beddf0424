"""Ctrl-Adapter blocks: an adapter's file, and a base that a ControlNet of Stable Diffusion 1.5 steers with it."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..i2vgen_core.sampling.control import ControlOptions
from .host import control, folders
from .host.models import detailed_base
from .host.schema import CATEGORY, CtrlAdapterType, schema


class CtrlAdapterLoader(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="I2VGenXLCtrlAdapterLoader",
            display_name="Load Ctrl-Adapter (I2VGen-XL)",
            category=CATEGORY,
            description="Loads a Ctrl-Adapter, with which ControlNets of Stable Diffusion 1.5 steer I2VGen-XL.",
            inputs=[
                io.Combo.Input(
                    "adapter_name",
                    options=folders.adapters(),
                    tooltip="A file under models/controlnet: diffusion_pytorch_model.safetensors of a folder i2vgenxl_depth, "
                    "i2vgenxl_canny, i2vgenxl_softedge or i2vgenxl_scribble_sparse.",
                ),
            ],
            outputs=[
                CtrlAdapterType.Output(display_name="ctrl_adapter", tooltip="The adapter; to Apply Ctrl-Adapter."),
            ],
            search_aliases=["controlnet", "i2vgen", "ctrl adapter"],
        )

    @classmethod
    def execute(cls, adapter_name: str) -> io.NodeOutput:
        return io.NodeOutput(control.load(adapter_name))


class ApplyCtrlAdapter(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="I2VGenXLApplyCtrlAdapter",
            display_name="Apply Ctrl-Adapter (I2VGen-XL)",
            category=CATEGORY,
            description="Steers an I2VGen-XL base by pictures of its frames: depth, edges or scribbles.",
            inputs=[
                io.Model.Input("model", tooltip="An I2VGen-XL base, best from the Base Loader with detail_gain once."),
                CtrlAdapterType.Input("ctrl_adapter", tooltip="From Load Ctrl-Adapter, for the kind of the pictures."),
                io.ControlNet.Input(
                    "control_net",
                    tooltip="A control_v11 file of Stable Diffusion 1.5, from stock Load ControlNet Model.",
                ),
                io.Image.Input(
                    "images", tooltip="A picture of the control for each frame, such as stock Canny makes of a video."
                ),
                io.Conditioning.Input(
                    "text_positive",
                    tooltip="The prompt through Stable Diffusion 1.5's CLIP and stock CLIP Text Encode.",
                ),
                io.Conditioning.Input("text_negative", tooltip="The negative prompt through the same."),
                io.ClipVisionOutput.Input(
                    "clip_vision_output",
                    tooltip="The first frame through I2VGen-XL's CLIP vision and CLIP Vision Encode.",
                ),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=0.0,
                    max=10.0,
                    step=0.01,
                    tooltip="Of what the ControlNet sees, before the adapter. Useful: 0.5 to 1.",
                ),
                io.Float.Input(
                    "start_percent",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Part of the steps at which it begins to steer.",
                ),
                io.Float.Input(
                    "end_percent",
                    default=0.8,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Part of the steps at which it ends. Useful: 0.4 to 0.8; the authors' programs have 0.8.",
                ),
                io.String.Input(
                    "key_frames",
                    default="",
                    tooltip="Numbers of the frames that are steered, such as 0 5 10 15, for i2vgenxl_scribble_sparse. Empty: all.",
                ),
            ],
            outputs=[io.Model.Output(tooltip="The steered base; to Base Sampler or a stock sampler.")],
            search_aliases=["controlnet", "i2vgen", "depth", "canny", "softedge", "scribble"],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        ctrl_adapter: Any,
        control_net: Any,
        images: Any,
        text_positive: Any,
        text_negative: Any,
        clip_vision_output: Any,
        strength: float,
        start_percent: float,
        end_percent: float,
        key_frames: str,
    ) -> io.NodeOutput:
        options = ControlOptions(strength, start_percent, end_percent, control.key_frames_of(key_frames))
        network = detailed_base(model)
        given = (images, text_positive, text_negative, clip_vision_output)
        return io.NodeOutput(control.apply(model, ctrl_adapter, control_net, *given, options, network))
