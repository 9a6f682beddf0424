"""The network as ComfyUI's samplers call it."""

from __future__ import annotations

import logging
from typing import Any

import comfy.model_management
import torch
from comfy.patcher_extension import WrapperExecutor, WrappersMP, get_all_wrappers
from torch import Tensor

from ...i2vgen_core.config import UNetConfig
from ...i2vgen_core.errors import InputError
from ...i2vgen_core.network.image_conditioning import Prepared
from ...i2vgen_core.network.unet import UNet
from . import compat
from .acceleration import of_half, reuse_in
from .patches import StockPatches

logger = logging.getLogger("i2vgen_xl")


class HostUNet(UNet):
    """The network as the host calls it: frames as the batch, one or more videos behind each other."""

    def __init__(self, config: UNetConfig, *, model_channels: int, dtype: Any, device: Any, operations: Any):
        super().__init__(config, operations=operations, dtype=dtype, device=device)
        self.dtype = dtype

    def forward(  # type: ignore[override]  # the host calls it with arguments of its own
        self,
        x: Tensor,
        timesteps: Tensor,
        context: Tensor,
        control: Any = None,
        transformer_options: dict[str, Any] | None = None,
        details: Tensor | None = None,
        fps: Tensor | None = None,
        prepared: Tensor | None = None,
        fps_embedding: Tensor | None = None,
        **_: Any,
    ) -> Tensor:
        """x [(b f), 4, h, w] and timesteps [(b f)]; context [b, n, d] and fps [b] are there once a video, and so is what
        `prepare` made of them, unless weights change during the run.

        Raises:
            InputError: there is a ControlNet; none was trained for these networks.
        """
        options = {} if transformer_options is None else transformer_options
        wrappers = get_all_wrappers(WrappersMP.DIFFUSION_MODEL, options)
        run = WrapperExecutor.new_class_executor(self._evaluate, self, wrappers)
        return run.execute(
            x,
            timesteps,
            context,
            control,
            options,
            details=details,
            fps=fps,
            prepared=prepared,
            fps_embedding=fps_embedding,
        )

    def _evaluate(
        self,
        x: Tensor,
        timesteps: Tensor,
        context: Tensor,
        control: Any,
        transformer_options: dict[str, Any],
        details: Tensor | None,
        fps: Tensor | None,
        prepared: Tensor | None,
        fps_embedding: Tensor | None,
    ) -> Tensor:
        if control is not None:
            remedy = "Take the Apply ControlNet block out of the conditioning."
            raise InputError("conditioning", "no ControlNet, since none was trained for these networks", "one", remedy)
        inputs = (x, timesteps, context, details, fps, prepared, fps_embedding)
        frames, hooks = len(x) // len(context), StockPatches(transformer_options, reuse_in(transformer_options, x))
        timesteps = timesteps[::frames]
        known = _unpacked(prepared, context, fps_embedding)
        if len(context) == 2 and hooks.changes_nothing and _halves_are_alike(x, timesteps, details, fps):
            x, timesteps, details = x[:frames], timesteps[:1], None if details is None else details[:frames]
        try:
            return super().forward(x, timesteps, known, frames, fps, details, hooks)
        except Exception as error:
            if len(context) == 1 or not hooks.changes_nothing or not compat.is_out_of_memory(error):
                raise
        # Out of the handler, whose exception holds what the evaluation had made.
        logger.warning("memory ran out with both guided halves at once: they go one after the other")
        comfy.model_management.soft_empty_cache()
        count, options = len(context), transformer_options
        halves = zip(*([None] * count if each is None else each.chunk(count) for each in inputs), strict=True)
        return torch.cat(
            [self._evaluate(x, t, c, None, of_half(options, i), *rest) for i, (x, t, c, *rest) in enumerate(halves)]
        )


def packed(prepared: Prepared) -> Tensor:
    """A context and its keys and values as one condition of the host's."""
    return torch.cat([prepared.context, prepared.keys_values], dim=-1)


def _unpacked(condition: Tensor | None, context: Tensor, fps_embedding: Tensor | None) -> Prepared | Tensor:
    """What was prepared of a context; the context where there is none, or where a node has changed it since."""
    width = context.shape[-1]
    if condition is None or not torch.equal(condition[..., :width], context):
        return context
    return Prepared(context, condition[..., width:], fps_embedding)


def _halves_are_alike(*inputs: Tensor | None) -> bool:
    """Whether the guided halves differ in nothing but their context, see core's per_condition."""
    return all(each is None or torch.equal(*each.chunk(2)) for each in inputs)
