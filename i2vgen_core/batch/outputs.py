"""The folder of a batch: whole outputs alone, and a manifest of what became of each job."""

from __future__ import annotations

import glob
import json
import logging
import os
import shutil
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ..errors import NO_ROOM, InputError, check_writable

logger = logging.getLogger("i2vgen_xl")

MANIFEST = "manifest.jsonl"
RESULTS = "results"
UNFINISHED = "unfinished"


class NoRoom(InputError):
    """The output folder takes no more."""

    def __init__(self, folder: Path, reason: str | None):
        self.reason = reason
        found = f"'{folder}' without ({reason})"
        super().__init__("the output folder", "room to write", found, "Free some, and start the same command again.")


class Outputs:
    """The folder, held by one batch at a time. Outputs are `<first 3 digits of the name>/<name>.<ending>`.

    Args:
        path: a folder, made if it is not there.

    Raises:
        InputError: it cannot be written, or another batch works in it.
    """

    def __init__(self, path: Path):
        check_writable("the output folder", path)
        path.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._lock = FileLock(path / ".lock")
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            remedy = "Wait for it, or choose another folder."
            raise InputError("the output folder", "no other batch in it", f"one in '{path}'", remedy) from None
        except OSError as error:
            raise InputError(
                "the output folder", "one whose files can be locked", str(error), "Choose another."
            ) from error
        for part in path.glob("*/.*.part"):  # of workers that were killed
            part.unlink(missing_ok=True)
        self._recorded = _mend(path / MANIFEST)
        self._manifest = (path / MANIFEST).open("ab", buffering=0)

    def close(self) -> None:
        """Lets another batch in."""
        self._manifest.close()
        self._lock.release()

    def find(self, name: str) -> Path | None:
        """A job's whole output, if it is there: only whole files have such a name."""
        return next((self.path / name[:3]).glob(f"{name}.*"), None)

    def is_recorded(self, name: str) -> bool:
        """Whether the manifest says that this output was made."""
        return key_of(name) in self._recorded

    def link(self, name: str, title: str) -> None:
        """Makes `results/<title>.<ending>` a link to a job's output, in place of what has that title; a copy where the
        folder takes no links.

        Raises:
            NoRoom: the disk is full.
        """
        output = self.find(name)
        if output is None or not title:
            return
        results = self.path / RESULTS
        target = results / (title + output.suffix)
        part = results / f".{uuid.uuid4().hex}.part"
        try:
            results.mkdir(exist_ok=True)
            if target.is_symlink() and target.resolve() == output.resolve():
                return
            try:
                part.symlink_to(Path("..") / output.relative_to(self.path))
            except OSError:  # Windows, and some network folders
                shutil.copyfile(output, part)
            for other in results.glob(f"{glob.escape(title)}.*"):  # the same title with another ending
                if other.stem == title and other != target:
                    other.unlink()
            os.replace(part, target)
        except OSError as error:
            if error.errno in NO_ROOM:
                raise NoRoom(self.path, error.strerror) from error
            raise InputError("results", "links that can be made", str(error), "Look at the output folder.") from error
        finally:
            part.unlink(missing_ok=True)

    def forget(self, name: str) -> None:
        """Removes what was kept of a job on its way, see kept.KeptWindows."""
        shutil.rmtree(self.path / UNFINISHED / name, ignore_errors=True)
        with suppress(OSError):  # others are on their way, or none ever was
            (self.path / UNFINISHED).rmdir()

    def record(self, line: dict[str, Any], traceback: str | None = None) -> None:
        """Adds a line to the manifest; a traceback goes to `failed/<name>.txt`, which is removed without one.

        Raises:
            NoRoom: the disk is full.
        """
        aside = self.path / "failed" / f"{line['name']}.txt"
        data = json.dumps(line, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"
        try:
            if traceback is None:
                aside.unlink(missing_ok=True)
            else:
                aside.parent.mkdir(exist_ok=True)
                aside.write_text(traceback, encoding="utf-8", errors="backslashreplace")
            while data:  # a full disk takes a part first, then raises
                data = data[self._manifest.write(data) :]
            if line["status"] == "done":
                self._recorded.add(key_of(line["name"]))
        except OSError as error:
            raise NoRoom(self.path, error.strerror) from error


def publish(file: Path, folder: Path, name: str) -> None:
    """Copies a finished file into the batch's folder: under another name, which is changed when all is on the disk.

    Raises:
        NoRoom: the disk is full, or may not be written.
    """
    target = folder / name[:3] / f"{name}{file.suffix}"
    part = target.with_name(f".{target.name}.{uuid.uuid4().hex}.part")
    try:
        target.parent.mkdir(exist_ok=True)
        with file.open("rb") as source, part.open("wb") as copy:
            shutil.copyfileobj(source, copy)
            copy.flush()
            os.fsync(copy.fileno())
        os.replace(part, target)
    except OSError as error:
        if error.errno in NO_ROOM:
            raise NoRoom(folder, error.strerror) from error
        raise
    finally:
        part.unlink(missing_ok=True)


def _mend(manifest: Path) -> set[int]:
    """Cuts a last line that was half-written; the keys of all outputs that the others say were made. A torn line among
    them is passed over with a warning: its output is found by its file."""
    made = set()
    if manifest.exists():
        with manifest.open("rb+") as file:
            whole = 0
            for number, data in enumerate(file, 1):
                if not data.endswith(b"\n"):
                    file.truncate(whole)
                    break
                whole += len(data)
                try:
                    line = json.loads(data)
                    if line["status"] == "done":
                        made.add(key_of(line["name"]))
                except (ValueError, TypeError, KeyError):  # a disk that was full, a machine that lost power
                    logger.warning("%s, line %d is torn and is passed over: %r", manifest, number, data[:60])
    return made


def key_of(name: str) -> int:
    """A job's name as a number, 64 bits of a name: a million of them take 70 MB."""
    return int(name[:16], 16)
