"""Files and folders that are refused, and how."""

import json
import pickle
import shutil
from pathlib import Path

import pytest
import torch
import toy
from safetensors.torch import save_file

from i2vgen_core.checkpoints.load import open_unet, parse_unet
from i2vgen_core.checkpoints.read import read_state_dict
from i2vgen_core.errors import CheckpointError


class Payload:
    """Unpickled freely, it writes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.write_text, (Path(self.path), "ran")


@pytest.mark.filterwarnings("ignore:Detected pickle protocol 4")  # torch's, of the bare pickle
@pytest.mark.parametrize("suffix", [".pth", ".pt", ".bin", ".ckpt"])
@pytest.mark.parametrize("form", ["zip", "legacy", "bare pickle"])
def test_a_pickle_with_code_is_refused_and_not_run(tmp_path, suffix, form):
    ran, path = tmp_path / "ran.txt", tmp_path / f"model{suffix}"
    content = {"state_dict": {"weight": torch.ones(3)}, "payload": Payload(str(ran))}
    if form == "bare pickle":
        path.write_bytes(pickle.dumps(content))
        pickle.loads(path.read_bytes())
    else:
        torch.save(content, path, _use_new_zipfile_serialization=form == "zip")
        torch.load(path, weights_only=False)
    assert ran.is_file(), "the payload does not work, so that this test would show nothing"
    ran.unlink()

    with pytest.raises(CheckpointError, match=f"file model{suffix}: expected a PyTorch file of tensors alone"):
        read_state_dict(path)
    assert not ran.exists()


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("share", [0, 0.001, 0.3, 0.9, 0.9999])
def test_a_file_cut_short_is_refused(tmp_path, suffix, share):
    path = tmp_path / f"model{suffix}"
    state = {"weight": torch.randn(100, 100)}
    if suffix == ".pth":
        torch.save(state, path)
    else:
        save_file(state, path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(CheckpointError, match=f"file model{suffix}: expected"):
        read_state_dict(path)


@pytest.mark.parametrize("content", [b"not a model", b"{}", b"\x00" * 64, b"<!DOCTYPE html>" * 20])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_file_of_something_else_is_refused(tmp_path, suffix, content):
    path = tmp_path / f"model{suffix}"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=f"file model{suffix}: expected"):
        read_state_dict(path)


@pytest.mark.parametrize("content", [{}, [], {"step": 1}, {"state_dict": {"a": 1}}, torch.ones(2)], ids=str)
def test_a_pickled_file_without_a_state_dict_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "model.pth")
    with pytest.raises(CheckpointError, match=r"file model.pth: expected a state dict"):
        read_state_dict(tmp_path / "model.pth")


@pytest.mark.parametrize("name", ["model.onnx", "model", "model.zip"])
def test_another_suffix_is_refused(tmp_path, name):
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(CheckpointError, match=f"file {name}: expected one of .safetensors"):
        read_state_dict(tmp_path / name)


def test_no_file_and_an_empty_folder_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r"file model.safetensors: expected an existing file"):
        read_state_dict(tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="found an empty folder"):
        read_state_dict(tmp_path)
    (tmp_path / "readme.md").write_text("x", encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"found readme.md"):
        read_state_dict(tmp_path)


OUTSIDE = [
    "../secret.safetensors",
    "../../secret.safetensors",
    "inner/../../secret.safetensors",
    "{folder}/../secret.safetensors",
    "..",
    ".",
    "",
]


@pytest.mark.parametrize("name", OUTSIDE)
def test_an_index_that_points_outside_its_folder_is_refused(tmp_path, name):
    folder = tmp_path / "unet"
    (folder / "inner").mkdir(parents=True)
    save_file({"time_embed.0.weight": torch.ones(3)}, tmp_path / "secret.safetensors")
    shutil.copy(tmp_path / "secret.safetensors", tmp_path / "model.safetensors")
    index = {"weight_map": {"time_embed.0.weight": name.format(folder=folder)}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    with pytest.raises(CheckpointError, match="expected file names of its own folder"):
        read_state_dict(folder)


def test_an_index_that_names_a_missing_shard_is_refused(tmp_path):
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"file model-00001-of-00002.safetensors: expected an existing file"):
        read_state_dict(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"weight_map": 1}', '{"weight_map": {"a": 1}}'])
def test_a_broken_index_is_refused(tmp_path, text):
    (tmp_path / "model.safetensors.index.json").write_text(text, encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"model.safetensors.index.json"):
        read_state_dict(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", '"sr600"'])
def test_a_broken_config_json_is_refused(tmp_path, text):
    save_file(toy.stored(toy.CONFIG), tmp_path / "model.safetensors", {"head_dim": "8"})
    (tmp_path / "config.json").write_text(text, encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"config.json"):
        open_unet(tmp_path)


@pytest.mark.parametrize("settings", [{"head_dim": "wide"}, {"attention_head_dim": [8, 8]}, {"kind": "sdxl"}], ids=str)
def test_settings_of_another_sort_are_refused(settings):
    with pytest.raises(CheckpointError):
        parse_unet(toy.stored(toy.CONFIG), toy.SETTINGS | settings if "kind" in settings else settings)
