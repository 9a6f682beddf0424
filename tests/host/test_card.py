"""A base and a refinement in the host on a graphics card, emulated: nothing mixes devices, and the values are the CPU's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from ..card import Card, OnCard
from . import graphs
from .compare import relative_error
from .in_process import Host

GIB = 2**30
SAME = {torch.float32: 1e-4, torch.float16: 0.06}
"""With fp16 networks the host runs the VAE in bf16: its 8 bits are off by 1 %, and guidance enlarges that."""

GRAPH = graphs.changed(graphs.refined_latent(), base__steps=2, base__cfg=1.5, refine__steps=2, refine__cfg=1.5)


@pytest.fixture(scope="module")
def on_cpu(host: Host) -> dict[str, Tensor]:
    return run(host)


def run(host: Host) -> dict[str, Tensor]:
    """Latents of both stages, computed anew."""
    result = host.run(GRAPH, {"base": ("base", 0), "refine": ("refine", 0)})
    assert result.error is None, f"{result.error_node}: {result.error}"
    return {name: value["samples"] for name, value in result.kept.items()}


@pytest.fixture
def believe(host: Host, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Card, torch.dtype], None]]:
    """Makes the host believe in a card of 8 GiB, without streams, and in the type that it is quickest in."""
    import comfy.model_management as management

    def memory(device: Any = None, torch_total_too: bool = False, torch_free_too: bool = False) -> Any:
        return (8 * GIB, 8 * GIB) if torch_total_too or torch_free_too else 8 * GIB

    def change(card: Card, dtype: torch.dtype) -> None:
        management.unload_all_models()

        def halves(device: Any = None, *_: Any, **__: Any) -> bool:
            return dtype == torch.float16 and (device is None or device.type != "cpu")

        for name, value in {
            "get_torch_device": lambda: card.device,
            "vram_state": management.VRAMState.NORMAL_VRAM,
            "get_free_memory": memory,
            "get_total_memory": memory,
            "should_use_fp16": halves,
            "should_use_bf16": halves,
            "current_stream": lambda device: None,
            "get_offload_stream": lambda device: None,
        }.items():
            monkeypatch.setattr(management, name, value)

    yield change
    management.unload_all_models()
    host.forget()  # or the next test would be given models that lie on the card


@pytest.mark.parametrize(("kind", "dtype"), [("cuda", torch.float32), ("cuda", torch.float16), ("mps", torch.float32)])
def test_a_video_on_the_card(host, on_cpu, believe, kind, dtype):
    import comfy.model_management as management

    with Card(kind) as card:
        believe(card, dtype)
        made = run(host)
        networks = [
            each.model.model.diffusion_model
            for each in management.current_loaded_models
            if hasattr(each.model.model, "diffusion_model")
        ]
    weights = [weight for network in networks for weight in network.parameters()]
    assert weights and all(isinstance(weight, OnCard) and weight.dtype == dtype for weight in weights)
    for name, expected in on_cpu.items():
        assert relative_error(made[name], expected) <= SAME[dtype], name
