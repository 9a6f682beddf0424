"""Reads PyTorch's own files (.pth, .pt, .bin, .ckpt), hostile ones among them.

Three lines of defence. `torch.load` runs with `weights_only=True` alone, which calls nothing but what torch lists.
Before it, the container and the pickles are looked through as data: which names they refer to, how large and how deep
they are, so that a file cannot make torch write, hang or fill the memory. After it, the tensors together must be no
larger than the file can be.
"""

from __future__ import annotations

import io
import os
import pickle
import pickletools
import struct
import sys
import tarfile
import zipfile
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING  # Python 2's names, as pickle and torch read them
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from ..errors import CheckpointError
from .check import check_memory, named

_MOST_LEGACY_HEAD = 2**23
_MOST_DIRECTORY = 2**22
_MOST_OPERATIONS = 300_000
"""A training of this family has 1500 tensors, their moving average and three of the optimizer each: 240,000."""
_MOST_WEIGHT = 10_000
_NESTED = 4
_LEGACY_PICKLES = 5
_LEGACY_START = pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2)
"""How torch began its files before 1.6 (torch/serialization.py, MAGIC_NUMBER): a pickle of this number, then of the
format's version, the system's sizes, the content, and the names of the storages; then the storages themselves."""


# The names of torch's own list that state dicts need; what is left out can allocate or set what a file likes.
_OF_TORCH = {
    "collections.OrderedDict",  # state dicts, and the empty backward hooks of every tensor
    "collections.Counter",  # milestones of a learning rate schedule
    "_codecs.encode",  # bytes: the value of a numpy scalar
    "torch.Size",
    "torch.device",  # of a training's settings
    "torch._utils._rebuild_tensor_v2",  # a view of a storage, bounds checked by torch
    "torch._utils._rebuild_tensor_v3",  # the same for newer types, of 8 bits for example
    "torch._utils._rebuild_parameter",  # the same as a Parameter
    "torch.storage.UntypedStorage",
}
_TORCH_TYPES = {str(value) for value in vars(torch).values() if isinstance(value, torch.dtype)}
_TORCH_STORAGES = {f"torch.{name}" for name in vars(torch) if name.endswith("Storage")}
_ALLOWED = _OF_TORCH | _TORCH_TYPES | _TORCH_STORAGES

# What else trainings leave in a checkpoint beside the weights: their callbacks, settings and optimizers. Any name of
# another package is one of these; in Stable Diffusion 2.1's (whose eight names its page on the Hub lists) they are
# pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint, numpy.core.multiarray.scalar and numpy.dtype. It is safe because an empty class of this file is there in its
# place: the package is not imported, and nothing of it is run. Of Python's own names and of torch's only these are taken
# so; the rest is refused, since no training's state needs them, and torch would call some.
_OF_TRAININGS = {
    "argparse.Namespace",
    "collections.defaultdict",
    "pathlib.PosixPath",
    "pathlib.WindowsPath",
    "pathlib._local.PosixPath",
    "pathlib._local.WindowsPath",
    "typing.Any",
    *(f"builtins.{name}" for name in ("bool", "dict", "float", "int", "list", "str", "tuple")),
}
_OPTIMIZERS = "torch.optim."
_DICTIONARIES = {
    "collections.defaultdict",
    "lightning_fabric.utilities.data.AttributeDict",
    "pytorch_lightning.utilities.parsing.AttributeDict",
}
"""Their entries are set one by one, which torch does with plain dictionaries alone."""
_MOST_STAND_INS = 30


class _Inert:
    """Stands in for an object that a file describes and nothing here reads."""

    def __init__(self, *_: object):
        pass

    def __setstate__(self, state: object) -> None:
        pass


class _InertDictionary:
    def __new__(cls, *_: object) -> Any:
        return {}


def _stand_in(full_name: str) -> type:
    module, _, name = full_name.rpartition(".")
    base = _InertDictionary if full_name in _DICTIONARIES else _Inert
    return type(name, (base,), {"__module__": module, "__qualname__": name})


