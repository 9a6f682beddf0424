"""Tensors that are missing, misshapen or of another model: each refused by its name."""

from dataclasses import replace

import pytest
import torch
import toy

from i2vgen_core.checkpoints.check import check_tensors
from i2vgen_core.checkpoints.detect import split_global_encoder, unet_config
from i2vgen_core.checkpoints.load import parse_unet
from i2vgen_core.checkpoints.unet_keys import GLOBAL_ENCODER, to_diffusers, to_official
from i2vgen_core.errors import CheckpointError, InputError


def refusal(state):
    with pytest.raises(CheckpointError) as caught:
        parse_unet(state, toy.SETTINGS)
    return str(caught.value)


DAMAGES = {
    "missing": lambda whole, key: {other: value for other, value in whole.items() if other != key},
    "longer": lambda whole, key: (
        whole | {key: torch.empty(whole[key].shape[0] + 1, *whole[key].shape[1:], device="meta")}
    ),
    "a number": lambda whole, key: whole | {key: torch.empty((), device="meta")},
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_every_damaged_tensor_is_refused(damage):
    """Whichever it is, those included that the sizes are read from: every one missing, and every third misshapen."""
    whole = toy.meta_state(toy.CONFIG)
    parts = split_global_encoder(whole)
    for key in list(whole)[:: 1 if damage == "missing" else 3]:
        damaged = DAMAGES[damage](whole, key)
        try:
            config = unet_config(damaged, head_dim=toy.CONFIG.head_dim)
        except CheckpointError:
            continue  # an error of any other class fails
        if config != toy.CONFIG:
            refusal(to_official(damaged))
            continue
        part = key.startswith(GLOBAL_ENCODER)
        with pytest.raises(CheckpointError) as caught:
            check_tensors(split_global_encoder(damaged)[part], parts[part], "it")
        assert f"({key.removeprefix(GLOBAL_ENCODER)}" in str(caught.value)


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize(
    "key",
    [
        "conv_in.weight",
        "context_embedding.2.weight",
        "down_blocks.1.resnets.0.conv2.weight",
        "mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight",
        "up_blocks.0.temp_convs.0.conv1.2.weight",
        "image_latents_temporal_encoder.attn1.to_k.weight",
        "image_latents_context_embedding.0.weight",
    ],
)
def test_damage_in_diffusers_layout_is_refused(damage, key):
    whole = to_diffusers(toy.meta_state(toy.CONFIG))
    assert key in whole
    refusal(DAMAGES[damage](whole, key))


def test_a_convolution_over_time_that_is_wider_is_refused_in_both_layouts():
    for layout in (to_official, to_diffusers):
        whole = layout(toy.meta_state(toy.CONFIG))
        key = next(key for key, value in whole.items() if value.ndim == 5)
        wider = torch.empty(*whole[key].shape[:-1], 3, device="meta")
        assert "5 axes, the last of size 1" in refusal(whole | {key: wider})


@pytest.mark.parametrize(
    "key",
    ["middle_block.0.out_layers.3.weight", "out.0.bias", "fps_embedding.2.weight", GLOBAL_ENCODER + "3.weight"],
)
def test_a_wrong_tensor_names_itself(key):
    whole = toy.stored(toy.CONFIG)
    missing = refusal({other: value for other, value in whole.items() if other != key})
    short = key.removeprefix(GLOBAL_ENCODER)
    assert f"1 missing ({short})" in missing
    wrong = refusal(whole | {key: whole[key][1:]})
    shapes = f"{short} {list(whole[key][1:].shape)} instead of {list(whole[key].shape)}"
    assert f"1 of a wrong shape ({shapes})" in wrong
    extra = refusal(whole | {f"{key}.more": whole[key]})
    assert f"1 unknown ({short}.more)" in extra


def test_a_base_without_its_global_encoder_is_refused():
    network, _ = split_global_encoder(toy.stored(toy.CONFIG))
    message = refusal(network)
    assert "the global encoder: expected six tensors local_image_embedding.*" in message
    assert "found none" in message and "Load Diffusion Model" in message


def test_a_refiner_with_a_global_encoder_is_refused():
    state = toy.stored(replace(toy.CONFIG, kind="vid2vid_xl")) | {GLOBAL_ENCODER + "0.weight": torch.ones(1)}
    assert "expected no global encoder, found 0.weight" in refusal(state)


def stable_diffusion(layout):
    """A few tensors of Stable Diffusion 1.5, in ldm's layout or in diffusers'."""
    ldm = {
        "time_embed.0.weight": (1280, 320),
        "input_blocks.0.0.weight": (320, 4, 3, 3),
        "input_blocks.1.0.in_layers.2.weight": (320, 320, 3, 3),
        "input_blocks.1.1.proj_in.weight": (320, 320, 1, 1),
        "input_blocks.3.0.op.weight": (320, 320, 3, 3),
        "middle_block.1.transformer_blocks.0.attn2.to_k.weight": (1280, 768),
        "out.2.weight": (4, 320, 3, 3),
    }
    diffusers = {
        "conv_in.weight": (320, 4, 3, 3),
        "time_embedding.linear_1.weight": (1280, 320),
        "down_blocks.0.resnets.0.conv1.weight": (320, 320, 3, 3),
        "conv_out.weight": (4, 320, 3, 3),
    }
    if layout == "ldm":
        return {f"model.diffusion_model.{key}": torch.empty(shape, device="meta") for key, shape in ldm.items()}
    return {key: torch.empty(shape, device="meta") for key, shape in diffusers.items()}


@pytest.mark.parametrize("layout", ["ldm", "diffusers"])
def test_stable_diffusion_is_refused(layout):
    message = refusal(stable_diffusion(layout))
    assert "the model file: expected a network of the I2VGen-XL family, found no" in message
    assert "Choose a network that docs/checkpoints.md lists" in message


def test_nothing_at_all_is_refused():
    assert "found no input_blocks.0.1.proj_in.weight among 0 tensors. Choose" in refusal({})


def test_errors_are_value_errors_that_say_what_to_do():
    error = CheckpointError("the file", "a model", "a photo", "Choose a model.")
    assert isinstance(error, InputError) and isinstance(error, ValueError)
    assert str(error) == "the file: expected a model, found a photo. Choose a model."
    assert (error.what, error.expected, error.found, error.remedy) == (
        "the file",
        "a model",
        "a photo",
        "Choose a model.",
    )
