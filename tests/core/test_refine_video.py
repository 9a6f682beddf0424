"""`generate` at its two ends: a video of one's own for the refiner, and where the result goes."""

import io
import logging
import os
import sys
import tempfile
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest
import torch
from PIL import Image
from test_encoding import heard, with_sound

from i2vgen_core.__main__ import main
from i2vgen_core.errors import InputError
from i2vgen_core.media.images import FRAME_SIZES, size_like
from i2vgen_core.media.video import read_video, video_seconds, write_video
from i2vgen_core.releases import RELEASES


@pytest.fixture
def refine(bundles, tmp_path, caplog):
    """refine(*more): runs the command with small settings; the exit code and what was said."""
    caplog.set_level(logging.INFO, logger="i2vgen_xl")

    def run(*more, out=tmp_path / "out.mp4"):
        small = ["--model", bundles(), "--refine-steps", 1, "--refine-height", 64, "--device", "cpu", "--out", out]
        code = main(["generate", *map(str, [*small, *more])])
        return code, caplog.text

    return run


def test_frames_rate_length_shape_and_sound_stay(refine, tmp_path):
    with_sound(tmp_path / "clip.mp4")
    code, said = refine("--stage", "refine", "--video", tmp_path / "clip.mp4", "--prompt", "a ramp")
    assert code == 0, said
    frames, rate = read_video(tmp_path / "out.mp4")
    assert frames.shape == (16, 64, 96, 3) and rate == 8 and video_seconds(tmp_path / "out.mp4") == 2
    assert heard(tmp_path / "out.mp4")[0] == heard(tmp_path / "clip.mp4")[0]
    assert "out.mp4: 16 frames of 96x64" in said and "seconds: encode for refinement" in said


class Stub:
    """Stands for the cascade: refines nothing, and keeps what it is given."""

    device = torch.device("cpu")
    refiner = SimpleNamespace(release=replace(RELEASES["vid2vid_xl"], width=288, height=144))
    seen: ClassVar[dict] = {}

    def __init__(self, *_, **__):
        Stub.seen = {}

    def check_frame(self, width, height):
        pass

    def encode_video(self, frames, options):
        self.seen |= {"frames": frames, "encode": options}
        return frames

    def sample_refiner(self, latent, prompt, options, callback):
        self.seen |= {"prompt": prompt, "refine": options}
        return latent

    def canvas(self, frames, options):
        return None

    def decode_refined(self, latent, canvas):
        return latent

    def free(self, *_):
        pass


@pytest.fixture
def stubbed(monkeypatch, tmp_path, caplog):
    """stubbed(*arguments): the command with the stub; the exit code."""
    caplog.set_level(logging.INFO, logger="i2vgen_xl")
    monkeypatch.setattr("i2vgen_core.commands.generate.Cascade", Stub)
    return lambda *arguments, out=tmp_path / "out.mp4": main(["generate", "--out", str(out), *map(str, arguments)])


def pictures(folder, names, size=(64, 64)):
    folder.mkdir(exist_ok=True)
    for number, name in enumerate(names):
        Image.new("RGB", size, (20 * number, 0, 0)).save(folder / name)


@pytest.mark.parametrize("given", ["shots", "shots/shot_*.png", "each"])
def test_pictures_are_a_video_in_the_order_of_their_numbers(stubbed, tmp_path, given):
    names = ["shot_1.png", "shot_2.png", "shot_10.png"]
    pictures(tmp_path / "shots", names)
    (tmp_path / "shots" / "notes.txt").write_text("none of it")
    words = [tmp_path / "shots" / name for name in names] if given == "each" else [tmp_path / given]
    assert stubbed("--video", *words, "--file-fps", 12) == 0
    assert (Stub.seen["frames"][:, 0, 0, 0] * 255 / 20).round().tolist() == [0, 1, 2]
    assert read_video(tmp_path / "out.mp4")[1] == 12
    assert stubbed("--video", *words) == 0 and read_video(tmp_path / "out.mp4")[1] == 8


def test_prompts_and_sizes(stubbed, tmp_path):
    write_video(tmp_path / "clip.mp4", torch.rand(2, 128, 64, 3), Fraction(24000, 1001))
    command = ["--video", tmp_path / "clip.mp4"]
    assert stubbed(*command) == 0
    assert Stub.seen["prompt"] == "" and (Stub.seen["refine"].width, Stub.seen["refine"].height) == (128, 272)
    assert read_video(tmp_path / "out.mp4")[1] == Fraction(24000, 1001)
    assert stubbed(*command, "--prompt", "a fox", "--refine-width", 96) == 0
    assert Stub.seen["prompt"] == "a fox" and (Stub.seen["encode"].width, Stub.seen["encode"].height) == (96, 192)
    assert stubbed(*command, "--prompt", "a fox", "--refine-prompt", "fur", "--refine-height", 64) == 0
    assert Stub.seen["prompt"] == "fur" and (Stub.seen["encode"].width, Stub.seen["encode"].height) == (64, 64)


def test_another_rate_leaves_the_sound_out(stubbed, tmp_path, caplog):
    with_sound(tmp_path / "clip.mp4")
    assert stubbed("--video", tmp_path / "clip.mp4", "--file-fps", 16) == 0
    assert heard(tmp_path / "out.mp4") is None and "The sound is left out: at 16 frames a second" in caplog.text
    assert stubbed("--video", tmp_path / "clip.mp4", "--file-fps", 8) == 0 and heard(tmp_path / "out.mp4")


