"""Faster kernels on the CPU: the same results as torch's, and only where they serve."""

from contextlib import nullcontext

import pytest
import torch
import toy
from torch.nn import functional

from i2vgen_core.network import kernels, winograd

EXACT = 1e-5

needs_onednn = pytest.mark.skipif(not kernels._has_onednn(), reason="this torch has no oneDNN")


@pytest.fixture(autouse=True)
def no_grad():
    with torch.no_grad():
        yield


def counted(monkeypatch, module, name):
    """A list that gets an item for each call of a module's function."""
    function, calls = getattr(module, name), []
    monkeypatch.setattr(module, name, lambda *given: calls.append(1) or function(*given))
    return calls


def convolution(n, inputs, outputs, height, width, *kernel):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, inputs, height, width, generator=generator).contiguous(memory_format=torch.channels_last)
    weight = torch.randn(outputs, inputs, *kernel, generator=generator) / (kernel[0] * kernel[1] * inputs) ** 0.5
    return x, weight, torch.randn(outputs, generator=generator)


def rms(x):
    return float(x.square().mean().sqrt())


# ---------------------------------------------------------------- linear layers


@needs_onednn
def test_the_faster_kernel_computes_the_same(small, monkeypatch):
    made = toy.inputs(toy.CONFIG)
    monkeypatch.setattr(kernels, "_onednn_is_faster", lambda threads: False)
    expected = small["i2vgen_xl"](**made)
    monkeypatch.setattr(kernels, "_onednn_is_faster", lambda threads: True)
    calls = counted(monkeypatch, kernels, "_onednn_linear")
    assert toy.error(small["i2vgen_xl"](**made), expected) <= EXACT
    assert calls
    with torch.enable_grad():
        assert isinstance(kernels.fastest_kernels(made["x"]), nullcontext)


@needs_onednn
def test_kernels_can_be_chosen_without_measuring(small, monkeypatch):
    monkeypatch.setattr(kernels, "_onednn_is_faster", lambda threads: False)
    monkeypatch.setattr(kernels, "_unmeasured", False)
    calls = counted(monkeypatch, kernels, "_onednn_linear")
    small["i2vgen_xl"](**toy.inputs(toy.CONFIG))
    assert not calls
    kernels.measure_no_kernels()
    small["i2vgen_xl"](**toy.inputs(toy.CONFIG))
    assert calls


# ---------------------------------------------------------------- convolutions

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
    ((3, 1), {"padding": 1}),
    ((1, 3), {"padding": (0, 1)}),
    ((1, 1), {}),
    ((1, 1), {"padding": 1}),
    ((2, 2), {"padding": 1}),
    ((5, 5), {"padding": 2}),
]


@pytest.mark.parametrize("least", [1, 256], ids=["minimal", "direct"])
@pytest.mark.parametrize("height, width", [(2, 3), (8, 8), (9, 40)])
@pytest.mark.parametrize("kernel, settings", SETTINGS)
@pytest.mark.parametrize("biased", [True, False])
def test_every_convolution_is_what_torch_makes_of_it(kernel, settings, height, width, least, biased, monkeypatch):
    monkeypatch.setattr(winograd, "_CHANNELS", least)
    monkeypatch.setattr(winograd, "_PLACES", least)
    x, weight, bias = convolution(2, 12, 40, height, width, *kernel)
    weight = weight[:, : 12 // settings.get("groups", 1)]
    if (height, kernel, settings) == (2, (3, 3), {}):
        with pytest.raises(RuntimeError, match="Kernel size"), kernels.fastest_kernels(x):
            functional.conv2d(x, weight, bias, **settings)
        return
    expected = functional.conv2d(x.double(), weight.double(), bias.double() if biased else None, **settings)
    with kernels.fastest_kernels(x):
        found = functional.conv2d(x, weight, bias if biased else None, **settings)
    assert found.shape == expected.shape
    assert toy.error(found, expected) <= EXACT


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, EXACT), (torch.bfloat16, 2e-2), (torch.float16, 2e-3)])
def test_convolutions_of_rows_and_of_few_places_keep_their_type(dtype, tolerance):
    for kernel, places in (((1, 1), 8), ((3, 3), 4)):
        x, weight, bias = (each.to(dtype) for each in convolution(2, 64, 96, places, places, *kernel))
        padding = kernel[0] // 2
        with kernels.fastest_kernels(x):
            found = functional.conv2d(x, weight, bias, padding=padding)
        expected = functional.conv2d(x.double(), weight.double(), bias.double(), padding=padding)
        assert found.dtype == dtype
        assert toy.error(found.double(), expected) <= tolerance


