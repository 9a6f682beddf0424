"""A video edited by its first frame, as the host runs it: up to noise and down again, the first part kept for other edits."""

from __future__ import annotations

import hashlib
import uuid
import weakref
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import fields, is_dataclass
from typing import Any

import comfy.sample
import torch
from torch import Tensor

from ...i2vgen_core.errors import InputError, check_finite
from ...i2vgen_core.network.evaluation import Prepared
from ...i2vgen_core.sampling.editing import EditStage, Inverted, check_alike
from ...i2vgen_core.sampling.options import EditOptions
from .control import CONTROL
from .inputs import check_conditioning
from .models import CONDITION, VideoCondition, detailed_base
from .network import SOURCE, Source, unpacked
from .preview import Preview, prepare_callback
from .sampling import CoreSampler, Run, checked_latent, notes_of, sigmas_of

_MOST = 2
"""Inversions that are kept."""

_kept: OrderedDict[Hashable, tuple[weakref.ref[Any], Inverted]] = OrderedDict()


def edit(
    model: Any, source_positive: Any, positive: Any, negative: Any, source_latent: dict[str, Any], options: EditOptions
) -> dict[str, Any]:
    """Inverts a source and edits it; the inversion is taken from an earlier edit with the same inputs, where there was one.

    Args:
        model: a MODEL of an I2VGen-XL base.
        source_positive: CONDITIONING of the source's own first frame.
        positive, negative: CONDITIONING of the edited first frame.
        source_latent: LATENT of the source's frames.
        options: sizes, frames and frame rate are not read.

    Returns:
        LATENT with unscaled samples [frames, 4, h, w].

    Raises:
        InputError: another model, a setting, a conditioning or a latent that cannot be, or too little memory in this
            machine.
    """
    detailed_base(model)
    stage = EditStage(options, model.model.release, model.model.schedule)
    samples = checked_latent(model, positive, negative, source_latent)
    check_finite("the source's latent", samples, "Look at the video, and at the VAE.")
    check_conditioning("source_positive", source_positive)
    for conditioning in (source_positive, positive, negative):
        _check_size(conditioning, samples)
    _check_patches(model, any(map(stage.injection_at, stage.timesteps)))

    key = _key(model, source_positive, samples, stage)
    inverted = _recall(key, model)
    done = 0 if inverted is None else len(stage.inversion_timesteps)
    notes = notes_of(model, source_latent, positive, negative)
    notes += ["the source's inversion is that of an earlier edit"] if done else []
    preview = prepare_callback(model, stage.steps - done, notes)
    if inverted is None:
        inverted = _invert(model, source_positive, samples, stage, preview)
        _keep(key, model, inverted)
    sampled = _edit(model, source_positive, (positive, negative), samples, stage, inverted, preview, done)
    return {**source_latent, "samples": sampled}


def _invert(model: Any, positive: Any, samples: Tensor, stage: EditStage, preview: Preview) -> Inverted:
    inverted: dict[int, Tensor] = {}

    def steps(run: Run) -> Tensor:
        latents = stage.invert(run.denoise, run.latent, run.callback)
        inverted.update({t: latent.cpu() for t, latent in latents.items()})
        return run.latent

    falling = stage.inversion_timesteps[::-1]
    _run(model, steps, 1.0, falling, (positive, positive), samples, stage, preview)
    return inverted


def _edit(
    model: Any,
    source_positive: Any,
    conditionings: tuple[Any, Any],
    samples: Tensor,
    stage: EditStage,
    inverted: Inverted,
    preview: Preview,
    done: int,
) -> Tensor:
    """The second part; `done` steps of both parts were not run."""

    def steps(run: Run) -> Tensor:
        prepared, details = _source_row(run, source_positive)

        def denoise(x: Tensor, t: int) -> Tensor:
            if injection := stage.injection_at(t):
                run.transformer_options[SOURCE] = Source(inverted[t].to(x.device), prepared, details, injection)
            else:
                run.transformer_options.pop(SOURCE, None)
            return run.denoise(x, t)

        def tell(step: int, steps: int, x: Tensor, denoised: Tensor) -> None:
            run.callback(step - done, steps - done, x, denoised)

        first = stage.first_latent({t: latent.to(run.latent) for t, latent in inverted.items()}, run.noise)
        try:
            return stage.sample(denoise, first, tell)
        finally:
            run.transformer_options.pop(SOURCE, None)

    guidance = stage.settings.guidance
    return _run(model, steps, guidance, stage.timesteps, conditionings, samples, stage, preview)