# Operations that torch's reader knows (torch/_weights_only_unpickler.py).
_OPERATIONS = {
    "APPEND", "APPENDS", "BINFLOAT", "BINGET", "BININT", "BININT1", "BININT2", "BINPERSID", "BINPUT", "BINUNICODE",
    "BUILD", "EMPTY_DICT", "EMPTY_LIST", "EMPTY_SET", "EMPTY_TUPLE", "GLOBAL", "LONG1", "LONG_BINGET", "LONG_BINPUT",
    "MARK", "NEWFALSE", "NEWOBJ", "NEWTRUE", "NONE", "PROTO", "REDUCE", "SETITEM", "SETITEMS", "SHORT_BINSTRING",
    "STOP", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3",
}  # fmt: skip


def read_pickled(path: Path) -> dict[str, Tensor]:
    """Tensors by name, on the CPU; mapped from the file if torch 1.6 or later wrote it.

    Raises:
        CheckpointError: more than tensors and plain values, damaged, or made to overload the reader.
    """
    content = _load(path)
    for _ in range(_NESTED):
        if not isinstance(content, Mapping) or not isinstance(content.get("state_dict"), Mapping):
            break
        content = content["state_dict"]
    items = content.items() if isinstance(content, Mapping) else ()
    tensors = {key: value.detach() for key, value in items if isinstance(key, str) and isinstance(value, Tensor)}
    if not tensors:
        remedy = "Use the file of the network's weights."
        raise CheckpointError(f"file {path.name}", "a state dict", type(content).__name__, remedy)
    size, most = sum(map(_bytes, tensors.values())), path.stat().st_size
    if size > most:  # many names of one tensor, which would be as many tensors once they are cast
        raise _refusal(path, f"tensors of {size} bytes in a file of {most}")
    return tensors


def _bytes(value: Tensor) -> int:
    return value.numel() * value.element_size()


def _load(path: Path) -> Any:
    try:
        zipped, names = _check(path)
        with _stand_ins(names):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except Exception as error:  # whatever a damaged or hostile file makes torch, zipfile or pickletools raise
        check_memory(path, error)
        message = str(error).strip()
        raise _refusal(path, message.splitlines()[0] if message else type(error).__name__) from error


def _refusal(path: Path, found: str) -> CheckpointError:
    remedy = "It may hold more than tensors: use the safetensors form of this model, or download it again."
    return CheckpointError(f"file {named(path.name)}", "a PyTorch file of tensors alone", named(found), remedy)


@contextmanager
def _stand_ins(names: set[str]) -> Iterator[None]:
    """Lets torch know a stand-in for each name, and nothing else, while one file is read: what a host let torch know
    (ComfyUI has a class of Lightning's and numpy's scalar there) would be made in the place of a stand-in.
    """
    before = torch.serialization.get_safe_globals()
    torch.serialization.clear_safe_globals()
    torch.serialization.add_safe_globals([_stand_in(name) for name in names])
    try:
        yield
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(before)


def _check(path: Path) -> tuple[bool, set[str]]:
    """Looks a file through. Raises ValueError for what is refused.

    Returns:
        True for a zip file, False for torch's older form; and the names that need a stand-in.
    """
    with path.open("rb") as file:
        start = file.read(len(_LEGACY_START))
        if start.startswith(b"PK\x03\x04"):
            return True, _check_pickle(_zipped_pickle(file))
        if start != _LEGACY_START:
            raise ValueError("neither a zip file nor torch's older form")
        head = io.BytesIO(start + file.read(_MOST_LEGACY_HEAD))
    if tarfile.is_tarfile(path):  # torch would write what is in it into a temporary folder
        raise ValueError("a tar file")
    return False, set().union(*(_check_pickle(head) for _ in range(_LEGACY_PICKLES)))


def _zipped_pickle(file: BinaryIO) -> BinaryIO:
    """The one pickle of a zip file that torch wrote: nothing compressed, nothing twice, nothing larger than the file."""
    _check_directory(file)
    size = file.seek(0, os.SEEK_END)
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
        names = [entry.filename for entry in entries]
        if len(set(names)) < len(names):
            raise ValueError("two entries of one name")
        if any(entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1 for entry in entries):
            raise ValueError("compressed or encrypted entries")
        if sum(max(entry.file_size, entry.compress_size) for entry in entries) > size:
            raise ValueError("entries larger than the file")
        if min((entry.header_offset for entry in entries), default=1):
            raise ValueError("something before the first entry")
        pickles = [entry for entry in entries if entry.filename.endswith(".pkl")]
        if [entry.filename.partition("/")[2] for entry in pickles] != ["data.pkl"]:
            raise ValueError(f"{len(pickles)} pickles, not data.pkl alone")
        return io.BytesIO(archive.read(pickles[0]))


