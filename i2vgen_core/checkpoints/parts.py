"""Which networks a file holds: a UNet, the VAE, CLIP's text and vision towers; and their tensors as they are written."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from ..config import BASES, HINTED, REFINERS, Kind
from ..encoders.config import TextConfig, VisionConfig
from ..releases import RELEASES
from . import clip_keys, unet_keys, vae_keys
from .clip_keys import text_to_transformers, text_tower, vision_to_transformers, vision_tower
from .encoder_sizes import text_config, vae_config, vision_config
from .load import in_our_layout, parse_unet
from .read import read_config
from .unet_keys import StateDict, to_official
from .vae_keys import vae_tensors, vae_to_ldm

PartName = Literal["unet", "vae", "text", "vision"]
Settings = Mapping[str, Any]

_SIGNS: dict[PartName, tuple[str, ...]] = {
    "unet": unet_keys.SIGNS,
    "vae": vae_keys.SIGNS,
    "text": clip_keys.TEXT_SIGNS,
    "vision": clip_keys.VISION_SIGNS,
}


@dataclass(frozen=True)
class Part:
    """One network of a file.

    Args:
        title: for people.
        loader: the block that takes it, and the folder that the block looks in.
        tensors: on meta, as part_tensors has them.
        metadata: its kind, its sizes as JSON, and what leaves no trace in names and shapes, as the loaders read it.
    """

    title: str
    loader: str
    tensors: StateDict
    metadata: dict[str, str]


def signs_of(state: StateDict) -> list[PartName]:
    """The networks that the names speak of, checked no further."""
    return [name for name, ends in _SIGNS.items() if any(key.endswith(ends) for key in state)]


def settings_of(path: Path, metadata: Settings) -> Settings:
    """What a file's metadata or a folder's config.json says."""
    return dict(metadata) if path.is_file() else read_config(path) | dict(metadata)


def part_tensors(state: StateDict, name: PartName) -> StateDict:
    """A network's tensors under the names that this project writes: the official layout of a UNet, ldm's of the VAE,
    transformers' of CLIP. All but a few small ones are views."""
    return _TENSORS[name](state)


def find_part(state: StateDict, settings: Settings, name: PartName, kind: Kind | None = None) -> Part:
    """One network among tensors of any layout, checked strictly by names and shapes. Weights are not looked at.

    Args:
        state: all tensors.
        settings: see settings_of.
        name: which network.
        kind: see open_unet.

    Raises:
        CheckpointError: it is not among them whole.
    """
    state = {key: torch.empty_like(value, device="meta") for key, value in state.items()}
    return _unet(state, settings, kind) if name == "unet" else _FINDERS[name](state, settings)


def _unet_tensors(state: StateDict) -> StateDict:
    return to_official(in_our_layout(state))


def _unet(state: StateDict, settings: Settings, kind: Kind | None) -> Part:
    checkpoint = parse_unet(state, settings, kind=kind)
    config, release = checkpoint.config, RELEASES[checkpoint.config.kind]
    return Part(
        title=f"{release.title} ({config.kind})" + (" with its global encoder" if checkpoint.global_encoder else ""),
        loader=_LOADERS[config.kind],
        tensors=_unet_tensors(state),
        metadata={"config": json.dumps(asdict(config)), **checkpoint.metadata()},
    )


_LOADERS: dict[Kind, str] = {
    **dict.fromkeys(RELEASES, "i2vgen_core.checkpoints.load.open_unet; no block takes it yet"),
    **dict.fromkeys(BASES, "I2VGen-XL Base Loader, from models/diffusion_models"),
    **dict.fromkeys(REFINERS + HINTED, "I2VGen-XL Refiner Loader, from models/diffusion_models"),
}


def _text(state: StateDict, settings: Settings) -> Part:
    from .encoders import load_text_encoder  # imports transformers, which takes seconds and memory

    load_text_encoder(state, settings=settings, device="meta")
    config = text_config(text_tower(state), settings)
    own = {"text_head_dim": config.head_dim, "i2vgen_skip_last": config.skip_last}
    return Part(
        title=f"CLIP text encoder of width {config.width}, {config.layers} blocks",
        loader="ComfyUI's CLIPLoader, from models/text_encoders",
        tensors=text_to_transformers(state),
        metadata=_clip_metadata("clip_text", config, own),
    )


def _vision(state: StateDict, settings: Settings) -> Part:
    from .encoders import load_image_encoder

    load_image_encoder(state, settings=settings, device="meta")
    config = vision_config(vision_tower(state), settings)
    return Part(
        title=f"CLIP vision encoder of width {config.width}, {config.layers} blocks, {config.image_size} pixels",
        loader="ComfyUI's CLIPVisionLoader, from models/clip_vision",
        tensors=vision_to_transformers(state),
        metadata=_clip_metadata("clip_vision", config, {"vision_head_dim": config.head_dim}),
    )


def _clip_metadata(kind: str, config: TextConfig | VisionConfig, own: Mapping[str, int]) -> dict[str, str]:
    said = {"hidden_act": config.activation, "layer_norm_eps": config.norm_eps, **own}
    return {"kind": kind, "config": json.dumps(asdict(config)), **{name: str(value) for name, value in said.items()}}


def _vae(state: StateDict, settings: Settings) -> Part:
    from .encoders import load_vae

    load_vae(state, settings=settings, device="meta")
    config = vae_config(vae_tensors(state), settings)
    tensors = vae_to_ldm(state)
    among_others = len(tensors) < len(state)
    return Part(
        title=f"Stable Diffusion's VAE, {config.latent_channels} latent channels",
        loader="ComfyUI's VAELoader, from models/vae" + (", once `convert --part vae` took it out" * among_others),
        tensors=tensors,
        metadata={
            "kind": "vae",
            "config": json.dumps(asdict(config)),
            "norm_num_groups": str(config.norm_groups),
        },
    )


_TENSORS: dict[PartName, Callable[[StateDict], StateDict]] = {
    "unet": _unet_tensors,
    "vae": vae_to_ldm,
    "text": text_to_transformers,
    "vision": vision_to_transformers,
}
_FINDERS: dict[PartName, Callable[[StateDict, Settings], Part]] = {"vae": _vae, "text": _text, "vision": _vision}
