"""The cascade as a graph of the host gives the latents of the cascade without it, and computes nothing twice."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from i2vgen_core.cascade import Cascade
from i2vgen_core.media.images import read_image
from i2vgen_core.releases import RELEASES
from i2vgen_core.sampling.options import RefineOptions

from . import graphs
from .compare import relative_error
from .in_process import Host

BASE_SAME = 1e-4
REFINE_SAME = 1e-3


def _base(cascade: Cascade, photo: Path, **changes: Any) -> Tensor:
    options = replace(graphs.BASE_OPTIONS, **changes)
    return cascade.sample_base(cascade.condition(read_image(photo), graphs.PROMPT, options), options)


def _short() -> graphs.Graph:
    """Smaller, for long runs."""
    return graphs.changed(
        graphs.refined_latent("short"),
        clip_encode__width=64,
        global_encode__width=64,
        global_encode__frames=1,
        scale__width=64,
        scale__height=80,
        base__steps=2,
    )


REFINE = RefineOptions(
    width=graphs.REFINED_WIDTH,
    height=graphs.REFINED_HEIGHT,
    steps=graphs.STEPS,
    seed=graphs.SEED,
    negative=graphs.REFINE_NEGATIVE,
)


@pytest.fixture
def no_suffix(monkeypatch: pytest.MonkeyPatch) -> None:
    """The graph's prompt is the refiner's whole text. SR600's suffix alone fills a prompt, of which the host makes two."""
    for kind in ("vid2vid_xl", "sr600"):
        monkeypatch.setitem(RELEASES, kind, replace(RELEASES[kind], prompt_suffix=""))


# ---- the same latents from the same noise


@pytest.mark.parametrize(
    ("bundle", "settings"),
    [
        ("tiny", {}),
        ("tiny", {"eta": 0.7}),
        ("tiny", {"eta": 1.0, "steps": 7}),
        ("others", {}),
        ("others", {"eta": 0.5}),
    ],
)
def test_base(host, bundles, photo, bundle, settings):
    """`others` is MS-Image2Video: no global encoder, offset noise, a guidance of its own."""
    graph = graphs.changed(graphs.base_latent(bundle), **{f"base__{key}": value for key, value in settings.items()})
    latent = host.value(graph, "base")
    assert relative_error(latent, _base(Cascade(bundles / bundle), photo, **settings)) < BASE_SAME


def test_frames_and_rate(host, bundles, photo):
    """One frame; and the frame rate is a condition."""
    one = graphs.changed(graphs.base_latent(), global_encode__frames=1)
    latent = host.value(one, "base")
    assert relative_error(latent, _base(Cascade(bundles / "tiny"), photo, frames=1)) < BASE_SAME
    slow = graphs.changed(one, global_encode__fps=8)
    assert relative_error(host.value(slow, "base"), latent) > 3 * BASE_SAME


def test_whole_cascade(host, bundles, photo, no_suffix):
    """Each side on its own, from the photo to the refined latent."""
    base, encoded, refined = host.values(graphs.refined_latent(), "base", "encode", "refine")
    cascade = Cascade(bundles / "tiny")
    our_base = _base(cascade, photo)
    our_encoded = cascade.encode_video(cascade.decode(our_base), REFINE)
    our_refined = cascade.sample_refiner(our_encoded, graphs.REFINE_PROMPT, REFINE)
    assert relative_error(base, our_base) < BASE_SAME
    assert relative_error(encoded, our_encoded) < BASE_SAME
    assert relative_error(refined, our_refined) < REFINE_SAME


CALM = {"guidance": 1.3}
"""At the release's guidance of 9 the made-up network makes 2e-3 of a change of 2e-7, after an inversion."""


