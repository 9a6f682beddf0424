"""Ctrl-Adapter in the host: what a ControlNet of the host's own and our adapters make is the core's."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import full_size_control
from i2vgen_core.cascade import Cascade
from i2vgen_core.checkpoints.adapter import load_adapter
from i2vgen_core.config import VAE_SCALE
from i2vgen_core.media.images import read_image
from i2vgen_core.sampling.control import Control, ControlledPredictor, ControlOptions, controlled
from i2vgen_core.sampling.schedules import schedule_for
from i2vgen_core.sampling.stages import BaseStage

from ..templates.steering import edges_to_video
from . import graphs
from .compare import relative_error
from .graphs import node
from .test_stock_nodes import _windows

sys.path.append(str(Path(__file__).parents[1] / "core"))
import adapters
import toy

HEAD, TEXT = 16, 48


@pytest.fixture(scope="module")
def control_net(host: Any) -> Any:
    """A ControlNet of toy size, as the host's loader makes them."""
    import comfy.cldm.cldm
    import comfy.controlnet
    import comfy.ops

    made = comfy.cldm.cldm.ControlNet(
        image_size=32,
        in_channels=4,
        model_channels=32,
        hint_channels=3,
        num_res_blocks=[2, 2, 2, 2],
        channel_mult=(1, 2, 4, 4),
        num_heads=4,
        use_spatial_transformer=True,
        transformer_depth=[1, 1, 1, 1, 1, 1, 0, 0],
        transformer_depth_middle=1,
        context_dim=TEXT,
        operations=comfy.ops.disable_weight_init,
        device="cpu",
    )
    made.load_state_dict(toy.fill(made.state_dict(), 5))
    return comfy.controlnet.ControlNet(control_model=made.eval(), load_device=torch.device("cpu"))


@pytest.fixture(scope="module")
def given(host: Any, control_net: Any, bundles: Path) -> dict[str, Any]:
    import comfy.ops

    config = Cascade(bundles / graphs.BUNDLE).base.unet.config
    state = adapters.state(config)
    generator = torch.Generator().manual_seed(4)
    texts = torch.randn(2, 1, 77, TEXT, generator=generator)
    hints = torch.rand(graphs.FRAMES, graphs.HEIGHT, graphs.WIDTH, 3, generator=generator)
    socket = host.module("nodes.host.control").CtrlAdapterSocket
    return {
        "adapter": socket(load_adapter(state, HEAD, operations=comfy.ops.manual_cast)),
        "control": control_net,
        "hints": hints,
        "good": [[texts[0], {}]],
        "bad": [[texts[1], {}]],
        "core": load_adapter(state, HEAD),
    }


def _graph(host: Any, given: dict[str, Any], **settings: Any) -> graphs.Graph:
    host.given |= given
    inputs = {"strength": 0.8, "start_percent": 0.0, "end_percent": 0.7, "key_frames": ""} | settings
    names = ("adapter", "control", "hints", "good", "bad")
    steered = node(
        "I2VGenXLApplyCtrlAdapter",
        model=["loader", 0],
        ctrl_adapter=["adapter", 0],
        control_net=["control", 0],
        images=["hints", 0],
        text_positive=["good", 0],
        text_negative=["bad", 0],
        clip_vision_output=["vision", 0],
        **inputs,
    )
    vision = node("CLIPVisionEncode", clip_vision=["loader", 3], image=["photo", 0], crop="center")
    graph = graphs.base_latent() | {name: node("GiveForTest", name=name) for name in names}
    return graphs.changed(graph | {"vision": vision, "steered": steered}, base__model=["steered", 0])


@pytest.mark.parametrize("key_frames", [(), (0, 2)])
def test_the_steered_latent_is_the_cores(host, given, bundles, photo, key_frames):
    latent, vision = host.values(_graph(host, given, key_frames=" ".join(map(str, key_frames))), "base", "vision")
    cascade = Cascade(bundles / graphs.BUNDLE)
    conditions = cascade.condition(read_image(photo), graphs.PROMPT, graphs.BASE_OPTIONS)
    unet, network = cascade.base.unet, given["control"].control_model
    stage = BaseStage(graphs.BASE_OPTIONS, cascade.base.release, schedule_for("i2vgen_xl"))

    def features(x: torch.Tensor, t: int, count: int) -> list[torch.Tensor]:
        made = []
        hook = network.input_blocks[0].register_forward_hook(lambda _, __, y: y * (not key_frames))
        for text in (given["good"][0][0], given["bad"][0][0])[:count]:
            hints, told = given["hints"].movedim(-1, 1), torch.full((len(x),), float(t))
            one = network(x=x, hint=hints, timesteps=told, context=text.expand(len(x), -1, -1))
            made.append([*one["output"], *one["middle"]])
        hook.remove()
        return [torch.cat(each) for each in zip(*made, strict=True)]

    options = ControlOptions(0.8, 0.0, 0.7, key_frames)
    token = vision.image_embeds[:, None]
    with torch.no_grad():
        control = Control(given["core"], features, token, options)
        predict = ControlledPredictor(unet, control, conditions.details, stage.timesteps)
        both = [unet.prepare(each, conditions.fps) for each in (conditions.positive, conditions.negative)]
        denoise = controlled(predict, stage.schedule, both, stage.settings.guidance)
        expected = stage.sample(denoise, stage.noise(conditions.shape)) / VAE_SCALE
    assert relative_error(latent, expected) < 1e-3
    plain = cascade.sample_base(conditions, graphs.BASE_OPTIONS)
    assert relative_error(latent, plain) > 1e-2


