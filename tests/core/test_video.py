"""Frames to an MP4 and back: sizes, rates, colours, tags, and that a stopped run leaves no file."""

from fractions import Fraction

import av
import pytest
import torch

from i2vgen_core import video
from i2vgen_core.errors import InputError
from i2vgen_core.video import contact_sheet, read_video, write_video


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
    encode = video._encode

    def stopped(path, *arguments):
        encode(path, *arguments)
        assert path.parent == target.parent and target.read_bytes() == b"old"
        raise KeyboardInterrupt

    monkeypatch.setattr(video, "_encode", stopped)
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
