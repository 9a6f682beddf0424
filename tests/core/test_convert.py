"""`python -m i2vgen_core convert`: what it writes is what was read, is read again, and is there whole or not at all."""

import hashlib
import json
import os
import signal
import subprocess
import sys
from dataclasses import asdict, replace

import pytest
import torch
import toy
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from i2vgen_core.__main__ import main
from i2vgen_core.checkpoints import convert as module
from i2vgen_core.checkpoints.clip_keys import text_to_open_clip, vision_to_open_clip
from i2vgen_core.checkpoints.convert import convert
from i2vgen_core.checkpoints.encoders import load_image_encoder, load_text_encoder, load_vae
from i2vgen_core.checkpoints.load import open_unet
from i2vgen_core.checkpoints.unet_keys import from_official, to_diffusers, to_official
from i2vgen_core.checkpoints.vae_keys import vae_to_diffusers, vae_to_ldm
from i2vgen_core.checkpoints.write import SafetensorsWriter
from i2vgen_core.errors import CheckpointError, InputError

WIDE = replace(toy.CONFIG, model_channels=64, head_dim=64)  # a .pth says nothing of heads: the releases' 64
REFINER = replace(WIDE, kind="vid2vid_xl", image_dim=1024)


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    """A base as VGen released it."""
    path = tmp_path_factory.mktemp("released") / "i2vgen_xl_00854500.pth"
    torch.save({"state_dict": to_official(toy.whole_state(WIDE)), "step": 854500}, path)
    return path


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out.safetensors"


def metadata_of(path):
    with safe_open(path, "pt") as file:
        return file.metadata()


def same(left, right):
    return left.keys() == right.keys() and all(torch.equal(value, right[key]) for key, value in left.items())


# ---------------------------------------------------------------- UNets


def test_a_release_comes_out_as_it_went_in(released, out):
    assert main(["convert", str(released), str(out)]) == 0
    assert same(load_file(out), to_official(toy.whole_state(WIDE)))
    found = metadata_of(out)
    assert found["kind"] == "i2vgen_xl" and found["head_dim"] == "64" and found["format"] == "pt"
    assert json.loads(found["config"]) == json.loads(json.dumps(asdict(WIDE)))
    assert found["source"] == released.name
    assert found["source_sha256"] == hashlib.sha256(released.read_bytes()).hexdigest()
    opened = open_unet(out)
    assert opened.config == WIDE
    assert same(opened.network, open_unet(released).network)
    assert same(opened.global_encoder, open_unet(released).global_encoder)


