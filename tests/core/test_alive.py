"""The world of animated emoji, on pictures made up here: what is prepared, drawn, said, encoded and judged."""

from __future__ import annotations

import json
import random
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from i2vgen_core import assets
from i2vgen_core.__main__ import main
from i2vgen_core.errors import InputError
from i2vgen_core.media.images import read_image, write_image
from i2vgen_core.sampling.options import BaseOptions
from i2vgen_core.training import cache, prepare
from i2vgen_core.training import judge as judging
from i2vgen_core.training.alive import (
    MOVES,
    TRAVEL,
    Alive,
    Ground,
    Scene,
    Thing,
    caption,
    opposite,
    render,
    sample_scene,
    subject,
)
from i2vgen_core.training.diffusion import ClipShape, Encoders
from i2vgen_core.training.emoji import FPS, EmojiFolder, kept, plain_name, split_of
from i2vgen_core.training.judge import CRITERIA, Judge, moves_as_told, ssim, trial, whole_moves
from i2vgen_core.training.photos import Photos
from i2vgen_core.training.words import action, agreed, noun

GREY = (0.5, 0.5, 0.5)
PLAIN = Ground("plain", (GREY, GREY, GREY), 0)
NAMES = {
    "1f418": "elephant",
    "1f44b": "waving-hand",
    "1f44b-1f3fe": "waving-hand-medium-dark",
    "1f680": "rocket",
    "1f34c": "banana",
    "1f3f3": "white-flag",
}
GROUPS = {
    "Animals & Nature": ["elephant"],
    "People & Body": ["waving-hand", "waving-hand-medium-dark"],
    "Travel & Places": ["rocket"],
    "Food & Drink": ["banana"],
    "Flags": ["white-flag"],
}


