"""Noise schedules and the timesteps of the samplers, by their definitions and for every number of steps."""

import math
from itertools import pairwise

import pytest
import torch
import toy

from i2vgen_core.errors import InputError
from i2vgen_core.releases import RELEASES
from i2vgen_core.sampling.schedules import (
    cosine,
    cosine_zero_snr,
    ddim_timesteps,
    inversion_timesteps,
    logsnr_cosine_interpolated,
    refine_steps,
    scaled_linear,
    schedule_for,
)

ALL = (cosine, cosine_zero_snr, scaled_linear, logsnr_cosine_interpolated)
SOLVERS = ("dpmpp_2m_sde", "heun")

# ---------------------------------------------------------------- tables


@pytest.mark.parametrize("make", ALL)
def test_a_schedule_goes_from_signal_to_noise(make):
    alphas = make().alphas_cumprod
    assert alphas.shape == (1000,) and alphas.dtype == torch.float64
    assert 0.99 < alphas[0] < 1 and 0 <= alphas[-1] < 0.01
    assert (alphas.diff() < 0).all()
    assert (make().sigmas_vp.diff() > 0).all()


def test_known_values():
    def squared_cosine(t):
        return math.cos((t / 1000 + 0.008) / 1.008 * math.pi / 2) ** 2

    alphas = cosine().alphas_cumprod
    for t in (0, 1, 500, 990):
        assert float(alphas[t]) == pytest.approx(squared_cosine(t + 1) / squared_cosine(0), rel=1e-9)
    assert float(alphas[999] / alphas[998]) == pytest.approx(0.001, rel=1e-6)  # betas end at 0.999

    scaled = scaled_linear().alphas_cumprod
    assert float(scaled[0]) == pytest.approx(1 - 0.00085, rel=1e-9)
    assert float(1 - scaled[999] / scaled[998]) == pytest.approx(0.0120, rel=1e-9)
    assert float(scaled[999]) == pytest.approx(0.0046600, rel=1e-4)  # Stable Diffusion's


def test_zero_terminal_snr():
    """arXiv 2305.08891, algorithm 1: the end is exactly noise and the start stays as it was."""
    before, after = cosine().alphas_cumprod.sqrt(), cosine_zero_snr().alphas_cumprod.sqrt()
    assert after[-1] == 0
    assert torch.isinf(cosine_zero_snr().sigmas[-1])
    assert float(after[0]) == pytest.approx(float(before[0]), rel=1e-12)
    steps = after.diff() / before.diff()
    assert float(steps.max() - steps.min()) < 1e-9, "an affine map of the square roots"


@pytest.mark.parametrize("t", [0, 1, 300, 599, 900])
def test_logsnr_of_the_refiners(t):
    """Cosine in log-SNR within 15 to -15, its shift from that of scale 2 at the clean end to that of scale 4."""
    at = 1 - t / 999
    low, high = math.atan(math.exp(7.5)), math.atan(math.exp(-7.5))
    shift = at * 2 * math.log(1 / 2) + (1 - at) * 2 * math.log(1 / 4)
    alpha = float(logsnr_cosine_interpolated().alphas_cumprod[t])
    # the release's table is float32: 1e-3 where it holds 1 - a, or a, to few digits
    assert math.log(alpha / (1 - alpha)) == pytest.approx(
        -2 * math.log(math.tan(low + at * (high - low))) + shift, abs=1e-3
    )


def test_the_refiners_end_is_noise_alone():
    assert logsnr_cosine_interpolated().alphas_cumprod[-1] == 0


@pytest.mark.parametrize("kind", toy.KINDS)
def test_schedule_of_a_kind(kind):
    expected = {"i2vgen_xl": cosine_zero_snr, "image2video": scaled_linear}.get(kind, logsnr_cosine_interpolated)
    assert schedule_for(kind) is expected()


