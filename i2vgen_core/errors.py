"""What can be wrong with an input. Every message says what was expected, what was found and what to do."""

from __future__ import annotations

import errno
import inspect
import numbers
import tempfile
import types
import typing
from collections.abc import Callable, Collection
from contextlib import suppress
from functools import cache, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

if TYPE_CHECKING:
    from torch import Tensor

Arguments = ParamSpec("Arguments")
Returned = TypeVar("Returned")

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
"""What the system says where a disk takes no more."""

_WORDS = {
    "str": "text",
    "int": "a whole number",
    "float": "a number",
    "bool": "True or False",
    "NoneType": "None",
    "PathLike": "a path",
    "Image": "a PIL image",
    "ndarray": "a numpy array",
    "Tensor": "a tensor",
    "Callable": "a function",
}
"""What a type is called in a sentence, by its name."""


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


def checked(function: Callable[Arguments, Returned]) -> Callable[Arguments, Returned]:
    """A function whose arguments have to be of the types that it says: InputError names the first that is not."""
    signature = inspect.signature(function)

    @wraps(function)
    def run(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Returned:
        for name, value in signature.bind(*args, **kwargs).arguments.items():
            check_type(name, value, _annotations(function).get(name, Any))
        return function(*args, **kwargs)

    return run


@cache
def _annotations(annotated: Callable[..., object]) -> dict[str, Any]:
    return typing.get_type_hints(annotated)


def check_fields(options: Any) -> None:
    """Raises InputError for the first field of a dataclass that is of another type than the class says."""
    own: Any = type(options)
    for name, kind in _annotations(own).items():
        check_type(name.replace("_", " "), getattr(options, name), kind)


def check_type(what: str, value: object, kind: Any) -> None:
    """Raises InputError unless a value is of a type.

    Args:
        what: the value, as the user knows it.
        value: any.
        kind: the type, as an annotation states it. Numbers of every library are numbers, True and False are not.
    """
    if not _is(value, kind):
        shape = f" {list(value.shape)}" if hasattr(value, "shape") else ""
        said = repr(value)[:80] if value is None or isinstance(value, str | numbers.Number) else type(value).__name__
        raise InputError(what, " or ".join(dict.fromkeys(_named(kind))), said + shape, "Give one of these.")


def _is(value: object, kind: Any) -> bool:
    if _is_union(kind):
        return any(_is(value, each) for each in typing.get_args(kind))
    if typing.get_origin(kind) is typing.Literal:
        return isinstance(value, str) and value in typing.get_args(kind)
    kind = typing.get_origin(kind) or kind
    if kind in (int, float):
        return isinstance(value, numbers.Integral if kind is int else numbers.Real) and not isinstance(value, bool)
    return kind is Any or isinstance(kind, typing.TypeVar) or isinstance(value, kind)


def _named(kind: Any) -> list[str]:
    if _is_union(kind):
        return [name for each in typing.get_args(kind) for name in _named(each)]
    if typing.get_origin(kind) is typing.Literal:
        return list(typing.get_args(kind))
    name = getattr(typing.get_origin(kind) or kind, "__name__", str(kind))
    return [_WORDS.get(name, name)]


def _is_union(kind: Any) -> bool:
    return typing.get_origin(kind) in (typing.Union, types.UnionType)


def check_shape(what: str, found: Collection[int], expected: Collection[int], remedy: str) -> None:
    """Raises InputError unless two shapes are the same."""
    if tuple(found) != tuple(expected):
        raise InputError(what, f"shape {list(expected)}", f"{list(found)}", remedy)


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


def check_writable(what: str, folder: Path) -> None:
    """Raises InputError unless a file can be written into a folder, which may have to be made. Nothing is left of either."""
    made = [each for each in (folder, *folder.parents) if not each.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        found = f"'{folder}', which may not be written to ({error.strerror})"
        raise InputError(what, "a folder that can be written", found, "Choose another folder.") from error
    finally:
        for each in made:
            with suppress(OSError):
                each.rmdir()


def check_finite(what: str, values: Tensor, remedy: str) -> None:
    """Raises InputError for a tensor with values that are infinite or not numbers."""
    if not values.isfinite().all():
        bad = values.numel() - int(values.isfinite().sum())
        found = f"{bad} of {values.numel()} that are not (NaN or infinite)"
        raise InputError(what, "finite values alone", found, remedy)
