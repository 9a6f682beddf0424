"""The samplers of the releases, as functions of one denoiser.

They hold the latent as the network sees it, variance-preserving, and call `denoise(x, t)` for its estimate of the clean
latent; guidance, prediction type and progress are the caller's wrappers. They are ours because a library's schedulers
cannot be made exact: the official refiners sample at sigmas between timesteps while the network is told the nearest
one, eta is continuous, and a number of steps that does not divide the schedule still has to start from its noisy end.
Where diffusers' DDIM, DPM-Solver++ and Heun schedulers take the same steps, the tests find the same numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from ..config import TIMESTEPS
from .schedules import Schedule, SolverSteps, ddim_timesteps, inversion_timesteps, lcm_timesteps

Denoise = Callable[[Tensor, int], Tensor]
"""denoise(x_t, t): the estimate of x_0, of x_t's shape."""

Callback = Callable[[int, int, Tensor, Tensor], None]
"""callback(step, steps, x, denoised), once a step, after its first evaluation; it may raise to stop."""

StepNoise = Callable[[Tensor, Tensor], Tensor]
"""noise(sigma, next sigma): unit-variance noise of the step between two levels."""


def guide(cond: Tensor, uncond: Tensor, scale: float, rescale: float = 0.0) -> Tensor:
    """Classifier-free guidance of one video's predictions, with the rescale of arXiv 2305.08891, section 3.4.

    Args:
        cond: prediction with the condition, any shape.
        uncond: prediction with the negative condition.
        scale: guidance scale; 1 leaves `cond`.
        rescale: 0..1, how far the standard deviation is brought back to that of `cond`.
    """
    if scale == 1:
        return cond
    guided = uncond + scale * (cond - uncond)
    if rescale:
        guided = guided * (rescale * cond.std() / (guided.std() + 1e-12) + (1 - rescale))
    return guided


def ddim(
    denoise: Denoise,
    x: Tensor,
    schedule: Schedule,
    steps: int | Sequence[int],
    *,
    eta: float = 0.0,
    noise: Callable[[], Tensor] | None = None,
    clean_end: bool = False,
    callback: Callback | None = None,
) -> Tensor:
    """DDIM (arXiv 2010.02502) down to the first level, not to zero noise (VGen, diffusion_ddim.py: ddim_sample_loop).

    Args:
        denoise: see Denoise.
        x: first latent, pure noise.
        schedule: the network's.
        steps: 1..999, as many evaluations; or the timesteps themselves, falling.
        eta: 0 deterministic, 1 as much noise as DDPM.
        noise: draws unit noise of x's shape; used if eta is not 0.
        clean_end: down to zero noise after all (diffusers' DDIMScheduler with set_alpha_to_one).
        callback: see Callback.
    """
    timesteps = ddim_timesteps(steps) if isinstance(steps, int) else steps
    for i, (t, following) in enumerate(zip(timesteps, [*timesteps[1:], 0], strict=True)):
        denoised = denoise(x, t)
        if callback:
            callback(i, len(timesteps), x, denoised)
        if clean_end and i == len(timesteps) - 1:
            return denoised
        signal, sigma = schedule.signal_and_noise(t)
        next_signal, next_sigma = schedule.signal_and_noise(following)
        eps = (x - signal * denoised) / sigma
        added = eta * next_sigma / sigma * math.sqrt(1 - (signal / next_signal) ** 2)
        x = next_signal * denoised + math.sqrt(next_sigma**2 - added**2) * eps
        if added and noise:
            x = x + added * noise()
    return x


def lcm(
    denoise: Denoise,
    x: Tensor,
    schedule: Schedule,
    steps: int,
    *,
    noise: Callable[[], Tensor],
    callback: Callback | None = None,
) -> Tensor:
    """A latent consistency model's sampler (arXiv 2310.04378, algorithm 1; VideoLCM, arXiv 2312.09109; diffusers,
    scheduling_lcm.py: step).

    Args:
        denoise: see Denoise; without guidance.
        x: first latent, pure noise.
        schedule: the network's.
        steps: 1..50; as many evaluations.
        noise: draws unit noise of x's shape; once after each step but the last.
        callback: see Callback.
    """
    timesteps = lcm_timesteps(steps)
    for i, t in enumerate(timesteps):
        skip, weight = lcm_scalings(t)
        denoised = weight * denoise(x, t) + skip * x
        if callback:
            callback(i, steps, x, denoised)
        if i == steps - 1:
            return denoised
        x = schedule.add_noise(denoised, noise(), timesteps[i + 1])
    raise AssertionError("one step or more")


def lcm_scalings(t: int) -> tuple[float, float]:
    """c_skip and c_out of the consistency function at timestep t: the shares of the noisy latent and of its estimate."""
    scaled, data = 10 * t, 0.5
    return data**2 / (scaled**2 + data**2), scaled / math.sqrt(scaled**2 + data**2)


def ddim_inversion(
    denoise: Denoise, x: Tensor, schedule: Schedule, steps: int, levels: int, *, callback: Callback | None = None
) -> Tensor:
    """Runs DDIM's equation upwards: a clean scaled latent to level `levels - 1` (VGen, diffusion_gauss.py:
    ddim_reverse_sample_loop).

    Args:
        denoise: see Denoise; without guidance.
        x: clean scaled latent.
        schedule: the inversion's.
        steps: steps over the levels, see inversion_timesteps.
        levels: 1 to 1000.
        callback: see Callback.
    """
    timesteps = inversion_timesteps(steps, levels)
    stride = levels // steps
    for i, t in enumerate(timesteps):
        denoised = denoise(x, t)
        if callback:
            callback(i, len(timesteps), x, denoised)
        signal, sigma = schedule.signal_and_noise(t)
        next_signal, next_sigma = schedule.signal_and_noise(min(t + stride, levels - 1))
        x = next_signal * denoised + next_sigma / sigma * (x - signal * denoised)
    return x


