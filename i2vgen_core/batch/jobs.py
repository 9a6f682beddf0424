"""Jobs out of a table of rows: read one by one, checked, and named by what they are."""

from __future__ import annotations

import hashlib
import json
import math
import os
import posixpath
import re
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any

from ..config import check_settings
from ..errors import InputError
from ..media import rows
from ..media.rows import Row

_THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2},\d{3}")
_SEEDS = 2**32


@dataclass(frozen=True)
class Job:
    """One row, checked.

    Args:
        row: its number in the table, from 1.
        name: of its output, without the ending: 32 hexadecimal digits of the content's and the model's hash.
        seed: the row's, or one out of its content.
        content: what the worker needs, as JSON.
    """

    row: int
    name: str
    seed: int
    content: dict[str, Any]


def read_rows(table: str) -> Iterator[Row | InputError]:
    """The rows of a table of jobs, as media.rows reads them."""
    return rows.read_rows(table, "JOBS")


def count_rows(table: str) -> int:
    """How many rows `read_rows` gives. Errors are the same."""
    return sum(1 for _ in read_rows(table))


def check_header(table: str, known: Collection[str], needed: Collection[str]) -> None:
    """Raises InputError where a header cannot be that of a table of jobs. JSONL, where each row has names, has none.

    Args:
        table: see media.rows.read_rows.
        known: columns that there may be; all if empty.
        needed: columns that there must be.
    """
    names = rows.read_header(table, "JOBS")
    if names is None:
        return
    names = [name if name in {*known, *needed} else name.lower() for name in names]
    listed = ", ".join(map(repr, names))[:200]
    if not set(names) & {*known, *needed}:
        expected = f"a first row with the columns' names ({', '.join(needed)}, ...)"
        raise InputError("JOBS", expected, listed, "Add a row of names before the others.")
    if missing := [name for name in needed if name not in names]:
        remedy = "Add it, or rename the one that is meant."
        raise InputError("JOBS", f"a column {' and a column '.join(missing)}", listed, remedy)
    if unknown := [name for name in names if known and name not in known]:
        raise InputError("column", ", ".join(known), ", ".join(map(repr, unknown)), "Rename or remove it.")


# ---------------------------------------------------------------- for every kind of job


def cast(name: str, value: Any, kind: type) -> Any:
    """A cell as a value of a kind: str, int, float or bool; None for an empty one.

    Raises:
        InputError: it is none.
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    words: dict[type, tuple[str, Callable[[Any], Any]]] = {
        str: ("text", _text),
        int: ("a whole number", _whole),
        float: ("a number", _number),
        bool: ("true or false", _truth),
    }
    expected, convert = words[kind]
    try:
        return convert(value)
    except (TypeError, ValueError, KeyError, OverflowError):
        raise InputError(name, expected, repr(value)[:80], "Correct the cell.") from None


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _whole(value: Any) -> int:
    """1 is 1.0 too, as a spreadsheet or a column with gaps has it. 1E+05 is refused: a spreadsheet that writes so has
    dropped digits."""
    if isinstance(value, str):
        if not (match := re.fullmatch(r"\s*([+-]?\d+)([.,]0+)?\s*", value)) or _THOUSANDS.fullmatch(value.strip()):
            raise TypeError
        return int(match[1])
    if isinstance(value, bool) or (isinstance(value, float) and not value.is_integer()):
        raise TypeError
    return int(value)


def _number(value: Any) -> float:
    """2,5 is 2.5, as many countries write it; 2,500 might be either, and is refused."""
    if isinstance(value, str) and value.count(",") == 1 and not _THOUSANDS.fullmatch(value.strip()):
        value = value.replace(",", ".")
    if isinstance(value, bool) or not math.isfinite(float(value)):
        raise TypeError
    return float(value)


def _truth(value: Any) -> bool:
    return {"true": True, "false": False, "1": True, "0": False, "1.0": True, "0.0": False}[str(value).lower()]


def resolve(folder: str, path: str) -> str:
    """A path or URL of a row, as the workers open it: a relative path starts from the folder of the table."""
    if "://" in path or os.path.isabs(path):
        return path
    return posixpath.join(folder, path) if "://" in folder else os.path.join(folder, path)


def folder_of(table: str) -> str:
    """The folder or URL that relative paths of a table start from."""
    return table.rpartition("/")[0] if "://" in table else os.path.dirname(os.path.abspath(table))


def seed_of(content: dict[str, Any]) -> int:
    """The content's seed; without one, 32 bits of its hash: other rows differ, the same row does not."""
    if content.get("seed") is None:
        return int(_digest(content)[:16], 16) % _SEEDS
    check_settings({"seed": content["seed"]})
    return content["seed"]


def name_of(content: Any, model: str) -> str:
    """The name of an output: the same content and model give the same one, on every machine."""
    return _digest([content, model])[:32]


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()
