"""The host's model patches in our networks: asked for at the right places, with what they expect, and their answers used."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from i2vgen_core.sampling.options import BaseOptions

from . import graphs
from .compare import relative_error
from .graphs import changed, node
from .in_process import Host


@pytest.fixture(scope="module")
def sample(host: Host) -> Callable[[Any], Tensor]:
    """sample(patch): the base's latent with `patch` applied to a clone of its MODEL."""
    keep = {"model": ("loader", 0)}
    keep |= {name: ("global_encode", i) for i, name in enumerate(("positive", "negative", "latent"))}
    kept = host.run(graphs.conditions("short"), keep).kept
    sampling = host.module("nodes.host.sampling")

    def run(patch: Callable[[Any], Any] = lambda _: None) -> Tensor:
        model = kept["model"].clone()
        patch(model)
        options = BaseOptions(seed=graphs.SEED, steps=2)
        with torch.inference_mode():
            return sampling.sample_base(model, kept["positive"], kept["negative"], kept["latent"], options)["samples"]

    return run


@pytest.fixture(scope="module")
def plain(sample) -> Tensor:
    return sample()


def _host_attention(q: Tensor, k: Tensor, v: Tensor, options: dict[str, Any]) -> Tensor:
    from comfy.ldm.modules.attention import optimized_attention

    return optimized_attention(q, k, v, options["n_heads"])


INPUTS, OUTPUTS = 4, 4  # blocks of the short bundle on the way down and up
VIDEOS, FRAMES = 2, graphs.FRAMES  # positive and negative in one call


