"""A person's own folder as a source of clips: captions, which files serve which clip, sizes, and what is refused."""

import csv
import json
from collections import Counter
from pathlib import Path

import pytest
import torch
from PIL import Image

from i2vgen_core.errors import InputError
from i2vgen_core.media.video import write_video
from i2vgen_core.training.data import Folder, of_form
from i2vgen_core.training.diffusion import ClipShape, draw_clips

FRAMES, FPS = 4, 8


def video(path, colour, frames=8, fps=FPS):
    """A video of one colour that turns white towards its end."""
    path.parent.mkdir(parents=True, exist_ok=True)
    light = torch.linspace(0, 1, frames).view(-1, 1, 1, 1)
    picture = torch.tensor(colour).expand(frames, 96, 160, 3)
    write_video(path, picture + (1 - picture) * light, fps)


def image(path, colour):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (160, 96), tuple(round(255 * c) for c in colour)).save(path)


def prompts(folder, numbers, frames=FRAMES, fps=FPS):
    return [folder.clip(number, 64, 64, frames, fps).prompt for number in numbers]


@pytest.fixture
def four(tmp_path):
    """A video and an image with text beside them, one of each in a listing, and one of each without a caption."""
    video(tmp_path / "red.mp4", (1.0, 0.0, 0.0))
    (tmp_path / "red.txt").write_text("red grows pale\n\n  a fading red \n", encoding="utf-8-sig")
    image(tmp_path / "more" / "blue.PNG", (0.0, 0.0, 1.0))
    (tmp_path / "more" / "blue.txt").write_text("blue")
    video(tmp_path / "clips" / "green.mp4", (0.0, 1.0, 0.0))
    image(tmp_path / "clips" / "stills" / "grey.jpg", (0.5, 0.5, 0.5))
    entries = [{"file_name": "green.mp4", "text": "green"}, {"file_name": "stills/grey.jpg", "text": "grey\u2028light"}]
    lines = [json.dumps(entry, ensure_ascii=False) for entry in entries]
    (tmp_path / "clips" / "metadata.jsonl").write_text("\n".join([*lines, ""]), encoding="utf-8")
    video(tmp_path / "nameless.mp4", (0.0, 0.0, 0.0))
    image(tmp_path / "nameless.png", (0.0, 0.0, 0.0))
    image(tmp_path / ".hidden.png", (0.0, 0.0, 0.0))
    (tmp_path / ".hidden.txt").write_text("hidden")
    return tmp_path


@pytest.mark.parametrize("name", ["red.webp", "red.png", "red.avif"])
def test_a_moving_picture_is_a_video(tmp_path, name):
    frames = [Image.new("RGB", (160, 96), (40 * number, 0, 0)) for number in range(FRAMES)]
    frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], duration=round(1000 / FPS))
    (tmp_path / "red.txt").write_text("red grows bright")
    image(tmp_path / "still.png", (0.0, 0.0, 0.0))
    (tmp_path / "still.txt").write_text("black")
    folder = Folder(tmp_path)
    sample = folder.clip(0, 64, 64, FRAMES, FPS)
    assert sample.prompt == "red grows bright"
    assert (sample.frames[:, 0, 0, 0] * 255 / 40).round().tolist() == [0, 1, 2, 3]
    assert set(prompts(folder, range(4), frames=1)) == {"red grows bright", "black"}


def test_single_frames_come_from_everything_that_has_a_caption(four, caplog):
    folder = Folder(four)
    assert "2 of 6 files have no caption" in caplog.text
    found = prompts(folder, range(40), frames=1)
    assert set(found) == {"red grows pale", "a fading red", "blue", "green", "grey\u2028light"}
    for round_ in range(10):  # every file once before any comes again
        kinds = Counter("red" if "red" in prompt else prompt for prompt in found[4 * round_ : 4 * round_ + 4])
        assert set(kinds.values()) == {1} and len(kinds) == 4


def test_clips_come_from_videos_alone(four):
    assert set(prompts(Folder(four), range(12))) == {"red grows pale", "a fading red", "green"}


def test_a_number_is_always_the_same_clip(four):
    first, again, other = Folder(four), Folder(four), Folder(four, seed=1)
    clips = [first.clip(number, 64, 64, 2, FPS) for number in range(6)]
    for number, clip in reversed(list(enumerate(clips))):
        same = again.clip(number, 64, 64, 2, FPS)
        assert torch.equal(same.frames, clip.frames) and same.prompt == clip.prompt
    assert any(not torch.equal(other.clip(n, 64, 64, 2, FPS).frames, clip.frames) for n, clip in enumerate(clips))


