"""CLIP and the VAE without a host: golden values, layouts, saved folders, and what is refused."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import replace
from pathlib import Path

import pytest
import released
import torch
import transformers
from diffusers import AutoencoderKL
from safetensors.torch import load_file, save_file

from i2vgen_core.checkpoints import clip_keys, encoders, vae_keys
from i2vgen_core.checkpoints.encoder_sizes import text_config, vae_config, vision_config
from i2vgen_core.encoders.config import TextConfig, VisionConfig
from i2vgen_core.encoders.tokenizer import END, VOCABULARY, Tokenizer
from i2vgen_core.encoders.vae_decoder import decode, upsample_and_convolve
from i2vgen_core.errors import CheckpointError, InputError

GOLDEN = Path(__file__).parents[1] / "golden"
_spec = importlib.util.spec_from_file_location("encoders_golden", GOLDEN / "encoders_golden.py")
golden = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(golden)

TEXT = {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 3}
VISION = {"image_size": 28, "patch_size": 14, "width": 32, "head_width": 16, "layers": 2, "mlp_ratio": 2.0}
DDCONFIG = {
    "double_z": True,
    "z_channels": 4,
    "in_channels": 3,
    "out_ch": 3,
    "ch": 32,
    "ch_mult": [1, 2, 2],
    "num_res_blocks": 1,
    "attn_resolutions": [],
}


def _filled(shapes):
    generator = torch.Generator().manual_seed(0)
    return {key: torch.randn(shape, generator=generator) * 0.1 for key, shape in shapes.items()}


@pytest.fixture(scope="module")
def clip():
    """Both towers in open_clip's layout, and what its files hold beside them."""
    extra = {"logit_scale": torch.tensor(4.6), "attn_mask": torch.zeros(77, 77)}
    return _filled(golden.open_clip_shapes(TEXT, VISION, 24)) | extra


@pytest.fixture(scope="module")
def vae():
    return _filled(golden.ldm_vae_shapes(DDCONFIG))


LOADERS = {
    "text": lambda sd: encoders.load_text_encoder(sd, head_dim=8),
    "vision": lambda sd: encoders.load_image_encoder(sd, head_dim=16),
    "vae": encoders.load_vae,
}


def _run(kind, encoder):
    generator = torch.Generator().manual_seed(1)
    if kind == "text":
        return encoder.encode(["a red fox", ""])
    if kind == "vision":
        return encoder.encode(torch.randn(2, 3, 28, 28, generator=generator))
    return encoder.decode(encoder.encode(torch.rand(3, 8, 12, 3, generator=generator)))


# ---- golden values


@pytest.fixture(scope="module")
def golden_values():
    return golden.encoder_values(GOLDEN), load_file(GOLDEN / "encoders.safetensors")


@pytest.mark.parametrize("name", ["tokens", "text_penultimate", "image_embeds", "vae_moments", "vae_decoded"])
def test_golden(golden_values, name):
    ours, theirs = golden_values
    assert ours.keys() == theirs.keys()
    value, limit = ours[name]
    assert value.shape == theirs[name].shape
    error = (value - theirs[name]).abs().max() / theirs[name].abs().max()
    assert error <= limit


# ---- key tables


def _assert_same(a, b):
    assert a.keys() == b.keys()
    for key in a:
        assert torch.equal(a[key], b[key]), key


@pytest.mark.parametrize(
    ("tower", "there", "back"),
    [
        (clip_keys.text_tower, clip_keys.text_to_transformers, clip_keys.text_to_open_clip),
        (clip_keys.vision_tower, clip_keys.vision_to_transformers, clip_keys.vision_to_open_clip),
    ],
)
def test_clip_keys_both_ways(clip, tower, there, back):
    ours = tower(clip)
    theirs = there(clip)
    assert not ours.keys() & theirs.keys()
    _assert_same(back(theirs), ours)
    _assert_same(there(back(theirs)), theirs)
    _assert_same(back(clip), ours)
    _assert_same(there(theirs), theirs)


@pytest.mark.parametrize(("mult", "blocks"), [([1, 2, 4, 4], 2), ([1, 2], 1), ([1, 1, 2], 3), ([1, 1, 1], 0)])
def test_vae_keys_both_ways(mult, blocks):
    ldm = _filled(golden.ldm_vae_shapes(DDCONFIG | {"ch_mult": mult, "num_res_blocks": blocks}))
    theirs = vae_keys.vae_to_diffusers(ldm)
    _assert_same(vae_keys.vae_to_ldm(theirs), ldm)
    _assert_same(vae_keys.vae_to_diffusers(vae_keys.vae_to_ldm(theirs)), theirs)
    config = vae_config(ldm)
    assert config == vae_config(theirs)
    assert config.channels == tuple(32 * m for m in mult) and config.blocks == blocks
    assert encoders.load_vae(ldm).model.state_dict().keys() == theirs.keys()


