"""The samplers of the releases, as functions of one denoiser.

They hold the latent as the network sees it, variance-preserving, and call `denoise(x, t)` for its estimate of the clean
latent; guidance, prediction type and progress are the caller's wrappers. They are ours because a library's schedulers
cannot be made exact: the official refiners sample at sigmas between timesteps while the network is told the nearest
one, eta is continuous, and a number of steps that does not divide the schedule still has to start from its noisy end.
Where diffusers' DDIM, DPM-Solver++ and Heun schedulers take the same steps, the tests find the same numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torchsde
from einops import rearrange
from torch import Tensor

from .schedules import Schedule, SolverSteps, base_steps, ddim_timesteps, inversion_timesteps

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
    steps: int,
    *,
    eta: float = 0.0,
    noise: Callable[[], Tensor] | None = None,
    callback: Callback | None = None,
) -> Tensor:
    """DDIM (arXiv 2010.02502) down to the first level, not to zero noise (VGen, diffusion_ddim.py: ddim_sample_loop).

    Args:
        denoise: see Denoise.
        x: first latent, pure noise.
        schedule: the network's.
        steps: 1..999; as many evaluations.
        eta: 0 deterministic, 1 as much noise as DDPM.
        noise: draws unit noise of x's shape; used if eta is not 0.
        callback: see Callback.
    """
    timesteps = ddim_timesteps(steps)
    for i, (t, following) in enumerate(zip(timesteps, [*timesteps[1:], 0], strict=True)):
        denoised = denoise(x, t)
        if callback:
            callback(i, steps, x, denoised)
        signal, sigma = schedule.signal_and_noise(t)
        next_signal, next_sigma = schedule.signal_and_noise(following)
        eps = (x - signal * denoised) / sigma
        added = eta * next_sigma / sigma * math.sqrt(1 - (signal / next_signal) ** 2)
        x = next_signal * denoised + math.sqrt(next_sigma**2 - added**2) * eps
        if added and noise:
            x = x + added * noise()
    return x


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
        steps: see refine_steps.
        eta: 0 is the deterministic DPM-Solver++(2M), 1 the release's.
        noise: see StepNoise; used if eta is not 0.
        callback: see Callback.
    """
    sigmas = steps.sigmas.to(x.device)
    x = x * sigmas[0]
    last: tuple[Tensor, Tensor] | None = None
    for i, t in enumerate(steps.timesteps):
        sigma, following = sigmas[i], sigmas[i + 1]
        denoised = denoise(_scale_input(x, sigma), t)
        if callback:
            callback(i, len(steps.timesteps), x, denoised)
        if following == 0:
            return denoised
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


def generate(
    denoise: Denoise,
    x: Tensor,
    schedule: Schedule,
    steps: int,
    *,
    solver: str = "ddim",
    eta: float = 0.0,
    seed: int = 0,
    callback: Callback | None = None,
) -> Tensor:
    """A base's solver by name, from pure noise, over DDIM's timesteps or schedules.base_steps.

    Args:
        denoise, x, schedule, steps, callback: as in ddim.
        solver: one of schedules.BASE_SOLVERS: `ddim`, the releases'; `dpmpp_2m`, DPM-Solver++(2M) (arXiv 2211.01095);
            `unipc`. The last two need fewer steps, and end in the estimate of the clean latent.
        eta: of DDIM.
        seed: of DDIM's noise.
    """
    if solver == "ddim":
        noise = step_noise(x, seed)
        return ddim(denoise, x, schedule, steps, eta=eta, noise=noise, callback=callback)
    plan = base_steps(schedule, steps)
    if solver == "unipc":
        return unipc(denoise, x, plan, callback=callback)
    noised = x * (1 + 1 / float(plan.sigmas[0]) ** 2) ** 0.5  # so that the network is given x itself at first
    return dpmpp_2m_sde(denoise, noised, plan, eta=0.0, callback=callback)


def refine(
    denoise: Denoise,
    x: Tensor,
    steps: SolverSteps,
    *,
    solver: str,
    eta: float,
    seed: int,
    callback: Callback | None = None,
) -> Tensor:
    """A refiner's solver by name, its noise from a seed.

    Args:
        denoise, x, steps, eta, callback: as in dpmpp_2m_sde.
        solver: `dpmpp_2m_sde` or `heun`; Heun draws no noise.
        seed: of the Brownian path.
    """
    if solver == "heun":
        return heun(denoise, x, steps, callback=callback)
    noise = BrownianNoise(x, steps.sigmas, seed) if eta else None
    return dpmpp_2m_sde(denoise, x, steps, eta=eta, noise=noise, callback=callback)


def _scale_input(x: Tensor, sigma: Tensor) -> Tensor:
    """A latent with unit signal to the variance-preserving one."""
    return x / (sigma**2 + 1) ** 0.5


def initial_noise(shape: tuple[int, ...], seed: int, offset: float = 0.0) -> Tensor:
    """The first noise of a video, the same in the host and without it, on the CPU.

    Args:
        shape: of the latent, [frames, channels, height, width].
        seed: of torch's generator.
        offset: strength of one more noise per frame and channel (MS-Image2Video: 0.1).
    """
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(shape, generator=generator)
    if offset:
        noise = noise + offset * torch.randn(*shape[:2], 1, 1, generator=generator)
    return noise


def step_noise(like: Tensor, seed: int) -> Callable[[], Tensor]:
    """Draws DDIM's noise for eta above 0, of a tensor's shape, from a generator of its own."""
    generator = torch.Generator().manual_seed((seed + 1) % 2**64)  # the first noise is the seed's
    return lambda: torch.randn(like.shape, generator=generator).to(like)


class BrownianNoise:
    """Noise of a stochastic solver from one Brownian path (k-diffusion's way, as the releases have it).

    The path is torchsde's tree over [1, channels, frames, h, w], the references' layout, on the CPU, between the
    smallest and the largest sigma of the run.

    Args:
        x: the latent [frames, channels, h, w].
        sigmas: levels that the solver visits.
        seed: the path's.
    """

    def __init__(self, x: Tensor, sigmas: Tensor, seed: int):
        self._like = x
        origin = torch.zeros_like(rearrange(x, "f c h w -> 1 c f h w"), device="cpu", dtype=torch.float32)
        low, high = sigmas[sigmas > 0].min().cpu(), sigmas.max().cpu()
        if low == high:  # a single step draws nothing, but a tree needs an interval
            high = low * 2
        self._tree = torchsde.BrownianTree(low, origin, high, entropy=seed)

    def __call__(self, sigma: Tensor, following: Tensor) -> Tensor:
        sigma, following = sigma.cpu(), following.cpu()
        ends = (round(float(level), 6) for level in (following, sigma))  # as the tree rounds its own, or it warns
        increment = -self._tree(*ends) / (sigma - following).sqrt()
        return rearrange(increment, "1 c f h w -> f c h w").to(self._like)
