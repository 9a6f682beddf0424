"""The loader blocks: every layout and file type, weights in other types, and what their lists show."""

from __future__ import annotations

import gc
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import Parameter

from i2vgen_core import assets
from i2vgen_core.checkpoints.download import FILES
from i2vgen_core.checkpoints.load import open_unet
from i2vgen_core.checkpoints.unet_keys import to_diffusers, to_official

from . import graphs
from .compare import relative_error
from .graphs import changed, node
from .in_process import Host

SMALL = {"clip_encode__width": 64, "global_encode__width": 64, "global_encode__frames": 2}


@pytest.fixture(scope="module")
def folder(host: Host) -> Path:
    return host.base_directory / "models" / "diffusion_models"


@pytest.fixture(scope="module")
def official(bundles: Path) -> dict[str, Tensor]:
    """The short bundle's base in the released layout."""
    checkpoint = open_unet(bundles / "short" / "unet")
    encoder = {f"local_image_embedding.{key}": value for key, value in checkpoint.global_encoder.items()}
    return to_official(checkpoint.network | encoder)


def _bundle_graph() -> graphs.Graph:
    return changed(graphs.base_latent("short"), **SMALL)


def _file_graph(name: str, detail_gain: str = "official", weight_dtype: str = "default") -> graphs.Graph:
    base = node("I2VGenXLBaseLoader", model_name=name, weight_dtype=weight_dtype, detail_gain=detail_gain)
    graph = _bundle_graph() | {"file": base}
    return changed(graph, base__model=["file", 0], global_encode__global_encoder=["file", 1])


# ---- layouts and files


@pytest.mark.parametrize("name", ["released.pth", "prefixed.safetensors", "module.ckpt", "sub/diffusers.safetensors"])
def test_base_file(host, folder, bundles, official, name):
    """All of them are the bundle's network, so they make its video."""
    (folder / "sub").mkdir(exist_ok=True)
    if name == "released.pth":
        torch.save({"state_dict": official, "step": 854500}, folder / name)
    elif name == "prefixed.safetensors":
        save_file({f"model.diffusion_model.{key}": value for key, value in official.items()}, folder / name)
    elif name == "module.ckpt":
        torch.save({f"module.{key}": value for key, value in official.items()}, folder / name)
    else:
        shutil.copy(bundles / "short" / "unet" / "diffusion_pytorch_model.safetensors", folder / name)
        assert "transformer_in.proj_in.weight" in load_file(folder / name)
    assert relative_error(host.value(_file_graph(name)), host.value(_bundle_graph())) < 1e-6


def test_detail_gain(host, folder, official):
    save_file(official, folder / "gain.safetensors")
    twice, once = (host.value(_file_graph("gain.safetensors", gain)) for gain in ("official", "once"))
    assert relative_error(once, twice) > 1e-2
    doubled = dict(official)
    weight = doubled["input_blocks.0.0.weight"].clone()
    weight[:, 4:] *= 2  # the concat half
    save_file(doubled | {"input_blocks.0.0.weight": weight}, folder / "doubled.safetensors")
    assert relative_error(host.value(_file_graph("doubled.safetensors", "once")), twice) < 1e-4


@pytest.mark.parametrize("layout", ["official", "diffusers"])
def test_image2video_file(host, folder, bundles, layout):
    """Known by its tensors; its global encoder socket is empty."""
    wide = open_unet(bundles / "short" / "unet")
    own = ("local_image_concat.", "local_temporal_encoder.")
    state = {key: value for key, value in wide.network.items() if not key.startswith(own)}
    state["input_blocks.0.0.weight"] = state["input_blocks.0.0.weight"][:, :4].contiguous()
    name = f"image2video {layout}.safetensors"
    save_file(to_official(state) if layout == "official" else to_diffusers(state), folder / name)
    result = host.run(_file_graph(name), {"latent": ("base", 0), "encoder": ("file", 1)}, reuse_cache=True)
    assert result.error is None, result.error
    assert not result.kept["encoder"].reads_image
    assert result.kept["latent"]["samples"].isfinite().all()


