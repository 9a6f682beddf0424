"""The whole cascade without a host, on a bundle of toy size with made-up weights."""

import json
import os
import shutil
from dataclasses import replace

import pytest
import torch
import toy

from i2vgen_core.cascade import Cascade
from i2vgen_core.config import VAE_SCALE
from i2vgen_core.errors import InputError
from i2vgen_core.media.images import video_frame
from i2vgen_core.releases import RELEASES, release_of
from i2vgen_core.sampling.noise import derived_seed, initial_noise
from i2vgen_core.sampling.options import BaseOptions, RefineOptions

BASE = BaseOptions(width=72, height=64, frames=2, steps=2)
REFINE = RefineOptions(width=88, height=64, steps=2, noise_level=300)
PROMPT = "a red fox runs across the snow"

DIFFERENT = 1e-4
"""Relative; two runs of the same arithmetic agree to the bit."""


@pytest.fixture(scope="module")
def image():
    return torch.rand(1, 70, 100, 3, generator=torch.Generator().manual_seed(5))


@pytest.fixture(scope="module")
def cascade_of(bundles):
    """cascade_of(base, refiner): the cascade of these kinds, its parts read once."""
    made = {}

    def cascade(base="i2vgen_xl", refiner="vid2vid_xl"):
        if (base, refiner) not in made:
            made[base, refiner] = Cascade(bundles(base, refiner))
        return made[base, refiner]

    return cascade


@pytest.fixture(scope="module")
def cascade(cascade_of):
    return cascade_of()


@pytest.fixture(scope="module")
def conditions(cascade, image):
    return cascade.condition(image, PROMPT, BASE)


@pytest.fixture(scope="module")
def base_latent(cascade, conditions):
    return cascade.sample_base(conditions, BASE)


@pytest.fixture(scope="module")
def video(cascade, base_latent):
    return cascade.decode(base_latent)


@pytest.fixture(scope="module")
def encoded(cascade, video):
    return cascade.encode_video(video, REFINE)


@pytest.fixture(scope="module")
def refined(cascade, encoded):
    return cascade.sample_refiner(encoded, PROMPT, REFINE)


# ---------------------------------------------------------------- from photo to refined video


def test_shapes_from_photo_to_refined_video(cascade, conditions, base_latent, video, encoded, refined):
    assert conditions.shape == base_latent.shape == (2, 4, 8, 9)
    assert video.shape == (2, 64, 72, 3)
    assert encoded.shape == (2, 4, 8, 11)
    assert refined.shape == (2, 4, 8, 11)
    assert cascade.decode(refined).shape == (2, 64, 88, 3)
    for tensor in (base_latent, video, encoded, refined):
        assert tensor.dtype == torch.float32 and torch.isfinite(tensor).all()
    assert video.min() >= 0 and video.max() <= 1


@pytest.mark.parametrize("frames", [1, 5])
def test_any_number_of_frames(cascade, image, frames):
    options = replace(BASE, frames=frames, steps=1)
    latent = cascade.sample_base(cascade.condition(image, PROMPT, options), options)
    assert latent.shape == (frames, 4, 8, 9)
    refined = cascade.sample_refiner(latent, PROMPT, replace(REFINE, steps=1))
    assert refined.shape == latent.shape and torch.isfinite(refined).all()


def test_a_seed_is_one_video(cascade, image, base_latent, encoded, refined):
    again = cascade.sample_base(cascade.condition(image, PROMPT, BASE), BASE)
    assert torch.equal(again, base_latent)
    assert torch.equal(cascade.sample_refiner(encoded, PROMPT, REFINE), refined)


def test_released_parts_come_back(bundles, image, base_latent):
    cascade = Cascade(bundles())
    conditions = cascade.condition(image, PROMPT, BASE)
    before = cascade.base
    assert cascade.base is before
    cascade.free("base", "text_encoder")
    assert cascade.base is not before
    cascade.free()
    assert torch.equal(cascade.sample_base(conditions, BASE), base_latent), "another process would make the same"


