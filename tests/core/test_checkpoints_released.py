"""Every released file, in its own format: keys, nesting and types, and that nothing else is needed to read it."""

import json
import pickletools
import shutil
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
import released
import released_table
import torch
import toy
from safetensors.torch import load_file, save_file

from i2vgen_core.cascade import Cascade
from i2vgen_core.checkpoints import encoders
from i2vgen_core.checkpoints.convert import convert
from i2vgen_core.checkpoints.load import open_base, open_refiner, open_unet, parse_unet
from i2vgen_core.checkpoints.read import read_state_dict
from i2vgen_core.checkpoints.unet_keys import to_diffusers
from i2vgen_core.config import HINTED
from i2vgen_core.errors import CheckpointError
from i2vgen_core.releases import RELEASES
from i2vgen_core.sampling.options import BaseOptions
from i2vgen_core.sampling.schedules import schedule_for

DOCUMENT = Path(__file__).parents[2] / "docs" / "checkpoints.md"


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return [row.result(tmp_path_factory.mktemp("released"), number) for number, row in enumerate(released_table.ROWS)]


@pytest.mark.parametrize("number", range(len(released_table.ROWS)), ids=lambda n: f"{n} {released_table.ROWS[n].file}")
@pytest.mark.slow
def test_a_released_file_is_known_and_gives_what_the_official_code_gives(results, number):
    row, result = released_table.ROWS[number], results[number]
    assert (result.kind, result.stored) == (row.kind, row.stored)
    assert result.error <= row.limit


@pytest.mark.slow
def test_the_table_in_the_docs_is_up_to_date(results):
    text = DOCUMENT.read_text(encoding="utf-8")
    written = text.partition(released_table.BEGIN)[2].partition(released_table.END)[0]
    assert written == released_table.table(results), "run: python tests/core/released_table.py docs/checkpoints.md"


# ---------------------------------------------------------------- what comes with a network

# a .pth file says nothing of heads, so its network has the releases' 64
WIDE = replace(toy.CONFIG, model_channels=64, head_dim=64)


def vgen(path, kind, **content):
    torch.save({"state_dict": toy.stored(replace(WIDE, kind=kind)), **content}, path)


@pytest.mark.parametrize("name", ["base_03_alldata_fps_v_80g_0789000.pth", "img2video_ldm_0779000.pth"])
def test_image2video_comes_with_its_own_settings(tmp_path, name):
    vgen(tmp_path / name, "image2video", step=1)
    opened = open_base(tmp_path / name)
    release = opened.release
    assert (release.width, release.height, release.frames) == (448, 256, 32)
    assert (release.guidance, release.offset_noise) == (3, 0.1)
    assert opened.global_encoder == {} and opened.build_global_encoder() is None
    own, other = schedule_for(opened.config.kind).alphas_cumprod, schedule_for("i2vgen_xl").alphas_cumprod
    assert not torch.allclose(own, other) and own[-1] > 0  # scaled-linear betas do not end in noise alone


def test_sr600_is_the_callers_word_and_enters_by_inversion(tmp_path):
    path = tmp_path / "sr_step_110000_ema.pth"
    vgen(path, "sr600", step=110000)
    assert open_refiner(path).config.kind == "vid2vid_xl"  # the same tensors
    opened = open_refiner(path, "sr600")
    assert opened.config.kind == "sr600"
    assert opened.release == RELEASES["sr600"] and opened.release.entry == "inversion"


@pytest.fixture(scope="module")
def changed_bundle(bundles, tmp_path_factory):
    """A bundle whose folders say what the published ones say: another VAE scale, and text padded with the end."""
    folder = tmp_path_factory.mktemp("published") / "bundle"
    shutil.copytree(bundles(), folder)
    config = folder / "vae" / "config.json"
    settings = json.loads(config.read_text()) | {"scaling_factor": 0.18125}
    config.write_text(json.dumps(settings))
    tokenizer = {"pad_token": "<|endoftext|>", "model_max_length": 77, "tokenizer_class": "CLIPTokenizer"}
    (folder / "tokenizer" / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    return folder


def test_vae_scale_and_padding_are_the_networks_whatever_the_folder_says(bundles, changed_bundle):
    assert json.loads((bundles() / "vae" / "config.json").read_text())["scaling_factor"] == 0.18215
    image = torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(0))
    options = BaseOptions(width=64, height=64, frames=2)
    ours, theirs = (
        Cascade(folder, device="cpu").condition(image, "a fox", options) for folder in (bundles(), changed_bundle)
    )
    assert torch.equal(ours.positive, theirs.positive) and torch.equal(ours.details, theirs.details)
    tokens = Cascade(changed_bundle, device="cpu").text_encoder.tokenizer(["a fox"])
    assert tokens[0, 5:].eq(0).all()


