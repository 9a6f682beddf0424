"""The command line: `i2vgen-xl COMMAND`, or `python -m i2vgen_core COMMAND`."""

from __future__ import annotations

import argparse
import importlib
import io
import logging
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tqdm.contrib.logging import logging_redirect_tqdm

from . import __version__
from .commands import pages
from .errors import NO_ROOM, InputError

logger = logging.getLogger("i2vgen_xl")

_COMMANDS = {
    "generate": "a video from a photo, or a video refined",
    "edit": "a video edited by its first frame",
    "compose": "a video of a prompt, and of a sketch, depth, motion or a masked video that it follows",
    "animate": "a person's picture follows the poses of a video",
    "score": "figures of videos: motion, smoothness, flicker, likeness, sharpness",
    "batch": "many videos, from a table of jobs, on one machine or many",
    "download": "the released files, into ComfyUI's model folders",
    "convert": "one network of a file as a safetensors file",
    "inspect": "what a file is, and which loader takes it",
    "train": "a part of a model, on a synthetic world or your own videos",
    "evaluate": "figures of a cascade that was trained on the synthetic world",
    "scaffold": "a model folder with made-up weights",
}
"""What each module of `commands` is for."""


def main(arguments: list[str] | None = None) -> int:
    """Runs a command; 2 at an input that cannot be used, with the reason on standard error; 130 if stopped."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a console of few characters, or a pipe, stops nothing
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        with _ended_by_sigterm(), logging_redirect_tqdm():  # lines stand above a bar, not in it
            options = _parser(arguments).parse_args(arguments)
            return options.command(options) or 0
    except InputError as error:
        logger.error("error: %s", error)
        return 2
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        found, remedy = f"none ({error.strerror})", "Free some, or choose another folder."
        logger.error("error: %s", InputError(str(error.filename or "the disk"), "room to write", found, remedy))
        return 2
    except KeyboardInterrupt:
        logger.error("stopped")
        return 130


@contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """While it lasts, SIGTERM ends a command as Ctrl-C does, unless it is handled or ignored: what is unfinished is removed."""
    handler = signal.getsignal(signal.SIGTERM)
    in_main_thread = threading.current_thread() is threading.main_thread()  # signals come there alone
    if not in_main_thread or handler != signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, handler)


def _parser(arguments: list[str]) -> argparse.ArgumentParser:
    """Knows every command, and the options of the one that is asked for: what the others import takes seconds."""
    name = "i2vgen-xl" if Path(sys.argv[0]).stem == "i2vgen-xl" else "python -m i2vgen_core"
    parser = argparse.ArgumentParser(prog=name, description=__doc__, epilog=f"Pages: {pages()}")
    parser.add_argument("--version", action="version", version=f"i2vgen-xl {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, purpose in _COMMANDS.items():
        command = commands.add_parser(name, help=purpose)
        if name in arguments[:1]:
            module = importlib.import_module(f".commands.{name}", __package__)
            module.add_arguments(command)
            command.set_defaults(command=module.run)
    return parser


if __name__ == "__main__":
    sys.exit(main())
