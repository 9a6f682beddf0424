"""GGUF files of the UNets: what the package gguf writes, what ComfyUI's converters write, and damaged ones."""

import struct
from dataclasses import replace

import numpy as np
import pytest
import torch
import toy
from released import write_gguf as write
from safetensors.torch import load_file

from i2vgen_core.__main__ import main
from i2vgen_core.checkpoints import gguf as module
from i2vgen_core.checkpoints.gguf import read_gguf, read_gguf_header
from i2vgen_core.checkpoints.load import open_base, open_refiner, open_unet
from i2vgen_core.checkpoints.unet_keys import to_diffusers, to_official
from i2vgen_core.errors import CheckpointError

gguf = pytest.importorskip("gguf")
QUANTS = gguf.GGMLQuantizationType
WIDE = replace(toy.CONFIG, model_channels=64, head_dim=64)
REFINER = replace(WIDE, kind="vid2vid_xl", image_dim=1024)

LIMITS = {"Q8_0": 0.01, "Q5_0": 0.08, "Q5_1": 0.06, "Q4_0": 0.15, "Q4_1": 0.12}
"""Largest error of a weight of each type, in units of the largest of its tensor."""


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    return write(tmp_path_factory.mktemp("gguf") / "base.gguf", to_official(toy.whole_state(WIDE)))


@pytest.mark.parametrize("rearranged", [True, False])
@pytest.mark.parametrize("name", LIMITS)
def test_every_weight_is_near_the_one_that_was_quantised(tmp_path, name, rearranged):
    state = {
        "matrix": torch.randn(64, 96),
        "conv": torch.randn(64, 32, 3, 3),
        "time": torch.randn(64, 64, 3, 1, 1),
        "vector": torch.randn(7),
        "small": torch.randn(3, 5),
    }
    path = write(tmp_path / "some.gguf", state, name, {"kind": "sr600"}, rearranged)
    read, metadata = read_gguf(path)
    assert metadata["kind"] == "sr600"
    assert read.keys() == state.keys()
    types = {key: tensor.type_name for key, tensor in read_gguf_header(path)[0].items()}
    assert types["matrix"] == name and types["conv"] == types["time"] == (name if rearranged else "F16")
    for key, value in state.items():
        assert read[key].dtype == (torch.float32 if key == "vector" else torch.float16)
        limit = {"vector": 0, "small": 1e-3}.get(key, LIMITS[name] if types[key] == name else 1e-3)
        assert toy.error(read[key].float(), value) <= limit, key
    if name == "Q8_0":
        reader = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
        theirs = gguf.quants.dequantize(reader["matrix"].data, QUANTS.Q8_0)
        assert torch.equal(read["matrix"], torch.from_numpy(theirs).half())


@pytest.mark.parametrize("name", ["Q4_K", "Q5_K", "Q6_K"])
def test_types_that_only_llama_cpp_writes(tmp_path, name):
    """Of any bytes but for the scales, which are half-precision numbers; compared with the package's own reading."""
    block, size = gguf.GGML_QUANT_SIZES[QUANTS[name]]
    raw = np.random.default_rng(0).integers(0, 256, (8, 2, size), dtype=np.uint8)
    scales = np.frombuffer(np.array([0.01, 0.02], np.float16).tobytes(), np.uint8)
    raw[..., slice(0, 4) if name != "Q6_K" else slice(-2, None)] = scales if name != "Q6_K" else scales[:2]
    raw = raw.reshape(8, 2 * size)
    writer = gguf.GGUFWriter(tmp_path / "k.gguf", "i2vgen")
    writer.add_tensor("a", raw, raw_dtype=QUANTS[name])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    read, _ = read_gguf(tmp_path / "k.gguf")
    assert read["a"].shape == (8, 2 * block) and read["a"].isfinite().all()
    assert torch.equal(read["a"], torch.from_numpy(gguf.quants.dequantize(raw, QUANTS[name])).half())


@pytest.mark.parametrize("layout", [to_official, to_diffusers])
@pytest.mark.parametrize("name", ["Q8_0", "Q5_0", "Q4_0"])
@pytest.mark.slow
def test_a_base_loads_and_runs(tmp_path, name, layout):
    checkpoint = open_base(write(tmp_path / "base.gguf", layout(toy.whole_state(WIDE)), name))
    assert checkpoint.config == WIDE
    exact, made = toy.network(WIDE), toy.inputs(WIDE)
    exact.load_state_dict({key: toy.whole_state(WIDE)[key] for key in exact.state_dict()})
    with torch.no_grad():
        error = toy.error(checkpoint.build_network(torch.float32)(**made), exact(**made))
    assert 1e-5 < error < {"Q8_0": 0.05, "Q5_0": 0.3, "Q4_0": 0.6}[name]
    encoder = checkpoint.build_global_encoder(torch.float32)
    assert encoder is not None and encoder(torch.randn(1, 4, 8, 8)).isfinite().all()


@pytest.mark.parametrize("kind", ["vid2vid_xl", "sr600"])
def test_a_refiner_loads_and_metadata_says_which(tmp_path, kind):
    path = write(tmp_path / "refiner.gguf", to_official(toy.whole_state(REFINER)), metadata={"kind": kind})
    assert open_refiner(path).config == replace(REFINER, kind=kind)
    with pytest.raises(CheckpointError, match="expected a base network, found a refiner"):
        open_base(path)


def test_heads_are_read_from_metadata(tmp_path):
    path = write(tmp_path / "base.gguf", to_official(toy.whole_state(toy.CONFIG)), metadata={"head_dim": "8"})
    assert open_unet(path).config == toy.CONFIG


