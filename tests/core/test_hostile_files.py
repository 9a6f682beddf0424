"""Damaged and hostile files: each loads strictly, with finite weights, or ends in one of our errors; nothing runs, nothing
is written, and a failed load leaves nothing behind."""

import gc
import json
import os
import pickle
import struct
import sys
from pathlib import Path

import hostile
import pytest
import torch
import toy
from hostile import refusal
from safetensors.torch import load_file, save, save_file

from i2vgen_core.cascade import Cascade
from i2vgen_core.checkpoints import clip_keys
from i2vgen_core.checkpoints.check import check_tensors, is_finite
from i2vgen_core.checkpoints.encoders import load_text_encoder, load_vae
from i2vgen_core.checkpoints.load import open_base, open_refiner, parse_unet
from i2vgen_core.checkpoints.read import read_config, read_state_dict
from i2vgen_core.errors import CheckpointError, InputError

# ---------------------------------------------------------------- many damaged files


@pytest.mark.slow
def test_mutated_files(tmp_path):
    results = list(hostile.run(tmp_path, 96, seed=2))
    assert [result for result in results if isinstance(result, str)] == []
    kinds = {taken for _, taken, _ in results}
    assert None in kinds and len(kinds) > 3, "all refused: the files are too damaged to show anything"


@pytest.mark.parametrize("source", hostile.SOURCES)
@pytest.mark.slow
def test_a_whole_file_loads_with_its_own_loader_and_with_no_other(tmp_path, source):
    _, suffix, _, own, kind = hostile.SOURCES[source]
    path = tmp_path / f"model{suffix}"
    path.write_bytes(hostile.whole(source))
    for loader in hostile.LOADERS:
        taken, _ = hostile.attempt(loader, path)
        if {loader, own} <= {"text", "vision"}:
            assert taken == loader
        else:
            assert taken == (kind if loader == own else None)


def test_the_watch_sees_what_it_is_for(tmp_path):
    with pytest.raises(AssertionError, match=r"os\.system"), hostile.watched():
        os.system("true")
    with pytest.raises(AssertionError, match="open"), hostile.watched():
        (tmp_path / "new").write_text("x")
    (tmp_path / "model.pth").write_bytes(pickle.dumps(print))
    with pytest.raises(AssertionError, match=r"pickle\.find_class"), hostile.watched():
        pickle.loads((tmp_path / "model.pth").read_bytes())
    with hostile.watched():
        (tmp_path / "new").read_text()


# ---------------------------------------------------------------- weights


def spoilt(value, at, number):
    flat = value.clone().reshape(-1)
    flat.view(torch.uint8)[at * flat.element_size() : (at + 1) * flat.element_size()] = torch.tensor(
        list(torch.tensor([number]).to(value.dtype).view(torch.uint8))
    )
    return flat.reshape(value.shape)


FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e5m2)
NOT_FINITE = [(dtype, number) for dtype in FLOATS for number in (float("nan"), float("inf"), -float("inf"))]
NOT_FINITE += [(torch.float8_e4m3fn, float("nan"))]  # which has no infinities


@pytest.mark.parametrize(("dtype", "number"), NOT_FINITE, ids=str)
def test_what_is_no_finite_number_is_found_wherever_it_is(dtype, number):
    for size in (1, 7, 64, 1000, 2**20 + 3):
        value = torch.zeros(size).to(dtype)
        assert is_finite(value)
        for at in {0, size // 2, size - 1}:
            assert not is_finite(spoilt(value, at, number))


def test_the_largest_numbers_are_finite():
    for dtype in (torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2):
        most = torch.finfo(dtype).max
        assert is_finite(torch.tensor([most, -most, 0.0]).to(dtype))


@pytest.mark.parametrize("source", hostile.SOURCES)
@pytest.mark.slow
def test_weights_that_are_not_finite_are_refused_by_every_loader(tmp_path, source):
    _, suffix, write, loader, _ = hostile.SOURCES[source]
    state = hostile.layout(source)
    tower = {"text": clip_keys.text_tower, "vision": clip_keys.vision_tower}.get(loader, dict)(state)
    key = list(tower)[len(tower) // 2]
    path = tmp_path / f"model{suffix}"
    path.write_bytes(write(state | {key: spoilt(state[key], -1 + state[key].numel(), float("nan"))}))
    assert "expected finite weights, found 1 not finite" in refusal(path, hostile.LOADERS[loader])


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.bool, torch.complex64], ids=str)
def test_weights_of_another_type_are_refused(dtype):
    state = toy.stored(toy.CONFIG)
    with pytest.raises(CheckpointError, match=r"1 of a wrong type \(out\.2\.bias torch\."):
        parse_unet(state | {"out.2.bias": state["out.2.bias"].to(dtype)}, toy.SETTINGS)


def test_names_from_a_file_are_shown_without_control_characters():
    with pytest.raises(CheckpointError) as caught:
        check_tensors({"\x1b[2J": torch.ones(1), "a" * 10**6: torch.ones(1)}, {}, "it")
    assert "'\\x1b[2J'" in str(caught.value) and len(str(caught.value)) < 500


