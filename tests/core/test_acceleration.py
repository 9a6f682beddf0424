"""What may be left out of a run: which steps are guided, what is computed again, and that nothing else changes."""

import math
from collections import Counter
from dataclasses import replace

import pytest
import torch
import toy
from diffusers import DPMSolverMultistepScheduler

from i2vgen_core.errors import InputError
from i2vgen_core.network.acceleration import EXACT, Acceleration, DeepFeatures, Reuse
from i2vgen_core.network.evaluation import Prepared
from i2vgen_core.network.hooks import BlockHooks, Hooks
from i2vgen_core.releases import RELEASES
from i2vgen_core.sampling.guidance import Predictor, guided
from i2vgen_core.sampling.options import BaseOptions, RefineOptions
from i2vgen_core.sampling.schedules import BASE_SOLVERS, base_steps, cosine_zero_snr, ddim_timesteps, scaled_linear
from i2vgen_core.sampling.stages import BaseStage


@pytest.mark.parametrize("kind", toy.KINDS)
@torch.no_grad()
def test_features_of_the_same_latent_give_the_same_velocity(kind):
    """Two conditions of one video, of a size that the refiners pad. Another latent's features give another velocity."""
    config = replace(toy.DEEP, kind=kind)
    network, arguments = toy.network(config), toy.inputs(config, height=12, width=20)
    both = toy.inputs(config, batch=2)
    arguments |= {name: both[name] for name in ("context", "fps") if name in both}
    whole = network(**arguments)
    features = DeepFeatures(interval=3)
    assert torch.equal(network(**arguments, hooks=Hooks(blocks=Reuse(features, "key"))), whole)
    assert toy.error(network(**arguments, hooks=Hooks(blocks=Reuse(features, "key"))), whole) < 1e-6
    arguments["x"] = arguments["x"].flip(0)
    assert toy.error(network(**arguments, hooks=Hooks(blocks=Reuse(features, "key"))), network(**arguments)) > 1e-3
    assert torch.equal(network(**arguments, hooks=Hooks(blocks=Reuse(features, "key"))), network(**arguments)), (
        "the third is whole"
    )


@torch.no_grad()
def test_only_outer_blocks_run_with_features():
    class Places(Reuse):
        def enter(self, block, x):
            places.append(block)
            return x

    network, arguments, features = toy.network(toy.DEEP), toy.inputs(toy.DEEP), DeepFeatures(interval=2)
    places = []
    network(**arguments, hooks=Hooks(blocks=Places(features, "key")))
    assert len(places) == len(network.input_blocks) + 1 + len(network.output_blocks)
    places = []
    network(**arguments, hooks=Hooks(blocks=Places(features, "key")))
    assert places == [("input", 0), ("output", len(network.output_blocks) - 1)]


def test_evaluations_are_counted_for_each_key():
    features, one, two = DeepFeatures(interval=3), torch.ones(1), torch.ones(2)
    assert features.recall("a") is None
    features.keep("a", one)
    assert features.recall("a") is one and features.recall("b") is None
    features.keep("b", two)
    assert features.recall("a") is one and features.recall("b") is two
    assert features.recall("a") is None and features.recall("b") is two
    features.clear()
    assert features.recall("b") is None


def test_what_a_step_does_not_evaluate_is_let_go_at_the_next():
    features, kept = DeepFeatures(interval=9), torch.ones(1)
    for key in ("a", "b"):
        features.recall(key)
        features.keep(key, kept)
    features.step()
    assert features.recall("a") is kept
    features.step()
    assert features.recall("a") is kept and features.recall("b") is None


def test_nothing_is_kept_where_nothing_is_used_again():
    features = DeepFeatures(interval=1)
    features.keep("a", torch.ones(1))
    assert features.recall("a") is None


def _stage(steps, schedule, solver="ddim"):
    return BaseStage(BaseOptions(steps=steps, solver=solver), RELEASES["i2vgen_xl"], schedule)


def _evaluations(acceleration, steps=10, guidance=9.0):
    """(timestep, conditions, whether features were used again) of each evaluation of a run."""
    seen = []

    def network(x, timesteps, prepared, frames, fps, details, hooks, hint):
        features = hooks.blocks.recall()
        if features is None:
            hooks.blocks.keep(x)
        seen.append((int(timesteps), len(prepared.context), features is not None))
        return torch.zeros(len(prepared.context) * frames, *x.shape[1:])

    network.config = toy.CONFIG
    conditions = [Prepared(torch.zeros(1, 1, 1), {})] * 2
    schedule = cosine_zero_snr()
    denoise = guided(network, schedule, conditions, guidance, acceleration=acceleration)
    _stage(steps, schedule).sample(denoise, torch.ones(2, 4, 8, 8))
    return seen


def test_a_run_as_it_comes_is_whole_and_guided():
    assert _evaluations(EXACT) == [(t, 2, False) for t in ddim_timesteps(10)]
    assert _evaluations(EXACT, guidance=1.0) == [(t, 1, False) for t in ddim_timesteps(10)]


def test_guidance_interval():
    seen = _evaluations(Acceleration(guidance_start=0.2, guidance_end=0.6))
    assert [t for t, conditions, _ in seen if conditions == 2] == [701, 601, 501, 401]
    assert len(seen) == 10


def test_features_are_used_again_in_between():
    kinds = [(conditions, again) for _, conditions, again in _evaluations(Acceleration(reuse_interval=3))]
    assert kinds == [(2, step % 3 > 0) for step in range(10)]


