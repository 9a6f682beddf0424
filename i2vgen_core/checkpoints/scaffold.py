"""A model folder in diffusers' layout with made-up weights, for tests and trials."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPVisionConfig, CLIPVisionModelWithProjection

from ..config import VAE_SCALE, Kind, PoseConfig, UNetConfig, released_config
from ..encoders.tokenizer import VOCABULARY_SIZE
from ..errors import InputError
from ..network.blocks import Layers
from ..network.image_conditioning import GlobalEncoder
from ..network.unet import UNet
from .bundle import write_index, write_tokenizer, write_tower, write_unet, write_vae
from .unet_keys import GLOBAL_ENCODER


@dataclass(frozen=True)
class Size:
    """Sizes of every part of a folder.

    Args:
        unet: both networks, but for their kind.
        vae_channels: of the VAE's levels.
        text_layers, vision_layers: blocks of CLIP's towers; the text tower's last one is not used.
        vision_width, image_size, patch_size: of the vision tower.
        text_head_dim, vision_head_dim: widths of the towers' attention heads.
        dtype: of the stored weights.
    """

    unet: UNetConfig
    vae_channels: tuple[int, ...]
    text_layers: int
    text_head_dim: int
    vision_layers: int
    vision_width: int
    vision_head_dim: int
    image_size: int
    patch_size: int
    dtype: torch.dtype


SIZES = {
    "tiny": Size(
        unet=UNetConfig(model_channels=32, head_dim=8, context_dim=64, image_dim=64),
        vae_channels=(32, 32, 64, 64),
        text_layers=3,
        text_head_dim=16,
        vision_layers=2,
        vision_width=64,
        vision_head_dim=16,
        image_size=56,
        patch_size=14,
        dtype=torch.float32,
    ),
    "full": Size(
        unet=UNetConfig(),
        vae_channels=(128, 256, 512, 512),
        text_layers=24,
        text_head_dim=64,
        vision_layers=32,
        vision_width=1280,
        vision_head_dim=80,
        image_size=224,
        patch_size=14,
        dtype=torch.float16,
    ),
}
"""`full` is the releases' sizes: networks of 1.42 G parameters, ViT-H/14, Stable Diffusion's VAE."""


def scaffold(
    folder: Path, size: Size, *, base: Kind = "i2vgen_xl", refiner: Kind | None = "vid2vid_xl", seed: int = 0
) -> None:
    """Writes a bundle: unet/, vae/, text_encoder/, image_encoder/, tokenizer/ and refiner/.

    Args:
        folder: made if it is not there.
        size: one of SIZES, or another.
        base, refiner: kinds of the two networks; None for no refiner.
        seed: of the weights.

    Raises:
        InputError: the folder is there and not empty.
    """
    if folder.is_dir() and any(folder.iterdir()):
        raise InputError("folder", "a new or empty one", str(folder), "Choose another, or remove it first.")
    weights = _Weights(seed, size.dtype)
    _write_network(folder / "unet", _of_kind(size.unet, base), weights)
    if refiner is not None:
        _write_network(folder / "refiner", _of_kind(size.unet, refiner), weights)
    _write_encoders(folder, size, weights)
    _write_autoencoder(folder / "vae", size, weights)
    write_tokenizer(folder / "tokenizer")
    write_index(folder)


class _Weights:
    """Fills tensors so that activations keep their size: uniform, 1.4 / sqrt(fan-in) in deviation."""

    def __init__(self, seed: int, dtype: torch.dtype):
        self._generator = torch.Generator().manual_seed(seed)
        self._dtype = dtype

    def fill(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        return {key: self._make(key, value) for key, value in state.items() if value.is_floating_point()}

    def _make(self, key: str, like: Tensor) -> Tensor:
        if like.ndim < 2:
            mean, deviation = (0.0 if key.endswith("bias") else 1.0), 0.05
        else:
            mean, deviation = 0.0, 0.02 if "embeddings." in key else 1.4 / math.sqrt(like[0].numel())
        values = torch.empty(like.shape).uniform_(-1, 1, generator=self._generator)
        return values.mul_(deviation * math.sqrt(3)).add_(mean).to(self._dtype)


def _of_kind(config: UNetConfig, kind: Kind) -> UNetConfig:
    """The same sizes for another kind, with what that kind has beside."""
    released, width = released_config(kind), config.context_dim
    poses = PoseConfig(width, width, 2, 18, 2 * config.head_dim, 2) if released.poses else None
    return replace(
        config,
        kind=kind,
        stems=released.stems,
        concat_channels=released.concat_channels,
        poses=poses,
        gated=released.gated,
        control=released.control,
    )


def _write_network(folder: Path, config: UNetConfig, weights: _Weights) -> None:
    state = dict(UNet(config, device="meta").state_dict())
    if config.reads_details:
        encoder = GlobalEncoder(config.in_channels, config.context_dim, Layers(device="meta"))
        state |= {GLOBAL_ENCODER + key: value for key, value in encoder.state_dict().items()}
    write_unet(folder, config, weights.fill(state))


def _write_encoders(folder: Path, size: Size, weights: _Weights) -> None:
    width = size.unet.context_dim
    text = CLIPTextConfig(
        vocab_size=VOCABULARY_SIZE,
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=size.text_layers,
        num_attention_heads=width // size.text_head_dim,
        hidden_act="gelu",
    )
    vision = CLIPVisionConfig(
        hidden_size=size.vision_width,
        intermediate_size=4 * size.vision_width,
        projection_dim=size.unet.image_dim,
        num_hidden_layers=size.vision_layers,
        num_attention_heads=size.vision_width // size.vision_head_dim,
        image_size=size.image_size,
        patch_size=size.patch_size,
        hidden_act="gelu",
    )
    with torch.device("meta"):
        towers = {"text_encoder": CLIPTextModel(text), "image_encoder": CLIPVisionModelWithProjection(vision)}
    for name, tower in towers.items():
        write_tower(folder / name, tower, weights.fill(tower.state_dict()))


def _write_autoencoder(folder: Path, size: Size, weights: _Weights) -> None:
    levels = len(size.vae_channels)
    with torch.device("meta"):
        vae = AutoencoderKL(
            latent_channels=size.unet.in_channels,
            block_out_channels=size.vae_channels,
            layers_per_block=2,
            down_block_types=("DownEncoderBlock2D",) * levels,
            up_block_types=("UpDecoderBlock2D",) * levels,
            norm_num_groups=32,
            scaling_factor=VAE_SCALE,
        )
    write_vae(folder, vae, weights.fill(vae.state_dict()))
