"""The host's own nodes between our sockets: its samplers, encoders, latent and image nodes, model patches and video."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import sqrt
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from i2vgen_core.cascade import Cascade
from i2vgen_core.checkpoints.load import open_unet
from i2vgen_core.media.images import clip_frame, read_image
from i2vgen_core.media.video import read_video
from i2vgen_core.sampling.held import Held

from . import graphs
from .compare import relative_error
from .graphs import changed, node
from .in_process import Host

BASE_INPUTS = {"model": ["loader", 0], "positive": ["global_encode", 0], "negative": ["global_encode", 1]}


# ---- the stock sampler


@pytest.fixture(scope="module")
def fifty(host: Host) -> SimpleNamespace:
    """50 steps with our Base Sampler, the stock KSampler and SamplerCustomAdvanced, from one seed."""
    small = {"clip_encode__width": 64, "global_encode__width": 64, "global_encode__frames": 2, "base__steps": 50}
    graph = changed(graphs.base_latent("short"), **small) | {
        "stock": changed(graphs.stock_latent("short"), base__steps=50)["base"],
        "noise": node("RandomNoise", noise_seed=graphs.SEED),
        "guider": node("CFGGuider", cfg=9.0, **BASE_INPUTS),
        "steps": node("BasicScheduler", model=["loader", 0], scheduler="ddim_uniform", steps=50, denoise=1.0),
        "solver": node("KSamplerSelect", sampler_name="ddim"),
        "custom": node(
            "SamplerCustomAdvanced",
            noise=["noise", 0],
            guider=["guider", 0],
            sampler=["solver", 0],
            sigmas=["steps", 0],
            latent_image=["global_encode", 2],
        ),
    }
    keep = {name: (name, 0) for name in ("loader", "base", "stock", "custom", "steps")}
    keep |= {name: ("global_encode", i) for i, name in enumerate(("positive", "negative", "latent"))}
    result = host.run(graph, keep)
    assert result.error is None, f"{result.error_node}: {result.error}"
    return SimpleNamespace(**result.kept)


def test_stock_schedule_has_the_official_timesteps(fifty):
    timesteps = [round(float(fifty.loader.model.model_sampling.timestep(sigma))) for sigma in fifty.steps[:-1]]
    assert timesteps == list(range(981, 0, -20))
    assert fifty.steps[-1] == 0


def _stock(fifty: SimpleNamespace, first_scale: bool, last_level: bool) -> Tensor:
    """The stock sampler's run with either of its differences removed."""
    import comfy.sample
    import comfy.samplers

    alphas = fifty.loader.model.schedule.alphas_cumprod
    empty, sigmas = fifty.latent["samples"], fifty.steps.clone()
    noise = comfy.sample.prepare_noise(empty, graphs.SEED)
    if first_scale:
        noise = noise / sqrt(1 - alphas[981])
    if last_level:
        sigmas[-1] = fifty.loader.model.model_sampling.sigmas[0]
    sampler = comfy.samplers.sampler_object("ddim")
    with torch.inference_mode():
        latent = comfy.sample.sample_custom(
            fifty.loader, noise, 9.0, sampler, sigmas, fifty.positive, fifty.negative, empty, seed=graphs.SEED
        )
    return latent * sqrt(alphas[0]) if last_level else latent


def test_ksampler_without_its_two_differences(fifty):
    ours = fifty.base["samples"]
    assert relative_error(_stock(fifty, first_scale=True, last_level=True), ours) < 1e-4


def test_ksampler_with_its_two_differences(fifty):
    """The first latent is 0.9996 of the noise, and the last step goes to zero noise: the whole makes less than 1 % of
    the largest value, nearly all of it the last step's."""
    assert relative_error(_stock(fifty, first_scale=False, last_level=False), fifty.stock["samples"]) == 0
    ours = fifty.base["samples"]
    scale = float(1 - fifty.loader.model.schedule.alphas_cumprod[981]) ** 0.5
    assert 0.9995 < scale < 0.9997
    assert 1e-4 < relative_error(_stock(fifty, first_scale=False, last_level=True), ours) < 1e-2
    assert 1e-4 < relative_error(_stock(fifty, first_scale=True, last_level=False), ours) < 1e-2
    assert 1e-4 < relative_error(fifty.stock["samples"], ours) < 1e-2


