"""Frames to an H.264 MP4 file and back, through PyAV; and a contact sheet for looking at frames in one picture."""

import os
import uuid
from fractions import Fraction
from pathlib import Path

import av
import torch
from av.video.reformatter import ColorRange, Colorspace
from einops import rearrange
from torch import Tensor
from torch.nn import functional

from .errors import InputError
from .images import check_images

_BT709 = 1  # the code of BT.709 in ISO/IEC 23091-2, for primaries and transfer alike


def write_video(path: str | os.PathLike[str], frames: Tensor, fps: Fraction | float, crf: int = 17) -> None:
    """Writes an H.264 MP4: yuv420p, BT.709, limited range, readable by every common player.

    4:2:0 needs even sides: an odd width or height grows by one pixel, a repeat of the last column or row.
    The file is written under another name beside the target and renamed when whole.

    Args:
        path: the file to write; an existing one is replaced.
        frames: [F, H, W, 3] in 0..1; values outside are clamped.
        fps: frames per second; a float is taken as the nearest fraction over at most 1001 (29.97 as 2997/100).
        crf: x264's quality, 1 (best) to 51.

    Raises:
        InputError: frames is not such a tensor, its folder does not exist, or fps or crf is out of range.
    """
    check_images(frames, "the video")
    check_video_file(path, fps)
    path = Path(path)
    if not 1 <= crf <= 51:
        raise InputError("crf", "1 (best) to 51", str(crf), "Use 17.")

    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    try:
        _encode(temporary, frames, Fraction(fps).limit_denominator(1001), crf)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def check_video_file(path: str | os.PathLike[str], fps: Fraction | float) -> None:
    """Raises InputError unless a video of this rate can be written there. For saying so before the work."""
    path = Path(path)
    if not path.parent.is_dir():
        raise InputError("the video file", "a path in a folder that exists", f"'{path}'", "Create the folder first.")
    if path.is_dir():
        raise InputError("the video file", "the path of a file", f"the folder '{path}'", "Add a file name.")
    if not 0.1 <= fps <= 1000:
        raise InputError("fps", "0.1 to 1000 frames per second", str(fps), "Use 8 or 16.")


def read_video(path: str | os.PathLike[str], frames: int | None = None) -> tuple[Tensor, Fraction]:
    """Reads a video file's first video stream.

    Args:
        path: any file FFmpeg decodes.
        frames: how many frames to read from the start; None reads all, a shorter video gives what it has.

    Returns:
        Frames [F, H, W, 3] float32 in 0..1, and the average frame rate.

    Raises:
        InputError: there is no such file, or it has no video that can be decoded.
    """
    path = Path(path)
    if frames is not None and frames < 1:
        raise InputError("frames", "at least 1, or None for all", str(frames), "Ask for one frame or more.")
    if not path.is_file():
        raise InputError("the video file", "a file", f"nothing at '{path}'", "Check the path.")
    pictures: list[Tensor] = []
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            fps = stream.average_rate
            for frame in container.decode(stream):
                # Older PyAV (16.0 among them) converts by the frame's own matrix only when a range is asked for.
                rgb = frame.to_ndarray(format="rgb24", dst_color_range=ColorRange.JPEG)
                pictures.append(torch.from_numpy(rgb))
                if len(pictures) == frames:
                    break
    except (av.FFmpegError, IndexError) as error:
        raise _unreadable(path, str(error)) from error
    if not pictures or not fps:
        raise _unreadable(path, "it has no frames")
    return torch.stack(pictures).float() / 255, fps


def contact_sheet(frames: Tensor, columns: int) -> Tensor:
    """Lays frames [F, H, W, 3] out in rows of `columns`: one picture [rows*H, columns*W, 3], empty places white."""
    check_images(frames, "the frames")
    empty = -len(frames) % columns
    frames = functional.pad(frames, (0, 0, 0, 0, 0, 0, 0, empty), value=1.0)
    return rearrange(frames, "(rows columns) h w c -> (rows h) (columns w) c", columns=columns)


def _encode(path: Path, frames: Tensor, fps: Fraction, crf: int) -> None:
    height, width = frames.shape[1:3]
    with av.open(str(path), "w", format="mp4", options={"movflags": "faststart"}) as container:
        stream = container.add_stream("libx264", rate=fps, options={"crf": str(crf)})
        stream.width, stream.height = width + width % 2, height + height % 2
        stream.pix_fmt = "yuv420p"
        context = stream.codec_context
        context.colorspace, context.color_range = Colorspace.ITU709, ColorRange.MPEG
        context.color_primaries = context.color_trc = _BT709
        for index, picture in enumerate(frames):
            picture = (picture.detach().float().clamp(0, 1) * 255).round().byte()
            picture = torch.cat((picture, picture[height - height % 2 :]), dim=0)
            picture = torch.cat((picture, picture[:, width - width % 2 :]), dim=1)
            frame = av.VideoFrame.from_ndarray(picture.cpu().numpy(), format="rgb24").reformat(
                format="yuv420p", dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.MPEG
            )
            frame.pts, frame.time_base = index, 1 / fps
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def _unreadable(path: Path, reason: str) -> InputError:
    return InputError(
        "the video file", "a video FFmpeg can decode", f"'{path}' ({reason})", "Save it as an H.264 MP4 and try again."
    )
