"""What a user reads who has wired something wrong: what was expected, what was found, what to do."""

from __future__ import annotations

import asyncio
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn

from . import graphs
from .graphs import changed, node
from .in_process import Host


def _message(host: Host, graph: graphs.Graph, at: str) -> str:
    """Runs a graph that has to fail at a node."""
    result = host.run(graph, {"output": (at, 0)}, reuse_cache=True)
    assert result.error is not None, "it ran"
    assert result.error_node == at, result.error
    return result.error


@pytest.fixture(scope="module")
def values(host: Host) -> dict[str, Any]:
    """Objects that a test puts into a graph, see Host.given."""
    return host.given


@pytest.fixture(scope="module")
def errors(host: Host) -> ModuleType:
    return host.module("i2vgen_core.errors")


# ---- networks


def test_refiner_in_the_base_sampler(host):
    graph = changed(graphs.refined_latent(), base__model=["refiner", 0])
    assert _message(host, graph, "base") == (
        "model: expected a base, a composer, an animator or text to video, found a refiner (vid2vid_xl). "
        "Wire the Cascade Loader's or the Base Loader's MODEL into it."
    )


def test_base_in_the_refine_sampler(host):
    graph = changed(graphs.refined_latent(), refine__model=["loader", 0])
    assert _message(host, graph, "refine") == (
        "model: expected a refiner, found a base (i2vgen_xl). Wire the Refiner Loader's MODEL into it."
    )


def _stock_model() -> Any:
    """A ModelPatcher of the host around another network."""
    import comfy.model_patcher

    return comfy.model_patcher.ModelPatcher(nn.Linear(1, 1), torch.device("cpu"), torch.device("cpu"))


@pytest.mark.parametrize("make", [_stock_model, object, lambda: SimpleNamespace(model=None)])
def test_another_model(host, values, make):
    values["model"] = make()
    graph = graphs.refined_latent() | {"other": node("GiveForTest", name="model")}
    message = _message(host, changed(graph, base__model=["other", 0]), "base")
    assert message.startswith(
        "model: expected a base, a composer, an animator or text to video, found another model. Wire"
    )
    message = _message(host, changed(graph, refine__model=["other", 0]), "refine")
    assert message.startswith("model: expected a refiner, found another model. Wire")


# ---- frames, conditionings


@pytest.mark.parametrize("latent", [graphs.base_latent, graphs.stock_latent])
@pytest.mark.parametrize("bundle", ["tiny", "others"])
def test_another_number_of_frames(host, latent, bundle):
    graph = latent(bundle) | {"cut": node("LatentFromBatch", samples=["global_encode", 2], batch_index=0, length=2)}
    where = "latent" if latent is graphs.base_latent else "latent_image"
    assert _message(host, changed(graph, **{f"base__{where}": ["cut", 0]}), "base") == (
        "latent: expected 3 frames, as the conditioning has, found 2. "
        "A latent's batch is the frames of one video: wire in that of the block that made the conditioning. "
        "For more videos, run with other seeds."
    )


@pytest.mark.parametrize("latent", [graphs.base_latent, graphs.stock_latent])
@pytest.mark.parametrize("side", ["positive", "negative"])
def test_text_without_the_global_encode_block(host, latent, side):
    graph = changed(latent(), **{f"base__{side}": ["clip_encode", 0]})
    assert _message(host, graph, "base") == (
        "conditioning: expected an image's, for a base model, found text alone. "
        "Put the I2VGen-XL Global Encode block between the prompts and the sampler."
    )


def test_global_encoder_of_another_base(host):
    """MS-Image2Video's, which is empty, with I2VGen-XL's network."""
    other = node("I2VGenXLCascadeLoader", bundle="others", weight_dtype="default")
    graph = changed(graphs.base_latent() | {"other": other}, global_encode__global_encoder=["other", 1])
    assert _message(host, graph, "base") == (
        "conditioning: expected the image's details and global tokens, found none of them. "
        "Wire the global encoder of this model's loader into the Global Encode block."
    )


def _narrow_text(width: int) -> list[list[Any]]:
    return [[torch.zeros(1, 77, width), {}]]


@pytest.mark.parametrize(("network", "title"), [("base", "I2VGen-XL base"), ("refine", "MS-Vid2Vid-XL refiner")])
def test_text_of_another_clip(host, values, network, title):
    """Stable Diffusion 1.5's is 768 wide; the test's networks read 64."""
    values["text"] = _narrow_text(768)
    graph = graphs.refined_latent() | {"text": node("GiveForTest", name="text")}
    if network == "base":
        graph = changed(graph, global_encode__positive=["text", 0])
    else:
        graph = changed(graph, refine__positive=["text", 0])
    assert _message(host, graph, network) == (
        f"text conditioning: expected width 64 for {title}, found 768. "
        "Encode the prompt with this model's CLIP: the loader's, or OpenCLIP ViT-H/14 for a release."
    )