def test_where_guidance_ends_the_network_runs_whole():
    """The features of both halves are not those of one."""
    kinds = Counter(_evaluations(Acceleration(guidance_end=0.5, reuse_interval=4))[i][1:] for i in (4, 5, 6))
    assert kinds == {(2, False): 1, (1, False): 1, (1, True): 1}


def test_where_guidance_ends_the_features_of_both_halves_are_let_go(monkeypatch):
    class Recorded(DeepFeatures):
        def keep(self, key, features):
            super().keep(key, features)
            kept.append(set(self._kept))

    kept = []
    monkeypatch.setattr("i2vgen_core.sampling.guidance.DeepFeatures", Recorded)
    _evaluations(Acceleration(guidance_end=0.5, reuse_interval=2))
    assert kept[0] == {(0, 1)} and kept[-1] == {(0,)}


def test_a_run_that_memory_has_parted_stays_parted(caplog):
    """The next run tries both halves at once again."""
    lengths = []

    def network(x, timesteps, prepared, frames, fps, details, hooks, hint):
        lengths.append(len(prepared.context))
        if len(prepared.context) == 2:
            raise torch.cuda.OutOfMemoryError("made up for this test")
        return torch.zeros(frames, *x.shape[1:])

    network.config = toy.CONFIG
    conditions, x, timesteps = [Prepared(torch.zeros(1, 1, 1), {})] * 2, torch.ones(2, 4, 8, 8), torch.tensor([1])
    for _ in range(2):
        predict = Predictor(network)
        for _ in range(3):
            assert len(predict(x, timesteps, conditions)) == 2
    assert lengths == 2 * [2, 1, 1, 1, 1, 1, 1]
    assert caplog.text.count("one after the other") == 2


@pytest.mark.parametrize(
    "wrong",
    [
        Acceleration(guidance_start=-0.1),
        Acceleration(guidance_end=1.1),
        Acceleration(guidance_start=0.6, guidance_end=0.5),
        Acceleration(reuse_interval=0),
    ],
)
def test_wrong_settings_are_refused(wrong):
    for options in (BaseOptions(acceleration=wrong), RefineOptions(acceleration=wrong)):
        with pytest.raises(InputError, match="expected"):
            options.check()


def test_an_unknown_solver_is_refused():
    with pytest.raises(InputError, match="ddim or dpmpp_2m or unipc"):
        BaseOptions(solver="dpmpp").check()


def test_steps_of_the_solvers():
    release = RELEASES["i2vgen_xl"]
    assert [release.steps_for(solver) for solver in BASE_SOLVERS] == [50, 20, 20]
    assert replace(release, steps=8).steps_for("unipc") == 8


def test_dpmpp_2m_takes_the_steps_of_diffusers():
    """Its scheduler given the same sigmas. Ours starts where the network sees the noise as it is."""
    schedule, plan = scaled_linear(), base_steps(scaled_linear(), 7)
    scheduler = DPMSolverMultistepScheduler(prediction_type="sample", final_sigmas_type="zero")
    scheduler.set_timesteps(7)
    scheduler.sigmas, scheduler.timesteps = plan.sigmas, torch.tensor(plan.timesteps)
    noise = torch.randn(2, 4, 3, 3, generator=torch.Generator().manual_seed(0))

    def denoise(x, t):
        return torch.tanh(x) * (1 - t / 2000)

    theirs = noise
    for t in plan.timesteps:
        theirs = scheduler.step(denoise(theirs, t), t, theirs).prev_sample
    assert toy.error(_stage(7, schedule, "dpmpp_2m").sample(denoise, noise), theirs) < 1e-5


def test_solvers_of_second_order_need_fewer_steps():
    """Data of one Gaussian, whose estimate of the clean latent and whose path are known."""
    schedule, deviation = cosine_zero_snr(), 0.7

    def spread(t):
        signal, sigma = schedule.signal_and_noise(t)
        return math.sqrt((signal * deviation) ** 2 + sigma**2)

    def denoise(x, t):
        return schedule.signal_and_noise(t)[0] * (deviation / spread(t)) ** 2 * x

    x = torch.ones(1, 4, 1, 1)

    def error(solver, steps):
        first, last = base_steps(schedule, steps).timesteps[0], deviation
        if solver == "ddim":
            first, last = ddim_timesteps(steps)[0], spread(0)
        return abs(float(_stage(steps, schedule, solver).sample(denoise, x)[0, 0]) * spread(first) / last - 1)

    for solver in ("dpmpp_2m", "unipc"):
        assert error(solver, 20) < error("ddim", 50)
        assert error(solver, 20) < error(solver, 10) / 2


def test_steps_of_second_order_are_even_and_begin_with_a_signal():
    plan = base_steps(cosine_zero_snr(), 20)
    assert plan.timesteps[:2] == [998, 948] and plan.timesteps[-1] == 49
    assert plan.sigmas.isfinite().all() and plan.sigmas[-1] == 0
    assert base_steps(cosine_zero_snr(), 1).timesteps == [998]
    with pytest.raises(InputError, match="1 to 998"):
        base_steps(cosine_zero_snr(), 999)


def test_hooks_use_nothing_again_by_themselves():
    hooks = BlockHooks()
    hooks.keep(torch.ones(1))
    assert hooks.recall() is None
