"""CLIP, CLIP_VISION and VAE of a bundle in the host: the same as without it, and what stock nodes do with them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch
import transformers
from diffusers import AutoencoderKL
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from i2vgen_core.checkpoints import encoders as core
from i2vgen_core.checkpoints.scaffold import SIZES, scaffold
from i2vgen_core.encoders.tokenizer import Tokenizer

from .in_process import Host

PROMPTS = ["a red fox jumps over the lazy dog, 4k", "", "it’s “curly” &amp; ﬁne, schön", "東京 🎬 café"]


@pytest.fixture(scope="module")
def encoders(host: Host) -> ModuleType:
    return host.module("nodes.host.encoders")


@pytest.fixture(scope="module")
def errors(host: Host) -> ModuleType:
    return host.module("i2vgen_core.errors")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights in fp16, as the host keeps CLIP's on every device: rounding would hide what is compared here."""
    folder = tmp_path_factory.mktemp("bundle") / "tiny"
    scaffold(folder, replace(SIZES["tiny"], dtype=torch.float16))
    return folder


@pytest.fixture(scope="module", autouse=True)
def _no_gradients():
    """The host runs nodes so."""
    with torch.inference_mode():
        yield


def _error(ours: Tensor, theirs: Tensor) -> float:
    assert ours.shape == theirs.shape
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()


def _prompt(host: Host, clip, text: str) -> Tensor:
    return host.nodes["CLIPTextEncode"]().encode(clip, text)[0][0][0]


def _image(size: int) -> Tensor:
    """[1, size, size, 3] in whole 255ths, which the host's preprocessing leaves alone."""
    return (torch.rand(1, size, size, 3, generator=torch.Generator().manual_seed(0)) * 255).round() / 255


def _pixels(vision, image: Tensor) -> Tensor:
    mean, deviation = torch.tensor(vision.image_mean), torch.tensor(vision.image_std)
    return ((image - mean) / deviation).movedim(-1, 1)


def _text_folder(folder: Path, layers: int, **settings) -> Path:
    config = transformers.CLIPTextConfig(
        **{"hidden_size": 32, "intermediate_size": 80, "num_attention_heads": 4, "num_hidden_layers": layers} | settings
    )
    transformers.CLIPTextModel(config).half().save_pretrained(folder / "text_encoder")
    return folder


def _vae_folder(folder: Path, channels: tuple[int, ...], **settings) -> Path:
    levels = len(channels)
    AutoencoderKL(
        block_out_channels=channels,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        **settings,
    ).save_pretrained(folder / "vae", variant="fp16")
    return folder


# ---- the same as without the host


def test_text(host, encoders, bundle):
    clip = encoders.load_clip(bundle / "text_encoder")
    theirs = core.load_text_encoder(bundle / "text_encoder", tokenizer=bundle / "tokenizer")
    for prompt in PROMPTS:
        ours = _prompt(host, clip, prompt)
        assert ours.shape == (1, 77, 64)
        assert _error(ours, theirs.encode([prompt])) < 1e-4


def test_tokens(encoders, bundle):
    """Padded with 0 and repaired as open_clip does, whichever form the tokenizer's folder has."""
    clip = encoders.load_clip(bundle / "text_encoder")
    tokens = [[token for token, _ in clip.tokenize(prompt)["h"][0]] for prompt in PROMPTS]
    assert tokens == Tokenizer()(PROMPTS).tolist()


def test_image_embedding(host, encoders, bundle):
    vision = encoders.load_clip_vision(bundle / "image_encoder")
    assert vision.image_size == 56
    image = _image(56)
    ours = host.nodes["CLIPVisionEncode"]().encode(vision, image, "center")[0].image_embeds
    theirs = core.load_image_encoder(bundle / "image_encoder")
    assert _error(ours, theirs.encode(_pixels(vision, image))) < 1e-4


def test_vae(host, encoders, bundle):
    vae, theirs = encoders.load_native_vae(bundle / "vae"), core.load_vae(bundle / "vae")
    images = torch.rand(2, 32, 48, 3, generator=torch.Generator().manual_seed(0))
    latent = host.nodes["VAEEncode"]().encode(vae, images)[0]["samples"]
    assert latent.shape == (2, 4, 4, 6)
    assert _error(latent, theirs.encode(images)) < 1e-4
    decoded = host.nodes["VAEDecode"]().decode(vae, {"samples": latent})[0]
    assert _error(decoded, theirs.decode(latent)) < 1e-4
    tiled = host.nodes["VAEDecodeTiled"]().decode(vae, {"samples": latent}, 512)[0]  # one tile holds all
    assert _error(tiled, decoded) < 1e-4


