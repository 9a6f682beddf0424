"""Jobs out of a table of rows: read one by one, checked, and named by what they are."""

from __future__ import annotations

import csv
import hashlib
import json
import math
import os
import posixpath
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import fsspec

from ..config import check_settings
from ..errors import InputError

Row = dict[str, Any]
_ROWS_AT_A_TIME = 256
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
    """The rows of a JSONL, CSV or Parquet file, a few in memory at a time; an error in place of a line that is no row.

    Args:
        table: a path, or a URL that fsspec reads.

    Raises:
        InputError: it is no such file, cannot be read, or is not text in UTF-8.
    """
    readers = {".jsonl": _json_lines, ".ndjson": _json_lines, ".csv": _csv, ".parquet": _parquet}
    reader = readers.get(os.path.splitext(table)[1].lower())
    if reader is None:
        raise InputError("JOBS", "a .jsonl, .csv or .parquet file", table, "Save the table in one of these forms.")
    try:
        yield from reader(table)
    except (OSError, ValueError, csv.Error) as error:  # pyarrow's errors are among them
        remedy = "Check the path and the file; text must be UTF-8."
        raise InputError("JOBS", "a table that can be read", f"'{table}' ({error})", remedy) from error


def count_rows(table: str) -> int:
    """How many rows `read_rows` gives. Errors are the same."""
    return sum(1 for _ in read_rows(table))


def _json_lines(table: str) -> Iterator[Row | InputError]:
    with fsspec.open(table, "rb") as file:
        for line in filter(bytes.strip, file):
            try:
                row = json.loads(line)
            except ValueError as error:
                row = error
            if isinstance(row, dict):
                yield row
            else:
                found = f"{line[:80]!r}" + (f" ({row})" if isinstance(row, ValueError) else "")
                yield InputError("the line", "a JSON object", found, "Correct it.")


def _csv(table: str) -> Iterator[Row | InputError]:
    with fsspec.open(table, "rt", encoding="utf-8-sig", newline="") as file:
        for row in csv.DictReader(file, strict=True):
            if row.pop(None, None) is not None:  # type: ignore[call-overload]
                yield InputError("the line", "as many cells as the header", "more", "Put text with commas in quotes.")
            else:
                yield {name: value or None for name, value in row.items()}


def _parquet(table: str) -> Iterator[Row]:
    from pyarrow.parquet import ParquetFile

    with fsspec.open(table, "rb") as file:
        for batch in ParquetFile(file).iter_batches(_ROWS_AT_A_TIME):
            yield from batch.to_pylist()


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
    if isinstance(value, bool) or (isinstance(value, float) and not value.is_integer()):
        raise TypeError
    return int(value)


def _number(value: Any) -> float:
    if isinstance(value, bool) or not math.isfinite(float(value)):
        raise TypeError
    return float(value)


def _truth(value: Any) -> bool:
    return {"true": True, "false": False, "1": True, "0": False}[str(value).lower()]


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
