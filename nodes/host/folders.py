"""What lies in the model folders, and the cascade that is built in. A name from a workflow is used only if it is in
these lists."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import folder_paths

from ...i2vgen_core import assets
from ...i2vgen_core.checkpoints.download import FILES, ReleasedFile
from ...i2vgen_core.checkpoints.gguf import GGUF_SUFFIX
from ...i2vgen_core.errors import InputError

RELEASED = "released files"
"""Name of the released base in single files, each in its kind's folder, as `download cascade` and the front end put them."""

WITH_BASE = "goes with the base"
"""Name of the refiner of a base's own bundle, and of MS-Vid2Vid-XL for the released files."""

_REFINER = "/refiner"

_PARTS = {"i2vgen_xl": "unet", "text": "text_encoder", "vision": "image_encoder", "vae": "vae"}
"""The released base's files, and where each lies in a folder in diffusers' layout."""

_PUBLISHED = "i2vgen-xl"
"""Name of the published folder, which has the same parts."""


@dataclass(frozen=True)
class Bundle:
    """Where the parts of a base are: a folder in diffusers' layout each, or a file each."""

    unet: Path
    text_encoder: Path
    image_encoder: Path
    vae: Path


def bundles() -> list[str]:
    """The built-in cascade, the released files, then folders in diffusers' layout under models/diffusers, by their
    relative names."""
    built_in, *others = _bundle_paths()
    return [built_in, RELEASED, *others]


def bundle(name: str) -> Bundle:
    """Where a bundle is. Raises InputError for a name that is not in the list, and for parts that are missing."""
    there = _bundle_paths()
    if name == RELEASED or (name == _PUBLISHED and name not in there):  # what was saved with the folder takes its files
        return Bundle(*_released(*_PARTS))
    folder = _choose(name, there, "bundle", "models/diffusers")
    missing = [part for part in _PARTS.values() if not (folder / part).is_dir()]
    if missing:
        pages = " ".join(f"{FILES['i2vgen_xl'].page}/tree/main/{part}" for part in missing)
        remedy = f"Those of the release are at {pages}"
        raise InputError(f"models/diffusers/{name}", ", ".join(_PARTS.values()), f"no {', '.join(missing)}", remedy)
    return Bundle(*(folder / part for part in _PARTS.values()))


def offered(*keys: str) -> list[dict[str, object]]:
    """Released files as the front end offers what is missing: name, url and directory, and whether a file is `there`."""
    return [
        {"name": file.name, "url": _address(file), "directory": file.folder, "there": _place(key) is not None}
        for key, file in ((key, FILES[key]) for key in keys)
    ]


def bases() -> list[str]:
    """The built-in base, then files under models/diffusion_models."""
    return [assets.NAME, *_network_files()]


def base(name: str) -> Path:
    """Where a base is, a file or a folder. Raises InputError for a name that is not in the list."""
    return assets.FOLDER / "unet" if name == assets.NAME else _network_file(name, "model file")


def refiners() -> list[str]:
    """The built-in refiner, the one that goes with a base, then files under models/diffusion_models, and the bundles'
    refiners as `bundle/refiner`."""
    folders = _refiner_folders()
    return [assets.NAME, WITH_BASE, *_network_files(), *folders]


def refiner(name: str, base: Path | None = None) -> Path:
    """Where a refiner is, a file or a folder.

    Args:
        name: one of refiners().
        base: where the base is that it goes with, read for WITH_BASE alone; None where that is not known.

    Raises:
        InputError: a name that is not in the list, or a released file that is missing.
    """
    if name == assets.NAME:
        return assets.FOLDER / "refiner"
    if name == WITH_BASE:
        beside = base.parent / "refiner" if base is not None and base.is_dir() else None
        return beside if beside is not None and beside.is_dir() else _released("vid2vid_xl")[0]
    folders = _refiner_folders()
    return folders[name] if name in folders else _network_file(name, "refiner")


def adapters() -> list[str]:
    """Files under models/controlnet."""
    return folder_paths.get_filename_list("controlnet")


def adapter(name: str) -> Path:
    """Where a Ctrl-Adapter is. Raises InputError for a name that is not in the list."""
    _choose(name, {file: file for file in adapters()}, "Ctrl-Adapter", "models/controlnet")
    return Path(folder_paths.get_full_path_or_raise("controlnet", name))


def _network_files() -> list[str]:
    """Files under models/diffusion_models; the host's own list leaves GGUF files out."""
    found: list[str] = []
    for folder in folder_paths.get_folder_paths("diffusion_models"):
        files, _ = folder_paths.recursive_search(folder, excluded_dir_names=[".git"])
        found += folder_paths.filter_files_extensions(files, {GGUF_SUFFIX})
    return list(dict.fromkeys([*folder_paths.get_filename_list("diffusion_models"), *sorted(found)]))


def _network_file(name: str, what: str) -> Path:
    released = next((f" Released at {_address(file)}" for file in FILES.values() if file.name == name), "")
    _choose(name, {file: file for file in _network_files()}, what, "models/diffusion_models", released)
    return Path(folder_paths.get_full_path_or_raise("diffusion_models", name))


def _released(*keys: str) -> list[Path]:
    """Where released files are. Raises InputError with the names and pages of those that are missing."""
    files = [FILES[key] for key in keys]
    found = [_place(key) for key in keys]
    missing = [file for file, path in zip(files, found, strict=True) if path is None]
    if missing:
        expected = ", ".join(f"models/{file.folder}/{file.name}" for file in files)
        named = ", ".join(file.name for file in missing)
        pages = " ".join(f"{file.name}: {_address(file)}" for file in missing)
        remedy = f"Save them there and press R, or run `python -m i2vgen_core download cascade`. {pages}"
        raise InputError("the released files", expected, f"no {named}", remedy)
    return [path for path in found if path is not None]


def _place(key: str) -> Path | None:
    """Where a released file is: in its kind's folders, or its part in the published folder; None if in neither."""
    file = folder_paths.get_full_path(FILES[key].folder, FILES[key].name)
    if file is not None:
        return Path(file)
    parts = [path / _PARTS[key] for name, path in _bundle_paths().items() if name == _PUBLISHED and key in _PARTS]
    return next((part for part in parts if part.is_dir()), None)


def _address(file: ReleasedFile) -> str:
    return file.elsewhere or f"{file.page}/resolve/main/{file.file}"


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


def _choose(name: str, choices: dict, what: str, where: str, released: str = "") -> Path:
    if name not in choices:
        found = f"{name[:80]!r}, which is not among the {len(choices)} there"
        raise InputError(what, f"one from {where}", found, f"Put it there and press R, or choose another.{released}")
    return choices[name]