# ---------------------------------------------------------------- safetensors


def safetensors_file(header, data=b"\0" * 16):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def entry(start, end, shape=(4,), dtype="F32"):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}


HEADERS = {
    "beyond the end": safetensors_file({"a": entry(0, 32, (8,))}),
    "over each other": safetensors_file({"a": entry(0, 16), "b": entry(0, 16)}),
    "backwards": safetensors_file({"a": entry(16, 0)}),
    "negative": safetensors_file({"a": entry(-16, 0)}),
    "with a gap": safetensors_file({"a": entry(8, 16, (2,))}),
    "less than the shape": safetensors_file({"a": entry(0, 16, (400,))}),
    "an overflow": safetensors_file({"a": entry(0, 16, (2**62, 4, 2**62))}),
    "a negative shape": safetensors_file({"a": entry(0, 16, (-4,))}),
    "a name twice": safetensors_file(b'{"a":%s,"a":%s}' % ((json.dumps(entry(0, 16)).encode(),) * 2), b"\0" * 32),
    "another type": safetensors_file({"a": entry(0, 16, dtype="X9")}),
    "no object": safetensors_file(b"[1, 2]"),
    "nested a million deep": safetensors_file(b'{"a":' + b"[" * 10**6),
    "longer than the file": struct.pack("<Q", 2**20) + b"{}",
    "larger than any": struct.pack("<Q", 2**63) + b"{}",
    "of 50 MB": struct.pack("<Q", 50 * 2**20) + b"{}" + b" " * (50 * 2**20 - 2),
    "not text": safetensors_file(b"\xff\xfe" * 20),
}


@pytest.mark.parametrize("what", HEADERS)
def test_a_header_that_lies(tmp_path, what):
    (tmp_path / "model.safetensors").write_bytes(HEADERS[what])
    assert "expected a safetensors file" in refusal(tmp_path / "model.safetensors")


# ---------------------------------------------------------------- names and folders


def test_links_and_folders_in_the_place_of_files(tmp_path):
    inside, outside = tmp_path / "models", tmp_path / "outside"
    inside.mkdir()
    outside.mkdir()
    (outside / "secret.safetensors").write_text("root:x:0:0")
    for name, target in (
        ("text.safetensors", outside / "secret.safetensors"),
        ("device.safetensors", "/dev/zero"),
        ("loop.safetensors", "loop.safetensors"),
        ("gone.safetensors", "nothing"),
        ("outside.safetensors", outside),
    ):
        (inside / name).symlink_to(target)
    (inside / "folder.safetensors").mkdir()
    os.mkfifo(inside / "pipe.safetensors")
    for path in inside.iterdir():
        assert "root:x" not in refusal(path)
    for name in ("a" * 5000, "nul\0.safetensors", "\n.safetensors"):
        refusal(inside / name)


def test_a_link_to_a_whole_model_loads(tmp_path):
    """As the download cache of Hugging Face has them."""
    save_file({"a": torch.ones(2)}, tmp_path / "0123abcd")
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet" / "model.safetensors").symlink_to(tmp_path / "0123abcd")
    assert list(read_state_dict(tmp_path / "unet")[0]) == ["a"]


@pytest.mark.parametrize(
    "weight_map",
    [
        {"a": "../secret.safetensors"},
        {"a": "/etc/passwd"},
        {"a": "x" * 5000 + ".safetensors"},
        {"a": "\0.safetensors"},
        {"a": "folder.safetensors"},
        {"a": "model.safetensors.index.json"},
        {"a": "\x1b[2J"},
    ],
    ids=lambda value: repr(value)[:40],
)
def test_an_index_of_files_that_cannot_be(tmp_path, weight_map):
    (tmp_path / "folder.safetensors").mkdir()
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    refusal(tmp_path)


def test_an_index_with_a_tensor_in_two_files(tmp_path):
    for name in ("1.safetensors", "2.safetensors"):
        save_file({"a": torch.ones(2)}, tmp_path / name)
    (tmp_path / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"a": "1.safetensors", "b": "2.safetensors"}})
    )
    assert "expected each tensor in one file, found a in two" in refusal(tmp_path)


JSON = {
    "deep": b"[" * 10**6,
    "long": b" " * (2**22 + 1),
    "no text": b"\xff",
    "a long number": b'{"a": ' + b"9" * 5000 + b"}",
}


@pytest.mark.parametrize("what", JSON)
def test_json_that_overloads_its_reader(tmp_path, what):
    (tmp_path / "config.json").write_bytes(JSON[what])
    refusal(tmp_path, read_config)


# ---------------------------------------------------------------- sizes and settings that cannot be


def unet_with(name, shape=(64, 64)):
    return toy.stored(toy.CONFIG) | {name: torch.zeros(shape)}


