"""The noise schedules of the releases, and the timesteps that their samplers visit.

The refiners' tables are computed in float32 because the releases do: where a sampler's level falls half-way between
two timesteps, the last bit decides which of the two the network is told.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from ..config import HINTED, REFINERS, TIMESTEPS, Kind
from ..errors import InputError

SOLVERS = ("dpmpp_2m_sde", "heun")
"""Of the refiners."""

BASE_SOLVERS = ("ddim", "dpmpp_2m", "unipc")

LCM_LEVELS = 50
"""Timesteps that the latent consistency models of the family were distilled at."""


@dataclass(frozen=True, eq=False)
class Schedule:
    """A discrete variance-preserving schedule: x_t = sqrt(a_t) x_0 + sqrt(1 - a_t) noise.

    Args:
        alphas_cumprod: a_t, float64 [1000], falling with t; exactly 0 at the end where the terminal SNR is zero.
    """

    alphas_cumprod: Tensor

    @property
    def sigmas_vp(self) -> Tensor:
        """Noise's share sqrt(1 - a_t), float64 [1000]."""
        return (1 - self.alphas_cumprod).sqrt()

    @property
    def sigmas(self) -> Tensor:
        """Noise to signal sqrt((1 - a_t) / a_t), float64 [1000]; infinite where the signal is gone."""
        return ((1 - self.alphas_cumprod) / self.alphas_cumprod).sqrt()

    def signal_and_noise(self, t: int) -> tuple[float, float]:
        """sqrt(a_t) and sqrt(1 - a_t)."""
        a = float(self.alphas_cumprod[t])
        return math.sqrt(a), math.sqrt(1 - a)

    def add_noise(self, latent: Tensor, noise: Tensor, t: int) -> Tensor:
        """The scaled latent noised to timestep t."""
        signal, sigma = self.signal_and_noise(t)
        return signal * latent + sigma * noise

    def denoised(self, x: Tensor, velocity: Tensor, t: int) -> Tensor:
        """x_0 from x_t and the predicted velocity (arXiv 2202.00512)."""
        signal, sigma = self.signal_and_noise(t)
        return signal * x - sigma * velocity

    def velocity(self, x: Tensor, denoised: Tensor, t: int) -> Tensor:
        """The velocity from x_t and x_0, at a timestep with noise."""
        signal, sigma = self.signal_and_noise(t)
        return (signal * x - denoised) / sigma


@lru_cache
def cosine_zero_snr() -> Schedule:
    """Squared cosine with zero terminal SNR: I2VGen-XL's base (VGen, schedules.py: cosine_schedule, and
    rescale_zero_terminal_snr of arXiv 2305.08891)."""
    return _with_zero_snr(cosine())


def _with_zero_snr(schedule: Schedule) -> Schedule:
    root = schedule.alphas_cumprod.sqrt()
    root = (root - root[-1]) * (root[0] / (root[0] - root[-1]))
    return Schedule(root**2)


@lru_cache
def cosine() -> Schedule:
    """Squared cosine (arXiv 2102.09672), offset 0.008, betas up to 0.999: SR600's inversion."""
    u = torch.arange(TIMESTEPS + 1, dtype=torch.float64) / TIMESTEPS
    level = torch.cos((u + 0.008) / 1.008 * math.pi / 2) ** 2
    betas = (1 - level[1:] / level[:-1]).clamp(max=0.999)
    return Schedule((1 - betas).cumprod(0))


@lru_cache
def scaled_linear() -> Schedule:
    """Stable Diffusion's betas, 0.00085 to 0.0120, linear in their roots: MS-Image2Video."""
    betas = torch.linspace(0.00085**0.5, 0.0120**0.5, TIMESTEPS, dtype=torch.float64) ** 2
    return Schedule((1 - betas).cumprod(0))


@lru_cache
def scaled_linear_zero_snr() -> Schedule:
    """Stable Diffusion's betas with zero terminal SNR: composers, animators, and their text to video (VGen, schedules.py:
    linear_sd_schedule and rescale_zero_terminal_snr)."""
    return _with_zero_snr(scaled_linear())


