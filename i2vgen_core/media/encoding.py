"""What the ending of a file's name says of its format, and frames into each format."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
from av.container import OutputContainer
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange, Colorspace
from PIL import Image
from torch import Tensor

from ..errors import InputError
from .conversion import FLAGS, chain, fraction
from .decoding import open_clip

logger = logging.getLogger("i2vgen_xl")

_BT709 = 1  # the code of BT.709 in ISO/IEC 23091-2, for primaries and transfer alike
_NUMBER = re.compile(r"%(0\d+)?d")  # in the name of a sequence, as FFmpeg has it
_LEAD = 0.1  # seconds of sound before the first frame that are kept: encoders begin a little early


@dataclass(frozen=True)
class _Codec:
    """How a container is written. Attributes: FFmpeg's names of the container and the encoder, the encoder's options
    by x264's crf, options of the container."""

    container: str
    encoder: str
    options: Callable[[int], dict[str, str]]
    container_options: dict[str, str]


def _x264(crf: int) -> dict[str, str]:
    """One thread, since its number changes the file, and no macroblock tree: with it, x264 writes other bytes each time
    on processors with AVX-512, and others again on those without. The file is up to 50 % larger for it."""
    return {"crf": str(crf), "threads": "1", "mbtree": "0"}


def _vp9(crf: int) -> dict[str, str]:
    return {"crf": str(min(63, crf + 8)), "threads": "1", "deadline": "good", "cpu-used": "2"}


_MP4 = _Codec("mp4", "libx264", _x264, {"movflags": "faststart"})
_VIDEOS = {
    "": _MP4,
    ".mp4": _MP4,
    ".m4v": _MP4,
    ".mov": _Codec("mov", "libx264", _x264, {"movflags": "faststart"}),
    ".mkv": _Codec("matroska", "libx264", _x264, {}),
    ".webm": _Codec("webm", "libvpx-vp9", _vp9, {}),
}
_PICTURES = {".gif": "GIF", ".webp": "WEBP"}
ENDINGS = (*filter(None, _VIDEOS), *_PICTURES)
"""What a video's name may end with, beside that of a sequence of pictures, `name_%04d.png`."""


def check_target(path: Path, inputs: Sequence[str | os.PathLike[str]] = ()) -> None:
    """Raises InputError unless the name says a format that can be written, and the file is none of the inputs."""
    ending = path.suffix.lower()
    if ending == ".png":
        if not _NUMBER.search(path.name):
            remedy = f"Name a picture for each frame, as {path.stem}_%04d.png, or a video, as {path.stem}.mp4."
            raise InputError("the video file", "a number in a sequence's name", f"'{path.name}'", remedy)
    elif ending not in _VIDEOS and ending not in _PICTURES:
        expected = f"a name that ends in {', '.join(ENDINGS)} or _%04d.png"
        name = path.stem if Path(path.stem).suffix.lower() in ENDINGS else f"{path.stem}.mp4"
        raise InputError("the video file", expected, f"'{path.name}'", f"Name it {name}.")
    for other in inputs:
        if _is_target(path, Path(other)):
            remedy = "Choose another name: an input is never written over."
            raise InputError("the video file", "another file than the inputs", f"'{path}'", remedy)


def _is_target(path: Path, other: Path) -> bool:
    """Whether writing `path` would write over another file."""
    if path.suffix.lower() == ".png":
        start, _, end = _parts(path)
        name = re.compile(re.escape(start) + r"\d+" + re.escape(end), re.I)
        return bool(name.fullmatch(other.name)) and _same(path.parent, other.parent)
    return _same(path, other)


def _same(path: Path, other: Path) -> bool:
    try:
        return path.samefile(other)
    except OSError:
        return False


def targets(path: Path, count: int) -> list[Path]:
    """The files that `count` frames are written to."""
    if path.suffix.lower() != ".png":
        return [path]
    start, form, end = _parts(path)
    return [path.with_name(f"{start}{form % number}{end}") for number in range(1, count + 1)]


def _parts(path: Path) -> tuple[str, str, str]:
    """The name of a sequence: what stands before its number, the number's form, what comes after."""
    form = _NUMBER.search(path.name)
    assert form, path
    return path.name[: form.start()], form[0], path.name[form.end() :]