# ---------------------------------------------------------------- other forms of the same files


def test_lightning_need_not_be_there(tmp_path):
    path = tmp_path / "v2-1_512-ema-pruned.ckpt"
    released.save(released.lightning(released.stable_diffusion()), path)
    with pytest.raises(ModuleNotFoundError, match="pytorch_lightning"):
        torch.load(path, weights_only=False)
    state, _ = read_state_dict(path)
    assert toy.same(
        state,
        dict(
            released.stable_diffusion()
            | {k: state[k] for k in state if "diffusion_model" in k or k in ("betas", "alphas_cumprod")}
        ),
    )
    assert "pytorch_lightning" not in sys.modules
    assert encoders.load_text_encoder(path, head_dim=16).config.layers == 4  # its text encoder is CLIP's too
    with pytest.raises(CheckpointError, match="expected a network of the I2VGen-XL family"):
        open_base(path)


def test_the_pickle_is_that_of_stable_diffusion_2_1(tmp_path):
    """It refers to what the Hub's page of stabilityai/stable-diffusion-2-1-base lists as the file's imports, and to the
    form of numpy 2 for a scalar."""
    path = tmp_path / "v2-1_512-ema-pruned.ckpt"
    released.save(released.lightning(released.stable_diffusion()), path)
    with zipfile.ZipFile(path) as archive:
        pickled = archive.read(next(name for name in archive.namelist() if name.endswith("data.pkl")))
    found = {argument for operation, argument, _ in pickletools.genops(pickled) if operation.name == "GLOBAL"}
    assert found == {
        "_codecs encode",
        "collections OrderedDict",
        "numpy dtype",
        "numpy._core.multiarray scalar",
        "numpy.core.multiarray scalar",
        "pytorch_lightning.callbacks.model_checkpoint ModelCheckpoint",
        "torch FloatStorage",
        "torch IntStorage",
        "torch._utils _rebuild_tensor_v2",
    }


@pytest.mark.parametrize("name", ["open_clip_pytorch_model.bin", "open_clip_model.safetensors"])
def test_a_folder_with_open_clips_file_alone(tmp_path, name):
    (tmp_path / "config.json").write_text(json.dumps(released.CLIP_SETTINGS))
    if name.endswith(".bin"):
        torch.save(released.module_state(released.open_clip()), tmp_path / name)
    else:
        save_file(released.open_clip(), tmp_path / name)
    assert encoders.load_text_encoder(tmp_path).config.head_dim == 16
    assert encoders.load_image_encoder(tmp_path).config.head_dim == 16


@pytest.mark.parametrize("form", ["official", "diffusers"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float8_e4m3fn], ids=str)
def test_stored_types_are_kept_and_built_in_what_is_asked_for(tmp_path, dtype, form):
    state = toy.stored(toy.CONFIG) if form == "official" else to_diffusers(toy.whole_state(toy.CONFIG))
    path = tmp_path / "tuned.safetensors"
    save_file(released.as_dtype(state, dtype), path, {"head_dim": "8"})
    opened = open_unet(path)
    assert {value.dtype for value in (opened.network | opened.global_encoder).values()} == {dtype}
    for wanted in (torch.float32, torch.float16):
        built = opened.build_network(wanted).state_dict()
        assert all(torch.equal(value, opened.network[key].to(wanted)) for key, value in built.items())


@pytest.mark.parametrize("dtype", [torch.float16, torch.float8_e4m3fn], ids=str)
def test_a_pickled_fine_tune(tmp_path, dtype):
    path = tmp_path / "tuned.pth"
    state = {key: torch.nn.Parameter(value.to(dtype)) for key, value in toy.stored(WIDE).items()}
    torch.save({"state_dict": state}, path)
    opened = open_unet(path)
    assert opened.network["out.2.bias"].dtype == dtype and not opened.network["out.2.bias"].requires_grad


