"""Every template runs, at sizes that take seconds. That the front end makes the same of the file, tests/ui shows."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from ..templates.blueprints import BLUEPRINTS
from ..templates.templates import TEMPLATES, base_chain, base_long_video, base_loop, base_two_prompts
from .graphs import TEMPLATE_FRAMES, small_template


def _ids(prompt: dict[str, dict[str, Any]], node_type: str) -> list[str]:
    return [name for name, node in prompt.items() if node["class_type"] == node_type]


@pytest.mark.parametrize("make", TEMPLATES, ids=lambda make: make.__name__)
def test_template_runs(host, make):
    prompt = small_template(make)
    if lacking := {node["class_type"] for node in prompt.values()} - set(host.nodes):
        pytest.skip(f"this ComfyUI has no {', '.join(sorted(lacking))}")
    videos = {
        name: (node["inputs"]["images"][0], 0) for name, node in prompt.items() if node["class_type"] == "CreateVideo"
    }
    result = host.run(prompt, videos, reuse_cache=True)
    assert result.error is None, f"{result.error_node}: {result.error}"
    assert videos
    for frames in result.kept.values():
        assert frames.isfinite().all() and frames.std() > 0.01
    lengths = {"base_chain": {16, 31}, "base_loop": {15}, "shots": {17}}  # of the chain each clip and both
    expected = lengths.get(make.__name__, {TEMPLATE_FRAMES.get(make.__name__, 3)})
    assert {len(frames) for frames in result.kept.values()} == expected


def test_loop_ends_where_it_begins(host):
    """Its first and last frame are the picture, through the VAE; what is between is not."""
    prompt = small_template(base_loop)
    (decoded,) = _ids(prompt, "I2VGenXLVAEDecode")
    frames = host.run(prompt, {"frames": (decoded, 0)}, reuse_cache=True).kept["frames"]
    assert (frames[0] - frames[-1]).abs().max() < 1e-5
    assert (frames[8] - frames[0]).abs().mean() > 3e-4  # after a single step


def test_the_second_clip_begins_with_the_first_ones_last_frame(host):
    """Whose colours its own first frame is brought to."""
    prompt = small_template(base_chain)
    (matched,) = _ids(prompt, "I2VGenXLColorMatch")
    source, _ = prompt[matched]["inputs"]["reference"]
    kept = host.run(prompt, {"second": (matched, 0), "last": (source, 0)}, reuse_cache=True).kept
    first, last = kept["second"][0].mean(dim=(0, 1)), kept["last"][0].mean(dim=(0, 1))
    assert (first - last).abs().max() < 1e-3


@pytest.fixture
def windows(host: Any) -> None:
    """Skips where context windows cut only the conditions that the host knows, and split no prompts (before 0.33)."""
    import comfy.model_base

    if not hasattr(comfy.model_base.BaseModel, "resize_cond_for_context_window"):
        pytest.skip("this ComfyUI's context windows leave a model no say in its conditions")


@pytest.mark.usefixtures("windows")
def test_each_prompt_has_its_window(host, monkeypatch):
    """The first window of a step reads the first prompt, the last one the second."""
    prompt = small_template(base_two_prompts)
    first, second = _ids(prompt, "I2VGenXLCLIPEncode")
    network = host.module("nodes.host.network").HostUNet
    forward, seen = network.forward, []

    def record(self: Any, x: Any, timesteps: Any, context: Any, *args: Any, **kwargs: Any) -> Any:
        seen.append(context.float())
        return forward(self, x, timesteps, context, *args, **kwargs)

    monkeypatch.setattr(network, "forward", record)
    kept = host.run(prompt, {"first": (first, 0), "second": (second, 0)}).kept
    assert len(seen) == 2
    for context, own, other in zip(seen, ("first", "second"), ("second", "first"), strict=True):
        text = {name: kept[name][0][0][0] for name in (own, other)}
        fits = {name: min((side[:77] - text[name]).abs().max() for side in context) for name in text}
        assert fits[own] < 1e-2 < fits[other]


def _shape(frames: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Area in pixels, mean colour and row of the centre of what is not background, in each of the frames."""
    background = frames[0].flatten(0, 1).median(dim=0).values
    mask = (frames - background).norm(dim=-1) > 0.3
    area = mask.sum(dim=(1, 2)).clamp(min=1)
    colour = (frames * mask[..., None]).sum(dim=(1, 2)) / area[:, None]
    rows = torch.arange(frames.shape[1])[:, None]
    return area, colour, (mask * rows).sum(dim=(1, 2)) / area


def _windowed_frames(host: Any, make: Any, count: int, causal: bool = False) -> torch.Tensor:
    """A template's video as it opens, but of `count` frames and 8 steps."""
    prompt = make().prompt()
    for node in prompt.values():
        inputs = node["inputs"]
        inputs |= {"frames": count} if node["class_type"] == "I2VGenXLGlobalEncode" else {}
        inputs |= {"steps": 8} if node["class_type"] == "I2VGenXLBaseSampler" else {}
        inputs |= {"causal_window_fix": causal} if node["class_type"] == "ContextWindowsManual" else {}
    (decoded,) = _ids(prompt, "I2VGenXLVAEDecode")
    result = host.run(prompt, {"frames": (decoded, 0)}, reuse_cache=True)
    assert result.error is None, result.error
    return result.kept["frames"]


@pytest.mark.usefixtures("windows")
@pytest.mark.parametrize(("count", "causal"), [(40, False), (24, True)], ids=["", "with the frame before each window"])
def test_a_long_video_keeps_its_shape_in_every_window(host, count, causal):
    """The built-in base draws 285 to 346 pixels in frames whose colour is off by 0.1 at most; where only the first
    window had the picture's details, colours were off by 0.4 and single frames had 42 pixels."""
    area, colour, _ = _shape(_windowed_frames(host, base_long_video, count, causal))
    assert ((area > 0.6 * area[0]) & (area < 1.6 * area[0])).all()
    assert (colour - colour[0]).norm(dim=1).max() < 0.2


@pytest.mark.usefixtures("windows")
def test_the_second_prompt_moves_the_shape_of_the_first(host):
    """It stays, and then goes down 16 rows of 64; red throughout."""
    area, colour, row = _shape(_windowed_frames(host, base_two_prompts, 24))
    assert (area > 0.4 * area[0]).all() and (colour - colour[0]).norm(dim=1).max() < 0.2
    assert (row[8] - row[0]).abs() < 4 < 8 < row[-1] - row[8]


@pytest.mark.parametrize("make", BLUEPRINTS, ids=lambda make: make.__name__)
def test_every_input_of_a_block_is_wired_or_exposed(host, make):
    block = make()
    exposed = {(target.id, entry) for _, targets in block.exposed for target, entry in targets}
    for node in block.nodes:
        required = host.nodes[node.type].INPUT_TYPES()["required"]
        for name in required:
            assert name in node.widgets or name in node.wires or (node.id, name) in exposed, f"{node.type}: {name}"