def test_custom_sampling(fifty):
    assert relative_error(fifty.custom["samples"], fifty.stock["samples"]) == 0


@pytest.mark.parametrize("sampler", ["euler", "dpmpp_2m", "dpmpp_2m_sde", "uni_pc"])
def test_stock_sampler_on_the_refiner(host, sampler):
    """The refiner is a MODEL like any other."""
    stock = node(
        "KSampler",
        model=["refiner", 0],
        positive=["positive", 0],
        negative=["negative", 0],
        latent_image=["encode", 0],
        seed=graphs.SEED,
        steps=3,
        cfg=7.5,
        sampler_name=sampler,
        scheduler="normal",
        denoise=0.6,
    )
    encoded, refined = host.values(graphs.refined_latent() | {"refine": stock}, "encode", "refine")
    assert refined.isfinite().all()
    assert relative_error(refined, encoded) > 1e-2


# ---- stock encoders in place of ours


def _with_stock_text(graph: graphs.Graph) -> graphs.Graph:
    return graph | {
        "prompt": node("CLIPTextEncode", clip=["loader", 2], text=graphs.PROMPT),
        "negative_prompt": node("CLIPTextEncode", clip=["loader", 2], text=graphs.NEGATIVE),
    }


def test_stock_text_encoding_is_ours(host):
    graph = _with_stock_text(graphs.conditions())
    keep = {"stock": ("prompt", 0), "ours": ("clip_encode", 0)}
    keep |= {"stock negative": ("negative_prompt", 0), "our negative": ("clip_encode", 1)}
    kept = host.run(graph, keep, reuse_cache=True).kept
    assert relative_error(kept["stock"][0][0], kept["ours"][0][0]) == 0
    assert relative_error(kept["stock negative"][0][0], kept["our negative"][0][0]) == 0


def test_stock_image_encoding_differs_by_its_crop(host):
    """The host crops the photo's centre square and reduces it bicubically; the official code covers a square of the
    video's width by box filter first. The embedding differs by some per cent; made-up weights make more of it."""
    graph = _with_stock_text(graphs.base_latent()) | {
        "stock_vision": node("CLIPVisionEncode", clip_vision=["loader", 3], image=["photo", 0], crop="center"),
        "unclip": node(
            "unCLIPConditioning",
            conditioning=["prompt", 0],
            clip_vision_output=["stock_vision", 0],
            strength=1.0,
            noise_augmentation=0.0,
        ),
    }
    keep = {"ours": ("clip_encode", 2), "stock": ("stock_vision", 0), "our latent": ("base", 0)}
    kept = host.run(graph, keep, reuse_cache=True).kept
    difference = relative_error(kept["stock"].image_embeds, kept["ours"].image_embeds)
    assert 1e-3 < difference < 0.2

    stock = changed(graph, global_encode__positive=["unclip", 0], global_encode__negative=["negative_prompt", 0])
    latent = host.value(stock, "base")
    assert 1e-6 < relative_error(latent, kept["our latent"]["samples"]) < 0.5


def test_stock_encoders_give_ours_from_our_picture(host):
    """What differs is the preprocessing alone: from the square that our block makes, the stock nodes give our video."""
    graph = graphs.base_latent()
    keep = {"latent": ("base", 0), "vision": ("loader", 3), "ours": ("clip_encode", 2)}
    kept = host.run(graph, keep, reuse_cache=True).kept
    square = clip_frame(read_image(host.base_directory / "input" / graphs.PHOTO), graphs.WIDTH, 56)
    with torch.inference_mode():
        (stock,) = host.nodes["CLIPVisionEncode"]().encode(kept["vision"], square, "center")
    assert relative_error(stock.image_embeds, kept["ours"].image_embeds) < 1e-5


# ---- latents, images, video