def test_clips_start_all_over_the_video(tmp_path):
    video(tmp_path / "red.mp4", (1.0, 0.0, 0.0), frames=33)
    (tmp_path / "red.txt").write_text("red")
    folder = Folder(tmp_path)
    starts = [folder.clip(number, 64, 64, 2, FPS).frames[0, 32, 32, 1].item() for number in range(30)]
    assert min(starts) < 0.2 and max(starts) > 0.8


def test_frames_cover_the_size_and_keep_their_motion(four):
    clip = next(c for c in (Folder(four).clip(n, 128, 64, FRAMES, FPS) for n in range(4)) if c.prompt == "green")
    assert clip.frames.shape == (FRAMES, 64, 128, 3) and clip.frames.dtype == torch.float32
    assert clip.fps == FPS and clip.subject == clip.prompt
    assert (clip.frames[..., 1] > 0.95).all()
    reds = clip.frames[..., 0].mean(dim=(1, 2))
    assert torch.allclose(reds.diff(), torch.full((FRAMES - 1,), 1 / 7), atol=0.02)


def test_short_videos_are_passed_over(tmp_path):
    for name, frames in (("short", 4), ("long", 12)):
        video(tmp_path / f"{name}.mp4", (1.0, 0.0, 0.0), frames)
        (tmp_path / f"{name}.txt").write_text(name)
    folder = Folder(tmp_path)
    assert set(prompts(folder, range(6), frames=4)) == {"short", "long"}
    assert set(prompts(folder, range(6), frames=12)) == {"long"}
    assert set(prompts(folder, range(6), frames=8, fps=16)) == {"short", "long"}
    with pytest.raises(InputError, match=r"32 frames at 8 fps: expected videos of 3\.88 s .* none longer than 1\.50 s"):
        folder.clip(0, 64, 64, 32, FPS)


def test_images_alone_serve_single_frames(tmp_path):
    image(tmp_path / "blue.png", (0.0, 0.0, 1.0))
    (tmp_path / "blue.txt").write_text("blue")
    clip = Folder(tmp_path).clip(7, 64, 64, 1, FPS)
    assert torch.equal(clip.frames, torch.tensor([0.0, 0.0, 1.0]).expand(1, 64, 64, 3))
    with pytest.raises(InputError, match="images alone"):
        Folder(tmp_path).clip(0, 64, 64, 2, FPS)


def test_folders_without_captions(tmp_path):
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(InputError, match="expected videos or images with captions, found none"):
            Folder(folder)
    image(tmp_path / "blue.png", (0.0, 0.0, 1.0))
    (tmp_path / "blue.txt").write_text(" \n")
    with pytest.raises(InputError, match="1 videos and images, none of them with one"):
        Folder(tmp_path)


@pytest.mark.parametrize(
    "line", ['{"file_name": "blue.png"}', "blue.png: blue", '["blue.png"]', '{"file_name": "blue.png", "text": 1}']
)
def test_listings_that_are_wrong(tmp_path, line):
    image(tmp_path / "inside" / "blue.png", (0.0, 0.0, 1.0))
    listing = tmp_path / "inside" / "metadata.jsonl"
    listing.write_text('{"file_name": "blue.png", "text": "blue"}\n' + line)
    with pytest.raises(InputError, match=r"metadata\.jsonl, row 2: expected file_name or .*, and text or caption"):
        Folder(tmp_path)
    listing.rename(tmp_path / "inside" / "notes.jsonl")  # a table of something else
    with pytest.raises(InputError, match="none of them with one"):
        Folder(tmp_path)


@pytest.mark.parametrize("name", ["green.png", "../inside/blue.png", "../blue.png", "metadata.jsonl", "/etc/passwd"])
def test_what_a_listing_names_and_the_folder_has_not_is_left_out(tmp_path, caplog, name):
    image(tmp_path / "inside" / "blue.png", (0.0, 0.0, 1.0))
    listing = tmp_path / "inside" / "metadata.jsonl"
    listing.write_text(json.dumps({"file_name": name, "text": "green"}))
    with pytest.raises(InputError, match="1 of 1 files that it names are no videos or images of this folder"):
        Folder(tmp_path)
    listing.write_text("\n".join(json.dumps({"file_name": n, "text": n}) for n in ("blue.png", name)))
    assert prompts(Folder(tmp_path), range(4), frames=1) == ["blue.png"] * 4
    assert f"1 of 2 files that it names are no videos or images of this folder and are left out: {name}" in caplog.text


