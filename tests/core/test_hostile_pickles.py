"""Hostile PyTorch files: none runs anything, overloads its reader, or leaves stand-ins behind; trainings' files still load."""

import argparse
import io
import os
import pickle
import random
import struct
import sys
import tarfile
import tempfile
import types
import zipfile
from collections import defaultdict
from pathlib import Path
from typing import ClassVar

import hostile
import numpy
import pytest
import released
import torch
import toy
from hostile import refusal
from released import Call, Name

from i2vgen_core.checkpoints.read import read_state_dict


def reduce(module, name, *arguments):
    return Call(Name(module, name), arguments)


def nested(levels):
    """A dictionary whose key is a tuple that holds itself twice a level: some bytes, and 2 ** levels values."""
    twice = b"".join(pickle.BINPUT + bytes([n]) + pickle.BINGET + bytes([n]) + pickle.TUPLE2 for n in range(levels))
    return pickle.PROTO + b"\x02" + pickle.EMPTY_DICT + pickle.EMPTY_TUPLE + twice + pickle.NONE + pickle.SETITEM + b"."


def deep(levels):
    stream = pickle.PROTO + b"\x02" + pickle.EMPTY_DICT + pickle.EMPTY_TUPLE + pickle.TUPLE1 * levels
    return stream + pickle.NONE + pickle.SETITEM + pickle.STOP


def cyclic():
    value = {"a": torch.ones(2)}
    value["state_dict"] = value
    return value


def storage(numel):
    """A tensor whose shape is larger than anything: one number, seen again and again."""
    return torch.ones(1).expand(numel)


CONTENTS = {
    # what it is: content, what the message says of it
    "calls os.system": ({"a": reduce("posix", "system", "echo")}, "a reference to posix.system"),
    "calls eval": ({"a": reduce("builtins", "eval", "1")}, "a reference to builtins.eval"),
    "calls torch.hub": ({"a": reduce("torch.hub", "load", "x", "y")}, "a reference to torch.hub.load"),
    "reads a file": ({"a": reduce("io", "open", "/etc/passwd")}, "a reference to io.open"),
    "calls what Python 2 called otherwise": (
        {"a": reduce("__builtin__", "bytearray", 2**40)},
        "a reference to builtins.bytearray",
    ),
    "allocates": ({"a": reduce("builtins", "bytearray", 2**40)}, "a reference to builtins.bytearray"),
    "makes a tensor of any size": ({"a": reduce("torch", "Tensor", 2**20, 2**20)}, "a reference to torch.Tensor"),
    "makes a sparse tensor": ({"a": reduce("torch._utils", "_rebuild_sparse_tensor", 1, 2)}, "_rebuild_sparse_tensor"),
    "a name of torch's that no training needs": ({"a": reduce("torch.nn", "Linear", 2, 2)}, "torch.nn.Linear"),
    "names without end": ({"a": [Name(f"some{n}.package", "x") for n in range(40)]}, "a reference to some30.package.x"),
    "a tensor seen again and again": ({"a": storage(2**40)}, "tensors of"),
    "two names of one tensor": (dict.fromkeys("ab", torch.ones(2**16)), "tensors of 524288 bytes in a file of 26"),
    "nothing but itself": (cyclic(), None),
    "no tensors": ({"state_dict": {"a": [1]}}, "expected a state dict"),
    "names that are no text": ({1: torch.ones(2), ("a", "b"): torch.ones(2)}, "expected a state dict"),
}


@pytest.mark.parametrize("old", [False, True], ids=["zip", "before torch 1.6"])
@pytest.mark.parametrize("what", CONTENTS)
def test_a_pickle_that(tmp_path, what, old):
    content, message = CONTENTS[what]
    path = tmp_path / "model.pth"
    released.save(content, path, _use_new_zipfile_serialization=not old)
    if message is None:
        assert list(read_state_dict(path)[0]) == ["a"]
    else:
        assert message in refusal(path)


@pytest.mark.parametrize("name", ["callbacks.model_checkpoint.ModelCheckpoint", "os.system"])
@pytest.mark.parametrize("call", ["__reduce__", "stand-in with state"])
def test_lightning_objects_stand_for_nothing(tmp_path, call, name):
    """What is Lightning's by its name is an empty class here, whatever a file makes of it."""
    module, _, name = f"pytorch_lightning.{name}".rpartition(".")
    name = Name(module, name)
    made = Call(name, ("sh", "-c", "echo"), {"__class__": 1, "path": "/etc/passwd"} if "state" in call else None)
    before = set(torch.serialization.get_safe_globals())
    released.save({"state_dict": {"a": torch.ones(2)}, "callbacks": {"x": made}}, tmp_path / "model.ckpt")
    with hostile.watched():
        assert list(read_state_dict(tmp_path / "model.ckpt")[0]) == ["a"]
    assert "pytorch_lightning" not in sys.modules
    assert set(torch.serialization.get_safe_globals()) == before


