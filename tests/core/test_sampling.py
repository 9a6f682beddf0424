"""The samplers against diffusers' schedulers, the guidance, and the noise."""

import math
import warnings
from itertools import pairwise

import pytest
import torch
import toy
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, HeunDiscreteScheduler
from einops import rearrange

from i2vgen_core.errors import InputError
from i2vgen_core.releases import RELEASES
from i2vgen_core.sampling import noise as noises
from i2vgen_core.sampling.noise import BrownianNoise, derived_seed, initial_noise, step_noise
from i2vgen_core.sampling.options import BaseOptions, RefineOptions
from i2vgen_core.sampling.schedules import (
    cosine,
    cosine_zero_snr,
    logsnr_cosine_interpolated,
    refine_steps,
    scaled_linear,
)
from i2vgen_core.sampling.solvers import ddim, ddim_inversion, dpmpp_2m_sde, guide, heun
from i2vgen_core.sampling.stages import BaseStage, RefineStage

SHAPE = (3, 4, 5, 6)

LOOP = 1e-4
"""Limit where a whole loop ran: diffusers' tables and steps are float32, and tens of steps add their rounding up."""


def noise(seed, shape=SHAPE):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def velocity(x, t):
    """A toy network."""
    return torch.tanh(0.7 * x * (1 - t / 1000) + 0.3 * noise(99) + 0.2 * t / 1000)


def denoiser(schedule):
    return lambda x, t: schedule.denoised(x, velocity(x, t), t)


def base_stage(**options):
    return BaseStage(BaseOptions(**options), RELEASES["i2vgen_xl"], cosine_zero_snr())


def refine_stage(**options):
    return RefineStage(RefineOptions(**options), RELEASES["vid2vid_xl"], logsnr_cosine_interpolated())


# ---------------------------------------------------------------- DDIM


def diffusers_ddim(schedule, steps):
    alphas = schedule.alphas_cumprod
    betas = 1 - torch.cat([alphas[:1], alphas[1:] / alphas[:-1]])
    scheduler = DDIMScheduler(
        trained_betas=betas.numpy(),
        prediction_type="v_prediction",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        timestep_spacing="leading",
    )
    scheduler.set_timesteps(steps)
    return scheduler


@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("steps", [1, 4, 20, 50, 100])
@pytest.mark.parametrize("schedule", [cosine_zero_snr, scaled_linear])
def test_ddim_is_diffusers(schedule, steps, eta):
    scheduler, drawn = diffusers_ddim(schedule(), steps), [noise(seed) for seed in range(1, steps + 1)]
    theirs = noise(0)
    for t, step in zip(scheduler.timesteps, drawn, strict=True):
        out = velocity(theirs, int(t))
        theirs = scheduler.step(out, t, theirs, eta=eta, variance_noise=step if eta else None).prev_sample
    left = iter(drawn)
    ours = ddim(denoiser(schedule()), noise(0), schedule(), steps, eta=eta, noise=lambda: next(left))
    assert toy.error(ours, theirs) <= LOOP
    assert (next(left, None) is None) == bool(eta), "one draw a step, and none without eta"


@pytest.mark.parametrize("steps", [3, 7, 30, 999])
def test_ddim_runs_the_number_asked_for(steps):
    asked = []

    def denoise(x, t):
        asked.append(t)
        return cosine_zero_snr().denoised(x, velocity(x, t), t)

    assert torch.isfinite(ddim(denoise, noise(0), cosine_zero_snr(), steps)).all()
    assert len(asked) == steps and asked[0] > 1000 - 1000 / steps - 1 and asked[-1] == 1


def test_ddim_finds_what_a_perfect_denoiser_knows():
    clean = noise(5)
    for schedule in (cosine_zero_snr(), scaled_linear()):
        end = schedule.add_noise(clean, noise(0), 0)
        x = schedule.add_noise(clean, noise(0), 981)
        assert toy.error(ddim(lambda x, t: clean, x, schedule, 50), end) <= LOOP