def test_image_embedding_of_another_clip(host, values):
    output = SimpleNamespace(image_embeds=torch.zeros(1, 768))
    seen = {"clip_vision_output": output, "strength": 1.0, "noise_augmentation": 0.0}
    values["vision"] = [[torch.zeros(1, 77, 64), {"unclip_conditioning": [seen]}]]
    graph = graphs.base_latent() | {"other": node("GiveForTest", name="vision")}
    assert _message(host, changed(graph, global_encode__positive=["other", 0]), "base") == (
        "CLIP image embedding: expected width 64, found 768. "
        "Use this model's CLIP vision model: the loader's, or OpenCLIP ViT-H/14 for a release."
    )


# ---- VAEs


def _sdxl_latent(image: Tensor) -> Tensor:
    """From which the host's preview factors of SDXL make the image."""
    import comfy.latent_formats

    made = comfy.latent_formats.SDXL()
    factors, bias = torch.tensor(made.latent_rgb_factors), torch.tensor(made.latent_rgb_factors_bias)
    small = nn.functional.interpolate(image.movedim(-1, 1), scale_factor=1 / 8, mode="area").movedim(1, -1)
    return ((small * 2 - 1 - bias) @ torch.linalg.pinv(factors)).movedim(-1, 1) / made.scale_factor


def test_vae_of_sdxl(host, values):
    class SDXL:
        encode = staticmethod(_sdxl_latent)

    values["vae"] = SDXL()
    graph = graphs.conditions() | {"other": node("GiveForTest", name="vae")}
    assert _message(host, changed(graph, global_encode__vae=["other", 0]), "global_encode") == (
        "VAE: expected one of Stable Diffusion 1 or 2, found one whose latents are SDXL's. "
        "Use the VAE of Stable Diffusion 2.1 (or 1.5)."
    )


def test_a_bundles_vae_is_known_by_its_config(host, values, bundles, monkeypatch):
    """Its latents are not looked at, which a small VAE's might make SDXL's of."""
    encoders = host.module("nodes.host.encoders")
    vae = encoders.load_native_vae(bundles / "tiny" / "vae")
    monkeypatch.setattr(vae, "encode", _sdxl_latent)
    values["vae"] = vae
    graph = graphs.conditions() | {"other": node("GiveForTest", name="vae")}
    result = host.run(changed(graph, global_encode__vae=["other", 0]), {"latent": ("global_encode", 2)})
    assert result.error is None, result.error


def test_vae_of_sixteen_channels(host, values, tmp_path):
    """A real one, in the host: Flux's and SD3's have 16."""
    import comfy.sd
    from safetensors.torch import load_file

    AutoencoderKL(
        block_out_channels=(32, 32, 32, 32),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        latent_channels=16,
        use_quant_conv=False,
        use_post_quant_conv=False,
    ).save_pretrained(tmp_path)
    from i2vgen_core.checkpoints.vae_keys import vae_to_ldm

    state = vae_to_ldm(load_file(tmp_path / "diffusion_pytorch_model.safetensors"))
    parameters = {
        "double_z": True,
        "z_channels": 16,
        "resolution": 256,
        "in_channels": 3,
        "out_ch": 3,
        "ch": 32,
        "ch_mult": [1, 1, 1, 1],
        "num_res_blocks": 2,
        "attn_resolutions": [],
    }
    values["vae"] = comfy.sd.VAE(sd=state, config={"params": {"ddconfig": parameters, "embed_dim": 16}})
    graph = graphs.conditions() | {"other": node("GiveForTest", name="vae")}
    assert _message(host, changed(graph, global_encode__vae=["other", 0]), "global_encode") == (
        "VAE: expected latents [1, 4, 8, 12], found [1, 16, 8, 12]. Use the VAE of Stable Diffusion 2.1 (or 1.5)."
    )


def test_latent_of_another_model(host, values):
    values["latent"] = {"samples": torch.zeros(1, 16, 3, 8, 8)}
    graph = graphs.base_only() | {"other": node("GiveForTest", name="latent")}
    for at, change in (("frames", {"frames__latent": ["other", 0]}), ("base", {"base__latent": ["other", 0]})):
        message = _message(host, changed(graph, **change), at)
        assert message.startswith("latent: expected [frames, 4, height / 8, width / 8], found [1, 16, 3, 8, 8]. ")
    refined = graphs.refined_latent() | {"other": node("GiveForTest", name="latent")}
    message = _message(host, changed(refined, refine__latent=["other", 0]), "refine")
    assert message.startswith("latent: expected [frames, 4, height / 8, width / 8], found [1, 16, 3, 8, 8]. ")