def clean_inversion(
    denoise: Denoise, x: Tensor, schedule: Schedule, timesteps: Sequence[int], *, callback: Callback | None = None
) -> Iterator[tuple[int, Tensor]]:
    """Runs DDIM's equation upwards from zero noise (diffusers' DDIMInverseScheduler with set_alpha_to_one, as AnyV2V's
    run_group_ddim_inversion.py has it): the network reads the latent of the level below, and is told the level that the
    step goes to.

    Args:
        denoise: see Denoise; without guidance.
        x: clean scaled latent.
        schedule: the network's.
        timesteps: rising, a stride apart; the level below the first is zero noise, or level 0 where the stride is 1.
        callback: see Callback.

    Yields:
        Each timestep with the latent at its level.
    """
    stride = timesteps[1] - timesteps[0] if len(timesteps) > 1 else TIMESTEPS
    for i, t in enumerate(timesteps):
        denoised = denoise(x, t)
        if callback:
            callback(i, len(timesteps), x, denoised)
        velocity = schedule.velocity(x, denoised, t)
        signal, sigma = schedule.signal_and_noise(t - stride) if t >= stride else (1.0, 0.0)
        next_signal, next_sigma = schedule.signal_and_noise(t)
        x = next_signal * (signal * x - sigma * velocity) + next_sigma * (sigma * x + signal * velocity)
        yield t, x


def dpmpp_2m_sde(
    denoise: Denoise,
    x: Tensor,
    steps: SolverSteps,
    *,
    eta: float = 1.0,
    noise: StepNoise | None = None,
    callback: Callback | None = None,
) -> Tensor:
    """SDE-DPM-Solver++(2M), midpoint (arXiv 2211.01095; ModelScope, solvers_sdedit.py: sample_dpmpp_2m_sde).

    Args:
        denoise: see Denoise.
        x: scaled latent noised to the first level.
        steps: see refine_steps. From a level without signal the first step is Euler's.
        eta: 0 is the deterministic DPM-Solver++(2M), 1 the release's.
        noise: see StepNoise; used if eta is not 0.
        callback: see Callback.
    """
    sigmas = steps.sigmas.to(x.device)
    if sigmas[0].isfinite():
        x = x * sigmas[0]
    last: tuple[Tensor, Tensor] | None = None
    for i, t in enumerate(steps.timesteps):
        sigma, following = sigmas[i], sigmas[i + 1]
        denoised = denoise(_scale_input(x, sigma) if sigma.isfinite() else x, t)
        if callback:
            callback(i, len(steps.timesteps), x, denoised)
        if following == 0:
            return denoised
        if sigma.isinf():
            x = denoised + following * x
            continue
        h = sigma.log() - following.log()
        weight = -torch.expm1(-(1 + eta) * h)
        x = following / sigma * (-eta * h).exp() * x + weight * denoised
        if last:
            last_denoised, last_h = last
            x = x + 0.5 * weight * h / last_h * (denoised - last_denoised)
        if eta and noise:
            x = x + noise(sigma, following) * following * (-torch.expm1(-2 * eta * h)).sqrt()
        last = denoised, h
    return x


def heun(denoise: Denoise, x: Tensor, steps: SolverSteps, *, callback: Callback | None = None) -> Tensor:
    """Heun's second-order method (arXiv 2206.00364, algorithm 1; ModelScope, solvers_sdedit.py: sample_heun).

    Two evaluations a step but the last. Arguments as in dpmpp_2m_sde.
    """
    sigmas = steps.sigmas.to(x.device)
    x = x * sigmas[0]
    for i, t in enumerate(steps.timesteps):
        sigma, following = sigmas[i], sigmas[i + 1]
        denoised = denoise(_scale_input(x, sigma), t)
        if callback:
            callback(i, len(steps.timesteps), x, denoised)
        if following == 0:
            return denoised
        slope = (x - denoised) / sigma
        guess = x + slope * (following - sigma)
        guess_denoised = denoise(_scale_input(guess, following), steps.timesteps[i + 1])
        x = x + (slope + (guess - guess_denoised) / following) / 2 * (following - sigma)
    return x


def unipc(denoise: Denoise, x: Tensor, steps: SolverSteps, *, callback: Callback | None = None) -> Tensor:
    """UniPC of second order with B2(h) (arXiv 2302.04867), by diffusers' scheduler.

    Arguments as in dpmpp_2m_sde.
    """
    from diffusers.schedulers.scheduling_unipc_multistep import UniPCMultistepScheduler  # seconds to import

    scheduler = UniPCMultistepScheduler(prediction_type="sample", final_sigmas_type="zero")
    scheduler.set_timesteps(len(steps.timesteps))
    scheduler.sigmas = steps.sigmas.cpu()
    scheduler.timesteps = torch.tensor(steps.timesteps)
    for i, t in enumerate(steps.timesteps):
        denoised = denoise(x, t)
        if callback:
            callback(i, len(steps.timesteps), x, denoised)
        x = scheduler.step(denoised, t, x).prev_sample
    return x


def _scale_input(x: Tensor, sigma: Tensor) -> Tensor:
    """A latent with unit signal to the variance-preserving one."""
    return x / (sigma**2 + 1) ** 0.5
