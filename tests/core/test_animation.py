"""Animators: the frame in front, what falls away without the person, the noised start, windows, and body points."""

from dataclasses import replace

import pytest
import torch
import toy

from i2vgen_core.config import ANIMATORS
from i2vgen_core.errors import InputError
from i2vgen_core.media.guides import masked_video, pose_frames, stretched, stretched_clip_pixels
from i2vgen_core.network.animation import Motion, Person, animation_conditions
from i2vgen_core.network.evaluation import Evaluation, Prepared
from i2vgen_core.network.hooks import Hooks
from i2vgen_core.network.pose import sine_table
from i2vgen_core.releases import RELEASES
from i2vgen_core.sampling.guidance import guided, guided_in_windows
from i2vgen_core.sampling.options import AnimateOptions
from i2vgen_core.sampling.schedules import schedule_for, strided_timesteps
from i2vgen_core.sampling.stages import AnimateStage
from i2vgen_core.sampling.windows import over_windows, window_ranges

EXACT = 1e-5
SCHEDULE = schedule_for("unianimate")


@pytest.fixture(autouse=True)
def no_grad():
    with torch.no_grad():
        yield


@pytest.fixture(scope="module")
def animators():
    return {kind: toy.network(toy.config_of(kind)) for kind in ANIMATORS}