def test_bfloat16(bundles, image, base_latent):
    cascade = Cascade(bundles(), dtype=torch.bfloat16)
    latent = cascade.sample_base(cascade.condition(image, PROMPT, BASE), BASE)
    assert next(cascade.base.unet.parameters()).dtype == torch.bfloat16
    assert latent.dtype == torch.float32 and torch.isfinite(latent).all()
    assert 0 < toy.error(latent, base_latent) < 0.5  # guidance of 9 enlarges what 8 bits lose; noise would be above 1


# ---------------------------------------------------------------- conditions


def test_positive_is_text_global_image(cascade, conditions, image):
    assert conditions.positive.shape == conditions.negative.shape == (1, 77 + 64 + 4, 64)
    negative_prompt = RELEASES["i2vgen_xl"].negative_prompt
    text = cascade.text_encoder.encode([PROMPT, negative_prompt])
    assert toy.error(conditions.positive[0, :77], text[0]) <= 1e-5
    assert toy.error(conditions.negative[0, :77], text[1]) <= 1e-5
    assert torch.equal(conditions.positive[:, 77:141], conditions.negative[:, 77:141]), "the same global tokens"


def test_negative_has_a_zeroed_image_embedding(cascade, conditions):
    base = cascade.base.unet
    with torch.no_grad():
        zeroed = base.context_embedding(torch.zeros(1, 1, base.config.image_dim))
    assert torch.equal(conditions.negative[:, 141:], zeroed)
    assert toy.error(conditions.positive[:, 141:], zeroed) > 1e-2


def test_image_latent_reaches_both_ways(cascade, conditions, image):
    base, encoder = cascade.base.unet, cascade.base.global_encoder
    latent = cascade.vae.encode(video_frame(image, 72, 64)) * VAE_SCALE
    with torch.no_grad():
        assert torch.equal(conditions.positive[:, 77:141], encoder(latent))
        assert torch.equal(conditions.details, base.detail_encoder(latent, 2))


def test_only_the_first_image_counts(cascade, image, conditions):
    more = torch.cat([image, 1 - image])
    assert torch.equal(cascade.condition(more, PROMPT, BASE).positive, conditions.positive)


def test_an_image_is_read_in_any_shape_and_refused_otherwise(cascade):
    assert cascade.condition(torch.rand(1, 300, 90, 3), PROMPT, BASE).shape == (2, 4, 8, 9)
    for wrong in (torch.rand(0, 64, 64, 3), torch.rand(1, 64, 64, 4), torch.rand(64, 64)):
        with pytest.raises(InputError, match="the image: expected"):
            cascade.condition(wrong, PROMPT, BASE)


@pytest.mark.parametrize("size", [{"width": 63}, {"height": 56}, {"width": 0}, {"height": 100}])
def test_sizes_that_there_are_not(cascade, image, video, size):
    with pytest.raises(InputError, match=f"{next(iter(size))}: expected a multiple of 8 from 64 to 16384 pixels"):
        cascade.condition(image, PROMPT, replace(BASE, **size))
    with pytest.raises(InputError, match=f"{next(iter(size))}: expected a multiple of 8 from 64 to 16384 pixels"):
        cascade.encode_video(video, replace(REFINE, **size))


# ---------------------------------------------------------------- every option reaches


@pytest.mark.parametrize("option", ["prompt", "image", "negative", "fps", "detail_gain"])
def test_a_condition_of_the_base_reaches(cascade, bundles, image, base_latent, option):
    options, used, seen, prompt = BASE, cascade, image, PROMPT
    if option == "prompt":
        prompt = "a boat"
    elif option == "image":
        seen = 1 - image
    elif option == "detail_gain":
        used = Cascade(bundles(), detail_gain="once")
    else:
        options = replace(BASE, **{option: {"negative": "calm", "fps": 8}[option]})
    latent = used.sample_base(used.condition(seen, prompt, options), options)
    assert toy.error(latent, base_latent) > DIFFERENT


