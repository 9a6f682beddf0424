"""Frames to an MP4 and back: sizes, rates, colours, tags, and that a stopped run leaves no file; clips out of videos."""

import struct
from fractions import Fraction

import av
import numpy as np
import pytest
import torch

from i2vgen_core.errors import InputError
from i2vgen_core.media import video
from i2vgen_core.media.video import contact_sheet, read_video, read_video_at, video_seconds, write_video


def gradient(frames, height, width):
    """A smooth moving pattern: what 4:2:0 and x264 keep almost exactly."""
    y = torch.linspace(0, 1, height).view(1, -1, 1).expand(frames, height, width)
    x = torch.linspace(0, 1, width).view(1, 1, -1).expand(frames, height, width)
    t = torch.linspace(0, 1, frames).view(-1, 1, 1).expand(frames, height, width)
    return torch.stack((y, x, t), dim=-1)


@pytest.mark.parametrize("fps", [8, 16, Fraction(24000, 1001), 12.5], ids=str)
@pytest.mark.parametrize("frames", [1, 9])
def test_frames_and_rate_come_back(tmp_path, frames, fps):
    original = gradient(frames, 64, 96)
    write_video(tmp_path / "a.mp4", original, fps)
    read, rate = read_video(tmp_path / "a.mp4")
    assert isinstance(rate, Fraction) and rate == Fraction(fps)
    assert read.shape == original.shape and read.dtype == torch.float32
    assert (read - original).abs().mean() < 2 / 255


def test_reads_as_many_frames_as_asked(tmp_path):
    write_video(tmp_path / "a.mp4", gradient(6, 64, 64), 8)
    every, _ = read_video(tmp_path / "a.mp4")
    assert torch.equal(read_video(tmp_path / "a.mp4", 2)[0], every[:2])
    assert len(read_video(tmp_path / "a.mp4", 99)[0]) == 6


@pytest.mark.parametrize(("height", "width", "even"), [(65, 97, (66, 98)), (64, 97, (64, 98)), (65, 96, (66, 96))])
def test_odd_sizes_repeat_their_edge(tmp_path, height, width, even):
    original = gradient(2, height, width)
    write_video(tmp_path / "a.mp4", original, 8, crf=1)
    read, _ = read_video(tmp_path / "a.mp4")
    assert read.shape[1:3] == even
    assert (read[:, :height, :width] - original).abs().mean() < 2 / 255
    assert (read[:, -1, :-1] - read[:, -2, :-1]).abs().mean() < 2 / 255
    assert (read[:, :-1, -1] - read[:, :-1, -2]).abs().mean() < 2 / 255


def test_colours_are_bt709_and_say_so(tmp_path):
    colours = torch.tensor([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0], [0, 1, 1], [1, 0, 1], [0, 0, 0], [1, 1, 1.0]])
    frames = colours[:, None, None].expand(-1, 64, 64, 3)
    write_video(tmp_path / "a.mp4", frames, 8)
    read, _ = read_video(tmp_path / "a.mp4")
    assert (read - frames).abs().max() <= 3 / 255  # decoding with BT.601 is off by more than 20
    with av.open(str(tmp_path / "a.mp4")) as container:
        context = container.streams.video[0].codec_context
        assert (context.name, context.pix_fmt) == ("h264", "yuv420p")
        tags = (context.colorspace, context.color_primaries, context.color_trc, context.color_range)
        assert tags == (1, 1, 1, 1)  # BT.709 three times, limited range
        luma = next(container.decode(video=0)).to_ndarray(format="yuv420p")[0, 0]
        assert abs(int(luma) - 63) <= 1  # pure red under BT.709; BT.601 gives 81


def test_values_outside_the_range_are_clamped(tmp_path):
    write_video(tmp_path / "a.mp4", torch.cat((torch.full((1, 64, 64, 3), -0.5), torch.full((1, 64, 64, 3), 1.5))), 8)
    read, _ = read_video(tmp_path / "a.mp4")
    assert read[0].max() <= 3 / 255 and read[1].min() >= 252 / 255


def test_a_stopped_run_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    target = tmp_path / "a.mp4"
    target.write_bytes(b"old")
    encode = video.encode

    def stopped(path, *arguments):
        encode(path, *arguments)
        assert path.parent == target.parent and target.read_bytes() == b"old"
        raise KeyboardInterrupt

    monkeypatch.setattr(video, "encode", stopped)
    with pytest.raises(KeyboardInterrupt):
        write_video(target, gradient(2, 64, 64), 8)
    assert [file.name for file in tmp_path.iterdir()] == ["a.mp4"] and target.read_bytes() == b"old"

    monkeypatch.undo()
    write_video(target, gradient(2, 64, 64), 8)
    assert [file.name for file in tmp_path.iterdir()] == ["a.mp4"] and len(read_video(target)[0]) == 2


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        (torch.rand(0, 64, 64, 3), "empty batch"),
        (torch.rand(2, 64, 64, 4), "alpha"),
        (torch.rand(64, 64, 3), "batch"),
        (torch.rand(2, 3, 64, 64), "channels last"),
    ],
)
def test_wrong_frames(tmp_path, frames, message):
    with pytest.raises(InputError, match=message):
        write_video(tmp_path / "a.mp4", frames, 8)
    assert not list(tmp_path.iterdir())


