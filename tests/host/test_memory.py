"""What the host is told that a step needs is just above what it needs, counted tensor by tensor at full size."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from diffusers.models.controlnets.controlnet import ControlNetModel

from benchmarks import measure, peer
from benchmarks.rows import BASE, GIB, LARGE
from i2vgen_core.checkpoints.adapter import load_adapter
from i2vgen_core.encoders.controlnet import FrameControl
from i2vgen_core.network.evaluation import Prepared
from i2vgen_core.sampling.control import Control, ControlledPredictor, ControlOptions

from . import graphs

sys.path.append(str(Path(__file__).parents[1] / "core"))
import adapters

FRAMES = 16


@pytest.fixture(scope="module")
def networks() -> peer.Networks:
    return peer.made_up_networks(torch.bfloat16, "meta")


def test_estimate_of_a_steered_step(host, monkeypatch, networks):
    """With a Ctrl-Adapter and a ControlNet of full size at 512x512, as the host asks for it before a run."""
    import comfy.model_management

    control = host.module("nodes.host.control")
    model = host.run(graphs.conditions("short"), {"model": ("loader", 0)}, reuse_cache=True).kept["model"]
    monkeypatch.setattr(comfy.model_management, "pytorch_attention_flash_attention", lambda: True)
    monkeypatch.setattr(model.model, "get_dtype_inference", lambda: torch.bfloat16)
    shape = [FRAMES, 4, 64, 64]
    plain = model.model.memory_required(shape)
    estimate = control._with_its_memory(lambda given: given.model.memory_required(shape), model)
    assert model.model.memory_required(shape) == plain < estimate

    with torch.device("meta"):
        sees = ControlNetModel(cross_attention_dim=768).to(torch.bfloat16).requires_grad_(False).eval()
    adapter = load_adapter(adapters.released(), dtype=torch.bfloat16, device="meta")
    given = {"device": "meta", "dtype": torch.bfloat16}
    features = FrameControl(sees, torch.empty(FRAMES, 3, 512, 512, **given), [torch.empty(1, 77, 768, **given)])
    steering = Control(adapter, features, torch.empty(1, 1, 1024, **given), ControlOptions(end=1.0))
    step = peer.Step(networks, FRAMES, 64, 64)
    step.prepare()
    predict = ControlledPredictor(networks.ours, steering, step.details, [500])

    @torch.no_grad()
    def run() -> list[torch.Tensor]:
        return predict(step.x, 500, step.conditions[:1])

    peak = measure.live_peak(run)
    assert peak <= estimate <= 1.1 * peak, f"{estimate / GIB:.2f} GiB for {peak / GIB:.2f} GiB"


@pytest.mark.parametrize(("size", "halves"), [(BASE, 1), (LARGE, 2)], ids=["448x256", "1280x704"])
def test_estimate_is_just_above_the_peak(host, monkeypatch, networks, size, halves):
    """Of the smallest size one half, which is nearest to the estimate; of the largest two, which are furthest away. What
    the Accelerate block keeps of each half fits in too."""
    import comfy.model_management

    model = host.run(graphs.conditions("short"), {"model": ("loader", 0)}, reuse_cache=True).kept["model"].model
    monkeypatch.setattr(comfy.model_management, "pytorch_attention_flash_attention", lambda: True)
    monkeypatch.setattr(model, "get_dtype_inference", lambda: torch.bfloat16)
    estimate = model.memory_required([halves * FRAMES, 4, *size])

    step = peer.Step(networks, FRAMES, *size)
    step.prepare()
    prepared = step.conditions[0] if halves == 1 else Prepared.together(step.conditions)

    @torch.no_grad()
    def run() -> torch.Tensor:
        return networks.ours(step.x, step.timestep, prepared, FRAMES, details=step.details)

    peak = measure.live_peak(run)
    assert peak <= estimate <= 1.3 * peak, f"{estimate / GIB:.2f} GiB for {peak / GIB:.2f} GiB"
    if size == LARGE:
        features = halves * FRAMES * networks.ours.config.model_channels * size[0] * size[1] * step.x.element_size()
        assert peak + features <= estimate
