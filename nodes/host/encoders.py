"""CLIP, CLIP_VISION and VAE of any size from a bundle, as native objects: the stock nodes take them."""

from __future__ import annotations

import json
from collections.abc import Collection
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import comfy.clip_model
import comfy.clip_vision
import comfy.latent_formats
import comfy.sd
import comfy.sd1_clip
import comfy.supported_models_base
import torch
import transformers
from comfy.ldm.models.autoencoder import AutoencoderKL
from torch import Tensor
from torch.nn.functional import cosine_similarity, interpolate

from ...i2vgen_core.checkpoints import clip_keys, vae_keys
from ...i2vgen_core.checkpoints.check import check_tensors
from ...i2vgen_core.checkpoints.encoder_sizes import text_config, vae_config, vision_config
from ...i2vgen_core.checkpoints.read import read_config, read_state_dict
from ...i2vgen_core.config import VAE_CHANNELS, VAE_STEP
from ...i2vgen_core.encoders.config import TextConfig
from ...i2vgen_core.encoders.tokenizer import END, PAD, START, VOCABULARY, Tokenizer, repaired
from ...i2vgen_core.errors import CheckpointError
from ...i2vgen_core.releases import RELEASES
from . import compat

_TEXT, _VISION, _VAE = "CLIP text encoder", "CLIP vision encoder", "VAE"
_CLIP_NAME = "h"  # what the host's LoRA and embedding loaders call OpenCLIP ViT-H
_NORM_EPS, _NORM_GROUPS = 1e-5, 32  # fixed in the host


def load_clip(path: Path, *, disable_dynamic: bool = False) -> comfy.sd.CLIP:
    """A CLIP from `text_encoder/`, its prompts cut into tokens by `tokenizer/` beside it (the built-in one if not there).

    Encodes to [1, 77, width] (and 77 more for each further chunk of a long prompt): the penultimate block, then the
    final norm, padded with 0 (VGen: clip_embedder.py). The pooled output is the end token's, not projected; the
    networks do not read it.

    Args:
        path: the folder, or one file.
        disable_dynamic: the host's, when it asks for a copy whose weights are not streamed.

    Raises:
        CheckpointError: unreadable, another model, or tensors missing, unknown or of a wrong shape.
    """
    state, settings = _read(path)
    state = clip_keys.text_to_transformers(state)
    config = text_config(state, settings)
    _check_host_can(_TEXT, "hidden_act", comfy.clip_model.ACTIVATIONS, config.activation)
    _check_host_can(_TEXT, "layer_norm_eps", [_NORM_EPS], config.norm_eps)
    model = partial(
        comfy.sd1_clip.SDClipModel,
        layer="hidden" if config.skip_last else "last",
        layer_idx=config.layers - 1 - config.skip_last,
        textmodel_json_config={
            "hidden_size": config.width,
            "intermediate_size": config.mlp_width,
            "num_hidden_layers": config.layers,
            "num_attention_heads": config.width // config.head_dim,
            "max_position_embeddings": config.context_length,
            "hidden_act": config.activation,
            "eos_token_id": END,
        },
        max_length=config.context_length,
        special_tokens={"start": START, "end": END, "pad": PAD},
    )
    state["text_projection.weight"] = torch.eye(config.width)  # the host has one, behind the pooled output only
    check_tensors(state, model(device="meta").transformer.state_dict(), _TEXT)
    target = comfy.supported_models_base.ClipTarget(
        partial(comfy.sd1_clip.SD1Tokenizer, clip_name=_CLIP_NAME, tokenizer=_prompt_tokenizer(path.parent, config)),
        partial(comfy.sd1_clip.SD1ClipModel, clip_name=_CLIP_NAME, clip_model=model),
    )
    clip = compat.clip(target, state, disable_dynamic)
    clip.patcher.cached_patcher_init = (_clip_patcher, (path,))
    return clip


def load_clip_vision(path: Path) -> comfy.clip_vision.ClipVisionModel:
    """A CLIP_VISION from `image_encoder/`, or one file: image_embeds [N, projection] of images [N, H, W, 3] in 0..1.

    The host reduces images to `image_size` of config.json, 224 in the release.

    Raises:
        CheckpointError: unreadable, another model, or tensors missing, unknown or of a wrong shape.
    """
    state, settings = _read(path)
    state = clip_keys.vision_to_transformers(state)
    config = vision_config(state, settings)
    _check_host_can(_VISION, "hidden_act", comfy.clip_model.ACTIVATIONS, config.activation)
    _check_host_can(_VISION, "layer_norm_eps", [_NORM_EPS], config.norm_eps)
    description = {
        "model_type": "clip_vision_model",
        "hidden_size": config.width,
        "intermediate_size": config.mlp_width,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.width // config.head_dim,
        "num_channels": config.channels,
        "patch_size": config.patch_size,
        "image_size": config.image_size,
        "projection_dim": config.projection,
        "hidden_act": config.activation,
    }
    with TemporaryDirectory() as folder:
        file = Path(folder, "config.json")  # a dict will do from 0.33 on
        file.write_text(json.dumps(description), encoding="utf-8")
        vision = comfy.clip_vision.ClipVisionModel(str(file))
    check_tensors(state, vision.model.state_dict(), _VISION)
    vision.load_sd(state)
    return vision


def made_for(vision: comfy.clip_vision.ClipVisionModel, width: int) -> comfy.clip_vision.ClipVisionModel:
    """The CLIP_VISION with the width in pixels that its base was released for, which own_width reads."""
    vision.i2vgen_xl_width = width
    return vision


def own_width(vision: Any) -> int:
    """The width in pixels that a CLIP_VISION's base was released for: I2VGen-XL's where its loader did not say."""
    return getattr(vision, "i2vgen_xl_width", RELEASES["i2vgen_xl"].width)