def test_stock_vae_nodes(host):
    tiles = {"vae": ["loader", 4], "samples": ["base", 0], "overlap": 32, "temporal_size": 64, "temporal_overlap": 8}
    graph = graphs.base_only() | {
        "stock_decode": node("VAEDecode", vae=["loader", 4], samples=["base", 0]),
        "by_one": node("I2VGenXLVAEDecode", vae=["loader", 4], latent=["base", 0], frames_per_batch=1),
        "one_tile": node("VAEDecodeTiled", **tiles, tile_size=512),
        "tiled": node("VAEDecodeTiled", **tiles, tile_size=64),
        "encoded": node("VAEEncode", vae=["loader", 4], pixels=["frames", 0]),
    }
    names = ("frames", "stock_decode", "by_one", "one_tile", "tiled", "encoded")
    ours, stock, by_one, one_tile, tiled, encoded = host.values(graph, *names)
    assert relative_error(ours, stock) == 0
    assert relative_error(by_one, stock) < 1e-5
    assert relative_error(one_tile, stock) < 1e-5
    assert tiled.shape == stock.shape == (graphs.FRAMES, graphs.HEIGHT, graphs.WIDTH, 3)
    assert encoded.shape == (graphs.FRAMES, 4, graphs.HEIGHT // 8, graphs.WIDTH // 8)


def test_between_the_stages(host):
    """Fewer frames, and a latent enlarged as a latent instead of as images."""
    graph = graphs.refined_latent() | {
        "cut": node("LatentFromBatch", samples=["base", 0], batch_index=1, length=2),
        "larger": node(
            "LatentUpscale", samples=["cut", 0], upscale_method="bislerp", width=136, height=80, crop="disabled"
        ),
    }
    refined = host.value(changed(graph, refine__latent=["larger", 0]), "refine")
    assert refined.shape == (2, 4, 10, 17)
    assert refined.isfinite().all()


def test_enlarged_latent_before_the_base(host):
    """The image latent follows a latent that was resized between the blocks."""
    larger = node(
        "LatentUpscale", samples=["global_encode", 2], upscale_method="bilinear", width=128, height=80, crop="disabled"
    )
    latent = host.value(changed(graphs.base_latent() | {"larger": larger}, base__latent=["larger", 0]), "base")
    assert latent.shape == (graphs.FRAMES, 4, 10, 16)
    assert latent.isfinite().all()


@pytest.mark.parametrize("workflow", [graphs.base_only, graphs.base_with_ksampler, graphs.full_cascade])
def test_workflow_writes_a_video(host, workflow):
    graph = workflow()
    result = host.run(graph, {"images": ("frames", 0)}, reuse_cache=True)
    assert result.error is None, f"{result.error_node}: {result.error}"
    (written,) = next(iter(result.outputs["save"].values()))
    frames, rate = read_video(host.base_directory / "output" / written["subfolder"] / written["filename"])
    refined = workflow is graphs.full_cascade
    size = (graphs.REFINED_HEIGHT, graphs.REFINED_WIDTH) if refined else (graphs.HEIGHT, graphs.WIDTH)
    assert frames.shape == (graphs.FRAMES, *size, 3)
    assert rate == graphs.RATE
    assert (frames - result.kept["images"]).abs().mean() < 0.1


# ---- model patches


Names = Callable[[str], tuple[str, str, str]]
LORA_NAMES: dict[str, Names] = {
    "kohya": lambda name: (
        f"lora_unet_{name.replace('.', '_')}.lora_up.weight",
        f"lora_unet_{name.replace('.', '_')}.lora_down.weight",
        f"lora_unet_{name.replace('.', '_')}.alpha",
    ),
    "dotted": lambda name: (
        f"diffusion_model.{name}.lora_B.weight",
        f"diffusion_model.{name}.lora_A.weight",
        f"diffusion_model.{name}.alpha",
    ),
}


def _lora(state: dict[str, Tensor], names: Names) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """A file's tensors of rank 1 for every weight of two axes or more, and the weights with it added."""
    generator = torch.Generator().manual_seed(0)
    file, patched = {}, {}
    for key, weight in state.items():
        if weight.ndim < 2:
            patched[key] = weight
            continue
        up = torch.randn(len(weight), 1, *[1] * (weight.ndim - 2), generator=generator)
        down = torch.randn(1, *weight.shape[1:], generator=generator) * 0.1 / weight[0].numel() ** 0.5
        up_name, down_name, alpha_name = names(key.removesuffix(".weight"))
        file |= {up_name: up, down_name: down, alpha_name: torch.tensor(1.0)}
        patched[key] = weight.float() + (up.flatten(1) @ down.flatten(1)).reshape(weight.shape)
    return file, patched


@pytest.mark.parametrize("names", LORA_NAMES)
def test_lora(host, bundles, photo, caplog, names):
    """Every weight can be patched, by either kind of name, and the video is that of the patched weights."""
    cascade = Cascade(bundles / "tiny")
    file, patched = _lora(open_unet(bundles / "tiny" / "unet").network, LORA_NAMES[names])
    save_file(file, host.base_directory / "models" / "loras" / f"{names}.safetensors")
    graph = graphs.base_latent() | {
        "lora": node("LoraLoaderModelOnly", model=["loader", 0], lora_name=f"{names}.safetensors", strength_model=1.0)
    }
    plain = host.value(graph, "base")
    with caplog.at_level("WARNING"):
        latent = host.value(changed(graph, base__model=["lora", 0]), "base")
    assert not [text for text in caplog.messages if "not loaded" in text.lower()]
    assert relative_error(latent, plain) > 1e-2
    cascade.base.unet.load_state_dict(patched)
    conditions = cascade.condition(read_image(photo), graphs.PROMPT, graphs.BASE_OPTIONS)
    assert relative_error(latent, cascade.sample_base(conditions, graphs.BASE_OPTIONS)) < 1e-3
    assert relative_error(host.value(graph, "base"), plain) == 0


def _windows(host: Host, length: int, overlap: int) -> dict[str, Any]:
    inputs: dict[str, Any] = {
        "model": ["loader", 0],
        "context_length": length,
        "context_overlap": overlap,
        "context_schedule": "standard_static",
        "context_stride": 1,
        "closed_loop": False,
        "fuse_method": "pyramid",
        "dim": 0,
        "freenoise": False,
        "cond_retain_index_list": "",
        "split_conds_to_windows": False,
        "latent_retain_index_list": "",
        "causal_window_fix": False,
    }
    offered = host.nodes["ContextWindowsManual"].INPUT_TYPES()
    known = {name for group in ("required", "optional") for name in offered.get(group, {})}
    return node("ContextWindowsManual", **{name: value for name, value in inputs.items() if name in known})


@pytest.mark.parametrize("sampler", ["ours", "stock"])
def test_context_windows(host, monkeypatch, sampler):
    """A long video in windows: each has the details of a clip of its length."""
    graph = graphs.base_latent() if sampler == "ours" else graphs.stock_latent()
    graph = changed(graph, global_encode__frames=8, base__steps=2)
    graph |= {"windows": _windows(host, 4, 2), "one_window": _windows(host, 8, 2)}
    plain = host.value(graph, "base")
    same = host.value(changed(graph, base__model=["one_window", 0]), "base")
    assert relative_error(same, plain) == 0

    network = host.module("nodes.host.network").HostUNet
    forward, seen = network.forward, []

    def record(self: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        seen.append((len(x), kwargs["details"]))
        return forward(self, x, *args, **kwargs)

    monkeypatch.setattr(network, "forward", record)
    windowed = host.value(changed(graph, base__model=["windows", 0]), "base")
    assert {frames for frames, _ in seen} == {2 * 4} and len(seen) == 2 * 3
    first, last = seen[0][1], seen[2][1]
    host.value(changed(graph, global_encode__frames=4), "base")
    clip = seen[-1][1]
    assert relative_error(first, clip) == relative_error(last, clip) == 0
    assert windowed.shape == plain.shape and windowed.isfinite().all()
    assert relative_error(windowed, plain) > 1e-3


def test_rescale_cfg(host):
    """On a base it works as on any model. On a refiner it takes the place of the Refine Sampler's own rescale."""
    graph = graphs.refined_latent() | {
        "base_rescaled": node("RescaleCFG", model=["loader", 0], multiplier=0.7),
        "rescaled": node("RescaleCFG", model=["refiner", 0], multiplier=0.7),
    }
    base, refined = host.values(graph, "base", "refine")
    assert relative_error(host.value(changed(graph, base__model=["base_rescaled", 0]), "base"), base) > 1e-2
    stock = changed(graph, refine__model=["rescaled", 0])
    kept = host.value(stock, "refine")
    assert relative_error(kept, refined) > 1e-3
    assert relative_error(kept, host.value(changed(graph, refine__rescale=0.0), "refine")) > 1e-2
    assert relative_error(host.value(changed(stock, refine__rescale=1.0), "refine"), kept) == 0


@pytest.mark.parametrize("entry", ["noise", "inversion"])
@pytest.mark.parametrize("solver", ["dpmpp_2m_sde", "heun"])
def test_noise_mask(host, entry, solver):
    """Where the mask is 0 the refined video is the one that came in."""
    graph = graphs.refined_latent() | {
        "left": node("SolidMask", value=0.0, width=graphs.REFINED_WIDTH // 2, height=graphs.REFINED_HEIGHT),
        "all": node("SolidMask", value=1.0, width=graphs.REFINED_WIDTH, height=graphs.REFINED_HEIGHT),
        "mask": node("MaskComposite", destination=["all", 0], source=["left", 0], x=0, y=0, operation="multiply"),
        "masked": node("SetLatentNoiseMask", samples=["encode", 0], mask=["mask", 0]),
        "open": node("SetLatentNoiseMask", samples=["encode", 0], mask=["all", 0]),
    }
    graph = changed(graph, refine__entry=entry, refine__solver=solver)
    encoded, plain = host.values(graph, "encode", "refine")
    masked = host.value(changed(graph, refine__latent=["masked", 0]), "refine")
    opened = host.value(changed(graph, refine__latent=["open", 0]), "refine")
    assert relative_error(opened, plain) < 1e-5
    assert relative_error(masked[..., :6], encoded[..., :6]) < 1e-4
    assert relative_error(masked[..., 9:], encoded[..., 9:]) > 1e-2


def test_the_base_reads_latent_and_mask(host, bundles, photo):
    """The stock KSampler's video from the same latent with SetLatentNoiseMask, a soft mask among them, and the core's."""
    levels, steps = 0.8, 4  # 601, 401, 201, 1 in both
    blended = torch.ones(graphs.FRAMES, graphs.HEIGHT, graphs.WIDTH)
    blended[:, :, :32], blended[:, 40:], blended[2] = 0, 0.5, 0
    given = torch.randn(
        graphs.FRAMES, 4, graphs.HEIGHT // 8, graphs.WIDTH // 8, generator=torch.Generator().manual_seed(2)
    )
    host.given |= {"mask": blended, "video": {"samples": given}}
    masked = {
        "video": node("GiveForTest", name="video"),
        "mask": node("GiveForTest", name="mask"),
        "masked": node("SetLatentNoiseMask", samples=["video", 0], mask=["mask", 0]),
    }
    settings = {"base__steps": steps, "base__denoise": levels}
    ours = changed(graphs.base_latent() | masked, base__latent=["masked", 0], **settings)
    stock = changed(
        graphs.stock_latent() | masked, base__latent_image=["masked", 0], base__sampler_name="euler", **settings
    )
    sampled = host.value(ours)
    assert relative_error(sampled, host.value(stock)) < 1e-4
    options = replace(graphs.BASE_OPTIONS, steps=steps, denoise=levels)
    cascade = Cascade(bundles / graphs.BUNDLE)
    conditions = cascade.condition(read_image(photo), graphs.PROMPT, options)
    assert relative_error(sampled, cascade.sample_base(conditions, options, held=Held(given, blended))) < 1e-4
    assert relative_error(sampled[:, :, :4, :3], given[:, :, :4, :3]) < 1e-5
    assert relative_error(sampled[2], given[2]) < 1e-5
    assert relative_error(sampled[:2, :, :4, 6:], given[:2, :, :4, 6:]) > 1e-2


def test_from_pure_noise_the_latent_is_not_read(host):
    graph = graphs.base_latent() | {"video": node("GiveForTest", name="video")}
    host.given["video"] = {"samples": torch.ones(graphs.FRAMES, 4, graphs.HEIGHT // 8, graphs.WIDTH // 8)}
    read = changed(graph, base__latent=["video", 0])
    assert relative_error(host.value(read), host.value(graph)) == 0
    assert relative_error(host.value(changed(read, base__denoise=0.5)), host.value(graph)) > 1e-2
