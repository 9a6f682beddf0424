"""What other packs do to conditions beside ours: cut, repeat and move them by their sizes. Either every piece of the video gets
what belongs to it, or a sentence says why not."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from i2vgen_core.network.acceleration import Acceleration
from i2vgen_core.sampling.options import BaseOptions, RefineOptions

from . import graphs
from .compare import relative_error
from .graphs import changed
from .in_process import Host
from .pieces import (
    FRAMES,
    KEY,
    STEPS,
    WINDOWS,
    Change,
    calling,
    first,
    in_tiles,
    in_windows,
    sampled_by_the_host,
    stock_windows,
    without,
)

__all__ = ["stock_windows"]  # a fixture


@pytest.fixture(scope="module")
def made(host: Host) -> SimpleNamespace:
    """What the samplers take, of both stages."""
    graph = changed(
        graphs.refined_latent("short"),
        global_encode__frames=FRAMES,
        base__steps=1,
        scale__width=graphs.WIDTH,
        scale__height=graphs.HEIGHT,
    )
    keep = {"base": ("loader", 0), "refiner": ("refiner", 0), "encoded": ("encode", 0)}
    keep |= {name: ("global_encode", i) for i, name in enumerate(("positive", "negative", "latent"))}
    keep |= {"words": ("positive", 0), "no_words": ("negative", 0)}
    return SimpleNamespace(**host.run(graph, keep).kept)


@pytest.fixture(scope="module")
def sample(host: Host, made: SimpleNamespace) -> Callable[..., Tensor]:
    """sample(change, stage, sampler, interval): a latent, from a MODEL that `change` has been made to."""
    sampling, acceleration = host.module("nodes.host.sampling"), host.module("nodes.host.acceleration")

    def run(change: Change = lambda _: None, stage: str = "base", sampler: str = "ours", interval: int = 1) -> Tensor:
        model = getattr(made, stage).clone()
        change(model)
        if interval > 1:
            model = acceleration.accelerate(model, Acceleration(reuse_interval=interval))
        base = stage == "base"
        positive, negative = (made.positive, made.negative) if base else (made.words, made.no_words)
        latent = made.latent if base else made.encoded
        with torch.inference_mode():
            if sampler == "stock":
                return sampled_by_the_host(model, positive, negative, latent["samples"], denoise=1.0 if base else 0.6)
            if base:
                options: Any = BaseOptions(seed=graphs.SEED, steps=STEPS)
                return sampling.sample_base(model, positive, negative, latent, options)["samples"]
            options = RefineOptions(seed=graphs.SEED, steps=STEPS)
            return sampling.sample_refiner(model, positive, negative, latent, options)["samples"]

    return run


def _calls_of(owner: Any, name: str, monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    original, calls = getattr(owner, name), []

    def call(self: Any, *arguments: Any, **more: Any) -> Any:
        calls.append(arguments)
        return original(self, *arguments, **more)

    monkeypatch.setattr(owner, name, call)
    return calls


# ---- windows of frames


@pytest.mark.parametrize("interval", [1, 2])
@pytest.mark.parametrize(("stage", "sampler"), [("base", "ours"), ("base", "stock"), ("refiner", "ours")])
def test_windows_are_the_hosts(sample, stock_windows, stage, sampler, interval):
    """Cut by rows, with a pack's own wrapper: the frames are those of the host's windows, with features reused too."""
    own = sample(stock_windows, stage, sampler, interval)
    assert relative_error(sample(in_windows(WINDOWS), stage, sampler, interval), own) < 1e-5
    assert relative_error(sample(stage=stage, sampler=sampler, interval=interval), own) > 1e-3


def test_windows_that_go_round(sample, host, monkeypatch):
    """Frames in any order: each window has the details of a clip of its length."""
    calls = _calls_of(host.module("nodes.host.network").HostUNet, "_together", monkeypatch)
    sample(in_windows([*WINDOWS, [4, 5, 0, 1], [1, 3, 5, 0]]))
    details = [inputs.by_frame["details"] for inputs, _ in calls]
    assert len(details) == 4 * STEPS and all(torch.equal(each, details[0]) for each in details)
    assert {piece.frames for inputs, _ in calls for piece in inputs.pieces} >= {(4, 5, 0, 1), (1, 3, 5, 0)}


# ---- tiles of the frames


TILES = [0, 2, 4]
"""Where tiles of 8 places begin."""


@pytest.mark.parametrize("stage", ["base", "refiner"])
def test_repeated_conditions_are_each_clips_own(sample, stage):
    """One tile of the whole is the whole, and so is that tile twice in a batch; of several, those at once are those one by
    one."""
    whole, width = sample(stage=stage), graphs.WIDTH // 8
    assert relative_error(sample(in_tiles([0], width, 1), stage), whole) < 1e-5
    assert relative_error(sample(in_tiles([0, 0], width, 2), stage), whole) < 1e-4
    apart = sample(in_tiles(TILES, 8, 1), stage)
    assert relative_error(sample(in_tiles(TILES, 8, 2), stage), apart) < 1e-4
    assert relative_error(apart, whole) > 1e-3


@pytest.mark.parametrize("stage", ["base", "refiner"])
def test_tiles_take_no_features_of_other_places(sample, stage):
    """They do not say where they lie, and may lie elsewhere in the next step: each runs the whole network."""
    tiles = in_tiles(TILES, 8, 1)
    assert torch.equal(sample(tiles, stage, interval=2), sample(tiles, stage))


def test_half_a_batch_at_a_time(sample):
    """Clips of the guided halves by themselves are those of both."""

    def halves(apply_model: Any, arguments: dict[str, Any]) -> Tensor:
        parts = []
        for half in range(len(arguments["cond_or_uncond"])):

            def part(value: Any, half: int = half) -> Any:
                return value.chunk(len(arguments["cond_or_uncond"]))[half] if isinstance(value, Tensor) else value

            conditions = {name: part(value) for name, value in arguments["c"].items()}
            parts.append(apply_model(part(arguments["input"]), part(arguments["timestep"]), **conditions))
        return torch.cat(parts)

    assert relative_error(sample(lambda model: model.set_model_unet_function_wrapper(halves)), sample()) < 1e-4


def _sliding(height: int, width: int) -> Change:
    """A pack's guidance by what the network makes of parts of the latent, cut without its conditions."""

    def guidance(arguments: dict[str, Any]) -> Tensor:
        import comfy.samplers

        x, parts = arguments["input"], torch.zeros_like(arguments["input"])
        for top in range(0, x.shape[2], height):
            for left in range(0, x.shape[3], width):
                part = x[..., top : top + height, left : left + width]
                (made,) = comfy.samplers.calc_cond_batch(
                    arguments["model"], [arguments["cond"]], part, arguments["sigma"], arguments["model_options"]
                )
                parts[..., top : top + height, left : left + width] = made
        return arguments["denoised"] + 0.5 * (arguments["cond_denoised"] - parts)

    return lambda model: model.set_model_sampler_post_cfg_function(guidance)


