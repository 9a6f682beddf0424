"""The Accelerate block: what it leaves out in the core's runs and in the stock samplers', and nothing else."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from i2vgen_core.cascade import Cascade
from i2vgen_core.media.images import read_image
from i2vgen_core.network.acceleration import EXACT, Acceleration
from i2vgen_core.releases import RELEASES
from i2vgen_core.sampling.options import BaseOptions, RefineOptions

from . import graphs
from .compare import relative_error
from .graphs import Graph, changed, node
from .in_process import Host
from .test_graph import BASE_SAME, REFINE_SAME
from .test_stock_nodes import _windows

STEPS = 5
SOME = Acceleration(guidance_start=0.2, guidance_end=0.7, reuse_interval=2)


def _accelerate(model: str, acceleration: Acceleration) -> dict[str, Any]:
    return node(
        "I2VGenXLAccelerate",
        model=[model, 0],
        guidance_start_percent=acceleration.guidance_start,
        guidance_end_percent=acceleration.guidance_end,
        reuse_interval=acceleration.reuse_interval,
    )


def _accelerated(graph: Graph, acceleration: Acceleration, sampler: str = "base", model: str = "loader") -> Graph:
    return changed(graph, **{f"{sampler}__model": ["fast", 0]}) | {"fast": _accelerate(model, acceleration)}


@pytest.fixture(scope="module")
def ours() -> Graph:
    return changed(graphs.base_latent("short"), base__steps=STEPS)


@pytest.fixture(scope="module")
def stock() -> Graph:
    return changed(graphs.stock_latent("short"), base__steps=STEPS)


@pytest.fixture
def evaluations(host: Host, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Any]:
    """with evaluations() as seen: conditions of every evaluation, and whether the whole network ran, are counted."""
    network = host.module("nodes.host.network").HostUNet
    velocity = network._velocity

    @contextmanager
    def record() -> Iterator[Counter[tuple[int, bool]]]:
        seen: Counter[tuple[int, bool]] = Counter()

        def counting(self: Any, x: Tensor, timesteps: Tensor, hint: Any, evaluation: Any) -> Tensor:
            middle: list[bool] = []
            handle = self.middle_block[0].register_forward_hook(lambda *_: middle.append(True))
            try:
                return velocity(self, x, timesteps, hint, evaluation)
            finally:
                handle.remove()
                seen[len(evaluation.prepared.context), bool(middle)] += 1

        with monkeypatch.context() as patched:
            patched.setattr(network, "_velocity", counting)
            yield seen

    return record


@pytest.mark.parametrize("acceleration", [SOME, Acceleration(reuse_interval=3)])
def test_base_as_in_the_core(host, bundles, photo, ours, acceleration):
    options = replace(graphs.BASE_OPTIONS, steps=STEPS, acceleration=acceleration)
    cascade = Cascade(bundles / "short")
    core = cascade.sample_base(cascade.condition(read_image(photo), graphs.PROMPT, options), options)
    latent = host.value(_accelerated(ours, acceleration))
    assert relative_error(latent, core) < BASE_SAME
    assert relative_error(latent, host.value(ours)) > 1e-3


def test_refiner_as_in_the_core(host, bundles, monkeypatch):
    graph = changed(graphs.refined_latent("short"), base__steps=2, refine__steps=4)
    fast = _accelerated(graph, Acceleration(guidance_end=0.8, reuse_interval=2), "refine", "refiner")
    encoded, latent = host.values(fast, "encode", "refine")
    options = RefineOptions(
        steps=4,
        seed=graphs.SEED,
        negative=graphs.REFINE_NEGATIVE,
        acceleration=Acceleration(guidance_end=0.8, reuse_interval=2),
    )
    monkeypatch.setitem(RELEASES, "vid2vid_xl", replace(RELEASES["vid2vid_xl"], prompt_suffix=""))
    core = Cascade(bundles / "short").sample_refiner(encoded, graphs.REFINE_PROMPT, options)
    assert relative_error(latent, core) < REFINE_SAME


@pytest.mark.parametrize("solver", ["dpmpp_2m", "unipc"])
def test_solvers_as_in_the_core(host, bundles, photo, ours, solver):
    options = replace(graphs.BASE_OPTIONS, steps=STEPS, solver=solver)
    cascade = Cascade(bundles / "short")
    core = cascade.sample_base(cascade.condition(read_image(photo), graphs.PROMPT, options), options)
    assert relative_error(host.value(changed(ours, base__solver=solver)), core) < BASE_SAME


@pytest.mark.parametrize("sampler", ["ours", "stock"])
def test_off_is_exact(host, request, sampler):
    graph = request.getfixturevalue(sampler)
    assert torch.equal(host.value(_accelerated(graph, EXACT)), host.value(graph))


@pytest.mark.parametrize("sampler", ["ours", "stock"])
def test_what_runs(host, request, evaluations, sampler):
    """DDIM's five steps are at 0.2, 0.4, ... of the way; the stock sampler's are the same."""
    graph = request.getfixturevalue(sampler)
    with evaluations() as seen:
        host.value(_accelerated(graph, Acceleration(guidance_start=0.3, guidance_end=0.7)))
    assert seen == {(1, True): 3, (2, True): 2}
    with evaluations() as seen:
        host.value(_accelerated(graph, Acceleration(reuse_interval=3)))
    assert seen == {(2, True): 2, (2, False): 3}


def test_stock_sampler_gives_the_same_frames(host, ours, stock):
    """As far as it does without; its last step goes further than the release's."""
    without = relative_error(host.value(stock), host.value(ours))
    fast = relative_error(host.value(_accelerated(stock, SOME)), host.value(_accelerated(ours, SOME)))
    assert fast < 1.5 * without


