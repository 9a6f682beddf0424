"""What can be wrong with an input. Every message says what was expected, what was found and what to do."""

from __future__ import annotations

import numbers
from collections.abc import Collection
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


class InputError(ValueError):
    """An input that this project cannot use.

    Args:
        what: the input, as the user knows it ("the CLIP model", "latent", "image").
        expected: what would have been right.
        found: what was there.
        remedy: what to do about it, one sentence.
    """

    def __init__(self, what: str, expected: str, found: str, remedy: str):
        self.what, self.expected, self.found, self.remedy = what, expected, found, remedy
        super().__init__(f"{what}: expected {expected}, found {found}. {remedy}")


class CheckpointError(InputError):
    """A file or a state dict that is not the network it should be."""


def check_choice(what: str, value: object, choices: Collection[str]) -> None:
    """Raises InputError unless value is among the choices."""
    if value not in choices:
        raise InputError(what, " or ".join(choices), repr(value)[:80], "Choose one of them.")


def check_range(what: str, value: object, low: float, high: float, *, whole: bool = False) -> None:
    """Raises InputError unless value is a number, a whole one if asked, and low <= value <= high."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral if whole else numbers.Real):
        expected = f"a {'whole ' * whole}number from {low} to {high}"
    elif not low <= value <= high:  # type: ignore[operator]  # numbers.Real says nothing of it
        expected = f"{low} to {high}"
    else:
        return
    raise InputError(what, expected, f"{value!r}"[:80], "Choose a value in this range.")


def check_finite(what: str, values: Tensor, remedy: str) -> None:
    """Raises InputError for a tensor with values that are infinite or not numbers."""
    if not values.isfinite().all():
        bad = values.numel() - int(values.isfinite().sum())
        found = f"{bad} of {values.numel()} that are not (NaN or infinite)"
        raise InputError(what, "finite values alone", found, remedy)