@pytest.mark.parametrize(
    "option, value", [("guidance", 1.0), ("guidance", 4.0), ("steps", 3), ("eta", 1.0), ("seed", 1)]
)
def test_a_sampling_option_of_the_base_reaches(cascade, conditions, base_latent, option, value):
    latent = cascade.sample_base(conditions, replace(BASE, **{option: value}))
    assert toy.error(latent, base_latent) > DIFFERENT


def test_noise_given_is_the_noise_used(cascade, conditions, base_latent):
    same = cascade.sample_base(conditions, replace(BASE, seed=7), noise=initial_noise(conditions.shape, 0))
    assert torch.equal(same, base_latent)


@pytest.mark.parametrize(
    "option, value",
    [
        ("steps", 3),
        ("guidance", 1.0),
        ("guidance", 3.0),
        ("rescale", 0.0),
        ("rescale", 1.0),
        ("noise_level", 500),
        ("solver", "heun"),
        ("entry", "inversion"),
        ("eta", 0.0),
        ("seed", 1),
        ("negative", "calm"),
        ("prompt", "a boat"),
    ],
)
def test_an_option_of_the_refiner_reaches(cascade, encoded, refined, option, value):
    said = (value, REFINE) if option == "prompt" else (PROMPT, replace(REFINE, **{option: value}))
    assert toy.error(cascade.sample_refiner(encoded, *said), refined) > DIFFERENT


def test_noise_given_to_the_refiner_is_the_noise_used(cascade, encoded):
    options = replace(REFINE, eta=0.0)
    seeded = cascade.sample_refiner(encoded, PROMPT, options)
    noise = initial_noise(tuple(encoded.shape), derived_seed(0, "refiner noise"))
    assert torch.equal(cascade.sample_refiner(encoded, PROMPT, replace(options, seed=9), noise=noise), seeded)
    assert toy.error(cascade.sample_refiner(encoded, PROMPT, options, noise=1 - noise), seeded) > DIFFERENT


def test_less_noise_keeps_more_of_the_video(cascade, encoded):
    """Guided by nothing and noised little, the video stays; from high up it does not."""
    kept = [
        toy.error(
            cascade.sample_refiner(encoded, PROMPT, replace(REFINE, noise_level=level, steps=1, guidance=1)), encoded
        )
        for level in (2, 900)
    ]
    assert kept[0] < 0.5 * kept[1]


# ---------------------------------------------------------------- None is the release's own


class Enough(Exception):
    """Raised by a callback after the first steps."""


def first_steps(sample, evaluations):
    """What a run's callback sees at its first evaluations: (steps, x, denoised) of each."""
    seen = []

    def callback(step, steps, x, denoised):
        seen.append((steps, x, denoised))
        if len(seen) == evaluations:
            raise Enough

    with pytest.raises(Enough):
        sample(callback)
    return seen


def same_steps(left, right):
    return all(
        a[0] == b[0] and torch.equal(a[1], b[1]) and torch.equal(a[2], b[2]) for a, b in zip(left, right, strict=True)
    )


@pytest.mark.parametrize("kind", ["i2vgen_xl", "image2video"])
def test_none_is_the_releases_own_in_the_base(cascade_of, image, kind):
    cascade, release = cascade_of(base=kind), RELEASES[kind]

    def steps_of(options):
        conditions = cascade.condition(image, PROMPT, options)
        return first_steps(lambda callback: cascade.sample_base(conditions, options, callback=callback), 3)

    unsaid = replace(BASE, steps=None)
    guidance = {"i2vgen_xl": 9.0, "image2video": 3.0}[kind]
    said = replace(BASE, steps=50, guidance=guidance, negative=release.negative_prompt)
    first = steps_of(unsaid)
    assert [steps for steps, *_ in first] == [50] * 3
    assert same_steps(first, steps_of(said))
    assert not same_steps(first, steps_of(replace(said, guidance=guidance + 1)))


