"""A story of shots: its text, how its clips are made, and that each goes on where the last one ended."""

import pytest
import torch
from PIL import Image

from i2vgen_core.__main__ import main
from i2vgen_core.cascade import Cascade
from i2vgen_core.errors import InputError
from i2vgen_core.media.images import read_image
from i2vgen_core.sampling.options import BaseOptions
from i2vgen_core.shots import Clip, Shot, clips_of, film, held_start, read_shots, read_storyboard

OPTIONS = BaseOptions(width=72, height=64, frames=3, steps=1, seed=7)
STORY = "# a story\n\n16: a fox wakes up\n  it looks around: twice\n8 :it runs\n"


def test_a_storyboard_is_read():
    assert read_shots(STORY) == [Shot("a fox wakes up", 16), Shot("it looks around: twice"), Shot("it runs", 8)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("\n# nothing", "at least one"),
        ("16:", "line 1 of the shots: expected what happens"),
        ("a fox\n0: it runs", "line 2 of the shots: expected 1 to 4096 frames, found 0"),
        ("99999999999999999999: it runs", "1 to 4096 frames"),
    ],
)
def test_what_is_no_storyboard(text, message):
    with pytest.raises(InputError, match=message):
        read_shots(text)


def test_a_file_that_is_no_text(tmp_path):
    file = tmp_path / "story.txt"
    file.write_bytes(b"\xef\xbb\xbf" + STORY.encode())
    assert read_storyboard(file) == read_shots(STORY)
    file.write_bytes(b"\xff\xfe\x00")
    for bad in (file, tmp_path / "none.txt", tmp_path):
        with pytest.raises(InputError, match="a text file in UTF-8"):
            read_storyboard(bad)


def test_clips_begin_with_the_shot_before():
    """A shot's seed is that of its place, so that it keeps its noise whatever is said before it."""
    clips = clips_of(read_shots("4: a\nb\n1: c\n5: d"), 6, seed=2**64 - 2, overlap=3)
    assert clips == [Clip("a", 4, 0, 2**64 - 2), Clip("b", 9, 3, 2**64 - 1), Clip("c", 4, 3, 0), Clip("d", 6, 1, 1)]
    with pytest.raises(InputError, match="overlap"):
        clips_of([Shot("a")], 4, overlap=0)


def test_a_clip_needs_frames_of_its_own():
    with pytest.raises(InputError, match="more than the 2 that are held"):
        held_start(torch.zeros(2, 4, 8, 8), 2)
    held = held_start(torch.ones(2, 4, 8, 8), 5)
    assert held.latent.mean((1, 2, 3)).tolist() == [1, 1, 0, 0, 0]
    assert held.mask.mean((1, 2)).tolist() == [0, 0, 1, 1, 1]


@pytest.fixture(scope="module")
def made(bundles):
    """A cascade, a picture, and what `film` has sampled: what each clip was given and gave."""
    cascade = Cascade(bundles())
    picture = torch.rand(1, 64, 72, 3, generator=torch.Generator().manual_seed(3))
    sample, clips = cascade.sample_base, []

    def recorded(conditions, options, *, held=None, **more):
        clips.append((options, held, sample(conditions, options, held=held, **more)))
        return clips[-1][-1]

    cascade.sample_base = recorded
    shots = [Shot("a fox"), Shot("it runs", 2), Shot("it sleeps", 4)]
    return cascade, picture, list(film(cascade, picture, shots, OPTIONS)), clips


def test_each_shot_begins_where_the_last_one_ended(made):
    cascade, _, videos, clips = made
    assert [len(video) for video in videos] == [3, 2, 4]
    assert [options.seed for options, *_ in clips] == [7, 8, 9]
    assert clips[0][1] is None
    for before, (_, held, latent) in zip(videos[:-1], clips[1:], strict=True):
        last = cascade.encode_images(before[-2:], OPTIONS)
        assert torch.equal(held.latent[:2], last)
        assert (latent[:2] - last).abs().max() < 1e-5 * last.abs().max()
        assert not held.mask[:2].any() and held.mask[2:].all()


def test_the_first_shots_are_the_same_whatever_follows(made):
    cascade, picture, videos, _ = made
    again = film(cascade, picture, [Shot("a fox"), Shot("it runs", 2), Shot("it flies")], OPTIONS)
    assert torch.equal(next(again), videos[0]) and torch.equal(next(again), videos[1])


def test_the_command_makes_a_storyboard(bundles, tmp_path, caplog):
    photo, story = tmp_path / "photo.png", tmp_path / "story.txt"
    Image.new("RGB", (72, 64), (90, 120, 40)).save(photo)
    story.write_text("2: a fox\n3: it runs", encoding="utf-8")
    arguments = ["generate", "--model", bundles(), "--image", photo, "--width", 64, "--height", 64, "--steps", 1]
    arguments += ["--refine-width", 72, "--refine-height", 64, "--refine-steps", 1, "--overlap", 1]
    arguments += ["--storyboard", story, "--out", tmp_path / "frame_%04d.png"]
    assert main([str(each) for each in arguments]) == 0
    frames = sorted(tmp_path.glob("frame_*.png"))
    assert len(frames) == 5 and read_image(frames[0]).shape == (1, 64, 72, 3)
    for more, found in (
        (["--prompt", "a fox"], "--prompt"),
        (["--mask", photo], "--mask"),
        (["--image", photo, photo], "several pictures"),
    ):
        assert main([str(each) for each in (*arguments, *more)]) == 2
        assert f"--storyboard: expected one picture beside it, found {found}." in caplog.text.splitlines()[-1]
    assert main([str(each) for each in (*arguments, "--video", photo)]) == 2
