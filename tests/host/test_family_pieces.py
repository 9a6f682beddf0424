"""Composers and animators beside other packs' nodes: what stands beside the noise and in front of the video is cut, repeated
and moved with the rest, or a sentence says that it is lost."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from i2vgen_core.sampling.options import BaseOptions

from .compare import relative_error
from .graphs import Graph, changed, node
from .in_process import Host
from .pieces import FRAMES, WINDOWS, Change, calling, in_tiles, in_windows, sampled_by_the_host, stock_windows, without
from .test_family import HEIGHT, SEED, WIDTH, animated, composed, keypoints, pictures

__all__ = ["stock_windows"]  # a fixture

KINDS = ("tft2v_composer", "unianimate", "animate_x")


@pytest.fixture(scope="module")
def made(host: Host) -> dict[str, SimpleNamespace]:
    """What the samplers take, by kind."""

    def given(name: str, value: Any) -> dict[str, Any]:
        host.given[name] = value
        return node("GiveForTest", name=name)

    def kept(graph: Graph, source: str) -> SimpleNamespace:
        keep = {name: (source, i) for i, name in enumerate(("positive", "negative", "latent"))}
        result = host.run(graph, keep | {"model": ("loader", 0)})
        assert result.error is None, result.error
        return SimpleNamespace(**result.kept)

    graph = changed(composed("tft2v_composer", given, "depth"), compose__frames=FRAMES)
    found = {"tft2v_composer": kept(graph | {"given depth": given("depths", pictures(FRAMES, seed=1))}, "compose")}
    found["unianimate"] = kept(animated("unianimate", given, FRAMES, mode="both"), "animate")
    graph = animated("animate_x", given, FRAMES, mode="both") | {
        "driving": given("driving", pictures(FRAMES, seed=12)),
        "keypoints": given("keypoints", keypoints(FRAMES)),
    }
    graph["animate"]["inputs"] |= {"driving_video": ["driving", 0], "keypoints": ["keypoints", 0]}
    return found | {"animate_x": kept(graph, "animate")}


@pytest.fixture(scope="module")
def sample(host: Host, made: dict[str, SimpleNamespace]) -> Callable[..., Tensor]:
    """sample(kind, change, sampler, positive): a latent, from a MODEL that `change` has been made to."""
    sampling = host.module("nodes.host.sampling")

    def run(
        kind: str, change: Change = lambda _: None, sampler: str = "ours", positive: Any = None, negative: Any = None
    ) -> Tensor:
        own = made[kind]
        model = own.model.clone()
        change(model)
        sides = own.positive if positive is None else positive, own.negative if negative is None else negative
        with torch.inference_mode():
            if sampler == "stock":
                return sampled_by_the_host(model, *sides, own.latent["samples"], denoise=1.0)
            return sampling.sample_base(model, *sides, own.latent, BaseOptions(seed=SEED, steps=2))["samples"]

    return run


# ---- pieces


@pytest.mark.parametrize("kind", KINDS)
def test_windows_are_the_hosts(sample, stock_windows, kind):
    """Cut by rows: what stands beside the noise is that of a video of these frames, as in the host's windows."""
    own = sample(kind, stock_windows)
    assert relative_error(sample(kind, in_windows(WINDOWS)), own) < 1e-5
    assert relative_error(sample(kind), own) > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_tiles_have_what_lies_there(sample, kind):
    """Tiles at once are tiles one by one: each has its own part of the frame in front too."""
    width = WIDTH // 8
    whole = sample(kind)
    assert relative_error(sample(kind, in_tiles([0, 0], width, 2)), whole) < 1e-4
    apart = sample(kind, in_tiles([0, 2], width - 2, 1))
    assert relative_error(sample(kind, in_tiles([0, 2], width - 2, 2)), apart) < 1e-4
    assert relative_error(apart, whole) > 1e-3


def test_frames_of_a_tile_are_not_cut(made, host):
    """What was cut in place can no more be made anew of fewer frames."""
    frames = host.module("nodes.host.geometry").Frames(
        torch.rand(4, 2, 6, 8), lambda rows: torch.zeros(len(rows), 2, 6, 8)
    )
    tile = frames._copy_with(frames.cond[..., :4])
    with pytest.raises(ValueError, match="all frames of a tile, found 2 of the 4 frames of a tile"):
        tile._copy_with(tile.cond[:2])
    with pytest.raises(ValueError, match="a cut in time or in place"):
        frames._copy_with(frames.cond[:2, ..., :4])
    with pytest.raises(ValueError, match="that of the video's frames, found other values"):
        frames._copy_with(frames.cond[:2] + 1)


def test_windows_of_windows_are_of_their_own_frames(host):
    seen: list[list[int]] = []

    def encode(rows: list[int]) -> Tensor:
        seen.append(rows)
        return torch.tensor([[float(row + 10 * len(rows))] for row in rows])

    frames = host.module("nodes.host.geometry").FrameTokens(encode([0, 1, 2, 3, 4]), encode)
    window = frames._copy_with(frames.cond[[3, 4, 0, 1]])
    assert window.cond.flatten().tolist() == [43, 44, 40, 41]
    again = window._copy_with(window.cond[[1, 2]])
    assert again.cond.flatten().tolist() == [24, 20]
    frames._copy_with(frames.cond[[3, 4, 0, 1]])
    assert seen == [[0, 1, 2, 3, 4], [3, 4, 0, 1], [4, 0]]  # each once


# ---- conditionings that stock nodes make


