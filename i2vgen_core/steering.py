"""A base video that follows depth, edges or scribbles, without a host: a ControlNet of Stable Diffusion 1.5 sees each frame, and
a Ctrl-Adapter makes what it sees steer the base (arXiv 2404.09967)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from einops import rearrange

from .cascade import Cascade
from .checkpoints.adapter import load_adapter
from .checkpoints.controlnet import load_control_net
from .checkpoints.encoders import load_text_encoder
from .encoders.clip import TextEncoder
from .encoders.controlnet import FrameControl
from .encoders.tokenizer import END
from .errors import InputError, checked
from .media.given import ImageLike, as_images
from .media.images import clip_pixels, video_frame
from .network.adapter import CtrlAdapter, steered_channels
from .sampling.control import Control, ControlOptions
from .sampling.options import BaseOptions

if TYPE_CHECKING:
    from diffusers.models.controlnets.controlnet import ControlNetModel

_CLIP_L = {"i2vgen_skip_last": 0, "hidden_act": "quick_gelu"}
"""What the shapes of Stable Diffusion 1.5's text encoder do not say."""


@dataclass(frozen=True, eq=False)
class ControlNetworks:
    """What steers a base, for one kind of control.

    Args:
        adapter: the Ctrl-Adapter.
        control_net: of Stable Diffusion 1.5.
        text_encoder: of Stable Diffusion 1.5.
    """

    adapter: CtrlAdapter
    control_net: ControlNetModel
    text_encoder: TextEncoder


@checked
def load_control(
    cascade: Cascade, ctrl_adapter: Path | str, control_net: Path | str, text_encoder: Path | str
) -> ControlNetworks:
    """Reads the three networks, in the cascade's type and on its device.

    Args:
        cascade: with an I2VGen-XL base, best with `detail_gain="once"`, as the adapters were trained.
        ctrl_adapter: a file of hanlincs/Ctrl-Adapter, for one control.
        control_net: a control_v11 file or folder of lllyasviel's, for the same.
        text_encoder: Stable Diffusion 1.5's folder text_encoder/, or its file.

    Raises:
        CheckpointError: one of them cannot be read, or is another network.
        InputError: they do not fit together, or the base.
    """
    dtype, device = cascade.dtype, cascade.device
    adapter = load_adapter(Path(ctrl_adapter), dtype=dtype, device=device)
    base = cascade.base.unet.config
    found, expected = [size.channels for size in adapter.sizes], steered_channels(base)
    if not base.reads_details or found != expected:
        remedy = "Use the adapters of I2VGen-XL with its base."
        raise InputError("Ctrl-Adapter", f"one for the base, of {expected} channels", f"{found}", remedy)
    network = load_control_net(Path(control_net), dtype=dtype, device=device)
    encoder = load_text_encoder(Path(text_encoder), settings=_CLIP_L, dtype=dtype, device=device)
    width = network.config.cross_attention_dim
    if encoder.config.width != width:
        remedy = "Use the text encoder of the model that the ControlNet was made for: Stable Diffusion 1.5."
        raise InputError("text encoder of the control", f"width {width}", f"{encoder.config.width}", remedy)
    return ControlNetworks(adapter, network, encoder)


@checked
@torch.no_grad()
def steer(
    cascade: Cascade,
    networks: ControlNetworks,
    image: ImageLike,
    pictures: ImageLike,
    prompt: str,
    options: BaseOptions,
    control: ControlOptions | None = None,
) -> Control:
    """What steers a video, for Cascade.sample_base.

    Args:
        cascade: with an I2VGen-XL base.
        networks: see load_control.
        image: the video's first frame.
        pictures: of the control, one for each frame, [F, H, W, 3]; those after the video's length are left out.
        prompt: what happens in the video.
        options: size, frames and negative prompt are read.
        control: see ControlOptions.

    Raises:
        InputError: fewer pictures than frames, or a setting or picture that cannot be.
    """
    control = control or ControlOptions()
    width, height, frames = cascade.video_size(options)
    control.check(frames)
    given = as_images(pictures)
    if len(given) < frames:
        found, remedy = f"{len(given)}", "Give one for each frame, or make a shorter video."
        raise InputError("pictures of the control", f"{frames} or more", found, remedy)
    hints = rearrange(video_frame(given[:frames], width, height), "f h w c -> f c h w").to(cascade.device)
    negative = cascade.base.release.negative_prompt if options.negative is None else options.negative
    texts = _encode(networks.text_encoder, [prompt, negative])
    features = FrameControl(networks.control_net, hints, texts, bool(control.key_frames))
    encoder = cascade.image_encoder
    pixels = clip_pixels(as_images(image)[:1].to(cascade.device), width, encoder.config.image_size)
    token = encoder.encode(pixels).to(cascade.dtype)[:, None]
    expected = networks.adapter.sizes[0].token_dim
    if token.shape[-1] != expected:
        remedy = "Use I2VGen-XL's CLIP vision model."
        raise InputError("CLIP image embedding", f"width {expected}", f"{token.shape[-1]}", remedy)
    return Control(networks.adapter, features, token, control)


def _encode(encoder: TextEncoder, prompts: Sequence[str]) -> list[torch.Tensor]:
    """Of each prompt [1, 77, width], padded with the end token, as Stable Diffusion 1.5 was trained."""
    tokens = encoder.tokenizer(list(prompts), ["the prompt for the ControlNet", "its negative prompt"])
    ended = (tokens == END).cumsum(1) > 0
    return list(encoder(tokens.masked_fill(ended, END)).split(1))
