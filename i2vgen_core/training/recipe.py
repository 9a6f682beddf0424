"""Recipes in JSON: a training configuration's fields by name, nested as the dataclasses are."""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from ..errors import InputError

Recipe = TypeVar("Recipe")

BUILT_IN = Path(__file__).parent / "recipes"


def read_recipe(kind: type[Recipe], name: str) -> Recipe:
    """A recipe from a file, or one of the project's own by its name.

    Args:
        kind: the configuration's dataclass.
        name: a JSON file, or the name of one in training/recipes.

    Raises:
        InputError: no such file, not JSON, an unknown field, or a value of another type.
    """
    path = Path(name) if name.endswith(".json") else BUILT_IN / f"{name}.json"
    known = ", ".join(sorted(file.stem for file in BUILT_IN.glob("*.json")))
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        remedy = f"Give a JSON file, or one of {known}."
        raise InputError("--config", "a recipe", f"{name} ({error})", remedy) from error
    return parse_recipe(kind, content, path.stem)


def parse_recipe(kind: type[Recipe], content: Any, where: str) -> Recipe:
    """A recipe from what a JSON file holds. Raises InputError as read_recipe does."""
    return _parse(kind, content, where)


def _parse(kind: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(kind):
        return _parse_object(kind, value, where)
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is tuple or (origin is not None and isinstance(origin, type) and issubclass(origin, typing.Sequence)):  # type: ignore[arg-type]
        if not isinstance(value, list):
            raise _wrong(where, "a list", value)
        return tuple(_parse(arguments[0], part, f"{where}[{i}]") for i, part in enumerate(value))
    if origin is typing.Literal:
        if value not in arguments:
            raise _wrong(where, " or ".join(map(str, arguments)), value)
        return value
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        return _parse(next(a for a in arguments if a is not type(None)), value, where)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not kind:
        raise _wrong(where, {str: "text", bool: "true or false", int: "a whole number"}.get(kind, "a number"), value)
    return value


def _parse_object(kind: Any, value: Any, where: str) -> Any:
    if not isinstance(value, Mapping):
        raise _wrong(where, "an object", value)
    types_ = typing.get_type_hints(kind)
    fields = {field.name for field in dataclasses.fields(kind)}
    for name in value:
        if name not in fields:
            raise InputError(
                f"{where}.{name}", "a field of the recipe", "an unknown one", f"Use one of {sorted(fields)}."
            )
    return kind(**{name: _parse(types_[name], part, f"{where}.{name}") for name, part in value.items()})


def _wrong(where: str, expected: str, found: Any) -> InputError:
    return InputError(where, expected, repr(found)[:60], "Correct the recipe.")
