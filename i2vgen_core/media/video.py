"""Frames to a video file and back; and a contact sheet for looking at frames in one picture."""

import os
import uuid
from bisect import bisect_right
from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional

from ..errors import InputError, check_range, check_writable
from ..memory import machine_bytes
from .conversion import Planes
from .decoding import Frame, open_clip, to_tensor, unreadable
from .encoding import check_target, encode, targets
from .images import check_images

_TIE = 1e-6  # seconds; halfway between two frames it is the earlier one, whatever the rounding of their times
_STILL_RATE = Fraction(25)  # of a file that states none, as in FFmpeg
_SAME_RATE = 0.001
_FRAME_BYTES = 3 + 12  # of a pixel, as it is decoded and as it is handed on
_MOST_REPEATED = 4  # times as many frames as the file has, where they are not evenly spaced


def write_video(
    path: str | os.PathLike[str],
    frames: Tensor,
    fps: Fraction | float,
    crf: int = 17,
    sound: str | os.PathLike[str] | None = None,
) -> None:
    """Writes a video in the format that its name's ending says: H.264 in .mp4, .m4v, .mov and .mkv (an MP4 without an
    ending), VP9 in .webm, a .gif, an animated .webp, or a picture for each frame, `name_%04d.png`.

    H.264 and VP9 are yuv420p, BT.709, limited range, as every common player reads. 4:2:0 needs even sides: an odd width or
    height grows by one pixel, a repeat of the last column or row. The same frames give the same bytes, whatever number of
    processors. The file is written under another name beside the target and renamed when whole.

    Args:
        path: the file to write; an existing one is replaced.
        frames: [F, H, W, 3] in 0..1; values outside are clamped.
        fps: frames per second; a float is taken as the nearest fraction over at most 1001 (29.97 as 2997/100).
        crf: x264's quality, 1 (best) to 51; VP9's is chosen to match.
        sound: a video whose sound is copied, where the format takes it as it is.

    Raises:
        InputError: frames is not such a tensor, the folder does not exist, the ending is none of these, or fps or crf is
            out of range.
        OSError: the disk is full, or fails. Nothing is left behind.
    """
    check_images(frames, "the video")
    check_video_file(path, fps)
    path = Path(path)
    if not 1 <= crf <= 51:
        raise InputError("crf", "1 (best) to 51", str(crf), "Use 17.")

    temporary = path.absolute().with_name(f".{uuid.uuid4().hex}.part")  # FFmpeg reads "a:b.mp4" as a protocol
    try:
        rate = Fraction(fps).limit_denominator(1001)
        written = encode(temporary, path.suffix.lower(), frames, rate, crf, sound)
        for part, target in zip(written, targets(path, len(frames)), strict=True):
            os.replace(part, target)
    finally:
        for part in temporary.parent.glob(f"{temporary.name}*"):
            part.unlink(missing_ok=True)


def check_video_file(
    path: str | os.PathLike[str], fps: Fraction | float, inputs: Sequence[str | os.PathLike[str]] = ()
) -> None:
    """Raises InputError unless a video of this rate can be written there, over none of the inputs. For saying so before
    the work."""
    path = Path(path)
    try:
        os.stat(path)
    except FileNotFoundError:
        pass
    except (OSError, ValueError) as error:  # too long, or with characters that no file's name has
        found = f"{str(path)[:80]!r} ({error.strerror if isinstance(error, OSError) else 'characters that none has'})"
        raise InputError("the video file", "a file's name", found, "Use a shorter, plain name.") from error
    if not path.parent.is_dir():
        raise InputError("the video file", "a path in a folder that exists", f"'{path}'", "Create the folder first.")
    check_writable("the video file", path.parent)
    if path.is_dir():
        raise InputError("the video file", "the path of a file", f"the folder '{path}'", "Add a file name.")
    check_target(path, inputs)
    if not 0.1 <= fps <= 1000:
        raise InputError("fps", "0.1 to 1000 frames per second", str(fps), "Use 8 or 16.")


def read_video(path: str | os.PathLike[str], frames: int | None = None) -> tuple[Tensor, Fraction]:
    """Reads a video as players show it: its first frame to its last, at one rate.

    Turned and mirrored as the file says, with square pixels, deinterlaced, HDR and wide gamuts as SDR, on white where it is
    transparent. Where the frames of a file are not evenly spaced in time, each moment has the frame that is shown then.

    Args:
        path: any file FFmpeg decodes, or an animated WebP, PNG or AVIF.
        frames: how many frames to read from the start; None reads all, a shorter video gives what it has.

    Returns:
        Frames [F, H, W, 3] float32 in 0..1, and their rate.

    Raises:
        InputError: there is no such file, it has no video that can be decoded, or more frames than the memory holds.
    """
    if frames is not None and frames < 1:
        raise InputError("frames", "at least 1, or None for all", str(frames), "Ask for one frame or more.")
    pictures: list[Planes] = []
    times: list[float | None] = []
    end, memory = None, machine_bytes("cpu")
    with open_clip(path) as clip:
        for frame in clip.frames():
            pictures.append(frame.planes())
            height, width = pictures[0][0].shape
            if len(pictures) * height * width * _FRAME_BYTES > memory:
                fits = f"frames that fit into the {memory / 2**30:.1f} GiB of memory of this machine"
                found = f"{len(pictures)} frames of {width}x{height} and more in '{path}'"
                raise InputError("the video", fits, found, "Cut it into shorter ones, or make it smaller.")
            times.append(frame.time)
            end = None if frame.time is None or frame.seconds is None else frame.time + frame.seconds
            if len(pictures) == frames:
                break
        if not pictures:
            raise unreadable(path, "it has no frames")
        rate = clip.rate or _STILL_RATE
    shown, rate = _evenly(times, end, rate)
    return to_tensor([pictures[index] for index in shown[:frames]]), rate