@pytest.mark.parametrize("variant", ["auto", "vid2vid_xl", "sr600"])
def test_refiner_file(host, folder, bundles, variant):
    state = to_official(open_unet(bundles / "short" / "refiner").network)
    torch.save({"state_dict": state}, folder / "refiner.pth")
    graph = changed(graphs.refined_latent("short"), refiner__variant=variant)
    file = changed(graph, refiner__model_name="refiner.pth")
    keep = {"model": ("refiner", 0), "latent": ("refine", 0)}
    result = host.run(file, keep, reuse_cache=True)
    assert result.error is None, result.error
    assert result.kept["model"].model.network.kind == ("vid2vid_xl" if variant == "auto" else variant)
    assert relative_error(result.kept["latent"]["samples"], host.value(graph, "refine")) < 1e-6


def test_metadata_says_which_refiner(host, folder, bundles):
    state = to_official(open_unet(bundles / "tiny" / "refiner").network)
    save_file(state, folder / "sr600.safetensors", {"kind": "sr600", "head_dim": "8"})
    graph = {
        "refiner": node("I2VGenXLRefinerLoader", model_name="sr600.safetensors", variant="auto", weight_dtype="default")
    }
    network = host.run(graph, {"model": ("refiner", 0)}).kept["model"].model.network
    assert (network.kind, network.head_dim) == ("sr600", 8)


# ---- files that cannot be loaded


def _alive(value: Tensor) -> list[Tensor]:
    """Tensors of its shape that hold what is no number, wherever they are held."""
    gc.collect()
    found = [each for each in gc.get_objects() if type(each) in (Tensor, Parameter) and each.shape == value.shape]
    return [each for each in found if each.is_floating_point() and not each.is_meta and each.isnan().any()]


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_failed_load_leaves_the_earlier_model_and_no_memory(host, folder, official, suffix):
    import comfy.model_management

    name, bias = f"damaged{suffix}", torch.full_like(official["out.2.bias"], float("nan"))
    weights = official | {"out.2.bias": bias}
    torch.save({"state_dict": weights}, folder / name) if suffix == ".pth" else save_file(weights, folder / name)
    save_file(official, folder / "whole.safetensors")
    good = _file_graph("whole.safetensors")
    before = host.run(good, {"latent": ("base", 0), "model": ("file", 0)}).kept
    loaded = len(comfy.model_management.current_loaded_models)
    del weights
    assert len(_alive(bias)) == 1, "the one that this test holds itself"
    for _ in range(2):
        result = host.run(_file_graph(name), reuse_cache=True, keep={"latent": ("base", 0)})
        assert result.error_node == "file" and "expected finite weights, found 1 not finite" in result.error
    assert len(_alive(bias)) == 1
    assert len(comfy.model_management.current_loaded_models) <= loaded
    if sys.platform == "linux":
        assert name not in Path("/proc/self/maps").read_text()
    kept = before["model"].model.diffusion_model.state_dict()
    assert all(torch.equal(kept[key], value) for key, value in open_unet(folder / "whole.safetensors").network.items())
    stock = changed(good, base__model=["kept", 0]) | {"kept": node(_holder(host, before["model"]))}
    assert torch.equal(host.value(stock), before["latent"]["samples"])


def _holder(host: Host, model: Any) -> str:
    """A block that gives a MODEL that is there already."""

    class HeldModel:
        RETURN_TYPES = ("MODEL",)
        FUNCTION = "give"

        @classmethod
        def INPUT_TYPES(cls) -> dict[str, Any]:
            return {"required": {}}

        def give(self) -> tuple[Any]:
            return (model,)

    host.nodes["HeldModel"] = HeldModel
    return "HeldModel"


# ---- types of weights


