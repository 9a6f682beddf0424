"""Linear layers and convolutions on the CPU with kernels that are faster than those torch chooses."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from . import winograd


def fastest_kernels(x: Tensor) -> AbstractContextManager[Any]:
    """While it is entered, layers on x's device run on kernels that torch does not choose by itself, whoever made them.

    - Linear layers in float32: torch multiplies with MKL, which on AMD's processors reaches half of what oneDNN does.
      Which one is faster is measured once a process. In 16 bit torch takes oneDNN where the processor has the means.
    - Convolutions in float32 with many channels multiply half as often or less, see winograd.py.
    - Other 3x3 convolutions of maps with few places, as products with the kernel as it lies in memory (channels_last):
      oneDNN's convolution brings the kernel into an order of its own first, which takes longer than to convolve with it.
    - 1x1 convolutions of maps that lie in memory like rows, as the linear layers they are.

    Only the CPU has these, and gradients need torch's own.
    """
    if x.device.type != "cpu" or torch.is_grad_enabled() or torch.compiler.is_compiling():
        return nullcontext()
    return _Kernels(_has_onednn() and (_unmeasured or _onednn_is_faster(torch.get_num_threads())))


def measure_no_kernels() -> None:
    """From here on this process takes oneDNN for linear layers wherever there is one, without measuring: processes that
    share work must round alike, however busy each machine is when it starts.
    """
    global _unmeasured
    _unmeasured = True


_unmeasured = False


class _Kernels(TorchFunctionMode):
    """Takes over two functions of torch, so that layers of any make, the host's too, are served."""

    def __init__(self, onednn: bool):
        super().__init__()
        self._onednn = onednn

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if function is F.linear and _are_plain(*args, **kwargs):
            return self._linear(*args, **kwargs)
        if function is F.conv2d and _are_plain(*args, **kwargs):
            return self._convolve(*args, **kwargs)
        return function(*args, **kwargs)

    def _linear(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        if self._onednn and x.dtype == torch.float32 and x.numel():
            return _onednn_linear(x, weight, bias)
        return F.linear(x, weight, bias)

    def _convolve(
        self,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
    ) -> Tensor:
        if x.ndim == 4 and groups == 1 and _keeps_size(weight, stride, padding, dilation):
            if winograd.pays(x, weight):
                return winograd.convolve(x, weight, bias, self._linear)
            if weight.shape[2:] == (1, 1) and x.is_contiguous(memory_format=torch.channels_last):
                return self._linear(x.permute(0, 2, 3, 1), weight.flatten(1), bias).permute(0, 3, 1, 2)
            if weight.shape[2:] == (3, 3) and x[:, 0].numel() < len(weight):
                return self._convolve_few_places(x, weight, bias)
        return F.conv2d(x, weight, bias, stride, padding, dilation, groups)

    def _convolve_few_places(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        n, _, h, w = x.shape
        around = F.pad(x.permute(0, 2, 3, 1), (0, 0, 1, 1, 1, 1)).unfold(1, 3, 1).unfold(2, 3, 1)
        rows, kernels = around.permute(0, 1, 2, 4, 5, 3).reshape(n * h * w, -1), weight.permute(0, 2, 3, 1)
        return self._linear(rows, kernels.reshape(len(weight), -1), bias).view(n, h, w, -1).permute(0, 3, 1, 2)


def _are_plain(x: Tensor, weight: Tensor, *_: Any, **__: Any) -> bool:
    """Whether input and weight are ordinary tensors of one type, not a quantised kind."""
    return type(x) in _PLAIN and type(weight) in _PLAIN and x.dtype == weight.dtype


def _keeps_size(weight: Tensor, stride: Any, padding: Any, dilation: Any) -> bool:
    """Whether a convolution's output is as large as its input; its kernel has odd sides."""
    height, width = (side // 2 for side in weight.shape[2:])
    padded = padding == (height, width) or padding == height == width
    return padded and stride in (1, (1, 1)) and dilation in (1, (1, 1))


_PLAIN = (Tensor, torch.nn.Parameter)


def _onednn_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(x.contiguous(), weight, bias, "none", [], "")


def _has_onednn() -> bool:
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


@lru_cache
def _onednn_is_faster(threads: int) -> bool:
    x, weight, bias = torch.ones(2048, 640), torch.ones(640, 640), torch.ones(640)
    return _seconds(lambda: _onednn_linear(x, weight, bias)) < _seconds(lambda: F.linear(x, weight, bias))


def _seconds(run: Callable[[], Tensor], repeats: int = 3) -> float:
    """The shortest of some runs, after one that warms up."""
    run()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return min(seconds)
