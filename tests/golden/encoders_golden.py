"""This project's values for a folder's encoders.safetensors, driven by its cases.json."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import Tensor

from i2vgen_core.checkpoints.encoders import load_image_encoder, load_text_encoder, load_vae

LIMIT = 1e-5
Shapes = dict[str, tuple[int, ...]]


def encoder_values(folder: Path) -> dict[str, tuple[Tensor, float]]:
    """Each value of encoders.safetensors by its name, as computed here, and its limit of max|error| / max|golden|.

    Args:
        folder: cases.json and weights.py.
    """
    cases = json.loads((folder / "cases.json").read_text(encoding="utf-8"))["encoders"]
    made = _weights_module(folder)
    clip, ddconfig = cases["clip"], cases["vae"]
    text, vision = clip["text"], clip["vision"]

    shapes = open_clip_shapes(text, vision, clip["embed_dim"])
    weights = {key: made.weight(key, shape) for key, shape in shapes.items()}
    text_encoder = load_text_encoder(weights, head_dim=text["width"] // text["heads"])
    image_encoder = load_image_encoder(weights, head_dim=vision["head_width"])
    vae = load_vae({key: made.weight(key, shape) for key, shape in ldm_vae_shapes(ddconfig).items()})

    tokens = text_encoder.tokenizer(cases["prompts"])
    size = vision["image_size"]
    return {
        "tokens": (tokens, 0.0),
        "text_penultimate": (text_encoder(tokens), LIMIT),
        "image_embeds": (image_encoder.encode(made.noise(cases["pixels"], (2, 3, size, size))), LIMIT),
        "vae_moments": (vae.moments(made.noise(*cases["vae_pixels"])), LIMIT),
        "vae_decoded": (vae.decode_pixels(made.noise(*cases["vae_latent"])), LIMIT),
    }


def open_clip_shapes(text: dict[str, Any], vision: dict[str, Any], embed_dim: int) -> Shapes:
    """Every key of open_clip's CLIP and its shape, from its text_cfg and vision_cfg; no logit_scale, no attn_mask."""
    wide, width, patch = vision["width"], text["width"], vision["patch_size"]
    shapes: Shapes = {
        "positional_embedding": (text["context_length"], width),
        "text_projection": (width, embed_dim),
        "token_embedding.weight": (text["vocab_size"], width),
        "visual.class_embedding": (wide,),
        "visual.positional_embedding": ((vision["image_size"] // patch) ** 2 + 1, wide),
        "visual.proj": (wide, embed_dim),
        "visual.conv1.weight": (wide, 3, patch, patch),
    }
    shapes |= _affine("ln_final", width) | _affine("visual.ln_pre", wide) | _affine("visual.ln_post", wide)
    for stem, tower in (("transformer", text), ("visual.transformer", vision)):
        for i in range(tower["layers"]):
            shapes |= _transformer_block(f"{stem}.resblocks.{i}", tower["width"], tower.get("mlp_ratio", 4.0))
    return shapes


def ldm_vae_shapes(ddconfig: dict[str, Any]) -> Shapes:
    """Every key of ldm's AutoencoderKL and its shape, from its ddconfig without attention in the levels."""
    if ddconfig["attn_resolutions"]:
        raise ValueError(
            f"attn_resolutions: expected none, as in Stable Diffusion, found {ddconfig['attn_resolutions']}"
        )
    z, blocks = ddconfig["z_channels"], ddconfig["num_res_blocks"]
    channels = [ddconfig["ch"] * multiplier for multiplier in ddconfig["ch_mult"]]
    bottom, top = channels[-1], channels[0]
    moments = 2 * z if ddconfig["double_z"] else z
    shapes = _conv("quant_conv", moments, moments, 1) | _conv("post_quant_conv", z, z, 1)

    shapes |= _conv("encoder.conv_in", ddconfig["in_channels"], top)
    before = top
    for i, width in enumerate(channels):
        for j in range(blocks):
            shapes |= _residual_block(f"encoder.down.{i}.block.{j}", before, width)
            before = width
        if i < len(channels) - 1:
            shapes |= _conv(f"encoder.down.{i}.downsample.conv", width, width)
    shapes |= _middle("encoder", bottom) | _affine("encoder.norm_out", bottom)
    shapes |= _conv("encoder.conv_out", bottom, moments)

    shapes |= _conv("decoder.conv_in", z, bottom) | _middle("decoder", bottom)
    before = bottom
    for i, width in reversed(list(enumerate(channels))):
        for j in range(blocks + 1):
            shapes |= _residual_block(f"decoder.up.{i}.block.{j}", before, width)
            before = width
        if i > 0:
            shapes |= _conv(f"decoder.up.{i}.upsample.conv", width, width)
    return shapes | _affine("decoder.norm_out", top) | _conv("decoder.conv_out", top, ddconfig["out_ch"])


def _weights_module(folder: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("golden_weights", folder / "weights.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _affine(name: str, width: int) -> Shapes:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def _linear(name: str, width_in: int, width_out: int) -> Shapes:
    return {f"{name}.weight": (width_out, width_in), f"{name}.bias": (width_out,)}


def _conv(name: str, channels_in: int, channels_out: int, kernel: int = 3) -> Shapes:
    return {f"{name}.weight": (channels_out, channels_in, kernel, kernel), f"{name}.bias": (channels_out,)}


def _transformer_block(name: str, width: int, mlp_ratio: float) -> Shapes:
    hidden = int(width * mlp_ratio)
    return {
        f"{name}.attn.in_proj_weight": (3 * width, width),
        f"{name}.attn.in_proj_bias": (3 * width,),
        **_linear(f"{name}.attn.out_proj", width, width),
        **_affine(f"{name}.ln_1", width),
        **_affine(f"{name}.ln_2", width),
        **_linear(f"{name}.mlp.c_fc", width, hidden),
        **_linear(f"{name}.mlp.c_proj", hidden, width),
    }


def _residual_block(name: str, channels_in: int, channels_out: int) -> Shapes:
    shapes = _affine(f"{name}.norm1", channels_in) | _conv(f"{name}.conv1", channels_in, channels_out)
    shapes |= _affine(f"{name}.norm2", channels_out) | _conv(f"{name}.conv2", channels_out, channels_out)
    return shapes | (_conv(f"{name}.nin_shortcut", channels_in, channels_out, 1) if channels_in != channels_out else {})


def _middle(half: str, channels: int) -> Shapes:
    shapes = _residual_block(f"{half}.mid.block_1", channels, channels) | _affine(f"{half}.mid.attn_1.norm", channels)
    for name in ("q", "k", "v", "proj_out"):
        shapes |= _conv(f"{half}.mid.attn_1.{name}", channels, channels, 1)
    return shapes | _residual_block(f"{half}.mid.block_2", channels, channels)
