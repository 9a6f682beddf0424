"""The releases' samplers as the host runs them: its guidance, previews, progress and cancel around the core's steps."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import comfy.model_management
import comfy.sample
import comfy.samplers
import torch
from torch import Tensor

from ...i2vgen_core.config import VAE_STEP, UNetConfig
from ...i2vgen_core.errors import InputError
from ...i2vgen_core.memory import check_fits, evaluation_bytes
from ...i2vgen_core.sampling.options import BaseOptions, RefineOptions
from ...i2vgen_core.sampling.schedules import Schedule
from ...i2vgen_core.sampling.solvers import Callback, Denoise, guide
from ...i2vgen_core.sampling.stages import AnimateStage, BaseStage, RefineStage, first_stage
from . import compat
from .acceleration import may_cut
from .inputs import check_conditioning, noise_mask, video_latent
from .models import HINT, network_of
from .notes import latent_notes, size_notes, text_notes
from .preview import prepare_callback

logger = logging.getLogger("i2vgen_xl")


@dataclass(frozen=True)
class Run:
    """What a stage needs of the host for one run.

    Args:
        denoise: the guided network's estimate of the clean latent, see core's Denoise.
        latent: scaled clean latent [frames, 4, h, w].
        noise: the host's noise of the same shape.
        free: where the first step samples, 1, and where the host holds the latent, 0; None without a noise mask.
        callback: core's Callback.
        network: the host's model, in memory.
        transformer_options: that each evaluation of the network is given.
    """

    denoise: Denoise
    latent: Tensor
    noise: Tensor
    free: Tensor | None
    callback: Callback
    network: Any
    transformer_options: dict[str, Any]


Steps = Callable[[Run], Tensor]


class CoreSampler(comfy.samplers.KSAMPLER):
    """Hands the host's guided model to a stage of the core, which holds latents as the network sees them. It is of the
    host's own kind, since other packs stand around that one's `sample`."""

    def __init__(self, steps: Steps):
        super().__init__(self._run)
        self._steps = steps
        self._callback: Any = None

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
        self._callback = callback  # itself: the host's way to it counts steps by the sigmas
        return super().sample(
            model_wrap, sigmas, extra_args, callback, noise, latent_image, denoise_mask, disable_pbar=disable_pbar
        )

    def _run(self, model: Any, x: Tensor, sigmas: Tensor, extra_args: dict[str, Any], **_: Any) -> Tensor:
        """What the host calls with a first latent of its own, which is not used, and the noise and latent on the model."""
        network, own_callback = model.inner_model.inner_model, self._callback
        table = network.model_sampling.sigmas

        def denoise(x: Tensor, t: int) -> Tensor:
            sigma = table[t].to(x)
            return model(x * (sigma**2 + 1) ** 0.5, sigma.expand(len(x)), **extra_args)

        def report(step: int, steps: int, x: Tensor, denoised: Tensor) -> None:
            comfy.model_management.throw_exception_if_processing_interrupted()
            if own_callback is not None:
                own_callback(step, denoised, x, steps)

        latent = torch.zeros_like(model.noise) if model.latent_image is None else model.latent_image
        options = extra_args["model_options"].setdefault("transformer_options", {})
        free, change = extra_args.get("denoise_mask"), extra_args["model_options"].get("denoise_mask_function")
        if free is not None and change is not None:
            free = change(sigmas[:1], free, extra_options={"model": model.inner_model, "sigmas": sigmas})
        return self._steps(Run(denoise, latent, model.noise, free, report, network, options))


def sample_base(
    model: Any, positive: Any, negative: Any, latent: dict[str, Any], options: BaseOptions
) -> dict[str, Any]:
    """Runs a base, or another first stage of the family as it was released: from pure noise, or with `denoise` below 1 from the
    latent. Where a noise mask holds it, the latent stays; otherwise it gives size and frames alone. An animator's holds the
    person's picture too, of which the first noise keeps a share.

    Returns:
        LATENT with unscaled samples [frames, 4, h, w].

    Raises:
        InputError: another model, a setting, a conditioning or a latent that cannot be, or too little memory in this
            machine.
    """
    network = network_of(model)
    if network is None or network.is_refiner:
        remedy = "Wire the Cascade Loader's or the Base Loader's MODEL into it."
        raise InputError("model", "a base, a composer, an animator or text to video", found(network), remedy)
    samples = checked_latent(model, positive, negative, latent)
    sized = replace(options, frames=len(samples))
    stage = first_stage(sized, network.kind, model.model.release, model.model.schedule)
    noise = comfy.sample.prepare_noise(samples, options.seed, latent.get("batch_index"))
    offset = torch.randn(*samples.shape[:2], 1, 1)  # goes on from the generator that prepare_noise has seeded
    start = torch.zeros_like(samples)
    if isinstance(stage, AnimateStage):
        start = samples
        model = (
            compat.in_windows(model, stage.options.window, stage.options.overlap) if len(stage.windows) > 1 else model
        )
    elif stage.settings.offset_noise:
        noise = noise + stage.settings.offset_noise * offset
    mask = noise_mask(latent)
    reads = mask is not None or options.denoise < 1
    if reads:
        start = samples
    if mask is not None and not isinstance(stage, BaseStage):
        remedy = "Take the mask off the latent: this network makes whole videos from noise."
        raise InputError("latent", "no noise mask", "one", remedy)

    def steps(run: Run) -> Tensor:
        if isinstance(stage, AnimateStage):
            x = stage.first_latent(run.latent[:1], run.noise, offset.to(run.noise))
        elif isinstance(stage, BaseStage):
            x = stage.first_latent(run.noise, run.latent, run.free)
            return stage.sample(run.denoise, x, run.callback, holds=run.free is not None)
        else:
            x = run.noise
        return stage.sample(run.denoise, x, run.callback)

    sampled = comfy.sample.sample_custom(
        model,
        noise,
        stage.settings.guidance,
        CoreSampler(steps),
        sigmas_of(model, stage.timesteps),
        positive,
        negative,
        start,
        noise_mask=mask,
        callback=prepare_callback(model, stage.steps, notes_of(model, latent, positive, negative)),
        seed=options.seed,
    )
    return {**latent, "samples": sampled}


def sample_refiner(
    model: Any, positive: Any, negative: Any, latent: dict[str, Any], options: RefineOptions
) -> dict[str, Any]:
    """Runs a refiner on a LATENT of the size to come out; returns one of its shape.

    Raises:
        InputError: as in sample_base.
    """
    network = network_of(model)
    if network is None or not network.is_refiner:
        remedy = "Wire the Refiner Loader's MODEL into it."
        raise InputError("model", "a refiner", found(network), remedy)
    stage = RefineStage(options, model.model.release, model.model.schedule)
    samples = checked_latent(model, positive, negative, latent)
    stage.check_latent(samples)
    preview = prepare_callback(model, stage.steps, notes_of(model, latent, positive, negative))

    def run(
        model: Any, steps: Steps, cfg: float, positive: Any, timesteps: list[int], mask: Tensor | None = None
    ) -> Tensor:
        noise = comfy.sample.prepare_noise(samples, stage.noise_seed, latent.get("batch_index"))
        return comfy.sample.sample_custom(
            model,
            noise,
            cfg,
            CoreSampler(steps),
            sigmas_of(model, timesteps),
            positive,
            negative,
            samples,
            noise_mask=mask,
            callback=preview,
            seed=options.seed,
        )

    mask, start = noise_mask(latent), None
    if stage.inverts:
        falling = stage.inversion_timesteps[::-1]
        inverted = run(model, lambda run: stage.invert(run.denoise, run.latent, run.callback), 1.0, negative, falling)
        start = model.model.process_latent_in(inverted)

    def steps(run: Run) -> Tensor:
        x = stage.add_noise(run.latent, run.noise) if start is None else start.to(run.latent)
        return stage.sample(run.denoise, x, run.callback)

    guided = with_rescale(model, stage.schedule, stage.settings.rescale)
    sampled = run(guided, steps, stage.settings.guidance, positive, stage.timesteps, mask)
    return {**latent, "samples": sampled}


def found(network: UNetConfig | None) -> str:
    if network is None:
        return "another model"
    return f"a {'refiner' if network.is_refiner else 'base'} ({network.kind})"


def notes_of(model: Any, latent: dict[str, Any], positive: Any, negative: Any) -> list[str]:
    """What is to be said of a run before its first step."""
    release, (height, width) = model.model.release, latent["samples"].shape[-2:]
    is_refiner = model.model.network.is_refiner
    notes = (
        size_notes(release, VAE_STEP * width, VAE_STEP * height) if is_refiner else []
    )  # Global Encode spoke of a base's
    notes += latent_notes(latent)
    return notes + text_notes(
        release.title, release.prompt_suffix if is_refiner else "", positive=positive, negative=negative
    )


def checked_latent(model: Any, positive: Any, negative: Any, latent: Any) -> Tensor:
    """The latent's tensor [frames, 4, h, w], where all that is sampled from can be, and its video fits into memory."""
    check_conditioning("positive", positive)
    check_conditioning("negative", negative)
    samples = video_latent(latent)
    options, network = model.model_options, model.model
    windows = options.get("context_handler")
    frames, _, height, width = samples.shape
    at_once = min(frames, getattr(windows, "context_length", frames))
    if network.network.control is not None:  # its windows are the network's own, see HostUNet
        hint = positive[0][1].get(HINT)
        at_once = at_once if hint is None else max(map(len, hint.windows(at_once)))
    network.check_sampling(model.get_model_object("model_sampling"))
    known = windows is None or hasattr(windows, "context_length")
    if known and not may_cut(model):
        dtype = network.manual_cast_dtype or network.get_dtype()
        needed = evaluation_bytes(network.network, at_once, height, width, dtype.itemsize)
        there = comfy.model_management.get_total_memory(model.load_device)
        check_fits(at_once, VAE_STEP * height, VAE_STEP * width, needed, there)
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


def sigmas_of(model: Any, timesteps: list[int]) -> Tensor:
    """What the host is told of a run, for conditions that begin or end in it: the timesteps' sigmas, then 0."""
    table = model.get_model_object("model_sampling").sigmas.cpu()
    return torch.cat([table[timesteps], torch.zeros(1)])
