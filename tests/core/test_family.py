"""Networks beside the cascade's: stems, what tells them apart, their samplers and what their pictures do."""

import json
import logging
from dataclasses import replace

import pytest
import torch
import toy
from safetensors.torch import save_file

from i2vgen_core.checkpoints.detect import UNSAID
from i2vgen_core.checkpoints.load import open_base, open_refiner, open_unet, parse_unet
from i2vgen_core.checkpoints.unet_keys import SINE_TABLE, from_official, to_official
from i2vgen_core.config import ANIMATORS, COMPOSERS, HINTED, REFINERS, released_config
from i2vgen_core.errors import CheckpointError, InputError
from i2vgen_core.network.evaluation import Prepared
from i2vgen_core.network.stems import STEMS
from i2vgen_core.releases import RELEASES
from i2vgen_core.sampling.guidance import guided
from i2vgen_core.sampling.held import Held
from i2vgen_core.sampling.options import BaseOptions, FewStepOptions
from i2vgen_core.sampling.schedules import lcm_timesteps, scaled_linear, schedule_for
from i2vgen_core.sampling.stages import BaseStage, FewStepStage

EXACT = 1e-5
RELEASED = json.loads((toy.GOLDEN / "state_dict_keys.json").read_text(encoding="utf-8"))
COMPOSER = json.loads((toy.GOLDEN / "composer" / "state_dict_keys.json").read_text(encoding="utf-8"))
TEXT = json.loads((toy.GOLDEN / "composer" / "text_to_video_networks.json").read_text(encoding="utf-8"))


def text_to_video(name):
    return RELEASED["vid2vid_xl"] | TEXT[name]["differs_from_vid2vid_xl"]


def animator():
    folder = toy.GOLDEN / "unianimate"
    keys = json.loads((folder / "state_dict_keys_unianimate.json").read_text(encoding="utf-8"))["unianimate"]
    more = json.loads((folder / "state_dict_keys_animate_x.json").read_text(encoding="utf-8"))
    return keys, keys | more["animate_x_more_than_unianimate"]


def hinted(kind):
    more = json.loads((toy.GOLDEN / kind / "state_dict_keys.json").read_text(encoding="utf-8"))
    return RELEASED["vid2vid_xl"] | more["more_than_vid2vid_xl"]


UNIANIMATE, ANIMATE_X = animator()
KEYS = {
    "tft2v_composer": COMPOSER,
    "videolcm_composer": COMPOSER,
    "text2video": text_to_video("vgen_t2v"),
    "tft2v_t2v": text_to_video("tft2v_t2v"),
    "videolcm_t2v": text_to_video("videolcm_t2v"),
    "unianimate": UNIANIMATE,
    "animate_x": ANIMATE_X,
    **{kind: hinted(kind) for kind in HINTED},
}
COMPOSED = [kind for kind in KEYS if kind not in ANIMATORS + HINTED]
ALIKE = [{*COMPOSERS}, {*REFINERS, "text2video"}]
"""Kinds of the same tensors."""


def on_meta(shapes):
    return {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}


@pytest.fixture(autouse=True)
def no_grad():
    with torch.no_grad():
        yield


@pytest.fixture(scope="module")
def family():
    return {kind: toy.network(toy.config_of(kind)) for kind in KEYS}


@pytest.fixture(scope="module")
def composer(family):
    return family["tft2v_composer"]