def test_it_becomes_a_safetensors_file(stored, tmp_path):
    assert main(["convert", str(stored), str(tmp_path / "out.safetensors")]) == 0
    written, read = load_file(tmp_path / "out.safetensors"), read_gguf(stored)[0]
    assert written.keys() == read.keys() and all(torch.equal(written[key], read[key]) for key in read)
    assert open_base(tmp_path / "out.safetensors").config == WIDE


def test_without_the_package_the_error_says_how_to_get_it(stored, monkeypatch):
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(CheckpointError, match=r"expected the package gguf.* Install it .*pip install gguf"):
        open_unet(stored)


# ---------------------------------------------------------------- damaged and hostile files


def refusal(path):
    with pytest.raises(CheckpointError) as caught:
        read_gguf(path)
    assert "expected a whole GGUF file" in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("share", [0.0, 0.00001, 0.001, 0.01, 0.5, 0.999])
def test_a_file_cut_short_is_refused(stored, tmp_path, share):
    whole = stored.read_bytes()
    (tmp_path / "cut.gguf").write_bytes(whole[: int(len(whole) * share)])
    refusal(tmp_path / "cut.gguf")


def text(value):
    return struct.pack("<Q", len(value)) + value


def tensor(name=b"a", axes=(32,), kind=0, offset=0):
    return text(name) + struct.pack(f"<I{len(axes)}QIQ", len(axes), *axes, kind, offset)


def file(*parts, tensors=0, values=0, version=3, size=4096):
    head = b"GGUF" + struct.pack("<IQQ", version, tensors, values) + b"".join(parts)
    return head + bytes(size)


LARGE = 2**62
HOSTILE = {
    "another format": (b"PK\x03\x04" + bytes(100), "PK"),
    "a future version": (file(version=4), "version 4"),
    "endless values": (file(values=LARGE, size=0), "a header that ends"),
    "endless tensors": (file(tensors=LARGE, size=0), "a header that ends"),
    "an endless array": (file(text(b"k"), struct.pack("<IIQ", 9, 4, LARGE), values=1), "a header that ends"),
    "an endless array of text": (file(text(b"k"), struct.pack("<IIQ", 9, 8, LARGE), values=1), "a value of type|ends"),
    "arrays in arrays": (file(text(b"k"), struct.pack("<IIQ", 9, 9, 2), values=1), "a value of type 9"),
    "an unknown value": (file(text(b"k"), struct.pack("<I", 99), values=1), "a value of type 99"),
    "endless text": (file(struct.pack("<Q", LARGE), values=1), "a header that ends"),
    "too many axes": (file(tensor(axes=(1,) * 9), tensors=1), "a tensor of 9 axes"),
    "an endless axis": (file(tensor(axes=(LARGE, LARGE)), tensors=1), "a tensor of shape"),
    "an axis of none": (file(tensor(axes=(0, LARGE)), tensors=1), "a tensor of shape"),
    "past the end": (file(tensor(offset=LARGE), tensors=1), "a tensor of shape"),
    "half a block": (file(tensor(axes=(33, 2), kind=8), tensors=1), "a tensor of shape"),
    "an unknown type": (file(tensor(kind=12345), tensors=1), "a tensor of type 12345"),
    "the same name": (file(tensor(), tensor(), tensors=2), "two tensors of one name"),
    "the same bytes": (
        file(*(tensor(b"%d" % i, (512,)) for i in range(9)), tensors=9),
        "tensors that lie over each other",
    ),
    "no alignment": (
        file(text(b"general.alignment"), struct.pack("<II", 4, 0), values=1),
        "an alignment of 0",
    ),
    "another true shape": (
        file(text(b"comfy.gguf.orig_shape.a"), struct.pack("<IIQ3i", 9, 5, 3, 4, 4, 3), tensor(), tensors=1, values=1),
        r"a tensor of shape \[4, 4, 3\]",
    ),
    "a true shape below 0": (
        file(text(b"comfy.gguf.orig_shape.a"), struct.pack("<IIQ2i", 9, 5, 2, -8, -4), tensor(), tensors=1, values=1),
        r"a tensor of shape \[-8, -4\]",
    ),
    "a true shape of text": (
        file(text(b"comfy.gguf.orig_shape.a"), struct.pack("<I", 8), text(b"32"), tensor(), tensors=1, values=1),
        "a tensor of shape '32'",
    ),
    "a type that nothing reads": (file(tensor(axes=(32,), kind=24), tensors=1), "weights of type I8"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_file_is_refused(tmp_path, case):
    content, message = HOSTILE[case]
    (tmp_path / "hostile.gguf").write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        read_gguf(tmp_path / "hostile.gguf")


def test_any_flipped_byte_of_the_header_is_one_of_our_errors_or_a_file(stored, tmp_path):
    whole = bytearray(stored.read_bytes()[:60_000])
    path = tmp_path / "flipped.gguf"
    for at in range(0, 3000, 7):
        flipped = bytearray(whole)
        flipped[at] ^= 0xFF
        path.write_bytes(flipped)
        with pytest.raises(CheckpointError):  # cut short at the latest
            read_gguf_header(path)


def test_weights_that_are_not_finite_are_refused(tmp_path):
    state = to_official(toy.whole_state(WIDE))
    key = "middle_block.0.out_layers.3.bias"
    state[key] = torch.full_like(state[key], float("nan"))
    with pytest.raises(CheckpointError, match="not finite"):
        open_unet(write(tmp_path / "base.gguf", state))