@pytest.mark.parametrize(
    "kind, solver, own",
    [
        (
            "vid2vid_xl",
            "dpmpp_2m_sde",
            RefineOptions(steps=30, guidance=7.5, rescale=0.2, noise_level=600, entry="noise"),
        ),
        ("vid2vid_xl", "heun", RefineOptions(steps=50, guidance=7.5, rescale=0.2, noise_level=600, entry="noise")),
        ("sr600", "dpmpp_2m_sde", RefineOptions(steps=30, guidance=9, rescale=0.3, noise_level=700, entry="inversion")),
    ],
)
def test_none_is_the_releases_own_in_the_refiner(cascade_of, kind, solver, own):
    cascade = cascade_of(refiner=kind)
    latent = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    inverted = 31 if own.entry == "inversion" else 0

    def steps_of(options):
        options = replace(options, solver=solver)
        return first_steps(
            lambda callback: cascade.sample_refiner(latent, PROMPT, options, callback=callback), inverted + 3
        )

    unsaid = steps_of(RefineOptions())
    assert [steps for steps, *_ in unsaid] == [inverted + own.steps] * (inverted + 3)
    said = replace(own, negative=RELEASES[kind].negative_prompt)
    assert same_steps(unsaid, steps_of(said))
    if not inverted:  # which takes a while; guidance comes after it in the same way
        assert not same_steps(unsaid, steps_of(replace(said, guidance=own.guidance + 1)))


def with_release(source, folder, part, own):
    """A copy of a bundle whose part has settings of its own."""
    shutil.copytree(source, folder, copy_function=os.link)
    file = folder / part / "config.json"
    settings = json.loads(file.read_text(encoding="utf-8")) | {"release": own}
    file.unlink()  # a link: writing it would write the original
    file.write_text(json.dumps(settings), encoding="utf-8")
    return Cascade(folder)


def test_a_bases_own_settings_are_followed(bundles, image, tmp_path, cascade):
    own = {"width": 72, "height": 64, "frames": 2, "fps": 8, "steps": 2, "guidance": 3, "negative_prompt": "calm"}
    used = with_release(bundles(), tmp_path / "own", "unet", own | {"offset_noise": 0.5})
    conditions = used.condition(image, PROMPT, BaseOptions())
    said = BaseOptions(width=72, height=64, frames=2, fps=8, steps=2, guidance=3, negative="calm")
    theirs = cascade.condition(image, PROMPT, said)
    assert conditions.shape == theirs.shape and torch.equal(conditions.fps, theirs.fps)
    assert torch.equal(conditions.positive, theirs.positive) and torch.equal(conditions.negative, theirs.negative)
    noise = initial_noise(theirs.shape, 0, 0.5)
    latent = used.sample_base(conditions, BaseOptions())
    assert torch.equal(latent, cascade.sample_base(theirs, said, noise=noise))
    assert used.base.release == release_of("i2vgen_xl", own | {"offset_noise": 0.5})
    assert used.condition(image, PROMPT, BaseOptions(width=64, frames=1)).shape == (1, 4, 8, 8), "options go first"


def test_a_refiners_own_settings_are_followed(bundles, video, encoded, tmp_path, cascade):
    own = {"width": 88, "height": 64, "steps": 2, "guidance": 2, "rescale": 0.7, "noise_level": 300}
    used = with_release(bundles(), tmp_path / "own", "refiner", own | {"prompt_suffix": "", "negative_prompt": "calm"})
    assert torch.equal(used.encode_video(video, RefineOptions()), encoded)
    refined = used.sample_refiner(encoded, PROMPT + RELEASES["vid2vid_xl"].prompt_suffix, RefineOptions())
    said = RefineOptions(steps=2, guidance=2, rescale=0.7, noise_level=300, negative="calm")
    assert torch.equal(refined, cascade.sample_refiner(encoded, PROMPT, said))


def test_a_size_of_its_own_that_cannot_be_is_refused(bundles, image, tmp_path):
    with pytest.raises(InputError, match="height: expected a multiple of 8 from 64 to 16384 pixels, found 100"):
        with_release(bundles(), tmp_path / "own", "unet", {"height": 100}).condition(image, PROMPT, BaseOptions())