@pytest.mark.parametrize("layout", ["diffusers folder", "shards", "prefixed", "before torch 1.6", "heads in metadata"])
def test_every_form_comes_out_in_the_official_layout(tmp_path, out, layout):
    state, expected = toy.whole_state(WIDE), to_official(toy.whole_state(WIDE))
    source = tmp_path / "source.safetensors"
    if layout in ("diffusers folder", "shards"):
        source = tmp_path / "unet"
        source.mkdir()
        files = {key: value.contiguous() for key, value in to_diffusers(state).items()}
        (source / "config.json").write_text('{"_class_name": "I2VGenXLUNet"}', encoding="utf-8")
        names = ["diffusion_pytorch_model.safetensors"] * len(files)
        if layout == "shards":
            names = [f"model-{i % 2 + 1:05}-of-00002.safetensors" for i in range(len(files))]
            index = {"weight_map": dict(zip(files, names, strict=True))}
            (source / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
        for name in set(names):
            chosen = {key: files[key] for key, at in zip(files, names, strict=True) if at == name}
            save_file(chosen, source / name)
    elif layout == "prefixed":
        save_file({f"model.diffusion_model.{key}": value for key, value in expected.items()}, source)
    elif layout == "before torch 1.6":
        source = tmp_path / "source.ckpt"
        torch.save(expected, source, _use_new_zipfile_serialization=False)
    else:
        expected = to_official(toy.whole_state(toy.CONFIG))
        save_file(expected, source, {"head_dim": "8"})
    convert(source, out)
    assert same(load_file(out), expected)
    assert open_unet(out).config == (toy.CONFIG if layout == "heads in metadata" else WIDE)


@pytest.mark.parametrize("name", ["fp16", "bf16"])
def test_dtype_is_that_of_every_weight(released, out, name):
    dtype = {"fp16": torch.float16, "bf16": torch.bfloat16}[name]
    assert main(["convert", str(released), str(out), "--dtype", name]) == 0
    expected = {key: value.to(dtype) for key, value in to_official(toy.whole_state(WIDE)).items()}
    assert same(load_file(out), expected)
    assert open_unet(out).config == WIDE


def test_fp8_is_for_matrices_and_vectors_stay_in_fp16(released, out):
    assert main(["convert", str(released), str(out), "--dtype", "fp8"]) == 0
    written, state = load_file(out), to_official(toy.whole_state(WIDE))
    for key, value in state.items():
        dtype = torch.float16 if value.ndim < 2 else torch.float8_e4m3fn
        assert written[key].dtype == dtype
        assert torch.equal(written[key].float(), value.to(dtype).float())
    built = open_unet(out).build_network(torch.float32)
    with torch.no_grad():
        assert built(**toy.inputs(WIDE)).isfinite().all()


@pytest.mark.parametrize("kind", ["vid2vid_xl", "sr600"])
def test_which_refiner_is_as_said(tmp_path, out, kind, caplog):
    source = tmp_path / "refiner.pth"
    torch.save({"state_dict": to_official(toy.whole_state(REFINER))}, source)
    caplog.set_level("INFO", logger="i2vgen_xl")
    assert main(["convert", str(source), str(out), *(["--refiner", "sr600"] if kind == "sr600" else [])]) == 0
    assert open_unet(out).config.kind == metadata_of(out)["kind"] == kind
    assert ("shapes cannot tell which one it is" in caplog.text) == (kind == "vid2vid_xl")
    again = out.with_name("again.safetensors")
    convert(out, again)
    assert metadata_of(again)["kind"] == kind, "what the file says is kept"


def test_settings_of_its_own_are_kept(tmp_path, out):
    source = tmp_path / "source.safetensors"
    release = {"steps": 12, "title": "tiny"}
    save_file(to_official(toy.whole_state(WIDE)), source, {"release": json.dumps(release)})
    convert(source, out)
    assert json.loads(metadata_of(out)["release"]) == release
    assert open_unet(out).release == open_unet(source).release


# ---------------------------------------------------------------- encoders


LOADERS = {"text": load_text_encoder, "vision": load_image_encoder, "vae": load_vae}
FOLDERS = {"text": "text_encoder", "vision": "image_encoder", "vae": "vae"}


@pytest.mark.parametrize("part", LOADERS)
def test_an_encoder_of_a_folder_loads_from_its_file(bundles, out, part):
    """Sizes that leave no trace in shapes (heads, norms) included, which config.json says in the folder."""
    folder = bundles() / FOLDERS[part]
    assert main(["convert", str(folder), str(out)]) == 0
    theirs, ours = LOADERS[part](folder), LOADERS[part](out)
    assert ours.config == theirs.config
    assert same(dict(ours.model.state_dict()), dict(theirs.model.state_dict()))
    assert metadata_of(out)["kind"] == {"text": "clip_text", "vision": "clip_vision", "vae": "vae"}[part]


def towers(bundles):
    """Both towers in one file, as open_clip has them."""
    text = text_to_open_clip(load_file(bundles() / "text_encoder" / "model.safetensors"))
    return text | vision_to_open_clip(load_file(bundles() / "image_encoder" / "model.safetensors"))


@pytest.mark.parametrize("part", ["text", "vision"])
def test_one_tower_of_a_file_with_both(bundles, tmp_path, out, part, caplog):
    source = tmp_path / "open_clip_pytorch_model.safetensors"
    save_file(towers(bundles), source, {"text_head_dim": "16", "vision_head_dim": "16"})
    assert main(["convert", str(source), str(out)]) == 2
    assert "expected one network, found text, vision. Say which one with --part." in caplog.text
    assert main(["convert", str(source), str(out), "--part", part]) == 0
    assert len(load_file(out)) < len(load_file(source))
    theirs, ours = LOADERS[part](source), LOADERS[part](out)
    assert ours.config == theirs.config
    assert same(dict(ours.model.state_dict()), dict(theirs.model.state_dict()))


def test_the_vae_of_a_whole_checkpoint(bundles, tmp_path, out):
    source = tmp_path / "v2-1_512-ema-pruned.ckpt"
    vae = load_file(next((bundles() / "vae").glob("*.safetensors")))
    whole = {f"first_stage_model.{key}": value for key, value in vae_to_ldm(vae).items()}
    whole |= {f"cond_stage_model.model.{key}": value for key, value in towers(bundles).items() if "visual" not in key}
    torch.save({"state_dict": whole | {"model.diffusion_model.out.2.weight": torch.ones(4, 3)}}, source)
    convert(source, out, part="vae", dtype=torch.float16)
    assert same(load_file(out), {key: value.half() for key, value in vae_to_ldm(vae).items()})
    halved = {key: value.half().float() for key, value in vae_to_diffusers(vae).items()}
    assert same(dict(load_vae(out).model.state_dict()), halved)


# ---------------------------------------------------------------- what is refused, and what is left behind


def leftovers(out):
    return [file.name for file in out.parent.iterdir() if file.name.startswith(out.name)]


def refusal(source, out, error=CheckpointError, **options):
    with pytest.raises(error) as caught:
        convert(source, out, **options)
    assert leftovers(out) == []
    return str(caught.value)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(tmp_path, out, value):
    state = to_official(toy.whole_state(WIDE))
    key = "middle_block.0.out_layers.3.weight"
    state[key] = state[key].clone()
    state[key].view(-1)[7] = value
    torch.save(state, tmp_path / "source.pth")
    assert f"tensor {key}: expected finite weights" in refusal(tmp_path / "source.pth", out)


@pytest.mark.parametrize(
    ("dtype", "value", "message"),
    [
        (torch.float16, 1e5, "at most 65504, for F16, found 100000"),
        (torch.float8_e4m3fn, 500, "at most 448, for F8_E4M3, found 500"),
    ],
)
def test_weights_that_do_not_fit_the_type_are_refused(tmp_path, out, dtype, value, message):
    state = to_official(toy.whole_state(WIDE))
    key = "middle_block.0.out_layers.3.weight"
    state[key] = state[key].clone()
    state[key].view(-1)[7] = value
    torch.save(state, tmp_path / "source.pth")
    assert message in refusal(tmp_path / "source.pth", out, InputError, dtype=dtype)
    convert(tmp_path / "source.pth", out, dtype=torch.bfloat16)


def test_a_network_with_a_tensor_missing_is_refused(tmp_path, out):
    state = to_official(toy.whole_state(WIDE))
    del state["out.0.bias"]
    torch.save(state, tmp_path / "source.pth")
    assert "1 missing (out.0.bias)" in refusal(tmp_path / "source.pth", out)


def test_a_file_of_something_else_is_refused(tmp_path, out):
    save_file({"a.weight": torch.ones(2)}, tmp_path / "source.safetensors")
    assert "expected a UNet, a VAE or a CLIP, found a.weight" in refusal(tmp_path / "source.safetensors", out)
    assert "CLIP text encoder: expected" in refusal(tmp_path / "source.safetensors", out, part="text")


@pytest.mark.parametrize("name", ["there.safetensors", "nowhere/out.safetensors", "out.pth"])
def test_a_place_that_cannot_be_written_is_refused(released, tmp_path, name, caplog):
    (tmp_path / "there.safetensors").write_bytes(b"mine")
    assert main(["convert", str(released), str(tmp_path / name)]) == 2
    assert "error: output file: expected" in caplog.text
    assert [file.name for file in tmp_path.iterdir()] == ["there.safetensors"]
    assert (tmp_path / "there.safetensors").read_bytes() == b"mine"


def test_no_room_is_said_before_the_work(released, out, monkeypatch):
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    assert "expected room for 0.0" in refusal(released, out, InputError)


KILLED = """
import os, signal, sys
from pathlib import Path
from i2vgen_core.checkpoints.convert import convert

def progress(done, total):
    if done > total / 2:
        os.kill(os.getpid(), signal.SIGKILL)

convert(Path(sys.argv[1]), Path(sys.argv[2]), progress=progress)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
@pytest.mark.slow
def test_a_killed_run_leaves_nothing_that_looks_whole(released, out):
    done = subprocess.run([sys.executable, "-c", KILLED, released, out], env=os.environ, check=False)
    assert done.returncode == -signal.SIGKILL
    assert not out.exists()
    left = leftovers(out)
    assert len(left) == 1 and left[0].endswith(".part")
    convert(released, out)
    assert open_unet(out).config == WIDE


# ---------------------------------------------------------------- a portion at a time


def test_portions_are_small_and_each_is_mapped_anew(released, out, monkeypatch):
    """No more than a portion's tensors are used between two openings of the file."""
    limit, opened, used = 2**22, [], []
    read, cast = module.read_state_dict, module._cast
    monkeypatch.setattr(module, "_PORTION", limit)

    def reading(path):
        opened.append(path)
        used.append(0)
        return read(path)

    def casting(name, tensor, dtype):
        used[-1] += tensor.nbytes
        return cast(name, tensor, dtype)

    monkeypatch.setattr(module, "read_state_dict", reading)
    monkeypatch.setattr(module, "_cast", casting)
    convert(released, out)
    state = to_official(toy.whole_state(WIDE))
    largest = max(value.nbytes for value in state.values())
    assert sum(used) == sum(value.nbytes for value in state.values())
    assert len(opened) > 5
    assert max(used) <= max(limit, largest)
    assert same(load_file(out), state)


def test_progress_ends_with_the_size_of_the_file(released, out):
    seen = []
    convert(released, out, progress=lambda done, total: seen.append((done, total)))
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert seen[-1] == (out.stat().st_size, out.stat().st_size)


# ---------------------------------------------------------------- the writer


TYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2]
TYPES += [torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool]


