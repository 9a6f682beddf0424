"""The releases' samplers as the host runs them: its guidance, previews, progress and cancel around the core's steps."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import comfy.model_management
import comfy.sample
import comfy.samplers
import torch
from torch import Tensor

from ...i2vgen_core.memory import check_fits, evaluation_bytes
from ...i2vgen_core.sampling import solvers as sampling
from ...i2vgen_core.sampling.options import BaseOptions, RefineOptions
from ...i2vgen_core.sampling.schedules import (
    Schedule,
    SolverSteps,
    base_timesteps,
    cosine,
    inversion_timesteps,
    refine_steps,
)
from ...i2vgen_core.sampling.solvers import Denoise, guide
from .inputs import check_conditioning, check_finite, noise_mask, video_latent
from .preview import prepare_callback

logger = logging.getLogger("i2vgen_xl")

_SCALE = 8  # pixels of a latent's place
_NOT_FINITE = "Use a lower guidance scale, or weight_dtype fp32 or bf16 where it is fp16."


@dataclass(frozen=True)
class Run:
    """What a sampler needs of the host for one run.

    Args:
        denoise: the guided network's estimate of the clean latent, see core's Denoise.
        velocity: the guided network's velocity.
        latent: scaled clean latent [frames, 4, h, w].
        noise: the host's noise of the same shape.
        callback: core's Callback.
    """

    denoise: Denoise
    velocity: Denoise
    latent: Tensor
    noise: Tensor
    callback: sampling.Callback


Steps = Callable[[Run], Tensor]


class CoreSampler(comfy.samplers.Sampler):
    """Hands the host's guided model to a sampler of the core, which holds latents as the network sees them."""

    def __init__(self, steps: Steps):
        self._steps = steps

    def sample(
        self,
        model_wrap: Any,
        sigmas: Tensor,
        extra_args: dict[str, Any],
        callback: Any,
        noise: Tensor,
        latent_image: Tensor | None = None,
        denoise_mask: Tensor | None = None,
        disable_pbar: bool = False,
    ) -> Tensor:
        schedule: Schedule = model_wrap.inner_model.schedule
        table = model_wrap.inner_model.model_sampling.sigmas
        model = comfy.samplers.KSamplerX0Inpaint(model_wrap, sigmas)
        model.latent_image, model.noise = latent_image, noise
        extra_args["denoise_mask"] = denoise_mask

        def denoise(x: Tensor, t: int) -> Tensor:
            sigma = table[t].to(x)
            return model(x * (sigma**2 + 1) ** 0.5, sigma.expand(len(x)), **extra_args)

        def velocity(x: Tensor, t: int) -> Tensor:
            signal, sigma = schedule.signal_and_noise(t)
            return (signal * x - denoise(x, t)) / sigma

        def report(step: int, steps: int, x: Tensor, denoised: Tensor) -> None:
            comfy.model_management.throw_exception_if_processing_interrupted()
            if callback is not None:
                callback(step, denoised, x, steps)

        latent = torch.zeros_like(noise) if latent_image is None else latent_image
        return self._steps(Run(denoise, velocity, latent, noise, report))


def generate(steps: int, solver: str, eta: float, schedule: Schedule, seed: int) -> Steps:
    """The bases' samplers."""

    def run(host: Run) -> Tensor:
        settings = {"solver": solver, "eta": eta, "seed": seed}
        return sampling.generate(host.denoise, host.noise, schedule, steps, **settings, callback=host.callback)

    return run


def add_noise_and_refine(
    plan: SolverSteps, schedule: Schedule, level: int, solver: str, eta: float, seed: int
) -> Steps:
    """The refiners' samplers, entered by adding noise."""
    return lambda host: _solve(host, schedule.add_noise(host.latent, host.noise, level - 1), plan, solver, eta, seed)


def refine_inverted(inverted: Tensor, plan: SolverSteps, solver: str, eta: float, seed: int) -> Steps:
    """The refiners' samplers from the scaled latent that the video was inverted to."""
    return lambda host: _solve(host, inverted.to(host.latent), plan, solver, eta, seed)