def test_the_first_decoder_level_of_ldm_is_the_last_of_diffusers(vae):
    theirs = vae_keys.vae_to_diffusers(vae)
    assert torch.equal(theirs["decoder.up_blocks.0.resnets.1.conv1.weight"], vae["decoder.up.2.block.1.conv1.weight"])


def test_sizes_of_the_release():
    text = {"context_length": 77, "vocab_size": 49408, "width": 1024, "heads": 16, "layers": 24}
    vision = {"image_size": 224, "patch_size": 14, "width": 1280, "head_width": 80, "layers": 32}
    shapes = golden.open_clip_shapes(text, vision, 1024)
    weights = {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}
    assert text_config(weights) == TextConfig(49408, 77, 1024, 24, 64, 4096, skip_last=1)
    assert vision_config(weights) == VisionConfig(224, 14, 3, 1280, 32, 80, 5120, 1024)
    towers = clip_keys.text_to_transformers(weights) | clip_keys.vision_to_transformers(weights)
    assert text_config(towers) == text_config(weights)
    assert vision_config(towers) == vision_config(weights)


# ---- layouts


def _layouts(kind, clip, vae):
    if kind == "vae":
        theirs = vae_keys.vae_to_diffusers(vae)
        newer = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
        older = {}
        for key, value in theirs.items():
            for new, old in newer.items():
                key = key.replace(f"attentions.0.{new}.", f"attentions.0.{old}.")
            older[key] = value
        assert older.keys() != theirs.keys()
        prefixed = {f"first_stage_model.{key}": value for key, value in vae.items()}
        beside = {"model.diffusion_model.out.2.weight": torch.zeros(1), "model_ema.decay": torch.zeros(1)}
        training = {"loss.logvar": torch.zeros(())}
        return [theirs, older, prefixed | beside, {f"module.{k}": v for k, v in vae.items()}, vae | training]
    text, vision = clip_keys.text_to_transformers(clip), clip_keys.vision_to_transformers(clip)
    unused = {"logit_scale": torch.zeros(()), "text_projection.weight": torch.zeros(24, 16)}
    unused |= {f"{tower}.embeddings.position_ids": torch.arange(5) for tower in ("text_model", "vision_model")}
    layouts = [text | vision | unused, {f"module.{k}": v for k, v in clip.items()}]
    layouts.append({f"cond_stage_model.model.{k}": v for k, v in clip.items()} | {"betas": torch.zeros(1)})
    if kind == "text":
        layouts.append({key.removeprefix("text_model."): value for key, value in text.items()})
    return layouts


@pytest.mark.parametrize("kind", LOADERS)
def test_every_layout_gives_the_same(kind, clip, vae):
    expected = LOADERS[kind](vae if kind == "vae" else clip)
    for layout in _layouts(kind, clip, vae):
        encoder = LOADERS[kind](layout)
        assert encoder.config == expected.config
        _assert_same(encoder.model.state_dict(), expected.model.state_dict())


FAULTS = {
    "text": ("transformer.resblocks.1.attn.in_proj_weight", "text_model.encoder.layers.1.self_attn.k_proj.weight"),
    "vision": ("visual.proj", "visual_projection.weight"),
    "vae": ("encoder.mid.attn_1.q.weight", "encoder.mid_block.attentions.0.to_q.weight"),
}


@pytest.mark.parametrize("theirs", [False, True], ids=["ours", "theirs"])
@pytest.mark.parametrize("kind", LOADERS)
def test_a_fault_names_its_tensor(kind, theirs, clip, vae):
    weights = dict(vae if kind == "vae" else clip)
    if theirs:
        weights = {
            "text": clip_keys.text_to_transformers,
            "vision": clip_keys.vision_to_transformers,
            "vae": vae_keys.vae_to_diffusers,
        }[kind](weights)
    key = FAULTS[kind][theirs]
    stem = {"text": ("transformer.", "text_model."), "vision": ("visual.", "vision_model."), "vae": ("encoder.",) * 2}
    load = LOADERS[kind]
    with pytest.raises(CheckpointError, match=f"{key}"):
        load({k: v for k, v in weights.items() if k != key})
    with pytest.raises(CheckpointError, match=f"unknown.*{stem[kind][theirs]}surplus"):
        load(weights | {f"{stem[kind][theirs]}surplus": torch.zeros(1)})
    if key != "visual_projection.weight":  # its own shape says how wide the embedding is
        with pytest.raises(CheckpointError, match=f"wrong shape.*{key}"):
            load(weights | {key: torch.cat([weights[key], weights[key]])})


