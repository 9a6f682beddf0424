"""Where ComfyUI looks for models: its models folder, and what extra_model_paths.yaml adds to it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from ..errors import InputError

EXTRA_PATHS = "extra_model_paths.yaml"

_OWN = {"diffusion_models": ("diffusion_models", "unet"), "text_encoders": ("text_encoders", "clip")}
"""Folders of a kind inside the models folder, where it is not the kind's name alone."""

_OLDER = {"unet": "diffusion_models", "clip": "text_encoders"}
"""ComfyUI's older names of kinds, which extra_model_paths.yaml may have."""


def default_models() -> Path:
    """The models folder of the ComfyUI whose custom_nodes hold this pack.

    Raises:
        InputError: the pack lies elsewhere.
    """
    pack = Path(__file__).parents[2]
    if pack.parent.name != "custom_nodes":
        remedy = "Say where with --to, for example --to ComfyUI/models."
        raise InputError("models folder", "this pack in ComfyUI/custom_nodes, or --to", str(pack), remedy)
    return pack.parent.parent / "models"


def model_paths(models: Path, kind: str) -> list[Path]:
    """Folders of a kind, the one that new files go to first.

    Args:
        models: ComfyUI's models folder; extra_model_paths.yaml lies beside it.
        kind: as ComfyUI calls it: diffusion_models, text_encoders, clip_vision, vae.

    Raises:
        InputError: `models` is not there, or extra_model_paths.yaml is not what ComfyUI reads.
    """
    if not models.is_dir():
        raise InputError("models folder", "a folder", str(models), "Say where ComfyUI's models are with --to.")
    paths = [models / name for name in _OWN.get(kind, (kind,))]
    for extra, is_default in _extra_paths(models.parent / EXTRA_PATHS, kind):
        paths.insert(0 if is_default else len(paths), extra)
    return paths


def _extra_paths(file: Path, kind: str) -> Iterator[tuple[Path, bool]]:
    """Paths of a kind, and whether they go before ComfyUI's own."""
    for name, section in _sections(file).items():
        if section is None:
            continue
        if not isinstance(section, dict):
            raise _wrong(file, f"{name}: {section!r}")
        wanted = [key for key in section if _OLDER.get(key, key) == kind]
        for key in ("base_path", *wanted):
            if not isinstance(section.get(key, ""), str):
                raise _wrong(file, f"{key}: {section[key]!r}")
        base = file.parent / os.path.expandvars(os.path.expanduser(section.get("base_path", "")))
        for path in (path for key in wanted for path in section[key].split("\n") if path):
            yield Path(os.path.abspath(base / path)), bool(section.get("is_default"))


def _sections(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (ValueError, yaml.YAMLError) as error:
        raise _wrong(file, str(error)) from error
    if not isinstance(content, dict):
        raise _wrong(file, type(content).__name__)
    return content


def _wrong(file: Path, found: str) -> InputError:
    return InputError(file.name, "sections of paths by kind", found[:120], "Correct it, or move it away.")
