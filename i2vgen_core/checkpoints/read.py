"""Reads tensors from files, without ever running what a file says.

Safetensors, and PyTorch's own files with `weights_only=True` alone. A folder is a part of a bundle in diffusers'
layout: one file, or shards with an index.
"""

from __future__ import annotations

import json
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import torch
from torch import Tensor

from ..errors import CheckpointError

SAFE_SUFFIXES = (".safetensors", ".sft")
PICKLE_SUFFIXES = (".pth", ".pt", ".bin", ".ckpt")
_STEMS = ("diffusion_pytorch_model", "model", "pytorch_model")
_VARIANTS = ("", ".fp16")


def read_state_dict(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and text metadata of a file, or of a folder that is a part of a bundle.

    Args:
        path: .safetensors, .pth, .pt, .bin or .ckpt, or a folder with one of diffusers' file names.

    Returns:
        The tensors by name, on the CPU and mapped from the file where it allows it, and the metadata (safetensors).

    Raises:
        CheckpointError: no such file, not a file of tensors, or one that only unpickling freely could read.
    """
    if path.is_dir():
        return _read_folder(path)
    if not path.is_file():
        raise CheckpointError(f"file {path.name}", "an existing file", "none there", "Check the model folder and name.")
    if path.suffix in SAFE_SUFFIXES:
        return _read_safetensors(path)
    if path.suffix in PICKLE_SUFFIXES:
        return _read_pickle(path), {}
    expected = ", ".join(SAFE_SUFFIXES + PICKLE_SUFFIXES)
    raise CheckpointError(f"file {path.name}", f"one of {expected}", path.suffix or "no suffix", "Convert the file.")


def read_config(folder: Path) -> dict[str, Any]:
    """`config.json` of a bundle's part; empty if there is none. Raises CheckpointError if it is no JSON object."""
    file = folder / "config.json"
    return _read_json(file) if file.is_file() else {}


def _read_json(file: Path) -> dict[str, Any]:
    remedy = "Download the folder again."
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"file {file.name}", "a JSON object", str(error), remedy) from error
    if not isinstance(content, dict):
        raise CheckpointError(f"file {file.name}", "a JSON object", type(content).__name__, remedy)
    return content


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except safetensors.SafetensorError as error:
        remedy = "Download the file again: it is cut short or not a safetensors file."
        raise CheckpointError(f"file {path.name}", "a safetensors file", str(error), remedy) from error


def _read_pickle(path: Path) -> dict[str, Tensor]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError) as error:
        found = str(error).splitlines()[0] if str(error) else type(error).__name__
        remedy = "It may hold more than tensors: use the safetensors form of this model, or download it again."
        raise CheckpointError(f"file {path.name}", "a PyTorch file of tensors alone", found, remedy) from error
    while isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    tensors = (
        {key: value for key, value in content.items() if isinstance(value, Tensor)}
        if isinstance(content, Mapping)
        else {}
    )
    if not tensors:
        remedy = "Use the file of the network's weights."
        raise CheckpointError(f"file {path.name}", "a state dict", type(content).__name__, remedy)
    return tensors


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
    found = ", ".join(sorted(file.name for file in folder.iterdir())[:4]) or "an empty folder"
    raise CheckpointError(f"folder {folder.name}", expected, found, "Download the folder with its weights.")


def _read_shards(folder: Path, index: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    weight_map = _read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
        expected = "a weight_map from tensors to file names"
        raise CheckpointError(f"index {index.name}", expected, repr(weight_map)[:60], "Download the folder again.")
    names = sorted(set(weight_map.values()))
    tensors: dict[str, Tensor] = {}
    metadata: dict[str, str] = {}
    for name in names:
        if name in ("", "..") or Path(name).name != name:
            remedy = "Download the folder again."
            raise CheckpointError(f"index {index.name}", "file names of its own folder", name, remedy)
        shard, shard_metadata = read_state_dict(folder / name)
        tensors |= shard
        metadata |= shard_metadata
    return tensors, metadata