def _check_directory(file: BinaryIO) -> None:
    """Raises ValueError unless a zip file ends with its directory's end, and the directory is of a usual size."""
    end = file.seek(0, os.SEEK_END)
    file.seek(max(0, end - 22))
    record = file.read()
    if len(record) < 22 or record[:4] != b"PK\x05\x06" or record[20:] != b"\0\0":
        raise ValueError("no zip directory at the end: the file is cut short")
    sizes = [struct.unpack("<I", record[12:16])[0]]
    file.seek(max(0, end - 22 - 20 - 56))
    large = file.read(56 + 4)  # the form of large files, which goes before the other where it is there
    if large[56:] == b"PK\x06\x07":
        if large[:4] != b"PK\x06\x06":
            raise ValueError("no zip directory where the file's end says")
        sizes.append(struct.unpack("<Q", large[40:48])[0])
    if max(sizes) > _MOST_DIRECTORY:
        raise ValueError(f"a zip directory of {max(sizes)} bytes")


def _check_pickle(stream: BinaryIO) -> set[str]:
    """The names that need a stand-in. Raises ValueError for a pickle that does more than state dicts and a training's
    state need. Nothing of it is run.

    A model of the reader's stack holds how many values a nested tuple has, since a few bytes can nest one so that to
    hash it takes for ever; 0 stands for a name, which alone may be called.
    """
    stack: list[int] = []
    marks: list[int] = []
    memory: dict[int, int] = {}
    stand_ins: set[str] = set()
    argument: Any
    for count, (operation, argument, _) in enumerate(pickletools.genops(stream)):
        name = operation.name
        if name not in _OPERATIONS or count > _MOST_OPERATIONS:
            raise ValueError(f"a pickle of more than {_MOST_OPERATIONS} steps" if count > _MOST_OPERATIONS else name)
        if name == "GLOBAL" and (full_name := _full_name(argument)) not in _ALLOWED:
            stand_ins.add(full_name)
            if not _needs_no_more_than_a_stand_in(full_name) or len(stand_ins) > _MOST_STAND_INS:
                raise ValueError(f"a reference to {full_name}")
        if name == "MARK":
            marks.append(len(stack))
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(memory[argument])
        elif name in ("BINPUT", "LONG_BINPUT"):
            memory[argument] = stack[-1]
        else:
            _step(operation, stack, marks)
    return stand_ins


def _full_name(argument: str) -> str:
    """What GLOBAL refers to, under Python 3's name, which torch reads instead of Python 2's."""
    module, _, name = argument.partition(" ")
    module, name = NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name))
    return f"{module}.{name}"


def _needs_no_more_than_a_stand_in(full_name: str) -> bool:
    root = full_name.partition(".")[0]
    if root == "torch":
        return full_name.startswith(_OPTIMIZERS)
    return full_name in _OF_TRAININGS or root not in sys.stdlib_module_names


def _step(operation: pickletools.OpcodeInfo, stack: list[int], marks: list[int]) -> None:
    """Takes off the model of the stack what an operation takes, and puts on it what it makes."""
    before = operation.stack_before
    to_mark = pickletools.markobject in before
    below = before.index(pickletools.markobject) if to_mark else len(before)
    bottom = (marks.pop() if to_mark else len(stack)) - below
    if bottom < 0:
        raise ValueError("a pickle that takes more than it has")
    taken = stack[bottom:]
    if operation.name in ("REDUCE", "NEWOBJ") and taken[0]:
        raise ValueError("a call of something other than a name")
    del stack[bottom:]
    weight = 1 + sum(taken) if operation.name.startswith("TUPLE") else int(operation.name != "GLOBAL")
    if weight > _MOST_WEIGHT:
        raise ValueError("tuples within tuples")
    stack.extend(weight for _ in operation.stack_after)