@pytest.mark.parametrize("sampler", ["ours", "stock"])
def test_details_are_not_slid_over(sample, sampler):
    with pytest.raises(
        ValueError, match="the image's details: expected those of the frames and places that are evaluat"
    ):
        sample(_sliding(4, 6), sampler=sampler)


def test_slid_over_refiner(sample):
    """It reads no details. From what lies at places that nobody knows on, nothing is used again: its difference from the whole is
    guidance, and would be that of reuse too."""
    plain, own = sample(stage="refiner"), sample(_sliding(8, 6), "refiner")
    assert relative_error(own, plain) > 1e-3
    assert torch.equal(sample(_sliding(8, 6), "refiner", interval=2), own)
    assert not torch.equal(sample(stage="refiner", interval=2), plain)


@pytest.mark.parametrize("sampler", ["ours", "stock"])
def test_a_sampler_asks_twice_at_one_level(sample, host, monkeypatch, sampler):
    """What is evaluated twice for one estimate has features of its own each time."""
    unet = host.module("nodes.host.network").HostUNet
    calls = _calls_of(unet, "_between", monkeypatch)

    def guidance(arguments: dict[str, Any]) -> Tensor:
        import comfy.samplers

        (made,) = comfy.samplers.calc_cond_batch(
            arguments["model"], [arguments["cond"]], -arguments["input"], arguments["sigma"], arguments["model_options"]
        )
        (again,) = comfy.samplers.calc_cond_batch(
            arguments["model"], [arguments["cond"]], arguments["input"], arguments["sigma"], arguments["model_options"]
        )
        return arguments["denoised"] + again - made

    sample(lambda model: model.set_model_sampler_post_cfg_function(guidance), sampler=sampler, interval=2)
    evaluated = len(calls)
    assert evaluated == 3 * math.ceil(STEPS / 2)