# ---- other sizes, settings and files


@pytest.mark.parametrize(("layers", "skip"), [(2, None), (3, 0), (4, 2), (23, None)])
@pytest.mark.parametrize("activation", ["gelu", "quick_gelu"])
def test_text_of_any_depth(host, encoders, tmp_path, layers, skip, activation):
    _text_folder(tmp_path, layers, hidden_act=activation)
    if skip is not None:
        file = tmp_path / "text_encoder" / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"i2vgen_skip_last": skip}))
    theirs = core.load_text_encoder(tmp_path / "text_encoder").encode(PROMPTS[:1])
    assert _error(_prompt(host, encoders.load_clip(tmp_path / "text_encoder"), PROMPTS[0]), theirs) < 1e-4


def test_vision_in_shards(host, encoders, tmp_path):
    config = transformers.CLIPVisionConfig(
        hidden_size=48,
        intermediate_size=80,
        num_hidden_layers=3,
        num_attention_heads=4,
        projection_dim=20,
        image_size=48,
        patch_size=16,
    )
    model = transformers.CLIPVisionModelWithProjection(config).half()
    model.save_pretrained(tmp_path / "image_encoder", max_shard_size="20KB")
    assert len(list((tmp_path / "image_encoder").glob("*.safetensors"))) > 1
    vision, image = encoders.load_clip_vision(tmp_path / "image_encoder"), _image(48)
    theirs = core.load_image_encoder(tmp_path / "image_encoder").encode(_pixels(vision, image))
    assert _error(vision.encode_image(image).image_embeds, theirs) < 1e-4
    assert vision.encode_image(torch.rand(1, 60, 90, 3)).image_embeds.shape == (1, 20)


@pytest.mark.parametrize(("channels", "blocks"), [((32, 64, 64, 96), 1), ((64, 64, 64, 64), 0)])
def test_vae_of_other_sizes(encoders, tmp_path, channels, blocks):
    """Without a block in the encoder's levels there is one in the decoder's."""
    _vae_folder(tmp_path, channels, layers_per_block=blocks)
    vae, theirs = encoders.load_native_vae(tmp_path / "vae"), core.load_vae(tmp_path / "vae")
    images = torch.rand(1, 32, 48, 3)
    latent = vae.encode(images)
    assert _error(latent, theirs.encode(images)) < 1e-4
    assert _error(vae.decode(latent), theirs.decode(latent)) < 1e-4


def test_tokenizer_folders(encoders, errors, bundle, tmp_path):
    shutil.copytree(bundle / "text_encoder", tmp_path / "text_encoder")
    expected = encoders.load_clip(bundle / "text_encoder").tokenize(PROMPTS[2])
    assert encoders.load_clip(tmp_path / "text_encoder").tokenize(PROMPTS[2]) == expected  # no folder: the built-in one
    published = transformers.CLIPTokenizerFast.from_pretrained(bundle / "tokenizer", pad_token="<|endoftext|>")
    published.save_pretrained(tmp_path / "tokenizer")
    assert encoders.load_clip(tmp_path / "text_encoder").tokenize(PROMPTS[2]) == expected
    for file in (tmp_path / "tokenizer").iterdir():
        file.unlink()
    with pytest.raises(errors.CheckpointError, match="tokenizer"):
        encoders.load_clip(tmp_path / "text_encoder")


# ---- what the host's own nodes do with them


def test_prompt_weights(host, encoders, bundle):
    clip = encoders.load_clip(bundle / "text_encoder")
    plain, weighted = _prompt(host, clip, "a red fox"), _prompt(host, clip, "a (red:1.5) fox")
    empty = _prompt(host, clip, "")
    expected = plain.clone()
    expected[0, 2] = (plain[0, 2] - empty[0, 2]) * 1.5 + empty[0, 2]  # start, a, red
    assert _error(weighted, expected) < 1e-5
    assert _error(weighted, plain) > 1e-2


def test_a_long_prompt_goes_on_in_chunks(host, encoders, bundle):
    assert _prompt(host, encoders.load_clip(bundle / "text_encoder"), "a fox " * 60).shape == (1, 154, 64)


