"""What can be wrong with an input. Every message says what was expected, what was found and what to do."""

from collections.abc import Collection


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


def check_range(what: str, value: float, low: float, high: float) -> None:
    """Raises InputError unless low <= value <= high."""
    if not low <= value <= high:
        raise InputError(what, f"{low} to {high}", f"{value}", "Choose a value in this range.")