def test_the_refiners_suffix_is_appended(cascade, encoded, monkeypatch):
    texts = []
    encode = type(cascade.text_encoder).encode
    monkeypatch.setattr(
        type(cascade.text_encoder), "encode", lambda self, prompts, *_: texts.append(prompts) or encode(self, prompts)
    )
    cascade.sample_refiner(encoded, PROMPT, REFINE)
    release = RELEASES["vid2vid_xl"]
    assert texts == [[PROMPT + release.prompt_suffix, release.negative_prompt]]


def test_a_warning_names_the_words_that_are_cut(cascade, image, encoded, caplog):
    """The release's own words are cut under most prompts: that is said to those who ask for it alone."""
    caplog.set_level("INFO", logger="i2vgen_xl")
    long = "a red fox runs across the snow and " * 12
    cascade.sample_refiner(encoded, f"{PROMPT}, {PROMPT}", REFINE)
    (record,) = caplog.records
    assert record.levelname == "INFO"
    assert record.message.startswith(
        "the refiner's prompt: of the words that its release adds, those after the first 75"
    )
    assert record.message.endswith(", 4k render")
    caplog.clear()
    cascade.condition(image, long, replace(BASE, negative=long))
    cascade.sample_refiner(encoded, long, replace(REFINE, negative=long))
    whose = ["the prompt", "the negative prompt", "the refiner's prompt", "the refiner's negative prompt"]
    assert [record.message.split(": what comes after")[0] for record in caplog.records] == whose
    assert {record.levelname for record in caplog.records} == {"WARNING"}


# ---------------------------------------------------------------- the other releases


def test_image2video_reads_neither_text_nor_image_latent(bundles, image, tmp_path):
    folder = tmp_path / "bundle"
    shutil.copytree(bundles(base="image2video"), folder, copy_function=os.link)
    shutil.rmtree(folder / "text_encoder")
    shutil.rmtree(folder / "tokenizer")
    cascade = Cascade(folder)
    conditions = cascade.condition(image, PROMPT, BASE)
    assert conditions.positive.shape == (1, 4, 64) and conditions.details is None
    assert toy.error(conditions.negative, conditions.positive) > 1e-2
    latent = cascade.sample_base(conditions, BASE)
    assert torch.equal(cascade.sample_base(cascade.condition(image, "a boat", BASE), BASE), latent)
    assert torch.equal(cascade.sample_base(conditions, BASE, noise=initial_noise(conditions.shape, 0, 0.1)), latent)
    plain = cascade.sample_base(conditions, BASE, noise=initial_noise(conditions.shape, 0))
    assert toy.error(plain, latent) > DIFFERENT, "its first noise has an offset"
    assert cascade.decode(latent).shape == (2, 64, 72, 3)


def test_sr600_is_what_the_folder_says_or_the_caller(bundles, cascade_of, encoded):
    said = cascade_of(refiner="sr600")
    assert said.refiner.unet.config.kind == "sr600"
    refined = said.sample_refiner(encoded, PROMPT, REFINE)
    assert torch.isfinite(refined).all()

    other = Cascade(bundles(refiner="sr600"), refiner_kind="vid2vid_xl")
    assert other.refiner.unet.config.kind == "vid2vid_xl"
    assert toy.error(other.sample_refiner(encoded, PROMPT, REFINE), refined) > DIFFERENT


# ---------------------------------------------------------------- what is refused


@pytest.fixture
def copy(bundles, tmp_path):
    """A bundle whose files may be moved and removed, not written."""
    return shutil.copytree(bundles(), tmp_path / "bundle", copy_function=os.link)


def test_a_missing_refiner_is_refused(copy, encoded):
    shutil.rmtree(copy / "refiner")
    cascade = Cascade(copy)
    with pytest.raises(InputError, match=r"expected one with refiner/ in it, found .*bundle.* base stage alone"):
        cascade.sample_refiner(encoded, PROMPT, REFINE)


