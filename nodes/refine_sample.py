"""Refinement sampler block: noise or inversion, then DPM-Solver++ SDE or Heun as released."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..i2vgen_core.errors import InputError
from ..i2vgen_core.schedules import SOLVERS
from .host import compat
from .host.models import network_of
from .host.sampling import RefineSettings, sample_refiner
from .load import CATEGORY


class RefineSampler(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return compat.schema(
            node_id="I2VGenXLRefineSampler",
            display_name="I2VGen-XL Refine Sampler",
            category=CATEGORY,
            description="The second stage: noises the upscaled video part of the way and denoises it with its own network.",
            inputs=[
                io.Model.Input("model", tooltip="From the Refiner Loader."),
                io.Conditioning.Input("positive", tooltip="Stock CLIPTextEncode of a short prompt with the suffix."),
                io.Conditioning.Input("negative", tooltip="Stock CLIPTextEncode of the refiner's negative prompt."),
                io.Latent.Input(
                    "latent",
                    tooltip="The video at the size to come out, encoded by the VAE: officially 1280x720, scaled bilinearly.",
                ),
                io.Int.Input(
                    "seed", default=0, min=0, max=2**64 - 1, control_after_generate=True, tooltip="Seed of the noise."
                ),
                io.Int.Input(
                    "steps",
                    default=0,
                    min=0,
                    max=999,
                    tooltip="0: the model's own, 30 for the releases (50 with Heun, which evaluates twice a step). "
                    "Inversion takes as many again.",
                ),
                io.Float.Input(
                    "cfg",
                    default=0.0,
                    min=0.0,
                    max=100.0,
                    step=0.1,
                    tooltip="Guidance scale. 0: the model's own, 7.5 for vid2vid_xl and 9 for sr600.",
                ),
                io.Float.Input(
                    "rescale",
                    default=-1.0,
                    min=-1.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Guidance rescale against oversaturation. -1: the model's own, 0.2 for vid2vid_xl and 0.3 for "
                    "sr600. 0: none.",
                ),
                io.Int.Input(
                    "noise_level",
                    default=0,
                    min=0,
                    max=999,
                    tooltip="Noise levels of 1000 to start from: more changes more. 0: the model's own, 600 for vid2vid_xl "
                    "and 700 for sr600.",
                ),
                io.Combo.Input(
                    "solver",
                    options=list(SOLVERS),
                    default="dpmpp_2m_sde",
                    tooltip="dpmpp_2m_sde is the releases' fast one. heun draws no noise and costs twice as much a step.",
                ),
                io.Combo.Input(
                    "entry",
                    options=["auto", "noise", "inversion"],
                    default="auto",
                    tooltip="How the video is brought to the noise level. auto: noise for vid2vid_xl, DDIM inversion for "
                    "sr600.",
                ),
                io.Float.Input(
                    "eta",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Noise that dpmpp_2m_sde adds at each step. 1: as released. 0: none.",
                ),
            ],
            outputs=[io.Latent.Output()],
            search_aliases=["video to video", "vid2vid", "video upscale", "i2vgen", "ksampler"],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        positive: Any,
        negative: Any,
        latent: Any,
        seed: int,
        steps: int,
        cfg: float,
        rescale: float,
        noise_level: int,
        solver: str,
        entry: str,
        eta: float,
    ) -> io.NodeOutput:
        network = network_of(model)
        if network is None or not network.is_refiner:
            found = "another model" if network is None else f"a base ({network.kind})"
            remedy = "Wire the Refiner Loader's MODEL into it."
            raise InputError("model", "an MS-Vid2Vid-XL or SR600 refiner", found, remedy)
        settings = RefineSettings(seed, steps, cfg, rescale, noise_level, solver, entry, eta)
        samples = sample_refiner(model, positive, negative, latent, settings)
        return io.NodeOutput({**latent, "samples": samples})