def test_wrong_arguments(tmp_path):
    frames = gradient(2, 64, 64)
    with pytest.raises(InputError, match="Create the folder"):
        write_video(tmp_path / "none" / "a.mp4", frames, 8)
    with pytest.raises(InputError, match="Add a file name"):
        write_video(tmp_path, frames, 8)
    for fps in (0, -8, float("nan"), 1e-9):
        with pytest.raises(InputError, match="fps"):
            write_video(tmp_path / "a.mp4", frames, fps)
    with pytest.raises(InputError, match="crf"):
        write_video(tmp_path / "a.mp4", frames, 8, crf=60)
    assert not list(tmp_path.iterdir())


def test_unreadable_videos(tmp_path):
    with pytest.raises(InputError, match="Check the path"):
        read_video(tmp_path / "none.mp4")
    (tmp_path / "text.mp4").write_text("not a video")
    with pytest.raises(InputError, match="FFmpeg can decode"):
        read_video(tmp_path / "text.mp4")
    write_video(tmp_path / "a.mp4", gradient(2, 64, 64), 8)
    with pytest.raises(InputError, match="at least 1"):
        read_video(tmp_path / "a.mp4", 0)


def test_contact_sheet():
    frames = torch.arange(3.0).view(3, 1, 1, 1).expand(3, 2, 4, 3) / 4
    sheet = contact_sheet(frames, 2)
    assert sheet.shape == (4, 8, 3)
    assert [sheet[0, 0, 0].item(), sheet[0, 4, 0].item(), sheet[2, 0, 0].item(), sheet[2, 4, 0].item()] == [
        0,
        0.25,
        0.5,
        1,
    ]


# ---- a clip out of a video


def numbered(path, frames, fps, **options):
    """A video whose frames are grey and tell their number: frame i has brightness i / frames."""
    write_video(path, (torch.arange(frames) / frames).view(-1, 1, 1, 1).expand(frames, 64, 96, 3), fps, **options)


def numbers(clip, frames):
    return (clip.mean(dim=(1, 2, 3)) * frames).round().int().tolist()


def encode(path, frames, fps, codec, pixels="yuv420p", seconds_of_sound=0, **options):
    """As `numbered`, in other formats, with a keyframe every 12 frames."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=fps, options=options)
        stream.width, stream.height, stream.pix_fmt = 96, 64, pixels
        stream.codec_context.gop_size = 12
        sound = container.add_stream("aac", rate=48000, layout="mono") if seconds_of_sound else None
        for index in range(frames):
            grey = np.full((64, 96, 3), round(255 * index / frames), np.uint8)
            frame = av.VideoFrame.from_ndarray(grey, format="rgb24").reformat(format=pixels)
            frame.pts, frame.time_base = index, 1 / Fraction(fps)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
        if sound:
            for index in range(seconds_of_sound * 48000 // 1024):
                frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
                frame.sample_rate, frame.pts, frame.time_base = 48000, 1024 * index, Fraction(1, 48000)
                container.mux(sound.encode(frame))
            container.mux(sound.encode())


def test_clip_at_the_videos_own_rate(tmp_path):
    numbered(tmp_path / "a.mp4", 24, 8)
    for start, expected in [(0, [0, 1, 2, 3]), (0.5, [10, 11, 12, 13]), (1, [20, 21, 22, 23])]:
        assert numbers(read_video_at(tmp_path / "a.mp4", 4, 8, start), 24) == expected
    every, _ = read_video(tmp_path / "a.mp4")
    assert torch.equal(read_video_at(tmp_path / "a.mp4", 24, 8, 0.7), every)


def test_clip_at_another_rate(tmp_path):
    numbered(tmp_path / "a.mp4", 60, 30)
    assert numbers(read_video_at(tmp_path / "a.mp4", 5, 10, 0), 60) == [0, 3, 6, 9, 12]
    assert numbers(read_video_at(tmp_path / "a.mp4", 4, 2, 1), 60) == [0, 15, 30, 45]
    assert numbers(read_video_at(tmp_path / "a.mp4", 6, 60, 0), 60) == [0, 0, 1, 1, 2, 2]
    assert numbers(read_video_at(tmp_path / "a.mp4", 4, 40, 0), 60) == [0, 1, 1, 2]  # at 0, 0.75, 1.5 and 2.25


FORMATS = {
    "x264.mp4": {"codec": "libx264"},
    "open_gop.mp4": {"codec": "libx264", "x264-params": "open-gop=1:bframes=3"},
    "sound.mp4": {"codec": "libx264", "seconds_of_sound": 9},
    "no_length.mkv": {"codec": "libx264"},
    "sound.mkv": {"codec": "libx264", "seconds_of_sound": 9},
    "vp9.webm": {"codec": "libvpx-vp9"},
    "mpeg4.avi": {"codec": "mpeg4", "qmin": "1", "qmax": "2"},
    "animated.gif": {"codec": "gif", "pixels": "gray"},
}


@pytest.mark.parametrize("name", FORMATS)
def test_clip_is_of_the_nearest_frames(tmp_path, name):
    """Wherever it starts, whatever the file's index leads to and whatever length the file states."""
    encode(tmp_path / name, 50, 20, **FORMATS[name])
    assert video_seconds(tmp_path / name) == pytest.approx(2.5, abs=0.01)
    for start in torch.linspace(0, 1, 24).tolist():
        clip = numbers(read_video_at(tmp_path / name, 4, 5, start), 50)
        exact = [20 * (start * 1.7 + index / 5) for index in range(4)]
        assert all(abs(number - at) < 0.71 for number, at in zip(clip, exact, strict=True)), (start, clip, exact)


