"""Networks of the same family that are not built in: refused by name, or what was assumed of them is said."""

import json
import logging
from dataclasses import replace

import pytest
import torch
import toy
from safetensors.torch import save_file

from i2vgen_core.__main__ import main
from i2vgen_core.checkpoints.load import open_refiner, parse_unet
from i2vgen_core.checkpoints.unet_keys import to_diffusers, to_official
from i2vgen_core.errors import CheckpointError

RELEASED = json.loads((toy.GOLDEN / "state_dict_keys.json").read_text(encoding="utf-8"))
REFINER = replace(toy.CONFIG, kind="vid2vid_xl")


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("base", ["vid2vid_xl", "image2video"])
def test_a_network_that_reads_something_else_beside_the_noise_is_refused(base, prefix):
    shapes = RELEASED[base] | {"input_blocks.0.0.weight": [320, 9, 3, 3]}
    state = {prefix + key: torch.empty(shape, device="meta") for key, shape in shapes.items()}
    for kind in (None, base):
        with pytest.raises(CheckpointError, match="a network of 9 input channels: 4 of the noise and 5 of conditions"):
            parse_unet(state, kind=kind)


def test_inspect_says_why(tmp_path, capsys):
    state = toy.stored(REFINER)
    state["input_blocks.0.0.weight"] = torch.zeros(32, 9, 3, 3)
    save_file(state, tmp_path / "t2v.safetensors", {"head_dim": "8"})
    assert main(["inspect", str(tmp_path / "t2v.safetensors")]) == 1
    assert "a network of 9 input channels" in capsys.readouterr().out


@pytest.mark.parametrize("layout", [to_official, to_diffusers], ids=["VGen", "diffusers' UNet3DConditionModel"])
def test_what_has_the_second_stages_shapes_is_said_to_be_assumed(tmp_path, caplog, layout):
    """VGen's and ModelScope's text-to-video networks have its names and shapes, all of them."""
    state = {key: value.contiguous() for key, value in layout(toy.whole_state(REFINER)).items()}
    save_file(state, tmp_path / "model_scope_v1-4_0600000.safetensors", {"head_dim": "8"})
    with caplog.at_level(logging.WARNING, logger="i2vgen_xl"):
        opened = open_refiner(tmp_path / "model_scope_v1-4_0600000.safetensors")
    assert opened.config.kind == "vid2vid_xl"
    (record,) = caplog.records
    for said in (
        "model_scope_v1-4_0600000.safetensors",
        "text-to-video networks of VGen and ModelScope",
        "shapes cannot tell",
        "vid2vid_xl is assumed",
        "--refiner",
        "variant",
    ):
        assert said in record.getMessage()


@pytest.mark.parametrize("said", ["by the caller", "by the file"])
def test_what_is_said_to_be_a_refiner_is_taken_without_a_word(tmp_path, caplog, said):
    metadata = {"head_dim": "8"} | ({"kind": "sr600"} if said == "by the file" else {})
    save_file(toy.stored(REFINER), tmp_path / "a.safetensors", metadata)
    opened = open_refiner(tmp_path / "a.safetensors", "sr600" if said == "by the caller" else None)
    assert opened.config.kind == "sr600" and not caplog.records
