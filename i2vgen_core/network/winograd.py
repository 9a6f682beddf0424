"""Convolutions with fewer multiplications (Winograd's minimal filtering; Lavin and Gray, arXiv 1509.09308).

Two neighbouring outputs of three taps read four inputs. A direct convolution multiplies 6 times for them; with sums of
the inputs and sums of the taps 4 products are enough, and 6 instead of 12 for four outputs. Along both sides of a 3x3
kernel that makes 16 instead of 36. Products over channels are matrix products; the sums stay in the processor's cache.

In float32 this rounds about as the convolution does that it replaces. 16-bit types would lose by it (in bf16 the error
was 4.4 times as large), and keep theirs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor

from ..memory import even_part

Linear = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""Rows [n, c], a weight [o, c] and a bias [o] to [n, o]."""

_INPUT_BYTES, _KERNEL_BYTES = 2**26, 2**24
"""Of sums at a time: those of inputs many, since the kernel's are made anew for each part, the kernel's few."""

_CHANNELS, _PLACES = 256, 256
"""Least channels and places with which the products that are saved outweigh the sums."""


@dataclass(frozen=True)
class _Filter:
    """How `size` neighbouring outputs of a line are made. Each row of a matrix has the factors of one sum.

    `plain` is the product of sums at the point 1, which has the same share in every output: it can bring the bias.
    """

    size: int
    inputs: Sequence[Sequence[float]]
    taps: Sequence[Sequence[float]]
    outputs: Sequence[Sequence[float]]
    plain: int = 1

    @property
    def padding(self) -> int:
        """Zeros at either end of the line."""
        return len(self.taps[0]) // 2


_Filters = tuple[_Filter, _Filter]
"""Along the height and along the width, as `down` and `across`."""

_TWO = _Filter(
    2,
    inputs=((1, 0, -1, 0), (0, 1, 1, 0), (0, -1, 1, 0), (0, 1, 0, -1)),
    taps=((1, 0, 0), (1, 1, 1), (1, -1, 1), (0, 0, 1)),
    outputs=((1, 1 / 2, 1 / 2, 0), (0, 1 / 2, -1 / 2, -1)),
)
_FOUR = _Filter(
    4,
    inputs=(
        (4, 0, -5, 0, 1, 0),
        (0, -4, -4, 1, 1, 0),
        (0, 4, -4, -1, 1, 0),
        (0, -2, -1, 2, 1, 0),
        (0, 2, -1, -2, 1, 0),
        (0, 4, 0, -5, 0, 1),
    ),
    taps=((1, 0, 0), (1, 1, 1), (1, -1, 1), (1, 2, 4), (1, -2, 4), (0, 0, 1)),
    outputs=(
        (1 / 4, -1 / 6, -1 / 6, 1 / 24, 1 / 24, 0),
        (0, -1 / 6, 1 / 6, 1 / 12, -1 / 12, 0),
        (0, -1 / 6, -1 / 6, 1 / 6, 1 / 6, 0),
        (0, -1 / 6, 1 / 6, 1 / 3, -1 / 3, 1),
    ),
)
_ONE = _Filter(1, inputs=((1,),), taps=((1,),), outputs=((1,),), plain=0)
"""Of a side with one tap."""

_FILTERS: dict[tuple[int, ...], _Filters] = {(3, 3): (_TWO, _TWO), (3, 1): (_FOUR, _ONE)}
"""By a kernel's height and width. _FOUR along both sides would round worse."""