def invert(steps: int, levels: int) -> Steps:
    """SR600's way in: DDIM inversion on its own schedule."""
    schedule = cosine()

    def run(host: Run) -> Tensor:
        def denoise(x: Tensor, t: int) -> Tensor:
            return schedule.denoised(x, host.velocity(x, t), t)

        return sampling.ddim_inversion(denoise, host.latent, schedule, steps, levels, callback=host.callback)

    return run


def _solve(host: Run, x: Tensor, plan: SolverSteps, solver: str, eta: float, seed: int) -> Tensor:
    return sampling.refine(host.denoise, x, plan, solver=solver, eta=eta, seed=seed, callback=host.callback)


@dataclass(frozen=True)
class BaseSettings:
    """Settings of a base run; 0 takes the release's."""

    seed: int
    steps: int = 0
    cfg: float = 0.0
    eta: float = 0.0
    solver: str = "ddim"


@dataclass(frozen=True)
class RefineSettings:
    """Settings of a refinement; 0, -1 for rescale and "auto" for entry take the release's."""

    seed: int
    steps: int = 0
    cfg: float = 0.0
    rescale: float = -1.0
    noise_level: int = 0
    solver: str = "dpmpp_2m_sde"
    entry: str = "auto"
    eta: float = 1.0


def sample_base(model: Any, positive: Any, negative: Any, latent: dict[str, Any], settings: BaseSettings) -> Tensor:
    """Runs a base from pure noise. The latent gives size and frames alone.

    Returns:
        Unscaled latent [frames, 4, h, w].

    Raises:
        InputError: a setting, a conditioning or a latent that cannot be, or too little memory in this machine.
    """
    given = settings.steps or None, settings.cfg or None
    BaseOptions(steps=given[0], guidance=given[1], eta=settings.eta, seed=settings.seed, solver=settings.solver).check()
    release, schedule = model.model.release, model.model.schedule
    steps = settings.steps or release.steps_for(settings.solver)
    samples = _checked_latent(model, positive, negative, latent)
    noise = comfy.sample.prepare_noise(samples, settings.seed, latent.get("batch_index"))
    if release.offset_noise:
        offset = torch.randn(*samples.shape[:2], 1, 1)  # goes on from the generator that prepare_noise has seeded
        noise = noise + release.offset_noise * offset
    sampler = CoreSampler(generate(steps, settings.solver, settings.eta, schedule, settings.seed))
    sigmas = _sigmas(model, base_timesteps(schedule, steps, settings.solver))
    callback = prepare_callback(model, steps)
    sampled = comfy.sample.sample_custom(
        model,
        noise,
        settings.cfg or release.guidance,
        sampler,
        sigmas,
        positive,
        negative,
        torch.zeros_like(samples),
        callback=callback,
        seed=settings.seed,
    )
    check_finite("the sampled latent", sampled, _NOT_FINITE)
    return sampled