class ScaledVAE(comfy.sd.VAE):
    """A VAE whose config.json states its scale, and with it that it is not SDXL's."""


def load_native_vae(path: Path) -> comfy.sd.VAE:
    """A VAE from `vae/`, or one file: latents unscaled [N, 4, H/8, W/8], the posterior's mode, of images [N, H, W, 3] in 0..1.

    Raises:
        CheckpointError: unreadable, another model (SDXL's, by its config.json), or tensors missing, unknown or of a
            wrong shape.
    """
    state, settings = _read(path)
    config = vae_config(state, settings)
    remedy = "Use the VAE of Stable Diffusion 2.1 (or 1.5)."
    width = config.channels[0]
    if config.scale_factor != VAE_STEP or any(channels % width for channels in config.channels):
        expected = "4 levels, each a multiple of the first one's channels"
        raise CheckpointError(_VAE, expected, f"channels {', '.join(map(str, config.channels))}", remedy)
    _check_host_can(_VAE, "norm_num_groups", [_NORM_GROUPS], config.norm_groups)
    parameters = {
        "embed_dim": VAE_CHANNELS,
        "ddconfig": {
            "double_z": True,
            "z_channels": VAE_CHANNELS,
            "resolution": 256,
            "in_channels": 3,
            "out_ch": 3,
            "ch": width,
            "ch_mult": [channels // width for channels in config.channels],
            "num_res_blocks": config.blocks,
            "attn_resolutions": [],
        },
    }
    with torch.device("meta"):
        expected = AutoencoderKL(**parameters).state_dict()
    tensors = vae_keys.vae_tensors(state)
    check_tensors(tensors, expected if vae_keys.is_ldm(tensors) else vae_keys.vae_to_diffusers(expected), _VAE)
    vae = (ScaledVAE if "scaling_factor" in settings else comfy.sd.VAE)(
        sd=vae_keys.vae_to_ldm(state), config={"params": parameters}
    )
    vae.patcher.cached_patcher_init = (_vae_patcher, (path,))
    return vae


def vae_family(latent: Tensor, image: Tensor) -> Literal["sd", "sdxl"] | None:
    """Whose VAE has encoded an image: Stable Diffusion 1's and 2's, or SDXL's. Their tensors have the same shapes.

    The host's preview factors of each family make a small picture of the latent; the right one has the image's
    colours. Brightness is left out, since both families store it alike. A correlation sees neither the
    families' scales nor their offsets.

    Args:
        latent: [N, 4, h, w].
        image: [N, H, W, 3] in 0..1, which it was encoded from.

    Returns:
        None if neither or both fit: an image almost without colour, made-up weights, another VAE.
    """
    small = interpolate(image.movedim(-1, 1).to(latent.device, torch.float32), latent.shape[-2:], mode="area")
    colours = _colours(small)
    if colours.square().mean().sqrt() < 0.01:
        return None

    def fit(family: comfy.latent_formats.LatentFormat) -> float:
        factors = torch.tensor(family.latent_rgb_factors, device=latent.device)
        picture = torch.einsum("nchw,cr->nrhw", latent.float(), factors)
        return float(cosine_similarity(_colours(picture), colours, dim=0))

    # Photos put together from the released VAEs' latents of eight pure colours fit the right family by 0.82 or more and
    # the wrong one by 0.59 or less; VAEs of made-up weights fit either by 0.58 or less.
    sd, sdxl = fit(comfy.latent_formats.SD15()), fit(comfy.latent_formats.SDXL())
    if sd > 0.7 and sd - sdxl > 0.25:
        return "sd"
    if sdxl > 0.7 and sdxl - sd > 0.25:
        return "sdxl"
    return None


def _colours(rgb: Tensor) -> Tensor:
    """How [N, 3, h, w] differs from grey, less the mean, as one vector."""
    differences = rgb - rgb.mean(dim=1, keepdim=True)
    return (differences - differences.mean(dim=(0, 2, 3), keepdim=True)).flatten()


class _PromptTokenizer(comfy.sd1_clip.SDTokenizer):
    """The host's tokenizer, weights and embeddings included, with the repairs of text that open_clip begins with."""

    def tokenize_with_weights(self, text: str, *args: Any, **kwargs: Any) -> list[list[Any]]:
        return super().tokenize_with_weights(repaired(text), *args, **kwargs)


def _prompt_tokenizer(beside: Path, config: TextConfig) -> partial[_PromptTokenizer]:
    folder = beside / "tokenizer"
    Tokenizer(folder)  # raises if the folder holds another vocabulary
    return partial(
        _PromptTokenizer,
        tokenizer_path=str(folder if folder.is_dir() else VOCABULARY),
        tokenizer_class=transformers.CLIPTokenizerFast,
        tokenizer_args={"local_files_only": True},
        max_length=config.context_length,
        pad_with_end=False,
        embedding_size=config.width,
        embedding_key=f"clip_{_CLIP_NAME}",
    )


def _clip_patcher(path: Path, disable_dynamic: bool = False) -> Any:
    return load_clip(path, disable_dynamic=disable_dynamic).patcher


def _vae_patcher(path: Path, disable_dynamic: bool = False) -> Any:
    return load_native_vae(path).patcher


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    state, metadata = read_state_dict(path)
    return state, metadata | read_config(path)


def _check_host_can(what: str, setting: str, possible: Collection[Any], found: Any) -> None:
    if found not in possible:
        expected = f"{setting} {' or '.join(map(str, possible))}, as ComfyUI has it"
        raise CheckpointError(what, expected, str(found), "Use the model of the release.")