def noise(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def person(kind="unianimate", frames=4, **others):
    motion = Motion(noise(frames + 1, 2, 18, seed=8), noise(frames + 1, 64, seed=9)) if kind == "animate_x" else None
    made = {
        "text": noise(1, 7, 64, seed=1),
        "image": noise(1, 1, 64, seed=2),
        "poses": noise(frames, 3, 64, 48, seed=3),
        "reference": noise(1, 4, 8, 6, seed=4),
        "reference_pose": noise(3, 64, 48, seed=5),
        "motion": motion,
    }
    return Person(**made | others)


def conditions(network, who=None, frames=4):
    who = who or person(network.config.kind, frames)
    return animation_conditions(network, who, [range(frames)], 8, 6)[0]


def run(network, prepared, frames=4):
    return network(noise(frames, 4, 8, 6, seed=6), torch.tensor([500]), prepared, frames)


# ---------------------------------------------------------------- the network


@pytest.mark.parametrize("kind", ANIMATORS)
@pytest.mark.parametrize("frames", [1, 4])
def test_the_frame_in_front_is_seen_by_all_and_dropped(animators, kind, frames):
    network = animators[kind]
    positive, negative = conditions(network, frames=frames)
    out = run(network, positive, frames)
    assert out.shape == (frames, 4, 8, 6) and torch.isfinite(out).all()
    noisy = noise(frames, 4, 8, 6, seed=6)
    noisy[-1] += 1
    last = network(noisy, torch.tensor([500]), positive, frames) - out
    assert last.abs().amax(dim=(1, 2, 3)).argmax() == frames - 1, "the frame in front is not what is dropped"
    changed = replace(positive, in_front=positive.in_front + 1)
    per_frame = (run(network, changed, frames) - out).abs().amax(dim=(1, 2, 3))
    assert per_frame.min() > 1e-4, "a frame that did not see the reference"
    assert toy.error(run(network, negative, frames), out) > 1e-2


@pytest.mark.parametrize("kind", ANIMATORS)
def test_without_a_reference_a_frame_of_zeros_is_there(animators, kind):
    network = animators[kind]
    positive = conditions(network)[0]
    none = replace(positive, in_front=None)
    zeros = replace(positive, in_front=torch.zeros(1, 12, 8, 6))
    assert torch.equal(run(network, none), run(network, zeros))
    shapes = []
    watch = network.input_blocks[0][0].register_forward_pre_hook(lambda _, inputs: shapes.append(inputs[0].shape))
    run(network, none)
    watch.remove()
    assert shapes == [(5, 12, 8, 6)]


@pytest.mark.parametrize("kind", ANIMATORS)
def test_both_conditions_together_are_those_one_by_one(animators, kind):
    both = conditions(animators[kind])
    together = run(animators[kind], Prepared.together(both)).chunk(2)
    for prepared, found in zip(both, together, strict=True):
        assert toy.error(found, run(animators[kind], prepared)) <= EXACT


def test_without_the_person_all_falls_away_to_zeros_themselves(animators):
    network = animators["unianimate"]
    positive, negative = conditions(network)
    assert torch.equal(positive.context[:, :7], negative.context[:, :7]), "the empty prompt stays"
    assert (negative.context[:, 7:] == 0).all() and (negative.details == 0).all() and (negative.in_front == 0).all()
    assert (network.pre_image_condition(torch.zeros(1, 1, 64)) != 0).any(), "which the projection of zeros is not"
    assert (positive.context[:, 7:] != 0).any() and positive.in_front.shape == (1, 12, 8, 6)


@pytest.mark.parametrize("name", ["image", "poses", "reference", "reference_pose"])
def test_everything_of_the_person_counts(animators, name):
    network = animators["unianimate"]
    before = run(network, conditions(network)[0])
    other = person(**{name: getattr(person(), name) + 1})
    assert toy.error(run(network, conditions(network, other)[0]), before) > 1e-4


def test_the_first_frame_is_added_to_every_frame_and_needs_no_reference(animators):
    network = animators["unianimate"]
    alone = person(reference=None, reference_pose=None)
    plain = conditions(network, alone)[0]
    with_first = conditions(network, replace(alone, first_frame=noise(3, 64, 48)))[0]
    added = with_first.details - plain.details
    assert toy.error(added, added[:1].expand_as(added)) <= EXACT and added.abs().max() > 1e-2
    assert (plain.in_front == 0).all()


@pytest.mark.parametrize("name", ["points", "pictures"])
def test_body_points_and_driving_pictures_count_frame_by_frame(animators, name):
    network, who = animators["animate_x"], person("animate_x")
    before = conditions(network, who)[0].poses.context
    moved = getattr(who.motion, name).clone()
    moved[2] += 1
    after = conditions(network, replace(who, motion=replace(who.motion, **{name: moved})))[0].poses.context
    changed = (after - before).abs().amax(dim=(1, 2)) > 1e-5
    assert changed.tolist() == ([True] * 5 if name == "points" else [False, False, True, False, False])


@pytest.mark.parametrize("at_once", [5, 2])
def test_a_frame_attends_to_its_own_pose_tokens(animators, monkeypatch, at_once):
    """However many go through the layer together."""
    monkeypatch.setattr("i2vgen_core.network.pose.at_once", lambda one, number: at_once)
    network = animators["animate_x"]
    block = network.spatial_transformers[0].pose_attention
    positive = conditions(network)[0]
    tokens = positive.poses.context.clone()
    tokens[3] += 1
    seen = []
    for each in (positive.poses.context, tokens):
        poses = Prepared(each, {block.block: block.keys_values(each)})
        seen.append(block(noise(5, 32, 8, 6), Evaluation(noise(1, 4), 5, replace(positive, poses=poses), Hooks())))
    changed = (seen[1] - seen[0]).abs().amax(dim=(1, 2, 3)) > 1e-6
    assert changed.tolist() == [False, False, False, True, False]


def test_the_sine_table_is_of_any_length():
    table = sine_table(40, 8, torch.zeros(()))
    assert table.shape == (40, 8) and torch.equal(table[:33], sine_table(33, 8, torch.zeros(())))
    assert table[0].tolist() == [0, 1] * 4
    assert float(table[3, 2]) == pytest.approx(float(torch.tensor(3 / 10000**0.25).sin()), rel=1e-6)


@pytest.mark.parametrize(
    "kind, others, message",
    [
        ("unianimate", {"reference_pose": None}, "reference: expected a latent with its pose picture"),
        ("unianimate", {"reference": None}, "reference: expected a latent with its pose picture"),
        ("unianimate", {"motion": Motion(noise(5, 2, 18), noise(5, 64))}, "expected no body points, for unianimate"),
        ("animate_x", {"motion": None}, "expected body points, for animate_x, found none"),
    ],
)
def test_a_person_that_lacks_a_part_is_refused(animators, kind, others, message):
    with pytest.raises(InputError, match=message):
        conditions(animators[kind], person(kind, **others))


# ---------------------------------------------------------------- sampling


def stage(kind="unianimate", **options):
    return AnimateStage(AnimateOptions(**options), RELEASES[kind], SCHEDULE)


def test_thirty_steps_are_31_evaluations():
    assert stage().timesteps == list(range(991, 0, -33)) and stage().steps == 31
    assert (stage(frames=16).settings.guidance, stage().settings.prior_level) == (2.5, 949)
    assert len(strided_timesteps(50)) == 50 and strided_timesteps(50)[0] == 981


@pytest.mark.parametrize("steps", [3, 9, 27, 36, 37])
def test_numbers_of_steps_that_begin_in_noise_alone_work(steps):
    """The official result is no number there."""
    made = stage(steps=steps, frames=2)
    assert made.timesteps[0] == 999
    out = made.sample(lambda x, t: 0.5 * x, noise(2, 4, 4, 4))
    assert torch.isfinite(out).all()


def test_a_long_video_has_windows_and_a_prior_of_its_own():
    short, long = stage(frames=32), stage(frames=60)
    assert short.windows == [range(32)] and [window.start for window in long.windows] == [0, 24, 28]
    assert (short.settings.prior_level, long.settings.prior_level) == (949, 939)
    assert stage(frames=60, prior_level=800).settings.prior_level == 800


def test_the_first_latent():
    reference = noise(1, 4, 4, 4, seed=1)
    for frames in (2, 40):
        made = stage(frames=frames, seed=7)
        base, offset = made.noise((frames, 4, 4, 4))
        assert offset.shape == (frames, 4, 1, 1) and torch.equal(
            base, stage(frames=frames, seed=7).noise(base.shape)[0]
        )
        signal, sigma = SCHEDULE.signal_and_noise(made.settings.prior_level)
        share = sigma if frames == 2 else 1
        expected = signal * reference + sigma * base + 0.1 * share * offset
        assert toy.error(made.first_latent(reference, base, offset), expected) <= 1e-6
        assert 0.02 < signal < 0.04
    animate_x = stage("animate_x", frames=2)
    assert torch.equal(animate_x.first_latent(reference, *animate_x.noise((2, 4, 4, 4))), base_of(animate_x))


def base_of(made):
    base, offset = made.noise((2, 4, 4, 4))
    return base + 0.1 * offset


def test_a_video_in_windows(animators):
    """One window is the plain way; of more, every frame is the mean of the windows that saw it."""
    network, who = animators["unianimate"], person(frames=7)
    made = stage(frames=7, window=4, overlap=1, steps=4, width=64, height=64)
    assert made.windows == [range(4), range(3, 7)]
    x = noise(7, 4, 8, 6, seed=6)
    prepared = animation_conditions(network, who, made.windows, 8, 6)
    denoise = guided_in_windows(network, SCHEDULE, made.windows, prepared, 2.5)
    parts = [
        guided(network, SCHEDULE, each, 2.5)(x[w.start : w.stop], 500)
        for w, each in zip(made.windows, prepared, strict=True)
    ]
    found = denoise(x, 500)
    assert toy.error(found[:3], parts[0][:3]) <= EXACT and toy.error(found[4:], parts[1][1:]) <= EXACT
    assert toy.error(found[3], (parts[0][3] + parts[1][0]) / 2) <= EXACT
    calls = []
    out = made.sample(denoise, x, lambda step, steps, x, denoised: calls.append((step, steps)))
    assert torch.isfinite(out).all() and calls == [(i, 4) for i in range(4)]

    (whole,) = animation_conditions(network, person(), [range(4)], 8, 6)
    one = guided_in_windows(network, SCHEDULE, [range(4)], [whole], 2.5)
    assert torch.equal(one(x[:4], 500), guided(network, SCHEDULE, whole, 2.5)(x[:4], 500))


@pytest.mark.parametrize("frames", [1, 8, 9, 13, 30, 31])
@pytest.mark.parametrize("size, overlap", [(8, 2), (8, 0), (8, 7), (1, 0)])
def test_windows_hold_every_frame(frames, size, overlap):
    windows = window_ranges(frames, size, overlap)
    seen = sorted({frame for window in windows for frame in window})
    assert seen == list(range(frames))
    assert all(len(window) == min(size, frames) for window in windows)
    mean = over_windows(torch.arange(frames).float(), windows, lambda part, number: [part, -part])
    assert torch.allclose(mean[0], torch.arange(frames).float()) and torch.equal(mean[0], -mean[1])


@pytest.mark.parametrize("size, overlap", [(0, 0), (8, 8), (8, -1)])
def test_windows_that_cannot_be_are_refused(size, overlap):
    with pytest.raises(InputError, match="windows: expected an overlap of fewer frames"):
        stage(frames=20, window=size, overlap=overlap)


# ---------------------------------------------------------------- pictures


def test_poses_that_are_taken():
    assert pose_frames(9, 5, 2) == [0, 2, 4, 6, 8]
    assert pose_frames(8, 5, 2) == [0, 1, 2, 3, 4], "too few: an interval that fits"
    assert pose_frames(3, 5, 2) == [0, 1, 2, None, None]
    assert pose_frames(4, 1, 3) == [0]
    with pytest.raises(InputError, match="poses: expected one or more"):
        pose_frames(0, 5)


def test_pictures_are_stretched_whatever_their_proportions():
    image = torch.zeros(1, 4, 8, 3)
    image[:, :, 4:] = 1
    found = stretched(image, 4, 8)
    assert found.shape == (1, 8, 4, 3) and torch.equal(found[0, 0, :, 0], found[0, -1, :, 0])
    assert (
        (found * 255 - (found * 255).round()).abs().max() < 1e-4 and found[0, 0, 0, 0] == 0 and found[0, 0, -1, 0] == 1
    )
    pixels = stretched_clip_pixels(torch.full((1, 50, 90, 3), 0.4815), 28)
    assert pixels.shape == (1, 3, 28, 28) and abs(float(pixels[0, 0, 0, 0])) < 0.01


def test_holes_are_grey_and_what_is_kept_is_1():
    video = torch.ones(2, 8, 8, 3)
    holes = torch.zeros(1, 8, 8)
    holes[:, :, 4:] = 1
    found = masked_video(video, holes)
    assert found.shape == (1, 2, 4, 8, 8)
    assert (found[..., :4] == 1).all() and (found[..., 4:] == 0).all()
    with pytest.raises(InputError, match=r"the mask: expected \[2 or 1, 8, 8\]"):
        masked_video(video, holes[:, :4])
