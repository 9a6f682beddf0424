"""What the host's own nodes write of our MODEL, and what its own loaders make of our files: networks and LoRAs."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from i2vgen_core.checkpoints.load import open_base, open_unet
from i2vgen_core.checkpoints.unet_keys import GLOBAL_ENCODER

from . import graphs
from .compare import relative_error
from .graphs import changed, node
from .in_process import Host

LAYERS = {  # ours: diffusers'
    "input_blocks.0.1.transformer_blocks.0.attn1.to_q": "transformer_in.transformer_blocks.0.attn1.to_q",
    "input_blocks.1.1.transformer_blocks.0.attn1.to_v": "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_v",
    "input_blocks.1.2.transformer_blocks.0.attn1.to_out.0": (
        "down_blocks.0.temp_attentions.0.transformer_blocks.0.attn1.to_out.0"
    ),
    "local_temporal_encoder.layers.0.0.fn.to_v": "image_latents_temporal_encoder.attn1.to_v",
    "output_blocks.11.1.transformer_blocks.0.attn1.to_v": "up_blocks.3.attentions.2.transformer_blocks.0.attn1.to_v",
}
FORMS = {
    "ours": "diffusion_model.{ours}.lora_{}.weight down up",
    "diffusers": "unet.{theirs}.lora_{}.weight A B",
    "older diffusers": "unet.{theirs}.lora.{}.weight down up",
    "peft": "base_model.model.{theirs}.lora_{}.default.weight A B",
    "kohya": "lora_unet_{flat}.lora_{}.weight down up",
}
FEW = {"base__steps": 2, "base__cfg": 1.0}


@pytest.fixture(scope="module")
def loras(host: Host, bundles: Path) -> Path:
    """One LoRA under the names of each form."""
    folder, network = host.base_directory / "models" / "loras", open_unet(bundles / "tiny" / "unet").network
    generator = torch.Generator().manual_seed(0)
    files: dict[str, dict[str, torch.Tensor]] = {form: {} for form in FORMS}
    for ours, theirs in LAYERS.items():
        outputs, inputs = network[f"{ours.replace('fn.to_v', 'fn.to_qkv')}.weight"].shape
        down = torch.randn(4, inputs, generator=generator)
        up = torch.randn(outputs // (3 if "fn." in ours else 1), 4, generator=generator)
        for form, file in files.items():
            name, *ends = FORMS[form].split()
            for end, matrix in zip(ends, (down, up), strict=True):
                file[name.format(end, ours=ours, theirs=theirs, flat=theirs.replace(".", "_"))] = matrix.clone()
    for form, file in files.items():
        save_file(file, folder / f"{form}.safetensors")
    return folder


def _with_lora(form: str) -> graphs.Graph:
    lora = node("LoraLoaderModelOnly", model=["loader", 0], lora_name=f"{form}.safetensors", strength_model=1.0)
    return changed(graphs.base_latent() | {"lora": lora}, base__model=["lora", 0], **FEW)


# ---- LoRA files of other trainers


def test_names_of_every_trainer_reach_their_layers(host, loras):
    plain, ours = host.value(changed(graphs.base_latent(), **FEW)), host.value(_with_lora("ours"))
    assert relative_error(plain, ours) > 1e-2
    for form in FORMS:
        assert relative_error(host.value(_with_lora(form)), ours) < 1e-5, form


@pytest.mark.parametrize("loader", ["LoraLoaderModelOnly", "LoraLoader"])
def test_a_file_of_which_nothing_fits_ends_in_an_error(host, loras, loader):
    """By its names, or by its sizes: 768 wide, as Stable Diffusion 1's."""
    layer = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
    foreign = {
        "names": {"lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight": torch.ones(4, 64)},
        "sizes": {f"{layer}.lora_down.weight": torch.ones(4, 768), f"{layer}.lora_up.weight": torch.ones(32, 4)},
    }
    for name, state in foreign.items():
        save_file(state, loras / f"{name}.safetensors")
        lora = node(loader, model=["loader", 0], lora_name=f"{name}.safetensors", strength_model=1.0)
        if loader == "LoraLoader":
            lora["inputs"] |= {"clip": ["loader", 2], "strength_clip": 1.0}
        result = host.run({"loader": graphs.conditions()["loader"], "lora": lora}, {"model": ("lora", 0)})
        assert result.error_node == "lora" and "LoRA file: expected one of I2VGen-XL base" in result.error, name


def test_other_models_are_the_hosts_alone(host):
    import comfy.lora

    model = torch.nn.Module()
    model.diffusion_model = torch.nn.Linear(2, 2)
    model.model_config = type("Config", (), {"unet_config": {}})
    names = comfy.lora.model_lora_keys_unet(model)
    assert type(names) is dict
    assert comfy.lora.load_lora({"nothing.lora_up.weight": torch.ones(1)}, names) == {}