@pytest.mark.parametrize("levels, steps", [(700, 35), (1000, 20), (700, 30)])
def test_inversion_leads_a_perfect_denoiser_to_the_noise(levels, steps):
    clean = noise(5)
    x = cosine().add_noise(clean, noise(0), 0)
    inverted = ddim_inversion(lambda x, t: clean, x, cosine(), steps, levels)
    # 1e-3: the first step divides by the noise at level 0, sigma 0.006, which float32 holds to four digits
    assert toy.error(inverted, cosine().add_noise(clean, noise(0), levels - 1)) <= 1e-3


# ---------------------------------------------------------------- the refiners' solvers


@pytest.mark.parametrize("steps, levels", [(1, 600), (2, 600), (12, 600), (30, 600), (30, 700)])
@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_dpm_solver_is_diffusers(steps, levels, eta):
    schedule = logsnr_cosine_interpolated()
    plan = refine_steps(schedule, steps, levels, "dpmpp_2m_sde")
    denoise, first = denoiser(schedule), noise(0)
    drawn = [noise(seed) for seed in range(1, steps + 1)]

    scheduler = DPMSolverMultistepScheduler(
        algorithm_type="sde-dpmsolver++" if eta else "dpmsolver++",
        solver_type="midpoint",
        prediction_type="sample",
        final_sigmas_type="zero",
    )
    scheduler.set_timesteps(steps)
    scheduler.sigmas = plan.sigmas
    scheduler.set_begin_index(0)
    sigma = plan.sigmas[0]
    theirs = first * sigma / (sigma**2 + 1).sqrt()
    for t, step in zip(plan.timesteps, drawn, strict=True):
        theirs = scheduler.step(denoise(theirs, t), t, theirs, variance_noise=step if eta else None).prev_sample

    left = iter(drawn)
    ours = dpmpp_2m_sde(denoise, first, plan, eta=eta, noise=lambda sigma, following: next(left))
    assert toy.error(ours, theirs) <= LOOP


@pytest.mark.parametrize("steps, levels", [(1, 600), (2, 600), (12, 600), (50, 600), (30, 700)])
def test_heun_is_diffusers(steps, levels):
    schedule = logsnr_cosine_interpolated()
    plan = refine_steps(schedule, steps, levels, "heun")
    denoise, first = denoiser(schedule), noise(0)

    scheduler = HeunDiscreteScheduler(prediction_type="epsilon")
    scheduler.set_timesteps(max(steps, 2))  # it cannot make a table of one
    twice = torch.tensor(plan.timesteps).repeat_interleave(2)[1:]  # its order: t0, t1, t1, t2, t2, ...
    scheduler.timesteps = twice
    scheduler.sigmas = torch.cat([plan.sigmas[:1], plan.sigmas[1:-1].repeat_interleave(2), plan.sigmas[-1:]])
    scheduler.set_begin_index(0)
    theirs = first * plan.sigmas[0]
    for t in twice:
        x = scheduler.scale_model_input(theirs, t)
        eps = (theirs - denoise(x, int(t))) / scheduler.sigmas[scheduler.step_index]
        theirs = scheduler.step(eps, t, theirs).prev_sample
    assert toy.error(heun(denoise, first, plan), theirs) <= LOOP


@pytest.mark.parametrize("solver", ["dpmpp_2m_sde", "heun"])
@pytest.mark.parametrize("steps, levels", [(1, 600), (2, 999), (30, 10), (60, 2), (5, 2)])
def test_any_number_of_steps_from_any_level_is_finite(solver, steps, levels):
    stage = refine_stage(solver=solver, steps=steps, noise_level=levels, seed=3)
    assert torch.isfinite(stage.sample(denoiser(stage.schedule), noise(0))).all()


@pytest.mark.parametrize("solver", ["dpmpp_2m_sde", "heun"])
def test_the_stage_runs_the_solver_of_its_name_with_the_seeds_noise(solver):
    schedule = logsnr_cosine_interpolated()
    plan, denoise = refine_steps(schedule, 6, 600, solver), denoiser(schedule)

    def run(eta, seed):
        return refine_stage(solver=solver, steps=6, eta=eta, seed=seed).sample(denoise, noise(0))

    if solver == "heun":
        assert torch.equal(run(1.0, 1), heun(denoise, noise(0), plan))
        assert torch.equal(run(1.0, 2), run(0.0, 1))
        return
    path = BrownianNoise(noise(0), plan.sigmas, derived_seed(1, "refiner step noise"))
    assert torch.equal(run(1.0, 1), dpmpp_2m_sde(denoise, noise(0), plan, noise=path))
    assert toy.error(run(1.0, 2), run(1.0, 1)) > 1e-2
    assert torch.equal(run(0.0, 2), run(0.0, 1))
    assert toy.error(run(0.5, 1), run(1.0, 1)) > 1e-2


