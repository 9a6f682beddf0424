"""Reads tensors from files, without ever running what a file says.

Safetensors, and PyTorch's own files (see pickled.py). A folder is a part of a bundle in diffusers' layout: one file,
or shards with an index.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import torch
from torch import Tensor

from ..errors import CheckpointError
from .check import check_memory, named
from .gguf import GGUF_SUFFIX, read_gguf
from .pickled import read_pickled

SAFE_SUFFIXES = (".safetensors", ".sft")
PICKLE_SUFFIXES = (".pth", ".pt", ".bin", ".ckpt")
_STEMS = ("diffusion_pytorch_model", "model", "pytorch_model", "open_clip_model", "open_clip_pytorch_model")
_VARIANTS = ("", ".fp16")
SETTINGS = "i2vgen_xl_settings"
"""End of the name of a tensor that holds metadata."""
_MOST_SETTINGS = 2**16
_MOST_JSON = 2**22
_MOST_HEADER = 2**22
"""Bytes. A released network's header has 200,000; the format allows 100 MB, which take seconds and gigabytes."""


def read_state_dict(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and text metadata of a file, or of a folder that is a part of a bundle.

    Args:
        path: .safetensors, .pth, .pt, .bin, .ckpt or .gguf, or a folder with one of diffusers' file names.

    Returns:
        The tensors by name, on the CPU and mapped from the file where it allows it, and the metadata (safetensors).

    Raises:
        CheckpointError: no such file, not a file of tensors, or one that only unpickling freely could read.
    """
    tensors, metadata = _read_folder(path) if os.path.isdir(path) else _read_file(path)
    return tensors, metadata | take_settings(tensors, path.name)


def settings_tensor(settings: Mapping[str, str]) -> Tensor:
    """Metadata as a tensor of JSON's bytes, under SETTINGS, for a writer that takes tensors alone."""
    return torch.tensor(list(json.dumps(dict(settings)).encode()), dtype=torch.uint8)


def take_settings(tensors: dict[str, Tensor], name: str) -> dict[str, str]:
    """Takes settings_tensor's tensor out of a file's tensors, whatever its prefix.

    Args:
        tensors: changed in place.
        name: of the file, for people.

    Returns:
        What it says; nothing where there is none.

    Raises:
        CheckpointError: it is no object of text.
    """
    said: dict[str, str] = {}
    for key in [key for key in tensors if key == SETTINGS or key.endswith(f".{SETTINGS}")]:
        stored = tensors.pop(key)
        try:
            if stored.dtype != torch.uint8 or stored.numel() > _MOST_SETTINGS:
                raise ValueError(f"{stored.dtype} {list(stored.shape)}")
            content = json.loads(bytes(stored.flatten().tolist()))
            if not isinstance(content, dict) or not all(isinstance(value, str) for value in content.values()):
                raise ValueError("no object of text")
        except (ValueError, RecursionError) as error:
            expected = f"settings as JSON in {SETTINGS}"
            raise CheckpointError(
                f"file {named(name)}", expected, named(str(error)), "Save the model again."
            ) from error
        said |= content
    return said


def _read_file(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    if not os.path.isfile(path):  # False, not an error, for a name that cannot be one
        remedy = "Check the model folder and name."
        raise CheckpointError(f"file {named(path.name)}", "an existing file", "none there", remedy)
    if path.suffix in SAFE_SUFFIXES:
        return _read_safetensors(path)
    if path.suffix in PICKLE_SUFFIXES:
        return read_pickled(path), {}
    if path.suffix == GGUF_SUFFIX:
        return read_gguf(path)
    expected = ", ".join((*SAFE_SUFFIXES, *PICKLE_SUFFIXES, GGUF_SUFFIX))
    found = named(path.suffix) or "no suffix"
    raise CheckpointError(f"file {named(path.name)}", f"one of {expected}", found, "Convert the file.")


def read_config(folder: Path) -> dict[str, Any]:
    """`config.json` of a bundle's part; empty if there is none. Raises CheckpointError if it is no JSON object."""
    file = folder / "config.json"
    return _read_json(file) if file.is_file() else {}


def _read_json(file: Path) -> dict[str, Any]:
    remedy = "Download the folder again."
    try:
        with file.open("rb") as opened:
            text = opened.read(_MOST_JSON + 1)
        if len(text) > _MOST_JSON:
            raise ValueError(f"more than {_MOST_JSON} bytes")
        content = json.loads(text.decode("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"file {file.name}", "a JSON object", named(str(error)), remedy) from error
    if not isinstance(content, dict):
        raise CheckpointError(f"file {file.name}", "a JSON object", type(content).__name__, remedy)
    return content


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        _check_header(path)
        with safetensors.safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except Exception as error:  # the library's own errors, and torch's of a type or shape that it does not have
        check_memory(path, error)
        remedy = "Download the file again: it is cut short or not a safetensors file."
        raise CheckpointError(f"file {named(path.name)}", "a safetensors file", named(str(error)), remedy) from error


def _check_header(path: Path) -> None:
    """Raises ValueError for a header that is larger than any model's."""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
    if size > _MOST_HEADER:
        raise ValueError(f"a header of {size} bytes")


def _read_folder(folder: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    for suffix in (".safetensors", ".bin"):
        for stem in _STEMS:
            for variant in _VARIANTS:
                single = folder / f"{stem}{variant}{suffix}"
                if single.is_file():
                    return read_state_dict(single)
                index = folder / f"{stem}{suffix}.index{variant}.json"
                if index.is_file():
                    return _read_shards(folder, index)
    expected = "diffusion_pytorch_model.safetensors or model.safetensors"
    found = ", ".join(named(name) for name in sorted(os.listdir(folder))[:4]) or "an empty folder"
    raise CheckpointError(f"folder {folder.name}", expected, found, "Download the folder with its weights.")


def _read_shards(folder: Path, index: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    weight_map = _read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
        expected = "a weight_map from tensors to file names"
        raise CheckpointError(f"index {index.name}", expected, repr(weight_map)[:60], "Download the folder again.")
    tensors: dict[str, Tensor] = {}
    metadata: dict[str, str] = {}
    for name in sorted(set(weight_map.values())):
        if name in ("", "..") or Path(name).name != name or Path(name).suffix not in SAFE_SUFFIXES + PICKLE_SUFFIXES:
            remedy = "Download the folder again."
            raise CheckpointError(f"index {index.name}", "file names of its own folder", named(name), remedy)
        shard, shard_metadata = read_state_dict(folder / name)
        twice = next((key for key in shard if key in tensors), None)
        if twice is not None:
            remedy = "Download the folder again."
            raise CheckpointError(f"index {index.name}", "each tensor in one file", f"{named(twice)} in two", remedy)
        tensors |= shard
        metadata |= shard_metadata
    return tensors, metadata