@pytest.mark.parametrize("prefix", ["ema.", "ema.module.", "module.ema.", "ema.model.diffusion_model."])
@pytest.mark.parametrize("beside", [False, True], ids=["alone", "beside the trained weights"])
def test_moving_averages_go_before_the_trained_weights(tmp_path, prefix, beside):
    averaged = toy.stored(WIDE)
    state = {prefix + key: value for key, value in averaged.items()}
    if beside:
        outer = prefix.partition("ema.")[0]
        state |= {outer + key: value + 1 for key, value in averaged.items()}
    torch.save(state, tmp_path / "model.pth")
    opened = open_unet(tmp_path / "model.pth")
    assert torch.equal(opened.network["out.2.bias"], averaged["out.2.bias"])


# ---------------------------------------------------------------- refiners with a control branch


def wide(kind):
    sizes = toy.config_of(kind)
    return replace(WIDE, kind=kind, gated=sizes.gated, control=sizes.control)


@pytest.mark.parametrize("form", ["whole", "prefixed", "safetensors", "converted"])
@pytest.mark.parametrize("kind", HINTED)
def test_refiners_with_a_control_branch_are_told_by_their_tensors(tmp_path, kind, form):
    config = wide(kind)
    state = toy.stored(config)
    path = tmp_path / ("model.pt" if form in ("whole", "prefixed") else "model.safetensors")
    if form == "prefixed":
        torch.save({"state_dict": {f"module.{key}": value for key, value in state.items()}}, path)
    else:
        torch.save({"state_dict": state}, tmp_path / "model.pt")
    if form == "safetensors":
        save_file(state, path)
    elif form == "converted":
        convert(tmp_path / "model.pt", path)
    opened = open_refiner(path)
    assert opened.config.kind == kind
    assert opened.config.control == config.control
    assert toy.same(opened.network, toy.whole_state(config))


@pytest.mark.parametrize("kind, name", [("venhancer", "VEnhancer"), ("star", "STAR")])
def test_a_control_branch_alone_is_named(kind, name):
    state = {key: value for key, value in toy.stored(toy.config_of(kind)).items() if key.startswith("VideoControlNet.")}
    with pytest.raises(CheckpointError, match=f"found the control branch of {name} alone"):
        parse_unet(state)


def test_what_a_file_lacks_is_named():
    """STAR's program loads what is there, and leaves the rest as it was made."""
    state = toy.stored(toy.config_of("star"))
    gate = "middle_block.1.transformer_blocks.0.local1.conv1.weight"
    for key in (gate, "VideoControlNet.zero_convs.1.0.bias"):
        del state[key]
    with pytest.raises(CheckpointError, match="found 2 missing") as refused:
        parse_unet(state, toy.SETTINGS)
    assert gate in str(refused.value)
    assert "VideoControlNet.zero_convs.1.0.bias" in str(refused.value)


def test_another_control_branch_is_not_run_as_one_of_them():
    state = {key: value for key, value in toy.stored(toy.config_of("venhancer")).items() if "scale_cond" not in key}
    state = {key: value for key, value in state.items() if "hint_time_zero_linear" not in key}
    with pytest.raises(CheckpointError, match="expected a network of STAR or VEnhancer"):
        parse_unet(state, toy.SETTINGS)


def test_other_controlnets_are_not_called_by_these_names():
    state = {"control_model.input_hint_block.0.weight": torch.zeros(16, 3, 3, 3)}
    with pytest.raises(CheckpointError, match="expected a network of the I2VGen-XL family, found no input_blocks"):
        parse_unet(state)


def test_a_folder_with_whole_and_half_files_takes_the_whole_ones(tmp_path):
    state = to_diffusers(toy.whole_state(toy.CONFIG))
    save_file(released.as_dtype(state, torch.float32), tmp_path / released_table.SAFE)
    save_file(released.as_dtype(state, torch.float16), tmp_path / released_table.FP16)
    assert toy.same(read_state_dict(tmp_path)[0], load_file(tmp_path / released_table.SAFE))