# ---------------------------------------------------------------- guidance


@pytest.mark.parametrize("rescale", [0.0, 0.2, 1.0])
@pytest.mark.parametrize("scale", [0.0, 1.0, 3.0, 9.0])
def test_guidance(scale, rescale):
    cond, uncond = noise(1), 2 * noise(2)
    guided = uncond + scale * (cond - uncond)
    expected = rescale * guided * cond.std() / guided.std() + (1 - rescale) * guided
    assert toy.error(guide(cond, uncond, scale, rescale), expected) <= 1e-5


def test_guidance_of_one_is_the_condition():
    cond = noise(1)
    assert torch.equal(guide(cond, noise(2), 1.0), cond)


def test_full_rescale_has_the_conditions_deviation():
    cond = noise(1)
    assert float(guide(cond, noise(2), 9.0, 1.0).std()) == pytest.approx(float(cond.std()), rel=1e-5)


# ---------------------------------------------------------------- noise


def test_first_noise_is_the_seeds():
    expected = torch.randn(7, 4, 5, 6, generator=torch.Generator().manual_seed(42))
    assert torch.equal(initial_noise((7, 4, 5, 6), 42), expected)
    assert not torch.equal(initial_noise((7, 4, 5, 6), 43), expected)


def test_offset_noise_is_one_number_a_frame_and_channel():
    plain, offset = initial_noise((7, 4, 5, 6), 42), initial_noise((7, 4, 5, 6), 42, offset=0.1)
    added = (offset - plain) / 0.1
    assert (added - added[..., :1, :1]).abs().max() < 1e-5
    values = added[..., 0, 0].flatten()
    assert len(values.unique()) == 28
    assert 0.5 < float(values.std()) < 1.5


def test_step_noise_is_the_seeds():
    first = initial_noise(SHAPE, 42)
    draw, again = step_noise(first, 42), step_noise(first, 42)
    drawn = [draw(), draw()]
    assert drawn[0].shape == first.shape
    assert not torch.equal(*drawn)
    assert all(torch.equal(again(), value) for value in drawn)
    assert step_noise(first.half(), 42)().dtype == torch.float16


def path(seed, sigmas=(0.05, 1.0, 4.0), shape=SHAPE):
    return BrownianNoise(torch.zeros(shape), torch.tensor([*sigmas, 0.0]), seed)


def increment(brownian, above, below):
    """The path's change between two levels."""
    above, below = torch.tensor(above), torch.tensor(below)
    return brownian(above, below) * (above - below).sqrt()


def test_brownian_noise_is_the_seeds():
    levels = torch.tensor(3.0), torch.tensor(2.0)
    assert torch.equal(path(1)(*levels), path(1)(*levels))
    assert toy.error(path(1)(*levels), path(2)(*levels)) > 0.1


def test_brownian_noise_has_unit_variance_and_independent_steps():
    shape = (8, 4, 32, 32)
    levels = [4.0, 3.9, 2.0, 0.5, 0.05]
    brownian = path(1, shape=shape)
    steps = [brownian(torch.tensor(a), torch.tensor(b)) for a, b in pairwise(levels)]
    for step in steps:
        assert step.shape == shape
        # five deviations of the mean and of the deviation of 32768 draws
        assert abs(float(step.mean())) < 5 / 32768**0.5
        assert abs(float(step.std()) - 1) < 5 / (2 * 32768) ** 0.5
    correlations = torch.corrcoef(torch.stack([step.flatten() for step in steps])) - torch.eye(len(steps))
    assert float(correlations.abs().max()) < 5 / 32768**0.5


