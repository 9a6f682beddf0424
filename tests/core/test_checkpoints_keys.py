"""Names and shapes: the releases', both layouts, and that every key table is its own inverse."""

import json
from dataclasses import replace

import pytest
import torch
import toy
from diffusers import I2VGenXLUNet

from i2vgen_core.checkpoints.detect import unet_config
from i2vgen_core.checkpoints.load import parse_unet
from i2vgen_core.checkpoints.unet_keys import (
    from_diffusers,
    from_official,
    is_diffusers_layout,
    to_diffusers,
    to_official,
)
from i2vgen_core.config import UNetConfig

RELEASED = json.loads((toy.GOLDEN / "state_dict_keys.json").read_text(encoding="utf-8"))

TOYS = [
    toy.CONFIG,
    replace(toy.CONFIG, channel_mult=(1, 2, 4), attention_levels=(True, False, True)),
    replace(toy.CONFIG, channel_mult=(2, 4, 2, 8), attention_levels=(False, True, True, False)),
    replace(toy.CONFIG, attention_levels=(False, False), num_res_blocks=3),
    replace(toy.CONFIG, attention_levels=(True, True), model_channels=64, head_dim=16, first_temporal_heads=5),
    replace(toy.CONFIG, channel_mult=(1, 1, 3), attention_levels=(True, True, False), num_res_blocks=3, head_dim=32),
    replace(toy.CONFIG, in_channels=8, out_channels=6, context_dim=40, image_dim=24, image_tokens=3),
]


MANY = [(config, "i2vgen_xl") for config in TOYS] + [(config, kind) for kind in toy.KINDS[1:] for config in TOYS[:2]]


# ---------------------------------------------------------------- the releases' keys and shapes


@pytest.mark.parametrize("kind", toy.KINDS)
def test_full_size_has_the_releases_keys_and_shapes(kind):
    state = to_official(toy.meta_state(UNetConfig(kind=kind)))
    assert {key: list(value.shape) for key, value in state.items()} == RELEASED[kind]


@pytest.mark.parametrize("kind", toy.KINDS)
def test_full_size_is_read_from_the_releases_shapes(kind):
    state = {key: torch.empty(shape, device="meta") for key, shape in RELEASED[kind].items()}
    assert unet_config(from_official(state), kind=kind) == UNetConfig(kind=kind)
    known = None if kind == "sr600" else kind
    assert parse_unet(state).config.kind == (known or "vid2vid_xl")


@pytest.mark.parametrize("config, kind", MANY, ids=[f"{kind}-{TOYS.index(config)}" for config, kind in MANY])
def test_a_config_round_trips_through_its_state_dict(config, kind):
    config = replace(config, kind=kind)
    if not config.reads_image:  # a refiner has no image sizes to read
        config = replace(config, image_dim=UNetConfig.image_dim, image_tokens=UNetConfig.image_tokens)
    ours = toy.meta_state(config)
    for layout in (to_official, to_diffusers):
        assert parse_unet(layout(ours), {"head_dim": config.head_dim}, kind=kind).config == config


# ---------------------------------------------------------------- key tables


@pytest.mark.parametrize("config, kind", MANY, ids=[f"{kind}-{TOYS.index(config)}" for config, kind in MANY])
def test_key_tables_are_their_own_inverse(config, kind):
    shapes = toy.meta_state(replace(config, kind=kind))
    ours = {key: torch.rand(()).expand(value.shape) for key, value in shapes.items()}
    official, diffusers = to_official(ours), to_diffusers(ours)
    assert not is_diffusers_layout(official) and is_diffusers_layout(diffusers)
    assert toy.same(from_official(official), ours)
    assert toy.same(from_diffusers(diffusers), ours)
    assert toy.same(to_official(from_official(official)), official)
    assert toy.same(to_diffusers(from_diffusers(diffusers)), diffusers)


def test_key_tables_leave_their_argument_alone():
    for state, translate in (
        (toy.stored(toy.CONFIG), from_official),
        (to_diffusers(toy.whole_state(toy.CONFIG)), from_diffusers),
    ):
        before = dict(state)
        translate(state)
        assert list(state) == list(before)


PEERS = {
    "released": (UNetConfig(), {"cross_attention_dim": 1024}),
    "no attention between": (
        replace(
            toy.CONFIG,
            channel_mult=(1, 2, 4),
            attention_levels=(True, False, True),
            first_temporal_heads=8,
            image_dim=64,
        ),
        {
            "block_out_channels": (32, 64, 128),
            "attention_head_dim": 8,
            "cross_attention_dim": 64,
            "layers_per_block": 1,
            "down_block_types": ("CrossAttnDownBlock3D", "DownBlock3D", "CrossAttnDownBlock3D"),
            "up_block_types": ("CrossAttnUpBlock3D", "UpBlock3D", "CrossAttnUpBlock3D"),
        },
    ),
    "three blocks": toy.PEER,
}


@pytest.mark.parametrize("config, theirs", PEERS.values(), ids=PEERS)
def test_names_and_shapes_are_those_of_diffusers(config, theirs):
    with torch.device("meta"):
        peer = I2VGenXLUNet(**theirs)
    expected = {key: value.shape for key, value in peer.state_dict().items()}
    assert {key: value.shape for key, value in to_diffusers(toy.meta_state(config)).items()} == expected
    assert parse_unet(peer.state_dict(), peer.config).config == config
