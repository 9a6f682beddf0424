"""Training of a composer and of a base of few steps, at the smallest sizes, and what is measured of them."""

import json
from dataclasses import replace

import pytest
import torch
import toy
from safetensors.torch import load_file
from torch.nn import functional

from i2vgen_core.__main__ import main
from i2vgen_core.cascade import Cascade
from i2vgen_core.checkpoints.load import open_base
from i2vgen_core.checkpoints.scaffold import scaffold
from i2vgen_core.config import ANIMATOR_STEMS, COMPOSER_STEMS
from i2vgen_core.directing import hold_last
from i2vgen_core.errors import InputError
from i2vgen_core.media.rendering import render
from i2vgen_core.media.world import Background, Scene, Shape, sample_scene
from i2vgen_core.poses.keypoints import BODY
from i2vgen_core.sampling.options import BaseOptions
from i2vgen_core.sampling.schedules import schedule_for
from i2vgen_core.training import distil
from i2vgen_core.training.begun import begin
from i2vgen_core.training.followed import followed
from i2vgen_core.training.stages import STAGES, TrainingJob
from i2vgen_core.training.students import beside_teacher
from i2vgen_core.training.truths import depth, flow, hole, sketch
from i2vgen_core.training.walkers import points, sample_walker
from i2vgen_core.training.walkers import render as render_walker

WEIGHTS = "unet/diffusion_pytorch_model.safetensors"
PLAIN = Background("checks", ("cream", "cream"), 20.0, 0.3, (0.1, 0.2))


def shape(motion, **other):
    return Shape(
        **{"kind": "square", "colour": "red", "texture": "striped", "size": 0.3, "angle": 10.0, **other}, motion=motion
    )


@pytest.mark.parametrize("motion", ["right", "up", "clockwise", "shrinking"])
def test_flow_brings_the_frame_before_to_this_one(motion):
    scene = Scene((shape(motion, x=0.45, y=0.55, speed="quickly"),), PLAIN, 0.075 if motion == "shrinking" else 0.0)
    clip = render(scene, 256, 128, 3, 8)
    moved = flow(scene, clip)
    y, x = torch.meshgrid(torch.arange(128) + 0.5, torch.arange(256) + 0.5, indexing="ij")
    places = (torch.stack((x, y), -1) - moved) / torch.tensor((256, 128)) * 2 - 1
    warped = functional.grid_sample(clip.frames[:-1].movedim(-1, 1), places, align_corners=False).movedim(1, -1)
    inside = (
        functional.max_pool2d(1 - clip.masks[1:], 5, 1, 2)[:, 0] == 0  # away from edges, which uncover what was hidden
    )
    off, before = ((each - clip.frames[1:]).abs().mean(-1) for each in (warped, clip.frames[:-1]))
    assert off[inside].mean() < 0.25 * before[inside].mean()
    if scene.pan:  # at the right nothing is known
        ground = clip.masks[1:].sum(1) + clip.masks[:-1].sum(1) == 0
        assert off[..., :240][ground[..., :240]].mean() < 0.5 * before[..., :240][ground[..., :240]].mean()


def test_depth_is_the_order_of_the_layers_and_a_sketch_their_edges():
    front, behind = (
        shape("still", x=0.4, y=0.5, speed="slowly", texture="flat"),
        shape("still", x=0.6, y=0.5, speed="slowly"),
    )
    clip = render(Scene((front, behind), Background("plain", ("cream", "cream"), 0, 1, (0, 0))), 128, 64, 1, 8)
    near = depth(clip)[0, :, :, 0]
    assert near[32, 51] == 1 and near[32, 90] == 0.5 and near[2, 2] == 0
    lines = sketch(clip.frames)[0, :, :, 0]
    assert lines.max() == 1 and lines[2, 2] < 0.01 and lines[32, 51] < 0.01
    assert 0.2 < hole(64, 128, 3).mean() < 0.5 and not torch.equal(hole(64, 128, 3), hole(64, 128, 4))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model") / "base"
    scaffold(folder, toy.SIZE)
    resettle(folder, width=64, height=64, frames=2, fps=8, steps=1, guidance=2.0)
    return folder


def resettle(folder, **release):
    file = folder / "unet" / "config.json"
    settings = json.loads(file.read_text())
    file.write_text(json.dumps(settings | {"release": settings.get("release", {}) | release}))


def trained(model, folder, **recipe):
    """A copy of the model with what two steps have made of its base."""
    folder.mkdir(exist_ok=True)
    settings = {"width": 64, "height": 64, "shapes": [{"frames": 2, "fps": [8], "clips": 2}]}
    loop = {"steps": 2, "log_every": 1, "learning_rate": 1e-2, "warmup": 1}
    file = folder / "recipe.json"
    file.write_text(json.dumps(settings | {"loop": loop | recipe.pop("loop", {})} | recipe))
    scaffold(folder / "out", toy.SIZE)
    for part in (folder / "out" / "unet").iterdir():
        part.unlink()
    (folder / "out" / "unet").rmdir()
    return TrainingJob(model, str(file), folder / "run", out=folder / "out", dtype="fp32")


