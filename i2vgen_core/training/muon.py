"""Muon: momentum whose matrices are made orthogonal, so that every direction of a layer learns at the same pace.

After Jordan and others, "Muon: An optimizer for hidden layers in neural networks" (2024), with the step scaled to AdamW's
as in arXiv 2502.16982, so that one learning rate serves both.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

LEAST_SIDE = 32
"""Of a matrix that is made orthogonal; smaller ones, the first and last convolutions, and all vectors are AdamW's."""

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the quintic that pulls singular values towards 1
_ITERATIONS = 5
_MOMENTUM = 0.95
_SCALE = 0.2  # root mean square of AdamW's steps


def is_matrix(parameter: Tensor) -> bool:
    """Whether a parameter is made orthogonal: a linear layer's weights, or a convolution's with all taps of an input channel
    side by side."""
    return parameter.ndim > 1 and min(len(parameter), parameter[0].numel()) >= LEAST_SIDE


class Muon(torch.optim.AdamW):
    """AdamW, but for groups with `"orthogonal": True`, whose parameters are matrices, see `is_matrix`.

    Args:
        groups: of parameters, as AdamW has them.
        options: AdamW's.
    """

    def __init__(self, groups: list[dict[str, Any]], lr: float, betas: tuple[float, float]):
        super().__init__(groups, lr=lr, betas=betas)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step of all groups."""
        for group in self.param_groups:
            if not group.get("orthogonal"):
                continue
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["momentum"] = torch.zeros_like(parameter)
                    state["step"] = torch.zeros(())  # AdamW looks for it where it reads a state
                momentum = state["momentum"].lerp_(parameter.grad, 1 - _MOMENTUM)
                ahead = parameter.grad.lerp(momentum, _MOMENTUM).flatten(1)
                change = orthogonal(ahead).view_as(parameter)
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.add_(change, alpha=-group["lr"] * _SCALE * max(ahead.shape) ** 0.5)
                parameter.grad = None  # AdamW passes it over
        return super().step(closure)


def orthogonal(matrix: Tensor) -> Tensor:
    """About the orthogonal matrix nearest to one, by Newton and Schulz's iteration: singular values of 0.7 to 1.2.

    Args:
        matrix: of two axes.
    """
    a, b, c = _COEFFICIENTS
    tall = len(matrix) > matrix.shape[1]
    x = matrix.T if tall else matrix
    x = (x / (x.norm() + 1e-7)).bfloat16()  # as accurate as the iteration is
    for _ in range(_ITERATIONS):
        square = x @ x.T
        x = a * x + (b * square + c * square @ square) @ x
    return (x.T if tall else x).to(matrix.dtype)