class Trap:
    """Tells when it is made or filled, which unpickling must not do."""

    seen: ClassVar[list[str]] = []

    def __init__(self, **state):
        self.__dict__.update(state)

    def __new__(cls, *_, **__):
        cls.seen.append("made")
        return super().__new__(cls)

    def __setstate__(self, state):
        self.seen.append("filled")


@pytest.fixture
def trainer(monkeypatch):
    """A package with Trap's kind of classes; to be taken away before the file is read, or left there."""
    module = types.ModuleType("some_trainer")
    for name in ("Callback", "Settings", "AttributeDict"):
        base = (dict,) if name == "AttributeDict" else ()
        setattr(module, name, type(name, (Trap, *base), {"__module__": module.__name__}))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(Trap, "seen", [])
    return module


def training_state(trainer):
    """What trainings leave beside the weights, each under the key it usually has."""
    parameter = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.AdamW([parameter])
    parameter.sum().backward()
    optimizer.step()
    return {
        "optimizer_states": [optimizer.state_dict()],
        "optimizer": optimizer,
        "lr_schedulers": [torch.optim.lr_scheduler.StepLR(optimizer, 3).state_dict()],
        "callbacks": {trainer.Callback: trainer.Callback(best=numpy.float64(0.1), path=Path("a") / "b")},
        "hyper_parameters": {"args": argparse.Namespace(lr=1e-4, out=Path("out")), "own": trainer.Settings(a=[1])},
        "random_states": (numpy.random.RandomState(0).get_state(), torch.get_rng_state(), random.Random(0).getstate()),
        "counts": defaultdict(int, a=1),
        "precision": torch.float16,
        "device": torch.device("cpu"),
        "epoch": 3,
    }


@pytest.mark.parametrize("installed", [True, False], ids=["its packages are there", "they are not"])
@pytest.mark.parametrize("old", [False, True], ids=["zip", "before torch 1.6"])
def test_what_a_training_leaves_beside_the_weights(tmp_path, monkeypatch, trainer, old, installed):
    """Tensors load, and no class of the training is imported, made or filled."""
    path, state = tmp_path / "last.ckpt", {"a": torch.arange(5.0), "b": torch.ones(2).half()}
    content = {"state_dict": released.module_state(state), **training_state(trainer)}
    torch.save(content, path, _use_new_zipfile_serialization=not old)
    Trap.seen.clear()
    torch.load(path, weights_only=False)
    assert {"made", "filled"} <= set(Trap.seen)
    Trap.seen.clear()
    if not installed:
        monkeypatch.delitem(sys.modules, trainer.__name__)
    with hostile.watched():
        read, _ = read_state_dict(path)
    assert toy.same(read, state)
    assert Trap.seen == []


def test_what_the_host_lets_torch_make_is_not_made(tmp_path, trainer):
    """ComfyUI has a class by the name of Lightning's callback among torch's safe ones. Torch keeps them in a set: of many
    of one name, the stand-in would seldom be the one that is taken.
    """
    content = {"state_dict": {"a": torch.ones(2)}, "callbacks": {"x": trainer.Callback(best=1)}}
    torch.save(content, tmp_path / "last.ckpt")
    Trap.seen.clear()
    before = torch.serialization.get_safe_globals()
    safe = [type("Callback", (Trap,), {"__module__": trainer.__name__}) for _ in range(30)]
    torch.serialization.add_safe_globals(safe)
    try:
        assert list(read_state_dict(tmp_path / "last.ckpt")[0]) == ["a"]
        assert set(safe) <= set(torch.serialization.get_safe_globals())
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(before)
    assert Trap.seen == []


@pytest.mark.parametrize("name", ["pytorch_lightning.utilities.parsing", "lightning_fabric.utilities.data"])
def test_settings_in_a_dictionary_of_lightnings(tmp_path, monkeypatch, name):
    parts = name.split(".")
    with monkeypatch.context() as packages:
        for count in range(1, len(parts) + 1):
            module = types.ModuleType(".".join(parts[:count]))
            packages.setitem(sys.modules, module.__name__, module)
        module.AttributeDict = type("AttributeDict", (dict,), {"__module__": name})
        content = {"state_dict": {"a": torch.ones(2)}, "hyper_parameters": module.AttributeDict(lr=1e-4)}
        torch.save(content, tmp_path / "last.ckpt")
    assert list(read_state_dict(tmp_path / "last.ckpt")[0]) == ["a"]


def test_stand_ins_are_gone_after_a_file(tmp_path):
    released.save({"a": torch.ones(2), "b": reduce("some.package", "Thing")}, tmp_path / "model.pth")
    before = set(torch.serialization.get_safe_globals())
    read_state_dict(tmp_path / "model.pth")
    assert set(torch.serialization.get_safe_globals()) == before
    with pytest.raises(pickle.UnpicklingError, match=r"some\.package\.Thing"):
        torch.load(tmp_path / "model.pth", weights_only=True)


def many_calls(count):
    """A pickle that calls thirty names of other packages, again and again."""
    names = b"".join(b"csome%d.package\nx\nq%c" % (n, n) for n in range(30))
    return b"\x80\x02" + names + b"]" + b"".join(b"h%c)Ra" % (n % 30) for n in range(count)) + b"."


