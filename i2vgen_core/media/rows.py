"""Rows of a table in a file, as spreadsheets and data sets write them: CSV of any delimiter, JSONL, Parquet."""

from __future__ import annotations

import codecs
import csv
import io
import itertools
import json
import logging
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import IO, Any

from ..errors import InputError

logger = logging.getLogger("i2vgen_xl")

Row = dict[str, Any]
"""Values by the names of their columns; None where a cell is empty."""

_ROWS_AT_A_TIME = 256
_SAMPLE = 2**16
_DELIMITERS = ",;\t|"
_BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_PANDAS_INDEX = re.compile(r"__index_level_\d+__")


def read_rows(table: str, what: str) -> Iterator[Row | InputError]:
    """The rows of a table, a few in memory at a time; an error in place of a line that is no row.

    Text is in UTF-8, UTF-16 or UTF-32. The delimiter of a CSV file is the one that parts its first row, a comma, a
    semicolon, a tab or a bar, or what a line `sep=;` before it says. Empty rows, and columns that have no name, are
    passed over; white space around a cell is dropped.

    Args:
        table: a path, or a URL that fsspec reads, with one of the endings of FORMS.
        what: the table, in messages.

    Raises:
        InputError: it is no such file, cannot be read, has no header or one that names a column twice, or is not text
            in these encodings.
    """
    form = _form(table, what)
    with _readable(table, what):
        yield from form(table, what)


def read_header(table: str, what: str) -> list[str] | None:
    """The names of a table's columns; None for JSONL, where each row has its own. Errors are those of `read_rows`."""
    form = _form(table, what)
    with _readable(table, what):
        if form is _csv:
            with _cells(table, what) as (names, _):
                return [name for name in names if name]
        if form is _parquet:
            from pyarrow.parquet import read_schema

            with _bytes(table) as file:
                return [name for name in read_schema(file).names if not _PANDAS_INDEX.fullmatch(name)]
    return None


def _form(table: str, what: str) -> Callable[[str, str], Iterator[Row | InputError]]:
    form = FORMS.get(os.path.splitext(table)[1].lower())
    if form is None:
        raise InputError(what, f"a table ({', '.join(FORMS)})", table, "Save the table in one of these forms.")
    return form


@contextmanager
def _readable(table: str, what: str) -> Iterator[None]:
    try:
        yield
    except UnicodeDecodeError as error:
        found = f"'{table}' with {error.object[max(0, error.start - 20) : error.end + 5]!r}"
        remedy = "Save it as UTF-8; spreadsheets offer 'CSV UTF-8'."
        raise InputError(what, "a table in UTF-8 or UTF-16", found, remedy) from error
    except InputError:
        raise
    except (OSError, ValueError) as error:  # pyarrow's errors are among them
        raise InputError(
            what, "a table that can be read", f"'{table}' ({error})", "Check the path and the file."
        ) from error


def read_text(file: Path) -> str:
    """A text file in UTF-8, UTF-16 or UTF-32.

    Raises:
        InputError: it is not, or cannot be read.
    """
    try:
        data = file.read_bytes()
        return data.decode(encoding_of(data[:_SAMPLE]))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(str(file), "text in UTF-8", str(error), "Save it as UTF-8.") from error


def encoding_of(start: bytes) -> str:
    """UTF-8, UTF-16 or UTF-32, from the beginning of a text."""
    for mark, name in _BYTE_ORDER_MARKS:
        if start.startswith(mark):
            return name
    even, odd = start[::2].count(0), start[1::2].count(0)
    if max(even, odd) > len(start) // 8:  # UTF-16 without its mark: every second byte of most letters is 0
        return "utf-16-le" if odd > even else "utf-16-be"
    return "utf-8"


@contextmanager
def _bytes(table: str) -> Iterator[IO[bytes]]:
    if "://" not in table:
        with open(table, "rb") as file:
            yield file
        return
    import fsspec

    with fsspec.open(table, "rb") as file:
        yield file