@pytest.mark.parametrize("kind", LOADERS)
def test_another_model_is_refused(kind):
    with pytest.raises(CheckpointError, match=r"input_blocks\.0\.0\.weight"):
        LOADERS[kind]({"input_blocks.0.0.weight": torch.zeros(4)})


def test_a_small_vocabulary_is_refused(clip):
    small = clip | {"token_embedding.weight": clip["token_embedding.weight"][:1000]}
    with pytest.raises(CheckpointError, match="49408"):
        LOADERS["text"](small)


# ---- head dimension and the penultimate layer


def test_head_dimension_sources(clip):
    by_hand = text_config(clip, {"num_attention_heads": 4}, head_dim=8)
    assert by_hand.head_dim == 8
    assert text_config(clip, {"num_attention_heads": 4}) == replace(by_hand, head_dim=4)
    assert text_config(clip, {"text_head_dim": "2"}) == replace(by_hand, head_dim=2)
    assert vision_config(clip, {"vision_head_dim": "8"}).head_dim == 8
    with pytest.raises(CheckpointError, match="64"):
        text_config(clip)


def test_head_dimension_of_a_file(clip, tmp_path):
    expected = _run("text", LOADERS["text"](clip)), _run("vision", LOADERS["vision"](clip))
    file = tmp_path / "clip.safetensors"
    save_file(clip, file, {"text_head_dim": "8", "vision_head_dim": "16"})
    assert torch.equal(_run("text", encoders.load_text_encoder(file)), expected[0])
    assert torch.equal(_run("vision", encoders.load_image_encoder(str(file))), expected[1])


def test_which_blocks_are_left_out(clip):
    tower = clip_keys.text_to_transformers(clip)
    assert text_config(clip, head_dim=8).skip_last == 1
    assert text_config(clip, {"i2vgen_skip_last": 0}, head_dim=8).skip_last == 0
    layer = {key: value for key, value in tower.items() if ".layers.0." in key}
    cut = tower | {key.replace(".0.", f".{i}."): value for i in range(23) for key, value in layer.items()}
    assert text_config(cut, head_dim=8).skip_last == 0
    whole = cut | {key.replace(".0.", ".23."): value for key, value in layer.items()}
    assert text_config(whole, head_dim=8).skip_last == 1
    with pytest.raises(CheckpointError, match="i2vgen_skip_last"):
        text_config(clip, {"i2vgen_skip_last": 3}, head_dim=8)


# ---- folders that transformers and diffusers save


def _text_model(layers=3):
    config = transformers.CLIPTextConfig(
        hidden_size=16, intermediate_size=40, num_hidden_layers=layers, num_attention_heads=4, hidden_act="quick_gelu"
    )
    return transformers.CLIPTextModel(config).eval()


@pytest.mark.parametrize(("layers", "skipped", "key"), [(3, 1, None), (3, 0, 0), (4, 2, 2), (23, 0, None)])
def test_text_folder(tmp_path, layers, skipped, key):
    model = _text_model(layers)
    model.save_pretrained(tmp_path)
    if key is not None:
        file = tmp_path / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"i2vgen_skip_last": key}))
    ours = encoders.load_text_encoder(tmp_path)
    tokens = Tokenizer()(["a red fox"])
    inner = getattr(model, "text_model", model)
    with torch.no_grad():
        hidden = model(input_ids=tokens, output_hidden_states=True).hidden_states[layers - skipped]
        expected = inner.final_layer_norm(hidden)
    torch.testing.assert_close(ours(tokens), expected, rtol=1e-5, atol=1e-5)


def test_image_folder(tmp_path):
    config = transformers.CLIPVisionConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, image_size=42, patch_size=14
    )
    model = transformers.CLIPVisionModelWithProjection(config).eval()
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    pixels = torch.randn(2, 3, 42, 42)
    with torch.no_grad():
        expected = model(pixel_values=pixels).image_embeds
    ours = encoders.load_image_encoder(tmp_path)
    assert ours.config.image_size == 42 and ours.config.activation == "quick_gelu"
    torch.testing.assert_close(ours.encode(pixels), expected, rtol=1e-5, atol=1e-5)


