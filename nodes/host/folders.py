"""What lies in the model folders. A name from a workflow is used only if it is in these lists."""

from __future__ import annotations

from pathlib import Path

import folder_paths

from ...i2vgen_core.checkpoints.gguf import GGUF_SUFFIX
from ...i2vgen_core.errors import InputError

_REFINER = "/refiner"


def bundles() -> list[str]:
    """Folders in diffusers' layout under models/diffusers, by their relative names."""
    return sorted(_bundle_paths())


def bundle(name: str) -> Path:
    """Where a bundle is. Raises InputError for a name that is not in the list."""
    return _choose(name, _bundle_paths(), "bundle", "models/diffusers")


def network_files() -> list[str]:
    """Files under models/diffusion_models; the host's own list leaves GGUF files out."""
    found: list[str] = []
    for folder in folder_paths.get_folder_paths("diffusion_models"):
        files, _ = folder_paths.recursive_search(folder, excluded_dir_names=[".git"])
        found += folder_paths.filter_files_extensions(files, {GGUF_SUFFIX})
    return list(dict.fromkeys([*folder_paths.get_filename_list("diffusion_models"), *sorted(found)]))


def network_file(name: str) -> Path:
    """Where a file is. Raises InputError for a name that is not in the list."""
    files = {file: file for file in network_files()}
    _choose(name, files, "model file", "models/diffusion_models")
    return Path(folder_paths.get_full_path_or_raise("diffusion_models", name))


def refiners() -> list[str]:
    """Files under models/diffusion_models, and the bundles' refiners as `bundle/refiner`."""
    return [*network_files(), *(name + _REFINER for name in _with_refiner())]


def refiner(name: str) -> Path:
    """Where a refiner is, a file or a folder. Raises InputError for a name that is not in the list."""
    if name in network_files():
        return network_file(name)
    folders = {found + _REFINER: path / "refiner" for found, path in _with_refiner().items()}
    return _choose(name, folders, "refiner", "models/diffusion_models or models/diffusers")


def _bundle_paths() -> dict[str, Path]:
    found: dict[str, Path] = {}
    for root in map(Path, folder_paths.get_folder_paths("diffusers")):
        for depth in ("*/unet", "*/*/unet"):
            for unet in root.glob(depth):
                if unet.is_dir():
                    found.setdefault(unet.parent.relative_to(root).as_posix(), unet.parent)
    return found


def _with_refiner() -> dict[str, Path]:
    return {name: path for name, path in sorted(_bundle_paths().items()) if (path / "refiner").is_dir()}


def _choose(name: str, choices: dict, what: str, where: str) -> Path:
    if name not in choices:
        found = f"{name!r}, which is not among the {len(choices)} there"
        raise InputError(what, f"one from {where}", found, "Put it there and press R, or choose another.")
    return choices[name]
