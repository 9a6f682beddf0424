"""Faster runs of a MODEL: the host's wrappers around sampling, which the stock samplers run too."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from typing import Any

from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ...i2vgen_core.network.acceleration import Acceleration, DeepFeatures, Reuse
from ...i2vgen_core.network.hooks import BlockHooks
from .geometry import Piece

_KEY = "i2vgen_xl_acceleration"
"""Of the wrappers, and of a run's features in its `transformer_options`."""


def accelerate(model: Any, acceleration: Acceleration) -> Any:
    """A clone of a MODEL that leaves out what `acceleration` says, in place of what it may have left out before. Raises
    InputError for settings out of their ranges."""
    acceleration.check()
    model = model.clone()
    for kind in (WrappersMP.SAMPLER_SAMPLE, WrappersMP.PREDICT_NOISE, WrappersMP.CALC_COND_BATCH):
        model.remove_wrappers_with_key(kind, _KEY)
    if acceleration.reuse_interval > 1:
        model.add_wrapper_with_key(WrappersMP.SAMPLER_SAMPLE, _KEY, _reuse(acceleration.reuse_interval))
        model.add_wrapper_with_key(WrappersMP.PREDICT_NOISE, _KEY, _ask)
    if acceleration.guidance_start > 0 or acceleration.guidance_end < 1:
        model.add_wrapper_with_key(WrappersMP.CALC_COND_BATCH, _KEY, _guide_within(acceleration))
    return model


def may_cut(model: Any) -> bool:
    """Whether another node stands around a MODEL's evaluations, which may cut the video into windows or tiles."""
    around = [model.wrappers, model.model_options.get("transformer_options", {}).get("wrappers", {})]
    keys = {key for wrappers in around for key in wrappers.get(WrappersMP.CALC_COND_BATCH, {})}
    return "model_function_wrapper" in model.model_options or bool(keys - {_KEY})


def reuse_in(transformer_options: dict[str, Any], x: Tensor, pieces: Sequence[Piece]) -> BlockHooks:
    """Whether an evaluation of x [(b f), 4, h, w] uses the features of its run again, or makes them.

    Features belong to what they were made of: to the conditions, frames and places of the evaluation's clips, and to its
    number among those of the same in one step. What was cut at places that nobody knows has none, nor what is evaluated with
    patches of its own, as perturbed attention guidance and hooks on conditions do. Nor has anything of their run from then on:
    guidance by the difference from them would take what reuse is off by for what they differ in.
    """
    run: _Run | None = transformer_options.get(_KEY)
    if run is None:
        return BlockHooks()
    run.ends = run.ends or run.patches != _patches(transformer_options) or any(each.places is None for each in pieces)
    if run.ends:
        return BlockHooks()
    run.step_at(float(transformer_options["sigmas"][0]))
    return Reuse(run.features, run.numbered((x.shape, x.device, *pieces)))


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
        self.ends = False
        self._step: tuple[int, float] | None = None
        self._asked = 0
        self._seen: Counter[Hashable] = Counter()

    def asked(self) -> None:
        """Says that the sampler asks for an estimate, for which the network may be evaluated any number of times."""
        self._asked += 1

    def step_at(self, sigma: float) -> None:
        """Says which level is evaluated; another one than the last, or asked for anew, is another step."""
        step = self._asked, sigma
        if step != self._step:
            self._step = step
            self._seen.clear()
            self.features.step()

    def numbered(self, key: Hashable) -> Hashable:
        """The key with its number among the same in this step."""
        self._seen[key] += 1
        return key, self._seen[key]


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


def _ask(executor: Any, x: Tensor, timestep: Tensor, model_options: dict[str, Any], *others: Any, **more: Any) -> Any:
    run: _Run | None = model_options["transformer_options"].get(_KEY)
    if run is not None:
        run.asked()
    return executor(x, timestep, model_options, *others, **more)


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
