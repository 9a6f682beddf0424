"""Refiners with a control branch: their blocks, windows and settings, and the way of a video through them."""

import logging
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise, product

import pytest
import torch
import toy

from benchmarks.measure import live_peak
from i2vgen_core.cascade import Cascade, inserted_like
from i2vgen_core.config import HINTED, ControlConfig
from i2vgen_core.errors import InputError
from i2vgen_core.media.enlarge import held, padding_of
from i2vgen_core.network.control import Hint
from i2vgen_core.network.hooks import BlockHooks, Hooks
from i2vgen_core.network.unet import UNet
from i2vgen_core.parts import StageNetwork
from i2vgen_core.releases import RELEASES
from i2vgen_core.sampling.options import RefineOptions
from i2vgen_core.sampling.schedules import schedule_for
from i2vgen_core.sampling.stages import RefineStage
from i2vgen_core.sampling.windows import join_windows, key_frames, refiner_windows, share_of


@pytest.fixture(autouse=True)
def no_grad():
    with torch.no_grad():
        yield


@pytest.fixture(scope="module")
def networks():
    return {kind: toy.network(toy.config_of(kind)) for kind in HINTED}


def stage(kind, **options):
    return RefineStage(RefineOptions(**options), RELEASES[kind], schedule_for(kind))


