"""Videos of the networks beside the cascade's, from the library and the command line, and what is said of wrong inputs."""

import json
import shutil
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
import toy
from safetensors.torch import load_file

from i2vgen_core.__main__ import main
from i2vgen_core.cascade import Cascade
from i2vgen_core.checkpoints.scaffold import scaffold
from i2vgen_core.errors import InputError
from i2vgen_core.family import Driving, animate, compose, pose_pictures
from i2vgen_core.media.guides import Guides
from i2vgen_core.media.images import write_image
from i2vgen_core.poses.keypoints import poses_of_whole_body
from i2vgen_core.sampling.options import AnimateOptions, BaseOptions, RefineOptions

FOLDER = toy.GOLDEN / "unianimate"
POINTS = load_file(FOLDER / "pose.safetensors")
SMALL = BaseOptions(width=64, height=64, frames=2, steps=1, seed=3)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("family")
    for kind in ("tft2v_composer", "videolcm_composer", "animate_x"):
        scaffold(folder / kind, toy.SIZE, base=kind)
    return folder


def pictures(frames, seed=0):
    return torch.rand(frames, 40, 56, 3, generator=torch.Generator().manual_seed(seed))


def poses():
    driving = poses_of_whole_body(POINTS["keypoints"], 640, 360)
    return driving, poses_of_whole_body(POINTS["reference_keypoints"][None], 600, 900)


def test_what_is_followed_changes_the_video(folders):
    cascade = Cascade(folders / "tft2v_composer")
    latents = [
        compose(cascade, "a fox", guides, SMALL)
        for guides in (None, Guides(depth=pictures(2)), Guides(depth=pictures(2, 1)))
    ]
    assert latents[0].shape == (2, 4, 8, 8)
    assert all(toy.error(one, other) > 1e-2 for one, other in pairwise(latents))
    assert toy.error(compose(cascade, "a fox", None, SMALL, look=pictures(1)), latents[0]) > 1e-3


def test_few_steps_read_no_negative(folders):
    cascade = Cascade(folders / "videolcm_composer")
    steps = []
    options = replace(SMALL, steps=None)
    compose(cascade, "a fox", None, options, callback=lambda step, total, *_: steps.append((step, total)))
    assert steps == [(0, 4), (1, 4), (2, 4), (3, 4)]
    for wrong in ({"negative": "blurry"}, {"guidance": 9.0}, {"eta": 0.5}, {"solver": "unipc"}):
        with pytest.raises(InputError, match="a sampler of its own"):
            compose(cascade, "a fox", None, replace(options, **wrong))


def test_a_base_is_no_composer_and_a_composer_no_base(folders):
    with pytest.raises(InputError, match="expected a composer or text to video, found i2vgen_xl"):
        compose(Cascade(), "a fox")
    with pytest.raises(InputError, match="expected a base, found tft2v_composer"):
        Cascade(folders / "tft2v_composer")(pictures(1), "a fox", SMALL)


def test_a_person_follows_poses(folders):
    cascade, (driving, reference) = Cascade(folders / "animate_x"), poses()
    drawn = pose_pictures(driving, reference)
    assert drawn.shape == (4, 768, 512, 3)
    options = AnimateOptions(width=64, height=64, frames=3, steps=1)
    moves = Driving(pictures(3), driving)
    made = animate(cascade, pictures(1), drawn, options, mode="first frame", driving=moves)
    assert made.shape == (3, 4, 8, 8) and made.isfinite().all()
    other = animate(cascade, pictures(1, 5), drawn, options, mode="first frame", driving=moves)
    assert toy.error(made, other) > 1e-3
    with pytest.raises(InputError, match="body points, for animate_x"):
        animate(cascade, pictures(1), drawn, options)
    with pytest.raises(InputError, match="the reference's first"):
        animate(cascade, pictures(1), drawn[:1], options, driving=moves)