@pytest.mark.parametrize(
    "stem",
    [
        "lora_te_text_model_encoder_layers_0_mlp_fc1",
        "text_encoders.clip_h.transformer.text_model.encoder.layers.0.mlp.fc1",
    ],
)
def test_lora(host, encoders, bundle, stem):
    import comfy.sd

    clip = encoders.load_clip(bundle / "text_encoder")
    plain = _prompt(host, clip, PROMPTS[0])
    up, down = torch.randn(256, 2, generator=torch.Generator().manual_seed(0)), torch.ones(2, 64) * 0.1
    names = {"lora_up.weight": up, "lora_down.weight": down, "alpha": torch.tensor(2.0)}
    lora = {f"{stem}.{name}": tensor for name, tensor in names.items()}
    patched = comfy.sd.load_lora_for_models(None, clip, lora, 0, 1.0)[1]
    ours = _prompt(host, patched, PROMPTS[0])

    theirs = core.load_text_encoder(bundle / "text_encoder")
    theirs.model.encoder.layers[0].mlp.fc1.weight += up @ down
    # The host keeps CLIP in fp16 and rounds the patched weights to it.
    assert _error(ours, theirs.encode(PROMPTS[:1])) < 2e-3
    assert _error(ours, plain) > 1e-2
    assert torch.equal(_prompt(host, clip, PROMPTS[0]), plain)


def test_stock_clip_skip(host, encoders, bundle):
    clip = encoders.load_clip(bundle / "text_encoder")
    skipped = host.nodes["CLIPSetLastLayer"]().set_last_layer(clip, -2)[0]
    assert torch.equal(_prompt(host, skipped, PROMPTS[0]), _prompt(host, clip, PROMPTS[0]))
    skipped = host.nodes["CLIPSetLastLayer"]().set_last_layer(clip, -3)[0]
    assert _error(_prompt(host, skipped, PROMPTS[0]), _prompt(host, clip, PROMPTS[0])) > 1e-2


def test_memory_is_the_hosts(host, encoders, bundle):
    import comfy.model_management as management

    management.unload_all_models()
    clip, vision, vae = (
        encoders.load_clip(bundle / "text_encoder"),
        encoders.load_clip_vision(bundle / "image_encoder"),
        encoders.load_native_vae(bundle / "vae"),
    )
    _prompt(host, clip, "a fox")
    vision.encode_image(_image(56))
    vae.encode(torch.rand(1, 64, 64, 3))
    loaded = {id(entry.model.model) for entry in management.current_loaded_models}
    assert {id(each.patcher.model) for each in (clip, vision, vae)} <= loaded


@pytest.mark.parametrize("name", ["load_clip", "load_native_vae"])
def test_the_host_can_load_it_again(encoders, bundle, name):
    """For another device, or when weights are not to be streamed."""
    patcher = getattr(encoders, name)(bundle / PARTS[name][0]).patcher
    load, arguments = patcher.cached_patcher_init
    again = load(*arguments, disable_dynamic=True)
    assert again.model is not patcher.model
    first, second = patcher.model.state_dict(), again.model.state_dict()
    assert first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


# ---- what is refused

