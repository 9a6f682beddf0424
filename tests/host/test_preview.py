"""What a sampler shows while it runs: a strip of frames, in the colours of the VAE, and how long it will take; and that
nothing of a cancelled run is kept."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from i2vgen_core import assets
from i2vgen_core.media.compare import psnr
from i2vgen_core.training.evaluate import held_out_case

from . import graphs
from .graphs import changed, node
from .in_process import Host

SHOWN = {1: [0], 2: [0, 1], 3: [0, 1, 2], 4: [0, 1, 2, 3], 8: [0, 2, 5, 7], 16: [0, 2, 4, 6, 8, 9, 11, 13, 15]}


@pytest.mark.parametrize("frames", SHOWN)
def test_strip_of_frames(host: Host, frames: int) -> None:
    latent = torch.arange(frames).float()[:, None, None, None].expand(frames, 4, 2, 3)
    strip = host.module("nodes.host.preview").filmstrip(latent)
    columns = {1: 1, 2: 2, 3: 3, 4: 2, 8: 2, 16: 3}[frames]
    assert strip.shape == (1, 4, 2 * len(SHOWN[frames]) // columns, 3 * columns)
    assert strip[0, 0, ::2, ::3].flatten().tolist() == SHOWN[frames]


def _steps(host: Host, monkeypatch: pytest.MonkeyPatch, graph: graphs.Graph) -> list[Image.Image]:
    """The previews of `base`, whose picture is that of the Tiny Scene block, in order."""
    import comfy.utils

    shown: list[Any] = []
    monkeypatch.setattr(comfy.utils, "PROGRESS_BAR_HOOK", lambda value, total, preview, **_: shown.append(preview))
    result = host.run(graph, {"latent": ("base", 0)}, reuse_cache=True)
    assert result.error is None, f"{result.error_node}: {result.error}"
    return [picture for _, picture, _ in filter(None, shown)]


def _tiny(sampler: graphs.Graph) -> graphs.Graph:
    return changed(
        sampler | {"photo": node("I2VGenXLTinyScene", seed=13)},
        clip_encode__width=128,
        clip_encode__prompt=held_out_case(13, 128, 64, 1).prompt,
        global_encode__width=128,
        global_encode__height=64,
        global_encode__frames=8,
        global_encode__fps=8,
        base__cfg=2.5,
        base__steps=4,
    )


@pytest.mark.parametrize("method", ["latent2rgb", "taesd"])
@pytest.mark.parametrize("sampler", [graphs.base_latent, graphs.stock_latent])
def test_preview_shows_the_clip(host, monkeypatch, tmp_path, sampler, method):
    """Four frames in two rows, whose first has the colours of the picture that went in."""
    import latent_preview
    from comfy.cli_args import LatentPreviewMethod

    monkeypatch.setattr(latent_preview.args, "preview_method", LatentPreviewMethod.Latent2RGB)
    monkeypatch.setattr(latent_preview, "default_preview_method", LatentPreviewMethod.Latent2RGB, raising=False)
    ours = sampler is graphs.base_latent
    if method == "taesd":
        _stand_in_for_taesd(monkeypatch)
    pictures = _steps(host, monkeypatch, changed(_tiny(sampler(assets.NAME)), base__seed=len(method)))
    assert len(pictures) == 4
    cell = (128, 64) if method == "taesd" else (16, 8)
    if method == "taesd" and not ours:
        assert pictures[-1].size == cell, "the stock samplers' TAESD shows the first frame"
        return
    assert pictures[-1].size == (2 * cell[0], 2 * cell[1])
    if method == "latent2rgb":
        first = torch.tensor(list(pictures[-1].crop((0, 0, *cell)).getdata())).view(cell[1], cell[0], 3) / 255
        truth = held_out_case(13, *cell, 1).truth.frames[0]
        assert psnr(first, truth) > 16


def _stand_in_for_taesd(monkeypatch: pytest.MonkeyPatch) -> None:
    """The host's TAESD previewer with a decoder that needs no file."""
    import latent_preview

    class Decoder:
        def decode(self, latent: Tensor) -> Tensor:
            assert len(latent) == 1
            return torch.nn.functional.interpolate(latent[:, :3], scale_factor=8)

    previewer = latent_preview.TAESDPreviewerImpl(Decoder())
    monkeypatch.setattr(latent_preview, "get_previewer", lambda *_: previewer)


def test_a_packs_previewer_is_given_the_whole_clip(host, monkeypatch):
    """VideoHelperSuite's plays it."""
    import latent_preview

    seen = []

    class Player(latent_preview.Latent2RGBPreviewer):
        def decode_latent_to_preview_image(self, preview_format: str, x0: Tensor) -> None:
            seen.append(tuple(x0.shape))

    monkeypatch.setattr(latent_preview, "get_previewer", lambda *_: Player([[0.0] * 3] * 4))
    _steps(host, monkeypatch, changed(_tiny(graphs.base_latent(assets.NAME)), base__seed=99))
    assert seen == [(8, 4, 8, 16)] * 4


def test_progress_text(host):
    text = host.module("nodes.host.preview").progress_text
    assert text(1, 20, None) == "step 1 of 20"
    assert text(5, 20, 1.524) == "step 5 of 20, 1.52 s a step, 0:23 left"
    assert text(2, 50, 90.0) == "step 2 of 50, 90.00 s a step, 72:00 left"
    assert text(20, 20, 1.5) == "step 20 of 20, 1.50 s a step"


@pytest.mark.parametrize("entry", ["base", "noise", "inversion"])
def test_a_cancelled_run_keeps_nothing(host, monkeypatch, entry):
    """No latent of the run is alive after it, and the next run works."""
    import comfy.model_management
    import comfy.samplers

    at = "base" if entry == "base" else "refine"
    graph = changed(graphs.refined_latent(), **{f"{at}__seed": 4321})
    if entry != "base":
        graph = changed(graph, refine__entry=entry)
    latents: list[weakref.ref[Tensor]] = []
    predict = comfy.samplers.CFGGuider.predict_noise

    def watched(self: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        latents.append(weakref.ref(x))
        if len(latents) == 2:
            comfy.model_management.interrupt_current_processing()
        return predict(self, x, *args, **kwargs)

    if at == "refine":
        assert host.run(graph, {"latent": ("encode", 0)}).error is None
    monkeypatch.setattr(comfy.samplers.CFGGuider, "predict_noise", watched)
    result = host.run(graph, {"latent": (at, 0)}, reuse_cache=True)
    monkeypatch.undo()
    assert result.interrupted and result.error_node == at
    assert len(latents) == 2, "stops within one step"
    gc.collect()
    assert [latent() for latent in latents] == [None, None]
    again = host.run(graph, {"latent": (at, 0)}, reuse_cache=True)
    assert again.error is None and again.kept["latent"]["samples"].isfinite().all()