def test_a_folder_that_is_no_bundle_is_refused(tmp_path):
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(InputError, match="model folder: expected one with unet/ in it"):
            Cascade(folder)


@pytest.mark.parametrize("part", ["vae", "text_encoder", "image_encoder"])
def test_a_missing_part_is_refused(copy, image, part):
    shutil.rmtree(copy / part)
    with pytest.raises(InputError, match=part):
        Cascade(copy).condition(image, PROMPT, BASE)


def swap(folder):
    (folder / "unet").rename(folder / "other")
    (folder / "refiner").rename(folder / "unet")
    (folder / "other").rename(folder / "refiner")


def test_a_refiner_in_the_bases_place_is_refused(copy, image):
    swap(copy)
    with pytest.raises(InputError, match="vid2vid_xl"):
        Cascade(copy).condition(image, PROMPT, BASE)


def test_a_base_in_the_refiners_place_is_refused(copy, encoded):
    swap(copy)
    with pytest.raises(InputError, match="i2vgen_xl"):
        Cascade(copy).sample_refiner(encoded, PROMPT, REFINE)


@pytest.mark.parametrize(
    "options", [{"steps": -1}, {"steps": 1000}, {"frames": 0}, {"frames": -1}, {"eta": 2.0}], ids=str
)
@pytest.mark.parametrize("kind", ["i2vgen_xl", "image2video"])
def test_settings_of_the_base_that_cannot_be(cascade_of, image, kind, options):
    cascade, options = cascade_of(base=kind), replace(BASE, **options)
    with pytest.raises(InputError, match=r"steps|frames|eta"):
        cascade.sample_base(cascade.condition(image, PROMPT, options), options)


@pytest.mark.parametrize(
    "options",
    [{"steps": -1}, {"noise_level": 1}, {"noise_level": 1001}, {"solver": "euler"}, {"entry": "photo"}, {"eta": -1.0}],
    ids=str,
)
def test_settings_of_the_refiner_that_cannot_be(cascade, encoded, options):
    with pytest.raises(InputError):
        cascade.sample_refiner(encoded, PROMPT, replace(REFINE, **options))


# ---------------------------------------------------------------- memory


def test_guided_halves_go_one_after_the_other_where_memory_runs_out(
    cascade, conditions, base_latent, monkeypatch, caplog
):
    network = cascade.base.unet
    velocity, rows = network._velocity, []

    def out_of_memory_for_two(x, timesteps, hint, evaluation):
        rows.append(len(evaluation.prepared.context))
        if rows[-1] > 1:
            raise torch.cuda.OutOfMemoryError("made up")
        return velocity(x, timesteps, hint, evaluation)

    monkeypatch.setattr(network, "_velocity", out_of_memory_for_two)
    assert toy.error(cascade.sample_base(conditions, BASE), base_latent) < 1e-5
    assert rows == [2] + [1, 1] * BASE.steps, "the batch is not tried again"
    assert "one after the other" in caplog.text


@pytest.mark.parametrize("device", ["nonsense", "cuda:99", "meta"])
def test_a_device_that_is_not_there(bundles, device):
    with pytest.raises(InputError, match=r"device: expected cpu.*, found '"):
        Cascade(bundles(), device=device)


def test_a_video_that_memory_has_no_room_for(cascade, image, video, monkeypatch):
    """Said before anything of its size is made."""
    monkeypatch.setattr("i2vgen_core.parts.machine_bytes", lambda _: 8 * 2**30)
    message = "fits into the 8.0 GiB of memory of this machine, found 4096 x 512x512 pixels, which take about"
    with pytest.raises(InputError, match=message):
        cascade.condition(image, PROMPT, replace(BASE, width=512, height=512, frames=4096))
    with pytest.raises(InputError, match=r"found 1 x 16384x16384 pixels, which take about 384\.0 GiB"):
        cascade.encode_video(video, replace(REFINE, width=16384, height=16384))
