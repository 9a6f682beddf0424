"""Refine Prepare in the host gives the refinement of the core, with our sampler and the stock one, in one window or more."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from i2vgen_core.cascade import Cascade
from i2vgen_core.checkpoints.bundle import write_unet
from i2vgen_core.checkpoints.load import open_refiner
from i2vgen_core.checkpoints.scaffold import SIZES
from i2vgen_core.config import HINTED, Kind, released_config
from i2vgen_core.network.unet import UNet
from i2vgen_core.parts import StageNetwork
from i2vgen_core.releases import RELEASES
from i2vgen_core.sampling.options import RefineOptions
from i2vgen_core.sampling.schedules import schedule_for
from i2vgen_core.sampling.stages import RefineStage

from ..templates.graph import Graph
from ..templates.restoring import RESTORING, restore_video
from . import graphs
from .compare import relative_error
from .graphs import node
from .in_process import Host
from .pieces import calling, without
from .test_interrupts import Interrupter

OPTIONS = RefineOptions(mode="normal", steps=2, seed=graphs.SEED, rescale=0.0)
PREPARED = {"enlarging": 1.5, "noise_aug": 0, "scale_told": 0, "joining": "auto", "seed": graphs.SEED}


@pytest.fixture(scope="module")
def refiners(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Toy refiners with a control branch, of little padding, that go with the bundle `tiny`."""
    made, folder = {}, tmp_path_factory.mktemp("refiners")
    for kind in HINTED:
        released = released_config(kind)
        sizes = {"channel_mult": (1, 2), "attention_levels": (True, False), "num_res_blocks": 1}
        config = replace(SIZES["tiny"].unet, kind=kind, gated=released.gated, control=released.control, **sizes)
        generator = torch.Generator().manual_seed(0)
        state = {
            key: torch.rand(value.shape, generator=generator).sub(0.5) * 4 / max(1, value[0].numel()) ** 0.5
            if value.ndim > 1
            else 0.1 * torch.rand(value.shape, generator=generator) + float(key.endswith("weight"))
            for key, value in UNet(config, device="meta").state_dict().items()
        }
        small = {"width": 64, "height": 80} | ({"fewest_pixels": 100} if kind == "venhancer" else {})
        made[kind] = folder / kind
        write_unet(made[kind], config, state, small)
    return {str(kind): path for kind, path in made.items()}


@pytest.fixture(scope="module")
def clip() -> torch.Tensor:
    return torch.rand(5, 12, 16, 3, generator=torch.Generator().manual_seed(1))


def graph(kind: Kind, window: int = 0) -> graphs.Graph:
    release, given = RELEASES[kind], graphs.refined_latent()
    inserted = 1 if kind == "venhancer" else -1
    changed = graphs.changed(
        given,
        positive__text=graphs.REFINE_PROMPT + release.prompt_suffix,
        negative__text=release.negative_prompt,
        refine__positive=["prepare", 0],
        refine__negative=["prepare", 1],
        refine__latent=["prepare", 2],
        refine__steps=OPTIONS.steps,
        refine__rescale=0.0,
        refine__mode="normal",
    )
    kept = {name: changed[name] for name in ("loader", "positive", "negative", "refine")}
    return kept | {
        "refiner": node("GiveForTest", name="model"),
        "images": node("GiveForTest", name="clip"),
        "prepare": node(
            "I2VGenXLRefinePrepare",
            model=["refiner", 0],
            positive=["positive", 0],
            negative=["negative", 0],
            vae=["loader", 4],
            images=["images", 0],
            inserted=inserted,
            window=window,
            **PREPARED,
        ),
        "base": node("I2VGenXLVAEDecode", vae=["loader", 4], latent=["refine", 0], frames_per_batch=0),
    }


def give(host: Host, path: Path, clip: torch.Tensor) -> None:
    """The clip and the MODEL, as the Refiner Loader makes it of a file."""
    models, load = host.module("nodes.host.models"), host.module("i2vgen_core.checkpoints.load")
    host.given |= {"clip": clip, "model": models.build_model(load.open_refiner(path), path, "default")}


def core_frames(bundles: Path, path: Path, clip: torch.Tensor, options: RefineOptions) -> torch.Tensor:
    cascade, checkpoint = Cascade(bundles / "tiny"), open_refiner(path)
    cascade.refiner = StageNetwork(checkpoint.build_network(), checkpoint.release)
    canvas, latent = cascade.canvas(clip, options), cascade.encode_video(clip, options)
    return cascade.decode_refined(cascade.sample_refiner(latent, graphs.REFINE_PROMPT, options), canvas)