def test_the_writer_writes_what_safetensors_reads(out):
    state = {str(dtype): torch.arange(6).reshape(2, 3).to(dtype) for dtype in TYPES}
    state |= {"number": torch.tensor(2.5), "nothing": torch.empty(0, 3), "turned": torch.arange(6.0).reshape(2, 3).T}
    with SafetensorsWriter(out, {key: (value.shape, value.dtype) for key, value in state.items()}, {"a": "ü"}) as file:
        for key, value in state.items():
            file.add(key, value)
    read = load_file(out)
    assert read.keys() == state.keys()
    for key, value in state.items():
        assert read[key].dtype == value.dtype and torch.equal(read[key].double(), value.double())
    assert metadata_of(out) == {"a": "ü"}


@pytest.mark.parametrize(
    "write",
    [
        pytest.param(lambda file: file.add("b", torch.ones(2)), id="out of order"),
        pytest.param(lambda file: file.add("a", torch.ones(3)), id="another shape"),
        pytest.param(lambda file: file.add("a", torch.ones(2).half()), id="another type"),
        pytest.param(lambda file: file.add("a", torch.ones(2)), id="too few"),
    ],
)
def test_the_writer_keeps_to_its_header(out, write):
    layout = {name: (torch.Size([2]), torch.float32) for name in ("a", "b")}
    with (
        pytest.raises(ValueError, match=r"not what the header says|were not written"),
        SafetensorsWriter(out, layout, {}) as file,
    ):
        write(file)
    assert leftovers(out) == []


def test_a_written_release_is_one_of_ours_again(released, out):
    """The official names are kept to the letter, so that other programs of the official layout read it too."""
    convert(released, out)
    assert same(from_official(load_file(out)), toy.whole_state(WIDE))
