"""Settings that a network comes with, in its config.json or metadata."""

import json
from dataclasses import replace

import pytest
import toy
from safetensors.torch import save_file

from i2vgen_core.checkpoints.load import open_unet, parse_unet
from i2vgen_core.checkpoints.unet_keys import to_official
from i2vgen_core.errors import CheckpointError
from i2vgen_core.releases import RELEASES


def settings_of(own, kind="i2vgen_xl"):
    config = replace(toy.CONFIG, kind=kind)
    return parse_unet(to_official(toy.meta_state(config)), toy.SETTINGS | {"release": own}, kind=kind).release


@pytest.mark.parametrize("kind", toy.KINDS)
def test_without_a_word_the_settings_are_the_releases(kind):
    assert settings_of({}, kind) == RELEASES[kind]
    state = to_official(toy.meta_state(replace(toy.CONFIG, kind=kind)))
    assert parse_unet(state, toy.SETTINGS, kind=kind).release == RELEASES[kind]


def test_a_networks_own_settings_go_before_the_releases():
    base = {"title": "tiny", "width": 128, "height": 64, "frames": 8, "fps": 8, "steps": 30, "guidance": 3}
    assert settings_of(base) == replace(RELEASES["i2vgen_xl"], **base)
    refiner = {"width": 288, "height": 144, "guidance": 2.5, "rescale": 0, "noise_level": 500, "entry": "inversion"}
    refiner |= {"prompt_suffix": "", "negative_prompt": "blurry"}
    assert settings_of(refiner, "vid2vid_xl") == replace(RELEASES["vid2vid_xl"], **refiner)


def test_own_settings_come_from_config_json_or_metadata(tmp_path):
    own = {"steps": 30, "guidance": 3.0}
    expected = replace(RELEASES["i2vgen_xl"], **own)
    file = tmp_path / "unet" / "model.safetensors"
    file.parent.mkdir()
    save_file(toy.stored(toy.CONFIG), file)
    (file.parent / "config.json").write_text(json.dumps(toy.SETTINGS | {"release": own}), encoding="utf-8")
    assert open_unet(file.parent).release == expected
    save_file(toy.stored(toy.CONFIG), file, {"head_dim": "8", "release": json.dumps(own)})
    assert open_unet(file).release == expected


@pytest.mark.parametrize(
    "own, message",
    [
        ({"step": 30}, r"release setting step: expected one of title, .*steps.*, found an unknown name"),
        ({"steps": "30"}, r"release setting steps: expected a whole number from 1 to 999, found '30'"),
        ({"steps": 30.5}, "steps: expected a whole number"),
        ({"steps": True}, "steps: expected a whole number .*, found True"),
        ({"steps": 0}, "steps: expected .* from 1 to 999, found 0"),
        ({"guidance": float("nan")}, "guidance: expected a number .*, found nan"),
        ({"guidance": None}, "guidance: expected a number .*, found None"),
        ({"rescale": 2}, "rescale: expected a number from 0 to 1, found 2"),
        ({"entry": "photo"}, "entry: expected noise or inversion, found 'photo'"),
        ({"negative_prompt": 3}, "negative_prompt: expected text, found 3"),
        ([], r"release: expected an object of settings by name, found \[\]"),
        ("steps", "release: expected an object of settings by name, found 'steps'"),
        ("[" * 100_000, "release: expected an object of settings by name"),
        ("3", "release: expected an object of settings by name, found 3"),
    ],
)
def test_own_settings_that_cannot_be_are_refused(own, message):
    with pytest.raises(CheckpointError, match=message):
        settings_of(own)
