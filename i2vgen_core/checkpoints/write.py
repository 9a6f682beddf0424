"""Writes a safetensors file tensor by tensor, so that no more than one of them need be in memory.

The format: the header's length in 8 bytes, the header as JSON, then the tensors without gaps
(https://github.com/huggingface/safetensors#format).
"""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from ..errors import InputError

DTYPE_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
"""Types as the format names them."""

Entry = tuple[torch.Size, torch.dtype]

_OTHER_PLACE = "Choose another folder."


class SafetensorsWriter:
    """A new file that appears under its name when it is whole, and not before.

    As a context: `add` every tensor of `layout`, in its order. What is written goes into a file beside `path` whose
    name ends with `.part`; it is renamed at the end, and removed if an error ends the context.

    Args:
        path: must not be there yet.
        layout: shape and type of each tensor, by name.
        metadata: text by name.

    Attributes:
        size: bytes of the whole file.
        written: bytes so far.

    Raises:
        InputError: `path` is there already, or cannot be written, or is larger than what is free there.
    """

    def __init__(self, path: Path, layout: Mapping[str, Entry], metadata: Mapping[str, str]):
        self.path = path
        self._layout = dict(layout)
        self._header = header_of(layout, metadata)
        self._left = list(layout)
        self.size = len(self._header) + sum(map(_bytes, layout.values()))
        self.written = 0
        _check_place(path, self.size)

    def __enter__(self) -> SafetensorsWriter:
        self._temporary = self.path.with_name(f"{self.path.name}.{uuid.uuid4().hex[:8]}.part")
        try:
            self._file = self._temporary.open("xb")
        except OSError as error:
            raise InputError("output file", "a place that can be written", str(error), _OTHER_PLACE) from error
        self.written = self._file.write(self._header)
        return self

    def add(self, name: str, tensor: Tensor) -> None:
        """Writes the next tensor of the layout. Raises ValueError for any other."""
        if not self._left or name != self._left[0] or self._layout[name] != (tensor.shape, tensor.dtype):
            raise ValueError(f"{name} {tuple(tensor.shape)} {tensor.dtype} is not what the header says")
        del self._left[0]
        self.written += self._file.write(bytes_of(tensor))

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                if self._left:
                    raise ValueError(f"{len(self._left)} tensors were not written")
                self._file.flush()
                os.fsync(self._file.fileno())
                self._file.close()
                os.replace(self._temporary, self.path)
        finally:
            self._file.close()
            self._temporary.unlink(missing_ok=True)


def _bytes(entry: Entry) -> int:
    shape, dtype = entry
    return shape.numel() * dtype.itemsize


def _check_place(path: Path, size: int) -> None:
    if path.exists() or not path.parent.is_dir():
        found = f"{path.name}, which is there already" if path.exists() else f"no folder {path.parent}"
        raise InputError("output file", "a new file in a folder that exists", found, "Choose another name.")
    if path.suffix != ".safetensors":
        raise InputError("output file", "a name that ends with .safetensors", path.name, "Choose another name.")
    free = shutil.disk_usage(path.parent).free
    if free < size:
        raise InputError("output file", f"room for {size / 1e9:.2f} GB", f"{free / 1e9:.2f} GB free", _OTHER_PLACE)


def bytes_of(tensor: Tensor) -> memoryview:
    """A tensor's numbers as the format has them."""
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data


def header_of(layout: Mapping[str, Entry], metadata: Mapping[str, str]) -> bytes:
    """What a file begins with: shape, type and place of each tensor, by name, and the metadata."""
    entries: dict[str, object] = {"__metadata__": dict(metadata)}
    start = 0
    for name, entry in layout.items():
        end = start + _bytes(entry)
        entries[name] = {"dtype": DTYPE_NAMES[entry[1]], "shape": list(entry[0]), "data_offsets": [start, end]}
        start = end
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text