@pytest.fixture
def files(tmp_path):
    """Pictures of two frames, and a mask."""
    for name in ("a_0.png", "a_1.png"):
        write_image(tmp_path / name, pictures(1)[0])
    write_image(tmp_path / "mask.png", (pictures(1, 2)[0] > 0.5).float())
    return tmp_path


def test_the_command_composes(folders, files, caplog):
    out = files / "out.mp4"
    small = ["--width", 64, "--height", 64, "--frames", 2, "--steps", 1, "--device", "cpu"]
    more = [
        "--sketch",
        files / "a_*.png",
        "--masked",
        files / "a_0.png",
        files / "a_1.png",
        "--mask",
        files / "mask.png",
    ]
    command = ["compose", "--model", folders / "tft2v_composer", "--prompt", "a fox", "--out", out, *small, *more]
    assert main([str(word) for word in command]) == 0
    assert out.stat().st_size > 0
    assert main([str(word) for word in [*command, "--single-sketch", files / "none.png"]]) == 2
    assert "none.png" in caplog.text


def test_the_command_animates(folders, files, caplog):
    keypoints = []
    for points in POINTS["keypoints"]:
        neck = torch.cat([points[5:7, :2].mean(0), points[5:7, 2:].amin(0)])
        order = (0, None, 6, 8, 10, 5, 7, 9, 12, 14, 16, 11, 13, 15, 2, 1, 4, 3)
        body = torch.stack([neck if number is None else points[number] for number in order])
        person = {"pose_keypoints_2d": body.flatten().tolist()}
        keypoints.append({"canvas_width": 640, "canvas_height": 360, "people": [person]})
    (files / "keypoints.json").write_text(json.dumps(keypoints), encoding="utf-8")
    (files / "reference.json").write_text(json.dumps(keypoints[:1]), encoding="utf-8")
    for frame in range(3):
        write_image(files / f"d_{frame}.png", pictures(1, frame)[0])
    small = ["--width", 64, "--height", 64, "--steps", 1, "--device", "cpu", "--mode", "first frame"]
    said = ["--keypoints", files / "keypoints.json", "--reference-keypoints", files / "reference.json"]
    command = [
        "animate",
        "--model",
        folders / "animate_x",
        "--image",
        files / "a_0.png",
        "--out",
        files / "out.mp4",
        *small,
    ]
    assert main([str(word) for word in [*command, *said, "--driving", files / "d_*.png"]]) == 0
    assert (files / "out.mp4").stat().st_size > 0
    assert main([str(word) for word in command]) == 2
    assert "--reference-keypoints" in caplog.text
    (files / "reference.json").write_text("{", encoding="utf-8")
    assert main([str(word) for word in [*command, *said]]) == 2
    assert "a JSON file of keypoints" in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["tft2v_composer", "animate_x", "text2video"])
def test_a_refinement_is_what_it_is_after_a_base(tmp_path, kind):
    """The same frames and noise give the same bits, whatever network is in the folder's unet/ and has run."""
    scaffold(tmp_path / "base", toy.SIZE)
    shutil.copytree(tmp_path / "base", tmp_path / "other", ignore=shutil.ignore_patterns("unet"))
    scaffold(tmp_path / "kind", toy.SIZE, base=kind)
    (tmp_path / "kind" / "unet").rename(tmp_path / "other" / "unet")
    base, cascade = Cascade(tmp_path / "base"), Cascade(tmp_path / "other")
    if kind == "animate_x":
        driving, reference = poses()
        options, moves = AnimateOptions(width=64, height=64, frames=3, steps=1), Driving(pictures(3), driving)
        latent = animate(cascade, pictures(1), pose_pictures(driving, reference), options, driving=moves)
    else:
        latent = compose(cascade, "a fox", None, SMALL)
    refine = RefineOptions(width=64, height=80, steps=1, seed=5)
    refined = [
        each.sample_refiner(each.encode_video(each.decode(latent), refine), "a fox", refine) for each in (cascade, base)
    ]
    assert refined[0].isfinite().all() and torch.equal(*refined)
