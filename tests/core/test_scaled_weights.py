"""Quantised weights with a scale beside each, as converters of several projects write them."""

import pytest
import torch
import toy
from safetensors.torch import save_file

from i2vgen_core.__main__ import main
from i2vgen_core.checkpoints.inspect import inspect_file
from i2vgen_core.checkpoints.load import open_base, parse_unet
from i2vgen_core.checkpoints.unet_keys import from_official, to_diffusers, to_official
from i2vgen_core.errors import CheckpointError

E4M3, E5M2 = torch.float8_e4m3fn, torch.float8_e5m2
MOST = {E4M3: 448.0, E5M2: 57344.0, torch.int8: 127.0}
ROUNDING = {E4M3: 2**-4, E5M2: 2**-3, torch.int8: 2**-3}  # of a row's norm


def quantised(state, dtype=E4M3, name="weight_scale", rows=False):
    """The linear layers' weights divided by their scales."""
    out = {}
    for key, value in state.items():
        if not key.endswith(".weight") or value.ndim != 2:
            out[key] = value
            continue
        scale = (value.abs().amax(dim=1, keepdim=True) if rows else value.abs().max()) / MOST[dtype]
        stored = value / scale
        out[key] = (stored.round() if dtype == torch.int8 else stored).to(dtype)
        out[f"{key.removesuffix('weight')}{name}"] = scale
    return out


FORMS = {
    "ComfyUI's older": ({"name": "scale_weight"}, {"scaled_fp8": torch.empty(0, dtype=E4M3)}),
    "ComfyUI's": ({}, {}),
    "ComfyUI's, of 5 bits of exponent": ({"dtype": E5M2}, {}),
    "a scale for each row": ({"rows": True}, {}),
    "whole numbers": ({"dtype": torch.int8, "rows": True}, {}),
}


@pytest.mark.parametrize("form", FORMS)
def test_weights_are_multiplied_by_their_scales(tmp_path, form):
    how, marker = FORMS[form]
    layout, prefix = (to_diffusers, "") if "rows" in how else (to_official, "model.diffusion_model.")
    state = quantised(layout(toy.whole_state(toy.CONFIG)), **how) | marker
    scaled = [key.rpartition(".")[0] for key in state if key.endswith(("weight_scale", "scale_weight"))]
    assert len(scaled) > 50
    beside = {f"{name}.comfy_quant": torch.tensor(list(b'{"format": "float8_e4m3fn"}')) for name in scaled[:3]}
    beside |= {f"{name}.input_scale": torch.ones(()) for name in scaled}
    path = tmp_path / "scaled.safetensors"
    save_file({prefix + key: value.contiguous() for key, value in (state | beside).items()}, path, {"head_dim": "8"})
    found, right = open_base(path), toy.whole_state(toy.CONFIG)
    limit = ROUNDING[how.get("dtype", E4M3)]
    for key, value in found.network.items():
        assert (value.float() - right[key]).norm() <= limit * right[key].norm(), key
    assert {value.dtype for key, value in found.network.items() if key.endswith("to_q.weight")} == {torch.float16}
    assert found.global_encoder.keys() == {"0.weight", "0.bias", "3.weight", "3.bias", "5.weight", "5.bias"}


def test_a_scale_of_two_doubles_a_weight():
    state = toy.stored(toy.CONFIG)
    key = "middle_block.1.transformer_blocks.0.attn1.to_q.weight"
    stored = state[key].to(E4M3)
    found = parse_unet(state | {key: stored, key.replace("weight", "weight_scale"): torch.tensor(2.0)}, toy.SETTINGS)
    assert torch.equal(found.network[key], 2 * stored.half())
    rest = from_official({other: value for other, value in state.items() if other != key})
    assert all(torch.equal(value, rest[other]) for other, value in found.network.items() if other != key)


KEY = "input_blocks.1.1.transformer_blocks.0.attn1.to_k"


def whole():
    return quantised(toy.stored(toy.CONFIG))


REFUSED = {
    "scales in blocks": (lambda: whole() | {f"{KEY}.weight_scale": torch.ones(4, 4)}, r"with a scale \[4, 4\]"),
    "by another name": (
        lambda: whole() | {f"{KEY}.weight_scale_inv": torch.ones(1, 1)},
        "1 scales of another kind .*weight_scale_inv",
    ),
    "one scale missing": (
        lambda: {key: value for key, value in whole().items() if key != f"{KEY}.weight_scale"},
        rf"1 weights without their scale \({KEY}.weight\)",
    ),
    "all scales missing": (
        lambda: (
            {key: value for key, value in whole().items() if not key.endswith("_scale")}
            | {"scaled_fp8": torch.empty(2, dtype=E4M3)}
        ),
        "weights without their scale",
    ),
    "no weight": (
        lambda: {key: value for key, value in whole().items() if key != f"{KEY}.weight"},
        "1 scales without their weight",
    ),
    "four bits": (lambda: whole() | {f"{KEY}.weight": torch.ones(32, 16, dtype=torch.uint8)}, "torch.uint8"),
    "an infinite scale": (lambda: whole() | {f"{KEY}.weight_scale": torch.tensor(float("inf"))}, "not finite"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_multiplied_is_refused_by_name(what):
    make, message = REFUSED[what]
    with pytest.raises(CheckpointError, match=message):
        parse_unet(make(), toy.SETTINGS)


def test_a_file_in_8_bits_without_scales_is_what_it_is():
    state = {key: value.to(E4M3) for key, value in toy.stored(toy.CONFIG).items()}
    found = parse_unet(state, toy.SETTINGS)
    assert {value.dtype for value in found.network.values()} == {E4M3}


def test_inspect_and_convert_read_scaled_files(tmp_path):
    state = quantised(toy.stored(toy.CONFIG))
    save_file(state, tmp_path / "scaled.safetensors", {"head_dim": "8"})
    assert [finding.whole for finding in inspect_file(tmp_path / "scaled.safetensors").findings] == [True]
    assert main(["convert", str(tmp_path / "scaled.safetensors"), str(tmp_path / "plain.safetensors")]) == 0
    scaled, plain = (open_base(tmp_path / f"{name}.safetensors") for name in ("scaled", "plain"))
    assert toy.same(plain.network, scaled.network)
