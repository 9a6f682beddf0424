"""Command lines that a video cannot be made of, and some that look so: drawn by hypothesis for `bad_input`."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st
from PIL import Image


@dataclass(frozen=True)
class Command:
    """Arguments of `python -m i2vgen_core generate`, of which the later ones count.

    Args:
        name: what is bad, for a report.
        changes: options, in place of or after the good ones. `{files}` is the folder that `write_files` has filled.
    """

    name: str
    changes: tuple[str, ...]

    def arguments(self, files: Path, out: Path) -> list[str]:
        good = {"--image": f"{files}/grey.png", "--prompt": "a red disc", "--out": str(out)}
        small = ["--width", "64", "--height", "64", "--frames", "1", "--steps", "1", "--stage", "base"]
        options = [word for pair in good.items() for word in pair] + small
        return ["generate", *options, *(word.replace("{files}", str(files)) for word in self.changes)]


def _png(width: int, height: int, bits: int, colour: int, rows: bytes) -> bytes:
    """A PNG file by hand, with what Pillow does not write."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def write_files(folder: Path) -> None:
    """Pictures, and what is none, as `IMAGES` names them."""
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 4), dtype=np.uint8)
    for mode in ("1", "L", "LA", "RGB", "RGBA", "P", "CMYK", "I;16", "F"):
        picture = Image.fromarray(pixels[..., 0].astype(np.uint16) * 257) if mode == "I;16" else Image.fromarray(pixels)
        picture = picture if mode == "I;16" else picture.convert(mode)
        picture.save(folder / f"{mode.replace(';', '')}.{'tiff' if mode in ('CMYK', 'F') else 'png'}")
    Image.fromarray(pixels[..., 0]).save(folder / "grey.png")
    for size in ((1, 1), (1, 3000), (3000, 1)):
        Image.new("RGB", size, "red").save(folder / f"{size[0]}x{size[1]}.png")
    deep = np.random.default_rng(1).integers(0, 65536, (8, 8, 3), dtype=np.uint16).astype(">u2")
    (folder / "rgb16.png").write_bytes(_png(8, 8, 16, 2, b"".join(b"\0" + row.tobytes() for row in deep)))
    (folder / "bomb.png").write_bytes(_png(100_000, 100_000, 8, 2, b""))
    (folder / "large.png").write_bytes(_png(16_384, 16_384, 8, 0, b"\0" * 100))
    (folder / "empty.png").write_bytes(b"")
    (folder / "cut.png").write_bytes((folder / "RGB.png").read_bytes()[:-40])
    (folder / "text.jpg").write_text("<html>404</html>", encoding="utf-8")
    (folder / "folder.png").mkdir()


IMAGES = [
    "1.png",
    "L.png",
    "LA.png",
    "RGB.png",
    "RGBA.png",
    "P.png",
    "CMYK.tiff",
    "I16.png",
    "F.tiff",
    "1x1.png",
    "1x3000.png",
    "3000x1.png",
    "rgb16.png",
    "bomb.png",
    "large.png",
    "empty.png",
    "cut.png",
    "text.jpg",
    "folder.png",
    "absent.png",
    "../absent.png",
]
_INTS = [
    "-1",
    "0",
    "1",
    "7",
    "8191",
    "10001",
    "16384",
    str(2**63),
    str(2**64 - 1),
    str(2**64),
    "1e3",
    "",
    "eight",
    "0x10",
]
_FLOATS = ["nan", "inf", "-inf", "-1", "0", "0.5", "1", "1e30", "-1e-9", "100.1", "", "two"]
_REFINED = ("--stage", "cascade", "--refine-width", "72", "--refine-height", "64", "--refine-steps", "1")

_SIDES = [value for value in _INTS if value != "16384"]  # beside 64 pixels that is a video, of minutes

NUMBERS: dict[str, list[str]] = {
    "--width": _SIDES,
    "--height": _SIDES,
    "--frames": list(_INTS),
    "--fps": [*_INTS, "121"],
    "--steps": [*_INTS, "1000"],
    "--seed": _INTS,
    "--guidance": _FLOATS,
    "--eta": _FLOATS,
    "--file-fps": [*_FLOATS, "0.05", "2000"],
    "--refine-width": _SIDES,
    "--refine-height": _SIDES,
    "--refine-steps": [*_INTS, "1000"],
    "--refine-guidance": _FLOATS,
    "--refine-rescale": _FLOATS,
    "--refine-noise-level": [*_INTS, "1000"],
    "--refine-eta": _FLOATS,
    "--guidance-start": _FLOATS,
    "--guidance-end": _FLOATS,
    "--reuse-interval": _INTS,
    "--refine-guidance-start": _FLOATS,
    "--refine-guidance-end": _FLOATS,
    "--refine-reuse-interval": _INTS,
}


@st.composite
def numbers(draw: st.DrawFn) -> Command:
    option = draw(st.sampled_from(sorted(NUMBERS)))
    value = draw(st.sampled_from(NUMBERS[option]))
    before = _REFINED if option.startswith("--refine") else ()
    return Command(f"{option} {value}", (*before, f"{option}={value}"))


@st.composite
def sizes(draw: st.DrawFn) -> Command:
    side = st.sampled_from(["8192", "16384"])
    width, height, frames = draw(side), draw(side), draw(st.sampled_from(["1", "16", "4096"]))
    stage = draw(st.sampled_from(["", "refine-"]))
    before = _REFINED if stage else ()
    changes = (f"--{stage}width", width, f"--{stage}height", height, "--frames", "1" if stage else frames)
    return Command(f"{stage}size {frames} x {width}x{height}", (*before, *changes))


@st.composite
def files(draw: st.DrawFn) -> Command:
    name = draw(st.sampled_from(IMAGES))
    return Command(f"--image {name}", ("--image", f"{{files}}/{name}"))


@st.composite
def words(draw: st.DrawFn) -> Command:
    option = draw(
        st.sampled_from(["--prompt", "--negative", "--model", "--image", "--out", "--device", "--dtype", "--refiner"])
    )
    text = draw(
        st.text(max_size=30)
        | st.sampled_from(["", "../..", "\0", "\ud800", "a" * 100_000, "/", "~", "meta", "cuda:99"])
    )
    if option == "--out":
        text = text.lstrip("/\\") or "."  # inside the test's folder
    if option in ("--prompt", "--negative") and draw(st.booleans()):
        text = (text or "é") * (100_000 // max(len(text), 1))
    return Command(f"{option} {text[:30]!r}", (f"{option}={text}",))


COMMANDS: Any = st.one_of(numbers(), numbers(), sizes(), files(), words())
