"""What other packs do to a video and its conditions: windows of frames, tiles of places, calls of the network that are changed."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from . import graphs
from .in_process import Host
from .test_stock_nodes import _windows

FRAMES, LENGTH, OVERLAP, STEPS = 6, 4, 2, 2
WINDOWS = [list(range(first, first + LENGTH)) for first in (0, 2)]
KEY = "another pack"
Change = Callable[[Any], None]


def sampled_by_the_host(model: Any, positive: Any, negative: Any, latent: Tensor, denoise: float) -> Tensor:
    import comfy.sample

    noise = comfy.sample.prepare_noise(latent, graphs.SEED)
    return comfy.sample.sample(
        model, noise, STEPS, 7.0, "ddim", "ddim_uniform", positive, negative, latent, denoise=denoise, seed=graphs.SEED
    )


def _cut(conditions: list[dict[str, Any]] | None, x: Tensor, window: list[int]) -> list[dict[str, Any]] | None:
    """A pack's cut of conditions to a window: of whatever has as many rows as the video has frames."""
    if conditions is None:
        return None

    def piece(condition: Any) -> Any:
        rows = getattr(condition, "cond", None)
        fits = isinstance(rows, Tensor) and len(rows) == len(x)
        return condition._copy_with(rows[window]) if fits else condition

    return [
        {**each, "model_conds": {name: piece(value) for name, value in each["model_conds"].items()}}
        for each in conditions
    ]


def in_windows(windows: list[list[int]]) -> Change:
    """A pack's wrapper that evaluates a video window by window, knowing no model."""

    def wrapper(executor: Any, model: Any, conds: Any, x: Tensor, timestep: Tensor, options: Any) -> list[Tensor]:
        made, counts = [torch.zeros_like(x) for _ in conds], [torch.zeros_like(x[:, :1, :1, :1]) for _ in conds]
        for window in windows:
            pieces = [_cut(each, x, window) for each in conds]
            half = LENGTH // 2
            weights = torch.tensor([*range(1, half + 1), *range(half, 0, -1)], dtype=x.dtype).view(-1, 1, 1, 1)
            for i, piece in enumerate(executor(model, pieces, x[window], timestep[window], options)):
                made[i][window] += piece * weights
                counts[i][window] += weights
        return [each / count for each, count in zip(made, counts, strict=True)]

    return lambda model: model.add_wrapper_with_key("calc_cond_batch", KEY, wrapper)


@pytest.fixture(scope="module")
def stock_windows(host: Host) -> Change:
    import comfy.context_windows

    if not hasattr(comfy.context_windows.IndexListCallbacks, "RESIZE_COND_ITEM"):
        pytest.skip("this ComfyUI's context windows cut no conditions of one frame a row")

    def change(model: Any) -> None:
        inputs = _windows(host, LENGTH, OVERLAP)["inputs"] | {"model": model}
        (windowed,) = host.nodes["ContextWindowsManual"].execute(**inputs).args
        model.model_options = windowed.model_options

    return change


def _to_rows(tensor: Tensor, rows: int) -> Tensor:
    """A pack's repeat of conditions to the rows of a batch of tiles."""
    return tensor.repeat(math.ceil(rows / len(tensor)), *[1] * (tensor.ndim - 1))[:rows]


def in_tiles(lefts: list[int], width: int, at_once: int) -> Change:
    """A pack's tiles, side by side: of a condition like the latent those places, of all others rows to the batch."""

    def wrapper(apply_model: Any, arguments: dict[str, Any]) -> Tensor:
        x, timestep, conditions = arguments["input"], arguments["timestep"], arguments["c"]
        made, counts = torch.zeros_like(x), torch.zeros_like(x)

        def of_tiles(condition: Any, batch: list[int]) -> Any:
            if not isinstance(condition, Tensor):
                return condition
            if condition.ndim == x.ndim:
                condition = torch.cat([condition[..., left : left + width] for left in batch])
            return _to_rows(condition, len(batch) * len(x)) if len(condition) != len(batch) * len(x) else condition

        for first in range(0, len(lefts), at_once):
            batch = lefts[first : first + at_once]
            tiles = torch.cat([x[..., left : left + width] for left in batch])
            pieces = {name: of_tiles(condition, batch) for name, condition in conditions.items()}
            outputs = apply_model(tiles, _to_rows(timestep, len(tiles)), **pieces)
            for left, output in zip(batch, outputs.split(len(x)), strict=True):
                made[..., left : left + width] += output
                counts[..., left : left + width] += 1
        return made / counts

    return lambda model: model.set_model_unet_function_wrapper(wrapper)


def calling(change: Callable[[dict[str, Any]], dict[str, Any]]) -> Change:
    """A pack that changes what the network is called with."""

    def wrapper(apply_model: Any, arguments: dict[str, Any]) -> Tensor:
        changed = change({"x": arguments["input"], "t": arguments["timestep"], **arguments["c"]})
        made = apply_model(changed.pop("x"), changed.pop("t"), **changed)
        return made[: len(arguments["input"])]

    return lambda model: model.set_model_unet_function_wrapper(wrapper)


def first(count: int, *names: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """The first rows alone, of those of these names or, without, of all."""
    return lambda given: {
        name: value[:count] if isinstance(value, Tensor) and (name in names or not names) else value
        for name, value in given.items()
    }


def without(*names: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """All but those of these names, as where a pack passes on the conditions that it knows."""
    return lambda given: {name: value for name, value in given.items() if name not in names}
