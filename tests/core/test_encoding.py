"""Frames into files: the ending says the format, the same frames give the same bytes, sound is kept, inputs stay."""

import errno
import hashlib
import logging
import os
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from i2vgen_core.errors import InputError
from i2vgen_core.media import encoding
from i2vgen_core.media.decoding import open_clip
from i2vgen_core.media.images import read_image
from i2vgen_core.media.video import check_video_file, read_video, video_seconds, write_video


def moving(frames=16, height=144, width=288):
    """A soft disc over a textured ground that drifts: motion that B-frames and their lookahead work on."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    pictures = []
    for index in range(frames):
        ground = 0.4 + 0.1 * np.sin((x + 2 * index) / 5) * np.cos((y - index) / 7) + 0.05 * np.sin(x * y / 300)
        inside = np.clip(30 - np.hypot(x - 60 - 8 * index, y - 40 - 3 * index), 0, 1)[..., None]
        pictures.append(inside * [0.9, 0.2, 0.1] + (1 - inside) * ground[..., None] * [1, 0.9, 0.8])
    return torch.from_numpy(np.stack(pictures)).float()


BEGINS = {
    "a": b"ftypisom",
    "a.mp4": b"ftypisom",
    "a.M4V": b"ftypisom",
    "a.mov": b"ftypqt  ",
    "a.mkv": b"\x1aE\xdf\xa3",
    "a.webm": b"\x1aE\xdf\xa3",
    "a.gif": b"GIF89a",
    "a.webp": b"RIFF",
}


@pytest.mark.parametrize("name", BEGINS)
def test_the_ending_says_the_format(tmp_path, name):
    frames = moving(5, 64, 96)
    write_video(tmp_path / name, frames, 8)
    assert BEGINS[name] in (tmp_path / name).read_bytes()[:12]
    assert [file.name for file in tmp_path.iterdir()] == [name]
    read, rate = read_video(tmp_path / name)
    assert read.shape == frames.shape and abs(rate - 8) < 0.4  # a GIF counts hundredths of a second
    assert (read - frames).abs().mean() < 5 / 255
    with open_clip(tmp_path / name) as clip:
        assert clip.span()[1] == pytest.approx(0.625, abs=0.011)
    if name == "a.webm":
        assert b"V_VP9" in (tmp_path / name).read_bytes()


def test_a_sequence_of_pictures(tmp_path):
    frames = moving(3, 65, 97)
    write_video(tmp_path / "shot_%03d.png", frames, 8)
    files = sorted(tmp_path.iterdir())
    assert [file.name for file in files] == ["shot_001.png", "shot_002.png", "shot_003.png"]
    read = torch.cat([read_image(file) for file in files])
    assert (read - frames).abs().max() <= 0.51 / 255


def test_a_gif_lasts_as_long_as_its_video(tmp_path):
    write_video(tmp_path / "a.gif", moving(15, 64, 64), 15)  # 6.67 hundredths a frame
    assert video_seconds(tmp_path / "a.gif") == pytest.approx(1.0, abs=0.011)


@pytest.mark.parametrize("name", ["a.avi", "a.jpg", "a.png", "a.mp4.tmp", "a.wmv"])
def test_other_endings_are_refused(tmp_path, name):
    for refused in (
        lambda: check_video_file(tmp_path / name, 8),
        lambda: write_video(tmp_path / name, moving(2, 64, 64), 8),
    ):
        with pytest.raises(InputError, match=r"the video file: expected a (name|number)"):
            refused()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("name", "better"), [("a.avi", "a.mp4"), ("a.mp4.tmp", "a.mp4"), ("a.tar", "a.mp4")])
def test_the_remedy_of_another_ending_is_a_name(tmp_path, name, better):
    with pytest.raises(InputError, match=rf"Name it {better}\.$"):
        check_video_file(tmp_path / name, 8)


def test_a_folder_that_takes_no_file_is_said_before_the_work(tmp_path, monkeypatch):
    """Whatever the system says of its permissions: to root, /proc is writable."""

    def refuse(**_):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr("i2vgen_core.errors.tempfile.TemporaryFile", refuse)
    with pytest.raises(InputError, match=r"which may not be written to \(Read-only file system\)"):
        check_video_file(tmp_path / "a.mp4", 8)


def test_an_input_is_never_the_output(tmp_path):
    clip, photo = tmp_path / "clip.mp4", tmp_path / "shot_0002.png"
    for file in (clip, photo):
        file.write_bytes(b"input")
    link = tmp_path / "link.mp4"
    os.link(clip, link)
    for target, source in (
        (clip, clip),
        (link, clip),
        (tmp_path / "." / "clip.mp4", clip),
        (tmp_path / "shot_%d.png", photo),
    ):
        with pytest.raises(InputError, match="an input is never written over"):
            check_video_file(target, 8, [tmp_path / "other", source])
    check_video_file(tmp_path / "new.mp4", 8, [clip, photo])
    check_video_file(tmp_path / "frame_%04d.png", 8, [clip, photo])


# ---------------------------------------------------------------- the same bytes

WRITES = """
import sys, numpy as np, torch
sys.path.insert(0, sys.argv[1])
from test_encoding import moving
from i2vgen_core.media.video import write_video
torch.set_num_threads(2)
write_video(sys.argv[2], moving(), 8)
"""


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.webm"])
def test_the_same_frames_give_the_same_bytes(tmp_path, name):
    """Where memory was used before, and beside other work: with x264's macroblock tree, nearly every file differs."""
    frames, random = moving(24, 96, 160), np.random.default_rng(0)
    digests = set()
    for number in range(2 if name == "a.webm" else 6):
        write_video(tmp_path / name, frames, 8)
        digests.add(digest(tmp_path / name))
        dirt = [random.integers(0, 255, int(size), dtype=np.uint8) for size in random.integers(1e3, 4e5, 60 + number)]
        del dirt
    assert len(digests) == 1