@contextmanager
def _text(table: str, errors: str = "strict") -> Iterator[IO[str]]:
    with _bytes(table) as file:
        encoding = encoding_of(file.read(_SAMPLE))
    with _bytes(table) as file, io.TextIOWrapper(file, encoding=encoding, errors=errors, newline="") as text:
        yield text


def _json_lines(table: str, what: str) -> Iterator[Row | InputError]:
    with _text(table, "surrogateescape") as file:
        for line in filter(str.strip, file):
            data = line.encode("utf-8", "surrogateescape")
            try:
                row = json.loads(data)
            except (ValueError, RecursionError) as error:
                row = error
            if isinstance(row, dict):
                yield row
            else:
                found = f"{data[:80]!r}" + (f" ({row})" if isinstance(row, Exception) else "")
                yield InputError("the line", "a JSON object", found, "Correct it.")


def _csv(table: str, what: str) -> Iterator[Row | InputError]:
    with _cells(table, what) as (names, rows):
        for cells in rows:
            if any(cells[len(names) :]):
                found = f"{len(cells)}, the last of them {cells[-1][:40]!r}"
                expected, remedy = (
                    f"as many cells as the header, {len(names)}",
                    "Put text with the delimiter in quotes.",
                )
                yield InputError("the line", expected, found, remedy)
                continue
            if any(cell for name, cell in zip(names, cells) if not name):  # noqa: B905
                _say_unnamed(table)
            pairs = itertools.zip_longest(names, cells[: len(names)])
            yield {name: cell or None for name, cell in pairs if name}


@contextmanager
def _cells(table: str, what: str) -> Iterator[tuple[list[str], Iterator[list[str]]]]:
    """The names in the first row of a CSV file, and the cells of the others that are not empty."""
    with _text(table) as file:
        line, delimiter = _first_line(file)
        lines = itertools.chain([line], file)
        reader = csv.reader(lines, delimiter=delimiter, skipinitialspace=True, strict=True)
        try:
            rows = ([cell.strip() for cell in row] for row in reader)
            names = next(rows, [])
            _check_names(table, what, names)
            yield names, filter(any, rows)
        except csv.Error as error:
            found = f"'{table}', line {reader.line_num} ({error})"
            remedy = 'Put text with the delimiter or with quotes in quotes, and double those in it: "a ""fox"" runs".'
            raise InputError(what, "cells, in quotes where they need them", found, remedy) from error


def _first_line(file: IO[str]) -> tuple[str, str]:
    """The first line that says something, and the delimiter."""
    delimiter = ""
    while line := file.readline():
        if match := re.fullmatch(r'"?sep=(.)"?', line.strip("\r\n"), re.IGNORECASE):
            delimiter = match[1]
        elif line.strip(_DELIMITERS + ' "\r\n'):
            break
    return line, delimiter or max(_DELIMITERS, key=lambda each: _count_cells(line, each))


def _count_cells(line: str, delimiter: str) -> int:
    return len(next(csv.reader([line], delimiter=delimiter, skipinitialspace=True), []))


def _check_names(table: str, what: str, names: list[str]) -> None:
    if not any(names):
        raise InputError(what, "a first row with the columns' names", f"none in '{table}'", "Add a row of names.")
    twice = sorted({name for name in names if name and names.count(name) > 1})
    if twice:
        raise InputError(what, "each column once", f"{', '.join(twice)} twice in '{table}'", "Rename or remove one.")


@lru_cache
def _say_unnamed(table: str) -> None:
    logger.warning("%s: a column without a name in the first row is passed over", table)


def _parquet(table: str, what: str) -> Iterator[Row]:
    from pyarrow.parquet import ParquetFile

    with _bytes(table) as file:
        for batch in ParquetFile(file).iter_batches(_ROWS_AT_A_TIME):
            for row in batch.to_pylist():
                yield {name: value for name, value in row.items() if not _PANDAS_INDEX.fullmatch(name)}


FORMS: dict[str, Callable[[str, str], Iterator[Row | InputError]]] = {
    ".csv": _csv,
    ".tsv": _csv,
    ".txt": _csv,  # a spreadsheet's "Unicode text"
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".parquet": _parquet,
}
"""How a table is read, by its ending."""