FEW_STEPS = {
    "loader": changed(_bundle_graph(), base__steps=2, base__cfg=1.0),
    "refiner": changed(graphs.refined_latent("short"), refine__steps=1, refine__cfg=1.0, refine__rescale=0.0),
}
"""By loader. Guidance and more steps enlarge what rounding does to a made-up network."""


@pytest.mark.parametrize(
    ("dtype", "stored", "limit"),
    [
        ("default", torch.float32, 0.0),
        ("fp16", torch.float16, 0.0),
        ("bf16", torch.bfloat16, 0.05),
        ("fp8_e4m3fn", torch.float8_e4m3fn, 0.5),
    ],
)
@pytest.mark.parametrize(("loader", "sampler"), [("loader", "base"), ("refiner", "refine")])
def test_weight_dtype(host, loader, sampler, dtype, stored, limit):
    """The test's weights are fp16, and on the CPU the host computes in float32, so that fp16 is exact."""
    exact = host.value(changed(FEW_STEPS[loader], **{f"{loader}__weight_dtype": "fp32"}), sampler)
    graph = changed(FEW_STEPS[loader], **{f"{loader}__weight_dtype": dtype})
    result = host.run(graph, {"latent": (sampler, 0), "model": (loader, 0)}, reuse_cache=True)
    assert result.error is None, result.error
    network = result.kept["model"].model.diffusion_model
    assert network.get_parameter("input_blocks.1.0.in_layers.2.weight").dtype == stored
    error = relative_error(result.kept["latent"]["samples"], exact)
    assert limit / 20 <= error <= limit


# ---- the lists


def _options(host: Host, class_type: str, name: str) -> list[str]:
    kind, settings = host.nodes[class_type].INPUT_TYPES()["required"][name]
    return list(settings["options"] if kind == "COMBO" else kind)


def test_lists(host, folder, bundles, official):
    """A new file or folder is there at the next look, as a press of R is."""
    assert set(_options(host, "I2VGenXLCascadeLoader", "bundle")) >= {"tiny", "others", "short"}
    for loader in ("CascadeLoader", "BaseLoader", "RefinerLoader"):
        name = "bundle" if loader == "CascadeLoader" else "model_name"
        assert _options(host, f"I2VGenXL{loader}", name)[0] == assets.NAME
    assert {"tiny/refiner", "others/refiner"} <= set(_options(host, "I2VGenXLRefinerLoader", "model_name"))
    assert not {"tiny/refiner"} & set(_options(host, "I2VGenXLBaseLoader", "model_name"))

    assert "new.safetensors" not in _options(host, "I2VGenXLBaseLoader", "model_name")
    save_file(official, folder / "new.safetensors")
    for loader in ("I2VGenXLBaseLoader", "I2VGenXLRefinerLoader"):
        assert "new.safetensors" in _options(host, loader, "model_name")
    assert host.value(_file_graph("new.safetensors")).isfinite().all()

    copies = bundles / "group" / "copied"
    assert "group/copied" not in _options(host, "I2VGenXLCascadeLoader", "bundle")
    shutil.copytree(bundles / "short", copies)
    shutil.rmtree(copies / "refiner")
    try:
        assert "group/copied" in _options(host, "I2VGenXLCascadeLoader", "bundle")
        assert "group/copied/refiner" not in _options(host, "I2VGenXLRefinerLoader", "model_name")
        graph = changed(_bundle_graph(), loader__bundle="group/copied")
        assert relative_error(host.value(graph), host.value(_bundle_graph())) == 0
    finally:
        shutil.rmtree(bundles / "group")
    result = host.run(changed(_bundle_graph(), loader__bundle="group/copied"), {"latent": ("base", 0)})
    assert result.error is not None and result.error_node == "loader"