def rezipped(data, change, kind=zipfile.ZIP_STORED):
    """A zip file with its entries, (name, bytes), changed."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        entries = [(info.filename, archive.read(info)) for info in archive.infolist()]
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", kind) as archive:
        for name, part in change(entries):
            archive.writestr(zipfile.ZipInfo(name), part, kind)
    return buffer.getvalue()


def pickle_as(stream):
    return lambda entries: [(name, stream if name.endswith(".pkl") else part) for name, part in entries]


WHOLE = hostile.zipped({"a": torch.ones(2)})
CALL_OF_A_LIST = b"\x80\x02" + b"]" + b")R."
ZIPS = {
    "a zip bomb": (
        rezipped(WHOLE, lambda e: [*e, ("archive/data/9", b"\0" * 10**7)], zipfile.ZIP_DEFLATED),
        "compressed",
    ),
    "a compressed pickle": (rezipped(WHOLE, list, zipfile.ZIP_DEFLATED), "compressed"),
    "entries of one name": (
        rezipped(WHOLE, lambda e: [*e, ("archive/data/O", b"x")]).replace(b"archive/data/O", b"archive/data/0"),
        "two entries of one name",
    ),
    "two pickles": (rezipped(WHOLE, lambda e: [*e, ("archive/x/data.pkl", e[0][1])]), "2 pickles"),
    "no pickle": (rezipped(WHOLE, lambda e: e[1:]), "0 pickles"),
    "something before it": (b"PK\x03\x04" + b"\0" * 100 + WHOLE, "before the first entry"),
    "something after it": (WHOLE + b"x", "cut short"),
    "a key that takes for ever to hash": (rezipped(WHOLE, pickle_as(nested(60))), "tuples within tuples"),
    "a deep tuple as a key": (rezipped(WHOLE, pickle_as(deep(100_000))), "tuples within tuples"),
    "a call of a list": (rezipped(WHOLE, pickle_as(CALL_OF_A_LIST)), "other than a name"),
    "too many steps": (rezipped(WHOLE, pickle_as(b"\x80\x02" + b"N" * 10**6 + b".")), "300000 steps"),
    "as many calls as steps allow": (rezipped(WHOLE, pickle_as(many_calls(74_900))), "expected a state dict"),
    "text of 4 GB": (rezipped(WHOLE, pickle_as(b"\x80\x02X\xff\xff\xff\xffabc.")), "expected"),
    "more taken than there is": (rezipped(WHOLE, pickle_as(b"\x80\x02R.")), "takes more than it has"),
    "steps of newer pickles": (
        rezipped(WHOLE, pickle_as(b"\x80\x04\x8c\x05posix\x8c\x06system\x93.")),
        "SHORT_BINUNICODE",
    ),
}


LONG = {"too many steps", "as many calls as steps allow"}


@pytest.mark.parametrize(
    "what", [pytest.param(what, marks=pytest.mark.slow) if what in LONG else what for what in ZIPS]
)
def test_a_zip_file_with(tmp_path, what):
    data, message = ZIPS[what]
    (tmp_path / "model.pth").write_bytes(data)
    with hostile.Calls() as calls:
        assert message in refusal(tmp_path / "model.pth")
    assert 50 < calls.count < hostile.MOST_CALLS


def test_a_zip_file_whose_directory_is_huge(tmp_path):
    size = 2**23
    end = b"PK\x05\x06" + struct.pack("<HHHHIIH", 0, 0, 1, 1, size, 0, 0)
    (tmp_path / "model.pth").write_bytes(b"PK\x03\x04" + b"\0" * size + end)
    assert f"a zip directory of {size} bytes" in refusal(tmp_path / "model.pth")


def test_a_zip_file_whose_entries_overlap(tmp_path):
    """Two entries that are the same bytes of the file, so that all of them together are larger than it."""
    value = torch.zeros(2**18)
    data = hostile.zipped({"a": value, "b": value.clone()})
    first, second = (data.rindex(b"archive/data/%d" % n) - 46 + 42 for n in (0, 1))
    cut = bytearray(data)
    cut[second : second + 4] = cut[first : first + 4]
    one = cut[:4096] + cut[2**20 :]  # one of the two is gone
    (tmp_path / "model.pth").write_bytes(bytes(one))
    refusal(tmp_path / "model.pth")


def test_a_tar_file_is_not_taken_out_into_a_folder(tmp_path):
    """torch's oldest form: torch.load writes its members into a temporary folder."""
    magic, path = released.pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2), tmp_path / "model.pth"
    with tarfile.open(path, "w") as archive:
        for name in (magic.decode("latin-1"), "storages", "tensors", "pickle"):
            member = tarfile.TarInfo(name)
            member.size = 4
            archive.addfile(member, io.BytesIO(b"\0" * 4))
    raw = path.read_bytes()
    path.write_bytes(magic + raw[len(magic) :])
    before = set(os.listdir(tempfile.gettempdir()))
    refusal(path)
    assert set(os.listdir(tempfile.gettempdir())) == before