def test_the_last_block_decides(host, ours):
    """Twice in a row is not twice as much."""
    twice = _accelerated(ours, Acceleration(reuse_interval=3)) | {"again": _accelerate("fast", SOME)}
    latent = host.value(changed(twice, base__model=["again", 0]))
    assert torch.equal(latent, host.value(_accelerated(ours, SOME)))
    assert torch.equal(
        host.value(changed(twice | {"again": _accelerate("fast", EXACT)}, base__model=["again", 0])), host.value(ours)
    )


@pytest.mark.parametrize("guidance", ["RescaleCFG", "VideoLinearCFGGuidance"])
def test_unguided_steps_know_no_guidance_function(host, stock, guidance):
    """Never guided, whatever a node makes of the guided halves: the same as a guidance scale of 1 without that node."""
    settings = {"RescaleCFG": {"multiplier": 0.7}, "VideoLinearCFGGuidance": {"min_cfg": 2.0}}[guidance]
    graph = stock | {"guidance": node(guidance, model=["loader", 0], **settings)}
    never = _accelerated(graph, Acceleration(guidance_start=1.0), model="guidance")
    assert relative_error(host.value(never), host.value(changed(stock, base__cfg=1.0))) < 1e-5


def test_perturbed_attention_has_no_features(host, stock, evaluations):
    """A third evaluation of the positive, with a patch of its own, whose difference to the others is what guides: all run whole."""
    graph = stock | {"pag": node("PerturbedAttentionGuidance", model=["loader", 0], scale=3.0)}
    with evaluations() as seen:
        latent = host.value(_accelerated(graph, Acceleration(reuse_interval=3), model="pag"))
    assert seen == {(1, True): STEPS, (2, True): STEPS}
    assert torch.equal(latent, host.value(changed(graph, base__model=["pag", 0])))


def test_patches_of_the_whole_run_go_with_it(host, stock, evaluations):
    graph = stock | {"tome": node("TomePatchModel", model=["loader", 0], ratio=0.3)}
    with evaluations() as seen:
        host.value(_accelerated(graph, Acceleration(reuse_interval=3), model="tome"))
    assert seen == {(2, True): 2, (2, False): 3}