def _sides(host: Host, own: SimpleNamespace) -> dict[str, Any]:
    """Of a conditioning, what stock nodes make of it that means the same."""

    def run(name: str, **inputs: Any) -> Any:
        block = host.nodes[name]()
        return getattr(block, block.FUNCTION)(**inputs)[0]

    def both(first: Any, second: Any) -> Any:
        return run("ConditioningCombine", conditioning_1=first, conditioning_2=second)

    positive = own.positive
    early, late = (
        run("ConditioningSetTimestepRange", conditioning=positive, start=start, end=end)
        for start, end in ((0.0, 0.5), (0.5, 1.0))
    )
    place = {"width": WIDTH, "height": HEIGHT, "x": 0, "y": 0, "strength": 1.0}
    mask = torch.ones(1, HEIGHT, WIDTH)
    return {
        "combined": both(positive, positive),
        "ranges": both(early, late),
        "averaged": run(
            "ConditioningAverage", conditioning_to=positive, conditioning_from=positive, conditioning_to_strength=0.3
        ),
        "concatenated": run("ConditioningConcat", conditioning_to=positive, conditioning_from=own.negative),
        "area": run("ConditioningSetArea", conditioning=positive, **place),
        "masked": run("ConditioningSetMask", conditioning=positive, mask=mask, strength=1.0, set_cond_area="default"),
    }


@pytest.mark.parametrize("sampler", ["ours", "stock"])
@pytest.mark.parametrize("kind", KINDS)
def test_stock_nodes_keep_what_a_conditioning_carries(host, made, sample, kind, sampler):
    plain = sample(kind, sampler=sampler)
    for name, positive in _sides(host, made[kind]).items():
        found = sample(kind, sampler=sampler, positive=positive)
        assert relative_error(found, plain) < 1e-4, name


@pytest.mark.parametrize("kind", KINDS)
def test_an_area_reads_its_part_of_the_pictures(host, made, sample, monkeypatch, kind):
    unet, calls = host.module("nodes.host.network").HostUNet, []
    original = unet._together

    def together(self: Any, inputs: Any, options: Any) -> Tensor:
        calls.append(inputs)
        return original(self, inputs, options)

    monkeypatch.setattr(unet, "_together", together)
    (part,) = host.nodes["ConditioningSetArea"]().append(made[kind].positive, WIDTH // 2, HEIGHT, 16, 0, 1.0)
    assert sample(kind, positive=part + made[kind].positive).isfinite().all()
    width = WIDTH // 8
    areas = [each.by_frame for each in calls if each.by_frame["x"].shape[-1] == width // 2]
    assert areas
    for each in areas:
        assert all(each[name].shape[-1] == width // 2 for name in ("details", "in_front") if name in each)


# ---- what is lost on the way


@pytest.mark.parametrize("sampler", ["ours", "stock"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_conditioning_made_anew_is_refused(made, sample, kind, sampler):
    """As by a node that keeps tokens and pooled output alone."""
    anew = [[text, {"pooled_output": extra.get("pooled_output")}] for text, extra in made[kind].positive]
    word = "Compose" if kind == "tft2v_composer" else "Poses to Video"
    for sides in ({"positive": anew}, {"negative": anew}, {"positive": anew, "negative": anew}):
        with pytest.raises(ValueError, match=f"conditioning: expected .*{word}"):
            sample(kind, sampler=sampler, **sides)


@pytest.mark.parametrize("kind", ["unianimate", "animate_x"])
def test_a_person_that_clip_has_not_seen_is_refused(made, sample, kind):
    blind = [
        [text, {name: value for name, value in extra.items() if name != "unclip_conditioning"}]
        for text, extra in made[kind].positive
    ]
    with pytest.raises(ValueError, match="the person's CLIP image embedding, found none"):
        sample(kind, positive=blind)


LOST = {
    ("tft2v_composer", "details"): "what stands beside the noise",
    ("unianimate", "details"): "what stands beside the noise",
    ("unianimate", "in_front"): "the frame in front of the video",
    ("animate_x", "motion"): "the tokens of body points",
}


@pytest.mark.parametrize(("kind", "name"), LOST)
def test_a_call_without_what_the_network_reads_is_refused(sample, kind, name):
    with pytest.raises(
        ValueError, match=f"{LOST[kind, name]}: expected some, in every call of the network, found none"
    ):
        sample(kind, calling(without(name)))


@pytest.mark.parametrize(("kind", "name"), [("unianimate", "in_front"), ("animate_x", "motion")])
def test_rows_of_fewer_frames_are_refused(sample, kind, name):
    change = calling(lambda given: {**given, name: given[name][:-1]})
    with pytest.raises(ValueError, match=f"{LOST[kind, name]}: expected those of"):
        sample(kind, change)


def test_tiles_that_cannot_be_are_refused(made, sample):
    """A pack that fails on conditions of the latent's size says so on the model."""

    def tiled(model: Any) -> None:
        model.model_options["tiled_diffusion"] = True

    for kind in KINDS:
        with pytest.raises(ValueError, match="one without Tiled Diffusion"):
            sample(kind, tiled)


@pytest.mark.parametrize("kind", KINDS)
def test_a_crop_of_the_latent_is_refused(made, sample, monkeypatch, kind):
    """As by what samples tile by tile: each tile would show the whole picture."""
    latent = made[kind].latent
    monkeypatch.setattr(made[kind], "latent", {**latent, "samples": latent["samples"][..., : WIDTH // 16]})
    for sampler in ("ours", "stock"):
        with pytest.raises(ValueError, match="latent: expected 8x10 places, as the conditioning has, or that enlarged"):
            sample(kind, sampler=sampler)
