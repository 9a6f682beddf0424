"""Seconds, live bytes and multiply-adds of a run."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

Run = Callable[[], Any]


@dataclass(frozen=True)
class Seconds:
    """Processor seconds of some runs: what else the machine does is not among them."""

    runs: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.runs)

    def __str__(self) -> str:
        return f"{self.median:.2f} s ({min(self.runs):.2f} to {max(self.runs):.2f})"


def interleaved(runs: dict[str, Run], repeats: int, warm_up: bool = True) -> dict[str, Seconds]:
    """Seconds of each run by name; they take turns, so that none has the machine in a better hour."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for repeat in range(repeats + warm_up):
        for name, run in runs.items():
            gc.collect()
            start = time.process_time()
            run()
            if repeat >= warm_up:
                seconds[name].append(time.process_time() - start)
    return {name: Seconds(tuple(values)) for name, values in seconds.items()}


def live_peak(run: Run) -> int:
    """Most bytes of tensors that are alive at once during a run and were made in it; the run may be on meta.

    Attention counts as its output alone, which is what fused kernels need.
    """
    with _LiveBytes() as counted, _FusedAttention():
        result = run()
    del result
    return counted.peak


class _LiveBytes(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.peak = 0
        self._alive: dict[int, tuple[StorageWeakRef, int]] = {}
        self._at_most = 0  # bytes of what was alive when it was last looked at, and of what came since

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        before = {each.untyped_storage()._cdata for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor)}
        result = function(*args, **(kwargs or {}))
        for each in tree_leaves(result):
            if isinstance(each, Tensor) and (key := each.untyped_storage()._cdata) not in before:
                storage = each.untyped_storage()
                self._alive[key] = StorageWeakRef(storage), storage.nbytes()
                self._at_most += storage.nbytes()
        if self._at_most > self.peak:
            self._alive = {key: each for key, each in self._alive.items() if not each[0].expired()}
            self._at_most = sum(size for _, size in self._alive.values())
            self.peak = max(self.peak, self._at_most)
        return result


class _FusedAttention(TorchFunctionMode):
    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is torch.nn.functional.scaled_dot_product_attention:
            q, _, v = args[:3]
            return q.new_empty(q.shape[0], q.shape[2], q.shape[1], v.shape[3]).transpose(1, 2)
        return function(*args, **(kwargs or {}))


def work_without(inputs: list[Tensor], run: Run) -> int:
    """Floating-point operations, of matrix products and convolutions, in a run that depend on none of these inputs."""
    with _Dependence(inputs) as found:
        run()
    return found.operations


class _Dependence(TorchDispatchMode):
    def __init__(self, inputs: list[Tensor]):
        super().__init__()
        self.operations = 0
        self._kept = [each.untyped_storage() for each in inputs]  # kept, so that no other comes to lie at its address
        self._depend = {each._cdata for each in self._kept}

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        read = [each for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor)]
        depends = any(each.untyped_storage()._cdata in self._depend for each in read)
        result = function(*args, **kwargs)
        for each in tree_leaves(result) if depends else []:
            if isinstance(each, Tensor):
                self._kept.append(each.untyped_storage())
                self._depend.add(each.untyped_storage()._cdata)
        if not depends and function._overloadpacket in flop_registry:
            self.operations += flop_registry[function._overloadpacket](*args, **kwargs, out_val=result)
        return result
