"""Which of torch's own operators compute layers on the CPU: a matter of type and shape alone, never of a stopwatch, so that
every process of one machine rounds alike."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode


def cpu_operators(x: Tensor) -> AbstractContextManager[Any]:
    """While it is entered, layers on x's device run on operators that torch does not choose by itself, whoever made them.

    - Linear layers in float32 on oneDNN, where torch has it and they are large. torch's own choice is MKL, which reaches half
      of oneDNN's speed on AMD's processors, and half to all of it on Intel's. But oneDNN takes 20 us longer to begin, as long
      as MKL computes a small layer. In 16 bit torch takes oneDNN where the processor has the means.
    - 3x3 convolutions with more kernels than places, as products with the kernel as it lies in memory (channels_last):
      oneDNN's convolution brings the kernel into an order of its own first, which takes longer than to convolve with it.
      In bf16 that was so on AMD's processors; on one of Intel's the products took a third longer.

    Only the CPU has these, and gradients need torch's own.
    """
    if x.device.type != "cpu" or torch.is_grad_enabled() or torch.compiler.is_compiling():
        return nullcontext()
    return _Operators()


class _Operators(TorchFunctionMode):
    """Takes over two functions of torch, so that layers of any make, the host's too, are served."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if function is F.linear and _are_plain(*args, **kwargs):
            return _linear(*args, **kwargs)
        if function is F.conv2d and _are_plain(*args, **kwargs):
            return _convolve(*args, **kwargs)
        return function(*args, **kwargs)

    def __exit__(self, kind: type[BaseException] | None, *rest: Any) -> None:
        try:
            super().__exit__(kind, *rest)
        except RuntimeError:  # Ctrl-C came where torch had taken the mode off for a call: it is gone already
            if kind is None:
                raise


def _are_plain(x: Tensor, weight: Tensor, *_: Any, **__: Any) -> bool:
    """Whether input and weight are ordinary tensors of one type, not a quantised kind."""
    return type(x) in _PLAIN and type(weight) in _PLAIN and x.dtype == weight.dtype


_PLAIN = (Tensor, torch.nn.Parameter)


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    if _HAS_ONEDNN and x.dtype == torch.float32 and x.numel() * len(weight) >= _LARGE:
        return torch.ops.mkldnn._linear_pointwise(x.contiguous(), weight, bias, "none", [], "")
    return F.linear(x, weight, bias)


_LARGE = 2**24
"""Multiplications from which on a linear layer is on oneDNN. On one of Intel's processors (AVX-512, torch 2.13) the two are even
at them, within a tenth, MKL is faster below and oneDNN above."""

_HAS_ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def _convolve(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor:
    keeps_size = padding in (1, (1, 1)) and stride in (1, (1, 1)) and dilation in (1, (1, 1))
    plain = weight.shape[2:] == (3, 3) and keeps_size and groups == 1 and x.ndim == 4
    if plain and x[:, 0].numel() < len(weight):
        return _convolve_few_places(x, weight, bias)
    return F.conv2d(x, weight, bias, stride, padding, dilation, groups)


def _convolve_few_places(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    n, _, h, w = x.shape
    around = F.pad(x.permute(0, 2, 3, 1), (0, 0, 1, 1, 1, 1)).unfold(1, 3, 1).unfold(2, 3, 1)
    rows, kernels = around.permute(0, 1, 2, 4, 5, 3).reshape(n * h * w, -1), weight.permute(0, 2, 3, 1)
    return _linear(rows, kernels.reshape(len(weight), -1), bias).view(n, h, w, -1).permute(0, 3, 1, 2)