def test_sizes_of_the_refiner_of_every_shape():
    named = [size for name, size in FRAME_SIZES.items() if name.startswith("refiner") and max(size) < 1900]
    shapes = [(1920, 1080), (1080, 1920), (500, 500)]
    assert [size_like(*shape, (1280, 720)) for shape in shapes] == named
    assert size_like(128, 64, (288, 144)) == (288, 144)


REFUSED = {
    "with a photo": (("--video", "clip.mp4", "--image", "a.png"), "found --image too"),
    "for the base": (("--video", "clip.mp4", "--stage", "base"), "found --stage base"),
    "no video": (("--stage", "refine"), "--stage refine: expected a video in --video"),
    "no file": (("--video", "none.mp4"), "nothing at 'none.mp4'"),
    "no pictures": (("--video", "none_*.png"), "none in 'none_*.png'"),
    "an address": (("--video", "https://example.org/a.mp4"), "the address 'https://example.org/a.mp4'"),
    "two videos": (("--video", "clip.mp4", "other.mp4"), "one video, or pictures alone, found 2 files"),
    "two sizes": (("--video", "a.png", "b.png"), "frames of one size, 64x64, found 'b.png' of 32x32"),
    "over itself": (("--video", "clip.mp4", "--out", "clip.mp4"), "an input is never written over"),
    "over a frame": (("--video", "a.png", "--out", "a.png"), "a number in a sequence's name"),
    "another format": (("--video", "clip.mp4", "--out", "out.avi"), "a name that ends in .mp4"),
    "a photo's address": (
        ("--image", "https://example.org/a.png", "--prompt", "x"),
        "the address 'https://example.org",
    ),
    "over the photo": (("--image", "a.png", "--prompt", "x", "--out", "a.png"), "a number in a sequence's name"),
    "a photo to avi": (("--image", "a.png", "--prompt", "x", "--out", "out.avi"), "Name it out.mp4"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused_before_any_work(stubbed, tmp_path, monkeypatch, caplog, case):
    monkeypatch.chdir(tmp_path)
    write_video("clip.mp4", torch.rand(2, 64, 64, 3), 8)
    pictures(tmp_path, ["a.png"])
    pictures(tmp_path, ["b.png"], (32, 32))
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    arguments, message = REFUSED[case]
    assert stubbed(*arguments) == 2 and message in caplog.text
    assert not Stub.seen and {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


# ---------------------------------------------------------------- where it goes


@pytest.mark.parametrize("kind", [OSError, InputError])
def test_a_full_disk_loses_no_frames(stubbed, tmp_path, monkeypatch, caplog, kind):
    """The video is written elsewhere, and the message says where."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    pictures(tmp_path, ["a.png"])
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(elsewhere))

    def full(path, *arguments, **options):
        if Path(path).parent != elsewhere:
            full = "No space left on device"
            raise (
                OSError(28, full) if kind is OSError else InputError("the video file", "a folder of yours", full, "Go.")
            )
        write_video(path, *arguments, **options)

    monkeypatch.setattr("i2vgen_core.commands.generate.write_video", full)
    assert stubbed("--video", tmp_path / "a.png") == 2
    (kept,) = elsewhere.iterdir()
    assert f"No space left on device). It is whole in '{kept}': make room, and move it." in caplog.text
    assert len(read_video(kept)[0]) == 1


def test_no_room_anywhere_is_one_sentence(stubbed, tmp_path, caplog):
    resource = pytest.importorskip("resource")
    (tmp_path / "in").mkdir()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (256, 256, 3), dtype=np.uint8)).save(
        tmp_path / "in/a.png"
    )
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, limits[1]))
    try:
        assert stubbed("--video", tmp_path / "in") == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    said = [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]
    assert len(said) == 1 and "(File too large). Make room, and run the command again." in said[0]
    assert [file.name for file in tmp_path.iterdir()] == ["in"]


def test_every_format_by_the_command(stubbed, tmp_path):
    pictures(tmp_path / "shots", ["1.png", "2.png"])
    for name in ("a.mp4", "a.mov", "a.mkv", "a.webm", "a.gif", "a.webp", "a_%02d.png"):
        assert stubbed("--video", tmp_path / "shots", out=tmp_path / name) == 0, name
    assert {file.name for file in tmp_path.glob("a*")} == {
        *("a.mp4", "a.mov", "a.mkv", "a.webm", "a.gif", "a.webp", "a_01.png", "a_02.png")
    }


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_any_encoding_of_the_output(monkeypatch, encoding):
    """A console of few characters, or a pipe of a program that asks for them, stops nothing."""
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding=encoding))
    with pytest.raises(SystemExit):
        main(["--version"])
    sys.stdout.write("狐 \N{FOX FACE}")
    sys.stdout.flush()
    assert ("狐" in written.getvalue().decode(encoding)) == (encoding == "utf-8")


def test_a_folder_of_the_refiner_alone(refine, bundles, tmp_path, monkeypatch):
    folder = tmp_path / "model"
    folder.mkdir()
    for part in ("refiner", "vae", "text_encoder", "tokenizer"):
        os.symlink(bundles() / part, folder / part, target_is_directory=True)
    pictures(tmp_path / "shots", ["1.png", "2.png"])
    code, said = refine("--model", folder, "--video", tmp_path / "shots")
    assert code == 0, said
    code, said = refine("--model", folder, "--image", tmp_path / "shots/1.png", "--prompt", "x", "--stage", "base")
    assert code == 2 and "model folder: expected one with unet/ in it" in said
