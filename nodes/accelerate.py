"""Acceleration block: what a run leaves out for speed."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..i2vgen_core.network.acceleration import Acceleration
from .host.acceleration import accelerate
from .host.models import cascade_model
from .host.schema import CATEGORY, schema


class Accelerate(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="I2VGenXLAccelerate",
            display_name="I2VGen-XL Accelerate",
            category=CATEGORY,
            description="Makes sampling faster at a small cost in quality: guides some steps alone, and uses features of a "
            "step again in the next ones.",
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip="A base or a refiner of this pack. Any sampler may follow; LoRA loaders and patches may stand "
                    "before or after.",
                ),
                io.Float.Input(
                    "guidance_start_percent",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Where guidance begins, 0 at the noisiest level. Before it the negative prompt is not read, which "
                    "halves a step. 0: from the start. Useful: 0 to 0.2.",
                ),
                io.Float.Input(
                    "guidance_end_percent",
                    default=0.5,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Where guidance ends; after it a step takes half the time. 1: never. Useful: 0.5 to 0.8. Levels "
                    "count, so a refiner that starts at level 600 of 1000 begins at 0.4.",
                ),
                io.Int.Input(
                    "reuse_interval",
                    default=3,
                    min=1,
                    max=50,
                    tooltip="Of so many steps one runs the whole network; the others run its outer blocks and take the rest "
                    "from that one. 1: all run whole. Useful: 2 to 5. 3 takes well under half the time.",
                ),
            ],
            outputs=[io.Model.Output(tooltip="The model; to any sampler, ours or a stock one.")],
            search_aliases=["i2vgen", "speed", "faster", "deepcache", "feature reuse", "guidance interval", "cache"],
        )

    @classmethod
    def execute(
        cls, model: Any, guidance_start_percent: float, guidance_end_percent: float, reuse_interval: int
    ) -> io.NodeOutput:
        acceleration = Acceleration(guidance_start_percent, guidance_end_percent, reuse_interval)
        return io.NodeOutput(accelerate(cascade_model(model), acceleration))
