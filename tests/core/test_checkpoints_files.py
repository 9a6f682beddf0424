"""Files and folders of networks: what is around the tensors, and what their shapes do not say."""

import json
from dataclasses import replace

import pytest
import torch
import toy
from diffusers import I2VGenXLUNet
from safetensors.torch import load_file, save_file

from i2vgen_core.checkpoints.detect import split_global_encoder
from i2vgen_core.checkpoints.load import open_unet, parse_unet
from i2vgen_core.checkpoints.read import read_state_dict
from i2vgen_core.checkpoints.unet_keys import from_diffusers, from_official, to_diffusers, to_official
from i2vgen_core.errors import CheckpointError


def open_and_compare(path, config=toy.CONFIG, state=None, **known):
    """Opens a file or folder and compares it with toy.stored(config), or with the state given."""
    checkpoint = open_unet(path, **known)
    network, encoder = split_global_encoder(from_official(state or toy.stored(config)))
    assert checkpoint.config == config
    assert toy.same(checkpoint.network, network)
    assert toy.same(checkpoint.global_encoder, encoder)
    return checkpoint


# a .pth file says nothing of heads, so its network has the releases' 64
WIDE = replace(toy.CONFIG, model_channels=64, head_dim=64)


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".bin", ".ckpt"])
def test_a_pickled_file_by_any_suffix(tmp_path, suffix):
    path, state = (
        tmp_path / f"any name{suffix}",
        {"weight": torch.randn(3, 4), "count": torch.ones((), dtype=torch.int64)},
    )
    torch.save(state, path)
    read, metadata = read_state_dict(path)
    assert toy.same(read, state) and metadata == {}


@pytest.mark.parametrize(
    "wrap",
    [
        pytest.param(lambda state: state, id="nothing"),
        pytest.param(lambda state: {"state_dict": state, "step": 854500}, id="VGen"),
        pytest.param(lambda state: {"step": 1, "state_dict": {"state_dict": state}}, id="twice"),
        pytest.param(lambda state: {f"module.{key}": value for key, value in state.items()}, id="module."),
        pytest.param(
            lambda state: {"state_dict": {f"model.diffusion_model.{key}": value for key, value in state.items()}},
            id="model.diffusion_model.",
        ),
        pytest.param(
            lambda state: {f"module.model.diffusion_model.{key}": value for key, value in state.items()}, id="both"
        ),
        pytest.param(
            lambda state: (
                {f"model.diffusion_model.{key}": value for key, value in state.items()}
                | {"first_stage_model.encoder.conv_in.weight": torch.ones(2)}
            ),
            id="beside another model",
        ),
    ],
)
def test_what_is_around_the_tensors_of_a_pickled_file(tmp_path, wrap):
    torch.save(wrap(toy.stored(WIDE)), tmp_path / "model.pth")
    open_and_compare(tmp_path / "model.pth", WIDE)


def test_a_pickled_file_of_before_torch_1_6(tmp_path):
    path = tmp_path / "old.ckpt"
    torch.save({"state_dict": toy.stored(WIDE)}, path, _use_new_zipfile_serialization=False)
    open_and_compare(path, WIDE)


@pytest.mark.parametrize("layout", [to_official, to_diffusers])
@pytest.mark.parametrize("suffix", [".safetensors", ".sft"])
def test_a_safetensors_file(tmp_path, suffix, layout):
    path = tmp_path / f"any name{suffix}"
    save_file(
        {key: value.contiguous() for key, value in layout(toy.whole_state(toy.CONFIG)).items()}, path, {"head_dim": "8"}
    )
    open_and_compare(path)


def test_half_precision_is_kept_and_built_in_what_is_asked_for(tmp_path):
    path = tmp_path / "half.safetensors"
    state = {key: value.half() for key, value in toy.stored(toy.CONFIG).items()}
    save_file(state, path, {"head_dim": "8"})
    checkpoint = open_and_compare(path, state=state)
    for dtype in (torch.float16, torch.float32, torch.bfloat16):
        for built in (checkpoint.build_network(dtype), checkpoint.build_global_encoder(dtype)):
            assert {value.dtype for value in built.state_dict().values()} == {dtype}
            assert not built.training
            assert not any(parameter.requires_grad for parameter in built.parameters())


@pytest.fixture(scope="module")
def peer():
    """A small I2VGenXLUNet of diffusers with made-up weights."""
    with torch.device("meta"):
        theirs = I2VGenXLUNet(**toy.PEER[1])
    theirs.load_state_dict(toy.fill(theirs.state_dict()), strict=True, assign=True)
    return theirs