LISTS = {
    "metadata.csv": "file_name,text\nvideos/walk.mp4,a cat walks\n",
    "metadata.jsonl": '{"file_name": "videos/walk.mp4", "text": "a cat walks"}\n',
    "dataset.jsonl": '{"video_path": "videos/walk.mp4", "caption": "a cat walks"}\n',
    "captions.csv": "sep=;\r\nfile_name;text;split\r\nvideos\\walk.mp4;a cat walks;train\r\n;;\r\n",
    "vid_list.txt": "videos/walk.mp4|||a cat walks\n",
    "videos/vid_list.txt": "walk.mp4|||a cat walks\n",
    "lists/vid_list.txt": "walk.mp4|||a cat walks\r\n\r\n",
}


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
@pytest.mark.parametrize("name", LISTS)
def test_lists_as_other_tools_write_them(tmp_path, name, encoding):
    video(tmp_path / "videos" / "walk.mp4", (1.0, 0.0, 0.0))
    listing = tmp_path / name
    listing.parent.mkdir(exist_ok=True)
    listing.write_bytes(LISTS[name].encode(encoding))
    assert prompts(Folder(tmp_path), range(2)) == ["a cat walks"] * 2
    if "lists/" not in name:
        image(tmp_path / "videos" / "blue.png", (0.0, 0.0, 1.0))
        (tmp_path / "videos" / "blue.txt").write_text("not in the list")
        assert set(prompts(Folder(listing), range(4), frames=1)) == {"a cat walks"}, "the list alone says"


def test_a_list_whose_name_fits_two_files_names_none(tmp_path):
    for folder in ("a", "b"):
        image(tmp_path / folder / "blue.png", (0.0, 0.0, 1.0))
    (tmp_path / "img_list.txt").write_text("blue.png|||blue\nb/blue.png|||the second\n")
    assert prompts(Folder(tmp_path), range(2), frames=1) == ["the second"] * 2


def test_what_is_no_list_is_said(tmp_path):
    image(tmp_path / "blue.png", (0.0, 0.0, 1.0))
    (tmp_path / "notes.txt").write_text("a note")
    with pytest.raises(
        InputError, match=r"none of them with one.*metadata\.jsonl or .csv with file_name or video_path"
    ):
        Folder(tmp_path)
    with pytest.raises(InputError, match=r"notes\.txt: expected lines"):
        Folder(tmp_path / "notes.txt")


def test_hidden_folders_do_not_count(tmp_path):
    for folder in (tmp_path, tmp_path / ".thumbnails"):
        image(folder / "blue.png", (0.0, 0.0, 1.0))
        (folder / "blue.txt").write_text(folder.name)
    assert set(prompts(Folder(tmp_path), range(4), frames=1)) == {tmp_path.name}


# ---------------------------------------------------------------- broken files


def test_files_that_cannot_be_read_are_said_and_left_out(tmp_path, caplog):
    (tmp_path / "broken.mp4").write_text("not a video")
    (tmp_path / "broken.txt").write_text("a caption")
    with pytest.raises(InputError, match=r"none of them with one that can be read \(.*broken\.mp4"):
        Folder(tmp_path)
    image(tmp_path / "blue.png", (0.0, 0.0, 1.0))
    (tmp_path / "blue.txt").write_text("blue")
    image(tmp_path / "red.png", (1.0, 0.0, 0.0))
    (tmp_path / "red.txt").write_bytes("Füße".encode("latin-1"))
    caplog.clear()
    assert prompts(Folder(tmp_path), range(4), frames=1) == ["blue"] * 4
    assert "broken.mp4 is left out: the video file" in caplog.text and "Save it as UTF-8" in caplog.text
    assert "1 of 3 files cannot be read" in caplog.text
    (tmp_path / "broken.mp4").unlink()
    (tmp_path / "blue.png").unlink()
    with pytest.raises(InputError, match="Save it as UTF-8"):
        Folder(tmp_path)


@pytest.fixture
def pictures(tmp_path):
    """Five pictures; two of them are cut off, which shows when they are drawn."""
    for number in range(5):
        picture = tmp_path / f"{number}.png"
        Image.effect_noise((96, 64), 80).convert("RGB").save(picture)
        (tmp_path / f"{number}.txt").write_text(f"{number}")
        if number in (1, 3):
            picture.write_bytes(picture.read_bytes()[:3000])
    return tmp_path


