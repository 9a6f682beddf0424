"""Video edit block: a clip follows the change of its first frame (AnyV2V)."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..i2vgen_core.sampling.options import EditOptions
from .host.editing import edit
from .host.schema import CATEGORY, schema


class VideoEdit(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="I2VGenXLVideoEdit",
            display_name="Video Edit (I2VGen-XL)",
            category=CATEGORY,
            description="Edits a video as its first frame was edited (AnyV2V). The source's way to noise is kept for the next edit of the same clip.",
            inputs=[
                io.Model.Input("model", tooltip="An I2VGen-XL base, from the Cascade Loader or the Base Loader."),
                io.Conditioning.Input(
                    "source_positive",
                    tooltip="Global Encode's positive for the source's own first frame; officially of an empty prompt.",
                ),
                io.Conditioning.Input(
                    "positive",
                    tooltip="Global Encode's positive for the edited first frame, with a prompt of what happens in the edited video.",
                ),
                io.Conditioning.Input("negative", tooltip="Global Encode's negative for the edited first frame."),
                io.Latent.Input(
                    "source_latent",
                    tooltip="The source's frames through VAE Encode, of the size and number that both Global Encode blocks have.",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=2**64 - 1,
                    control_after_generate=True,
                    tooltip="Seed of the fresh noise. Without fresh noise all seeds give one video.",
                ),
                io.Int.Input(
                    "steps",
                    default=0,
                    min=0,
                    max=999,
                    tooltip="0: the model's own, 50 for I2VGen-XL. Useful: 20 to 50; time grows with them.",
                ),
                io.Float.Input(
                    "cfg",
                    default=0.0,
                    min=0.0,
                    max=100.0,
                    step=0.1,
                    tooltip="Guidance scale of the edit. 0: the model's own, 9 for I2VGen-XL. 1 works where the three fractions are 0.",
                ),
                io.Float.Input(
                    "convolution",
                    default=0.2,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Fraction of the steps that take the source's convolution features: more keeps more of its shapes. Useful: 0.1 to 1.",
                ),
                io.Float.Input(
                    "spatial",
                    default=0.2,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Fraction of the steps that take the source's attention within frames: where things are. Useful: 0.1 to 1.",
                ),
                io.Float.Input(
                    "temporal",
                    default=0.5,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Fraction of the steps that take the source's attention over frames: how things move. Useful: 0.5 to 1.",
                ),
                io.Int.Input(
                    "inversion_steps",
                    default=0,
                    min=0,
                    max=999,
                    optional=True,
                    tooltip="Steps of the source's way to noise. 0: as many as steps. Officially 500 or 100 for 50 steps.",
                ),
                io.Int.Input(
                    "start",
                    default=0,
                    min=0,
                    max=998,
                    optional=True,
                    tooltip="Step to begin at, 0 is the noisiest. A later one keeps more of the source. Officially 0 or 1.",
                ),
                io.Float.Input(
                    "fresh_noise",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    optional=True,
                    tooltip="Share of fresh noise at the beginning: more keeps less of the source's colours. Officially 0.",
                ),
            ],
            outputs=[io.Latent.Output(tooltip="The edited video's latent; to VAE Decode, ours or the stock one.")],
            search_aliases=["video to video", "anyv2v", "video editing", "i2vgen", "inversion"],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        source_positive: Any,
        positive: Any,
        negative: Any,
        source_latent: Any,
        seed: int,
        steps: int,
        cfg: float,
        convolution: float,
        spatial: float,
        temporal: float,
        inversion_steps: int = 0,
        start: int = 0,
        fresh_noise: float = 0.0,
    ) -> io.NodeOutput:
        options = EditOptions(
            steps=steps or None,
            inversion_steps=inversion_steps or None,
            guidance=cfg or None,
            convolution=convolution,
            spatial=spatial,
            temporal=temporal,
            start=start,
            fresh_noise=fresh_noise,
            seed=seed,
        )
        return io.NodeOutput(edit(model, source_positive, positive, negative, source_latent, options))
