"""The built-in cascade is whole, small, and makes the videos that it made when it was trained."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import toy
from safetensors import safe_open

from i2vgen_core import assets
from i2vgen_core.__main__ import main
from i2vgen_core.cascade import Cascade
from i2vgen_core.checkpoints.encoders import load_vae
from i2vgen_core.checkpoints.read import read_config
from i2vgen_core.config import VAE_SCALE
from i2vgen_core.encoders.config import latent_rgb
from i2vgen_core.errors import CheckpointError
from i2vgen_core.media.compare import psnr
from i2vgen_core.media.images import read_image
from i2vgen_core.media.rendering import render
from i2vgen_core.media.spectrum import band_distance, spatial_spectrum
from i2vgen_core.media.video import read_video
from i2vgen_core.media.world import opposite
from i2vgen_core.sampling.options import BaseOptions
from i2vgen_core.training import measure, vae
from i2vgen_core.training.evaluate import base_video, held_out_case, refined_video

FRAMES = Path(__file__).parents[1] / "frames"
PARTS = ("unet", "vae", "text_encoder", "image_encoder", "refiner")
OBEYED = (4, 13, 26)
"""Held-out scenes whose shape travels, clearly, as it is told."""

make = toy.load_module(FRAMES / "make.py")


@pytest.fixture(scope="module")
def cascade():
    return Cascade()


@pytest.fixture(scope="module")
def base_frames(cascade):
    return make.base(cascade)


def difference(ours, name):
    """Mean and largest difference from a picture of the folder, in 255ths."""
    shown = read_image(FRAMES / f"{name}.png")[0]
    steps = (make.sheet(ours) - shown).abs() * 255
    return steps.mean().item(), steps.max().item()


# ---------------------------------------------------------------- the folder


def test_it_is_whole_and_small():
    files = [file for file in assets.FOLDER.rglob("*") if file.is_file()]
    names = {file.relative_to(assets.FOLDER).parts[0] for file in files}
    assert names == {*PARTS, "model_index.json", "README.md"}
    assert sum(file.stat().st_size for file in files) <= 32 * 2**20


@pytest.mark.parametrize("part", PARTS)
def test_weights_are_in_half_precision_and_finite(part):
    (file,) = (assets.FOLDER / part).glob("*.safetensors")
    with safe_open(file, "pt") as weights:
        for key in weights.keys():  # noqa: SIM118
            tensor = weights.get_tensor(key)
            assert tensor.dtype == torch.float16 and tensor.isfinite().all(), key


def test_its_settings_are_its_own(cascade):
    stated = json.loads((assets.FOLDER / "unet" / "config.json").read_text(encoding="utf-8"))["release"]
    release = cascade.base.release
    assert (release.width, release.height, release.frames) == (128, 64, 16)
    assert (release.steps, release.guidance) == (stated["steps"], stated["guidance"])
    refiner = cascade.refiner.release
    assert (refiner.width, refiner.height, refiner.noise_level) == (288, 144, 300)


# ---------------------------------------------------------------- what it makes


@pytest.mark.slow
def test_base_frames_are_the_stored_ones(base_frames):
    """Other processors round otherwise: see tests/frames/README.md for what was seen."""
    mean, most = difference(base_frames, "base")
    assert mean <= 0.5 and most <= 4


@pytest.mark.slow
def test_refined_frames_are_the_stored_ones(cascade, base_frames):
    mean, most = difference(make.refined(cascade, base_frames), "refined")
    assert mean <= 0.5 and most <= 4


@pytest.mark.slow
def test_frames_of_another_seed_are_not_the_stored_ones(cascade):
    options = replace(make.BASE, seed=2)
    latent = cascade.sample_base(cascade.condition(read_image(make.IMAGE), make.PROMPT, options), options)
    mean, most = difference(cascade.decode(latent), "base")
    assert mean > 0.5 and most > 4


@pytest.mark.slow
def test_frame_0_is_the_given_image(cascade, base_frames):
    image = read_image(make.IMAGE)
    small = torch.nn.functional.interpolate(image.movedim(3, 1), (64, 128), mode="area").movedim(1, 3)
    assert psnr(base_frames[:1], small) > 20


@pytest.mark.parametrize("seed", OBEYED)
@pytest.mark.slow
def test_the_shape_moves_as_it_is_told(cascade, seed):
    """Opposite prompts for one picture, each obeyed."""
    case = held_out_case(seed, 128, 64, 16, fps=8)
    other = replace(case, scene=opposite(case.scene))
    assert case.obeyed(case.tracker(base_video(cascade, case)))
    assert other.obeyed(case.tracker(base_video(cascade, other)))


@pytest.mark.slow
def test_the_refiner_brings_back_the_high_band(cascade):
    case = held_out_case(0, 128, 64, 8, fps=8)
    truth = render(case.scene, 288, 144, 8, 8).frames
    blurred = measure.upsample(case.truth.frames, 288, 144)
    spectra = [spatial_spectrum(frames) for frames in (truth, blurred, refined_video(cascade, blurred, case))]
    before, after = (band_distance(spectrum, spectra[0], "high") for spectrum in spectra[1:])
    assert after < 0.6 * before


# ---------------------------------------------------------------- where no model is named


@pytest.mark.slow
def test_generate_uses_it(tmp_path):
    out = tmp_path / "out.mp4"
    arguments = ["generate", "--image", str(make.IMAGE), "--prompt", make.PROMPT, "--out", str(out)]
    assert main([*arguments, "--steps", "2", "--refine-steps", "2", "--frames", "4"]) == 0
    frames, _ = read_video(out)
    assert frames.shape == (4, 144, 288, 3)


def test_a_cascade_is_it():
    assert Cascade().folder == assets.FOLDER
    assert BaseOptions().width is None


@pytest.mark.slow
def test_its_latents_are_previewed_in_their_colours():
    """By the factors in the VAE's config.json, nearly as well as by the best ones for these pictures, and better than by
    Stable Diffusion's. After new weights: `write_latent_rgb(FOLDER)` of i2vgen_core.training.vae."""
    config = vae.VAETraining(batch=4)
    batches = vae.unseen_pictures(config.data, config, count=4)
    autoencoder = load_vae(assets.FOLDER / "vae").model
    pixels = torch.cat(batches).movedim(-1, 1) * 2 - 1
    with torch.no_grad():
        latent = VAE_SCALE * autoencoder.encode(pixels).latent_dist.mode()
    small = torch.nn.functional.interpolate(pixels, latent.shape[2:], mode="area")

    def previewed(rows):
        *factors, bias = torch.tensor(rows)
        preview = torch.einsum("nchw,cr->nrhw", latent, torch.stack(factors)) + bias[:, None, None]
        return psnr((preview + 1) / 2, (small + 1) / 2)

    shipped = latent_rgb(read_config(assets.FOLDER / "vae"))
    assert previewed(shipped) > max(18, previewed(vae.fit_latent_rgb(autoencoder, batches)) - 1)
    stable_diffusion = [[0.3512, 0.2297, 0.3227], [0.3250, 0.4974, 0.2350], [-0.2829, 0.1762, 0.2721]]
    assert previewed(shipped) > previewed([*stable_diffusion, [-0.2120, -0.2616, -0.7177], [0.0, 0.0, 0.0]]) + 6


@pytest.mark.parametrize(
    "rows", ["red", [[0.1] * 3] * 4, [[0.1] * 4] * 5, [[0.1, "a", 0.1]] * 5, [[float("nan")] * 3] * 5, [0.1] * 5]
)
def test_colours_that_are_no_colours_are_refused(rows):
    with pytest.raises(CheckpointError, match="five rows of three numbers"):
        latent_rgb({"latent_rgb": rows})