# ---- sizes and images


@pytest.mark.parametrize(("name", "value"), [("width", 56), ("height", 56), ("width", 100), ("height", 70)])
def test_size(host, errors, name, value):
    """0 alone is a size below 64: the model's own."""
    graph = changed(graphs.base_latent(), **{f"global_encode__{name}": value})
    result = host.run(graph, {"latent": ("base", 0)}, reuse_cache=True)
    nearest = max(64, round(value / 8) * 8)
    assert result.error == (f"{name}: expected a multiple of 8 from 64 to 16384 pixels, found {value}. Use {nearest}.")
    size = {"width": graphs.WIDTH, "height": graphs.HEIGHT, name: value}
    with pytest.raises(
        errors.InputError, match=rf"^{name}: expected a multiple of 8 from 64 .*, found {value}\. Use \d+\.$"
    ):
        host.nodes["I2VGenXLGlobalEncode"].execute(
            positive=[],
            negative=[],
            global_encoder=None,
            vae=None,
            image=torch.zeros(1, 64, 64, 3),
            frames=1,
            fps=8,
            **size,
        )


@pytest.mark.parametrize(
    ("image", "found", "remedy"),
    [
        (torch.zeros(0, 64, 64, 3), "float32 [0, 64, 64, 3], an empty batch", "Give at least one image."),
        (torch.zeros(1, 64, 64, 4), "float32 [1, 64, 64, 4], with an alpha channel", "Remove the alpha channel first."),
    ],
)
def test_image(host, values, image, found, remedy):
    values["image"] = image
    graph = graphs.conditions() | {"other": node("GiveForTest", name="image")}
    for at in ("clip_encode", "global_encode"):
        expected = f"the image: expected a float tensor [N, H, W, 3] in 0..1, found {found}. {remedy}"
        assert _message(host, changed(graph, **{f"{at}__image": ["other", 0]}), at) == expected


# ---- numbers


def test_steps(host):
    graph = changed(graphs.refined_latent(), refine__noise_level=1)
    assert _message(host, graph, "refine") == (
        "noise level: expected 2 to 1000, found 1. Choose a value in this range."
    )


# ---- files


def _loader(class_type: str, name: str) -> graphs.Graph:
    extra = {"detail_gain": "official"} if class_type == "I2VGenXLBaseLoader" else {"variant": "auto"}
    return {"loader": node(class_type, model_name=name, weight_dtype="default", **extra)}


