"""What we write as diffusers' layout is a folder that diffusers loads and runs."""

import shutil

import pytest
import torch
import toy
from diffusers import I2VGenXLPipeline
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from PIL import Image
from safetensors import safe_open
from transformers import CLIPImageProcessor

from i2vgen_core import BaseOptions, Cascade
from i2vgen_core.checkpoints.bundle import write_index, write_tensors
from i2vgen_core.sampling.noise import initial_noise

PROMPT, NEGATIVE = "a red fox runs", "blurry"


@pytest.fixture(scope="module")
def pipeline(bundles):
    return I2VGenXLPipeline.from_pretrained(bundles())


def test_every_part_is_there(pipeline):
    assert all(part is not None for part in pipeline.components.values())
    assert pipeline.vae.config.scaling_factor == 0.18215
    assert pipeline.feature_extractor.crop_size["height"] == toy.SIZE.image_size


def test_its_feature_extractor_is_clips(pipeline):
    side = toy.SIZE.image_size
    made = CLIPImageProcessor(size={"shortest_edge": side}, crop_size={"height": side, "width": side})
    picture = torch.randint(0, 256, (90, 130, 3), dtype=torch.uint8).numpy()
    expected, found = (each(picture, return_tensors="pt").pixel_values for each in (made, pipeline.feature_extractor))
    assert torch.equal(expected, found) and expected.shape == (1, 3, side, side)


def test_its_tokens_are_the_official_ones(pipeline, bundles):
    given = {"padding": "max_length", "truncation": True, "return_tensors": "pt"}
    tokens = pipeline.tokenizer(["a fox", PROMPT * 40], **given).input_ids
    assert torch.equal(tokens, Cascade(bundles()).text_encoder.tokenizer(["a fox", PROMPT * 40]))


def test_it_samples_what_we_sample(pipeline, bundles, monkeypatch):
    """Up to CLIP's picture, which diffusers resizes another way (its embedding is off by 0.6 %, guidance enlarges that); the
    details once, as diffusers adds them; the mode of the VAE's posterior; prompts as we encode them, since the pipeline's own
    encoding does not run with transformers 5."""
    cascade = Cascade(bundles(), detail_gain="once")
    image = Image.fromarray((torch.rand(64, 64, 3, generator=torch.Generator().manual_seed(1)) * 255).byte().numpy())
    options = BaseOptions(width=64, height=64, frames=2, steps=2, negative=NEGATIVE)
    conditions = cascade.condition(image, PROMPT, options)
    ours = cascade.sample_base(conditions, options)
    monkeypatch.setattr(DiagonalGaussianDistribution, "sample", lambda self, generator=None: self.mode())
    text = cascade.text_encoder.encode([PROMPT, NEGATIVE])
    noise = initial_noise(conditions.shape, 0).transpose(0, 1)[None]
    theirs = pipeline(
        prompt=None,
        image=image,
        prompt_embeds=text[:1],
        negative_prompt_embeds=text[1:],
        latents=noise,
        width=64,
        height=64,
        num_frames=2,
        num_inference_steps=2,
        target_fps=16,
        output_type="latent",
    ).frames
    assert toy.error(theirs[0].transpose(0, 1) / 0.18215, ours) < 0.05
    other = cascade.sample_base(conditions, BaseOptions(width=64, height=64, frames=2, steps=2, seed=1))
    assert toy.error(other, ours) > 0.2


def test_an_index_names_what_is_there(bundles, tmp_path):
    """None where a part is missing, or where diffusers has no pipeline for the base."""
    folder = tmp_path / "model"
    shutil.copytree(bundles(), folder, ignore=shutil.ignore_patterns("model_index.json", "scheduler", "vae"))
    write_index(folder)
    assert not (folder / "model_index.json").exists() and not (folder / "scheduler").exists()
    shutil.copytree(bundles() / "vae", folder / "vae")
    write_index(folder)
    assert (folder / "model_index.json").exists() and (folder / "scheduler" / "scheduler_config.json").exists()
    assert not (bundles(base="image2video") / "model_index.json").exists()


def test_the_same_weights_are_the_same_bytes(tmp_path):
    """The library's own writer orders the metadata anew in each file: eight of them were up to eight files."""
    state = {"b": torch.rand(3, 5).T, "a": torch.tensor(2.0), "half": torch.rand(3).half(), "none": torch.zeros(0, 4)}
    metadata = {name: name for name in ("kind", "rank", "alpha", "format", "source")}
    for number in range(8):
        write_tensors(tmp_path / f"{number}.safetensors", state, metadata)
    assert len({file.read_bytes() for file in tmp_path.iterdir()}) == 1
    with safe_open(tmp_path / "0.safetensors", "pt") as file:
        assert file.metadata() == metadata
        assert all(torch.equal(file.get_tensor(name), value) for name, value in state.items())