# ---- networks that the host has saved


@pytest.fixture(scope="module")
def saved(host: Host, loras: Path) -> dict[str, Path]:
    """The base with a LoRA, as ModelSave and CheckpointSave write it, by the node."""
    graph = {name: each for name, each in _with_lora("ours").items() if name in ("loader", "lora")}
    files = {}
    for name, rest in (("ModelSave", {}), ("CheckpointSave", {"clip": ["loader", 2], "vae": ["loader", 4]})):
        save = node(name, model=["lora", 0], filename_prefix=name, **rest)
        result = host.run(graph | {"save": save})
        assert result.error is None, result.error
        (file,) = (host.base_directory / "output").glob(f"{name}*.safetensors")
        for kind in ("diffusion_models", "checkpoints"):
            (host.base_directory / "models" / kind).mkdir(exist_ok=True)
            files[name] = Path(shutil.copy(file, host.base_directory / "models" / kind / f"{name}.safetensors"))
    return files


def test_our_loader_opens_what_the_host_saved(host, saved):
    merged = host.value(_with_lora("ours"))
    for name in saved:
        loader = node(
            "I2VGenXLBaseLoader", model_name=f"{name}.safetensors", weight_dtype="default", detail_gain="official"
        )
        graph = changed(graphs.base_latent() | {"file": loader}, base__model=["file", 0], **FEW)
        graph = changed(graph, global_encode__global_encoder=["file", 1])
        assert relative_error(host.value(graph), merged) < 1e-5, name


def test_the_global_encoder_goes_along(saved, bundles):
    original = open_base(bundles / "tiny" / "unet")
    for file in saved.values():
        found = open_base(file)
        assert found.config == original.config
        assert all(torch.equal(value, found.global_encoder[key]) for key, value in original.global_encoder.items())


def test_the_hosts_own_loaders_open_it(host, saved):
    """The global encoder is our loader's. The VAE is left out: the host reads Stable Diffusion's alone from a checkpoint, which
    is wider than this one."""
    merged, graph = host.value(_with_lora("ours")), changed(graphs.base_latent(), **FEW)
    unet = node("UNETLoader", unet_name="ModelSave.safetensors", weight_dtype="default")
    assert relative_error(host.value(changed(graph | {"file": unet}, base__model=["file", 0])), merged) < 1e-5
    state = {k: v for k, v in load_file(saved["CheckpointSave"]).items() if not k.startswith("first_stage_model.")}
    save_file(state, saved["CheckpointSave"].with_name("no VAE.safetensors"))
    whole = node("CheckpointLoaderSimple", ckpt_name="no VAE.safetensors")
    assert relative_error(host.value(changed(graph | {"file": whole}, base__model=["file", 0])), merged) < 1e-5


def test_a_network_that_was_saved_without_its_encoder(host, saved):
    """As version 0.1.0 let the host do: our loader says what is missing, and the host's takes the network."""
    state = {key: value for key, value in load_file(saved["ModelSave"]).items() if GLOBAL_ENCODER not in key}
    save_file(state, host.base_directory / "models" / "diffusion_models" / "alone.safetensors")
    ours = node("I2VGenXLBaseLoader", model_name="alone.safetensors", weight_dtype="default", detail_gain="official")
    result = host.run({"file": ours}, {"model": ("file", 0)})
    assert "the global encoder: expected six tensors local_image_embedding.*" in result.error
    unet = node("UNETLoader", unet_name="alone.safetensors", weight_dtype="default")
    graph = changed(graphs.base_latent() | {"file": unet}, base__model=["file", 0], **FEW)
    assert relative_error(host.value(graph), host.value(_with_lora("ours"))) < 1e-5


def test_a_saved_refiner_says_which_it_is(host):
    refiner = node("I2VGenXLRefinerLoader", model_name="others/refiner", variant="auto", weight_dtype="default")
    graph = {"refiner": refiner, "save": node("ModelSave", model=["refiner", 0], filename_prefix="refiner")}
    assert host.run(graph).error is None
    (file,) = (host.base_directory / "output").glob("refiner*.safetensors")
    shutil.copy(file, host.base_directory / "models" / "diffusion_models" / "saved refiner.safetensors")
    again = changed(graph, refiner__model_name="saved refiner.safetensors")
    model = host.run({"refiner": again["refiner"]}, {"model": ("refiner", 0)}).kept["model"]
    assert (model.model.network.kind, model.model.network.head_dim) == ("sr600", 8)
