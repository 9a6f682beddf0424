"""Refine Prepare block: a video made ready for a refiner that reads it as a hint."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..i2vgen_core.releases import JOININGS
from ..i2vgen_core.sampling.options import RefineOptions
from .host.hints import prepare_refinement
from .host.schema import CATEGORY, schema


class RefinePrepare(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="I2VGenXLRefinePrepare",
            display_name="I2VGen-XL Refine Prepare",
            category=CATEGORY,
            description="Enlarges, pads and encodes a video for STAR or VEnhancer, and puts it on the prompts as their hint.",
            inputs=[
                io.Model.Input("model", tooltip="A STAR or VEnhancer refiner, from the Refiner Loader."),
                io.Conditioning.Input(
                    "positive", tooltip="Stock CLIP Text Encode of a short prompt that ends in the release's suffix."
                ),
                io.Conditioning.Input(
                    "negative", tooltip="Stock CLIP Text Encode of the refiner's own negative prompt."
                ),
                io.Vae.Input("vae", tooltip="Stable Diffusion 2.1's VAE, or that of Stable Video Diffusion."),
                io.Image.Input("images", tooltip="The video to be restored, small as it is: it is enlarged here."),
                io.Float.Input(
                    "enlarging",
                    default=0.0,
                    min=0.0,
                    max=8.0,
                    step=0.1,
                    tooltip="How many times as wide and high it becomes. 0: the model's own, 4. VEnhancer's video is kept within "
                    "1.38 to 2.36 million pixels.",
                ),
                io.Int.Input(
                    "inserted",
                    default=-1,
                    min=-1,
                    max=8,
                    tooltip="Frames put between two, VEnhancer alone. -1: the model's own, 1. Save the video at as many times "
                    "its rate, plus one.",
                ),
                io.Int.Input(
                    "noise_aug",
                    default=0,
                    min=0,
                    max=999,
                    tooltip="Noise level of the key frames, VEnhancer alone: a higher one changes more. 0: the model's own, 250. "
                    "Useful: 50 to 300.",
                ),
                io.Int.Input(
                    "scale_told",
                    default=0,
                    min=0,
                    max=999,
                    tooltip="How far the video was enlarged, as VEnhancer is told. 0: the model's own, 8, whatever the "
                    "enlarging is.",
                ),
                io.Int.Input(
                    "window",
                    default=0,
                    min=0,
                    max=4096,
                    tooltip="Frames that go through the network together where there are more; memory grows with them. 0: the "
                    "model's own, 32.",
                ),
                io.Combo.Input(
                    "joining",
                    options=["auto", *JOININGS],
                    default="auto",
                    tooltip="How windows are joined. auto: the model's own, cut for STAR and blend for VEnhancer. random cuts "
                    "at another frame at each step.",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=2**64 - 1,
                    control_after_generate=True,
                    tooltip="Seed of the key frames' noise, VEnhancer alone.",
                ),
            ],
            outputs=[
                io.Conditioning.Output(display_name="positive", tooltip="To Refine Sampler, or a stock sampler."),
                io.Conditioning.Output(display_name="negative", tooltip="To Refine Sampler, or a stock sampler."),
                io.Latent.Output(
                    tooltip="To the same sampler; our VAE Decode then cuts the padding off, and gives STAR's frames the "
                    "video's colours."
                ),
            ],
            search_aliases=["star", "venhancer", "video restoration", "super resolution", "i2vgen"],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        positive: Any,
        negative: Any,
        vae: Any,
        images: Any,
        enlarging: float,
        inserted: int,
        noise_aug: int,
        scale_told: int,
        window: int,
        joining: str,
        seed: int,
    ) -> io.NodeOutput:
        options = RefineOptions(
            enlarging=enlarging or None,
            inserted=None if inserted < 0 else inserted,
            noise_aug=noise_aug or None,
            scale_told=scale_told or None,
            window=window or None,
            joining=None if joining == "auto" else joining,
            seed=seed,
        )
        return io.NodeOutput(*prepare_refinement(model, positive, negative, vae, images, options))