@pytest.mark.slow
def test_the_number_of_processors_changes_no_byte(tmp_path):
    write_video(tmp_path / "a.mp4", moving(), 8)
    content = (tmp_path / "a.mp4").read_bytes()
    assert b" threads=1 " in content and b" mbtree=0 " in content  # x264 writes its settings down
    arguments = [sys.executable, "-c", WRITES, str(Path(__file__).parent), str(tmp_path / "b.mp4")]
    pin = (
        (lambda: os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])) if hasattr(os, "sched_setaffinity") else None
    )
    subprocess.run(arguments, check=True, preexec_fn=pin, cwd=Path(__file__).parents[2])
    assert (tmp_path / "b.mp4").read_bytes() == content


# ---------------------------------------------------------------- sound


def with_sound(path, codec="aac", start=0.0, seconds=2):
    """A video of 16 frames at 8 a second with a tone; `start` is where both begin."""
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=8)
        video.width, video.height, video.pix_fmt = 96, 64, "yuv420p"
        sound = container.add_stream(codec, rate=48000, layout="mono")
        kind = sound.codec_context.format.name
        for index in range(16):
            frame = av.VideoFrame.from_ndarray(np.full((96, 96), 16 * index, np.uint8), format="yuv420p")
            frame.pts, frame.time_base = index + round(8 * start), Fraction(1, 8)
            container.mux(video.encode(frame))
        container.mux(video.encode())
        samples = np.sin(np.arange(48000 * seconds) / 20)[None]
        samples = samples.astype(np.float32) if "flt" in kind else (samples * 30000).astype(np.int16)
        for index in range(48000 * seconds // 960):
            frame = av.AudioFrame.from_ndarray(samples[:, 960 * index : 960 * index + 960], format=kind, layout="mono")
            frame.sample_rate, frame.time_base = 48000, Fraction(1, 48000)
            frame.pts = 960 * index + round(48000 * start)
            container.mux(sound.encode(frame))
        container.mux(sound.encode())


def heard(path):
    """The sound's packets, and when it begins and ends in seconds."""
    with av.open(str(path)) as container:
        if not container.streams.audio:
            return None
        stream = container.streams.audio[0]
        packets = [packet for packet in container.demux(stream) if packet.pts is not None and packet.size]
        times = [float(packet.pts * packet.time_base) for packet in packets]
        return [bytes(packet) for packet in packets], min(times), max(times)


@pytest.mark.parametrize(
    ("source", "codec", "target"),
    [
        ("a.mp4", "aac", "b.mp4"),
        ("a.mp4", "aac", "b.mkv"),
        ("a.mkv", "libopus", "b.webm"),
        ("a.mov", "aac", "b.mov"),
        ("a.ts", "aac", "b.mkv"),
    ],
)
def test_sound_is_copied(tmp_path, source, codec, target):
    with_sound(tmp_path / source, codec)
    frames, rate = read_video(tmp_path / source)
    write_video(tmp_path / target, frames, rate, sound=tmp_path / source)
    assert len(read_video(tmp_path / target)[0]) == 16 and video_seconds(tmp_path / target) == pytest.approx(
        2, abs=0.01
    )
    with av.open(str(tmp_path / target)) as container:
        assert [stream.type for stream in container.streams] == ["video", "audio"]
    before, after = heard(tmp_path / source), heard(tmp_path / target)
    assert len(after[0]) > 80
    for copy, packet in zip(reversed(after[0]), reversed(before[0]), strict=False):
        assert packet.endswith(copy) and len(copy) >= len(packet) - 7  # a transport stream has a header at each
    assert after[1] == pytest.approx(0, abs=0.05) and after[2] == pytest.approx(2, abs=0.06)


def test_sound_begins_with_the_video(tmp_path):
    with_sound(tmp_path / "a.mkv", start=3)
    frames, rate = read_video(tmp_path / "a.mkv")
    write_video(tmp_path / "b.mkv", frames, rate, sound=tmp_path / "a.mkv")
    assert heard(tmp_path / "a.mkv")[1] == pytest.approx(3, abs=0.05)
    assert heard(tmp_path / "b.mkv")[1] == pytest.approx(0, abs=0.05)


@pytest.mark.parametrize("target", ["b.webm", "b.gif", "b_%d.png"])
def test_sound_that_does_not_fit_is_said(tmp_path, caplog, target):
    with_sound(tmp_path / "a.mp4")
    with caplog.at_level(logging.WARNING, "i2vgen_xl"):
        write_video(tmp_path / target, read_video(tmp_path / "a.mp4", 4)[0], 8, sound=tmp_path / "a.mp4")
    assert caplog.text.count("The sound is left out") == 1
    assert len(list(tmp_path.iterdir())) == (5 if "png" in target else 2)
    assert target != "b.webm" or heard(tmp_path / target) is None


def test_a_silent_source_says_nothing(tmp_path, caplog):
    write_video(tmp_path / "a.mp4", moving(2, 64, 64), 8)
    Image.new("RGB", (64, 64)).save(tmp_path / "a.webp")
    for source in ("a.mp4", "a.webp"):
        write_video(tmp_path / "b.mp4", moving(2, 64, 64), 8, sound=tmp_path / source)
    assert heard(tmp_path / "b.mp4") is None and not caplog.text


# ---------------------------------------------------------------- a disk that fills up


@pytest.mark.parametrize("name", ["a.mp4", "a.webm", "a.webp", "a_%d.png"])
def test_a_failed_write_leaves_nothing(tmp_path, name):
    """A limit of 8 KiB a file ends a write as a full disk does."""
    resource = pytest.importorskip("resource")
    noise = torch.rand(8, 256, 256, 3)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            write_video(tmp_path / name, noise, 8)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list(tmp_path.iterdir())


def test_the_endings_are_those_that_are_named():
    assert set(encoding.ENDINGS) == {".mp4", ".m4v", ".mov", ".mkv", ".webm", ".gif", ".webp"}
