"""Faster runs of a MODEL: the host's wrappers around sampling, which the stock samplers run too."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ...i2vgen_core.network.acceleration import Acceleration, DeepFeatures, Reuse
from ...i2vgen_core.network.hooks import BlockHooks

_KEY = "i2vgen_xl_acceleration"
"""Of the wrappers, and of a run's features in its `transformer_options`."""


def accelerate(model: Any, acceleration: Acceleration) -> Any:
    """A clone of a MODEL that leaves out what `acceleration` says, in place of what it may have left out before. Raises
    InputError for settings out of their ranges."""
    acceleration.check()
    model = model.clone()
    for kind in (WrappersMP.SAMPLER_SAMPLE, WrappersMP.CALC_COND_BATCH):
        model.remove_wrappers_with_key(kind, _KEY)
    if acceleration.reuse_interval > 1:
        model.add_wrapper_with_key(WrappersMP.SAMPLER_SAMPLE, _KEY, _reuse(acceleration.reuse_interval))
    if acceleration.guidance_start > 0 or acceleration.guidance_end < 1:
        model.add_wrapper_with_key(WrappersMP.CALC_COND_BATCH, _KEY, _guide_within(acceleration))
    return model


def reuse_in(transformer_options: dict[str, Any], x: Tensor) -> BlockHooks:
    """Whether an evaluation of x [(b f), 4, h, w] uses the features of its run again, or makes them.

    A condition, the guided halves apart or together, and a context window have features of their own. What another node
    evaluates beside them with patches of its own, as perturbed attention guidance does, has none.
    """
    run: _Run | None = transformer_options.get(_KEY)
    if run is None or run.patches != _patches(transformer_options):
        return BlockHooks()
    run.step_at(float(transformer_options["sigmas"][0]))
    window = transformer_options.get("context_window")
    frames = None if window is None else tuple(window.index_list)
    conditions = zip(transformer_options["cond_or_uncond"], transformer_options["uuids"], strict=True)
    return Reuse(run.features, (x.shape, x.device, frames, *conditions))


def of_half(transformer_options: dict[str, Any], number: int) -> dict[str, Any]:
    """The options of one condition of those that are evaluated together, as the host has them for it alone."""
    names = [name for name in ("cond_or_uncond", "uuids") if name in transformer_options]
    return {**transformer_options, **{name: [transformer_options[name][number]] for name in names}}


class _Run:
    """What one sampling run keeps.

    Args:
        interval: see core's Acceleration.
        transformer_options: of the run's MODEL.
    """

    def __init__(self, interval: int, transformer_options: dict[str, Any]):
        self.features = DeepFeatures(interval)
        self.patches = _patches(transformer_options)
        self._sigma: float | None = None

    def step_at(self, sigma: float) -> None:
        """Says which level is evaluated; another one than the last is another step."""
        if sigma != self._sigma:
            self._sigma = sigma
            self.features.step()


def _patches(transformer_options: dict[str, Any]) -> tuple[dict[str, Any], ...]:
    return tuple(dict(transformer_options.get(name, {})) for name in ("patches", "patches_replace"))


def _reuse(interval: int) -> Callable[..., Any]:
    def sample(
        executor: Any, guider: Any, sigmas: Tensor, extra_args: dict[str, Any], *others: Any, **more: Any
    ) -> Any:
        options = extra_args["model_options"]["transformer_options"]
        run = options[_KEY] = _Run(interval, options)
        try:
            return executor(guider, sigmas, extra_args, *others, **more)
        finally:
            del options[_KEY]
            run.features.clear()

    return sample


def _guide_within(acceleration: Acceleration) -> Callable[..., Any]:
    """Where guidance has no part, the positive's estimate stands for the negative's too: whatever is made of the two, by
    the host or by a node's guidance function, is then the positive's."""

    def evaluate(executor: Any, model: Any, conds: list[Any], x: Tensor, sigma: Tensor, options: dict[str, Any]) -> Any:
        guided = len(conds) == 2 and conds[0] is not None and conds[1] is not None
        if not guided or _is_within(acceleration, model.model_sampling, float(sigma[0])):
            return executor(model, conds, x, sigma, options)
        positive, _ = executor(model, [conds[0], None], x, sigma, options)
        return [positive, positive]

    return evaluate


def _is_within(acceleration: Acceleration, model_sampling: Any, sigma: float) -> bool:
    """As the host has it for conditions that begin or end in a run."""
    first, last = acceleration.guidance_start, acceleration.guidance_end
    return model_sampling.percent_to_sigma(last) <= sigma <= model_sampling.percent_to_sigma(first)