def test_finer_steps_go_along_the_same_path():
    whole = increment(path(1), 4.0, 0.05)
    fine = path(1, (0.05, 0.3, 1.0, 2.5, 3.0, 4.0))
    levels = [4.0, 3.0, 2.5, 1.0, 0.3, 0.05]
    parts = [increment(fine, a, b) for a, b in pairwise(levels)]
    # the tree is followed to 1e-6 in sigma: a deviation of 1e-3 at each of ten ends
    assert float((sum(parts) - whole).abs().max()) < 1e-2


def test_brownian_noise_has_the_references_layout():
    frames = path(1, shape=SHAPE)(torch.tensor(3.0), torch.tensor(2.0))
    reference = torch.zeros(rearrange(frames, "f c h w -> 1 c f h w").shape)
    tree = noises.torchsde.BrownianTree(torch.tensor(0.05), reference, torch.tensor(4.0), entropy=1)
    expected = (tree(torch.tensor(2.0), torch.tensor(3.0))[0]).transpose(0, 1)
    assert toy.error(frames.abs(), expected.abs()) <= 1e-5


@pytest.mark.parametrize("steps", [1, 2, 12, 30])
def test_brownian_noise_is_drawn_without_a_warning(steps):
    """torchsde rounds its interval's ends to six digits, and warns of a level beyond them by less than that."""
    stage = refine_stage(steps=steps, seed=3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        stage.sample(denoiser(stage.schedule), noise(0))


def test_brownian_noise_takes_the_latents_type():
    noise_of_half = BrownianNoise(torch.zeros(SHAPE, dtype=torch.float16), torch.tensor([4.0, 1.0, 0.0]), 1)
    assert noise_of_half(torch.tensor(4.0), torch.tensor(1.0)).dtype == torch.float16


# ---------------------------------------------------------------- progress

RUNS = {
    "ddim": (cosine_zero_snr, lambda d, s, c: ddim(d, noise(0), s, 5, callback=c), 5),
    "inversion": (cosine, lambda d, s, c: ddim_inversion(d, noise(0), s, 30, 700, callback=c), 31),
    "dpmpp_2m_sde": (
        logsnr_cosine_interpolated,
        lambda d, s, c: dpmpp_2m_sde(d, noise(0), refine_steps(s, 5, 600, "dpmpp_2m_sde"), eta=0, callback=c),
        5,
    ),
    "heun": (
        logsnr_cosine_interpolated,
        lambda d, s, c: heun(d, noise(0), refine_steps(s, 5, 600, "heun"), callback=c),
        5,
    ),
}


@pytest.mark.parametrize("name", RUNS)
def test_the_callback_sees_every_step(name):
    schedule, run, steps = RUNS[name]
    seen = []

    def callback(step, total, x, denoised):
        assert x.shape == denoised.shape == SHAPE
        assert torch.isfinite(x).all() and torch.isfinite(denoised).all()
        seen.append((step, total))

    watched = run(denoiser(schedule()), schedule(), callback)
    assert seen == [(step, steps) for step in range(steps)]
    assert torch.equal(run(denoiser(schedule()), schedule(), None), watched), "watching changes nothing"


class Stopped(Exception):
    """What a caller raises to stop."""


@pytest.mark.parametrize("name", RUNS)
def test_the_callback_may_stop_the_run(name):
    schedule, run, _ = RUNS[name]
    evaluations = []

    def denoise(x, t):
        evaluations.append(t)
        return denoiser(schedule())(x, t)

    def callback(step, total, x, denoised):
        if step == 2:
            raise Stopped

    with pytest.raises(Stopped):
        run(denoise, schedule(), callback)
    assert len(evaluations) == (5 if name == "heun" else 3)  # Heun evaluates twice a step


@pytest.mark.parametrize("name", RUNS)
def test_the_first_latent_is_left_as_it_was(name):
    schedule, _, _ = RUNS[name]
    x = noise(0)
    sampler = {
        "ddim": lambda: ddim(denoiser(schedule()), x, schedule(), 3),
        "inversion": lambda: ddim_inversion(denoiser(schedule()), x, schedule(), 3, 700),
        "dpmpp_2m_sde": lambda: dpmpp_2m_sde(denoiser(schedule()), x, refine_steps(schedule(), 3, 600, name)),
        "heun": lambda: heun(denoiser(schedule()), x, refine_steps(schedule(), 3, 600, name)),
    }[name]
    out = sampler()
    assert torch.equal(x, noise(0))
    assert out.shape == SHAPE and not math.isnan(float(out.sum()))


# ---------------------------------------------------------------- the stages


def test_the_stages_noises_are_independent():
    """At one size the refiner would otherwise add the very noise that its video was made from."""
    shape = (4, 4, 32, 32)
    drawn = {}
    for seed in (7, 8):
        base, refine = base_stage(seed=seed), refine_stage(seed=seed)
        drawn |= {("base", seed): base.noise(shape), ("refine", seed): refine.noise(shape)}
        # from nothing to nothing: what is left after a step is its noise
        drawn["step", seed] = base_stage(seed=seed, steps=1, eta=1.0).sample(lambda x, t: 0 * x, torch.zeros(shape))
    flat = torch.stack([each.flatten() / each.std() for each in drawn.values()])
    correlations = torch.corrcoef(flat) - torch.eye(len(flat))
    assert float(correlations.abs().max()) < 5 / flat.shape[1] ** 0.5


def test_the_bases_first_noise_is_the_seeds():
    assert torch.equal(base_stage(seed=42).noise(SHAPE), initial_noise(SHAPE, 42)), "ComfyUI's samplers draw it too"


@pytest.mark.parametrize(
    "make, options, match",
    [
        (base_stage, {"solver": "euler"}, "solver: expected ddim or dpmpp_2m or unipc"),
        (base_stage, {"solver": "unipc", "steps": 999}, "1 to 998"),
        (base_stage, {"steps": 2.5}, "steps: expected a whole number"),
        (base_stage, {"steps": True}, "steps: expected a whole number"),
        (base_stage, {"guidance": "9"}, "guidance: expected a number from 0 to 100"),
        (base_stage, {"guidance": math.nan}, "guidance: expected 0 to 100"),
        (base_stage, {"width": 100}, "multiple"),
        (refine_stage, {"solver": "ddim"}, "solver: expected dpmpp_2m_sde or heun"),
        (refine_stage, {"entry": "none"}, "entry: expected noise or inversion"),
        (refine_stage, {"noise_level": 1}, "noise level: expected 2 to 1000"),
        (refine_stage, {"steps": 0}, "steps: expected 1 to 999"),
    ],
)
def test_a_stage_refuses_what_cannot_be(make, options, match):
    with pytest.raises(InputError, match=match):
        make(**options)


def test_a_stage_refuses_values_that_are_no_numbers():
    broken = torch.full(SHAPE, math.nan)
    with pytest.raises(InputError, match="noise: expected finite"):
        base_stage(steps=1).sample(lambda x, t: x, broken)
    with pytest.raises(InputError, match="latent: expected finite"):
        refine_stage().check_latent(broken)


@pytest.mark.parametrize("entry", ["noise", "inversion"])
@pytest.mark.parametrize("solver", ["dpmpp_2m_sde", "heun"])
def test_a_refinement_counts_the_steps_of_both_parts(entry, solver):
    stage, counted = refine_stage(entry=entry, solver=solver, steps=5, noise_level=100), []
    denoise = denoiser(stage.schedule)

    def callback(step, steps, x, denoised):
        counted.append((step, steps))

    x = stage.invert(denoise, noise(0), callback) if stage.inverts else stage.add_noise(noise(0), noise(1))
    stage.sample(denoise, x, callback)
    assert counted == [(step, stage.steps) for step in range(stage.steps)]
    assert stage.steps == (10 if entry == "inversion" else 5)


def test_an_inversion_reads_the_networks_velocity_on_a_schedule_of_its_own():
    stage, own = refine_stage(entry="inversion", steps=30, noise_level=700), cosine()
    expected = ddim_inversion(denoiser(own), noise(0), own, 30, 700)
    assert toy.error(stage.invert(denoiser(stage.schedule), noise(0)), expected) <= LOOP