def test_a_composer_begins_as_the_base(model):
    base = open_base(model / "unet").build_network().requires_grad_(False)
    network = begin(base, "tft2v_composer", COMPOSER_STEMS, fps=8).requires_grad_(False)
    generator = torch.Generator().manual_seed(1)
    x, details = (torch.randn(2, 4, 8, 8, generator=generator) for _ in range(2))
    context = torch.randn(1, 5, base.config.context_dim, generator=generator)
    timesteps = torch.tensor([400])
    expected = base(x, timesteps, context, 2, torch.tensor([8.0]), details)
    beside = torch.cat([details, torch.zeros_like(details)], dim=1)
    assert toy.error(network(x, timesteps, context, 2, details=beside), expected) < 1e-5


@pytest.fixture(scope="module")
def composer(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("compose")
    before = (model / WEIGHTS).read_bytes()
    STAGES["compose"](trained(model, folder, keep=1.0, looks=1.0))
    assert (model / WEIGHTS).read_bytes() == before
    return folder / "out"


@pytest.mark.slow
class TestCompose:
    def test_it_is_one_that_its_guides_are_measured_of(self, composer, capsys):
        cascade = Cascade(composer)
        release = cascade.base.release
        assert cascade.base.unet.config.kind == "tft2v_composer"
        assert (release.width, release.frames, release.steps, release.prompt_suffix) == (64, 2, 1, "")
        figures = followed(cascade, [next(seed for seed in range(99) if travels(seed))]).figures
        assert all(len(figure.values) == 1 for figure in figures.values())
        assert figures["depth"].value != 0 and figures["flow"].value in (0, 100)
        assert main(["evaluate", "--model", str(composer), "--seeds", "0:1", "--steps", "1"]) in (0, 1)
        assert "with depth: nearer" in capsys.readouterr().out

    def test_it_is_trained_further(self, composer, tmp_path):
        job = trained(composer, tmp_path, loop={"steps": 1, "learning_rate": 1e-6})
        STAGES["compose"](job)
        before, after = (load_file(folder / WEIGHTS) for folder in (composer, job.out))
        assert before.keys() == after.keys() and all(toy.error(after[key], before[key]) < 1e-2 for key in before)

    def test_every_stem_has_learnt(self, model, composer):
        start = begin(open_base(model / "unet").build_network(), "tft2v_composer", COMPOSER_STEMS, fps=8).state_dict()
        network = open_base(composer / "unet").build_network().state_dict()
        for name in ("depth", "local_image", "motion", "sketch", "single_sketch", "masked"):
            assert toy.error(network[f"{name}_embedding.0.weight"], start[f"{name}_embedding.0.weight"]) > 1e-3

    def test_a_base_is_not_written_over(self, model, tmp_path):
        for stage in ("compose", "distil"):
            job = replace(trained(model, tmp_path / stage), out=model)
            with pytest.raises(InputError, match="another folder than --model"):
                STAGES[stage](job)


class TestWalkers:
    def test_a_hand_is_drawn_where_its_point_is(self):
        """Of one who waves and faces the viewer, the right wrist has the skin's colour."""
        walker = replace(sample_walker(1), gait="waves", turn=0.0)
        frames, poses = render_walker(walker, 64, 96, 4, 8), points(walker, 4, 8, 64 / 96)
        for frame, body in zip(frames, poses.body, strict=True):
            x, y = (body[BODY.index("right wrist")] * (64, 96)).astype(int)
            assert (frame[y, x] - torch.tensor(walker.skin)).abs().max() < 0.2
            assert body[BODY.index("right wrist"), 0] < body[BODY.index("left wrist"), 0]  # as a viewer sees it

    def test_every_size_shows_the_same(self):
        walker = sample_walker(3)
        large, small = (render_walker(walker, 64 * n, 96 * n, 2, 8).movedim(-1, 1) for n in (2, 1))
        assert (functional.avg_pool2d(large, 2) - small).abs().mean() < 0.01

    def test_shirts_of_some_hues_are_held_out(self):
        shirts = {split: {sample_walker(seed, split).shirt for seed in range(200)} for split in ("train", "held_out")}
        assert len(shirts["held_out"]) == 4 and not shirts["train"] & shirts["held_out"]

    def test_the_reference_stands(self):
        walker = sample_walker(5).standing
        assert (render_walker(walker, 64, 96, 3, 8).diff(dim=0) == 0).all()


def animated(model, folder):
    """The same for an animator."""
    job = trained(model, folder)
    loop = {"steps": 2, "log_every": 1, "learning_rate": 1e-2, "warmup": 1, "precision": "bf16"}
    recipe = {"width": 64, "height": 96, "frames": 2, "clips": 2, "people": 2, "first_frame": 1.0, "loop": loop}
    (folder / "recipe.json").write_text(json.dumps(recipe))
    return job


@pytest.fixture(scope="module")
def animator(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("animate")
    STAGES["animate"](animated(model, folder))
    return folder / "out"


@pytest.mark.slow
class TestAnimate:
    def test_it_is_one_that_its_poses_are_measured_of(self, animator, capsys):
        cascade = Cascade(animator)
        release = cascade.base.release
        assert cascade.base.unet.config.kind == "unianimate"
        assert (release.width, release.height, release.frames, release.guidance) == (64, 96, 2, 2.5)
        assert main(["evaluate", "--model", str(animator), "--seeds", "0:1", "--steps", "1"]) in (0, 1)
        assert "than with those of somebody who stands" in capsys.readouterr().out

    def test_every_stem_has_learnt(self, model, animator):
        start = begin(open_base(model / "unet").build_network(), "unianimate", ANIMATOR_STEMS, fps=8).state_dict()
        network = open_base(animator / "unet").build_network().state_dict()
        for name in ("dwpose_embedding", "local_image_embedding", "randomref_embedding2", "randomref_pose2_embedding"):
            assert toy.error(network[f"{name}.0.weight"], start[f"{name}.0.weight"]) > 1e-3

    def test_other_videos_are_refused(self, model, tmp_path):
        with pytest.raises(InputError, match="bodies' points are not known"):
            STAGES["animate"](replace(animated(model, tmp_path), data=tmp_path))


def travels(seed):
    scene = sample_scene(seed, split="held_out")
    return any(scene.shapes[0].velocity) and not scene.pan


def test_the_consistency_function_is_the_identity_at_the_end():
    x, velocity = torch.randn(2, 4, 4, 4), torch.randn(2, 4, 4, 4)
    schedule = schedule_for("i2vgen_xl")
    made = distil._consistent(schedule, torch.tensor([0]), x, velocity)
    assert torch.equal(made[0], x)
    now = torch.tensor([400])
    estimate, noise = distil._parted(schedule, now, x, velocity)
    signal, sigma = schedule.signal_and_noise(400)
    assert toy.error(signal * estimate[0] + sigma * noise[0], x) < 1e-6
    assert toy.error(distil._consistent(schedule, now, x, velocity)[0], estimate[0]) < 1e-3


@pytest.fixture(scope="module")
def student(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("distil")
    STAGES["distil"](trained(model, folder, loop={"ema": 0.5}))
    return folder / "out"


@pytest.mark.slow
class TestDistil:
    def test_it_takes_four_steps_without_guidance(self, model, student):
        cascade = Cascade(student)
        assert (cascade.base.release.sampler, cascade.base.release.guidance) == ("lcm", 1)
        image, steps, options = torch.rand(1, 64, 64, 3), [], BaseOptions(seed=4)
        conditions = cascade.condition(image, "a fox", options)
        made = cascade.sample_base(conditions, options, callback=lambda step, total, *_: steps.append((step, total)))
        assert steps == [(0, 4), (1, 4), (2, 4), (3, 4)] and made.isfinite().all()
        faster = cascade.condition(image, "a fox", replace(options, fps=16))
        assert toy.error(cascade.sample_base(faster, replace(options, fps=16)), made) > 1e-4
        with pytest.raises(InputError, match="guidance is in the weights"):
            cascade.sample_base(conditions, replace(options, guidance=3.0))
        with pytest.raises(InputError, match="expected nothing for"):
            cascade.sample_base(conditions, options, held=hold_last(cascade, image, options))
        assert (
            toy.error(load_file(student / WEIGHTS)["conv_in.weight"], load_file(model / WEIGHTS)["conv_in.weight"])
            > 1e-4
        )

    def test_it_is_set_beside_its_teacher(self, model, student, capsys):
        rows, sheet = beside_teacher(Cascade(student), Cascade(model), range(1))
        assert list(rows) == ["teacher, 1 steps", "teacher, 4 steps, dpmpp_2m", "student, 4 steps"]
        assert rows["teacher, 1 steps"]["nearer than the teacher, dB"] == 0 and sheet.ndim == 3
        assert main(["evaluate", "--model", str(student), "--teacher", str(model), "--seeds", "0:1"]) in (0, 1)
        assert "student, 4 steps" in capsys.readouterr().out
        with pytest.raises(InputError, match="expected a base of few steps"):
            beside_teacher(Cascade(model), Cascade(model), range(1))

    def test_a_run_that_was_stopped_goes_on_the_same(self, model, student, tmp_path):
        """The weights that the student is to agree with are in its checkpoint."""
        job = trained(model, tmp_path, loop={"ema": 0.5})
        STAGES["distil"](replace(job, until=1))
        STAGES["distil"](job)
        assert toy.same(load_file(job.out / WEIGHTS), load_file(student / WEIGHTS))
