"""A graphics card that nobody has: tensors that carry its label, with the CPU beneath.

`with Card("cuda"):` lets torch make tensors on "cuda" and move them there. Functions that mix the card with the CPU are
refused as CUDA refuses them; values are computed on the CPU, so that they can be compared. "mps" and "xpu" have no float64
and no complex numbers here, which is the least that such backends have.
"""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_map

_WIDE = {torch.float64, torch.complex64, torch.complex128}
_REFUSED: dict[str, set[torch.dtype]] = {"cuda": set(), "mps": _WIDE, "xpu": _WIDE}

_BETWEEN = {"copy_", "load_state_dict", "set_data"}
"""Functions that read one device and write another."""

_ASKING = {"_has_compatible_shallow_copy_type"}
"""Functions by which Module.to learns that it needs a new parameter."""

_INDEXING = {"__getitem__", "__setitem__", "index_put_", "index_put"}
"""Functions whose indices may lie on the CPU."""

_TOLD = {"device", "is_cuda", "is_mps", "is_xpu", "is_cpu"}
"""Properties in which the card shows."""


class OnCard(torch.Tensor):
    """A tensor that says it is on the card; `inner` is its content on the CPU."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor, device: torch.device) -> OnCard:
        if inner.dtype in _REFUSED[device.type]:
            raise TypeError(f"{device.type} has no {inner.dtype}")
        kind = {"dtype": inner.dtype, "device": device, "requires_grad": False}
        made = torch.Tensor._make_wrapper_subclass(cls, inner.size(), strides=inner.stride(), **kind)
        made.inner = inner
        return made

    def __repr__(self) -> str:  # type: ignore[override]
        return f"OnCard({self.inner!r})"

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """What torch itself does with such a tensor outside of its functions."""
        device = next(each.device for each in tree_flatten((args, kwargs))[0] if isinstance(each, OnCard))
        result = function(*tree_map(_inner, args), **tree_map(_inner, kwargs or {}))
        return tree_map(lambda each: OnCard(each, device) if isinstance(each, Tensor) else each, result)


def _inner(value: Any) -> Any:
    return value.inner if isinstance(value, OnCard) else value


class Card(TorchFunctionMode):
    """While it is entered, this card is there, with 8 GiB of memory.

    Args:
        kind: `cuda`, `mps` or `xpu`.
    """

    def __init__(self, kind: str = "cuda"):
        super().__init__()
        self.device = torch.device(kind, 0)

    def __enter__(self) -> Card:
        names = ("current_device", "memory_allocated", "memory_reserved", "set_device", "synchronize")
        nothing = dict.fromkeys(names, lambda _=None: 0)
        self._patch = patch.multiple(torch.cuda, mem_get_info=lambda _=None: (2**33, 2**33), **nothing)
        self._patch.start()
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._patch.stop()

    def put(self, value: Tensor) -> Tensor:
        """A tensor on the card."""
        return value if isinstance(value, OnCard) else OnCard(value, self.device)

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        name = getattr(function, "__name__", "")
        if name == "__get__" and function.__self__.__name__ in _TOLD:
            return function(*args)
        if name in ("to", "cpu", self.device.type) and args and isinstance(args[0], Tensor):
            return self._moved(name, *args, **kwargs)
        tensors = [each for each in tree_flatten((args, kwargs))[0] if isinstance(each, Tensor)]
        here = [isinstance(each, OnCard) for each in tensors]
        named = kwargs.get("device")
        if named is not None:
            here_after = torch.device(named).type == self.device.type
            kwargs["device"] = "cpu" if here_after else named
        else:
            here_after = any(here)
        if not (here_after or any(here)):
            return function(*args, **kwargs)
        if name in ("numpy", "__array__"):
            raise TypeError("can't convert a tensor of the card to numpy")
        if name in _ASKING:
            return all(here)
        first = tensors[:1] if name in _INDEXING else tensors
        strangers = [each for each in first if not isinstance(each, OnCard) and each.ndim]
        if any(here) and strangers and name not in _BETWEEN:
            found = f"{name or function}: {self.device} and cpu {list(strangers[0].shape)}"
            raise RuntimeError(f"Expected all tensors to be on the same device, found {found}")
        outer = {id(each.inner): each for each in tensors if isinstance(each, OnCard)}
        result = function(*tree_map(_inner, args), **tree_map(_inner, kwargs))

        def wrapped(value: Any) -> Any:
            if not isinstance(value, Tensor) or not here_after:
                return value
            return outer[id(value)] if id(value) in outer else self.put(value)  # a function in place gives its tensor

        return tree_map(wrapped, result)

    def _moved(self, name: str, tensor: Tensor, *where: Any, **kwargs: Any) -> Tensor:
        """Tensor.to, .cpu and .cuda."""
        options = {key: value for key, value in kwargs.items() if value is not None and key not in ("device", "other")}
        dtypes = [each for each in where if isinstance(each, torch.dtype)]
        options |= {"dtype": dtypes[0]} if dtypes else {}
        device = kwargs.get("device") or next((each for each in where if isinstance(each, (str, torch.device))), None)
        other = kwargs.get("other", next((each for each in where if isinstance(each, Tensor)), None))
        if other is not None:
            device, options["dtype"] = other.device, other.dtype
        device = torch.device(name) if name != "to" else device
        here = isinstance(tensor, OnCard)
        here_after = here if device is None else torch.device(device).type == self.device.type
        content = _inner(tensor).to(**options) if options else _inner(tensor)
        if here == here_after:
            return tensor if content is _inner(tensor) else self.put(content) if here else content
        return self.put(content) if here_after else content