@pytest.mark.parametrize(
    ("bundle", "variant", "settings"),
    [
        ("tiny", "auto", {}),
        ("tiny", "auto", {"eta": 0.0}),
        ("tiny", "auto", {"solver": "heun"}),
        ("tiny", "vid2vid_xl", {"entry": "inversion", "noise_level": 300, **CALM}),
        ("tiny", "sr600", CALM),
        ("tiny", "sr600", {"entry": "noise"}),
        ("tiny", "sr600", {"solver": "heun", "rescale": 0.0, **CALM}),
        ("others", "auto", CALM),
    ],
)
def test_refiner(host, bundles, no_suffix, bundle, variant, settings):
    """The variant is the loader's, which reads the same tensors for both; `others` says that it is SR600."""
    names = {"guidance": "cfg"}
    inputs = {f"refine__{names.get(key, key)}": value for key, value in settings.items()}
    graph = graphs.changed(graphs.refined_latent(bundle), refiner__variant=variant, **inputs)
    encoded, refined = host.values(graph, "encode", "refine")
    cascade = Cascade(bundles / bundle, refiner_kind=None if variant == "auto" else variant)
    ours = cascade.sample_refiner(encoded, graphs.REFINE_PROMPT, replace(REFINE, **settings))
    assert relative_error(refined, ours) < REFINE_SAME


@pytest.mark.parametrize(
    "prompt", [graphs.REFINE_PROMPT, "a cat on a red sofa looks around, " * 4], ids=["short", "long"]
)
def test_refine_prompt_with_the_suffix(host, bundles, prompt):
    """What the graph's prompt has to hold where the command line appends it. Both are cut after 75 tokens."""
    text = prompt + RELEASES["vid2vid_xl"].prompt_suffix
    encoded, refined = host.values(graphs.changed(graphs.refined_latent(), positive__text=text), "encode", "refine")
    ours = Cascade(bundles / "tiny").sample_refiner(encoded, prompt, REFINE)
    assert relative_error(refined, ours) < REFINE_SAME


def test_settings_change_the_video(host):
    """Every setting that is compared above is one that matters."""
    graph = graphs.changed(_short(), base__steps=3)
    base, refined = host.values(graph, "base", "refine")
    for change in ({"base__eta": 0.7}, {"base__cfg": 3.0}, {"base__seed": 8}, {"clip_encode__prompt": "a storm"}):
        assert relative_error(host.value(graphs.changed(graph, **change), "base"), base) > 1e-2, change
    for change in (
        {"refine__eta": 0.0},
        {"refine__cfg": 2.0},
        {"refine__rescale": 0.0},
        {"refine__noise_level": 300},
        {"refine__solver": "heun"},
        {"refine__entry": "inversion"},
        {"refine__seed": 8},
        {"positive__text": "a storm"},
        {"refiner__variant": "sr600"},
    ):
        assert relative_error(host.value(graphs.changed(graph, **change), "refine"), refined) > 1e-3, change


# ---- 0 and -1 are the releases' numbers


def test_base_defaults(host):
    graph = graphs.changed(_short(), base__steps=0)
    released = host.value(graph, "base")
    explicit = host.value(graphs.changed(graph, base__steps=50, base__cfg=9.0), "base")
    assert relative_error(released, explicit) == 0


def test_image2video_defaults(host):
    """Its 50 steps are the same setting as I2VGen-XL's; here the guidance."""
    graph = graphs.base_latent("others")
    released = host.value(graph, "base")
    explicit = host.value(graphs.changed(graph, base__cfg=3.0), "base")
    assert relative_error(released, explicit) == 0


@pytest.mark.parametrize(
    ("variant", "solver", "numbers"),
    [
        ("vid2vid_xl", "dpmpp_2m_sde", (30, 7.5, 0.2, 600, "noise")),
        ("vid2vid_xl", "heun", (50, 7.5, 0.2, 600, "noise")),
        ("sr600", "dpmpp_2m_sde", (30, 9.0, 0.3, 700, "inversion")),
    ],
)
def test_refiner_defaults(host, variant, solver, numbers):
    names = ("steps", "cfg", "rescale", "noise_level", "entry")
    released = graphs.changed(_short(), refiner__variant=variant, refine__solver=solver, refine__steps=0)
    explicit = graphs.changed(released, **{f"refine__{n}": value for n, value in zip(names, numbers, strict=True)})
    assert relative_error(host.value(released, "refine"), host.value(explicit, "refine")) == 0


# ---- once a run, once a step, once a video