def noise(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


# ---------------------------------------------------------------- the network


def hint_of(kind, frames=3, seed=1):
    latent = noise(frames, 4, 8, 8, seed=seed)
    if kind == "star":
        return Hint(latent)
    return Hint(latent[:2], torch.tensor([[0, -1, 1]]), torch.tensor([249]), torch.tensor([8]))


@pytest.mark.parametrize("kind", HINTED)
def test_both_guided_halves_share_what_they_can(networks, kind):
    """The same in one batch as one by one; the noisy video, its step and the hint are there once."""
    unet, given = networks[kind], toy.inputs(networks[kind].config)
    contexts, hint = noise(2, 7, 64), hint_of(kind)
    x, timesteps = given["x"], given["timesteps"]
    together = unet(x, timesteps, contexts, 3, hint=hint)
    alone = torch.cat([unet(x, timesteps, each, 3, hint=hint) for each in contexts.split(1)])
    assert toy.error(together, alone) < 1e-5
    rows = []
    hooks = [
        block.register_forward_pre_hook(lambda _, inputs: rows.append(len(inputs[0])))
        for block in (unet.VideoControlNet.input_hint_block, unet.VideoControlNet.input_blocks[0][0])
    ]
    unet(x, timesteps, contexts, 3, hint=hint)
    for hook in hooks:
        hook.remove()
    assert rows == [3, 3 if kind == "star" else 2], "of one video, and of its key frames"


def test_the_branch_adds_little_to_what_is_alive_at_once():
    """Its features are made block by block, after the UNet's own way down. Counted at a width where blocks weigh most."""

    def peak(kind):
        sizes = {"channel_mult": (1, 2, 4, 4), "attention_levels": (True, True, True, False), "num_res_blocks": 2}
        unet = UNet(replace(toy.config_of(kind), **sizes), device="meta").eval()
        x = torch.empty(8, 4, 32, 32, device="meta")
        text = torch.empty(1, 7, unet.config.context_dim, device="meta")
        hint = Hint(x) if unet.config.control else None
        return live_peak(lambda: unet(x, torch.zeros(1, device="meta"), text, 8, hint=hint))

    plain = peak("vid2vid_xl")
    assert all(1 < peak(kind) / plain < 1.3 for kind in HINTED)


def test_inserted_frames_do_not_see_a_hint_directly(networks):
    """Nothing but time mixes frames: with one frame alone, a hint that is not its own changes nothing."""
    unet, x = networks["venhancer"], noise(1, 4, 8, 8)
    told = {"noise_level": torch.tensor([249]), "scale": torch.tensor([8])}

    def run(key, latent):
        hint = Hint(latent, torch.tensor([[key]]), **told)
        return unet(x, torch.tensor([500]), noise(1, 7, 64), 1, hint=hint)

    one, other = noise(2, 4, 8, 8, seed=1), noise(2, 4, 8, 8, seed=2)
    assert torch.equal(run(-1, one), run(-1, other))
    assert toy.error(run(0, one), run(1, one)) > 1e-3


class Adds(BlockHooks):
    """What a control of another kind does."""

    def __init__(self):
        self.seen = []

    def hand_up(self, block, x):
        self.seen.append(tuple(block))
        return x + 1


@pytest.mark.parametrize("kind", ["vid2vid_xl", "star"])
def test_the_way_up_is_handed_what_a_hook_makes_of_each_block(kind):
    unet = toy.network(toy.config_of(kind))
    given, hooks = toy.inputs(unet.config), Adds()
    plain, changed = unet(**given), unet(**given, hooks=Hooks(blocks=hooks))
    assert hooks.seen == [*(("input", number) for number in range(len(unet.input_blocks))), ("middle", 0)]
    assert toy.error(changed, plain) > 1e-3


@pytest.mark.parametrize("kind", HINTED)
def test_any_size_is_padded_with_its_hint(networks, kind):
    hint = hint_of(kind)
    odd = replace(hint, latent=hint.latent[..., :7, :7])
    x = noise(3, 4, 7, 7)
    assert networks[kind](x, torch.tensor([500]), noise(1, 7, 64), 3, hint=odd).shape == x.shape


# ---------------------------------------------------------------- windows


@pytest.mark.parametrize("inserted", range(9))
@pytest.mark.parametrize("joining", ["cut", "blend"])
def test_windows_hold_every_frame_and_begin_on_key_frames(joining, inserted):
    for frames in range(1, 140):
        windows = refiner_windows(frames, 32, joining, inserted)
        assert windows[0].start == 0 and windows[-1].stop == frames
        assert all(window.start % (inserted + 1) == 0 for window in windows)
        assert all(later.start <= earlier.stop for earlier, later in pairwise(windows))
        assert all(len(window) <= 43 for window in windows)


def test_windows_of_any_length_are_those_that_the_official_programs_cut():
    """By what tests/golden's READMEs say of make_chunks, for lengths that have no golden value."""
    for length, frames in product((4, 5, 7, 16, 31, 32), (33, 41, 64, 71)):
        starts = range(0, frames, length - length // 2)
        last = next(start for start in starts if start + 1.25 * length >= frames)
        assert [window.start for window in refiner_windows(frames, length, "cut")] == [*starts][
            : last // starts.step + 1
        ]
    for inserted, keys in product(range(9), (9, 12, 30)):
        frames, each = (keys - 1) * (inserted + 1) + 1, inserted + 1
        size, overlap = 31 // each * each + 1, 15 // each * each + 1
        starts = range(0, frames, size - overlap)
        last = next(start for start in starts if start + max(size, round(1.33 * size)) >= frames)
        expected = [0] if frames <= 32 else [*starts][: last // starts.step + 1]
        assert [window.start for window in refiner_windows(frames, 32, "blend", inserted)] == expected


@pytest.mark.parametrize("levels", [500, 900, 1000])
def test_normal_levels_leave_out_the_last_but_one(levels):
    for steps in (1, 6, 15, 33, 50):
        found = stage("star", mode="normal", steps=steps, noise_level=levels).timesteps
        expected = [levels - 1 - k * levels / (steps + 1) for k in range(steps)]
        assert len(found) == steps
        assert all(abs(t - place) <= 0.51 for t, place in zip(found, expected, strict=True))


def test_padding_of_any_size_is_the_official_one():
    for side in range(700, 1500, 5):
        left, right, top, bottom = padding_of(side, side)
        assert (top, bottom) == (((720 - side) // 2, 720 - side - (720 - side) // 2) if side < 720 else (0, bottom))
        assert side <= 720 or bottom == (side + 48) // 64 * 64 + 16 - side
        assert side <= 1280 or right == side // 64 * 64 + 64 - side
        assert left + right == 1280 - side or side > 1280


@pytest.mark.parametrize("joining", ["cut", "blend", "random"])
def test_windows_that_agree_are_joined_to_what_they_agree_on(joining):
    x, windows = noise(50, 2), refiner_windows(50, 8, joining)
    share = share_of(joining, torch.Generator().manual_seed(0))
    assert torch.allclose(join_windows(x, windows, share, lambda part, _: 2 * part), 2 * x)


def test_each_way_of_joining_weighs_as_it_says():
    windows, numbers = [range(4), range(2, 6)], torch.zeros(6, 1)

    def joined(joining, seed=0):
        share = share_of(joining, torch.Generator().manual_seed(seed))
        return join_windows(numbers, windows, share, lambda part, number: part + number).flatten().tolist()

    assert joined("cut") == [0, 0, 0, 1, 1, 1]
    assert joined("blend") == [0, 0, 0, 0.5, 1, 1]
    found = {tuple(joined("random", seed)) for seed in range(20)}
    assert found == {(0, 0, 0, 0, 1, 1), (0, 0, 0, 1, 1, 1), (0, 0, 1, 1, 1, 1)}


def test_too_few_frames_for_two_windows_are_one_and_said(caplog):
    with caplog.at_level(logging.INFO, logger="i2vgen_xl"):
        assert stage("star").windows(40) == [range(40)]
    assert "40 frames go through the network together: they are too few for two windows of 32" in caplog.text
    caplog.clear()
    assert len(stage("star").windows(41)) == 2 and stage("star").windows(32) == [range(32)]
    assert not caplog.records


# ---------------------------------------------------------------- settings


@pytest.mark.parametrize(
    "kind, options, message",
    [
        ("star", {"noise_level": 600}, "noise level: expected 900 with the mode fast, found 600. Use the mode normal"),
        ("venhancer", {"noise_aug": 0}, "noise aug: expected 1 or more, found 0. Use 1 for nearly clean key frames"),
        (
            "star",
            {"noise_aug": 100},
            "noise aug: expected none where the network reads no key frames, found 100 for the STAR",
        ),
        ("vid2vid_xl", {"inserted": 1}, "inserted: expected none where the network reads no key frames"),
        ("vid2vid_xl", {"enlarging": 2.0}, "enlarging: expected none where the network has a size of its own"),
        ("star", {"enlarging": 0.0}, "enlarging: expected more than 0, found 0"),
        ("venhancer", {"inserted": 9}, "inserted: expected 0 to 8, found 9"),
        ("star", {"mode": "fast", "solver": "heun"}, "solver: expected dpmpp_2m_sde with the mode fast, found heun"),
        ("star", {"amount": 0.5}, "noise level: expected 900 with the mode fast, found 450. Use the mode normal"),
        ("vid2vid_xl", {"amount": 2}, "amount: expected 0.1 to 1.5, found 2"),
        ("star", {"mode": "quick"}, "mode: expected normal or fast, found 'quick'"),
    ],
)
def test_settings_that_cannot_be_are_said(kind, options, message):
    with pytest.raises(InputError) as refused:
        stage(kind, **options)
    assert message in str(refused.value)


@pytest.mark.parametrize("kind", HINTED)
def test_the_releases_modes(kind):
    assert stage(kind, steps=50).timesteps[:5] == [899, 799, 699, 599, 500] and stage(kind).steps == 14
    normal = stage(kind, mode="normal", noise_level=700)
    assert normal.steps == 15 and normal.timesteps[0] == 699
    assert stage(kind, solver="heun").steps == 15, "which has no fast mode"


@pytest.mark.parametrize(
    "options, level, guidance",
    [
        ({}, 600, 7.5),
        ({"amount": 0.5}, 300, 4.25),
        ({"amount": 1.5}, 900, 10.75),
        ({"amount": 0.5, "noise_level": 500}, 500, 4.25),
        ({"amount": 0.5, "guidance": 1.0}, 300, 1.0),
    ],
)
def test_an_amount_is_noise_level_and_guidance_together(options, level, guidance):
    settings = stage("vid2vid_xl", **options).settings
    assert (settings.noise_level, settings.guidance) == (level, guidance)


@pytest.mark.parametrize("solver", ["dpmpp_2m_sde", "heun"])
def test_a_smaller_amount_keeps_more_of_the_video(solver):
    """The network is given the noised video itself; as released it is given less and less of it towards low levels."""

    def first_input(**options):
        made, seen = stage("vid2vid_xl", steps=3, solver=solver, **options), []
        made.sample(lambda x, t: seen.append(x) or x, torch.ones(1, 4, 1, 1))
        return seen[0].mean().item()

    assert first_input(amount=0.2) == pytest.approx(1, abs=1e-5)
    assert first_input(noise_level=120) == pytest.approx(0.381, abs=1e-3)


def test_key_frames_are_noised_once_and_told_at_which_level():
    made = stage("venhancer", noise_aug=100, inserted=2, seed=5)
    latent = noise(7, 4, 2, 2)
    hint = made.hint(ControlConfig(key_frames=True), latent)
    assert hint.latent.shape == (3, 4, 2, 2) and hint.keys.tolist() == [[0, -1, -1, 1, -1, -1, 2]]
    assert (hint.noise_level.item(), hint.scale.item()) == (99, 8)
    signal, sigma = made.schedule.signal_and_noise(99)
    drawn = (hint.latent - signal * latent[::3]) / sigma
    assert toy.error(made.hint(ControlConfig(key_frames=True), latent, drawn).latent, hint.latent) < 1e-6
    assert not torch.allclose(drawn, made.noise((3, 4, 2, 2))), "a noise of its own"


def test_frames_are_inserted_up_to_24_a_second():
    release = RELEASES["venhancer"]
    assert inserted_like(Fraction(8), RefineOptions(), release).inserted == 2
    assert inserted_like(8, RefineOptions(inserted=5), release).inserted == 5
    assert inserted_like(None, RefineOptions(), release).inserted is None
    assert inserted_like(8, RefineOptions(), RELEASES["star"]).inserted is None


def test_held_frames_and_their_mask():
    assert held(torch.arange(3), 2).tolist() == [0, 0, 0, 1, 1, 1, 2]
    assert key_frames(7, 2).tolist() == [0, -1, -1, 1, -1, -1, 2]


# ---------------------------------------------------------------- a video's way


@pytest.fixture
def refiner(bundles):
    """refiner(kind): a toy cascade whose refiner pads little."""

    def made(kind):
        cascade = Cascade(bundles(refiner=kind))
        small = {"width": 64, "height": 80, "fewest_pixels": 900 if kind == "venhancer" else 0}
        cascade.refiner = StageNetwork(cascade.refiner.unet, replace(cascade.refiner.release, **small))
        return cascade

    return made


@pytest.mark.parametrize(
    "kind, options, shape",
    [
        ("star", {"enlarging": 2.0}, (3, 40, 60, 3)),
        ("star", {"width": 72, "height": 64}, (3, 64, 72, 3)),
        ("venhancer", {"enlarging": 1.5, "inserted": 1}, (5, 30, 44, 3)),
    ],
)
def test_a_video_comes_out_enlarged_without_its_padding(refiner, kind, options, shape):
    cascade, images = refiner(kind), torch.rand(3, 20, 30, 3)
    settings = RefineOptions(mode="normal", steps=1, **options)
    canvas, latent = cascade.canvas(images, settings), cascade.encode_video(images, settings)
    height, width = shape[1:3]
    padding = padding_of(height, width, (80, 64))
    sides = height + padding.top + padding.bottom, width + padding.left + padding.right
    assert latent.shape == (shape[0], 4, *(side // 8 for side in sides))
    sampled = cascade.sample_refiner(latent, "a ramp", settings)
    frames = cascade.decode_refined(sampled, canvas)
    assert frames.shape == shape and frames.min() >= 0 and frames.max() <= 1
    if kind == "star":  # each frame's colours are its original's, as far as 0..1 has room for them
        assert (frames.mean((1, 2)) - images.mean((1, 2))).abs().max() < 0.02


def test_the_refiners_prompt_gets_what_was_added_without_a_separator(refiner, monkeypatch):
    cascade, seen = refiner("star"), []
    encode = cascade.text_encoder.encode
    monkeypatch.setattr(cascade.text_encoder, "encode", lambda texts, *more: seen.append(texts) or encode(texts, *more))
    cascade.sample_refiner(torch.zeros(1, 4, 10, 8), "a good video", RefineOptions(mode="normal", steps=1))
    assert seen[0][0].startswith("a good videoCinematic, High Contrast") and seen[0][1].startswith("painting, oil")


class Stopped(Exception):
    pass


def test_a_long_video_goes_through_the_network_in_windows_and_stops_within_a_step(refiner):
    cascade, sizes = refiner("star"), []
    watch = cascade.refiner.unet.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))

    def stop(step, *_):
        raise Stopped

    with pytest.raises(Stopped):
        cascade.sample_refiner(torch.zeros(200, 4, 2, 2), "long", RefineOptions(mode="normal", steps=3), callback=stop)
    watch.remove()
    assert len(sizes) == len(refiner_windows(200, 32, "cut")) and max(sizes) <= 40
