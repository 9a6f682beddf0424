"""Spectrum block: the paper's frequency analysis of a video, or of one before and after a stage."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..i2vgen_core.media.spectrum import analyse
from .host.schema import INSPECT, schema


class Spectrum(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="I2VGenXLSpectrum",
            display_name="I2VGen-XL Spectrum",
            category=INSPECT,
            description="Plots the spatial and the temporal power spectrum of a video, as the paper analyses its stages.",
            inputs=[
                io.Image.Input(
                    "images",
                    tooltip="The video's frames, 8 or more for the temporal spectrum, 8 pixels a side or more. Costs "
                    "seconds at 1280x720, and about eight times the frames' memory while it runs.",
                ),
                io.Image.Input(
                    "images_after",
                    optional=True,
                    tooltip="The same video after a stage, such as the refiner. Sizes may differ: the smaller one is "
                    "enlarged to the larger one's size first, so that frequencies are the same.",
                ),
            ],
            outputs=[
                io.Image.Output(tooltip="The plots, spatial above temporal; to Preview Image or Save Image."),
                io.String.Output(
                    display_name="table",
                    tooltip="Levels of the low, middle and high band in dB as a Markdown table; to Preview as Text.",
                ),
            ],
            search_aliases=["i2vgen", "frequency analysis", "fft", "power spectrum", "flicker", "sharpness"],
        )

    @classmethod
    def execute(cls, images: Any, images_after: Any = None) -> io.NodeOutput:
        picture, table = analyse(images, images_after)
        return io.NodeOutput(picture[None], table)