class _Calls:
    """Counts calls of methods by the shapes of their first tensors."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self._monkeypatch = monkeypatch
        self.shapes: dict[str, list[list[int]]] = {}

    def watch(self, name: str, owner: type, method: str = "forward", argument: int = 1) -> None:
        seen, original = self.shapes.setdefault(name, []), getattr(owner, method)

        def counted(*args: Any, **kwargs: Any) -> Any:
            seen.append(list(args[argument].shape))
            return original(*args, **kwargs)

        self._monkeypatch.setattr(owner, method, counted)


@pytest.fixture
def calls(host: Host, monkeypatch: pytest.MonkeyPatch) -> _Calls:
    calls = _Calls(monkeypatch)
    conditioning = host.module("i2vgen_core.network.image_conditioning")
    calls.watch("network", host.module("nodes.host.network").HostUNet)
    calls.watch("image tokens", conditioning.ImageProjection)
    calls.watch("detail convolutions", conditioning.DetailConvolutions)
    calls.watch("detail transformer", conditioning.DetailTransformer)
    calls.watch("global encoder", conditioning.GlobalEncoder)
    return calls


def test_base_computes_conditions_once(host, calls):
    """Once for each of the two conditionings, which a graph may make differently; never once a step."""
    host.run(graphs.changed(graphs.base_latent(), base__steps=5), {"latent": ("base", 0)})
    frames, h, w = graphs.FRAMES, graphs.HEIGHT // 8, graphs.WIDTH // 8
    assert calls.shapes == {
        "network": [[2 * frames, 4, h, w]] * 5,  # positive and negative in one call a step
        "image tokens": [[1, 1, 64]] * 2,
        "detail convolutions": [[frames, 4, h, w]] * 2,
        "detail transformer": [[h * w, frames, 4]] * 2,
        "global encoder": [[1, 4, h, w]],
    }


def test_refiner_is_called_once_a_step(host, calls):
    graph = graphs.changed(graphs.refined_latent(), refine__steps=4)
    host.values(graphs.changed(graph, refine__seed=1), "refine")
    for entry, evaluations in (("noise", [2] * 4), ("inversion", [1] * 4 + [2] * 4)):
        calls.shapes["network"].clear()
        host.values(graphs.changed(graph, refine__entry=entry), "refine")
        h, w = graphs.REFINED_HEIGHT // 8, graphs.REFINED_WIDTH // 8
        assert calls.shapes["network"] == [[videos * graphs.FRAMES, 4, h, w] for videos in evaluations]


def test_context_keys_are_made_once_a_run(host, monkeypatch):
    """Cross-attention's to_k sees the tokens of each condition once, whatever the steps."""
    graph = graphs.base_latent()
    model = host.value(graph, "loader")
    to_k = model.model.diffusion_model.get_submodule("input_blocks.1.1.transformer_blocks.0.attn2.to_k")
    rows: list[list[int]] = []
    hook = to_k.register_forward_pre_hook(lambda _, inputs: rows.append(list(inputs[0].shape)))
    host.values(graphs.changed(graph, base__seed=99), "base")
    hook.remove()
    assert rows == [[1, 77 + 64 + 4, 64]] * 2


def test_halves_share_what_comes_before_their_context(host):
    graph = graphs.base_latent()
    model = host.value(graph, "loader")
    first = model.model.diffusion_model.get_submodule("input_blocks.0.0")
    lengths: list[int] = []
    hook = first.register_forward_pre_hook(lambda _, inputs: lengths.append(len(inputs[0])))
    host.values(graphs.changed(graph, base__seed=98), "base")
    hook.remove()
    assert lengths == [graphs.FRAMES] * graphs.STEPS


def test_keys_of_another_context_are_not_used(host):
    """A node may change the context on its way to the network."""
    network = host.module("nodes.host.network")
    blocks = {("input", 1): 2, ("output", 0): 3}
    keys_values = {block: (torch.rand(2, 5, width), torch.rand(2, 5, width)) for block, width in blocks.items()}
    prepared = network.Prepared(torch.rand(2, 5, 4), keys_values, None)
    packed = network.packed(prepared)
    found = network.unpacked(packed, prepared.context, None, blocks)
    assert found.keys_values.keys() == blocks.keys()
    for block, pair in keys_values.items():
        assert all(map(torch.equal, found.keys_values[block], pair))
    changed = prepared.context + 1
    assert network.unpacked(packed, changed, None, blocks) is changed
    assert network.unpacked(packed, prepared.context[:, :4], None, blocks).shape == (2, 4, 4)
    assert network.unpacked(None, changed, None, blocks) is changed