def test_a_broken_file_is_named_once_and_another_takes_its_place(pictures, caplog):
    folder = Folder(pictures)
    found = prompts(folder, range(50), frames=1)
    assert set(found) == {"0", "2", "4"}
    assert [caplog.text.count(f"{number}.png is left out, another takes its place") for number in range(5)] == [
        0,
        1,
        0,
        1,
        0,
    ]
    assert "(2 of 5 so far)" in caplog.text
    again = Folder(pictures)
    assert prompts(again, range(49, -1, -1), frames=1) == found[::-1], "a number is a clip, whatever was drawn before"


def test_whole_files_are_drawn_as_if_none_were_broken(pictures):
    broken = prompts(Folder(pictures), range(50), frames=1)
    for number in (1, 3):
        image(pictures / f"{number}.png", (1.0, 0.0, 0.0))
    mended = prompts(Folder(pictures), range(50), frames=1)
    assert all(a == b for a, b in zip(broken, mended, strict=True) if b not in "13")


def test_where_every_file_is_broken_it_ends(pictures):
    for number in (0, 2, 4):
        file = pictures / f"{number}.png"
        file.write_bytes(file.read_bytes()[:3000])
    with pytest.raises(InputError, match="expected videos or images that can be read, found 5 that cannot"):
        Folder(pictures).clip(0, 64, 64, 1, FPS)


# ---- what is left out, and forms


def test_what_is_left_out_is_named_with_its_reason(four, tmp_path):
    (four / "broken.mp4").write_bytes(b"nothing")
    (four / "broken.txt").write_text("a caption")
    folder = Folder(four)
    folder.name_short([(FRAMES, FPS), (100, FPS)])
    folder.write_left_out(tmp_path / "left_out.csv")
    with (tmp_path / "left_out.csv").open(newline="", encoding="utf-8") as stream:
        rows = {Path(row["file"]).name: row["reason"] for row in csv.DictReader(stream)}
    assert rows.keys() == {"nameless.mp4", "nameless.png", "broken.mp4", "blue.PNG", "grey.jpg"}
    assert rows["nameless.mp4"] == "no caption" and "FFmpeg can decode" in rows["broken.mp4"]
    assert rows["blue.PNG"] == "a picture; the shortest clip that is drawn takes 0.38 s"
    folder.name_short([(100, FPS)])
    assert folder.left_out[four / "red.mp4"] == "1.00 s; the shortest clip that is drawn takes 12.38 s"
    folder.left_out.clear()
    folder.write_left_out(tmp_path / "left_out.csv")
    assert not (tmp_path / "left_out.csv").exists()


def test_what_turns_out_to_be_broken_is_named_too(four, monkeypatch):
    folder = Folder(four)

    def broken(*_):
        raise InputError("the image file", "a whole one", "half of one", "Replace it.")

    monkeypatch.setattr("i2vgen_core.training.data.read_image", broken)
    prompts(folder, range(8), frames=1)
    assert "half of one" in folder.left_out[four / "more" / "blue.PNG"]


@pytest.mark.parametrize(
    "size, form, expected",
    [
        ((448, 256), "landscape", (448, 256)),
        ((448, 256), "portrait", (256, 448)),
        ((448, 256), "square", (320, 320)),
        ((640, 368), "square", (480, 480)),
        ((320, 320), "square", (320, 320)),
        ((320, 320), "portrait", (320, 320)),
    ],
)
def test_sizes_of_other_forms(size, form, expected):
    assert of_form(size, form) == expected
    assert size[0] * size[1] >= expected[0] * expected[1]


def test_clips_keep_their_form(tmp_path):
    for name, (width, height) in {"wide": (160, 90), "tall": (90, 160), "even": (110, 100)}.items():
        Image.new("RGB", (width, height), "red").save(tmp_path / f"{name}.png")
        (tmp_path / f"{name}.txt").write_text(name)
    expected = {"wide": (128, 64), "tall": (64, 128), "even": (64, 64)}
    seen = {}
    for number in range(30):
        clips = draw_clips(Folder(tmp_path, buckets=True), [ClipShape(1, clips=2)], (128, 64), number, 0)
        for clip in clips:
            seen.setdefault(clip.prompt, set()).add((clip.frames.shape[2], clip.frames.shape[1]))
    assert seen == {name: {size} for name, size in expected.items()}
    plain = Folder(tmp_path)
    assert {plain.size(number, 128, 64) for number in range(30)} == {(128, 64)}
