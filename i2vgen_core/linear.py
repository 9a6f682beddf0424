"""Linear layers on the CPU with the kernel that is faster on this machine."""

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

_KERNELS = {torch.float32}
"""Types whose kernel torch does not choose by itself: in 16 bit it takes oneDNN's where the processor has the means."""


def fastest_linear(x: Tensor) -> AbstractContextManager[Any]:
    """While it is entered, linear layers of x's type and device run on the faster of two kernels, whoever made them.

    torch multiplies float32 matrices with MKL, which on AMD's processors reaches half of what oneDNN does. Which one is
    faster is measured once a process. Gradients need torch's own.
    """
    if x.device.type != "cpu" or x.dtype not in _KERNELS or torch.is_grad_enabled() or torch.compiler.is_compiling():
        return nullcontext()
    return _OneDNN() if _onednn_is_faster(torch.get_num_threads()) else nullcontext()


class _OneDNN(TorchFunctionMode):
    """Takes over torch.nn.functional.linear, so that layers of any make, the host's too, are served."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is F.linear and not kwargs and all(type(each) in (Tensor, torch.nn.Parameter) for each in args[:2]):
            x, weight, bias = args if len(args) == 3 else (*args, None)
            if x.dtype == weight.dtype and x.dtype in _KERNELS and x.numel():
                return _onednn_linear(x, weight, bias)
        return function(*args, **(kwargs or {}))


def _onednn_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(x.contiguous(), weight, bias, "none", [], "")


@lru_cache
def _onednn_is_faster(threads: int) -> bool:
    if not torch.backends.mkldnn.is_available() or not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return False
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
