"""A decoded frame as it is to be shown: by its matrix, range, primaries and transfer, its pixels' aspect and its rotation, as
sRGB's red, green and blue. FFmpeg's libraries convert, through PyAV's filter graph.
"""

from __future__ import annotations

import logging
import threading
from fractions import Fraction

import av
import numpy as np
from av.filter import Graph
from av.sidedata.sidedata import Type
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

logger = logging.getLogger("i2vgen_xl")

Planes = tuple[np.ndarray, ...]
"""A frame as it is to be shown: red, green, blue, and alpha if it has one, each [H, W] uint8."""

FLAGS = "bicubic+accurate_rnd+full_chroma_int"
"""libswscale's flags. Without the last two, each conversion to RGB makes a frame darker by 1 of 255."""

# Codes of ISO/IEC 23091-2, which libav's numbers are.
_OPEN, _BT709, _BT2020, _P3 = (0, 2), 1, 9, (11, 12)
_PQ, _HLG, _SRGB = 16, 18, 13
_LINEAR = 8
_MATRICES = {1: "bt709", 4: "fcc", 5: "bt601", 6: "bt601", 7: "smpte240m", 9: "bt2020", 10: "bt2020"}
_RANGES = {1: "tv", 2: "pc"}
_HD = (1280, 576)  # from this width, or above this height, players take untagged video for BT.709, else for BT.601
_QUARTERS = {1: np.array([[0, -1], [1, 0]]), 2: np.array([[-1, 0], [0, -1]]), 3: np.array([[0, 1], [-1, 0]])}
"""Matrices of frames that are to be turned counterclockwise."""
_MOST_GRAPHS = 4  # with a colour mapping, of a thread


class Converter:
    """Frames to planes of RGB, as the stream says that they are to be shown.

    Args:
        stream: theirs.
        codes: of primaries and transfer, of a picture whose file's own word on them counts; it is left unturned.
    """

    def __init__(self, stream: VideoStream, codes: tuple[int, int] | None = None):
        self._stream = stream
        self._codes = codes
        self._stated = _colours(stream)  # of the container: a stream of ProRes may leave them open
        self._size: tuple[int, int] | None = None  # of all frames, as stored but with square pixels
        self._turn: np.ndarray | None = None
        self._graph: Graph | None = None
        self._of: tuple[object, ...] = ()

    def __call__(self, frame: VideoFrame) -> Planes:
        if self._size is None:
            self._size = _square(frame, fraction(self._stream.sample_aspect_ratio))
            self._turn = None if self._codes else _display_matrix(frame)
        of = (frame.width, frame.height, frame.format.name, frame.colorspace, frame.color_range)
        if self._graph is None or of != self._of:
            self._graph, self._of = self._build(frame), of
        self._graph.push(frame)
        converted = self._graph.pull()
        assert isinstance(converted, VideoFrame)
        planes = [
            np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)[
                : converted.height, : converted.width
            ]
            for plane in converted.planes
        ]
        green, blue, red, *alpha = (_turned(plane, self._turn) for plane in planes)
        return (red, green, blue, *alpha)

    def _build(self, frame: VideoFrame) -> Graph:
        told = zip(_colours(self._stream), self._stated, strict=True)
        primaries, transfer, matrix = (stated if code in _OPEN else code for code, stated in told)
        primaries, transfer = self._codes or (primaries, transfer)
        width, height = self._size or (frame.width, frame.height)
        options = f"w={width}:h={height}:flags={FLAGS}"
        if not frame.format.is_rgb and len(frame.format.components) > 2:
            options += f":in_color_matrix={_matrix(frame, matrix, primaries)}"
        if named := _RANGES.get(frame.color_range):
            options += f":in_range={named}"
        planar = "gbrap" if frame.format.has_palette or len(frame.format.components) in (2, 4) else "gbrp"
        if mapped := colour_mapping(primaries, transfer):
            try:
                return _mapped(frame, options + mapped, planar)
            except av.FFmpegError:
                found = "HDR" if transfer in (_PQ, _HLG) else "wide-gamut"
                logger.warning("It is %s, which PyAV %s cannot convert: its colours are pale.", found, av.__version__)
        return chain(frame, ("scale", options), ("format", planar))