def pays(x: Tensor, weight: Tensor) -> bool:
    """Whether `convolve` is faster than a direct convolution of x [n, c, h, w] with weight [o, c, ...]."""
    filters = _FILTERS.get(tuple(weight.shape[2:]))
    if filters is None or x.ndim != 4 or x.dtype != torch.float32:
        return False
    fits = all(side >= each.size for side, each in zip(x.shape[2:], filters, strict=True))
    return fits and min(weight.shape[:2]) >= _CHANNELS and x[:, 0].numel() >= _PLACES


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None, linear: Linear) -> Tensor:
    """A convolution with stride 1 that keeps the size, [n, c, h, w] to [n, o, h, w] in channels_last.

    Args:
        x: best channels_last.
        weight: [o, c, 3, 3] or [o, c, 3, 1].
        bias: [o], or None.
        linear: what multiplies matrices.
    """
    down, across = filters = _FILTERS[tuple(weight.shape[2:])]
    n, channels, height, width = x.shape
    rows, columns = math.ceil(height / down.size), math.ceil(width / across.size)
    outputs, kernel = len(weight), weight.permute(0, 2, 3, 1)
    bytes_each = len(down.inputs) * len(across.inputs) * channels * x.element_size()
    few = even_part(outputs, _KERNEL_BYTES // bytes_each)
    y = x.new_empty(n, rows, down.size, columns, across.size, outputs)
    for images, lines in _parts(n, rows, _INPUT_BYTES // (bytes_each * columns)):
        around = _with_edges(x[images], lines, filters, (rows, columns))
        inputs = [each.flatten(0, -2) for each in _input_sums(around, filters)]
        for start in range(0, outputs, few):
            some = slice(start, start + few)
            taps = _tap_sums(kernel[some], filters)
            products = _products(inputs, taps, None if bias is None else bias[some], filters, linear)
            _sum_outputs(products, filters, y[images, lines][..., some])
    y = y.view(n, rows * down.size, columns * across.size, outputs)
    return y[:, :height, :width].contiguous().permute(0, 3, 1, 2)


def _parts(n: int, rows: int, most: int) -> Iterator[tuple[slice, slice]]:
    """Slices of n images and of their rows, of `most` rows in all: whole images, or parts of one."""
    lines = even_part(rows, most)
    images = even_part(n, most // rows)
    for first, line in product(range(0, n, images), range(0, rows, lines)):
        yield slice(first, min(n, first + images)), slice(line, min(rows, line + lines))


def _with_edges(x: Tensor, lines: slice, filters: _Filters, tiles: tuple[int, int]) -> Tensor:
    """The inputs [n, i, j, c] that these lines of tiles read, zeros outside of x [n, c, h, w] included."""
    (down, across), (_, _, height, width) = filters, x.shape
    top, bottom = lines.start * down.size - down.padding, lines.stop * down.size + down.padding
    left, right = across.padding, tiles[1] * across.size + across.padding - width
    inside = x[:, :, max(0, top) : bottom].permute(0, 2, 3, 1)
    return F.pad(inside, (0, 0, left, right, max(0, -top), max(0, bottom - height)))


def _input_sums(x: Tensor, filters: _Filters) -> list[Tensor]:
    """Of x [n, i, j, c] for each product [n, rows, columns, c], the first filter's products outermost."""
    parts = [x]
    for dim, each in enumerate(filters, start=1):
        parts = [
            _sum(factors, windows)
            for windows in (_windows(part, dim, each) for part in parts)
            for factors in each.inputs
        ]
    return parts


def _windows(x: Tensor, dim: int, each: _Filter) -> list[Tensor]:
    """The first, second ... input of every tile along a dimension."""
    spans = x.unfold(dim, len(each.inputs[0]), each.size)
    return list(spans.unbind(-1))


def _tap_sums(kernel: Tensor, filters: _Filters) -> list[Tensor]:
    """Of a kernel [o, h, w, c] for each product [o, c], in the same order."""
    parts = [kernel]
    for each in filters:
        parts = [_sum(factors, part.unbind(1)) for part in parts for factors in each.taps]
    return parts


def _products(
    inputs: list[Tensor], taps: list[Tensor], bias: Tensor | None, filters: _Filters, linear: Linear
) -> list[Tensor]:
    biases: list[Tensor | None] = [None] * len(taps)
    if bias is not None:
        down, across = filters
        share = down.outputs[0][down.plain] * across.outputs[0][across.plain]
        biases[down.plain * len(across.inputs) + across.plain] = bias / share
    return [linear(rows, weight.contiguous(), each) for rows, weight, each in zip(inputs, taps, biases, strict=True)]


def _sum_outputs(products: list[Tensor], filters: _Filters, y: Tensor) -> None:
    """Writes [n, rows, size, columns, size, o] from the products [n * rows * columns, o]."""
    down, across = filters
    width = len(across.inputs)
    products = [each.view(*y.shape[:2], y.shape[3], -1) for each in products]
    lines = [[_sum(row, products[i : i + width]) for row in across.outputs] for i in range(0, len(products), width)]
    for i, j in product(range(down.size), range(across.size)):
        _sum(down.outputs[i], [line[j] for line in lines], out=y[:, :, i, :, j])


def _sum(factors: Sequence[float], parts: Sequence[Tensor], out: Tensor | None = None) -> Tensor:
    """The parts' sum with these factors; the part itself where it is one and there is no `out`."""
    terms = [(factor, part) for factor, part in zip(factors, parts, strict=True) if factor]
    terms.sort(key=lambda term: term[0] != 1)  # the first then needs no multiplication
    (factor, first), *rest = terms
    if factor == 1 and rest:
        (other, second), *rest = rest
        total = torch.add(first, second, alpha=other, out=out)
    elif factor == 1 and out is None:
        return first
    else:
        total = torch.mul(first, factor, out=out)
    for other, part in rest:
        total.add_(part, alpha=other)
    return total