@pytest.mark.parametrize("make", ALL)
@pytest.mark.parametrize("t", [0, 1, 500, 998, 999])
def test_noise_and_velocity_undo_each_other(make, t):
    schedule = make()
    clean, noise = (torch.randn(2, 4, 3, 3, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    signal, sigma = schedule.signal_and_noise(t)
    assert signal**2 + sigma**2 == pytest.approx(1, abs=1e-12)
    noisy = schedule.add_noise(clean, noise, t)
    assert toy.error(noisy, signal * clean + sigma * noise) == 0
    velocity = signal * noise - sigma * clean  # arXiv 2202.00512, section 4
    assert toy.error(schedule.denoised(noisy, velocity, t), clean) <= 1e-5


# ---------------------------------------------------------------- DDIM


def test_ddim_at_fifty_steps():
    steps = ddim_timesteps(50)
    assert steps == list(range(981, 0, -20))
    assert (steps[0], steps[-1], len(steps)) == (981, 1, 50)


def test_ddim_for_every_number_of_steps():
    for steps in range(1, 1000):
        timesteps = ddim_timesteps(steps)
        assert len(timesteps) == steps
        assert all(1 <= t <= 999 for t in timesteps)
        assert all(a > b for a, b in pairwise(timesteps))
        assert timesteps[-1] == 1
        if 1000 % steps == 0:
            assert timesteps == [1 + k * (1000 // steps) for k in reversed(range(steps))]


@pytest.mark.parametrize("steps", [-1, 0, 1000, 5000])
def test_ddim_with_steps_that_there_are_not(steps):
    with pytest.raises(InputError, match=f"steps: expected 1 to 999, found {steps}"):
        ddim_timesteps(steps)


# ---------------------------------------------------------------- inversion


def test_inversion_as_released():
    timesteps = inversion_timesteps(30, 700)
    assert timesteps == list(range(0, 700, 23))
    assert len(timesteps) == 31


@pytest.mark.parametrize("steps, levels", [(1, 1), (1, 1000), (7, 700), (30, 700), (20, 1000), (1000, 1000), (3, 7)])
def test_inversion_rises_evenly_below_the_last_level(steps, levels):
    timesteps = inversion_timesteps(steps, levels)
    stride = levels // steps
    assert timesteps[0] == 0
    assert all(b - a == stride for a, b in pairwise(timesteps))
    assert timesteps[-1] < levels <= timesteps[-1] + stride
    assert len(timesteps) >= steps
    if levels % steps == 0:
        assert len(timesteps) == steps


@pytest.mark.parametrize("steps, levels", [(0, 700), (-1, 700), (701, 700), (1, 0), (30, 1001)])
def test_inversion_that_cannot_be(steps, levels):
    with pytest.raises(InputError, match=f"inversion: expected .*, found {steps} steps over {levels} levels"):
        inversion_timesteps(steps, levels)


# ---------------------------------------------------------------- refinement


@pytest.mark.parametrize("solver", SOLVERS)
def test_refine_steps_for_many_numbers_of_steps_and_levels(solver):
    schedule = logsnr_cosine_interpolated()
    for steps in range(1, 61):
        for levels in (2, 3, 10, 50, 100, 250, 599, 600, 700, 998, 999):
            plan = refine_steps(schedule, steps, levels, solver)
            case = f"{steps} steps from {levels}"
            assert plan.sigmas.shape == (steps + 1,) and plan.sigmas.dtype == torch.float32, case
            assert len(plan.timesteps) == steps, case
            assert torch.isfinite(plan.sigmas).all() and plan.sigmas[-1] == 0, case
            assert (plan.sigmas.diff() < 0).all(), f"{case}: a step of no length divides zero by zero"
            assert plan.timesteps[0] == levels - 1, case
            assert all(a >= b >= 0 for a, b in pairwise(plan.timesteps)), case
            expected = float(schedule.sigmas[levels - 1])
            assert float(plan.sigmas[0]) == pytest.approx(expected, rel=1e-4), case  # a float32 table


def test_refine_steps_are_trailing():
    schedule = logsnr_cosine_interpolated()
    heun = refine_steps(schedule, 50, 600, "heun")
    assert heun.timesteps == list(range(599, 0, -12))
    # one finer, and without the last but one
    sde = refine_steps(schedule, 30, 600, "dpmpp_2m_sde")
    assert sde.timesteps[:3] == [599, 580, 560]
    assert sde.timesteps[-1] == 38
    for plan in (heun, sde):
        for sigma, t in zip(plan.sigmas, plan.timesteps, strict=False):
            nearest = int((schedule.sigmas.log() - float(sigma.log())).abs().argmin())
            assert abs(nearest - t) <= 1


@pytest.mark.parametrize("steps, levels", [(0, 600), (-1, 600), (30, 1), (30, 0), (30, 1001)])
def test_refinement_that_cannot_be(steps, levels):
    with pytest.raises(InputError, match=f"refinement: expected .*, found {steps} steps from level {levels}"):
        refine_steps(logsnr_cosine_interpolated(), steps, levels, "heun")


@pytest.mark.parametrize("kind", toy.KINDS)
def test_the_releases_settings_can_be_run(kind):
    release = RELEASES[kind]
    if kind in ("i2vgen_xl", "image2video"):
        assert len(ddim_timesteps(release.steps)) == 50
        return
    for solver, steps in (("dpmpp_2m_sde", 30), ("heun", 50 if kind == "vid2vid_xl" else 30)):
        assert release.steps_for(solver) == steps
        assert len(refine_steps(schedule_for(kind), steps, release.noise_level, solver).timesteps) == steps
    if release.entry == "inversion":
        assert len(inversion_timesteps(release.steps, release.noise_level)) == 31