def _run(
    model: Any,
    steps: Any,
    guidance: float,
    timesteps: list[int],
    conditionings: tuple[Any, Any],
    samples: Tensor,
    stage: EditStage,
    preview: Preview,
) -> Tensor:
    seed = stage.options.seed
    return comfy.sample.sample_custom(
        model,
        comfy.sample.prepare_noise(samples, seed),
        guidance,
        CoreSampler(steps),
        sigmas_of(model, timesteps),
        *conditionings,
        samples,
        callback=preview,
        seed=seed,
    )


def _source_row(run: Run, conditioning: Any) -> tuple[Prepared, Any]:
    """What the network reads of the source, and its details."""
    text, extra = conditioning[0]
    device = run.latent.device
    given = {**extra, "cross_attn": None if text is None else text.to(device), "noise": run.latent, "device": device}
    conds, unet = run.network.extra_conds(**given), run.network.diffusion_model
    context, fps = conds["c_crossattn"].cond, conds["fps"].cond
    if "prepared" not in conds:
        return unet.prepare(context, fps), conds["details"]
    prepared = unpacked(conds["prepared"].cond, context, conds["fps_embedding"].cond, unet.channels)
    assert isinstance(prepared, Prepared)
    return prepared, conds["details"]


def _check_size(conditioning: Any, samples: Tensor) -> None:
    """Raises InputError where a conditioning was made for other frames or another size than the source's; what else may be
    wrong with it the model says."""
    for _, extra in conditioning:
        condition: VideoCondition | None = extra.get(CONDITION)
        if condition is not None and condition.image_latent is not None:
            check_alike(samples.shape, (condition.frames, *condition.image_latent.shape[1:]))


def _check_patches(model: Any, takes_over: bool) -> None:
    options = model.model_options.get("transformer_options", {})
    if CONTROL in options:
        remedy = "Wire the loader's MODEL into it."
        raise InputError("model", "one without a Ctrl-Adapter, since the source steers the edit", "one", remedy)
    if takes_over and any(options.get(name) for name in ("patches", "patches_replace")):
        remedy = "Take out the node that patches it, such as FreeU, or set the three fractions to 0."
        raise InputError("model", "one without patches of its blocks, where features are taken over", "one", remedy)


def _recall(key: Hashable, model: Any) -> Inverted | None:
    owner, inverted = _kept.get(key, (None, None))
    if owner is None or owner() is not model:
        return None
    _kept.move_to_end(key)
    return inverted


def _keep(key: Hashable, model: Any, inverted: Inverted) -> None:
    for gone in [other for other, (owner, _) in _kept.items() if owner() is None]:
        del _kept[gone]
    _kept[key] = weakref.ref(model), inverted
    _kept.move_to_end(key)
    while len(_kept) > _MOST:
        _kept.popitem(last=False)


def _key(model: Any, positive: Any, samples: Tensor, stage: EditStage) -> Hashable:
    """Of all that an inversion is made of."""
    digest = hashlib.blake2b(digest_size=16)
    _add(digest, [positive, samples])
    return (
        digest.digest(),
        model.patches_uuid,
        tuple(stage.inversion_timesteps),
        tuple(stage.kept_timesteps),
    )


def _add(digest: Any, value: Any) -> None:
    """Adds a value by its content; what has none that is known, such as a hook, is never the same again."""
    digest.update(type(value).__name__.encode())
    if isinstance(value, Tensor):
        digest.update(f"{value.dtype} {list(value.shape)}".encode())
        digest.update(value.detach().cpu().flatten().view(torch.uint8).numpy().tobytes())
    elif isinstance(value, (str, int, float, bool, type(None))):
        digest.update(repr(value).encode())
    elif isinstance(value, dict):
        for name, each in value.items():
            _add(digest, [str(name), each])
    elif isinstance(value, (list, tuple)):
        digest.update(str(len(value)).encode())
        for each in value:
            _add(digest, each)
    elif is_dataclass(value):
        _add(digest, {field.name: getattr(value, field.name) for field in fields(value)})
    elif hasattr(value, "image_embeds"):
        _add(digest, value.image_embeds)
    else:
        digest.update(uuid.uuid4().bytes)