@pytest.fixture(scope="module")
def files(host: Host, bundles) -> dict[str, str]:
    """Names of files that are not what a loader wants."""
    from safetensors.torch import save_file

    from i2vgen_core.checkpoints.load import open_unet
    from i2vgen_core.checkpoints.unet_keys import to_official

    folder = host.base_directory / "models" / "diffusion_models"
    stable_diffusion = {
        "model.diffusion_model.time_embed.0.weight": torch.zeros(1280, 320),
        "model.diffusion_model.input_blocks.0.0.weight": torch.zeros(320, 4, 3, 3),
        "model.diffusion_model.input_blocks.1.1.proj_in.weight": torch.zeros(320, 320),
        "model.diffusion_model.out.2.weight": torch.zeros(4, 320, 3, 3),
        "cond_stage_model.transformer.text_model.final_layer_norm.weight": torch.zeros(768),
    }
    save_file(stable_diffusion, folder / "v1-5.safetensors")
    base = open_unet(bundles / "short" / "unet")
    encoder = {f"local_image_embedding.{key}": value for key, value in base.global_encoder.items()}
    whole = to_official(base.network | encoder)
    save_file(whole, folder / "a base.safetensors")
    save_file(to_official(open_unet(bundles / "short" / "refiner").network), folder / "a refiner.safetensors")
    one = "output_blocks.1.0.in_layers.2.weight"
    save_file({key: value for key, value in whole.items() if key != one}, folder / "one missing.safetensors")
    save_file(whole | {"surplus.weight": torch.zeros(1)}, folder / "one more.safetensors")
    content = (folder / "a base.safetensors").read_bytes()
    (folder / "cut short.safetensors").write_bytes(content[: len(content) // 2])
    torch.save({"state_dict": whole}, folder / "whole.pth")
    content = (folder / "whole.pth").read_bytes()
    (folder / "cut short.pth").write_bytes(content[: len(content) // 2])
    torch.save({"state_dict": {"x": SimpleNamespace()}}, folder / "objects.pth")
    (folder / "no tensors.safetensors").write_text("<html>404</html>")
    return {file.name: file.name for file in folder.iterdir()}


@pytest.mark.parametrize("loader", ["I2VGenXLBaseLoader", "I2VGenXLRefinerLoader"])
@pytest.mark.parametrize(
    ("file", "expected"),
    [
        (
            "v1-5.safetensors",
            "the model file: expected a network of the I2VGen-XL family, found no input_blocks.0.1.proj_in.weight among "
            "5 tensors (",  # of the whole file: where no network is found, nothing is beneath a prefix
        ),
        ("cut short.safetensors", "file cut short.safetensors: expected a safetensors file, found "),
        ("no tensors.safetensors", "file no tensors.safetensors: expected a safetensors file, found "),
        ("cut short.pth", "file cut short.pth: expected a PyTorch file of tensors alone, found "),
        ("objects.pth", "file objects.pth: expected a PyTorch file of tensors alone, found "),
    ],
)
def test_another_file(host, files, loader, file, expected):
    message = _message(host, _loader(loader, file), "loader")
    assert message.startswith(expected)
    assert message.endswith(".") and len(message) < 600


@pytest.mark.parametrize(
    ("file", "found"),
    [
        ("one missing.safetensors", "1 missing (output_blocks.1.0.in_layers.2.weight)"),
        ("one more.safetensors", "1 unknown (surplus.weight)"),
    ],
)
def test_a_tensor_too_few_or_too_many(host, files, file, found):
    message = _message(host, _loader("I2VGenXLBaseLoader", file), "loader")
    assert message.startswith("the i2vgen_xl network: expected ")
    assert message.endswith(f"tensors, found {found}. The file is damaged or of another model: use the released one.")


def test_the_loaders_of_the_other_stage(host, files):
    assert _message(host, _loader("I2VGenXLBaseLoader", "a refiner.safetensors"), "loader") == (
        "a refiner.safetensors: expected a base network, found a refiner (vid2vid_xl). "
        "Load it with the I2VGen-XL Refiner Loader block, or put it into a model folder's refiner/. "
        "If it is VGen's text to video, which has the same tensors, say text2video."
    )
    assert _message(host, _loader("I2VGenXLRefinerLoader", "a base.safetensors"), "loader") == (
        "a base.safetensors: expected a refiner, found a base (i2vgen_xl). "
        "Load it with the I2VGen-XL Base Loader block, or put it into a model folder's unet/."
    )
    told = changed(_loader("I2VGenXLRefinerLoader", "a base.safetensors"), loader__variant="sr600")
    assert _message(host, told, "loader") == (
        "the model file: expected a network of kind sr600, found one of kind i2vgen_xl. "
        "Bases go into the base loader, refiners into the refiner loader."
    )


NAMES = ["../a base.safetensors", "/etc/passwd", "tiny/../../x", "..", "", "~/x.safetensors", "tiny/../tiny", "a\0b"]


def _load(host: Host, class_type: str, **inputs: str) -> None:
    """A call of a loader; the Refiner Loader's is asynchronous."""
    made = host.nodes[class_type].execute(**inputs, weight_dtype="default")
    asyncio.run(made)


@pytest.mark.parametrize("name", NAMES)
def test_names_outside_the_model_folders(host, errors, files, name):
    """The host refuses a name that its list does not have; so does a call that goes around it."""
    for class_type, inputs in (
        ("I2VGenXLCascadeLoader", {"bundle": name}),
        ("I2VGenXLBaseLoader", {"model_name": name, "detail_gain": "official"}),
        ("I2VGenXLRefinerLoader", {"model_name": name, "variant": "auto"}),
        ("I2VGenXLRefinerLoader", {"model_name": f"{name}/refiner", "variant": "auto"}),
    ):
        with pytest.raises(errors.InputError, match=r"expected one from models/.*not among the \d+ there\. Put it"):
            _load(host, class_type, **inputs)
        result = host.run({"loader": node(class_type, **inputs, weight_dtype="default")}, {"model": ("loader", 0)})
        assert result.error is not None and result.error_node == "loader"


def test_what_lies_beside_the_model_folders_is_not_reached(host, errors, bundles, tmp_path):
    """Not even a bundle that is there."""
    outside = host.base_directory / "outside"
    outside.symlink_to(bundles / "tiny", target_is_directory=True)
    for name in ("../../outside", str(outside), "../diffusers/tiny"):
        with pytest.raises(errors.InputError, match="bundle: expected one from models/diffusers"):
            host.nodes["I2VGenXLCascadeLoader"].execute(bundle=name, weight_dtype="default")