def test_both_towers_of_a_whole_clip_folder(tmp_path):
    config = transformers.CLIPConfig(
        text_config={"hidden_size": 16, "intermediate_size": 40, "num_hidden_layers": 3, "num_attention_heads": 4},
        vision_config={"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 8, "intermediate_size": 48},
        projection_dim=24,
    )
    transformers.CLIPModel(config).save_pretrained(tmp_path)
    text, vision = encoders.load_text_encoder(tmp_path).config, encoders.load_image_encoder(tmp_path).config
    assert (text.width, text.head_dim, vision.width, vision.head_dim, vision.projection) == (16, 4, 32, 4, 24)


@pytest.mark.parametrize(
    ("variant", "channels", "blocks"), [(None, (8, 16, 16), 1), ("fp16", (8, 16, 16), 1), (None, (8, 8, 8), 0)]
)
def test_vae_folder(tmp_path, variant, channels, blocks):
    torch.manual_seed(0)
    model = AutoencoderKL(
        block_out_channels=channels,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        layers_per_block=blocks,
        norm_num_groups=4,
    ).eval()
    model.save_pretrained(tmp_path, variant=variant)
    images = torch.rand(2, 16, 24, 3)
    with torch.no_grad():
        mode = model.encode(images.permute(0, 3, 1, 2) * 2 - 1).latent_dist.mode()
        expected = ((model.decode(mode).sample + 1) / 2).clamp(0, 1).permute(0, 2, 3, 1)
    ours = encoders.load_vae(tmp_path)
    assert (ours.config.channels, ours.config.blocks, ours.config.scale_factor) == (channels, blocks, 4)
    torch.testing.assert_close(ours.encode(images), mode, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours.decode(mode), expected, rtol=1e-5, atol=1e-5)


# ---- running


def test_frames_go_through_in_batches(vae):
    model = encoders.load_vae(vae)
    sizes = []
    model.model.encoder.register_forward_pre_hook(lambda _, args: sizes.append(args[0].shape[0]))
    model.model.decoder.conv_in.register_forward_pre_hook(lambda _, args: sizes.append(args[0].shape[0]))
    images = torch.rand(5, 8, 12, 3)
    latent = model.encode(images, frames_per_batch=2)
    decoded = model.decode(latent, frames_per_batch=3)
    assert sizes == [2, 2, 1, 3, 2]
    assert latent.shape == (5, 4, 2, 3) and decoded.shape == images.shape
    assert decoded.min() >= 0 and decoded.max() <= 1
    torch.testing.assert_close(latent, model.encode(images, frames_per_batch=5), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", [(0, 8, 8, 3), (1, 8, 8, 4), (1, 3, 8, 8), (1, 9, 8, 3), (1, 0, 8, 3), (8, 8, 3)])
def test_images_that_the_vae_refuses(vae, shape):
    with pytest.raises(InputError, match="image"):
        encoders.load_vae(vae).encode(torch.zeros(shape))


@pytest.mark.parametrize("shape", [(0, 4, 2, 2), (1, 16, 2, 2), (1, 4, 3, 2, 2)])
def test_latents_that_the_vae_refuses(vae, shape):
    with pytest.raises(InputError, match="latent"):
        encoders.load_vae(vae).decode(torch.zeros(shape))


def test_no_frames_per_batch(vae):
    with pytest.raises(InputError, match="frames_per_batch"):
        encoders.load_vae(vae).decode(torch.zeros(1, 4, 2, 2), frames_per_batch=0)


def test_an_image_of_another_size(clip):
    with pytest.raises(InputError, match="28"):
        LOADERS["vision"](clip).encode(torch.zeros(1, 3, 224, 224))


def test_half_precision_weights(clip, vae):
    text = encoders.load_text_encoder(clip, head_dim=8, dtype=torch.bfloat16)
    image = encoders.load_image_encoder(clip, head_dim=16, dtype=torch.bfloat16)
    model = encoders.load_vae(vae, dtype=torch.bfloat16)
    for kind, encoder in (("text", text), ("vision", image), ("vae", model)):
        assert {parameter.dtype for parameter in encoder.model.parameters()} == {torch.bfloat16}
        output = _run(kind, encoder)
        assert output.dtype == torch.float32 and not output.requires_grad
        exact = _run(kind, LOADERS[kind](vae if kind == "vae" else clip))
        torch.testing.assert_close(output, exact, rtol=0.1, atol=0.1)  # bfloat16 keeps 8 bits of a number


def test_nothing_stays_on_meta(clip, vae):
    for kind, load in LOADERS.items():
        encoder = load(vae if kind == "vae" else clip).to("cpu")
        tensors = [*encoder.model.parameters(), *encoder.model.buffers()]
        assert {tensor.device.type for tensor in tensors} == {"cpu"}


# ---- tokens


def _rows(tokenizer, *prompts):
    return [[token for token in row if token] for row in tokenizer(list(prompts)).tolist()]


def test_text_is_cleaned_as_open_clip_cleans_it():
    prompts = [
        "it\u2019s \u201ccurly\u201d &amp;amp; \ufb01ne",
        "  A\tFULL\u3000\uff57idth ",
        "sch\u00c3\u00b6n",
        "<|endoftext|>",
    ]
    clean = ['it\'s "curly" & fine', "a full width", "schön", "< |endoftext| >"]
    rows = _rows(Tokenizer(), *prompts, *clean)
    assert rows[:3] == rows[4:7]
    assert rows[3].count(END) == 1  # an end token that the prompt spells out is text


def test_folder_of_another_padding_and_form(tmp_path):
    published = transformers.CLIPTokenizerFast.from_pretrained(VOCABULARY, pad_token="<|endoftext|>")
    published.model_max_length = 10
    published.save_pretrained(tmp_path)
    prompts = ["", "Émile — 東京 🎬", "a fox " * 60]
    assert (tmp_path / "tokenizer.json").is_file()
    assert torch.equal(Tokenizer(tmp_path)(prompts), Tokenizer()(prompts))
    assert torch.equal(Tokenizer(tmp_path / "absent")(prompts), Tokenizer()(prompts))
    tokens = Tokenizer()(prompts)
    assert tokens.shape == (3, 77) and tokens[2, -1] == END and tokens[0, 2:].eq(0).all()


def test_another_vocabulary_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="49408"):
        Tokenizer(tmp_path)
    vocabulary = {"<|startoftext|>": 0, "<|endoftext|>": 1, "a</w>": 2}
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary))
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    with pytest.raises(CheckpointError, match="49408"):
        Tokenizer(tmp_path)