def test_what_lies_before_the_clip_is_not_decoded(tmp_path):
    encode(tmp_path / "a.mp4", 200, 8, "libx264")
    with av.open(str(tmp_path / "a.mp4")) as container:
        packets = [packet for packet in container.demux(video=0) if packet.pts is not None]
    content = bytearray((tmp_path / "a.mp4").read_bytes())
    keyframe = max(packet.pts for packet in packets if packet.is_keyframe and packet.pts * packet.time_base < 23)
    for packet in packets:
        if packet.pts < keyframe:
            content[packet.pos : packet.pos + packet.size] = bytes(packet.size)
    (tmp_path / "broken.mp4").write_bytes(content)
    assert keyframe * packets[0].time_base > 20
    whole, broken = (read_video_at(tmp_path / f"{name}.mp4", 3, 8, 1) for name in ("a", "broken"))
    assert torch.equal(broken, whole)
    with pytest.raises(InputError, match="FFmpeg can decode"):
        read_video_at(tmp_path / "broken.mp4", 3, 8, 0)


def test_last_frame_is_held_where_the_video_ends_within_a_frame(tmp_path):
    numbered(tmp_path / "a.mp4", 14, 8)
    assert numbers(read_video_at(tmp_path / "a.mp4", 15, 8, 1), 14) == [*range(14), 13]
    assert numbers(read_video_at(tmp_path / "a.mp4", 1, 8, 1), 14) == [13]
    with pytest.raises(InputError, match=r"at least 1.88 s, found 1.75 s"):
        read_video_at(tmp_path / "a.mp4", 16, 8)


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_videos_are_turned_upright(tmp_path, degrees):
    """As a telephone writes them: lying, and the file says how they are to be shown."""
    upright = gradient(4, 64, 96) if degrees == 180 else gradient(4, 96, 64)
    write_video(tmp_path / "a.mp4", upright.rot90(degrees // 90, dims=(1, 2)), 8)  # counterclockwise
    cosine, sine = {90: (0, 1), 180: (-1, 0), 270: (0, -1)}[degrees]  # clockwise, the movie header's way
    matrix = [cosine, sine, 0, -sine, cosine, 0, 0, 0]
    content = bytearray((tmp_path / "a.mp4").read_bytes())
    place = content.index(b"tkhd") + 44
    content[place : place + 36] = struct.pack(">9i", *(value << 16 for value in matrix), 1 << 30)
    (tmp_path / "a.mp4").write_bytes(content)
    for read in (read_video(tmp_path / "a.mp4")[0], read_video_at(tmp_path / "a.mp4", 4, 8)):
        assert read.shape == upright.shape and (read - upright).abs().mean() < 2 / 255


def test_clips_that_cannot_be(tmp_path):
    with pytest.raises(InputError, match="Check the path"):
        read_video_at(tmp_path / "none.mp4", 4, 8)
    (tmp_path / "text.mp4").write_text("not a video")
    for read in (video_seconds, lambda path: read_video_at(path, 4, 8)):
        with pytest.raises(InputError, match="FFmpeg can decode"):
            read(tmp_path / "text.mp4")
    numbered(tmp_path / "a.mp4", 8, 8)
    for arguments, what in [((0, 8, 0), "frames"), ((4, 0, 0), "fps"), ((4, 8, 1.1), "start")]:
        with pytest.raises(InputError, match=what):
            read_video_at(tmp_path / "a.mp4", *arguments)
