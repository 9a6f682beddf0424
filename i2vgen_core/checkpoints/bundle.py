"""Writes the parts of a model folder in diffusers' layout."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..config import TEXT_TOKENS, UNetConfig
from ..encoders.config import LATENT_RGB
from ..encoders.tokenizer import VOCABULARY
from ..errors import InputError
from ..media.images import CLIP_MEAN, CLIP_STD
from .read import read_config
from .unet_keys import to_diffusers, to_official
from .write import bytes_of, header_of

WEIGHTS = "diffusion_pytorch_model.safetensors"


def write_unet(
    folder: Path, config: UNetConfig, state: Mapping[str, Tensor], release: Mapping[str, Any] | None = None
) -> None:
    """A base with its global encoder, or a refiner.

    Args:
        folder: `unet/` or `refiner/`.
        config: sizes.
        state: tensors by our names, the global encoder's under checkpoints.unet_keys.GLOBAL_ENCODER.
        release: settings to be shipped with it, by the names of releases.Release.
    """
    settings: dict[str, Any] = {"kind": config.kind, "attention_head_dim": config.head_dim}
    if config.kind == "i2vgen_xl":
        levels = list(config.attention_levels)
        settings |= {
            "_class_name": "I2VGenXLUNet",
            "in_channels": config.in_channels,
            "out_channels": config.out_channels,
            "block_out_channels": [config.model_channels * multiplier for multiplier in config.channel_mult],
            "down_block_types": ["CrossAttnDownBlock3D" if attention else "DownBlock3D" for attention in levels],
            "up_block_types": ["CrossAttnUpBlock3D" if attention else "UpBlock3D" for attention in reversed(levels)],
            "layers_per_block": config.num_res_blocks,
            "cross_attention_dim": config.context_dim,
            "norm_num_groups": 32,
        }
        state = to_diffusers(dict(state))
    else:
        state = to_official(dict(state))
    if release:
        settings["release"] = dict(release)
    write_part(folder, state, settings, metadata={"kind": config.kind, "head_dim": str(config.head_dim)})


def write_tower(folder: Path, tower: nn.Module, state: Mapping[str, Tensor]) -> None:
    """One of CLIP's towers, of transformers' classes, with these weights. Names are as released: transformers 5 has
    dropped the text tower's prefix."""
    if folder.name == "text_encoder":
        state = {"text_model." + key.removeprefix("text_model."): value for key, value in state.items()}
    settings = tower.config.to_diff_dict()  # type: ignore[union-attr,operator]
    write_part(folder, state, settings, "model.safetensors")


def write_vae(folder: Path, vae: Any, state: Mapping[str, Tensor], latent_rgb: list[list[float]] | None = None) -> None:
    """A diffusers.AutoencoderKL with these weights.

    Args:
        latent_rgb: to preview its latents by, see encoders.config.latent_rgb; None for Stable Diffusion's.
    """
    settings = {name: value for name, value in vae.config.items() if not name.startswith("_")}
    if latent_rgb is not None:
        settings[LATENT_RGB] = latent_rgb
    write_part(folder, state, {"_class_name": "AutoencoderKL", **settings})


