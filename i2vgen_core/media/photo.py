"""How a picture file says that it is to be shown: one path from a file to upright sRGB pixels, for every picture that is read."""

from __future__ import annotations

import io
import logging
import os
import struct
import zlib
from collections.abc import Iterator
from typing import IO

import av
import numpy as np
from PIL import Image, ImageCms, UnidentifiedImageError

from ..errors import InputError
from ..memory import machine_bytes
from .conversion import Converter, colour_mapping

logger = logging.getLogger("i2vgen_xl")

FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF", "PPM", "AVIF")
"""None that starts another program, as EPS does."""

ENDINGS = (".png", ".jpg", ".jpeg", ".jfif", ".webp", ".bmp", ".tif", ".tiff", ".avif")
"""What names of pictures end with, where a folder is looked through."""

MOST_PIXELS = 2**25
"""A larger picture is read at a half, a quarter or an eighth of its sides, where what is left covers every frame."""

# What Pillow raises on damaged files, found by corrupting files of every format above.
_PILLOW_ERRORS = (OSError, SyntaxError, ValueError, RuntimeError, struct.error, zlib.error)
_SHORTEST = 2048  # pixels of the shorter side that are always left: the largest of images.FRAME_SIZES has 1104
_SCALES = (2, 4, 8)  # libjpeg's own
_LONGEST_TEXT, _ALL_TEXTS = 2**20, 2**25  # bytes of a PNG's texts; Pillow refuses the picture of a longer one
_LARGEST_PROFILE = 2**25
_ANCILLARY = 0x20  # in the first letter of a PNG chunk's name: a viewer may do without it
_LEAST = {b"pHYs": 9, b"gAMA": 4, b"cHRM": 32, b"sRGB": 1, b"cICP": 4}
"""Bytes of a PNG chunk that are read of it; Pillow refuses the picture of a shorter one."""
_CODES = "cicp"  # in a picture's info: its primaries and transfer, as ISO/IEC 23091-2 numbers them
_PRIMARIES_AND_TRANSFER = b"colrnclx"  # what stands before them in an AVIF file
_BEGINNING = 2**16
_WHITE_IS_0, _PHOTOMETRIC = 0, 262  # of TIFF
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What turns a picture upright, by its EXIF orientation."""
_ORIENTATION = 0x0112
_MODES = {"RGB": "RGB", "CMYK": "CMYK", "GRAY": "L", "Lab": "LAB"}
"""Pillow's modes by the colour space of a profile."""


