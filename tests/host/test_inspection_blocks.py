"""Size, Color Match, Inspect Conditioning, Spectrum and Compare Videos as blocks: they give what the core gives."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from i2vgen_core import assets
from i2vgen_core.cascade import Cascade
from i2vgen_core.media.colour import match_colours
from i2vgen_core.media.compare import compare
from i2vgen_core.media.inspection import inspect, split_context
from i2vgen_core.media.spectrum import analyse
from i2vgen_core.sampling.options import BaseOptions
from i2vgen_core.training.evaluate import held_out_case

from . import graphs
from .compare import relative_error
from .graphs import changed, node
from .in_process import Host

SCENE = 13


def _graph(bundle: str = assets.NAME) -> graphs.Graph:
    size = {"size": node("I2VGenXLSize", size="tiny base 128x64")}
    graph = graphs.base_latent(bundle) | size | {"photo": node("I2VGenXLTinyScene", seed=SCENE)}
    width, height = ["size", 0], ["size", 1]
    return changed(
        graph,
        clip_encode__width=width,
        global_encode__width=width,
        global_encode__height=height,
        global_encode__frames=8,
        base__steps=2,
        base__cfg=3.0,
    )


def _inspect(**inputs: Any) -> dict[str, Any]:
    return node("I2VGenXLInspectConditioning", **inputs)


def _run(host: Host, graph: graphs.Graph, **keep: tuple[str, int]) -> dict[str, Any]:
    result = host.run(graph, keep, reuse_cache=True)
    assert result.error is None, f"{result.error_node}: {result.error}"
    return result.kept


@pytest.fixture(scope="module")
def video(host: Host) -> torch.Tensor:
    graph = _graph() | graphs.save("base")
    return _run(host, graph, frames=("frames", 0))["frames"]


def test_size_goes_into_both_blocks(host, video):
    assert video.shape == (8, 64, 128, 3)


def test_inspection_shows_what_the_core_computes(host):
    """With the model: the very tensors that the cascade without a host hands to the network."""
    sides = {"positive": ["global_encode", 0], "negative": ["global_encode", 1]}
    graph = _graph() | {"inspect": _inspect(**sides, model=["loader", 0])}
    kept = _run(host, graph, image=("inspect", 0), table=("inspect", 1))
    cascade = Cascade()
    options = BaseOptions(frames=8, fps=graphs.FPS, negative=graphs.NEGATIVE)
    image = held_out_case(SCENE, 512, 256, 1).truth.frames
    conditions = cascade.condition(image, graphs.PROMPT, options)
    network = cascade.base.unet.config
    picture, table = inspect(
        *(split_context(side[0], conditions.details, network) for side in (conditions.positive, conditions.negative))
    )
    assert kept["image"].shape == (1, *picture.shape)
    assert (kept["image"][0] - picture).abs().mean() < 0.01
    figures, expected = (_figures(text) for text in (kept["table"], table))
    assert len(figures) == len(expected) > 40
    assert relative_error(figures, expected) < 2e-3


def _figures(table: str) -> torch.Tensor:
    words = table.replace("|", " ").replace(",", " ").split()
    return torch.tensor([float(word) for word in words if word.replace(".", "").replace("-", "").isdigit()])


def test_inspection_without_a_model(host):
    graph = _graph() | {"inspect": _inspect(positive=["global_encode", 0])}
    table = _run(host, graph, table=("inspect", 1))["table"]
    assert "| CLIP image embedding, positive | 1 |" in table
    assert "image latent and ramp: 8 frames of 4 channels, 16x8" in table
    graph = _graph() | {"inspect": _inspect(positive=["clip_encode", 1])}
    table = _run(host, graph, table=("inspect", 1))["table"]
    assert "| text, positive | 77 |" in table and "global" not in table and "image" not in table


def test_inspection_of_the_other_networks(host):
    """MS-Image2Video reads the CLIP image alone, a refiner the text alone."""
    graph = graphs.refined_latent("others")
    graph |= {
        "base_inspect": _inspect(positive=["global_encode", 0], model=["loader", 0]),
        "inspect": _inspect(positive=["positive", 0], negative=["negative", 0], model=["refiner", 0]),
    }
    kept = _run(host, graph, base=("base_inspect", 1), refiner=("inspect", 1))
    assert "| CLIP image, positive | 4 |" in kept["base"] and "text" not in kept["base"]
    assert "| text, negative | 77 |" in kept["refiner"] and "image" not in kept["refiner"]


def test_inspection_refuses_as_the_model_does(host):
    graph = _graph() | {"inspect": _inspect(positive=["clip_encode", 0], model=["loader", 0])}
    result = host.run(graph, {"image": ("inspect", 0)}, reuse_cache=True)
    assert result.error_node == "inspect"
    assert result.error.endswith("Put the I2VGen-XL Global Encode block between the prompts and the sampler.")


def test_the_video_blocks_give_what_the_core_gives(host, video):
    graph = _graph() | graphs.save("base")
    graph |= {
        "match": node(
            "I2VGenXLColorMatch", images=["frames", 0], reference=["photo", 0], method="wavelet", strength=0.5
        ),
        "spectrum": node("I2VGenXLSpectrum", images=["frames", 0], images_after=["match", 0]),
        "alone": node("I2VGenXLSpectrum", images=["photo", 0]),
        "compare": node("I2VGenXLCompareVideos", images_a=["frames", 0], images_b=["match", 0], mode="split"),
    }
    kept = _run(
        host,
        graph,
        match=("match", 0),
        plot=("spectrum", 0),
        levels=("spectrum", 1),
        alone=("alone", 1),
        split=("compare", 0),
        figures=("compare", 1),
    )
    image = held_out_case(SCENE, 512, 256, 1).truth.frames
    matched = match_colours(video, image, "wavelet", 0.5)
    assert torch.equal(kept["match"], matched) and not torch.equal(matched, video)
    picture, levels = analyse(video, matched)
    assert torch.equal(kept["plot"][0], picture) and kept["levels"] == levels
    assert "temporal low" not in kept["alone"] and "it needs 8 frames" in kept["alone"]
    comparison = compare(video, matched, "split")
    assert torch.equal(kept["split"], comparison.frames) and kept["figures"] == comparison.table()