def _evenly(times: list[float | None], end: float | None, rate: Fraction) -> tuple[list[int], Fraction]:
    """Which frames to show at one rate, and the rate: the file's average where each frame is within half of its place,
    else that of the commonest interval.

    Args:
        times: of the frames, in seconds.
        end: of the last one, where it is known.
        rate: the file's average.
    """
    known = [time for time in times if time is not None]
    every = list(range(len(times)))
    if len(known) < max(len(times), 2):
        return every, rate
    places = [(time - known[0]) * rate for time in known]
    if all(abs(place - index) <= 0.5 for index, place in enumerate(places)):
        return every, rate
    intervals = sorted(later - time for time, later in pairwise(known) if later > time)
    usual = intervals[len(intervals) // 2]
    last = end if end is not None and end > known[-1] else known[-1] + usual
    if (last - known[0]) / usual <= _MOST_REPEATED * len(known):
        rate = Fraction(1 / usual).limit_denominator(1001)
    count = max(1, round((last - known[0]) * rate))
    moments = [known[0] + float(index / rate) + _TIE for index in range(count)]
    return [bisect_right(known, moment) - 1 for moment in moments], rate


def read_video_at(path: str | os.PathLike[str], frames: int, fps: float, start: float = 0.0) -> Tensor:
    """Reads a clip out of a video file, as `read_video` shows it: for each of its moments the frame that is nearest in time.
    The file is decoded from the keyframe before the clip to the clip's end.

    Args:
        path: any file `read_video` reads.
        frames: of the clip, which lasts frames / fps seconds.
        fps: the clip's rate, whatever the file's.
        start: where in the video, in 0..1 of the room there is: 0 at its beginning, 1 so that both end together.

    Returns:
        [frames, H, W, 3] float32 in 0..1. Where the clip ends after the video, its last frame is held.

    Raises:
        InputError: there is no such file, it has no video that can be decoded, an argument is out of range, or the
            clip ends more than one of its frames after the video.
    """
    check_range("frames", frames, 1, 10**6)
    check_range("fps", fps, 0.1, 1000)
    check_range("start", start, 0, 1)
    pictures: list[Planes] = []
    with open_clip(path) as clip:
        first, end = clip.span()
        if end - first < (frames - 1) / fps:
            what, found = f"the video '{path}'", f"{end - first:.2f} s"
            raise InputError(
                what, f"at least {(frames - 1) / fps:.2f} s", found, "Ask for fewer frames, or a higher fps."
            )
        begin = first + start * max(0.0, end - first - frames / fps)
        moments = [begin + index / fps for index in range(frames)]
        # A file's index may lead past the moment asked for, by some frames: open groups of pictures do.
        before: tuple[float, Frame] | None = None
        for frame in clip.frames(max(first, begin - 1)):
            if frame.time is None:
                continue
            while len(pictures) < frames and frame.time >= (moment := moments[len(pictures)]):
                nearer = before is None or frame.time - moment < moment - before[0] - _TIE
                pictures.append((frame if before is None or nearer else before[1]).planes())
            if len(pictures) == frames:
                break
            before = frame.time, frame
        if before:
            pictures += [before[1].planes()] * (frames - len(pictures))
        if not pictures:
            raise unreadable(path, "it has no frames")
    return to_tensor(pictures)


def video_seconds(path: str | os.PathLike[str]) -> float:
    """How long a file's video lasts, from the beginning of its first frame to the end of its last.

    Raises:
        InputError: there is no such file, or it has no video.
    """
    with open_clip(path) as clip:
        first, end = clip.span()
        return end - first


def same_rate(first: Fraction | float, second: Fraction | float) -> bool:
    """Whether two rates are one, but for rounding: sound that goes with the one goes with the other."""
    return abs(float(first) / float(second) - 1) < _SAME_RATE


def moments(frames: Tensor, count: int) -> Tensor:
    """So many of the frames [F, ...], evenly from the first to the last: [count, ...]."""
    return frames[torch.linspace(0, len(frames) - 1, count).round().long()]


def contact_sheet(frames: Tensor, columns: int) -> Tensor:
    """Lays frames [F, H, W, 3] out in rows of `columns`: one picture [rows*H, columns*W, 3], empty places white."""
    check_images(frames, "the frames")
    empty = -len(frames) % columns
    frames = functional.pad(frames, (0, 0, 0, 0, 0, 0, 0, empty), value=1.0)
    return rearrange(frames, "(rows columns) h w c -> (rows h) (columns w) c", columns=columns)
