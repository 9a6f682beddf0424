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
from functools import lru_cache
from typing import Any

from ..errors import InputError, check_range
from ..media import rows
from ..media.rows import Row
from ..releases import check_settings

_THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2},\d{3}")
_TITLE = re.compile(r"[^\s./\\\\:*?\"<>|\x00-\x1f][^/\\\\:*?\"<>|\x00-\x1f]*")
_SEEDS = 2**32


@dataclass(frozen=True)
class Job:
    """A video to be made: one row of the table, checked.

    Args:
        row: its number in the table, from 1.
        name: of its output, without the ending: 32 hexadecimal digits of the content's and the model's hash.
        seed: the row's, or one out of its content.
        content: what the worker needs, as JSON.
        title: name of the link to its output; what a person calls it.
    """

    row: int
    name: str
    seed: int
    content: dict[str, Any]
    title: str = ""


def read_rows(table: str) -> Iterator[Row | InputError]:
    """The rows of a table of jobs, as media.rows reads them."""
    return rows.read_rows(table, "JOBS")


def count_jobs(table: str) -> int:
    """How many jobs the rows of `read_rows` ask for, one for each take. Errors are the same."""
    count = 0
    for row in read_rows(table):
        try:
            count += 1 if isinstance(row, InputError) else takes_of(take_column(row, "takes"))
        except InputError:  # said when it is its turn
            count += 1
    return count


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


def seed_of(content: dict[str, Any], take: int = 0) -> int:
    """The content's seed; without one, 32 bits of its hash: other rows differ, the same row does not. Each further take
    has the next seed."""
    if content.get("seed") is None:
        return (int(_digest(content)[:16], 16) + take) % _SEEDS
    check_settings({"seed": content["seed"]})
    return (content["seed"] + take) % 2**64


def fingerprint(path: str) -> str | None:
    """The hash of a file's bytes. None behind a URL, which is known by its address, and where there is no such file."""
    try:
        state = os.stat(path)
        return _file_digest(path, state.st_mtime_ns, state.st_size)
    except (OSError, ValueError):
        return None


@lru_cache(maxsize=4096)
def _file_digest(path: str, changed: int, size: int) -> str:
    whole = hashlib.sha256()
    with open(path, "rb") as file:
        while data := file.read(2**20):
            whole.update(data)
    return whole.hexdigest()


def take_column(row: Row, column: str) -> Any:
    """Removes a column of a row, whatever its capitals, and gives its value; None if there is none."""
    key = next((name for name in row if name == column), None) or next(
        (name for name in row if name.lower() == column.lower()), None
    )
    return None if key is None else row.pop(key)


def title_of(given: Any, picture: str, number: int) -> str:
    """What a row's output is called.

    Args:
        given: the cell that names it, or None.
        picture: path or URL of the row's picture; without a name, its stem and the row's number are taken.
        number: the row's.

    Raises:
        InputError: it is no plain file name.
    """
    if isinstance(given, (int, float)) and not isinstance(given, bool) and math.isfinite(given):
        given = f"{given:g}"  # a table of numbers
    title = cast("name", given, str)
    if title is None:
        stem = os.path.splitext(re.split(r"[/\\]", picture.partition("?")[0])[-1])[0]
        plain = re.sub(r"[^\w.-]+", "_", stem)[:80].strip("._")
        return f"{plain or 'row'}-{number}"
    title = title.removesuffix(".mp4")
    if not _TITLE.fullmatch(title) or title.endswith((".", " ")) or len(title.encode()) > 180:
        remedy = "Use letters, digits, spaces, '-', '_' and '.'."
        raise InputError("name", "a file's name", repr(title)[:80], remedy)
    return title


def takes_of(given: Any) -> int:
    """How many seeds a row asks for. Raises InputError outside 1..1000."""
    takes = cast("takes", given, int)
    check_range("takes", 1 if takes is None else takes, 1, 1000)
    return 1 if takes is None else takes


def name_of(content: Any, model: str) -> str:
    """The name of an output: the same content and model give the same one, on every machine."""
    return _digest([content, model])[:32]


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()