def noise(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


# ---------------------------------------------------------------- keys and kinds


@pytest.mark.parametrize("kind", KEYS)
def test_full_size_has_the_releases_keys_and_shapes(kind):
    state = to_official(toy.meta_state(released_config(kind)))
    expected = {key: shape for key, shape in KEYS[kind].items() if key != SINE_TABLE}
    assert {key: list(value.shape) for key, value in state.items()} == expected


@pytest.mark.parametrize("kind", KEYS)
def test_full_size_is_read_from_the_releases_shapes(kind):
    state = {f"module.{key}": value for key, value in on_meta(KEYS[kind]).items()}
    found = parse_unet(state, kind=kind)
    assert found.config == released_config(kind) and found.release == RELEASES[kind]
    assert found.global_encoder == {}, "a composer's local_image_embedding is a stem"


@pytest.mark.parametrize("kind", KEYS)
def test_another_kind_than_asked_for_is_refused(kind):
    state = to_official(toy.meta_state(toy.config_of(kind)))
    alike = next((kinds for kinds in ALIKE if kind in kinds), {kind})
    for other in RELEASES:
        if other in alike:
            assert parse_unet(state, toy.SETTINGS, kind=other).config.kind == other
            continue
        with pytest.raises(CheckpointError, match=f"expected a network of kind {other}, found one of kind "):
            parse_unet(state, toy.SETTINGS, kind=other)


def test_a_composer_is_never_guessed(tmp_path):
    state = toy.stored(toy.config_of("tft2v_composer"))
    save_file(state, tmp_path / "composer.safetensors", {"head_dim": "8"})
    with pytest.raises(CheckpointError, match=r"no word whether it is tft2v_composer or videolcm_composer.*--kind"):
        open_unet(tmp_path / "composer.safetensors")
    for kind in COMPOSERS:
        assert open_unet(tmp_path / "composer.safetensors", kind=kind).config.kind == kind
        save_file(state, tmp_path / "said.safetensors", {"head_dim": "8", "kind": kind})
        assert open_unet(tmp_path / "said.safetensors").release == RELEASES[kind]


def test_text_to_video_is_somebodys_word(tmp_path, caplog):
    save_file(toy.stored(toy.config_of("text2video")), tmp_path / "t2v.safetensors", {"head_dim": "8"})
    with caplog.at_level(logging.WARNING, logger="i2vgen_xl"):
        assert open_unet(tmp_path / "t2v.safetensors", kind="text2video").config.kind == "text2video"
        assert not caplog.records
        assert open_unet(tmp_path / "t2v.safetensors").config.kind == "vid2vid_xl"
    assert UNSAID in caplog.text and "text2video" in UNSAID


def test_a_composer_with_fewer_stems_has_those():
    config = replace(toy.config_of("tft2v_composer"), stems=("local_image", "sketch"))
    state = to_official(toy.meta_state(config))
    assert parse_unet(state, toy.SETTINGS, kind="tft2v_composer").config == config


def test_half_a_stem_is_refused():
    state = to_official(toy.meta_state(toy.config_of("tft2v_composer")))
    for key in ("depth_embedding.3.weight", "mask_embedding_after.layers.0.1.net.2.bias"):
        with pytest.raises(CheckpointError, match=f"1 missing .{key}"):
            parse_unet({k: v for k, v in state.items() if k != key}, toy.SETTINGS, kind="tft2v_composer")


@pytest.mark.parametrize("kind", [kind for kind in KEYS if kind not in HINTED])
def test_they_are_first_stages(tmp_path, kind):
    save_file(toy.stored(toy.config_of(kind)), tmp_path / "a.safetensors", {"head_dim": "8", "kind": kind})
    assert open_base(tmp_path / "a.safetensors").config.kind == kind
    with pytest.raises(CheckpointError, match=rf"expected a refiner, found a base \({kind}\)"):
        open_refiner(tmp_path / "a.safetensors")


def test_a_first_stage_with_a_refiners_tensors_waits_for_a_word(tmp_path):
    save_file(toy.stored(toy.config_of("text2video")), tmp_path / "a.safetensors", {"head_dim": "8"})
    with pytest.raises(CheckpointError, match=r"found a refiner .*say text2video"):
        open_base(tmp_path / "a.safetensors")
    assert open_base(tmp_path / "a.safetensors", kind="text2video").config.kind == "text2video"


# ---------------------------------------------------------------- networks


@pytest.mark.parametrize("kind", COMPOSED)
def test_any_size_and_length_comes_back(family, kind):
    for frames, height, width in ((1, 2, 3), (2, 9, 6), (5, 8, 8)):
        made = toy.inputs(family[kind].config, frames, height, width)
        out = family[kind](**made)
        assert out.shape == made["x"].shape and torch.isfinite(out).all()


@pytest.mark.parametrize("kind", COMPOSED)
def test_nothing_beside_the_noise_is_zeros(family, kind):
    network = family[kind]
    made = toy.inputs(network.config)
    channels = network.config.concat_channels
    if not channels:
        with pytest.raises(RuntimeError):
            network(**made, details=torch.zeros(3, 8, 8, 8))
        return
    zeros = torch.zeros(3, channels, 8, 8)
    assert torch.equal(network(**made), network(**made, details=zeros))
    assert toy.error(network(**made, details=zeros + 1), network(**made)) > 1e-3


def test_a_batch_is_its_videos_one_by_one(composer):
    made = toy.inputs(composer.config, frames=3, batch=2)
    pictures = noise(2, 3, 1, 24, 40)
    details = composer.stems.beside_noise({"depth": pictures}, 3, 8, 8)
    together = composer(**made, details=details)
    for video in range(2):
        rows, one = slice(3 * video, 3 * video + 3), slice(video, video + 1)
        alone = composer(
            made["x"][rows],
            made["timesteps"][one],
            made["context"][one],
            3,
            details=composer.stems.beside_noise({"depth": pictures[one]}, 3, 8, 8),
        )
        assert toy.error(alone, together[rows]) <= EXACT


def test_conditions_that_differ_beside_the_noise_go_together(composer):
    """As one batch, and as one by one."""
    made = toy.inputs(composer.config)
    first, second = noise(2, 3, 8, 8, 8, seed=1)
    both = [composer.prepare(made["context"] * sign, details=each) for sign, each in ((1, first), (-1, second))]
    call = {"x": made["x"], "timesteps": made["timesteps"], "frames": 3}
    together = composer(**call, context=Prepared.together(both)).chunk(2)
    for prepared, found in zip(both, together, strict=True):
        assert toy.error(composer(**call, context=prepared), found) <= EXACT
        plain = composer(**call, context=prepared.context, details=prepared.details)
        assert toy.error(plain, found) <= EXACT


# ---------------------------------------------------------------- stems


def picture(name, frames=3, height=64, width=64, batch=1, seed=0):
    return noise(batch, frames, STEMS[name].channels, height, width, seed=seed)


@pytest.mark.parametrize("name", toy.config_of("tft2v_composer").stems)
def test_every_stem_counts_and_zeros_are_not_nothing(composer, name):
    features = composer.stems.beside_noise({name: picture(name)}, 3, 8, 8)
    zeros = composer.stems.beside_noise({name: torch.zeros_like(picture(name))}, 3, 8, 8)
    assert features.shape == zeros.shape == (3, 8, 8, 8)
    assert toy.error(features, zeros) > 1e-3 and zeros.abs().max() > 1e-3


def test_stems_are_summed(composer):
    names = composer.config.stems
    alone = [composer.stems.beside_noise({name: picture(name)}, 3, 8, 8) for name in names]
    together = composer.stems.beside_noise({name: picture(name) for name in reversed(names)}, 3, 8, 8)
    assert toy.error(together, sum(alone)) <= EXACT
    assert composer.stems.beside_noise({}, 3, 8, 8) is None


def test_one_picture_for_all_frames_is_that_picture_repeated(composer):
    one = picture("local_image", 1)
    found = composer.stems.beside_noise({"local_image": one, "depth": picture("depth")}, 3, 8, 8)
    many = one.expand(-1, 3, -1, -1, -1)
    assert (
        toy.error(found, composer.stems.beside_noise({"local_image": many, "depth": picture("depth")}, 3, 8, 8))
        <= EXACT
    )


def test_pictures_of_another_size_are_brought_to_fit(composer):
    """A mean over what falls together: a picture in twice the size, each pixel four times, says nearly the same inside."""
    small = picture("sketch", 2, 32, 32)
    large = small.repeat_interleave(4, dim=-1).repeat_interleave(4, dim=-2)
    sizes = [composer.stems.beside_noise({"sketch": each}, 2, 8, 12) for each in (small, large)]
    assert sizes[0].shape == sizes[1].shape == (2, 8, 8, 12)
    assert composer.stems.beside_noise({"sketch": picture("sketch", 2, 50, 34)}, 2, 8, 12).shape == (2, 8, 8, 12)


def test_frames_of_a_stem_see_each_other(composer):
    pictures = picture("depth")
    before = composer.stems.beside_noise({"depth": pictures}, 3, 8, 8)
    pictures[:, 2] += 1
    after = composer.stems.beside_noise({"depth": pictures}, 3, 8, 8)
    assert (after - before).abs().amax(dim=(1, 2, 3)).min() > 1e-4


def test_frames_that_go_one_after_another_are_those_that_go_together(composer, monkeypatch):
    pictures = {"local_image": picture("local_image", 5, 80, 80)}
    parted = composer.stems.beside_noise(pictures, 5, 8, 8)
    monkeypatch.setattr("i2vgen_core.network.stems.at_once", lambda one, number: 2)
    assert toy.error(composer.stems.beside_noise(pictures, 5, 8, 8), parted) <= EXACT


@pytest.mark.parametrize(
    "pictures, message",
    [
        ({"pose": noise(1, 3, 3, 8, 8)}, "expected one that tft2v_composer reads, found pose"),
        ({"canny": noise(1, 3, 1, 8, 8)}, "found canny"),
        ({"depth": noise(1, 2, 1, 8, 8)}, "depth pictures: expected .*3 frames or 1, 1 channels"),
        ({"depth": noise(1, 3, 3, 8, 8)}, "depth pictures: expected"),
        ({"depth": noise(3, 1, 8, 8)}, "depth pictures: expected"),
    ],
)
def test_pictures_that_it_cannot_read_are_refused(composer, pictures, message):
    with pytest.raises(InputError, match=message):
        composer.stems.beside_noise(pictures, 3, 8, 8)


# ---------------------------------------------------------------- samplers


def test_the_schedule_ends_in_noise_alone():
    for kind in ("tft2v_composer", "videolcm_composer", "tft2v_t2v", "videolcm_t2v"):
        alphas = schedule_for(kind).alphas_cumprod
        assert alphas[-1] == 0 and alphas[0] == pytest.approx(float(scaled_linear().alphas_cumprod[0]))


@pytest.mark.parametrize("steps", range(1, 51))
def test_consistency_steps_are_distilled_ones(steps):
    timesteps = lcm_timesteps(steps)
    assert len(timesteps) == steps and timesteps[0] == 999
    assert set(timesteps) <= set(range(19, 1000, 20)) and timesteps == sorted(set(timesteps), reverse=True)


@pytest.mark.parametrize("steps", [0, 51])
def test_no_other_number_of_consistency_steps(steps):
    with pytest.raises(InputError, match="steps: expected 1 to 50"):
        lcm_timesteps(steps)
    if steps:
        with pytest.raises(InputError, match="steps: expected 1 to 50"):
            FewStepStage(FewStepOptions(steps=steps), RELEASES["videolcm_composer"], schedule_for("videolcm_composer"))


def test_a_few_step_stage_is_the_release(composer):
    stage = FewStepStage(
        FewStepOptions(width=64, height=64, frames=3, seed=5),
        RELEASES["videolcm_composer"],
        schedule_for("videolcm_composer"),
    )
    assert stage.timesteps == [999, 759, 499, 259] and stage.settings.guidance == 1
    first = stage.noise((3, 4, 8, 8))
    calls, seen = [], []
    network = guided(composer, stage.schedule, [composer.prepare(noise(1, 7, 64))], stage.settings.guidance)

    def denoise(x, t):
        calls.append(t)
        return network(x, t)

    out = stage.sample(denoise, first, lambda step, steps, x, denoised: seen.append((step, steps)))
    assert calls == stage.timesteps and seen == [(i, 4) for i in range(4)]
    assert torch.equal(out, stage.run(network, first)) and torch.isfinite(out).all()
    with pytest.raises(InputError, match="expected nothing for VideoLCM"):
        stage.run(network, first, Held(first))
    other = FewStepStage(replace(stage.options, seed=6), stage.settings, stage.schedule)
    assert toy.error(other.sample(network, first), out) > 1e-2, "fresh noise comes from the seed"


def test_a_composer_of_many_steps_is_sampled_as_a_base():
    stage = BaseStage(BaseOptions(), RELEASES["tft2v_composer"], schedule_for("tft2v_composer"))
    assert (stage.steps, stage.settings.guidance, stage.timesteps[0]) == (50, 9.0, 981)
    assert RELEASES["tft2v_composer"].negative_prompt == RELEASES["i2vgen_xl"].negative_prompt


@pytest.mark.parametrize("kind", KEYS)
def test_key_tables_are_their_own_inverse(kind):
    state = toy.meta_state(toy.config_of(kind))
    ours = {key: torch.rand(()).expand(value.shape) for key, value in state.items()}
    official = to_official(ours)
    assert toy.same(from_official(official), ours)
    assert from_official(official | {SINE_TABLE: torch.zeros(1, 33, 64)}).keys() == ours.keys()
    assert parse_unet(official, toy.SETTINGS, kind=kind).config == toy.config_of(kind)
