"""What the host is told that a step needs is just above what it needs, counted tensor by tensor at full size."""

from __future__ import annotations

import pytest
import torch

from benchmarks import measure, peer
from benchmarks.rows import BASE, GIB, LARGE
from i2vgen_core.network.evaluation import Prepared

from . import graphs

FRAMES = 16


@pytest.fixture(scope="module")
def networks() -> peer.Networks:
    return peer.made_up_networks(torch.bfloat16, "meta")


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
