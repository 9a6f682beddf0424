"""Reads GGUF files: the header here, strictly; the quantised weights through the package gguf, which is optional.

The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. Files of ComfyUI's converters store some tensors
in another shape, and the true one under `comfy.gguf.orig_shape.NAME`.
"""

from __future__ import annotations

import importlib.util
import math
import mmap
import struct
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np
import torch
from torch import Tensor

from ..errors import CheckpointError

GGUF_SUFFIX = ".gguf"

_VERSIONS = (2, 3)
_HEADER_LIMIT = 2**22
"""Bytes of a header; a network of this family has less than a tenth of it."""

_STRING, _ARRAY = 8, 9
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
"""Formats of struct, by the format's numbers of types."""

_ORIGINAL_SHAPE = "comfy.gguf.orig_shape."
_DIMENSIONS = 8
_PLAIN = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


@dataclass(frozen=True)
class GGUFTensor:
    """Where a tensor is in its file.

    Args:
        shape: as torch has it, slowest axis first.
        type_name: F32, F16, Q8_0, Q4_K, ...
        row: its numbers that are stored next to each other, the last axis of the shape that is stored.
        start, end: bytes in the file.
    """

    shape: torch.Size
    type_name: str
    row: int
    start: int
    end: int


def read_gguf(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """All tensors of a file, dequantised, and its text metadata.

    Returns:
        Tensors in the type they are stored in (float32, float16, bfloat16); quantised ones as float16.

    Raises:
        CheckpointError: not a whole GGUF file, a type that cannot be read, or no package gguf.
    """
    tensors, metadata = read_gguf_header(path)
    data = np.memmap(path, mode="r")
    return {name: _dequantised(path, data, tensor) for name, tensor in tensors.items()}, metadata


def read_gguf_header(path: Path) -> tuple[dict[str, GGUFTensor], dict[str, str]]:
    """What a file holds, without its weights. Raises CheckpointError as read_gguf does."""
    if importlib.util.find_spec("gguf") is None:
        remedy = "Install it into the same environment: pip install gguf"
        raise CheckpointError(f"file {path.name}", "the package gguf, which reads such files", "none", remedy)
    size = path.stat().st_size
    with path.open("rb") as file:
        if size < len(b"GGUF"):
            _refuse(path, f"{size} bytes")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return _Header(path, content[:_HEADER_LIMIT], size).read()


class _Row(NamedTuple):
    """A tensor as the header has it.

    Args:
        axes: the fastest one first.
        kind: the type's number.
        offset: bytes from the first tensor.
    """

    name: str
    axes: tuple[int, ...]
    kind: int
    offset: int


class _Header:
    """A cursor over the first bytes of a file that refuses to read past them."""

    def __init__(self, path: Path, content: bytes, size: int):
        self.path, self.content, self.size, self.at = path, content, size, 0

    def read(self) -> tuple[dict[str, GGUFTensor], dict[str, str]]:
        magic = self.bytes(4)
        version = self.number("I")
        if magic != b"GGUF" or version not in _VERSIONS:
            _refuse(self.path, f"{magic!r}, version {version}")
        tensor_count, value_count = self.number("Q"), self.number("Q")
        values: dict[str, Any] = {}
        for _ in range(value_count):  # each takes bytes, and there are no more than _HEADER_LIMIT
            name = self.text()
            values[name] = self.value(self.number("I"))
        rows = [self.tensor() for _ in range(tensor_count)]
        if len({row.name for row in rows}) < len(rows):
            _refuse(self.path, "two tensors of one name")
        alignment = values.get("general.alignment", 32)
        if not isinstance(alignment, int) or alignment < 1:
            _refuse(self.path, f"an alignment of {alignment}")
        start = math.ceil(self.at / alignment) * alignment
        tensors = {row.name: self.placed(row, start, values) for row in rows}
        if sum(tensor.end - tensor.start for tensor in tensors.values()) > self.size - start:
            _refuse(self.path, "tensors that lie over each other")
        return tensors, {name: value for name, value in values.items() if isinstance(value, str)}

    def bytes(self, count: int) -> bytes:
        if count > len(self.content) - self.at:
            _refuse(self.path, f"a header that ends before byte {self.at + count}")
        self.at += count
        return self.content[self.at - count : self.at]

    def number(self, letter: str) -> Any:
        return struct.unpack(f"<{letter}", self.bytes(struct.calcsize(f"<{letter}")))[0]

    def text(self) -> str:
        return self.bytes(self.number("Q")).decode("utf-8", errors="replace")

    def value(self, kind: int) -> Any:
        if kind == _STRING:
            return self.text()
        if kind == _ARRAY:
            kind, count = self.number("I"), self.number("Q")
            if kind == _STRING:
                return [self.text() for _ in range(count)]
            letter = self.letter(kind)
            return list(struct.unpack(f"<{count}{letter}", self.bytes(count * struct.calcsize(f"<{letter}"))))
        return self.number(self.letter(kind))

    def letter(self, kind: int) -> str:
        if kind not in _SCALARS:
            _refuse(self.path, f"a value of type {kind}")
        return _SCALARS[kind]

    def tensor(self) -> _Row:
        name, dimensions = self.text(), self.number("I")
        if dimensions > _DIMENSIONS:
            _refuse(self.path, f"a tensor of {dimensions} axes")
        axes = struct.unpack(f"<{dimensions}Q", self.bytes(8 * dimensions))
        return _Row(name, axes, self.number("I"), self.number("Q"))

    def placed(self, row: _Row, data: int, values: dict[str, Any]) -> GGUFTensor:
        """Where a tensor is, `data` being where the first one starts."""
        types = _types()
        if row.kind not in types:
            _refuse(self.path, f"a tensor of type {row.kind}")
        type_name, block, block_bytes = types[row.kind]
        count, length = _product(row.axes), row.axes[0] if row.axes else 1
        shape = values.get(_ORIGINAL_SHAPE + row.name, row.axes[::-1])
        start = data + row.offset
        end = start + count // block * block_bytes
        if count < 1 or length % block or end > self.size or _product(shape) != count:
            _refuse(self.path, f"a tensor of shape {repr(shape)[:80]} at bytes {start} to {end}")
        return GGUFTensor(torch.Size(shape), type_name, length, start, end)


@cache
def _types() -> dict[int, tuple[str, int, int]]:
    """By the format's numbers: the name, numbers in a block, bytes of a block."""
    from gguf.constants import GGML_QUANT_SIZES

    return {kind.value: (kind.name, *sizes) for kind, sizes in GGML_QUANT_SIZES.items()}


def _product(shape: Any) -> int:
    """Of sizes of 1 and more; 0 of anything else."""
    sizes = shape if isinstance(shape, (list, tuple)) else [0]
    return math.prod(sizes) if all(isinstance(size, int) and size > 0 for size in sizes) else 0


def _dequantised(path: Path, data: np.ndarray, tensor: GGUFTensor) -> Tensor:
    stored = data[tensor.start : tensor.end]
    if tensor.type_name in _PLAIN:
        return torch.from_numpy(np.array(stored)).view(_PLAIN[tensor.type_name]).reshape(tensor.shape)
    from gguf.constants import GGMLQuantizationType
    from gguf.quants import dequantize

    rows = stored.reshape(tensor.shape.numel() // tensor.row, -1)
    try:
        with np.errstate(all="ignore"):  # damaged scales give NaN, which is refused with the weights
            values = dequantize(rows, GGMLQuantizationType[tensor.type_name])
    except (NotImplementedError, ValueError) as error:
        _refuse(path, f"weights of type {tensor.type_name}", error)
    return torch.from_numpy(values).to(torch.float16).reshape(tensor.shape)


def _refuse(path: Path, found: str, error: Exception | None = None) -> NoReturn:
    expected = f"a whole GGUF file of version {_VERSIONS[0]} or {_VERSIONS[1]}"
    raise CheckpointError(f"file {path.name}", expected, found, "Download the file again.") from error