def picture(red: int, left: int) -> Image.Image:
    """A half-transparent disc-less square on nothing, 256x256."""
    image = Image.new("RGBA", (256, 256))
    image.paste((red, 60, 20, 255), (left, 64, left + 128, 192))
    image.paste((red, 60, 20, 128), (left, 192, left + 128, 208))
    return image


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A prepared folder, made of packages as npm has them."""
    packages = tmp_path_factory.mktemp("packages")
    animations, names = packages / "one" / "assets", packages / "names"
    animations.mkdir(parents=True)
    names.mkdir()
    for number, code in enumerate(NAMES):
        frames = [picture(250 - 30 * number, 32 + 32 * i) for i in range(4 if code != "1f34c" else 1)]
        frames[0].save(
            animations / f"{code}-fe0f.webp" if code == "1f680" else animations / f"{code}.webp",
            lossless=True,
            save_all=True,
            append_images=frames[1:],
            duration=42,
        )
    (names / "chars.json").write_text(json.dumps(NAMES))
    (names / "metadata.json").write_text(json.dumps({"categories": GROUPS}))
    out = tmp_path_factory.mktemp("world")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prepare, "PHOTOGRAPHS", {})  # those of packages that happen to be installed
        assert prepare.main([str(packages), str(out)]) == 0
    (out / "photos").mkdir(exist_ok=True)
    for name in ("held_out_cat.png", "china.png"):
        write_image(out / "photos" / name, torch.rand(120, 200, 3, generator=torch.Generator().manual_seed(len(name))))
    return out


@pytest.fixture(scope="module")
def emoji(folder) -> EmojiFolder:
    return EmojiFolder(folder)


def thing(**changes) -> Thing:
    return replace(Thing("1f418", 0.8, 0.0, 0.0), **changes)


class TestPrepare:
    def test_what_is_no_thing_is_left_out_and_codes_are_matched(self, emoji):
        files = {each.code for each in emoji.emoji if each.group != "Shapes"}
        assert files == {"1f418", "1f44b", "1f44b-1f3fe", "1f680-fe0f", "1f34c"}
        assert emoji["1f44b-1f3fe"].name == "waving hand"
        assert emoji["1f418"].frames == 4
        assert not kept("seven-thirty", "Travel & Places")

    def test_one_tone_and_a_tenth_of_the_names_are_held_out(self, emoji):
        assert emoji["1f44b-1f3fe"].split == "held_out"
        splits = {name: split_of("1f600", name) for name in map(str, range(500))}
        assert 30 <= sum(split == "held_out" for split in splits.values()) <= 70
        assert split_of("1f469", "woman-cook") == split_of("1f468", "man-cook")

    def test_names_lose_their_tone_alone(self):
        assert plain_name("waving-hand-medium-dark", "1f44b-1f3fe") == "waving hand"
        assert plain_name("new-moon-dark", "1f311") == "new moon dark"

    def test_frames_are_premultiplied_and_some_are_decoded(self, emoji):
        frames = emoji.frames("1f418")
        assert frames.shape == (4, 256, 256, 4)
        assert (frames[..., :3] <= frames[..., 3:]).all()
        assert frames[0, 200, 64].tolist() == pytest.approx([125, 30, 10, 128], abs=1)
        assert torch.equal(emoji.still("1f418", 0.5), frames[2])

    def test_shapes_are_there_too(self, emoji):
        shapes = [each for each in emoji.emoji if each.group == "Shapes"]
        assert len(shapes) == 50
        assert {each.split for each in shapes} == {"train", "held_out"}
        frames = emoji.frames("shape-red-ring")
        assert frames.shape == (1, 256, 256, 4)
        assert (frames[..., :3] <= frames[..., 3:]).all()
        assert frames[0, 128, 128].tolist() == [0, 0, 0, 0]
        red, green, _, alpha = frames[0, 128, 128 - 97].tolist()
        assert alpha == 255
        assert red > 2 * green
        assert torch.equal(emoji.still("shape-red-ring", 0.9), frames[0])

    def test_photographs_of_installed_packages_are_copied(self, tmp_path, monkeypatch):
        data = tmp_path / "packages" / "skimage" / "data"
        data.mkdir(parents=True)
        (data.parent / "__init__.py").touch()
        for name in ("coffee.png", "coins.png", "other.png"):
            (data / name).write_bytes(b"picture")
        monkeypatch.setattr(sys, "path", [str(tmp_path / "packages"), *sys.path])
        (tmp_path / "world" / "photos").mkdir(parents=True)
        (tmp_path / "world" / "photos" / "mine.jpg").touch()
        prepare.copy_photographs(tmp_path / "world")
        there = {file.name for file in (tmp_path / "world" / "photos").iterdir()}
        assert {"held_out_coffee.png", "coins.png", "mine.jpg"} <= there
        assert "other.png" not in there

    def test_a_folder_without_the_packages_is_said(self, tmp_path, caplog):
        assert prepare.main([str(tmp_path), str(tmp_path / "out")]) == 2
        assert "fluent-emoji-anim-1" in caplog.text


class TestWords:
    @pytest.mark.parametrize(
        ("name", "said"),
        [
            ("elephant", "an elephant"),
            ("french fries", "french fries"),
            ("unicorn", "a unicorn"),
            ("rhinoceros", "a rhinoceros"),
            ("woman running", "a woman"),
            ("waving hand", "a hand"),
        ],
    )
    def test_things_have_their_article(self, name, said):
        assert noun(name) == said

    def test_verbs_agree(self):
        assert agreed("does not move", "french fries") == "do not move"
        assert agreed("slides left", "socks") == "slide left"
        assert agreed("slides left", "woman lifting weights") == "slides left"

    def test_what_it_does_is_said(self):
        said = {action(random.Random(i), "elephant", "Animals & Nature") for i in range(40)}
        assert "flaps its ears" in said
        assert action(random.Random(1), "man running", "People & Body") == "runs"


class TestScenes:
    def test_a_seed_is_a_scene_and_splits_share_no_emoji(self, emoji, folder):
        photos = Photos(folder)
        drawn = {}
        for split in ("train", "held_out"):
            scenes = [sample_scene(emoji, i, split, photos) for i in range(60)]
            assert scenes == [sample_scene(emoji, i, split, photos) for i in range(60)]
            drawn[split] = {each.code for scene in scenes for each in scene.things}
            assert any(not scene.things for scene in scenes)
        assert not drawn["train"] & drawn["held_out"]

    @pytest.mark.parametrize("move", ["left", "up", "clockwise", "growing"])
    def test_the_opposite_begins_alike_and_ends_otherwise(self, emoji, move):
        scene = Scene((thing(move=move),), PLAIN)
        first, second = (render(emoji, each, 96, 56, 2, 1).frames for each in (scene, opposite(scene)))
        assert torch.equal(first[0], second[0])
        assert (first[1] - second[1]).abs().mean() > 0.01
        words = caption(emoji, scene, 3), caption(emoji, opposite(scene), 3)
        assert words[0] != words[1]
        assert words[0].split()[:2] == words[1].split()[:2] == ["An", "elephant"]

    def test_what_has_no_opposite_is_said(self, emoji):
        with pytest.raises(InputError, match="opposite"):
            opposite(Scene((thing(),), PLAIN))

    @pytest.mark.parametrize("move", MOVES[:5])
    @pytest.mark.parametrize("speed", ["slowly", "quickly"])
    def test_a_thing_goes_as_far_as_it_is_told(self, emoji, move, speed):
        scene = Scene((thing(size=0.4, move=move, speed=speed),), PLAIN)
        clip = render(emoji, scene, 96, 56, 3, 2)
        mass = clip.masks[:, 0]
        y, x = torch.meshgrid(torch.arange(56.0), torch.arange(96.0), indexing="ij")
        places = torch.stack([(mass * axis).sum((1, 2)) / mass.sum((1, 2)) for axis in (x, y)], dim=1) / 56
        moved = places[-1] - places[0]
        direction = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1), "still": (0, 0)}[move]
        assert moved.tolist() == pytest.approx([TRAVEL[speed] * each for each in direction], abs=0.01)
        assert moves_as_told(mass > 0.5, scene)

    def test_pictures_lie_over_the_ground_by_their_alpha(self, emoji):
        clip = render(emoji, Scene((thing(),), PLAIN), 96, 56, 1, 8)
        cover = clip.masks[0, 0, ..., None]
        grey = torch.full_like(clip.frames[0], 0.5)
        assert torch.equal(clip.frames[0][cover[..., 0] == 0], grey[cover[..., 0] == 0])
        inside = clip.frames[0][cover[..., 0] > 0.999]
        assert len(inside) > 100
        assert torch.allclose(inside, torch.tensor([250, 60, 20]) / 255, atol=0.01)

    def test_the_one_in_front_hides_the_other(self, emoji):
        behind = thing(code="1f680-fe0f")
        masks = render(emoji, Scene((thing(), behind), PLAIN), 96, 56, 1, 8).masks[0]
        assert masks[0].sum() > 100
        assert masks[1].sum() < masks[0].sum() / 10, "but for where the one in front is half transparent"

    def test_its_own_motion_is_its_files(self, emoji):
        scene = Scene((thing(alive=True),), PLAIN)
        clip = render(emoji, scene, 96, 56, 5, FPS)
        columns = (clip.masks[:, 0] > 0.5).float().argmax(-1).amax(-1)
        assert columns[:4].diff().min() > 3, "a frame of 24 a second each"
        assert torch.equal(clip.frames[4], clip.frames[0]), "from the first again"
        stays = render(emoji, replace(scene, things=(thing(),)), 96, 56, 3, FPS).frames
        assert torch.equal(stays[0], stays[2])

    def test_a_camera_to_the_left_moves_the_picture_to_the_right(self, emoji):
        ground = Ground("hills", ((0.5, 0.7, 1), (0.4, 0.5, 0.4), (0.2, 0.6, 0.2)), 5)
        clip = render(emoji, Scene((thing(),), ground, "left", "quickly"), 112, 56, 2, 1)
        step = round(0.22 * 56)
        assert (clip.frames[1][:, step:] - clip.frames[0][:, :-step]).abs().mean() < 0.02
        assert (clip.frames[1] - clip.frames[0]).abs().mean() > 0.05

    def test_a_photograph_is_near_or_far_and_of_its_split(self, emoji, folder):
        photos = Photos(folder)
        assert photos.count("train") == photos.count("held_out") == 1
        number = photos.draw(random.Random(0), "held_out")
        assert photos.files[number % 1000].name == "held_out_cat.png"
        scene = Scene((), Ground("photo", (GREY, GREY, GREY), number, 0.5), "in")
        frames = render(emoji, scene, 96, 56, 2, 1, photos).frames
        assert frames.std() > 0.05
        assert not torch.equal(frames[0], frames[1])
        assert "zooms in" in caption(emoji, scene, 1)
        assert subject(emoji, scene) == "a photograph"

    def test_the_source_says_what_it_shows(self, folder):
        world = Alive.at(folder)
        sample = world.clip(3, 96, 56, 2, 8)
        assert sample.frames.shape == (2, 56, 96, 3)
        assert sample.prompt[0].isupper()
        assert world.picture(3, 96, 56).shape == (56, 96, 3)
        assert Alive.at(folder, seed=1).clip(3, 96, 56, 2, 8).prompt != sample.prompt


@pytest.fixture(scope="module")
def encoded(folder, tmp_path_factory) -> Path:
    """Clips of 64x64 and 4 frames, encoded."""
    out = tmp_path_factory.mktemp("clips")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cache, "_SHARD", 4)
        cache.encode(Alive.at(folder, 2), Encoders(assets.FOLDER), out, 8, (64, 64), 4, (8, 16))
    return out


class TestCache:
    def test_parts_are_those_of_the_clips(self, encoded):
        clips = cache.Cached(encoded)
        drawn = clips.draw([ClipShape(2, (8,), 4)], (64, 64), 0, 0)
        assert drawn.latents.shape == (4, 2, 4, 8, 8)
        assert drawn.image.shape[:2] == (4, 1)
        assert set(drawn.fps.tolist()) == {8.0}
        again = cache.Cached(encoded).draw([ClipShape(2, (8,), 4)], (64, 64), 0, 0)
        assert torch.equal(drawn.latents, again.latents)
        assert drawn.prompts == again.prompts

    def test_backwards_the_opposite_is_said(self, encoded):
        content = json.loads((encoded / cache.LISTING).read_text())
        number, row = next((i, r) for i, r in enumerate(content["clips"]) if r["backwards"] not in ("", r["prompt"]))
        clips = cache.Cached(encoded)
        parts = [clips._part(random.Random(i), ClipShape(4, (row["fps"],)), number) for i in range(20)]
        seen = {prompt: latents for latents, _, prompt, _ in parts}
        assert set(seen) == {row["prompt"], row["backwards"]}
        assert torch.equal(seen[row["prompt"]], seen[row["backwards"]].flip(0))

    def test_a_base_is_trained_on_them(self, encoded, tmp_path):
        recipe = tmp_path / "base.json"
        shapes = [{"frames": 2, "fps": [8], "clips": 1}]
        recipe.write_text(
            json.dumps({"width": 64, "height": 64, "shapes": shapes, "loop": {"steps": 1, "precision": "bf16"}})
        )
        places = ["--model", str(assets.FOLDER), "--run", str(tmp_path / "run"), "--data", str(encoded)]
        assert main(["train", "base", "--config", str(recipe), *places]) == 0
        assert (tmp_path / "run" / "unet" / "config.json").is_file()

    def test_other_sizes_and_longer_clips_are_refused(self, encoded):
        clips = cache.Cached(encoded)
        with pytest.raises(InputError, match="64x64"):
            clips.draw([ClipShape(2)], (96, 64), 0, 0)
        with pytest.raises(InputError, match="at most 4"):
            clips.draw([ClipShape(5)], (64, 64), 0, 0)

    def test_what_is_there_is_kept(self, encoded, folder, monkeypatch):
        monkeypatch.setattr(cache, "_SHARD", 4)
        before = {file: file.stat().st_mtime_ns for file in encoded.glob("*.safetensors")}
        cache.encode(Alive.at(folder, 2), Encoders(assets.FOLDER), encoded, 8, (64, 64), 4, (8, 16))
        assert before == {file: file.stat().st_mtime_ns for file in encoded.glob("*.safetensors")}
        assert len(before) == 2

    def test_more_moves_are_told_by_picture_and_words(self, folder, monkeypatch, tmp_path):
        monkeypatch.setattr(cache, "_SHARD", 4)
        cache.encode(Alive.at(folder, 2), Encoders(assets.FOLDER), tmp_path, 4, (64, 64), 2, (8,), moves=4)
        rows = json.loads((tmp_path / cache.LISTING).read_text())["clips"]
        assert len(rows) == 8
        assert all(row["backwards"] not in ("", row["prompt"]) for row in rows[4:])
        assert len({row["prompt"] for row in rows}) == 8


class TestJudge:
    def test_similarity_is_one_for_the_same(self):
        frames = torch.rand(2, 16, 16, 3, generator=torch.Generator().manual_seed(0))
        assert ssim(frames, frames) == pytest.approx(1)
        assert ssim(frames, frames.flip(1)) < 0.3

    @pytest.fixture
    def judge(self, folder, monkeypatch):
        class Known(Judge):
            def video(self, case, options=None):
                return self.made(case)

        world = Alive.at(folder, 7, "train")
        judge = Known.__new__(Known)
        judge.__dict__.update(world=world, known=world, size=(96, 56), frames=8, rows=[], options=BaseOptions())
        judge.scores = {name: [] for name in CRITERIA}
        return judge

    def test_the_truth_reaches_every_aim(self, judge):
        judge.made = lambda case: case.truth.frames
        judge.base(range(8), range(3), range(2))
        verdicts = {name: figure.verdict for name, figure in judge.figures.items() if name != "few_steps"}
        assert len(verdicts) >= 9
        assert set(verdicts.values()) <= {"aim", ""}
        assert judge.sheet().shape[1] == 6 * 96

    def test_a_still_picture_obeys_nothing(self, judge):
        judge.made = lambda case: case.truth.frames[:1].expand_as(case.truth.frames)
        judge.base(range(12), range(3), range(2))
        figures = judge.figures
        assert figures["frame_0"].verdict == "aim"
        assert figures["opposites"].value == 0
        assert figures["own"].value == 0
        assert figures["direction"].value < 50

    def test_trials_have_one_thing_before_a_ground_that_stands(self, judge):
        number, scene = next(whole_moves(judge.world))
        case = trial(judge.world, number, scene, (96, 56), 2)
        hidden = case.truth.masks.amax((0, 1)) > 0
        assert torch.equal(case.ground[0][~hidden], case.truth.frames[1][~hidden])
        assert (case.shows(case.truth.frames)[0] & ~hidden).sum() == 0

    def test_evaluate_tries_so_many_of_each_sort(self, folder, monkeypatch, capsys, tmp_path):
        """A cascade that shows the truth, but for few steps, through the command."""
        release = SimpleNamespace(width=96, height=56, frames=4)
        vae = SimpleNamespace(encode=lambda frames: frames)
        unet = SimpleNamespace(config=SimpleNamespace(kind="i2vgen_xl"))
        base = SimpleNamespace(release=release, unet=unet)
        stub = SimpleNamespace(base=base, vae=vae, decode=lambda latent, **_: latent)
        monkeypatch.setattr("i2vgen_core.commands.evaluate.Cascade", lambda *_, **__: stub)
        monkeypatch.setattr(Judge, "video", lambda self, case, options=None: case.truth.frames)
        sheet, figures = tmp_path / "sheet.png", tmp_path / "figures.json"
        command = [
            "evaluate",
            "--data",
            folder,
            "--seeds",
            "0:4",
            "--refined",
            "0",
            "--sheet",
            sheet,
            "--json",
            figures,
        ]
        assert main([str(each) for each in command]) == 0
        said = json.loads(figures.read_text())["figures"]
        assert [len(said[name]["values"]) for name in ("vae", "vae_photos", "clip", "own", "photos")] == [4, 2, 4, 2, 1]
        table = capsys.readouterr().out
        assert "| VAE alone, held-out pictures, PSNR | 100.0 dB | 30 dB or more | 33 dB or more | aim | 4 |" in table
        assert read_image(sheet).shape[2] == 6 * 96

    def test_the_papers_ablations_are_of_the_other_world(self, folder, caplog):
        assert main(["evaluate", "--data", str(folder), "--ablations"]) == 2
        assert "--ablations: expected the world of shapes" in caplog.text

    def test_numbers_are_those_of_scenes(self):
        assert list(judging._picked(iter("abcdef"), range(2, 4))) == ["c", "d"]
        assert list(judging._picked(iter("abc"), range(0))) == []