@pytest.mark.parametrize(
    "change, words",
    [
        ({"hints": torch.rand(2, 64, 96, 3)}, "all 2 that have a picture"),
        ({"good": [[torch.rand(1, 77, 64), {}]]}, "text_positive: expected width 48"),
        ({"control": object()}, "control_net: expected a ControlNet of Stable Diffusion 1.5"),
    ],
)
def test_what_does_not_fit_is_said(host, given, change, words):
    result = host.run(_graph(host, given | change), {"latent": ("base", 0)})
    assert words in str(result.error)


def test_windows_of_frames_are_refused(host, given):
    """The adapter numbers the frames that it is given: those of a window would be taken for the first."""
    window = _windows(host, 2, 1)
    window["inputs"]["model"] = ["steered", 0]
    graph = graphs.changed(_graph(host, given) | {"window": window}, base__model=["window", 0])
    result = host.run(graph, {"latent": ("base", 0)})
    assert "with Ctrl-Adapter there are no context windows" in str(result.error)


def test_key_frames_are_numbers(host, given):
    result = host.run(_graph(host, given, key_frames="0 five"), {"latent": ("base", 0)})
    assert "key frames: expected numbers of frames" in str(result.error)


def test_the_graph_that_is_measured_at_full_size(host, given):
    """Here with made-up networks of toy size: both of its samplers run, and the adapter changes the video."""
    host.given |= given
    graph = full_size_control.graph(graphs.FRAMES, 64, 1)
    graph["loader"]["inputs"]["bundle"] = graphs.BUNDLE
    graph |= {name: node("GiveForTest", name=name) for name in ("adapter", "good", "bad")}
    graph["net"] = node("GiveForTest", name="control")
    del graph["clip"]
    steered, plain = host.values(graph, "steered", "plain")
    assert steered.shape == plain.shape == (graphs.FRAMES, 4, 8, 8)
    assert relative_error(steered, plain) > full_size_control.DIFFERENT


def test_the_template_runs_where_its_files_are(host, given):
    """Made-up networks stand for the released ones, tensors for the video and for what the ControlNet is told."""
    host.given |= given
    prompt = edges_to_video().prompt()
    texts = [name for name, each in prompt.items() if each["class_type"] == "CLIPTextEncode"]
    stands = {
        "CLIPLoader": ["loader", 2],
        "CLIPVisionLoader": ["loader", 3],
        "VAELoader": ["loader", 4],
        "I2VGenXLCtrlAdapterLoader": ["adapter", 0],
        "ControlNetLoader": ["control", 0],
        "GetVideoComponents": ["hints", 0],
        "LoadImage": ["photo", 0],
    }
    small = {
        "I2VGenXLCLIPEncode": {"width": graphs.WIDTH},
        "I2VGenXLGlobalEncode": {"width": graphs.WIDTH, "height": graphs.HEIGHT, "frames": graphs.FRAMES},
        "I2VGenXLBaseSampler": {"steps": 2},
    }

    def moved(link: list[Any]) -> list[Any]:
        kind = prompt[link[0]]["class_type"]
        if kind == "I2VGenXLBaseLoader":
            return ["loader", link[1]]
        return [("good", "bad")[texts.index(link[0])], 0] if link[0] in texts else stands.get(kind, link)

    graph = {name: node("GiveForTest", name=name) for name in ("adapter", "control", "hints", "good", "bad")}
    graph |= {name: graphs.conditions()[name] for name in ("loader", "photo")}
    kept = {"Canny", "ImageFromBatch", "CLIPVisionEncode", "I2VGenXLApplyCtrlAdapter", "I2VGenXLVAEDecode", *small}
    for name, each in prompt.items():
        if each["class_type"] in kept:
            wires = {key: moved(link) for key, link in each["inputs"].items() if isinstance(link, list)}
            graph[name] = node(each["class_type"], **(each["inputs"] | wires | small.get(each["class_type"], {})))
    (decoded,) = (name for name, each in graph.items() if each["class_type"] == "I2VGenXLVAEDecode")
    assert host.value(graph, decoded).shape == (graphs.FRAMES, graphs.HEIGHT, graphs.WIDTH, 3)
