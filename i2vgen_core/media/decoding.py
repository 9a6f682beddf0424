"""How a video file says that it is to be shown: one path from a file to upright SDR frames of square pixels, with their times.

FFmpeg's libraries decode and convert, through PyAV's filter graph; moving pictures (WebP, PNG, AVIF) are read by Pillow.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import IO, Protocol

import av
import numpy as np
import torch
from av.codec.context import CodecContext
from av.container import InputContainer
from av.filter import Graph
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from PIL import Image
from torch import Tensor

from ..errors import InputError
from .conversion import Converter, Planes, chain, fraction
from .photo import open_picture, shown

_ALPHA_DECODERS = {"vp8": "libvpx", "vp9": "libvpx-vp9"}  # FFmpeg's own pass over the alpha channel
_COVERS = (Disposition.attached_pic, Disposition.timed_thumbnails)
_STILL = 0.04  # seconds that a picture without a duration lasts, as in FFmpeg


@dataclass(frozen=True)
class Frame:
    """A decoded frame. Attributes: time in seconds, None where the file has none; seconds that it lasts, if known;
    planes, which converts it."""

    time: float | None
    seconds: float | None
    planes: Callable[[], Planes]


class Clip(Protocol):
    """An open video."""

    rate: Fraction | None

    def span(self) -> tuple[float, float]:
        """When the first frame begins and the last one ends, in seconds."""
        ...

    def frames(self, start: float | None = None) -> Iterator[Frame]:
        """In the order of time: all, or those from the keyframe before a moment on."""
        ...


@contextmanager
def open_clip(path: str | os.PathLike[str]) -> Iterator[Clip]:
    """Opens a video file.

    Raises:
        InputError: there is no such file, or, on opening as on reading, no video in it that can be decoded.
    """
    if not Path(path).is_file():
        raise InputError("the video file", "a file", f"nothing at '{path}'", "Check the path.")
    try:
        with open(path, "rb") as file:
            if _is_picture(file.read(12)):
                file.seek(0)
                yield _Pictures(file, str(path))
                return
        with av.open(os.path.abspath(path)) as container:  # FFmpeg reads "a:b.mp4" as a protocol
            yield _Stream(container)
    except (av.FFmpegError, OSError, SyntaxError, IndexError, EOFError, _Empty) as error:
        raise unreadable(path, str(error)) from error


def moves(path: str | os.PathLike[str]) -> bool:
    """Whether a picture file has several pictures that follow each other in time: animated WebP, PNG and AVIF files."""
    try:
        with open(path, "rb") as file:
            if not _is_picture(file.read(12)):
                return False
            file.seek(0)
            return getattr(open_picture(file)[0], "n_frames", 1) > 1
    except (OSError, SyntaxError, ValueError):
        return False


def to_tensor(frames: list[Planes]) -> Tensor:
    """Frames of one size as [F, H, W, 3] float32 in 0..1, on white where they are transparent."""
    height, width = frames[0][0].shape
    whole = np.empty((len(frames), height, width, 3), np.float32)
    for picture, planes in zip(whole, frames, strict=True):
        for channel, plane in enumerate(planes[:3]):
            np.divide(plane, np.float32(255), out=picture[..., channel], dtype=np.float32)
        if len(planes) == 4 and planes[3].min() < 255:
            alpha = np.divide(planes[3], np.float32(255), dtype=np.float32)[..., None]
            picture *= alpha
            picture += 1 - alpha
    return torch.from_numpy(whole)


def unreadable(path: str | os.PathLike[str], reason: str) -> InputError:
    return InputError(
        "the video file", "a video FFmpeg can decode", f"'{path}' ({reason})", "Save it as an H.264 MP4 and try again."
    )


class _Empty(ValueError):
    """There are no frames in it."""


# ---------------------------------------------------------------- through FFmpeg's libraries


class _Stream:
    """The video of a container: its best stream, cover pictures aside."""

    def __init__(self, container: InputContainer):
        self._container = container
        videos = [stream for stream in container.streams.video if not _is_cover(stream)]
        if not videos:
            raise _Empty("it has a cover picture and no video" if container.streams.video else "it has no video")
        best = container.streams.best("video")
        self._stream = next((stream for stream in videos if best and stream.index == best.index), videos[0])
        self._stream.thread_type = "AUTO"
        rates = self._stream.average_rate, self._stream.guessed_rate
        self.rate = next(filter(None, map(fraction, rates)), None)
        self._show = Converter(self._stream)

    def span(self) -> tuple[float, float]:
        # A file may state no length, or that of its sound: so the end is read from the stream's last packets.
        stream, base = self._stream, fraction(self._stream.time_base)
        if self._container.duration:
            self._container.seek(self._container.duration)
        packets = self._container.demux(stream)
        ends = [packet.pts + (packet.duration or 0) for packet in packets if packet.pts is not None]
        if not ends or not base:
            raise _Empty("it has no frames")
        return float((stream.start_time or 0) * base), float(max(ends) * base)

    def frames(self, start: float | None = None) -> Iterator[Frame]:
        if start is not None:
            self._container.seek(int(start * av.time_base))
        for frame in _progressive(self._decoded()):
            base = fraction(frame.time_base)
            lasting = getattr(frame, "duration", 0)
            seconds = float(lasting * base) if lasting and base else None
            yield Frame(frame.time, seconds, partial(self._show, frame))

    def _decoded(self) -> Iterator[VideoFrame]:
        name = _ALPHA_DECODERS.get(self._stream.codec_context.name)
        if not name or self._stream.metadata.get("alpha_mode") != "1":
            yield from self._container.decode(self._stream)
            return
        decoder = CodecContext.create(name, "r")
        for packet in self._container.demux(self._stream):
            yield from decoder.decode(packet)  # type: ignore[attr-defined]  # the last packet is empty, and brings the rest


def _is_cover(stream: VideoStream) -> bool:
    return any(cover in stream.disposition for cover in _COVERS)


def _progressive(frames: Iterator[VideoFrame]) -> Iterator[VideoFrame]:
    """Frames, deinterlaced from the first interlaced one on."""
    graph = None
    for frame in frames:
        if graph is None and not frame.interlaced_frame:
            yield frame
            continue
        if graph is None:
            graph = chain(frame, ("bwdif", "mode=send_frame:deint=interlaced"))
        graph.push(frame)
        yield from _pulled(graph)
    if graph:
        graph.push(None)
        yield from _pulled(graph)


def _pulled(graph: Graph) -> Iterator[VideoFrame]:
    while True:
        try:
            frame = graph.pull()
        except (BlockingIOError, EOFError):
            return
        assert isinstance(frame, VideoFrame)
        yield frame


# ---------------------------------------------------------------- moving pictures


def _is_picture(start: bytes) -> bool:
    """Whether Pillow reads a file that begins so, and FFmpeg would read its first picture alone."""
    return start.startswith(b"\x89PNG") or (start[:4], start[8:]) == (b"RIFF", b"WEBP") or start[4:] == b"ftypavis"


class _Pictures:
    """The pictures of an animated WebP, PNG or AVIF file."""

    def __init__(self, file: IO[bytes], name: str):
        self._image, self._profile = open_picture(file)
        self._name = name
        self._numbers = range(bool(getattr(self._image, "default_image", False)), getattr(self._image, "n_frames", 1))
        lengths = [self._seconds(number) for number in self._numbers]
        self._end = sum(lengths)
        self.rate: Fraction | None = Fraction(len(lengths) / self._end).limit_denominator(1001)

    def span(self) -> tuple[float, float]:
        return 0.0, self._end

    def frames(self, start: float | None = None) -> Iterator[Frame]:
        time = 0.0
        for number in self._numbers:
            seconds = self._seconds(number)
            yield Frame(time, seconds, partial(self._planes, self._image.copy()))
            time += seconds

    def _seconds(self, number: int) -> float:
        self._image.seek(number)
        self._image.load()
        return (self._image.info.get("duration") or 1000 * _STILL) / 1000

    def _planes(self, image: Image.Image) -> Planes:
        pixels = (shown(image, self._profile, self._name) * 255).round().astype(np.uint8)
        return tuple(pixels[..., channel] for channel in range(3))