@pytest.mark.parametrize("name", ["loader", "refiner"])
def test_the_host_can_load_it_again(host, name):
    """For another device, or when weights are not to be streamed."""
    graph = changed(graphs.refined_latent("short"), refiner__variant="sr600")
    patcher: Any = host.run(graph, {"model": (name, 0)}).kept["model"]
    load, arguments = patcher.cached_patcher_init
    again = load(*arguments, disable_dynamic=True)
    assert again.model is not patcher.model
    assert again.model.network == patcher.model.network
    first, second = patcher.model.state_dict(), again.model.state_dict()
    assert first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


# ---- one choice for the whole cascade


@pytest.fixture
def released(host: Host, bundles: Path) -> Iterator[Callable[..., None]]:
    """Puts the short bundle's parts into the standard folders, under the released files' names."""
    parts = {
        "i2vgen_xl": ("unet", {}),
        "text": ("text_encoder", {"text_head_dim": "16"}),
        "vision": ("image_encoder", {"vision_head_dim": "16"}),
        "vae": ("vae", {}),
        "vid2vid_xl": ("refiner", {}),
    }
    made: list[Path] = []

    def put(*keys: str) -> None:
        for key in keys:
            part, metadata = parts[key]
            target = host.base_directory / "models" / FILES[key].folder / FILES[key].name
            target.parent.mkdir(exist_ok=True)
            state = load_file(next((bundles / "short" / part).glob("*.safetensors")))
            if target.suffix == ".pth":
                torch.save({"state_dict": state}, target)
            else:
                save_file(state, target, metadata)
            made.append(target)

    yield put
    for file in made:
        file.unlink(missing_ok=True)


def _chosen(bundle: str) -> graphs.Graph:
    """The cascade's graph with one choice, of the bundle: what follows from it is left to the models."""
    graph = changed(
        graphs.refined_latent("short"),
        loader__bundle=bundle,
        refiner__model_name="goes with the base",
        refiner__base=["loader", 0],
        global_encode__frames=1,
        base__steps=2,
        refine__steps=2,
    )
    small = {"width": 64, "height": 64}
    return changed(
        graph, clip_encode__width=64, **{f"global_encode__{k}": v for k, v in small.items()}, scale__width=80
    )


def test_released_files_are_one_choice(host, released):
    """Their parts, and the refiner, are found in the standard folders."""
    released("i2vgen_xl", "text", "vision", "vae", "vid2vid_xl")
    expected = host.values(_chosen("short"), "base", "refine")
    found = host.values(_chosen("released files"), "base", "refine")
    assert [relative_error(one, other) for one, other in zip(found, expected, strict=True)] == [0, 0]


def test_released_files_that_are_missing_are_named_before_anything_is_computed(host, released):
    released("text")
    result = host.run(_chosen("released files"), {"output": ("refine", 0)})
    assert result.error_node == "loader" and "samp" not in " ".join(result.executed)
    for key in ("i2vgen_xl", "vision", "vae"):
        file = FILES[key]
        assert f"{file.name}: https://huggingface.co/{file.repository}/resolve/main/{file.file}" in result.error
    assert f"{FILES['text'].name}: http" not in result.error


def test_a_missing_refiner_is_named_before_the_base_is_sampled(host, released):
    released("i2vgen_xl", "text", "vision", "vae")
    result = host.run(_chosen("released files"), {"output": ("refine", 0)})
    assert result.error_node == "refiner" and "base" not in result.executed
    assert "non_ema_0035000.pth: https://huggingface.co/ali-vilab/MS-Vid2Vid-XL/resolve/main/" in result.error


@pytest.fixture
def published(bundles: Path) -> Iterator[Path]:
    """The short bundle as the published folder."""
    folder = bundles / "i2vgen-xl"
    shutil.copytree(bundles / "short", folder)
    yield folder
    shutil.rmtree(folder)