def sample_refiner(
    model: Any, positive: Any, negative: Any, latent: dict[str, Any], settings: RefineSettings
) -> Tensor:
    """Runs a refiner on an unscaled latent [frames, 4, h, w] of the size to come out; returns one of its shape.

    Raises:
        InputError: as in sample_base.
    """
    RefineOptions(
        steps=settings.steps or None,
        guidance=settings.cfg or None,
        rescale=None if settings.rescale < 0 else settings.rescale,
        noise_level=settings.noise_level or None,
        solver=settings.solver,
        entry=None if settings.entry == "auto" else settings.entry,
        eta=settings.eta,
        seed=settings.seed,
    ).check()
    release, schedule = model.model.release, model.model.schedule
    steps = settings.steps or release.steps_for(settings.solver)
    level = settings.noise_level or release.noise_level
    rescale = release.rescale if settings.rescale < 0 else settings.rescale
    inverts = (release.entry if settings.entry == "auto" else settings.entry) == "inversion"
    samples, seed = _checked_latent(model, positive, negative, latent), settings.seed
    check_finite("latent", samples, "Look at the block that it comes from: something failed there.")
    mask = noise_mask(latent)
    plan = refine_steps(schedule, steps, level, settings.solver)

    visited = inversion_timesteps(min(steps, level), level) if inverts else []
    total = len(visited) + steps
    preview = prepare_callback(model, total)

    def callback_from(first: int) -> Any:
        return lambda step, denoised, x, _: preview(first + step, denoised, x, total)

    def run(
        model: Any, steps: Steps, cfg: float, positive: Any, timesteps: list[int], first: int, mask: Tensor | None
    ) -> Tensor:
        noise = comfy.sample.prepare_noise(samples, seed, latent.get("batch_index"))
        return comfy.sample.sample_custom(
            model,
            noise,
            cfg,
            CoreSampler(steps),
            _sigmas(model, timesteps),
            positive,
            negative,
            samples,
            noise_mask=mask,
            callback=callback_from(first),
            seed=seed,
        )

    solver, eta = settings.solver, settings.eta
    if inverts:
        inverted = run(model, invert(min(steps, level), level), 1.0, negative, visited[::-1], 0, None)
        entered = refine_inverted(model.model.process_latent_in(inverted), plan, solver, eta, seed)
    else:
        entered = add_noise_and_refine(plan, schedule, level, solver, eta, seed)
    guided = with_rescale(model, schedule, rescale)
    guidance = settings.cfg or release.guidance
    sampled = run(guided, entered, guidance, positive, plan.timesteps, len(visited), mask)
    check_finite("the sampled latent", sampled, _NOT_FINITE)
    return sampled


def _checked_latent(model: Any, positive: Any, negative: Any, latent: Any) -> Tensor:
    """The latent's tensor [frames, 4, h, w], where all that is sampled from can be, and its video fits into memory."""
    check_conditioning("positive", positive)
    check_conditioning("negative", negative)
    samples = video_latent(latent)
    options, network = model.model_options, model.model
    windows = options.get("context_handler")
    frames, _, height, width = samples.shape
    at_once = min(frames, getattr(windows, "context_length", frames))
    if "model_function_wrapper" not in options:  # another node's, which may cut a frame into tiles
        dtype = network.manual_cast_dtype or network.get_dtype()
        needed = evaluation_bytes(network.network, at_once, height, width, dtype.itemsize)
        there = comfy.model_management.get_total_memory(model.load_device)
        check_fits(at_once, _SCALE * height, _SCALE * width, needed, there)
    return samples


def with_rescale(model: Any, schedule: Schedule, rescale: float) -> Any:
    """The model with guidance rescaled over the whole video, on velocities, as the official refiners do.

    A guidance function that another node has put on the model is kept instead.
    """
    if not rescale:
        return model
    if "sampler_cfg_function" in model.model_options:
        logger.info("guidance rescale is left to the guidance function that the model already has")
        return model

    def guided(args: dict[str, Any]) -> Tensor:
        sigma = args["sigma"].reshape(-1, 1, 1, 1)
        x = args["input"]
        signal = 1 / (sigma**2 + 1) ** 0.5
        noise = sigma * signal

        def velocity(denoised: Tensor) -> Tensor:
            return (signal**2 * x - denoised) / noise

        cond, uncond = velocity(args["cond_denoised"]), velocity(args["uncond_denoised"])
        return x - (signal**2 * x - noise * guide(cond, uncond, args["cond_scale"], rescale))

    model = model.clone()
    model.set_model_sampler_cfg_function(guided)
    return model


def _sigmas(model: Any, timesteps: list[int]) -> Tensor:
    """What the host is told of a run, for conditions that begin or end in it: the timesteps' sigmas, then 0."""
    table = model.get_model_object("model_sampling").sigmas.cpu()
    return torch.cat([table[timesteps], torch.zeros(1)])