@pytest.mark.parametrize(
    "options, files",
    [
        pytest.param({}, {"diffusion_pytorch_model.safetensors"}, id="one file"),
        pytest.param({"variant": "fp16"}, {"diffusion_pytorch_model.fp16.safetensors"}, id="variant"),
        pytest.param({"safe_serialization": False}, {"diffusion_pytorch_model.bin"}, id="pickled"),
        pytest.param({"max_shard_size": "4MB"}, {"diffusion_pytorch_model.safetensors.index.json"}, id="shards"),
        pytest.param(
            {"max_shard_size": "4MB", "variant": "fp16"},
            {"diffusion_pytorch_model.safetensors.index.fp16.json"},
            id="shards of a variant",
        ),
    ],
)
def test_a_folder_that_diffusers_saved(tmp_path, peer, options, files):
    peer.save_pretrained(tmp_path, **options)
    assert files <= {file.name for file in tmp_path.iterdir()}
    if "max_shard_size" in options:
        assert len(list(tmp_path.glob("*-of-*.safetensors"))) > 1
    open_and_compare(tmp_path, toy.PEER[0], to_official(from_diffusers(peer.state_dict())))


def test_diffusers_loads_the_scaffolds_folder(bundles):
    folder = bundles("i2vgen_xl") / "unet"
    theirs, info = I2VGenXLUNet.from_pretrained(folder, output_loading_info=True, low_cpu_mem_usage=False)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    assert toy.same(dict(theirs.state_dict()), load_file(folder / "diffusion_pytorch_model.safetensors"))


# ---------------------------------------------------------------- what the shapes do not say


def test_head_dim_comes_from_config_json_or_metadata(tmp_path):
    config = replace(toy.CONFIG, head_dim=16, first_temporal_heads=1)
    for name, settings in (("a", {"head_dim": 16}), ("b", {"attention_head_dim": 16})):
        folder = tmp_path / name
        folder.mkdir()
        save_file(toy.stored(config), folder / "model.safetensors")
        (folder / "config.json").write_text(json.dumps(settings), encoding="utf-8")
        open_and_compare(folder, config)
    narrow = open_and_compare(tmp_path / "a", config).build_network()
    wide = replace(config, head_dim=8, first_temporal_heads=2)
    made = toy.inputs(config)
    other = parse_unet(toy.stored(config), {"head_dim": 8})
    assert other.config == wide
    with torch.no_grad():
        assert toy.error(other.build_network()(**made), narrow(**made)) > 1e-3


def test_without_a_word_heads_are_the_releases():
    assert parse_unet(toy.stored(WIDE)).config.head_dim == 64


def test_heads_wider_than_the_network_are_refused():
    with pytest.raises(
        CheckpointError, match="expected channels that are multiples of the head dimension 64, found 16, 3"
    ):
        parse_unet(toy.stored(toy.CONFIG))


@pytest.mark.parametrize("said_by", ["nobody", "argument", "config.json", "metadata", "argument over config.json"])
def test_which_refiner_it_is(tmp_path, said_by):
    config = replace(toy.CONFIG, kind="sr600", image_dim=1024)
    metadata = {"head_dim": "8"} | ({"kind": "sr600"} if said_by == "metadata" else {})
    save_file(toy.stored(config), tmp_path / "model.safetensors", metadata)
    said = {"config.json": "sr600", "argument over config.json": "vid2vid_xl"}.get(said_by)
    if said:
        (tmp_path / "config.json").write_text(json.dumps({"kind": said}), encoding="utf-8")
    known = {"kind": "sr600"} if said_by.startswith("argument") else {}
    expected = "vid2vid_xl" if said_by == "nobody" else "sr600"
    open_and_compare(tmp_path, replace(config, kind=expected), **known)


@pytest.mark.parametrize("kind", toy.KINDS)
@pytest.mark.parametrize("other", toy.KINDS)
def test_another_kind_than_asked_for_is_refused(kind, other):
    state = to_official(toy.meta_state(replace(toy.CONFIG, kind=kind)))
    if kind == other or {kind, other} == {"vid2vid_xl", "sr600"}:
        assert parse_unet(state, toy.SETTINGS, kind=other).config.kind == other
        return
    with pytest.raises(CheckpointError, match=f"expected a network of kind {other}, found one of kind "):
        parse_unet(state, toy.SETTINGS, kind=other)


def test_detail_gain_is_the_callers(tmp_path):
    save_file(toy.stored(toy.CONFIG), tmp_path / "model.safetensors", {"head_dim": "8"})
    assert open_unet(tmp_path).config.detail_gain == "official"
    assert open_unet(tmp_path, detail_gain="once").config.detail_gain == "once"