SDXL_VAES = {
    "by its config.json": ({}, {"scaling_factor": 0.13025}, "found SDXL's, scaling_factor 0.13025"),
    "by its metadata": ({}, {"scaling_factor": "0.13025"}, "found SDXL's, scaling_factor 0.13025"),
    "in its checkpoint": (
        {"conditioner.embedders.0.transformer.text_model.final_layer_norm.bias": torch.zeros(8)},
        {},
        "found a checkpoint of SDXL",
    ),
    "of no scale at all": ({}, {"scaling_factor": "x"}, "expected a number for scaling_factor, found 'x'"),
}


@pytest.mark.parametrize("what", SDXL_VAES)
def test_sdxls_vae_is_refused(what):
    """Its tensors have the same shapes."""
    beside, settings, message = SDXL_VAES[what]
    vae = {f"first_stage_model.{key}": value for key, value in released.ldm_vae().items()}
    for scale in (0.18215, 0.18125):  # as trained, and as the folder says
        assert encoders.load_vae(vae, settings={"scaling_factor": scale})
    with pytest.raises(CheckpointError, match=message):
        encoders.load_vae(vae | beside, settings=settings)


class TestDecoder:
    @pytest.mark.parametrize("height, width", [(1, 1), (2, 3), (5, 4)])
    def test_four_phases_are_a_convolution_at_twice_the_size(self, height, width):
        torch.manual_seed(0)
        conv, x = torch.nn.Conv2d(6, 5, 3, padding=1), torch.randn(2, 6, height, width)
        with torch.no_grad():
            expected = conv(torch.nn.functional.interpolate(x, scale_factor=2.0, mode="nearest"))
            assert torch.allclose(upsample_and_convolve(x, conv), expected, atol=1e-5)

    @pytest.mark.parametrize("size", [(2, 3), (3, 5)])
    def test_it_is_the_models_own(self, size):
        torch.manual_seed(0)
        channels = (32, 32, 64)
        blocks = {"down_block_types": ("DownEncoderBlock2D",) * 3, "up_block_types": ("UpDecoderBlock2D",) * 3}
        model = AutoencoderKL(block_out_channels=channels, layers_per_block=1, **blocks).eval()
        latent = torch.randn(2, 4, *size)
        with torch.no_grad():
            expected = model.decode(latent).sample
            assert (decode(model, latent) - expected).abs().max() <= 1e-5 * expected.abs().max()