def write_part(
    folder: Path,
    state: Mapping[str, Tensor],
    settings: Mapping[str, Any],
    name: str = WEIGHTS,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Weights and config.json of a part."""
    folder.mkdir(parents=True, exist_ok=True)
    write_tensors(folder / name, state, {"format": "pt", **(metadata or {})})
    write_json(folder / "config.json", settings)


def write_tensors(file: Path, state: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """A safetensors file, which has its name when it is whole, and the permissions of any new file. The same tensors and
    metadata are the same bytes: the library's own writer puts the metadata in another order each time.

    Raises:
        InputError: it cannot be written.
    """
    names = sorted(state, key=lambda name: (-state[name].dtype.itemsize, name))  # each on a multiple of its type's size
    layout = {name: (state[name].shape, state[name].dtype) for name in names}
    unfinished = file.with_name(file.name + ".part")
    try:
        with unfinished.open("wb") as stream:
            stream.write(header_of(layout, metadata))
            for name in layout:
                stream.write(bytes_of(state[name]))
        unfinished.replace(file)
    except OSError as error:
        found = f"none ({error.strerror})"
        raise InputError(str(file), "room to write", found, "Free some, or choose another folder.") from error
    finally:
        unfinished.unlink(missing_ok=True)


_INDEX = {
    "_class_name": "I2VGenXLPipeline",
    "feature_extractor": ["transformers", "CLIPImageProcessor"],
    "image_encoder": ["transformers", "CLIPVisionModelWithProjection"],
    "scheduler": ["diffusers", "DDIMScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "I2VGenXLUNet"],
    "vae": ["diffusers", "AutoencoderKL"],
}
"""What diffusers makes of each part."""


def write_index(folder: Path) -> None:
    """Makes a folder one that diffusers' I2VGenXLPipeline.from_pretrained takes: model_index.json, and the parts that are
    settings alone: scheduler/, feature_extractor/ and tokenizer/, where they are not there yet.

    Nothing is written where a part with weights is missing, or where the base is of another kind than I2VGen-XL.

    Args:
        folder: with unet/, vae/, text_encoder/ and image_encoder/.
    """
    parts = [folder / name for name in ("unet", "vae", "text_encoder", "image_encoder")]
    if not all(part.is_dir() for part in parts) or read_config(folder / "unet").get("kind") != "i2vgen_xl":
        return
    from diffusers import DDIMScheduler  # seconds to import, and only needed here

    if not (folder / "scheduler").exists():
        DDIMScheduler(
            beta_schedule="squaredcos_cap_v2",
            prediction_type="v_prediction",
            rescale_betas_zero_snr=True,
            timestep_spacing="leading",
            steps_offset=1,
            set_alpha_to_one=False,
            clip_sample=False,
        ).save_pretrained(folder / "scheduler")
    if not (folder / "feature_extractor").exists():
        side = read_config(folder / "image_encoder").get("image_size", 224)
        _write_feature_extractor(folder / "feature_extractor", side)
    if not (folder / "tokenizer").exists():
        write_tokenizer(folder / "tokenizer")
    write_json(folder / "model_index.json", _INDEX)


def _write_feature_extractor(folder: Path, side: int) -> None:
    """The settings of CLIP's pictures, as transformers' own class writes them, which says on the console that it lacks torchvision."""
    folder.mkdir(parents=True)
    settings = {"do_resize": True, "size": {"shortest_edge": side}, "resample": 3, "do_convert_rgb": True}
    settings |= {"do_center_crop": True, "crop_size": {"height": side, "width": side}}
    settings |= {"do_rescale": True, "rescale_factor": 1 / 255}
    settings |= {"do_normalize": True, "image_mean": list(CLIP_MEAN), "image_std": list(CLIP_STD)}
    write_json(folder / "preprocessor_config.json", {"image_processor_type": "CLIPImageProcessor", **settings})


def write_tokenizer(folder: Path) -> None:
    """CLIP's vocabulary, padding with token 0, `!`, as the official code does."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("vocab.json", "merges.txt"):
        shutil.copyfile(VOCABULARY / name, folder / name)
    end = "<|endoftext|>"
    tokens = {"bos_token": "<|startoftext|>", "eos_token": end, "unk_token": end, "pad_token": "!"}
    settings = {"tokenizer_class": "CLIPTokenizer", "model_max_length": TEXT_TOKENS, **tokens}
    write_json(folder / "tokenizer_config.json", settings)


def write_json(file: Path, content: Mapping[str, Any]) -> None:
    """Indented, with an end of line."""
    file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def stored(state: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """The floating-point tensors in the type they are stored in."""
    return {key: value.detach().to("cpu", dtype) for key, value in state.items() if value.is_floating_point()}