@lru_cache
def logsnr_cosine_interpolated() -> Schedule:
    """Cosine in log-SNR within -15..15, its shift going from that of scale 2 to that of scale 4 (arXiv 2301.11093): the
    refiners (ModelScope, schedules_sdedit.py; VGen, schedules.py)."""
    t = torch.linspace(1, 0, TIMESTEPS)
    t_min, t_max = math.atan(math.exp(7.5)), math.atan(math.exp(-7.5))
    logsnr = -2 * torch.log(torch.tan(t_min + t * (t_max - t_min)))
    low, high = logsnr + 2 * math.log(1 / 2), logsnr + 2 * math.log(1 / 4)
    sigmas_vp = torch.sqrt(torch.sigmoid(-(t * low + (1 - t) * high)))
    return Schedule(1 - sigmas_vp.double() ** 2)


def schedule_for(kind: Kind) -> Schedule:
    """The schedule a network was trained with."""
    if kind in ("i2vgen_xl", "text2video"):
        return cosine_zero_snr()
    if kind == "image2video":
        return scaled_linear()
    return logsnr_cosine_interpolated() if kind in REFINERS + HINTED else scaled_linear_zero_snr()


def ddim_timesteps(steps: int, levels: int = TIMESTEPS) -> list[int]:
    """Timesteps of DDIM, falling, in 1..999. Where `steps` divides 1000 they are the official 1, 1 + 1000 / steps, ...

    Args:
        steps: 1..999.
        levels: 1..1000, the lowest of the levels, which the steps are spread over; as many steps at most.

    Raises:
        InputError: steps outside 1..999.
    """
    if not 1 <= steps < TIMESTEPS:
        raise InputError("steps", f"1 to {TIMESTEPS - 1}", str(steps), "Use the release's number, 50.")
    steps = min(steps, levels)
    return [1 + k * levels // steps for k in reversed(range(steps))]


def strided_timesteps(steps: int) -> list[int]:
    """Timesteps of DDIM as the official loop has them, falling: 1 + k * (1000 // steps), at most 999. Where `steps` does not
    divide 1000 they are more than asked: 31 for 30, the animators' (UniAnimate, diffusion_ddim.py: ddim_sample_loop).

    Raises:
        InputError: steps outside 1..999.
    """
    ddim_timesteps(steps)
    return [min(1 + k, TIMESTEPS - 1) for k in reversed(range(0, TIMESTEPS, TIMESTEPS // steps))]


def leading_timesteps(steps: int) -> list[int]:
    """Timesteps of DDIM as diffusers' schedulers have them with leading spacing and an offset of 1, falling: as many as
    asked, 1 + k * (1000 // steps), so that where `steps` does not divide 1000 the noisiest levels are left out.

    Raises:
        InputError: steps outside 1..999.
    """
    ddim_timesteps(steps)
    return [1 + k * (TIMESTEPS // steps) for k in reversed(range(steps))]


def lcm_timesteps(steps: int) -> list[int]:
    """Timesteps of a latent consistency model, falling: of the 50 that it was distilled at, 999, 979, ... 19, as many as
    asked, evenly (diffusers, scheduling_lcm.py: set_timesteps).

    Raises:
        InputError: steps outside 1..50.
    """
    if not 1 <= steps <= LCM_LEVELS:
        raise InputError("steps", f"1 to {LCM_LEVELS}", str(steps), "Use the release's number, 4.")
    stride = TIMESTEPS // LCM_LEVELS
    return [TIMESTEPS - 1 - stride * (i * LCM_LEVELS // steps) for i in range(steps)]


def inversion_timesteps(steps: int, levels: int) -> list[int]:
    """Timesteps of DDIM inversion over `levels` levels: 0, levels // steps, ... below `levels`, as the official loop has
    them. Where `steps` does not divide `levels` they are more than asked: 31 for 30 of 700, the release's.

    Raises:
        InputError: fewer levels than steps, or none.
    """
    if not 1 <= steps <= levels <= TIMESTEPS:
        found = f"{steps} steps over {levels} levels"
        raise InputError(
            "inversion", f"1 or more steps over at most {TIMESTEPS} levels", found, "Use 30 steps over 700."
        )
    return list(range(0, levels, levels // steps))


@dataclass(frozen=True, eq=False)
class SolverSteps:
    """What a solver of second order visits.

    Args:
        sigmas: noise to signal, float32 [steps + 1], falling to 0.
        timesteps: what the network is told at each of the first `steps` sigmas.
    """

    sigmas: Tensor
    timesteps: list[int]


def base_steps(schedule: Schedule, steps: int, levels: int = TIMESTEPS) -> SolverSteps:
    """Trailing spacing for a base's solvers of second order: from the noisiest level that has a signal in even steps of
    time to 0 (arXiv 2305.08891, section 3.3). DDIM's own timesteps end in a step that is many times as long as the one
    before it, in the logarithm of sigma, from which such a solver would extrapolate.

    Args:
        schedule: the base's.
        steps: 1..998.
        levels: 3..1000, the lowest of the levels, which the steps are spread over; fewer steps at most.
    """
    if not 1 <= steps < TIMESTEPS - 1:
        raise InputError("steps", f"1 to {TIMESTEPS - 2}", str(steps), "Use 20.")
    steps = min(steps, levels - 2)
    timesteps = [round((steps - k) * (levels - 1) / steps) - 1 for k in range(steps)]
    sigmas = schedule.sigmas[timesteps].float()
    return SolverSteps(torch.cat([sigmas, sigmas.new_zeros(1)]), timesteps)


def refine_steps(schedule: Schedule, steps: int, levels: int, solver: str) -> SolverSteps:
    """Sigmas from level `levels - 1` down, trailing spacing (ModelScope, diffusion_sdedit.py: sample).

    DPM-Solver++ SDE discretises one step finer and leaves out the last but one sigma.

    Args:
        schedule: the refiner's.
        steps: 1 or more; as many are run.
        levels: 2 to 1000, the last of which is pure noise; 600 is the release's for vid2vid_xl.
        solver: `dpmpp_2m_sde` or `heun`.
    """
    if steps < 1 or not 2 <= levels <= TIMESTEPS:
        found = f"{steps} steps from level {levels}"
        raise InputError("refinement", f"1 or more steps from a level of 2 to {TIMESTEPS}", found, "Use 30 from 600.")
    if solver == "heun" and levels == TIMESTEPS:
        remedy = "Use the solver dpmpp_2m_sde, or a lower noise level."
        raise InputError("noise level", f"at most {TIMESTEPS - 1} with the solver heun", str(levels), remedy)
    skip_one = solver == "dpmpp_2m_sde"
    points = steps + 1 if skip_one else steps
    times = torch.arange(levels - 1, -1, -levels / points)[:points].clamp(0, levels - 1)
    if points > levels:  # where trailing spacing would go below level 0 and repeat it
        times = torch.linspace(levels - 1, 0, points)
    return _steps_at(schedule, times[:steps])


FAST_LEVELS = 900
"""Where the fast mode starts."""


def fast_steps(schedule: Schedule, levels: int) -> SolverSteps:
    """STAR's and VEnhancer's fast mode: 14 evaluations, few from level 899 to 500 and more from there (both:
    diffusion_sdedit.py: sample_sr and sample, solver_mode `fast`).

    Args:
        schedule: the refiner's.
        levels: 900.

    Raises:
        InputError: another start, from which the official program goes wrong.
    """
    if levels != FAST_LEVELS:
        remedy = f"Use the mode normal, or a noise level of {FAST_LEVELS}."
        raise InputError("noise level", f"{FAST_LEVELS} with the mode fast", str(levels), remedy)
    few, many = torch.arange(FAST_LEVELS - 1, 500, -100.0), torch.arange(500, -1, -501 / 11)
    return _steps_at(schedule, torch.cat([few, many[:10]]))


def _steps_at(schedule: Schedule, times: Tensor) -> SolverSteps:
    log_sigmas = _log_sigmas(schedule)
    sigmas = _interpolate(log_sigmas, times).exp()
    timesteps = _nearest_timesteps(log_sigmas, sigmas)
    return SolverSteps(torch.cat([sigmas, sigmas.new_zeros(1)]), timesteps)


def _log_sigmas(schedule: Schedule) -> Tensor:
    squared = schedule.sigmas_vp.float() ** 2
    return torch.sqrt(squared / (1 - squared)).log()


def _interpolate(table: Tensor, times: Tensor) -> Tensor:
    low, high, weight = times.floor().long(), times.ceil().long(), times.frac()
    return torch.where(low == high, table[low], (1 - weight) * table[low] + weight * table[high])


def _nearest_timesteps(log_sigmas: Tensor, sigmas: Tensor) -> list[int]:
    log_sigma = sigmas.log()
    low = (torch.searchsorted(log_sigmas, log_sigma, right=True) - 1).clamp(0, len(log_sigmas) - 2)
    high = low + 1
    weight = ((log_sigmas[low] - log_sigma) / (log_sigmas[low] - log_sigmas[high])).clamp(0, 1)
    nearest = torch.where(sigmas.isinf(), len(log_sigmas) - 1, (1 - weight) * low + weight * high)
    return nearest.round().long().tolist()