def test_the_published_folder_holds_released_files_too(host, released, published):
    """Its parts stand in for single files that are not there."""
    released("text", "vid2vid_xl")
    shutil.rmtree(published / "refiner")
    shutil.rmtree(published / "text_encoder")
    expected, found = (host.value(_chosen(name), "base") for name in ("short", "released files"))
    assert relative_error(found, expected) == 0
    shutil.rmtree(published / "vae")
    result = host.run(_chosen("released files"), {"output": ("refine", 0)})
    assert result.error_node == "loader" and f"found no {FILES['vae'].name}. " in result.error
    result = host.run(_chosen("i2vgen-xl"), {"output": ("refine", 0)})
    assert (
        "models/diffusers/i2vgen-xl: expected unet, " in result.error and "found no text_encoder, vae. " in result.error
    )
    assert "https://huggingface.co/ali-vilab/i2vgen-xl/tree/main/vae" in result.error and not result.executed


def test_other_folders_of_the_users_are_looked_into(host, released, tmp_path, monkeypatch):
    """As extra_model_paths.yaml adds them."""
    import folder_paths

    released("i2vgen_xl", "text", "vision", "vae")
    expected = host.value(_chosen("released files"))
    for key in ("i2vgen_xl", "text", "vision", "vae"):
        file = FILES[key]
        (tmp_path / file.folder).mkdir()
        shutil.move(host.base_directory / "models" / file.folder / file.name, tmp_path / file.folder)
        there, suffixes = folder_paths.folder_names_and_paths[file.folder]
        places = [*there, str(tmp_path / file.folder)]
        monkeypatch.setitem(folder_paths.folder_names_and_paths, file.folder, (places, suffixes))
    assert relative_error(host.value(_chosen("released files")), expected) == 0


@pytest.mark.parametrize("order", [list, reversed])
def test_a_wrong_file_is_told_before_the_base_is_sampled(host, folder, official, order):
    """In whichever order the host comes to the blocks."""
    save_file(official, folder / "base.safetensors")
    graph = changed(_chosen("short") | graphs.save("refine"), refiner__model_name="base.safetensors")
    graph["refine"]["inputs"] = dict(order(list(graph["refine"]["inputs"].items())))
    result = host.run(graph)
    assert result.error_node == "refiner" and "base" not in result.executed
    assert result.error.startswith("base.safetensors: expected a refiner, found a base (i2vgen_xl). ")
    assert result.error_type == "CheckpointError"


def test_a_name_that_is_not_there_has_the_releases_address(host):
    graph = changed(graphs.refined_latent(), refiner__model_name="non_ema_0035000.pth")
    result = host.run(graph, {"output": ("refiner", 0)})
    assert "found 'non_ema_0035000.pth', which is not among" in result.error
    assert "https://huggingface.co/ali-vilab/MS-Vid2Vid-XL/resolve/main/non_ema_0035000.pth" in result.error


def test_a_refiner_that_goes_with_no_base(host):
    graph = changed(graphs.refined_latent(), refiner__model_name="goes with the base")
    result = host.run(graph, {"output": ("refiner", 0)})
    assert "refiner: expected a base that it goes with, found none" in result.error


@pytest.mark.parametrize(("bundle", "size"), [("tiny (built in)", (128, 64)), ("short", (1280, 704))])
def test_the_models_own_size(host, bundle, size):
    graph = {
        "loader": node("I2VGenXLCascadeLoader", bundle=bundle, weight_dtype="default"),
        "size": node("I2VGenXLSize", size="the model's own", model=["loader", 0]),
    }
    result = host.run(graph, {"width": ("size", 0), "height": ("size", 1)})
    assert (result.kept["width"], result.kept["height"]) == size
    del graph["size"]["inputs"]["model"]
    result = host.run(graph, {"width": ("size", 0)})
    assert "size: expected a model whose own size is meant, found none" in result.error


def test_the_models_own_rate(host):
    """fps 0 is what the base was released with: the built-in one at 8."""
    graph = changed(graphs.base_latent("tiny (built in)"), global_encode__fps=0, base__steps=2)
    own, eight, sixteen = (host.value(changed(graph, global_encode__fps=fps)) for fps in (0, 8, 16))
    assert torch.equal(own, eight) and not torch.equal(own, sixteen)