def test_patches_that_change_nothing(sample, plain):
    """Every kind is called with the shapes that it has in the host's own networks."""
    seen: Counter[tuple[str, Any]] = Counter()

    def attention_patch(name: str) -> Callable[..., Any]:
        def patch(q: Tensor, k: Tensor, v: Tensor, options: dict[str, Any]) -> Any:
            seen[name, options["block"]] += 1
            tokens = 77 + 64 + 4 if name == "attn2" else q.shape[1]
            assert len(q) == len(k) == len(v) == VIDEOS * FRAMES and k.shape[1] == tokens
            assert options["original_shape"] == [VIDEOS * FRAMES, 4, graphs.HEIGHT // 8, graphs.WIDTH // 8]
            return q, k, v

        return patch

    def through(name: str) -> Callable[..., Any]:
        def patch(x: Tensor, options: dict[str, Any]) -> Tensor:
            seen[name, options["block"]] += 1
            assert len(x) == VIDEOS * FRAMES
            return x

        return patch

    def joined(x: Tensor, skip: Tensor, options: dict[str, Any]) -> tuple[Tensor, Tensor]:
        seen["joined", options["block"]] += 1
        assert x.shape[2:] == skip.shape[2:]
        return x, skip

    def patch(model: Any) -> None:
        model.set_model_input_block_patch(through("input"))
        model.set_model_input_block_patch_after_skip(through("after skip"))
        model.set_model_output_block_patch(joined)
        model.set_model_attn1_patch(attention_patch("attn1"))
        model.set_model_attn2_patch(attention_patch("attn2"))
        model.set_model_attn1_output_patch(through("attn1 output"))
        model.set_model_attn2_output_patch(through("attn2 output"))

    assert relative_error(sample(patch), plain) < 1e-5
    assert set(seen.values()) == {2}, "once a step at every place"
    inputs = {("input", n) for n in range(INPUTS)}
    outputs = {("output", n) for n in range(OUTPUTS)}
    places = {name: {place for kind, place in seen if kind == name} for name, _ in seen}
    assert places["input"] == places["after skip"] == inputs
    assert places["joined"] == outputs
    assert places["attn1"] == places["attn2"] == places["attn1 output"] == places["attn2 output"]
    assert ("middle", 0) in places["attn1"] and places["attn1"] < inputs | outputs | {("middle", 0)}


@pytest.mark.parametrize("name", ["attn1", "attn2"])
def test_replaced_attention(sample, plain, name):
    """By the same attention, at every block: the video is the same. At one block, by another: it is not."""
    blocks = [("input", n) for n in range(INPUTS)] + [("middle", 0)] + [("output", n) for n in range(OUTPUTS)]

    def same(model: Any) -> None:
        for block, number in blocks:
            model.set_model_patch_replace(_host_attention, name, block, number)

    def values(index: int | None) -> Callable[[Any], None]:
        def nothing(q: Tensor, k: Tensor, v: Tensor, options: dict[str, Any]) -> Tensor:
            return torch.zeros_like(q)

        return lambda model: model.set_model_patch_replace(nothing, name, "middle", 0, index)

    assert relative_error(sample(same), plain) < 1e-4
    other = sample(values(None))
    assert relative_error(other, plain) > 1e-3
    assert relative_error(sample(values(0)), other) == 0
    # Not to the last digit: with a patch, the halves of guidance are computed each by itself.
    assert relative_error(sample(values(1)), plain) < 1e-4, "there is one transformer a block"


def test_a_patch_for_another_network_is_refused(sample):
    """As one for prompts whose keys and values stand in turn, or for layers that read something else of it."""
    for made in (lambda q, k, v, _: (q, k[:, 0::2], v[:, 1::2]), lambda *_: {}):
        with pytest.raises(ValueError, match="what a patch of attention gives: expected queries, and as many keys"):
            sample(lambda model, made=made: model.set_model_attn2_patch(made))


PATCHES: dict[str, dict[str, Any]] = {
    "FreeU_V2": {"b1": 1.3, "b2": 1.4, "s1": 0.9, "s2": 0.2},
    "FreeU": {"b1": 1.3, "b2": 1.4, "s1": 0.9, "s2": 0.2},
    "PerturbedAttentionGuidance": {"scale": 3.0},
    "SelfAttentionGuidance": {"scale": 0.5, "blur_sigma": 2.0},
    "HyperTile": {"tile_size": 32, "swap_size": 2, "max_depth": 0, "scale_depth": False},
    "TomePatchModel": {"ratio": 0.3},
    "PatchModelAddDownscale": {
        "block_number": 1,
        "downscale_factor": 2.0,
        "start_percent": 0.0,
        "end_percent": 0.5,
        "downscale_after_skip": True,
        "downscale_method": "bicubic",
        "upscale_method": "bicubic",
    },
}


@pytest.mark.parametrize("name", PATCHES)
def test_stock_patch_on_both_stages(host, name):
    """FreeU looks for widths of 2 and 4 times the first, which the short bundle has not."""
    graph = graphs.refined_latent("tiny" if name.startswith("FreeU") else "short")
    graph = changed(graph, base__steps=2, refine__steps=2, global_encode__frames=2) | {
        "base_patch": node(name, model=["loader", 0], **PATCHES[name]),
        "refiner_patch": node(name, model=["refiner", 0], **PATCHES[name]),
    }
    for sampler, patch in (("base", "base_patch"), ("refine", "refiner_patch")):
        latent = host.value(graph, sampler)
        patched = host.value(changed(graph, **{f"{sampler}__model": [patch, 0]}), sampler)
        assert patched.isfinite().all()
        assert relative_error(patched, latent) > 1e-3, sampler


def test_model_sampling(host):
    """The host's node makes our base's schedule anew, and is refused where it cannot, on a refiner."""
    settings = {"sampling": "v_prediction", "zsnr": True}
    graph = changed(graphs.refined_latent("short"), base__steps=2) | {
        "base_patch": node("ModelSamplingDiscrete", model=["loader", 0], **settings),
        "refiner_patch": node("ModelSamplingDiscrete", model=["refiner", 0], **settings),
    }
    latent = host.value(graph, "base")
    assert relative_error(host.value(changed(graph, base__model=["base_patch", 0]), "base"), latent) < 1e-4
    refused = host.run(changed(graph, refine__model=["refiner_patch", 0]), {"latent": ("refine", 0)}, reuse_cache=True)
    assert refused.error is not None and "Take the ModelSampling block out" in refused.error


def test_controlnet_is_refused(sample):
    """None was trained for these networks; the host's for Stable Diffusion has the same sizes and would be taken."""

    def patch(model: Any) -> None:
        model.set_model_unet_function_wrapper(
            lambda apply, args: apply(args["input"], args["timestep"], **{**args["c"], "control": {"input": []}})
        )

    with pytest.raises(Exception, match="no ControlNet"):
        sample(patch)


def _temporal(model: Any, scale: float) -> None:
    """Scales what attention over the frames gives, in the middle alone."""
    from comfy_extras.nodes_attention_multiply import UNetTemporalAttentionMultiply as Node

    found = Node.execute(model, self_structural=1.0, self_temporal=scale, cross_structural=1.0, cross_temporal=1.0)
    model.patches = found.args[0].patches
    model.patches_uuid = found.args[0].patches_uuid


def test_attention_over_frames_is_scaled_by_the_hosts_node(sample, plain):
    """The node looks for Stable Video Diffusion's names; without our reading it would change nothing here but within frames."""
    changed_layers = []

    def patch(model: Any) -> None:
        _temporal(model, 0.5)
        network = model.model.diffusion_model
        for key, ((_, _, scale, _, _),) in model.patches.items():
            layer = network.get_submodule(key.removeprefix("diffusion_model.").rsplit(".to_out", 1)[0])
            if scale != 1.0:
                changed_layers.append(layer.name.over)

    assert relative_error(sample(patch), plain) > 1e-3
    assert changed_layers and set(changed_layers) == {"frames"}
    assert relative_error(sample(lambda model: _temporal(model, 1.0)), plain) < 1e-5


@pytest.mark.parametrize(("blocks", "message"), [("2", None), ("6", "numbers from 0 to 4")])
def test_spatio_temporal_guidance(host, sample, plain, blocks, message):
    """Guides away from a run in which frames of a block do not see each other."""
    settings = {"scale": 1.0, "start_percent": 0.0, "end_percent": 1.0}

    def patch(model: Any) -> None:
        found = host.nodes["LTXVSpatioTemporalGuidance"].execute(model, blocks=blocks, **settings)
        model.model_options = found.args[0].model_options

    if "LTXVSpatioTemporalGuidance" not in host.nodes:
        pytest.skip("this ComfyUI has none")
    if message is not None:
        with pytest.raises(Exception, match=message):
            sample(patch)
        return
    assert relative_error(sample(patch), plain) > 1e-3
