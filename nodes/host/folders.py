"""What lies in the model folders, and the cascade that is built in. A name from a workflow is used only if it is in
these lists."""

from __future__ import annotations

from pathlib import Path

import folder_paths

from ...i2vgen_core import assets
from ...i2vgen_core.checkpoints.gguf import GGUF_SUFFIX
from ...i2vgen_core.errors import InputError

_REFINER = "/refiner"


def bundles() -> list[str]:
    """The built-in cascade, then folders in diffusers' layout under models/diffusers, by their relative names."""
    return list(_bundle_paths())


def bundle(name: str) -> Path:
    """Where a bundle is. Raises InputError for a name that is not in the list."""
    return _choose(name, _bundle_paths(), "bundle", "models/diffusers")


def bases() -> list[str]:
    """The built-in base, then files under models/diffusion_models."""
    return [assets.NAME, *_network_files()]


def base(name: str) -> Path:
    """Where a base is, a file or a folder. Raises InputError for a name that is not in the list."""
    return assets.FOLDER / "unet" if name == assets.NAME else _network_file(name, "model file")


def refiners() -> list[str]:
    """The built-in refiner, then files under models/diffusion_models, and the bundles' refiners as `bundle/refiner`."""
    folders = _refiner_folders()
    return [assets.NAME, *_network_files(), *folders]


def refiner(name: str) -> Path:
    """Where a refiner is, a file or a folder. Raises InputError for a name that is not in the list."""
    if name == assets.NAME:
        return assets.FOLDER / "refiner"
    folders = _refiner_folders()
    return folders[name] if name in folders else _network_file(name, "refiner")


def _network_files() -> list[str]:
    """Files under models/diffusion_models; the host's own list leaves GGUF files out."""
    found: list[str] = []
    for folder in folder_paths.get_folder_paths("diffusion_models"):
        files, _ = folder_paths.recursive_search(folder, excluded_dir_names=[".git"])
        found += folder_paths.filter_files_extensions(files, {GGUF_SUFFIX})
    return list(dict.fromkeys([*folder_paths.get_filename_list("diffusion_models"), *sorted(found)]))


def _network_file(name: str, what: str) -> Path:
    _choose(name, {file: file for file in _network_files()}, what, "models/diffusion_models")
    return Path(folder_paths.get_full_path_or_raise("diffusion_models", name))


def _bundle_paths() -> dict[str, Path]:
    found: dict[str, Path] = {}
    for root in map(Path, folder_paths.get_folder_paths("diffusers")):
        for depth in ("*/unet", "*/*/unet"):
            for unet in root.glob(depth):
                if unet.is_dir():
                    found.setdefault(unet.parent.relative_to(root).as_posix(), unet.parent)
    return {assets.NAME: assets.FOLDER} | dict(sorted(found.items()))


def _refiner_folders() -> dict[str, Path]:
    """The refiners in bundles; the built-in one goes by its bundle's name."""
    paths = {name: path / "refiner" for name, path in _bundle_paths().items() if name != assets.NAME}
    return {name + _REFINER: path for name, path in paths.items() if path.is_dir()}


def _choose(name: str, choices: dict, what: str, where: str) -> Path:
    if name not in choices:
        found = f"{name[:80]!r}, which is not among the {len(choices)} there"
        raise InputError(what, f"one from {where}", found, "Put it there and press R, or choose another.")
    return choices[name]
