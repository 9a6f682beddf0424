"""Global encoder block: the image's details and global tokens, and the size, length and frame rate of the video."""

from __future__ import annotations

from typing import Any

import comfy.model_management
import node_helpers
import torch
from comfy_api.latest import io

from ..i2vgen_core.config import UNetConfig
from ..i2vgen_core.errors import InputError
from ..i2vgen_core.media.images import check_images, video_frame
from ..i2vgen_core.memory import check_fits, encoding_bytes, latent_bytes
from ..i2vgen_core.sampling.options import BaseOptions
from .host import compat
from .host.encoders import ScaledVAE, vae_family
from .host.inputs import check_there
from .host.models import CONDITION, GlobalEncoderSocket, VideoCondition
from .load import CATEGORY, GlobalEncoderType

_DOWNSCALE = 8


class GlobalEncode(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return compat.schema(
            node_id="I2VGenXLGlobalEncode",
            display_name="I2VGen-XL Global Encode",
            category=CATEGORY,
            description="Puts the image's details and global tokens on both conditionings, and makes the empty latent.",
            inputs=[
                io.Conditioning.Input("positive", tooltip="From the CLIP Encode block, or stock text encoding."),
                io.Conditioning.Input("negative", tooltip="The negative prompt; it gets the same image details."),
                GlobalEncoderType.Input("global_encoder", tooltip="From the loader of the base that will sample."),
                io.Vae.Input(
                    "vae", tooltip="Stable Diffusion 2.1's VAE. Encodes one image, once a video. SDXL's is refused."
                ),
                io.Image.Input(
                    "image",
                    tooltip="The photo. Scaled to cover the video's size and cropped to its centre. Of a batch, the first image.",
                ),
                io.Int.Input(
                    "width",
                    default=1280,
                    min=64,
                    max=8192,
                    step=8,
                    tooltip="Width of the video, in steps of 8. Released for 1280x704, MS-Image2Video for 448x256; the block "
                    "I2VGen-XL Size has more that the networks like. Time and memory grow with the pixels.",
                ),
                io.Int.Input(
                    "height",
                    default=704,
                    min=64,
                    max=8192,
                    step=8,
                    tooltip="Height of the video, in steps of 8: see width.",
                ),
                io.Int.Input(
                    "frames",
                    default=16,
                    min=1,
                    max=4096,
                    tooltip="Length of the video: 16 is I2VGen-XL's, 32 MS-Image2Video's; 1 gives a still. Memory and time "
                    "grow with it.",
                ),
                io.Int.Input(
                    "fps",
                    default=16,
                    min=1,
                    max=120,
                    tooltip="A condition on motion: 16 calmer, 8 livelier from frame to frame; training saw these two. Not the "
                    "saved file's rate. Costs nothing.",
                ),
            ],
            outputs=[
                io.Conditioning.Output(display_name="positive", tooltip="With the image's details; to the sampler."),
                io.Conditioning.Output(display_name="negative", tooltip="With the same details; to the sampler."),
                io.Latent.Output(tooltip="Empty, [frames, 4, height / 8, width / 8]; to the same sampler."),
            ],
            search_aliases=["image to video", "i2vgen", "empty video latent"],
        )

    @classmethod
    def execute(
        cls,
        positive: Any,
        negative: Any,
        global_encoder: GlobalEncoderSocket,
        vae: Any,
        image: Any,
        width: int,
        height: int,
        frames: int,
        fps: int,
    ) -> io.NodeOutput:
        BaseOptions(width=width, height=height, frames=frames, fps=fps).check()
        check_there("global_encoder", global_encoder, "the base's loader")
        check_there("vae", vae, "Load VAE")
        check_images(image)
        shape = (frames, global_encoder.config.in_channels, height // _DOWNSCALE, width // _DOWNSCALE)
        _check_fits(vae, frames, height, width)
        condition = VideoCondition(frames, fps)
        if global_encoder.reads_image:
            latent = _encode(vae, image[:1], width, height, global_encoder.config)
            condition = VideoCondition(frames, fps, latent, global_encoder.encode(latent))
        positive, negative = (
            node_helpers.conditioning_set_values(side, {CONDITION: condition}) for side in (positive, negative)
        )
        empty = torch.zeros(shape, device=comfy.model_management.intermediate_device())
        return io.NodeOutput(positive, negative, {"samples": empty})


def _check_fits(vae: Any, frames: int, height: int, width: int) -> None:
    """Raises InputError where memory has no room for what is made here: a frame's encoding, and the empty latent. The
    samplers check for themselves, which may run in windows."""
    device, dtype = getattr(vae, "device", None), getattr(vae, "vae_dtype", torch.float32)
    there = comfy.model_management.get_total_memory(device)
    check_fits(1, height, width, encoding_bytes(height, width, dtype.itemsize), there)
    there = comfy.model_management.get_total_memory(comfy.model_management.intermediate_device())
    check_fits(frames, height, width, latent_bytes(frames, height, width), there)


def _encode(vae: Any, image: torch.Tensor, width: int, height: int, network: UNetConfig) -> torch.Tensor:
    """The posterior's mode, unscaled [1, 4, height / 8, width / 8]."""
    frame = video_frame(image, width, height)
    latent = vae.encode(frame)
    expected = (1, network.in_channels, height // _DOWNSCALE, width // _DOWNSCALE)
    remedy = "Use the VAE of Stable Diffusion 2.1 (or 1.5)."
    if tuple(latent.shape) != expected:
        raise InputError("VAE", f"latents {list(expected)}", f"{list(latent.shape)}", remedy)
    if not isinstance(vae, ScaledVAE) and vae_family(latent, frame) == "sdxl":  # a small VAE's latents may look like it
        raise InputError("VAE", "one of Stable Diffusion 1 or 2", "one whose latents are SDXL's", remedy)
    return latent
