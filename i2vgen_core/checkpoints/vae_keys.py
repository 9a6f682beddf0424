"""Key table of the image VAE, of any number of levels and blocks: ldm's layout (VGen) <-> diffusers' AutoencoderKL."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from ..errors import CheckpointError
from .check import named
from .clip_keys import count
from .prefixes import network_tensors

SIGNS = ("decoder.conv_in.weight",)
"""Names that it has in either layout, see network_tensors."""

_TRAINING = ("loss.", "model_ema.")  # what the original VAE checkpoints keep of their training
_SDXL = "conditioner.embedders."  # only its checkpoints have text encoders of this name beside their VAE
_SHORTCUT = ("nin_shortcut", "conv_shortcut")
_ATTENTION = {"norm": "group_norm", "q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0"}
_ATTENTION_BEFORE_0_18 = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}  # diffusers < 0.18
_THEIR_ATTENTION = "mid_block.attentions.0."


def vae_tensors(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The VAE's tensors alone, in the layout they came in; diffusers' older attention names in the newer form.

    Raises:
        CheckpointError: there is no VAE in either layout, or it is in a whole SDXL checkpoint.
    """
    if any(key.startswith(_SDXL) for key in state_dict):
        remedy = "Choose the VAE of Stable Diffusion 2.1."
        raise CheckpointError("VAE", "one of Stable Diffusion 1 or 2", "a checkpoint of SDXL", remedy)
    tensors = network_tensors(state_dict, SIGNS, "VAE")
    if not any(key.startswith(("encoder.down", "decoder.up")) for key in tensors):
        raise CheckpointError(
            "VAE",
            "tensors in ldm's or diffusers' AutoencoderKL layout",
            ", ".join(map(named, sorted(tensors)[:3])) or "no tensors",
            "Choose the VAE of Stable Diffusion 2.1.",
        )
    older = {
        f"{half}.{_THEIR_ATTENTION}{old}.": f"{half}.{_THEIR_ATTENTION}{new}."
        for half in ("encoder", "decoder")
        for old, new in _ATTENTION_BEFORE_0_18.items()
    }
    return {_renamed_start(key, older): value for key, value in tensors.items() if not key.startswith(_TRAINING)}


def is_ldm(tensors: Mapping[str, Tensor]) -> bool:
    """Whether a VAE's tensors are in ldm's layout."""
    return not any(key.startswith(("encoder.down_blocks.", "decoder.up_blocks.")) for key in tensors)


def vae_table(levels: int, blocks: int) -> dict[str, str]:
    """ldm key -> diffusers key, for `levels` resolutions of `blocks` residual blocks, one more in the decoder.

    Holds a shortcut for every residual block; a network has them only where a block changes the channel count.
    """
    modules = {name: name for name in ("quant_conv", "post_quant_conv")}
    for half in ("encoder", "decoder"):
        modules |= {f"{half}.conv_in": f"{half}.conv_in", f"{half}.conv_out": f"{half}.conv_out"}
        modules[f"{half}.norm_out"] = f"{half}.conv_norm_out"
        for name, theirs in _ATTENTION.items():
            modules[f"{half}.mid.attn_1.{name}"] = f"{half}.{_THEIR_ATTENTION}{theirs}"
        for i in (1, 2):
            modules |= _residual_block(f"{half}.mid.block_{i}.", f"{half}.mid_block.resnets.{i - 1}.")
    for i in range(levels):
        up = levels - 1 - i  # ldm counts the decoder's levels from the full resolution, diffusers in running order
        modules[f"encoder.down.{i}.downsample.conv"] = f"encoder.down_blocks.{i}.downsamplers.0.conv"
        modules[f"decoder.up.{i}.upsample.conv"] = f"decoder.up_blocks.{up}.upsamplers.0.conv"
        for j in range(blocks):
            modules |= _residual_block(f"encoder.down.{i}.block.{j}.", f"encoder.down_blocks.{i}.resnets.{j}.")
        for j in range(blocks + 1):
            modules |= _residual_block(f"decoder.up.{i}.block.{j}.", f"decoder.up_blocks.{up}.resnets.{j}.")
    return {f"{ours}.{kind}": f"{theirs}.{kind}" for ours, theirs in modules.items() for kind in ("weight", "bias")}


def vae_to_diffusers(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The VAE under AutoencoderKL's keys, the attention's 1x1 convolutions as linear layers; unknown keys stay."""
    tensors = vae_tensors(state_dict)
    if not is_ldm(tensors):
        return tensors
    table = vae_table(
        levels=count(tensors, r"(?:encoder\.down|decoder\.up)\.(\d+)\."),
        blocks=count(tensors, r"encoder\.down\.\d+\.block\.(\d+)\."),
    )
    return {
        table.get(key, key): value.flatten(1) if _is_attention_weight(key) and value.ndim == 4 else value
        for key, value in tensors.items()
    }


def vae_to_ldm(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The VAE under ldm's keys, the attention's linear layers as 1x1 convolutions; unknown keys stay."""
    tensors = vae_tensors(state_dict)
    if is_ldm(tensors):
        return tensors
    table = vae_table(
        levels=count(tensors, r"(?:encoder\.down|decoder\.up)_blocks\.(\d+)\."),
        blocks=count(tensors, r"encoder\.down_blocks\.\d+\.resnets\.(\d+)\."),
    )
    names = {theirs: ours for ours, theirs in table.items()}
    out = {names.get(key, key): value for key, value in tensors.items()}
    return {key: value[:, :, None, None] if _is_attention_weight(key) else value for key, value in out.items()}


def _residual_block(ours: str, theirs: str) -> dict[str, str]:
    names = {name: name for name in ("norm1", "conv1", "norm2", "conv2")} | {_SHORTCUT[0]: _SHORTCUT[1]}
    return {ours + a: theirs + b for a, b in names.items()}


def _is_attention_weight(ldm_key: str) -> bool:
    return ".mid.attn_1." in ldm_key and ldm_key.endswith(tuple(f".{n}.weight" for n in ("q", "k", "v", "proj_out")))


def _renamed_start(key: str, names: Mapping[str, str]) -> str:
    for old, new in names.items():
        if key.startswith(old):
            return new + key[len(old) :]
    return key
