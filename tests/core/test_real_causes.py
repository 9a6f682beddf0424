"""Errors name what is at fault: memory that ran out is no damaged file, and neither is a mistake in the code."""

import errno

import pytest
import torch
import toy
from safetensors.torch import save_file

from i2vgen_core.checkpoints import read
from i2vgen_core.checkpoints.check import of_sizes
from i2vgen_core.checkpoints.load import parse_unet
from i2vgen_core.checkpoints.read import read_state_dict
from i2vgen_core.errors import CheckpointError, InputError
from i2vgen_core.memory import is_out_of_memory, usable_device

SHORTAGES = {
    "Python's": MemoryError(),
    "the system's": OSError(errno.ENOMEM, "Cannot allocate memory"),
    "torch's": RuntimeError(
        "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."
    ),
    "torch's, on Windows": RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes."),
    "torch's, of mapping": RuntimeError("unable to mmap 9 bytes from file <x>: Cannot allocate memory (12)"),
    "a GPU's": torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 MiB"),
}
FAULTS = [OSError(errno.EIO, "Input/output error"), ValueError("invalid header"), RuntimeError("bad magic")]


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("what", SHORTAGES)
def test_memory_that_runs_out_is_no_damaged_file(tmp_path, monkeypatch, what, suffix):
    path = tmp_path / f"model{suffix}"
    state = {"weight": torch.ones(3)}
    save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)

    def fail(*_, **__):
        raise SHORTAGES[what]

    monkeypatch.setattr(read.safetensors, "safe_open", fail)
    monkeypatch.setattr(torch, "load", fail)
    with pytest.raises(
        InputError, match=f"memory: expected room for the 0.0 GB of model{suffix}, found none"
    ) as caught:
        read_state_dict(path)
    assert not isinstance(caught.value, CheckpointError)
    assert "The file is not at fault" in str(caught.value)


@pytest.mark.parametrize("error", FAULTS, ids=str)
def test_other_errors_are_not_called_a_lack_of_memory(error):
    assert not is_out_of_memory(error)


@pytest.mark.parametrize("error", [AttributeError, KeyError, TypeError, NameError, IndexError, AssertionError])
def test_a_mistake_in_a_constructor_is_not_the_files(monkeypatch, error):
    def fail(*_, **__):
        raise error("ours")

    with pytest.raises(error, match="ours"):
        of_sizes("the network", fail)
    monkeypatch.setattr("i2vgen_core.checkpoints.load.UNet", fail)
    with pytest.raises(error, match="ours"):
        parse_unet(toy.stored(toy.CONFIG), toy.SETTINGS)


def test_sizes_that_cannot_be_are_the_files():
    for build in (lambda: torch.nn.GroupNorm(32, 33), lambda: torch.empty(2**40, 2**40), lambda: 1 // 0):
        with pytest.raises(CheckpointError, match="sizes that fit together"):
            of_sizes("the network", build)


# ---------------------------------------------------------------- devices


@pytest.fixture
def cpu_alone(monkeypatch):
    for backend in (torch.cuda, torch.xpu, torch.backends.mps):
        monkeypatch.setattr(backend, "is_available", lambda: False)


@pytest.mark.parametrize("device", ["nonsense", "cuda:99", "meta"])
def test_a_device_that_is_not_there(cpu_alone, device):
    with pytest.raises(InputError) as caught:
        usable_device(device)
    remedy = "Choose cpu, or install a torch for your graphics card."
    assert str(caught.value) == f"device: expected cpu, found '{device}'. {remedy}"


def test_the_devices_that_are_there_are_named(cpu_alone, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    with pytest.raises(
        InputError, match=r"expected cpu or cuda:0 or cuda:1 or mps, found 'xpu:7'\. Choose one of them\."
    ):
        usable_device("xpu:7")


def test_a_device_whose_memory_is_full_is_there(monkeypatch):
    def fail(*_, **__):
        raise SHORTAGES["a GPU's"]

    monkeypatch.setattr(torch, "zeros", fail)
    with pytest.raises(torch.cuda.OutOfMemoryError):
        usable_device("cpu")


def test_the_processor_is_there():
    assert usable_device("cpu") == torch.device("cpu")