@pytest.fixture
def features(host: Host, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The features of every run that begins."""
    module, made = host.module("nodes.host.acceleration"), []

    class Recorded(module.DeepFeatures):
        def __init__(self, interval: int):
            super().__init__(interval)
            self.keys: list[Any] = []
            self.most: list[int] = []
            made.append(self)

        def keep(self, key: Any, kept: Tensor) -> None:
            self.keys.append(key)
            super().keep(key, kept)
            self.most.append(len(self._kept))

    monkeypatch.setattr(module, "DeepFeatures", Recorded)
    return made


@pytest.mark.parametrize("sampler", ["ours", "stock"])
def test_context_windows_have_features_of_their_own(host, request, evaluations, features, sampler):
    graph = changed(request.getfixturevalue(sampler), global_encode__frames=8, base__seed=3)
    graph |= {"windows": _windows(host, 4, 2)}
    with evaluations() as seen:
        host.value(_accelerated(graph, Acceleration(reuse_interval=3), model="windows"))
    assert seen == {(2, True): 2 * 3, (2, False): 3 * 3}
    (run,) = features
    assert len(set(run.keys)) == 3 and not run._kept


@pytest.mark.parametrize("sampler", ["ours", "stock"])
def test_what_is_not_evaluated_any_more_is_let_go(host, request, features, sampler):
    """Both halves' features, where guidance has ended."""
    graph = request.getfixturevalue(sampler)
    host.value(_accelerated(graph, Acceleration(guidance_end=0.3, reuse_interval=2)))
    (run,) = features
    assert len(set(run.keys)) == 2 and run.most[0] == 1 and run.most[-1] == 1


def test_halves_that_memory_parts_have_features_of_their_own(host, ours, monkeypatch):
    graph = _accelerated(ours, Acceleration(reuse_interval=3))
    together = host.value(graph)
    unet = host.module("nodes.host.network").UNet
    forward, lengths = unet.forward, []

    def short_of_memory(self: Any, x: Tensor, timesteps: Tensor, known: Any, *others: Any) -> Tensor:
        lengths.append(len(known.context))
        if len(known.context) == 2:
            raise torch.OutOfMemoryError("made up for this test")
        return forward(self, x, timesteps, known, *others)

    monkeypatch.setattr(unet, "forward", short_of_memory)
    parted = host.value(changed(graph, base__cfg=9.0))  # the same, but for the host's cache
    assert lengths == [2] + [1, 1] * STEPS
    assert relative_error(parted, together) < 1e-4


@pytest.fixture(scope="module")
def sample(host: Host) -> Callable[..., Tensor]:
    """sample(seed, callback): a base's latent on one accelerated MODEL; the callback comes after each step."""
    keep = {"model": ("loader", 0)}
    keep |= {name: ("global_encode", i) for i, name in enumerate(("positive", "negative", "latent"))}
    kept = host.run(graphs.conditions("short"), keep).kept
    model = host.module("nodes.host.acceleration").accelerate(kept["model"], Acceleration(reuse_interval=3))
    module = host.module("nodes.host.sampling")

    def run(seed: int, callback: Callable[[int], None] = lambda _: None) -> Tensor:
        options = BaseOptions(seed=seed, steps=STEPS)
        with torch.inference_mode(), pytest.MonkeyPatch.context() as patched:
            patched.setattr(module, "prepare_callback", lambda *_: lambda step, *_: callback(step))
            patched.setattr(
                model.model, "current_patcher", model.model.current_patcher
            )  # the host clears it after a run
            return module.sample_base(model, kept["positive"], kept["negative"], kept["latent"], options)["samples"]

    return run


def test_runs_within_each_other_share_nothing(sample):
    first, second, inner = sample(1), sample(2), []

    def after(step: int) -> None:
        if step == 1:
            inner.append(sample(2))

    assert torch.equal(sample(1, after), first)
    assert torch.equal(inner[0], second)


def test_an_interrupted_run_leaves_nothing(sample, features):
    class Interrupt(BaseException):
        pass

    def interrupt(step: int) -> None:
        if step == 1:
            assert features[-1]._kept
            raise Interrupt

    fresh = sample(1)
    with pytest.raises(Interrupt):
        sample(2, interrupt)
    assert len(features) == 2 and not any(each._kept for each in features)
    assert torch.equal(sample(1), fresh)


def test_other_models_are_refused(host):
    with pytest.raises(ValueError, match="loaders"):
        host.nodes["I2VGenXLAccelerate"].execute(object(), 0.0, 1.0, 2)
