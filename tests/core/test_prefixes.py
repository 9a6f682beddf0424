"""What stands in front of names, and what other tools put beside a network: found by rule, or refused by name."""

import json
from dataclasses import replace

import pytest
import torch
import toy
from safetensors.torch import load_file, save_file

from i2vgen_core.checkpoints.clip_keys import text_to_transformers, text_tower, vision_tower
from i2vgen_core.checkpoints.load import in_our_layout, open_base, open_refiner, parse_unet
from i2vgen_core.checkpoints.read import SETTINGS, settings_tensor
from i2vgen_core.checkpoints.unet_keys import GLOBAL_ENCODER, to_diffusers
from i2vgen_core.checkpoints.vae_keys import vae_tensors
from i2vgen_core.errors import CheckpointError
from i2vgen_core.releases import RELEASES

PREFIXES = [
    "model.diffusion_model.",
    "module._orig_mod.",
    "a.b.c.d.e.f.g.",
]


def beneath(prefix, state):
    return {prefix + key: value for key, value in state.items()}


@pytest.mark.parametrize("prefix", PREFIXES)
def test_whatever_stands_before_a_network_is_taken_off(bundles, prefix):
    state = toy.stored(toy.CONFIG)
    beside = {"step": torch.ones(1), "first_stage_model.encoder.conv_in.weight": torch.ones(2)}
    for layout in (state, to_diffusers(toy.whole_state(toy.CONFIG))):
        assert toy.same(in_our_layout(beneath(prefix, layout) | beside), toy.whole_state(toy.CONFIG))
    for folder, tensors in (("vae", vae_tensors), ("text_encoder", text_tower), ("image_encoder", vision_tower)):
        stored = load_file(next((bundles() / folder).glob("*.safetensors")))
        assert toy.same(tensors(beneath(prefix, stored) | beside), tensors(stored))


def test_two_networks_in_a_file_are_refused_by_their_places():
    state = toy.stored(toy.CONFIG)
    for first, second in (("teacher.", "student."), ("", "module.")):
        with pytest.raises(CheckpointError, match=f"found 2, beneath '{first}', '{second}'. Save the one"):
            parse_unet(beneath(first, state) | beneath(second, state), toy.SETTINGS)


def test_a_word_that_holds_ema_is_no_moving_average():
    state = toy.stored(toy.CONFIG)
    with pytest.raises(CheckpointError, match="found 2"):
        parse_unet(state | beneath("schema.", state), toy.SETTINGS)


# ---------------------------------------------------------------- what ComfyUI saves


def saved(config=toy.CONFIG, settings=None, encoder=True):
    """What CheckpointSave writes of a MODEL: our shapes, and its own additions."""
    state = {
        key: value for key, value in toy.whole_state(config).items() if encoder or not key.startswith(GLOBAL_ENCODER)
    }
    if settings is not None:
        state[SETTINGS] = settings_tensor(settings)
    beside = {
        "v_pred": torch.tensor([]),
        "ztsnr": torch.tensor([]),
        "cond_stage_model.clip_h.logit_scale": torch.ones(()),
    }
    return beneath("model.diffusion_model.", state) | beside


def test_a_model_that_comfyui_saved_is_what_it_was(tmp_path):
    own = {"steps": 30}
    settings = {"kind": "i2vgen_xl", "head_dim": "8", "release": json.dumps(own)}
    save_file(saved(settings=settings), tmp_path / "merge.safetensors", {"prompt": "{}"})
    found = open_base(tmp_path / "merge.safetensors")
    assert found.config == toy.CONFIG and found.release == replace(RELEASES["i2vgen_xl"], **own)
    state = found.network | beneath(GLOBAL_ENCODER, found.global_encoder)
    assert toy.same(state, toy.whole_state(toy.CONFIG))


@pytest.mark.parametrize("kind", toy.KINDS)
def test_metadata_of_a_network_round_trips(tmp_path, kind):
    config = replace(toy.CONFIG, kind=kind)
    found = parse_unet(toy.stored(config), {"head_dim": 8, "release": {"guidance": 2.5}}, kind=kind)
    save_file(saved(config, found.metadata()), tmp_path / "a.safetensors")
    again = (open_refiner if config.is_refiner else open_base)(tmp_path / "a.safetensors")
    assert (again.config, again.release) == (found.config, found.release)


def test_a_network_without_its_encoder_says_where_one_is(tmp_path):
    save_file(saved(settings={"head_dim": "8"}, encoder=False), tmp_path / "merge.safetensors")
    with pytest.raises(CheckpointError, match=r"found none .*Load Diffusion Model.*global_encoder"):
        open_base(tmp_path / "merge.safetensors")


@pytest.mark.parametrize(
    "stored",
    [torch.ones(3), torch.ones(2**17, dtype=torch.uint8), *(torch.tensor(list(t)) for t in (b"{", b"[]", b'{"a": 1}'))],
)
def test_settings_that_are_none_are_refused(tmp_path, stored):
    stored = stored.to(torch.uint8) if stored.dtype == torch.int64 else stored
    save_file({SETTINGS: stored, **toy.stored(toy.CONFIG)}, tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match="expected settings as JSON in i2vgen_xl_settings"):
        open_base(tmp_path / "a.safetensors")


def test_the_text_encoder_that_comfyui_saved(bundles):
    tower = text_to_transformers(load_file(bundles() / "text_encoder" / "model.safetensors"))
    whole = beneath("cond_stage_model.clip_h.transformer.", tower) | {
        "cond_stage_model.clip_h.logit_scale": torch.ones(())
    }
    assert toy.same(text_to_transformers(whole | beneath("model.diffusion_model.", toy.stored(toy.CONFIG))), tower)