SIZES = {
    "a number of blocks without end": {"input_blocks.999999999.0.weight": (1,)},
    "a number too long to read": {f"input_blocks.{'9' * 5000}.0.weight": (1,)},
    "a hundred blocks": {f"input_blocks.{n}.0.weight": (1,) for n in range(100)},
    "a million channels": {"time_embed.0.weight": (1, 10**6)},
    "no channels": {"time_embed.0.weight": (0, 10**12)},
    "a number": {"input_blocks.0.1.proj_in.weight": ()},
    "twenty thousand tensors": {f"x{n}": (1,) for n in range(20_000)},
}


@pytest.mark.parametrize("what", SIZES)
def test_a_network_of(what):
    state = toy.stored(toy.CONFIG) | {key: torch.zeros(shape) for key, shape in SIZES[what].items()}
    refusal(state, lambda state: parse_unet(state, toy.SETTINGS))


def test_prefixes_without_end():
    refusal({"module." * 10**5 + str(n): torch.zeros(1) for n in range(3)}, parse_unet)


@pytest.mark.parametrize("count", [70, 3000])
def test_encoders_of_too_many_blocks(count):
    text = {f"transformer.resblocks.{n}.ln_1.weight": torch.zeros(1) for n in range(count)}
    refusal(dict(hostile.tensors("clip")) | text, load_text_encoder)
    vae = {f"decoder.up.{n}.block.0.conv1.weight": torch.zeros(1, 1, 1, 1) for n in range(count)}
    refusal(dict(hostile.tensors("vae")) | vae, load_vae)


@pytest.mark.parametrize(
    ("loader", "settings"),
    [
        (load_text_encoder, {"hidden_act": "nothing"}),
        (load_text_encoder, {"hidden_act": ["gelu"]}),
        (load_text_encoder, {"layer_norm_eps": "x"}),
        (load_text_encoder, {"layer_norm_eps": float("nan")}),
        (load_text_encoder, {"num_attention_heads": -1}),
        (load_text_encoder, {"num_attention_heads": 10**9}),
        (load_text_encoder, {"text_head_dim": "9" * 5000}),
        (load_text_encoder, {"i2vgen_skip_last": 1.5}),
        (load_vae, {"norm_num_groups": 0}),
        (load_vae, {"norm_num_groups": 7}),
        (load_vae, {"norm_num_groups": "x"}),
        (load_vae, {"norm_num_groups": [32]}),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)[:40]),
)
def test_settings_that_cannot_be(loader, settings):
    refusal(hostile.tensors("vae" if loader is load_vae else "clip"), lambda state: loader(state, settings=settings))


def test_a_head_dimension_that_is_no_number():
    refusal(toy.stored(toy.CONFIG), lambda state: parse_unet(state, {"head_dim": "9" * 5000}))


# ---------------------------------------------------------------- a failed load leaves nothing behind


def tensor_bytes():
    gc.collect()
    return sum(value.untyped_storage().nbytes() for value in gc.get_objects() if type(value) is torch.Tensor)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.slow
def test_a_failed_load_leaves_the_earlier_model_and_no_memory(tmp_path, suffix):
    good, bad = tmp_path / f"good{suffix}", tmp_path / f"bad{suffix}"
    state = dict(hostile.tensors("vid2vid_xl"))
    for path, spoil in ((good, state["out.2.bias"]), (bad, torch.full_like(state["out.2.bias"], float("nan")))):
        content = state | {"out.2.bias": spoil}
        path.write_bytes(hostile.zipped({"state_dict": content}) if suffix == ".pth" else save(content))
    model = open_refiner(good).build_network()
    inputs = toy.inputs(model.config)
    with torch.no_grad():
        expected = model(**inputs)
    before = tensor_bytes()
    for _ in range(2):
        with pytest.raises(CheckpointError):
            open_refiner(bad)
        with pytest.raises(CheckpointError):
            open_base(good)
    assert tensor_bytes() <= before
    if sys.platform == "linux":
        assert str(bad) not in Path("/proc/self/maps").read_text()
    with torch.no_grad():
        assert torch.equal(model(**inputs), expected)


def test_a_cascade_goes_on_after_a_part_that_could_not_be_loaded(tmp_path, bundles):
    """The refiner is damaged: an error says so, and the base that was loaded before gives what it gave."""
    folder = tmp_path / "bundle"
    folder.mkdir()
    for part in bundles().iterdir():
        if part.name != "refiner":
            (folder / part.name).symlink_to(part)
    refiner = folder / "refiner"
    refiner.mkdir()
    (refiner / "config.json").symlink_to(bundles() / "refiner" / "config.json")
    file = refiner / "diffusion_pytorch_model.safetensors"
    weights = load_file(bundles() / "refiner" / file.name)
    save_file(weights | {"out.2.bias": weights["out.2.bias"] * float("nan")}, file)
    cascade = Cascade(folder, device="cpu")
    before = cascade.base.release
    with pytest.raises(InputError, match="finite"):
        _ = cascade.refiner.release
    assert cascade.base.release == before
    save_file(weights, file)
    assert cascade.refiner.release.title