# ---- parts of the frame with prompts of their own


def _coupled(words: Tensor) -> Change:
    """A pack's half of the picture for a prompt of its own: rows of these words beside the positive's, all repeated to one length,
    and of what the two attend to the half each."""

    def halves(q: Tensor, k: Tensor, _: Tensor, options: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
        sides = options["cond_or_uncond"]
        length = math.lcm(k.shape[1], words.shape[1])
        queries, keys = [], []
        for side, own, context in zip(sides, q.chunk(len(sides)), k.chunk(len(sides)), strict=True):
            queries += [own] * (2 - side)
            keys.append(context.repeat(1, length // k.shape[1], 1))
            if side == 0:
                keys.append(words.to(k).repeat(len(own), length // words.shape[1], 1))
        k = torch.cat(keys)
        return torch.cat(queries), k, k

    def together(y: Tensor, options: dict[str, Any]) -> Tensor:
        sides, made = options["cond_or_uncond"], []
        rows = list(y.chunk(sum(2 - side for side in sides)))
        for side in sides:
            parts = [rows.pop(0) for _ in range(2 - side)]
            left = torch.arange(y.shape[1], device=y.device)[:, None] % 2
            made.append(parts[0] if side else torch.where(left == 0, *parts))
        return torch.cat(made)

    def change(model: Any) -> None:
        model.set_model_attn2_patch(halves)
        model.set_model_attn2_output_patch(together)

    return change


@pytest.mark.parametrize("stage", ["base", "refiner"])
def test_a_part_of_the_frame_with_words_of_its_own_sees_the_picture(sample, made, stage):
    """The same words there as everywhere are as none: the picture's tokens, which the pack does not know, are with them."""
    (words, _), *_ = made.positive if stage == "base" else made.words

    assert relative_error(sample(_coupled(words), stage), sample(stage=stage)) < 1e-3
    assert relative_error(sample(_coupled(words.flip(-1)), stage), sample(stage=stage)) > 1e-3


# ---- what fits no more


UNFIT: dict[str, tuple[Callable[[dict[str, Any]], dict[str, Any]], str]] = {
    "a frame by itself": (first(1), "clips of 6 frames, found 1 frames"),
    "frames out of order": (
        lambda given: {name: value.roll(1, 0) if name in ("x", "rows") else value for name, value in given.items()},
        "whole clips of 6 frames, found frames 6 of 6, 1 of 6",
    ),
    "part of both": (first(9), "clips of 6 frames, found 9 frames"),
    "the latent alone": (first(6, "x", "t"), "the 12 frames of its conditions, found 6"),
    "a context a frame": (
        lambda given: {**given, "c_crossattn": given["c_crossattn"].repeat_interleave(6, dim=0)},
        "2, as its conditions, found 12",
    ),
    "contexts of others": (lambda given: {**given, "owner": given["owner"] * 0}, "one of each clip's conditioning"),
    "contexts that say nothing": (
        without("rows", "owner"),
        "one, or the geometry of each",
    ),
    "details of a part": (
        lambda given: {**given, "details": given["details"][..., :-1]},
        "those of the frames and places that are evaluated",
    ),
    "levels of fewer frames": (first(6, "t"), "levels of noise|must match"),
    "frame rates of one": (first(1, "fps"), "2 of each kind, found 1"),
    "something beside the latent": (
        lambda given: {**given, "c_concat": torch.zeros_like(given["x"])},
        "the network's latent: expected 4 channels, found 8",
    ),
    "no details": (without("details"), "the image's details: expected some, in every call of the network, found none"),
    "no frame rate": (without("fps"), "the frame rate: expected some, in every call of the network, found none"),
}


@pytest.mark.parametrize("name", UNFIT)
def test_what_fits_no_more_is_said(sample, name):
    change, message = UNFIT[name]
    with pytest.raises((ValueError, RuntimeError), match=message):
        sample(calling(change))


def test_one_clip_needs_no_geometry(sample):
    """As where a pack calls the network with the conditions that it knows."""
    plain, change = sample(), without("rows", "places", "owner")

    def apart(apply_model: Any, arguments: dict[str, Any]) -> Tensor:
        given = change({"x": arguments["input"], "t": arguments["timestep"], **arguments["c"]})
        parts = [
            {name: value.chunk(2)[half] if isinstance(value, Tensor) else value for name, value in given.items()}
            for half in range(2)
        ]
        return torch.cat([apply_model(part.pop("x"), part.pop("t"), **part) for part in parts])

    assert relative_error(sample(lambda model: model.set_model_unet_function_wrapper(apart)), plain) < 1e-4


@pytest.mark.parametrize("sampler", ["ours", "stock"])
@pytest.mark.parametrize("kind", ["ControlNet", "GLIGEN"])
def test_controls_are_refused(sample, made, monkeypatch, kind, sampler):
    """Before a pack's own wrapper of the run, which may look for the blocks of other networks."""
    import comfy.controlnet

    value = comfy.controlnet.ControlBase() if kind == "ControlNet" else ("position", None, [])
    (text, extra), *_ = made.positive
    monkeypatch.setattr(made, "positive", [[text, extra | {"control" if kind == "ControlNet" else "gligen": value}]])

    def fail(*_: Any, **__: Any) -> Any:
        raise IndexError("no such block")

    with pytest.raises(ValueError, match=f"no {kind}, since none was trained"):
        sample(lambda model: model.add_wrapper_with_key("outer_sample", KEY, fail), sampler=sampler)


@pytest.mark.parametrize("sampler", ["ours", "stock"])
def test_a_reference_that_becomes_a_control_is_refused(sample, sampler):
    """As a pack keeps it beside the model until the run has begun."""
    extras = SimpleNamespace(context_ref=object())
    kept = SimpleNamespace(context_options=SimpleNamespace(extras=extras))
    with pytest.raises(ValueError, match="no ContextRef, since none was trained"):
        sample(lambda model: model.set_attachments("ADE_params", kept), sampler=sampler)
    extras.context_ref = None
    assert sample(lambda model: model.set_attachments("ADE_params", kept), sampler=sampler).isfinite().all()


@pytest.mark.parametrize("sampler", ["ours", "stock"])
def test_an_area_in_time_is_refused(sample, host, made, monkeypatch, sampler):
    """The host takes the height of such an area for its part of the time."""
    node = host.nodes["ConditioningSetAreaPercentageVideo"]()
    (positive,) = node.append(made.positive, 0.5, 1.0, 1.0, 0.0, 0.0, 0.0, 1.0)
    monkeypatch.setattr(made, "positive", positive + made.positive)
    with pytest.raises(ValueError, match="an area of the frames' places, found one in time too"):
        sample(sampler=sampler)


def test_controls_are_refused_where_conditions_are_made(made):
    """Where a pack has put one on in its wrapper of the run."""
    model, noise = made.base.model, torch.zeros(FRAMES, 4, graphs.HEIGHT // 8, graphs.WIDTH // 8)
    (text, extra), *_ = made.positive
    with pytest.raises(ValueError, match="no ControlNet, since none was trained"):
        model.extra_conds(**extra, cross_attn=text, noise=noise, device="cpu", control=object())


@pytest.mark.parametrize("stage", ["base", "refiner"])
def test_a_latent_with_an_axis_of_time_is_refused(made, stage):
    """Of an empty latent for another network, which the host gives our channels."""
    (text, extra), *_ = made.positive if stage == "base" else made.words
    noise = torch.zeros(1, 4, FRAMES, graphs.HEIGHT // 8, graphs.WIDTH // 8)
    with pytest.raises(
        ValueError, match=r"latent: expected \[frames, 4, height / 8, width / 8\], found \[1, 4, 6, 8, 12\]"
    ):
        getattr(made, stage).model.extra_conds(**extra, cross_attn=text, noise=noise, device="cpu")


@pytest.mark.parametrize("part", ["image_latent", "global_tokens"])
def test_what_is_not_a_number_is_refused(sample, made, monkeypatch, part):
    from dataclasses import replace

    (text, extra), *_ = made.positive
    condition = extra["i2vgen_xl"]
    broken = replace(condition, **{part: torch.full_like(getattr(condition, part), math.nan)})
    monkeypatch.setattr(made, "positive", [[text, extra | {"i2vgen_xl": broken}]])
    with pytest.raises(ValueError, match=f"{part.replace('_', ' ')}: expected finite values alone"):
        sample()


def _between(one: Tensor, other: Tensor) -> Tensor:
    """A pack's way half from one latent to the other, along the great circle of each place: 0 / 0 of equal ones."""
    angle = torch.acos(torch.nn.functional.cosine_similarity(one, other, dim=1).clamp(-1, 1))[:, None]
    return torch.sin(angle / 2) / torch.sin(angle) * (one + other)


@pytest.mark.parametrize("sampler", ["ours", "stock"])
def test_a_latent_that_is_not_a_number_is_refused(sample, made, monkeypatch, sampler):
    """Before the first step; the stock sampler makes a video of black frames of it."""
    samples = made.encoded["samples"]
    monkeypatch.setattr(made, "encoded", {"samples": _between(samples, samples)})
    with pytest.raises(ValueError, match="latent: expected finite values alone, found"):
        sample(_never, "refiner", sampler)


def test_a_noise_or_a_mask_that_is_not_a_number_is_refused(made):
    import comfy.sample

    latent, words = made.encoded["samples"], (made.words, made.no_words)

    def run(noise: Tensor, mask: Tensor | None) -> Tensor:
        model = made.refiner.clone()
        _never(model)
        return comfy.sample.sample(model, noise, 1, 7.0, "ddim", "normal", *words, latent, noise_mask=mask)

    with pytest.raises(ValueError, match="noise: expected finite values alone"):
        run(latent / 0, None)
    with pytest.raises(ValueError, match="noise mask: expected finite values alone"):
        run(latent, torch.full((FRAMES, *latent.shape[-2:]), math.nan))


def _never(model: Any) -> None:
    def wrapper(*_: Any, **__: Any) -> Any:
        raise AssertionError("the network was called")

    model.add_wrapper_with_key("calc_cond_batch", KEY, wrapper)


@pytest.mark.parametrize("sampler", ["ours", "stock"])
@pytest.mark.parametrize("stage", ["base", "refiner"])
def test_what_becomes_no_number_in_a_run_is_said(sample, stage, sampler):
    def broken(model: Any) -> None:
        model.set_model_sampler_post_cfg_function(lambda given: given["denoised"] / torch.zeros(()))

    with pytest.raises(ValueError, match=r"the sampled latent: expected .* Use a lower guidance scale"):
        sample(broken, stage, sampler)


@pytest.mark.parametrize("stage", ["base", "refiner"])
def test_another_schedule_or_prediction_is_refused(sample, made, stage):
    import comfy.model_sampling

    def distilled(model: Any) -> None:
        model.add_object_patch("model_sampling", comfy.model_sampling.ModelSamplingDiscrete())
        model.object_patches["model_sampling"].set_sigmas(own[::20])

    def replaced(model: Any, prediction: type, sigmas: Tensor | None) -> None:
        sampling = type("Sampling", (comfy.model_sampling.ModelSamplingDiscrete, prediction), {})()
        if sigmas is not None:
            sampling.set_sigmas(sigmas)
        model.add_object_patch("model_sampling", sampling)

    velocity, noise = comfy.model_sampling.V_PREDICTION, comfy.model_sampling.EPS
    own = getattr(made, stage).model.model_sampling.sigmas.clone()
    for change in (distilled, lambda model: replaced(model, velocity, None)):
        for sampler in ("ours", "stock"):
            with pytest.raises(
                ValueError, match=f"a {stage} with the schedule it was trained with, found another sched"
            ):
                sample(change, stage, sampler)
    with pytest.raises(ValueError, match=f"a {stage} that predicts a velocity, found another prediction"):
        sample(lambda model: replaced(model, noise, own), stage)
    same = sample(lambda model: replaced(model, velocity, own), stage)
    assert torch.equal(same, sample(stage=stage))


# ---- latents that may mean something else


@pytest.mark.parametrize("sampler", ["ours", "stock"])
@pytest.mark.parametrize("name", ["a tile", "a smaller one", "another shape", "enlarged"])
def test_a_latent_is_the_whole_picture(sample, made, monkeypatch, name, sampler):
    """Of a tile or a crop of it, each would show the whole picture: it has to be as large as the conditioning, or that
    enlarged."""
    height, width = graphs.HEIGHT // 8, graphs.WIDTH // 8
    sizes = {
        "a tile": (height, width // 2),
        "a smaller one": (height - 1, width - 1),
        "another shape": (height, 2 * width),
    }
    size = sizes.get(name, (height + 2, width + 4))
    monkeypatch.setattr(made, "latent", {"samples": torch.zeros(FRAMES, 4, *size)})
    if name == "enlarged":
        assert sample(sampler=sampler).shape[-2:] == size
        return
    with pytest.raises(
        ValueError, match=f"latent: expected {width}x{height} places, as the conditioning has, or that enl"
    ):
        sample(sampler=sampler)


def test_what_a_latent_may_mean_is_said(sample, host, made, monkeypatch):
    """Two videos behind each other are one to a refiner: a note says so."""
    sampling, said = host.module("nodes.host.sampling"), []
    original = sampling.prepare_callback

    def prepare(model: Any, steps: int, notes: list[str]) -> Any:
        said.extend(notes)
        return original(model, steps, notes)

    monkeypatch.setattr(sampling, "prepare_callback", prepare)
    sample(stage="refiner")
    assert not [note for note in said if note.startswith("latent:")]
    (joined,) = host.nodes["LatentBatch"].execute(made.encoded, made.encoded).args
    monkeypatch.setattr(made, "encoded", joined)
    sample(stage="refiner")
    (note,) = [note for note in said if note.startswith("latent:")]
    assert f"some of its {2 * FRAMES} frames" in note


# ---- memory


def _wrapped(model: Any) -> None:
    model.add_wrapper_with_key("calc_cond_batch", KEY, lambda executor, *arguments: executor(*arguments))


def _tiled(model: Any) -> None:
    model.set_model_unet_function_wrapper(lambda apply, given: apply(given["input"], given["timestep"], **given["c"]))


def _handled(model: Any) -> None:
    handler = SimpleNamespace(should_use_context=lambda *_: False)
    model.model_options["context_handler"] = handler


@pytest.mark.parametrize("change", [_wrapped, _tiled, _handled])
def test_what_others_may_split_is_not_counted_whole(sample, host, monkeypatch, change):
    """4000 frames in windows need no more than a window does; who cuts them, knows how."""
    import comfy.model_management

    monkeypatch.setattr(comfy.model_management, "get_total_memory", lambda *_, **__: 1)
    assert sample(change).isfinite().all()
    with pytest.raises(ValueError, match="of memory of this machine"):
        sample()
    with pytest.raises(ValueError, match="of memory of this machine"):
        sample(interval=2)  # our own wrapper cuts nothing