@pytest.mark.parametrize("kind, window", [("star", 3), ("venhancer", 4)])
def test_the_host_gives_the_cores_video(
    host: Host, bundles: Path, refiners: dict[str, Path], clip: torch.Tensor, kind: Kind, window: int
) -> None:
    give(host, refiners[kind], clip)
    frames = host.value(graph(kind, window))
    options = replace(OPTIONS, enlarging=1.5, window=window or None)
    expected = core_frames(bundles, refiners[kind], clip, options)
    assert frames.shape == expected.shape == ((9 if kind == "venhancer" else 5), 18, 24, 3)
    assert relative_error(frames, expected) < 1e-4


def test_the_stock_sampler_reads_the_hint_too(host: Host, refiners: dict[str, Path], clip: torch.Tensor) -> None:
    stock = node(
        "KSampler",
        model=["refiner", 0],
        positive=["prepare", 0],
        negative=["prepare", 1],
        latent_image=["prepare", 2],
        seed=graphs.SEED,
        steps=2,
        cfg=7.5,
        sampler_name="euler",
        scheduler="normal",
        denoise=0.5,
    )
    give(host, refiners["star"], clip)
    frames = host.value(graph("star") | {"refine": stock})
    host.given["clip"] = clip.flip(0)
    assert frames.shape == (5, 18, 24, 3)
    assert relative_error(frames, host.value(graph("star") | {"refine": stock})) > 1e-2


def test_the_stock_sampler_gives_the_same_where_it_has_the_levels(
    host: Host, refiners: dict[str, Path], clip: torch.Tensor
) -> None:
    """DPM-Solver++ without noise or rescaling, on levels that are timesteps. An amount of its own leaves out the releases'
    second scaling of the start, which no stock sampler has."""
    options = {"steps": 3, "noise_level": 700, "eta": 0.0, "rescale": 0.0, "amount": 0.9, "mode": "normal"}
    stage = RefineStage(RefineOptions(seed=graphs.SEED, **options), RELEASES["star"], schedule_for("star"))
    assert stage.timesteps == [699, 524, 349]
    give(host, refiners["star"], clip)
    host.given["sigmas"] = stage.plan.sigmas
    stock = {
        "solver": node("SamplerDPMPP_2M_SDE", solver_type="midpoint", eta=0.0, s_noise=1.0, noise_device="cpu"),
        "sigmas": node("GiveForTest", name="sigmas"),
        "refine": node(
            "SamplerCustom",
            model=["refiner", 0],
            add_noise=True,
            noise_seed=stage.noise_seed,
            cfg=5.0,
            positive=["prepare", 0],
            negative=["prepare", 1],
            sampler=["solver", 0],
            sigmas=["sigmas", 0],
            latent_image=["prepare", 2],
        ),
    }
    given = graph("star")
    ours = graphs.changed(given, **{f"refine__{name}": value for name, value in options.items()}, refine__cfg=5.0)
    assert relative_error(host.value(given | stock), host.value(ours)) < 1e-4


