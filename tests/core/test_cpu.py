"""Operators on the CPU: the same results as torch's, the same in every process, and only where they serve."""

import os
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
import toy
from torch.nn import functional

from i2vgen_core.network import cpu

EXACT = 1e-5
CORE = Path(__file__).parent

needs_onednn = pytest.mark.skipif(not cpu._HAS_ONEDNN, reason="this torch has no oneDNN")


@pytest.fixture(autouse=True)
def no_grad():
    with torch.no_grad():
        yield


def convolution(n, inputs, outputs, height, width, *kernel):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, inputs, height, width, generator=generator).contiguous(memory_format=torch.channels_last)
    weight = torch.randn(outputs, inputs, *kernel, generator=generator) / (kernel[0] * kernel[1] * inputs) ** 0.5
    return x, weight, torch.randn(outputs, generator=generator)


@needs_onednn
@pytest.mark.parametrize("rows, on_onednn", [(256, True), (255, False)])
def test_large_linear_layers_run_on_onednn(rows, on_onednn):
    """2^24 multiplications and more."""
    x, layer = torch.randn(rows, 256), torch.nn.Linear(256, 256)
    with torch.profiler.profile() as profile, cpu.cpu_operators(x):
        found = layer(x)
    assert any("mkldnn::_linear_pointwise" in each.key for each in profile.key_averages()) == on_onednn
    assert toy.error(found, functional.linear(x.double(), layer.weight.double(), layer.bias.double())) <= EXACT


@needs_onednn
def test_networks_run_on_onednn(small, monkeypatch):
    """Their output is that of torch's own choice, and their layers are found."""
    made, seen, linear = toy.inputs(toy.CONFIG), [], cpu._linear
    plain = small["i2vgen_xl"](**made)
    monkeypatch.setattr(cpu, "_LARGE", 1)
    monkeypatch.setattr(cpu, "_linear", lambda *given: seen.append(1) or linear(*given))
    assert toy.error(small["i2vgen_xl"](**made), plain) <= EXACT
    assert seen


def test_gradients_have_torchs_own():
    with torch.enable_grad():
        assert isinstance(cpu.cpu_operators(torch.zeros(1)), nullcontext)


def test_ctrl_c_between_torchs_own_steps_is_not_lost(monkeypatch):
    """torch takes a mode off for a call of its layers in Python, and puts it back: an interrupt may come before it has."""

    def interrupted(_):
        monkeypatch.undo()
        raise KeyboardInterrupt

    def run():
        with torch.no_grad(), cpu.cpu_operators(torch.zeros(1)):
            monkeypatch.setattr("torch.overrides._push_mode", interrupted)
            functional.group_norm(torch.zeros(1, 4, 2, 2), 2)

    with pytest.raises(KeyboardInterrupt):
        run()


_VELOCITY = """
import hashlib, torch, toy
with torch.no_grad():
    velocity = toy.network(toy.DEEP)(**toy.inputs(toy.DEEP, frames=5, height=16, width=24))
print(hashlib.sha256(velocity.numpy().tobytes()).hexdigest())
"""


@pytest.mark.slow
def test_every_process_computes_the_same_bytes():
    """However busy the machine is while one of them runs."""
    command = [sys.executable, "-c", _VELOCITY]
    running = [subprocess.Popen(command, cwd=CORE, env=_environment(), stdout=subprocess.PIPE) for _ in range(3)]
    found = {each.communicate()[0] for each in running}
    assert len(found) == 1 and len(found.pop().strip()) == 64


def _environment():
    return {**os.environ, "PYTHONPATH": f"{CORE}{os.pathsep}{CORE.parents[1]}"}


SETTINGS = [
    ((3, 3), {"padding": 1}),
    ((3, 3), {"padding": (1, 1), "stride": (1, 1), "dilation": (1, 1), "groups": 1}),
    ((3, 3), {"padding": "same"}),
    ((3, 3), {}),
    ((3, 3), {"padding": 1, "stride": 2}),
    ((3, 3), {"padding": (2, 1), "stride": 2}),
    ((3, 3), {"padding": 2, "dilation": 2}),
    ((3, 3), {"padding": 1, "groups": 2}),
    ((3, 1), {"padding": (1, 0)}),
    ((1, 1), {}),
    ((5, 5), {"padding": 2}),
]


@pytest.mark.parametrize("height, width", [(2, 3), (3, 4), (9, 40)], ids=["few places", "as few", "many"])
@pytest.mark.parametrize("kernel, settings", SETTINGS)
@pytest.mark.parametrize("biased", [True, False])
def test_every_convolution_is_what_torch_makes_of_it(kernel, settings, height, width, biased):
    x, weight, bias = convolution(2, 12, 40, height, width, *kernel)
    weight = weight[:, : 12 // settings.get("groups", 1)]
    if (height, kernel, settings) == (2, (3, 3), {}):
        with pytest.raises(RuntimeError, match="Kernel size"), cpu.cpu_operators(x):
            functional.conv2d(x, weight, bias, **settings)
        return
    expected = functional.conv2d(x.double(), weight.double(), bias.double() if biased else None, **settings)
    with cpu.cpu_operators(x):
        found = functional.conv2d(x, weight, bias if biased else None, **settings)
    assert found.shape == expected.shape
    assert toy.error(found, expected) <= EXACT


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, EXACT), (torch.bfloat16, 2e-2), (torch.float16, 2e-3)])
def test_convolutions_of_few_places_keep_their_type(dtype, tolerance):
    x, weight, bias = (each.to(dtype) for each in convolution(2, 64, 96, 4, 4, 3, 3))
    with cpu.cpu_operators(x):
        found = functional.conv2d(x, weight, bias, padding=1)
    expected = functional.conv2d(x.double(), weight.double(), bias.double(), padding=1)
    assert found.dtype == dtype
    assert toy.error(found.double(), expected) <= tolerance


@pytest.mark.parametrize("width, calls", [(4, 1), (8, 0)])
def test_convolutions_are_products_where_there_are_fewer_places_than_kernels(width, calls, monkeypatch):
    x, weight, bias = convolution(2, 8, 64, 4, width, 3, 3)
    seen, products = [], cpu._convolve_few_places
    monkeypatch.setattr(cpu, "_convolve_few_places", lambda *given: seen.append(1) or products(*given))
    with cpu.cpu_operators(x):
        functional.conv2d(x, weight, bias, padding=1)
    assert len(seen) == calls