@pytest.mark.parametrize("kernel", [(3, 3), (3, 1)])
@pytest.mark.parametrize("height, width", [(2, 130), (4, 64), (5, 57), (16, 16), (19, 23)])
def test_minimal_filtering_rounds_like_a_direct_convolution(kernel, height, width):
    x, weight, bias = convolution(2, 256, 320, height, width, *kernel)
    padding = (1, kernel[1] // 2)
    expected = functional.conv2d(x.double(), weight.double(), bias.double(), padding=padding)
    direct = functional.conv2d(x, weight, bias, padding=padding)
    found = winograd.convolve(x, weight, bias, functional.linear)
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert rms(found - expected) <= 3 * rms(direct - expected)  # seen: 0.5 for 3x3; 2 for four outputs along frames
    assert toy.error(found, expected) <= 4e-6


def test_minimal_filtering_would_round_worse_in_16_bit():
    x, weight, bias = (each.bfloat16() for each in convolution(2, 256, 320, 16, 16, 3, 3))
    expected = functional.conv2d(x.double(), weight.double(), bias.double(), padding=1)
    direct = functional.conv2d(x, weight, bias, padding=1)
    found = winograd.convolve(x, weight, bias, functional.linear)
    assert rms(found - expected) > 3 * rms(direct - expected)


@pytest.mark.parametrize("kernel", [(3, 3), (3, 1)])
def test_minimal_filtering_in_parts_makes_the_whole(kernel, monkeypatch):
    x, weight, bias = convolution(3, 32, 48, 11, 9, *kernel)
    whole = winograd.convolve(x, weight, bias, functional.linear)
    sizes = set()

    def linear(rows, weight, bias):
        sizes.add((len(rows), len(weight)))
        return functional.linear(rows, weight, bias)

    for limit in (1, 2**15, 2**17):
        monkeypatch.setattr(winograd, "_INPUT_BYTES", limit)
        monkeypatch.setattr(winograd, "_KERNEL_BYTES", limit)
        assert toy.error(winograd.convolve(x, weight, bias, linear), whole) <= EXACT
    assert len(sizes) >= 3


def test_minimal_filtering_serves_where_it_saves():
    x, weight, _ = convolution(1, 256, 256, 16, 16, 3, 3)
    frames = weight[..., :1]
    assert winograd.pays(x, weight)
    assert winograd.pays(x, frames)
    assert not winograd.pays(x.bfloat16(), weight.bfloat16())
    assert not winograd.pays(x[:, :255], weight[:, :255])
    assert not winograd.pays(x, weight[:4])
    assert not winograd.pays(x[:, :, 1:], weight)
    assert not winograd.pays(x, weight[..., :1, :1])
    assert not winograd.pays(x.view(1, 256, 1, 256), weight)
    assert not winograd.pays(x.view(1, 256, 2, 128), frames)


@pytest.mark.parametrize("kind", toy.KINDS)
def test_a_network_with_minimal_filtering_is_the_same(small, kind, monkeypatch):
    made = toy.inputs(small[kind].config, frames=5)
    expected = small[kind](**made)
    calls = counted(monkeypatch, winograd, "convolve")
    assert toy.error(small[kind](**made), expected) <= EXACT
    assert not calls
    monkeypatch.setattr(winograd, "_CHANNELS", 4)
    monkeypatch.setattr(winograd, "_PLACES", 4)
    assert toy.error(small[kind](**made), expected) <= EXACT
    assert calls