def encode(
    path: Path, ending: str, frames: Tensor, fps: Fraction, crf: int, sound: str | os.PathLike[str] | None
) -> list[Path]:
    """Writes frames [F, H, W, 3] in the format of an ending.

    Args:
        path: the file, whatever its name; of a sequence of pictures, what their names begin with.
        ending: one that check_target lets pass.
        fps: frames per second.
        crf: as x264 has it; formats of pictures know none.
        sound: a video whose sound is copied into it, without a change; it is said where the format cannot hold it.

    Returns:
        The files that were written.
    """
    pictures = (_pixels(frame) for frame in frames)
    files = [path]
    if ending in _VIDEOS:
        _encode(path, _VIDEOS[ending], pictures, fps, crf, sound)
    elif ending == ".png":
        files = [path.with_name(f"{path.name}{number}") for number in range(len(frames))]
        for file, picture in zip(files, pictures, strict=True):
            Image.fromarray(picture).save(file, "PNG")
    else:
        # A GIF counts hundredths of a second: each frame ends at the one that is nearest, so that the length is right.
        unit = 10 if ending == ".gif" else 1
        ends = [round(1000 / unit * index / fps) * unit for index in range(len(frames) + 1)]
        lengths = [max(unit, later - end) for end, later in pairwise(ends)]
        first, *others = map(Image.fromarray, pictures)
        quality = {"quality": 90} if ending == ".webp" else {}
        first.save(path, _PICTURES[ending], save_all=True, append_images=others, duration=lengths, loop=0, **quality)
    if sound is not None and ending not in _VIDEOS and _has_sound(sound):
        logger.warning("The sound is left out: %s has none.", ending)
    return files


def _pixels(frame: Tensor) -> np.ndarray:
    """[H, W, 3] uint8."""
    values = np.multiply(frame.detach().float().cpu().numpy(), np.float32(255))  # numpy takes a quarter of torch's time
    return np.clip(np.rint(values, out=values), 0, 255, out=values).astype(np.uint8)


def _encode(
    path: Path,
    codec: _Codec,
    pictures: Iterator[np.ndarray],
    fps: Fraction,
    crf: int,
    sound: str | os.PathLike[str] | None,
) -> None:
    options = {**codec.container_options, "fflags": "+bitexact"}  # without which a Matroska file has random numbers
    with av.open(str(path), "w", format=codec.container, options=options) as container:
        stream = container.add_stream(codec.encoder, rate=fps, options=codec.options(crf))
        stream.bit_rate = 0  # by quality alone
        stream.pix_fmt = "yuv420p"
        context = stream.codec_context
        context.colorspace, context.color_range = Colorspace.ITU709, ColorRange.MPEG
        context.color_primaries = context.color_trc = _BT709
        graph = None
        with _sound_of(sound, container) as packets:
            for index, picture in enumerate(pictures):
                height, width = picture.shape[:2]
                if height % 2 or width % 2:
                    picture = np.pad(picture, ((0, height % 2), (0, width % 2), (0, 0)), "edge")
                frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
                frame.pts, frame.time_base = index, 1 / fps
                if graph is None:
                    stream.width, stream.height = frame.width, frame.height
                    to_709 = f"flags={FLAGS}:out_color_matrix=bt709:out_range=tv"
                    graph = chain(frame, ("scale", to_709), ("format", "yuv420p"))
                graph.push(frame)
                converted = graph.pull()
                assert isinstance(converted, VideoFrame)
                converted.pts, converted.time_base = index, 1 / fps
                for packet in packets(float(index / fps)):
                    container.mux(packet)
                container.mux(stream.encode(converted))
            container.mux(stream.encode())
            for packet in packets(float("inf")):
                container.mux(packet)


@contextmanager
def _sound_of(
    path: str | os.PathLike[str] | None, container: OutputContainer
) -> Iterator[Callable[[float], Iterator[Packet]]]:
    """The packets of a video's sound, up to a moment each time; none where it has none, or none that fits.

    Times count from the video's first frame.
    """
    if path is None or not _has_sound(path):
        yield lambda _: iter(())
        return
    with open_clip(path) as clip:
        first = next((frame.time for frame in clip.frames() if frame.time is not None), 0.0)
    with av.open(os.path.abspath(path)) as source:
        audio = source.streams.best("audio")
        try:
            copied = container.add_stream_from_template(audio)  # type: ignore[type-var]
        except (ValueError, av.FFmpegError) as error:
            logger.warning("The sound is left out: this format does not hold it as it is (%s). .mkv does.", error)
            yield lambda _: iter(())
            return
        base = fraction(audio.time_base) or Fraction(1, 1000)
        shift = round(Fraction(first) / base)
        read = (packet for packet in source.demux(audio) if packet.dts is not None)
        waiting: list[Packet] = []

        def until(moment: float) -> Iterator[Packet]:
            while True:
                packet = waiting.pop() if waiting else next(read, None)
                if packet is None:
                    return
                decoded = (packet.dts or 0) - shift
                shown = decoded if packet.pts is None else packet.pts - shift
                at = float(shown * base)
                if at > moment:
                    waiting.append(packet)
                    return
                if at < -_LEAD:
                    continue
                packet.pts, packet.dts = shown, decoded
                packet.stream = copied
                yield packet

        yield until


def _has_sound(path: str | os.PathLike[str]) -> bool:
    try:
        with av.open(os.path.abspath(path)) as container:
            return bool(container.streams.audio)
    except av.FFmpegError:  # a moving picture
        return False
