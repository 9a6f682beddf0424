"""One network of any file as a safetensors file, a portion of its tensors in memory at a time."""

from __future__ import annotations

import logging
import math
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from torch import Tensor

from ..config import REFINERS, Kind
from ..errors import CheckpointError, InputError
from .detect import UNSAID
from .download import released_kind, sha256
from .parts import PartName, find_part, part_tensors, settings_of, signs_of
from .read import PICKLE_SUFFIXES, SAFE_SUFFIXES, read_state_dict
from .scaled import is_scaled
from .unet_keys import StateDict
from .write import DTYPE_NAMES, Entry, SafetensorsWriter

logger = logging.getLogger("i2vgen_xl")

_PORTION = 2**28
"""Bytes of the source that are in memory at once."""


def convert(
    source: Path,
    target: Path,
    *,
    dtype: torch.dtype | None = None,
    part: PartName | None = None,
    kind: Kind | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Writes one network of a file or folder, with metadata, under the names that parts.Part says.

    A file that cannot be mapped (of before torch 1.6, GGUF, or with scaled weights) is read whole; of any other, 256 MiB and one tensor are
    in memory at a time.

    Args:
        source: as for read_state_dict; a folder is that of one network.
        target: a new .safetensors file, which appears when it is whole.
        dtype: of the stored floating-point tensors; as they are if None. In float8_e4m3fn, vectors are float16.
        part: which network; needed where there is more than one.
        kind: decides between kinds of the same tensors; what the source says, or the release's hash, if None. Of a refiner's
            tensors vid2vid_xl is taken if nobody says; of a composer's, none.
        progress: called with bytes done and bytes in all, of the target.

    Raises:
        CheckpointError: unreadable, no such network in it, or weights that are not finite.
        InputError: the target cannot be written, or weights that `dtype` cannot hold.
    """
    state, said = read_state_dict(source)
    settings = settings_of(source, said)
    if "kind" not in settings:
        settings = dict(settings) | released_kind(source)
    part = part or _only_part(source, state)
    found = find_part(state, settings, part, kind)
    if found.metadata["kind"] in REFINERS and not kind and "kind" not in settings:
        logger.warning("%s: %s", source.name, UNSAID)
    layout = _layout(found.tensors, dtype)
    portions = _portions(layout, found.tensors, _PORTION if _is_mapped(source) and not is_scaled(state) else None)
    metadata = {"format": "pt", **found.metadata, **_origin(source)}
    del state
    with SafetensorsWriter(target, layout, metadata) as writer:
        for names in portions:
            tensors = part_tensors(read_state_dict(source)[0], part)  # mapped anew: the last portion's pages are freed
            for name in names:
                writer.add(name, _cast(name, tensors[name], layout[name][1]))
                progress(writer.written, writer.size)
            del tensors


def _only_part(source: Path, state: StateDict) -> PartName:
    names = signs_of(state)
    if len(names) == 1:
        return names[0]
    if not names:
        found = f"{', '.join(list(state)[:3])}, ..."
        remedy = "Choose a file of the I2VGen-XL family, of CLIP or of Stable Diffusion's VAE."
        raise CheckpointError(source.name, "a UNet, a VAE or a CLIP", found, remedy)
    raise CheckpointError(source.name, "one network", ", ".join(names), "Say which one with --part.")


def _layout(tensors: StateDict, dtype: torch.dtype | None) -> dict[str, Entry]:
    """Shape and type of what is written, wide types first: then every tensor lies on a multiple of its type's size."""
    layout = {name: (tensor.shape, _stored_type(tensor, dtype)) for name, tensor in tensors.items()}
    return {name: layout[name] for name in sorted(layout, key=lambda name: -layout[name][1].itemsize)}


def _stored_type(tensor: Tensor, dtype: torch.dtype | None) -> torch.dtype:
    if dtype is None or not tensor.is_floating_point():
        return tensor.dtype
    return torch.float16 if dtype.itemsize == 1 and tensor.ndim < 2 else dtype


def _portions(layout: Iterable[str], tensors: StateDict, limit: int | None) -> list[list[str]]:
    """The names in order, as many together as hold `limit` bytes of the source, at least one; all if None."""
    portions: list[list[str]] = [[]]
    size = 0
    for name in layout:
        if limit is not None and size + tensors[name].nbytes > limit and portions[-1]:
            portions.append([])
            size = 0
        portions[-1].append(name)
        size += tensors[name].nbytes
    return portions


def _is_mapped(source: Path) -> bool:
    """Whether opening it reads no weights."""
    files = _files(source)
    return all(file.suffix in SAFE_SUFFIXES or zipfile.is_zipfile(file) for file in files)


def _origin(source: Path) -> dict[str, str]:
    """Names and hashes of the files, those of all weight files of a folder."""
    files = _files(source)
    return {"source": ", ".join(file.name for file in files), "source_sha256": ", ".join(map(sha256, files))}


def _files(source: Path) -> list[Path]:
    if source.is_file():
        return [source]
    return sorted(file for file in source.iterdir() if file.suffix in SAFE_SUFFIXES + PICKLE_SUFFIXES)


def _cast(name: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Raises CheckpointError for weights that are not finite, InputError for those that `dtype` cannot hold."""
    if not tensor.is_floating_point():
        return tensor
    largest = max(abs(bound.item()) for bound in tensor.float().aminmax()) if tensor.numel() else 0.0
    if not math.isfinite(largest):
        remedy = "The file is damaged: use the released one."
        raise CheckpointError(f"tensor {name}", "finite weights", "NaN or infinite ones", remedy)
    if largest > torch.finfo(dtype).max:
        expected = f"weights of at most {torch.finfo(dtype).max:g}, for {DTYPE_NAMES[dtype]}"
        raise InputError(f"tensor {name}", expected, f"{largest:g}", "Choose another --dtype, bf16 for example.")
    return tensor.to(dtype)
