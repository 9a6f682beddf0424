"""Base sampler block: DDIM as released, or a solver for fewer steps."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..i2vgen_core.sampling.options import BaseOptions
from ..i2vgen_core.sampling.schedules import BASE_SOLVERS
from .host.sampling import sample_base
from .host.schema import CATEGORY, schema


class BaseSampler(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="I2VGenXLBaseSampler",
            display_name="I2VGen-XL Base Sampler",
            category=CATEGORY,
            description="The first stage: DDIM as released, from pure noise to the base video's latent.",
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip="A base, from the Cascade Loader or the Base Loader; LoRA loaders and patches may stand between.",
                ),
                io.Conditioning.Input("positive", tooltip="From Global Encode's positive."),
                io.Conditioning.Input("negative", tooltip="From Global Encode's negative."),
                io.Latent.Input(
                    "latent",
                    tooltip="From Global Encode: gives size and frames. Or a video's own latent, with a noise mask or denoise "
                    "below 1: where the mask is 0 it stays, per frame or in all.",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=2**64 - 1,
                    control_after_generate=True,
                    tooltip="Seed of the noise: one seed, one video.",
                ),
                io.Int.Input(
                    "steps",
                    default=0,
                    min=0,
                    max=999,
                    tooltip="0: the model's own, 50 for the releases. Useful: 20 to 50; time grows with them. Numbers that divide "
                    "1000 are the official steps exactly.",
                ),
                io.Float.Input(
                    "cfg",
                    default=0.0,
                    min=0.0,
                    max=100.0,
                    step=0.1,
                    tooltip="Guidance scale. 0: the model's own, 9 for I2VGen-XL and 3 for MS-Image2Video. Useful: 3 to 12. "
                    "Higher follows the prompts more and saturates; 1 reads no negative prompt and takes half the time.",
                ),
                io.Float.Input(
                    "eta",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="0: deterministic, as released. 1 adds as much noise at each step as DDPM. Costs nothing.",
                ),
                io.Combo.Input(
                    "solver",
                    options=list(BASE_SOLVERS),
                    default="ddim",
                    optional=True,  # workflows saved before it was there have none
                    tooltip="ddim is the release's. dpmpp_2m and unipc need fewer steps for the same video: with them, steps "
                    "of 0 are 20. They read no eta.",
                ),
                io.Float.Input(
                    "denoise",
                    default=1.0,
                    min=0.01,
                    max=1.0,
                    step=0.01,
                    optional=True,  # as solver
                    tooltip="1: from pure noise. Lower begins from the latent, and keeps more of it: as the stock KSampler's, in "
                    "as many steps.",
                ),
            ],
            outputs=[io.Latent.Output(tooltip="The video's latent; to VAE Decode, ours or the stock one.")],
            search_aliases=[
                "image to video",
                "i2vgen",
                "for img2vid",
                "to animate a photo",
                "of motion",
                "ksampler",
                "ddim",
                "dpm++",
                "unipc",
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
        eta: float,
        solver: str = "ddim",
        denoise: float = 1.0,
    ) -> io.NodeOutput:
        options = BaseOptions(
            steps=steps or None, guidance=cfg or None, eta=eta, seed=seed, solver=solver, denoise=denoise
        )
        return io.NodeOutput(sample_base(model, positive, negative, latent, options))