PARTS = {
    "load_clip": ("text_encoder", "text_model.encoder.layers.1.mlp.fc1.weight"),
    "load_clip_vision": ("image_encoder", "vision_model.post_layernorm.bias"),
    "load_native_vae": ("vae", "decoder.mid_block.attentions.0.to_q.bias"),
}
FAULTS: dict[str, Callable[[dict[str, Tensor], str], dict[str, Tensor]]] = {
    "missing": lambda state, key: {name: tensor for name, tensor in state.items() if name != key},
    "unknown": lambda state, key: state | {f"{key}.surplus": state[key].clone()},
    "of a wrong shape": lambda state, key: state | {key: torch.cat([state[key], state[key]])},
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("loader", PARTS)
def test_a_fault_names_its_tensor(encoders, errors, bundle, tmp_path, loader, fault):
    part, key = PARTS[loader]
    shutil.copytree(bundle / part, tmp_path / part)
    file = next((tmp_path / part).glob("*.safetensors"))
    save_file(FAULTS[fault](load_file(file), key), file)
    expected = key + ".surplus" if fault == "unknown" else key
    with pytest.raises(errors.CheckpointError, match=rf"1 {fault} \({expected}"):
        getattr(encoders, loader)(tmp_path / part)


def test_settings_that_the_host_has_not(encoders, errors, tmp_path):
    for number, (settings, found) in enumerate([({"hidden_act": "relu"}, "relu"), ({"layer_norm_eps": 1e-3}, "0.001")]):
        with pytest.raises(errors.CheckpointError, match=f"{next(iter(settings))} .* found {found}"):
            encoders.load_clip(_text_folder(tmp_path / str(number), 2, **settings) / "text_encoder")


@pytest.mark.parametrize(
    ("channels", "settings", "message"),
    [
        ((32, 32, 32), {}, "found channels 32, 32, 32"),
        ((64, 64, 64, 96), {}, "found channels 64, 64, 64, 96"),
        ((32, 32, 32, 32), {"norm_num_groups": 16}, "norm_num_groups 32, .* found 16"),
        ((32, 32, 32, 32), {"latent_channels": 16}, "decoder.conv_in.weight"),
        ((32, 32, 32, 32), {"use_quant_conv": False}, "missing \\(quant_conv"),
        ((32, 32, 32, 32), {"scaling_factor": 0.13025}, "SDXL's, scaling_factor 0.13025"),
    ],
)
def test_another_vae(encoders, errors, tmp_path, channels, settings, message):
    with pytest.raises(errors.CheckpointError, match=message):
        encoders.load_native_vae(_vae_folder(tmp_path, channels, **settings) / "vae")


# ---- whose VAE encoded an image


def _photo() -> Tensor:
    image = Image.open(Path(__file__).parents[2] / "demo" / "photo.jpg").convert("RGB").resize((256, 192))
    return torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).reshape(1, 192, 256, 3) / 255


def _latent(image: Tensor, family: str, noise: float = 0.3) -> Tensor:
    """Unscaled latent from which the family's preview factors make the image; the fourth dimension, which they do not
    see, and a `noise` of each value's deviation, are random."""
    import comfy.latent_formats

    made = comfy.latent_formats.SD15() if family == "sd" else comfy.latent_formats.SDXL()
    factors = torch.tensor(made.latent_rgb_factors)
    bias = torch.tensor(made.latent_rgb_factors_bias or [0.0, 0.0, 0.0])
    small = torch.nn.functional.interpolate(image.movedim(-1, 1), scale_factor=1 / 8, mode="area").movedim(1, -1)
    latent = (small * 2 - 1 - bias) @ torch.linalg.pinv(factors)
    unseen = torch.linalg.svd(factors).U[:, 3]
    generator = torch.Generator().manual_seed(0)
    latent = latent + torch.randn(*latent.shape[:-1], 1, generator=generator) * latent.std() * unseen
    latent = latent + torch.randn(latent.shape, generator=generator) * latent.std(dim=(0, 1, 2)) * noise
    return latent.movedim(-1, 1) / made.scale_factor


@pytest.mark.parametrize("family", ["sd", "sdxl"])
def test_vae_family(encoders, family):
    blocks = torch.rand(2, 12, 16, 3, generator=torch.Generator().manual_seed(0))
    blocks = blocks.repeat_interleave(16, 1).repeat_interleave(16, 2)
    for image in (_photo(), blocks, blocks * 0.2 + 0.4, _photo()[:, :64, :64]):
        assert encoders.vae_family(_latent(image, family, noise=0), image) == family
        assert encoders.vae_family(_latent(image, family), image) == family


@pytest.mark.parametrize("family", ["sd", "sdxl"])
def test_vae_family_unknown(encoders, family):
    photo = _photo()
    grey = photo.mean(dim=-1, keepdim=True).expand_as(photo)
    assert encoders.vae_family(_latent(grey, family), grey) is None
    assert encoders.vae_family(_latent(photo, family).flip(1), photo) is None
    assert encoders.vae_family(_latent(photo, family), photo.flip(-1, 1)) is None
    assert encoders.vae_family(torch.zeros(1, 4, 24, 32), photo) is None
    assert encoders.vae_family(torch.full((1, 4, 24, 32), float("nan")), photo) is None


@pytest.mark.parametrize("seed", range(4))
def test_vae_family_of_made_up_weights(encoders, tmp_path, seed):
    torch.manual_seed(seed)
    vae = encoders.load_native_vae(_vae_folder(tmp_path, (32, 32, 64, 64)) / "vae")
    assert encoders.vae_family(vae.encode(_photo()), _photo()) is None