class _Kept(threading.local):
    """The graphs with a colour mapping of a thread: to make its table takes seconds."""

    def __init__(self) -> None:
        self.graphs: dict[tuple[object, ...], Graph] = {}


_kept = _Kept()


def _mapped(frame: VideoFrame, options: str, planar: str) -> Graph:
    of = (frame.width, frame.height, frame.format.name, frame.time_base, options, planar)
    if of not in _kept.graphs:
        while len(_kept.graphs) >= _MOST_GRAPHS:
            _kept.graphs.pop(next(iter(_kept.graphs)))
        deep = "gbrap16le" if planar == "gbrap" else "gbrp16le"  # the table's values are rounded once, at the end
        last = ("scale", f"flags={FLAGS}"), ("format", planar)
        _kept.graphs[of] = chain(frame, ("scale", options), ("format", deep), *last)
    return _kept.graphs[of]


def _colours(stream: VideoStream) -> tuple[int, int, int]:
    """Codes of its primaries, transfer and matrix, as far as is known before and after its first frame is decoded."""
    context = stream.codec_context
    return context.color_primaries, context.color_trc, context.colorspace


def _matrix(frame: VideoFrame, stated: int, primaries: int) -> str:
    if named := _MATRICES.get(frame.colorspace) or _MATRICES.get(stated):
        return named
    if primaries == _BT2020:
        return "bt2020"
    return "bt709" if frame.width >= _HD[0] or frame.height > _HD[1] else "bt601"


def colour_mapping(primaries: int, transfer: int) -> str:
    """Options of libswscale's colour mapping, for HDR and wide gamuts; ordinary video is shown by its values.

    What is brighter than graphics white (203 nits, ITU-R BT.2408) becomes white, what is below it keeps its look.
    """
    hdr = transfer in (_PQ, _HLG, _LINEAR)
    if not hdr and primaries != _BT2020 and primaries not in _P3:
        return ""
    if primaries in _OPEN:
        primaries = _BT2020 if transfer in (_PQ, _HLG) else _BT709
    transfer = _BT709 if transfer in _OPEN else transfer
    options = f":in_primaries={primaries}:in_transfer={transfer}:out_primaries={_BT709}"
    return options + f":out_transfer={_SRGB if hdr else transfer}:intent=relative_colorimetric"


def _square(frame: VideoFrame, aspect: Fraction | None) -> tuple[int, int]:
    """Width and height of a frame in square pixels: the height stays."""
    if aspect is None or not Fraction(1, 20) <= aspect <= 20:
        return frame.width, frame.height
    return max(1, round(frame.width * aspect)), frame.height


def _display_matrix(frame: VideoFrame) -> np.ndarray | None:
    """The linear part of how a frame is to be turned or mirrored [[a, b], [c, d]]: x' = ax + cy, y' = bx + dy."""
    try:
        data = frame.side_data[Type.DISPLAYMATRIX]  # type: ignore[typeddict-item]  # its type is another's
    except KeyError:
        return None
    except ValueError:  # other data of the frame are of a kind that PyAV does not know, as EXIF
        return _QUARTERS.get(round(frame.rotation / 90) % 4)
    return np.frombuffer(bytes(data), np.int32)[[0, 1, 3, 4]].reshape(2, 2)


def _turned(plane: np.ndarray, matrix: np.ndarray | None) -> np.ndarray:
    """A plane turned by quarters and mirrored, to what is nearest to the matrix."""
    if matrix is None or not matrix.any():
        return plane
    (a, b), (c, d) = matrix.tolist()
    if abs(b) + abs(c) > abs(a) + abs(d):
        plane, a, d = plane.T, c, b
    return plane[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]


def chain(frame: VideoFrame, *filters: tuple[str, str]) -> Graph:
    """A chain of filters for frames such as this one."""
    graph = Graph()
    base = fraction(frame.time_base) or Fraction(1, 1000)
    nodes = [graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=base)]
    nodes += [graph.add(name, options) for name, options in filters]
    graph.link_nodes(*nodes, graph.add("buffersink")).configure()
    return graph


def fraction(rate: object) -> Fraction | None:
    """A rate or time base of PyAV, whose rationals have been Fractions and classes of its own; None for none and for 0."""
    if not rate:
        return None
    return Fraction(rate.numerator, rate.denominator)  # type: ignore[attr-defined]
