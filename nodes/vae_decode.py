"""VAE decode block: a few frames at a time."""

from __future__ import annotations

from typing import Any

import torch
from comfy.model_management import throw_exception_if_processing_interrupted
from comfy.utils import ProgressBar
from comfy_api.latest import io

from .host import compat
from .host.sampling import video_latent
from .load import CATEGORY


class VAEDecode(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return compat.schema(
            node_id="I2VGenXLVAEDecode",
            display_name="I2VGen-XL VAE Decode",
            category=CATEGORY,
            description="Decodes the video's latent to frames.",
            inputs=[
                io.Vae.Input("vae", tooltip="Stable Diffusion 2.1's VAE, of the Cascade Loader or stock Load VAE."),
                io.Latent.Input("latent", tooltip="From a sampler; frames are the batch."),
                io.Int.Input(
                    "frames_per_batch",
                    default=0,
                    min=0,
                    max=4096,
                    tooltip="Frames decoded at once. 0: as many as fit into free memory. Useful: 1 to 8; fewer need less memory, "
                    "and the frames are the same.",
                ),
            ],
            outputs=[
                io.Image.Output(
                    tooltip="The frames, in order; to Create Video, or to Upscale Image for the second stage."
                )
            ],
            search_aliases=["i2vgen", "decode video"],
        )

    @classmethod
    def execute(cls, vae: Any, latent: Any, frames_per_batch: int) -> io.NodeOutput:
        samples = video_latent(latent)
        if not frames_per_batch:
            return io.NodeOutput(vae.decode(samples))
        batches = samples.split(frames_per_batch)
        progress = ProgressBar(len(batches))
        images = []
        for batch in batches:
            throw_exception_if_processing_interrupted()
            images.append(vae.decode(batch))
            progress.update(1)
        return io.NodeOutput(torch.cat(images))
