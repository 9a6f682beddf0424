"""Refinement sampler block: noise or inversion, then DPM-Solver++ SDE or Heun as released."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..i2vgen_core.releases import MODES
from ..i2vgen_core.sampling.options import RefineOptions
from ..i2vgen_core.sampling.schedules import SOLVERS
from .host.sampling import sample_refiner
from .host.schema import CATEGORY, schema


class RefineSampler(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="I2VGenXLRefineSampler",
            display_name="I2VGen-XL Refine Sampler",
            category=CATEGORY,
            description="The second stage: noises the upscaled video part of the way and denoises it with its own network.",
            inputs=[
                io.Model.Input(
                    "model", tooltip="A refiner, from the Refiner Loader; LoRA loaders and patches may stand between."
                ),
                io.Conditioning.Input(
                    "positive",
                    tooltip="Stock CLIP Text Encode of a short prompt that ends in the release's quality suffix.",
                ),
                io.Conditioning.Input(
                    "negative",
                    tooltip="Stock CLIP Text Encode of the refiner's own negative prompt, as the template has it.",
                ),
                io.Latent.Input(
                    "latent",
                    tooltip="The video at the size to come out, encoded by the VAE: officially 1280x720, scaled bilinearly. Time "
                    "and memory grow with its pixels and frames.",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=2**64 - 1,
                    control_after_generate=True,
                    tooltip="Seed of the noise that is added and of the solver's own.",
                ),
                io.Int.Input(
                    "steps",
                    default=0,
                    min=0,
                    max=999,
                    tooltip="0: the model's own, 30 for the releases (50 with Heun, which evaluates twice a step). Useful: 15 to "
                    "50; time grows with them. Inversion takes about as many again.",
                ),
                io.Float.Input(
                    "cfg",
                    default=0.0,
                    min=0.0,
                    max=100.0,
                    step=0.1,
                    tooltip="Guidance scale. 0: the model's own, 7.5 for vid2vid_xl and 9 for sr600. Useful: 4 to 12. 1 reads no "
                    "negative prompt and takes half the time.",
                ),
                io.Float.Input(
                    "rescale",
                    default=-1.0,
                    min=-1.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Guidance rescale against oversaturation. -1: the model's own, 0.2 for vid2vid_xl and 0.3 for "
                    "sr600. 0: none. Costs nothing.",
                ),
                io.Int.Input(
                    "noise_level",
                    default=0,
                    min=0,
                    max=999,
                    tooltip="Noise level of 1000 to start from: a higher one changes more. 0: the model's own, 600 for vid2vid_xl "
                    "and 700 for sr600. Useful: 300 to 700; the number of steps stays, so does the time.",
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
                    "sr600. Inversion keeps more of the video and about doubles the time.",
                ),
                io.Float.Input(
                    "eta",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Noise that dpmpp_2m_sde adds at each step. 1: as released. 0: none. heun does not read it.",
                ),
                io.Combo.Input(
                    "mode",
                    options=["auto", *MODES],
                    default="auto",
                    optional=True,
                    tooltip="auto: the model's own, fast for STAR and VEnhancer. fast takes 14 steps from noise level 900, "
                    "whatever steps says. normal takes as many as steps says, 15 for these two.",
                ),
                io.Float.Input(
                    "amount",
                    default=1.0,
                    min=0.1,
                    max=1.5,
                    step=0.05,
                    optional=True,
                    tooltip="How much of the video is made anew: times the model's own noise level and cfg together, each where it is 0 "
                    "above. Useful: 0.25 to 1; lower keeps more of the video. Costs nothing.",
                ),
            ],
            outputs=[io.Latent.Output(tooltip="The refined video's latent; to VAE Decode, ours or the stock one.")],
            search_aliases=[
                "video to video",
                "for vid2vid",
                "to upscale video",
                "to enhance video",
                "to sharpen video",
                "i2vgen",
                "ksampler",
            ],
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
        mode: str = "auto",
        amount: float = 1.0,
    ) -> io.NodeOutput:
        options = RefineOptions(
            steps=steps or None,
            guidance=cfg or None,
            rescale=None if rescale < 0 else rescale,
            noise_level=noise_level or None,
            solver=solver,
            entry=None if entry == "auto" else entry,
            eta=eta,
            seed=seed,
            mode=None if mode == "auto" else mode,
            amount=amount,
        )
        return io.NodeOutput(sample_refiner(model, positive, negative, latent, options))