def test_a_step_is_cancelled_between_its_windows(
    host: Host, refiners: dict[str, Path], clip: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    give(host, refiners["star"], clip)
    evaluations = Interrupter(monkeypatch, host.module("i2vgen_core.network.unet").UNet, "forward", 1)
    result = host.run(graph("star", 3), {"frames": ("base", 0)})
    assert result.interrupted and result.error_node == "refine"
    assert evaluations.calls == 1, "of the first step's two windows"


def test_random_joining_draws_a_cut_for_each_step(
    host: Host, refiners: dict[str, Path], clip: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    give(host, refiners["star"], clip)
    network, seeds = host.module("nodes.host.network"), []
    share_of = network.share_of
    monkeypatch.setattr(
        network,
        "share_of",
        lambda joining, drawn: seeds.append((joining, drawn.initial_seed())) or share_of(joining, drawn),
    )
    host.value(graphs.changed(graph("star", 3), prepare__joining="random"))
    assert len(set(seeds)) == OPTIONS.steps and {joining for joining, _ in seeds} == {"random"}


@pytest.mark.parametrize("make", RESTORING, ids=lambda make: make.__name__)
def test_a_template_runs_where_its_files_are(
    host: Host, refiners: dict[str, Path], clip: torch.Tensor, make: Callable[[], Graph]
) -> None:
    """A made-up network stands for the released one, tensors for the loaded video."""
    kind = "star" if make is restore_video else "venhancer"
    give(host, refiners[kind], clip)
    prompt, stands = make().prompt(), {"CLIPLoader": ["loader", 2], "VAELoader": ["loader", 4]}
    stands |= {"I2VGenXLRefinerLoader": ["refiner", 0], "GetVideoComponents": ["images", 0]}
    moved = {name: stands[each["class_type"]] for name, each in prompt.items() if each["class_type"] in stands}
    changed = {name: graph("star")[name] for name in ("loader", "refiner", "images")}
    for name, each in prompt.items():
        if each["class_type"] in (
            "CLIPTextEncode",
            "I2VGenXLRefinePrepare",
            "I2VGenXLRefineSampler",
            "I2VGenXLVAEDecode",
        ):
            wires = {key: moved.get(link[0], link) for key, link in each["inputs"].items() if isinstance(link, list)}
            few = {"mode": "normal", "steps": 1} if "Sampler" in each["class_type"] else {}
            changed[name] = node(each["class_type"], **(each["inputs"] | wires | few))
    (decoded,) = (name for name, each in changed.items() if each["class_type"] == "I2VGenXLVAEDecode")
    assert host.value(changed, decoded).shape == (5 if kind == "star" else 13, 48, 64, 3)


@pytest.fixture(scope="module")
def video_vae(host: Host) -> Any:
    """Stable Video Diffusion's VAE as the host builds it of its file, made up."""
    import comfy.sd
    from comfy.ldm.models.autoencoder import AutoencodingEngine

    sizes = {"double_z": True, "z_channels": 4, "resolution": 256, "in_channels": 3, "out_ch": 3, "ch": 128}
    sizes |= {"ch_mult": [1, 2, 4, 4], "num_res_blocks": 2, "attn_resolutions": [], "dropout": 0.0}
    with torch.device("meta"):
        model = AutoencodingEngine(
            regularizer_config={"target": "comfy.ldm.models.autoencoder.DiagonalGaussianRegularizer"},
            encoder_config={"target": "comfy.ldm.modules.diffusionmodules.model.Encoder", "params": sizes},
            decoder_config={
                "target": "comfy.ldm.modules.temporal_ae.VideoDecoder",
                "params": sizes | {"video_kernel_size": [3, 1, 1], "alpha": 0.0},
            },
        )
    generator = torch.Generator().manual_seed(0)
    state = {
        key: torch.randn(value.shape, generator=generator) / max(1, value[0].numel() if value.ndim else 1) ** 0.5
        for key, value in model.state_dict().items()
    }
    return comfy.sd.VAE(sd=state)


def test_a_vae_with_time_decodes_groups_that_are_blended(host: Host, video_vae: Any) -> None:
    latent = torch.randn(10, 4, 2, 2, generator=torch.Generator().manual_seed(2))
    decode = host.module("nodes.host.decode").decode_video
    frames = decode(video_vae, {"samples": latent}, 0)
    first, last = (video_vae.decode(latent[start:stop]).clone() for start, stop in ((0, 5), (3, 10)))
    expected = torch.cat([first[:4], (first[4:] + last[1:2]) / 2, last[2:]])
    assert relative_error(frames, expected) < 1e-5
    assert relative_error(decode(video_vae, {"samples": latent}, 1), frames) > 1e-2, (
        "one by one they see no other frame"
    )


@pytest.mark.parametrize(
    "changes, message",
    [
        (
            {"refine__positive": ["positive", 0]},
            "conditioning: expected a video's, for STAR refiner, found text alone.",
        ),
        ({"refine__latent": ["other", 0]}, "latent: expected 5 frames of 10x8, as the hint has, found 5 of 10x10."),
        (
            {"refine__mode": "fast", "refine__noise_level": 600},
            "noise level: expected 900 with the mode fast, found 600.",
        ),
        (
            {"prepare__model": ["loader", 0]},
            "model: expected a STAR or VEnhancer refiner, found a network of kind i2vgen_xl.",
        ),
        ({"prepare__inserted": 2}, "inserted: expected none where the network reads no key frames, found 2"),
    ],
)
def test_what_cannot_be_is_said(
    host: Host, refiners: dict[str, Path], clip: torch.Tensor, changes: dict[str, Any], message: str
) -> None:
    give(host, refiners["star"], clip)
    host.given["other"] = {"samples": torch.zeros(5, 4, 10, 10)}
    given = graph("star") | {"other": node("GiveForTest", name="other")}
    result = host.run(graphs.changed(given, **changes), {"frames": ("base", 0)})
    assert result.error is not None and message in result.error


def test_a_node_that_loses_the_hint_is_told(host: Host, refiners: dict[str, Path], clip: torch.Tensor) -> None:
    """As one that calls the network with the conditions that it knows, or cuts the latent alone."""
    give(host, refiners["star"], clip)
    names = "positive", "negative", "latent"
    kept = host.run(graph("star"), {name: ("prepare", i) for i, name in enumerate(names)}).kept
    inputs = [kept[name] for name in names]
    lost = "expected some, in every call of the network, found none."
    changes = {
        f"the hint: {lost}": without("hint"),
        f"what is told of the hint: {lost}": without("told"),
        "the hint: expected those of the frames and places that are evaluated, found": lambda given: {
            **given,
            "hint": given["hint"][..., :-1],
        },
    }
    for message, change in changes.items():
        model = host.given["model"].clone()
        calling(change)(model)
        with pytest.raises(ValueError, match=message), torch.inference_mode():
            host.module("nodes.host.sampling").sample_refiner(model, *inputs, OPTIONS)