def read_pixels(path: str | os.PathLike[str]) -> np.ndarray:
    """A picture as viewers show it: its first frame, upright, in sRGB, on white where it is transparent.

    The embedded colour profile is applied by littleCMS, by perceptual intent; a broken one is passed over with a
    warning. Without a profile, wide gamuts and HDR that a PNG or AVIF file tells by numbers become sRGB as those of videos
    do, and other values are taken as they are. Metadata never refuses a picture.

    Args:
        path: a PNG, JPEG, WebP, TIFF, BMP, GIF, PPM or (where Pillow reads it) AVIF file.

    Returns:
        [H, W, 3] float32 in 0..1. Above MOST_PIXELS the sides are a half, a quarter or an eighth of the file's.

    Raises:
        InputError: there is no such file, it is not a whole picture of these formats, or it is larger than the memory.
    """
    if not os.path.isfile(path):
        raise InputError("the image file", "a file", f"nothing at {os.fspath(path)!r}", "Check the path.")
    try:
        with open(path, "rb") as file:
            image, profile = open_picture(file)
            reduced = _reduction(image.size)
            _check_memory(path, image, reduced)
            if reduced > 1 and image.format in ("JPEG", "MPO"):
                image.draft(None, tuple(side // reduced for side in image.size))  # type: ignore[arg-type]
                reduced = 1
            image.load()
            if coded := _by_codes(image, os.fspath(path)):
                image, profile = coded, None
            return shown(image, profile, os.fspath(path), reduced)
    except MemoryError:
        raise
    except _PILLOW_ERRORS as error:
        raise InputError(
            "the image file",
            "a whole PNG, JPEG, WebP, TIFF, BMP, GIF, PPM or AVIF image",
            f"{os.fspath(path)!r}, which Pillow cannot read ({error})",
            "Open it in an image editor and save it as PNG or JPEG.",
        ) from error


def open_picture(file: IO[bytes]) -> tuple[Image.Image, bytes | None]:
    """Opens a picture of FORMATS by its content, whatever its size, and its colour profile; the pixels are still unread.

    Raises:
        OSError, or what else Pillow raises: it is none.
    """
    Image.init()
    file, profile, codes = _sound_chunks(file)
    start = file.read(_BEGINNING)
    for name in FORMATS:
        factory, accept = Image.OPEN.get(name, (None, None))
        # Image.open does the same, and refuses large pictures.
        accepted = factory is not None and (accept is None or accept(start))
        if factory is None or not accepted or isinstance(accepted, str):
            continue
        file.seek(0)
        try:
            image = factory(file, b"")
        except (SyntaxError, IndexError, TypeError, struct.error):
            continue
        profile = profile or image.info.get("icc_profile")
        if image.format == "AVIF" and not profile:
            codes = tuple(start.partition(_PRIMARIES_AND_TRANSFER)[2][1:4:2])
        if len(codes) == 2:
            image.info[_CODES] = codes
        return image, profile
    raise UnidentifiedImageError("it is of another format, or damaged at its beginning")


def shown(image: Image.Image, profile: bytes | None, name: str, reduced: int = 1) -> np.ndarray:
    """A picture's loaded frame as it is to be shown, [H, W, 3] float32 in 0..1, its sides divided by `reduced`."""
    inverted = getattr(image, "tag_v2", {}).get(_PHOTOMETRIC) == _WHITE_IS_0
    image = _upright(image)
    if image.mode.startswith("I"):  # 16-bit grey, which Pillow's own conversion would clip at 255
        stored = np.asarray(image)[::reduced, ::reduced]
        grey = np.clip(stored.astype(np.float32) / 65535, 0, 1)
        grey = 1 - grey if inverted else grey
        if profile:
            return shown(Image.fromarray((grey * 255).round().astype(np.uint8)), profile, name)
        grey[stored == image.info.get("transparency", -1)] = 1
        return np.repeat(grey[..., None], 3, axis=2)
    if image.mode == "F":
        raise ValueError("its values are floating point and have no known range")
    alpha = None
    if image.has_transparency_data:
        grey_alone = image.mode in ("LA", "La")
        image = image.convert("RGBA")
        alpha = image.getchannel("A")
        image = image.convert("L" if grey_alone else "RGB")
    elif image.mode not in ("RGB", "CMYK", "L", "LAB"):
        image = image.convert("L" if image.mode == "1" else "RGB")
    image = _to_srgb(image, profile, name).convert("RGB")
    if alpha is not None:
        image.putalpha(alpha)
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    if reduced > 1:
        image = image.reduce(reduced)
    return np.divide(np.asarray(image), np.float32(255), dtype=np.float32)


def _upright(image: Image.Image, stored: Image.Image | None = None) -> Image.Image:
    """A picture, or its pixels as they are stored, turned as it says."""
    try:
        turned = _UPRIGHT.get(image.getexif().get(_ORIENTATION, 1))
    except _PILLOW_ERRORS:  # damaged EXIF data are no reason not to show the picture
        turned = None
    image = image if stored is None else stored
    return image if turned is None else image.transpose(turned)


def _to_srgb(image: Image.Image, profile: bytes | None, name: str) -> Image.Image:
    """By the profile; the picture itself where there is none, where it is sRGB, and where littleCMS cannot use it."""
    if not profile and image.mode != "LAB":
        return image
    try:
        lab = ImageCms.createProfile("LAB") if image.mode == "LAB" else io.BytesIO(profile or b"")
        source = ImageCms.ImageCmsProfile(lab)
        mode = _MODES.get(source.profile.xcolor_space.strip(), "")
        if image.mode == "L" and mode == "RGB":
            image = image.convert("RGB")
        if image.mode != mode:
            raise ValueError(f"it is for {source.profile.xcolor_space.strip()}, the picture is {image.mode}")
        intent = ImageCms.Intent.PERCEPTUAL
        transform = ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB", intent)
        if mode == "RGB" and _changes_nothing(transform):
            return image
        converted = ImageCms.applyTransform(image, transform)
        if converted is None:
            raise ValueError("it cannot be applied")
        return converted
    except (OSError, ImportError, ValueError, TypeError, ImageCms.PyCMSError) as error:
        logger.warning("%s: its colour profile cannot be used and is passed over: %s", name, error)
        return image


def _changes_nothing(transform: ImageCms.ImageCmsTransform) -> bool:
    """Whether a transform leaves all colours of a grid within a step of 255: sRGB's own profile, under any name."""
    steps = np.linspace(0, 255, 9).round().astype(np.uint8)
    grid = np.stack(np.meshgrid(steps, steps, steps), -1).reshape(1, -1, 3)
    converted = ImageCms.applyTransform(Image.fromarray(grid), transform)
    return converted is not None and int(np.abs(np.asarray(converted).astype(int) - grid).max()) <= 1


def _reduction(size: tuple[int, int]) -> int:
    """What a picture's sides are divided by while it is read."""
    reduced = 1
    for scale in _SCALES:
        if size[0] * size[1] > MOST_PIXELS * reduced**2 and min(size) // scale >= _SHORTEST:
            reduced = scale
    return reduced


def _check_memory(path: str | os.PathLike[str], image: Image.Image, reduced: int) -> None:
    """Raises InputError for a picture whose pixels the machine cannot hold."""
    width, height = image.size
    # Four bytes a pixel as it is decoded and converted, twelve as it is handed on.
    needed = width * height * (4 + 4 + 12 / reduced**2) / (reduced**2 if image.format in ("JPEG", "MPO") else 1)
    if needed > machine_bytes("cpu"):
        found = f"{os.fspath(path)!r}, {width}x{height} pixels, which need {needed / 2**30:.1f} GiB"
        there = f"one that fits {machine_bytes('cpu') / 2**30:.1f} GiB of memory"
        raise InputError(
            "the image file", there, found, "Make a smaller copy of it: a video's frame has 1280x720 pixels."
        )


def _by_codes(image: Image.Image, name: str) -> Image.Image | None:
    """A picture whose file tells a wide gamut or HDR by numbers, in sRGB and upright; None for any other one."""
    codes = image.info.get(_CODES, (0, 0))
    if not colour_mapping(*codes):
        return None
    try:
        with av.open(os.path.abspath(name)) as container:  # FFmpeg reads "a:b.png" as a protocol
            stream = container.streams.video[0]
            planes = Converter(stream, codes)(next(container.decode(stream)))
    except (av.FFmpegError, IndexError, StopIteration) as error:
        logger.warning("%s: its colours are taken as sRGB's: %s", name, error)
        return None
    mapped = Image.fromarray(np.stack(planes[:3], -1))
    if mapped.size != image.size:  # of a picture in tiles, FFmpeg gives one
        logger.warning("%s: its colours are taken as sRGB's: it is stored in tiles", name)
        return None
    if image.has_transparency_data:
        mapped.putalpha(image.convert("RGBA").getchannel("A"))
    return _upright(image, mapped)


def _sound_chunks(file: IO[bytes]) -> tuple[IO[bytes], bytes | None, tuple[int, ...]]:
    """A PNG file without the metadata that Pillow would refuse it for, too long or damaged, its colour profile and its codes
    of primaries and transfer; any other file as it is.

    The memory of metadata stays bounded: a compressed text is inflated up to _LONGEST_TEXT, a profile to
    _LARGEST_PROFILE.
    """
    signature = file.read(8)
    if signature != b"\x89PNG\r\n\x1a\n":
        file.seek(0)
        return file, None, ()
    codes: tuple[int, ...] = ()
    profile, texts, dropped, kept = None, 0, False, []
    for name, start, end in _chunks(file):
        if name[:1] and name[0] & _ANCILLARY and name != b"fdAT":
            data = _read(file, start + 8, end - 4)
            sound = _read(file, end - 4, end) == zlib.crc32(name + data).to_bytes(4, "big")
            if name == b"iCCP":
                profile, dropped = _inflated(data, 1, _LARGEST_PROFILE) or b"\0", True
                continue
            if name in (b"tEXt", b"zTXt", b"iTXt"):
                text = data[: _LONGEST_TEXT + 1] if name == b"tEXt" else _inflated(data, 3 if name == b"iTXt" else 1)
                texts += _LONGEST_TEXT if text is None else len(text)
                sound = sound and text is not None and len(text) <= _LONGEST_TEXT and texts <= _ALL_TEXTS
            if not sound or len(data) < _LEAST.get(name, 0):
                dropped = True
                continue
            codes = tuple(data[:2]) if name == b"cICP" else codes
        kept.append((start, end))
    file.seek(0)
    if not dropped:
        return file, profile, codes
    whole = signature + b"".join(_read(file, start, end) for start, end in kept)
    return io.BytesIO(whole), profile, codes


def _chunks(file: IO[bytes]) -> Iterator[tuple[bytes, int, int]]:
    """Name, first byte and end of every chunk of a PNG file; what is cut off at the end of the file ends there."""
    size = file.seek(0, io.SEEK_END)
    start = 8
    while start < size:
        header = _read(file, start, start + 8)
        end = start + 12 + int.from_bytes(header[:4], "big") if len(header) == 8 else size
        yield header[4:], start, min(end, size)
        start = end


def _read(file: IO[bytes], start: int, end: int) -> bytes:
    file.seek(start)
    return file.read(max(0, end - start))


def _inflated(data: bytes, words: int, most: int = _LONGEST_TEXT) -> bytes | None:
    """The compressed end of a chunk: a keyword and a method stand before it, in an iTXt a flag and two words more. The
    text itself where the flag says that it is not compressed; None where it is damaged or has more bytes than `most`."""
    rest = data.partition(b"\0")[2]
    flag = b"\1"
    if words == 3:
        flag, rest = rest[:1], rest[1:]
    rest = rest[1:]
    for _ in range(words - 1):
        rest = rest.partition(b"\0")[2]
    if flag != b"\1":
        return rest
    inflate = zlib.decompressobj()
    try:
        text = inflate.decompress(rest, most + 1)
    except zlib.error:
        return None
    return None if len(text) > most else text
