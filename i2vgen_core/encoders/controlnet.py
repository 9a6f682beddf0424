"""Stable Diffusion 1.5's ControlNets through diffusers: what they see of each frame, for a Ctrl-Adapter."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..network.adapter import timestep_sinusoid

if TYPE_CHECKING:
    from diffusers.models.controlnets.controlnet import ControlNetModel


class _TimeSinusoid(nn.Module):
    """In the place of diffusers' own, see timestep_sinusoid."""

    def __init__(self, width: int):
        super().__init__()
        self._width = width

    def forward(self, timesteps: Tensor) -> Tensor:
        return timestep_sinusoid(timesteps, self._width)


class FrameControl:
    """A ControlNet over the frames of a video, as images. It reads the video's own noisy latent and timestep as they are,
    although it was trained on another schedule (Ctrl-Adapter, i2vgen_xl/pipelines).

    Args:
        network: of Stable Diffusion 1.5.
        hints: pictures of the control [f, 3, 8h, 8w] in 0..1.
        texts: of each condition, the positive first: [1, 77, 768], the last layer of Stable Diffusion 1.5's own text encoder.
        skip_latent: the latent is not read, as adapters for sparse control were trained.
    """

    def __init__(self, network: ControlNetModel, hints: Tensor, texts: Sequence[Tensor], skip_latent: bool = False):
        self._network, self._hints, self._texts = network, hints, texts
        self._skip_latent = skip_latent
        network.time_proj = _TimeSinusoid(network.config.block_out_channels[0])

    @torch.no_grad()
    def __call__(self, x: Tensor, t: int, conditions: int) -> list[Tensor]:
        """Features as sampling.control.Features has them; one condition at a time, for memory."""
        made = [self._of(x, t, text) for text in self._texts[:conditions]]
        return [torch.cat(each) for each in zip(*made, strict=True)]

    def _of(self, x: Tensor, t: int, text: Tensor) -> list[Tensor]:
        text = text.expand(len(x), -1, -1) if len(text) == 1 else text
        given = {"encoder_hidden_states": text.to(x), "controlnet_cond": self._hints.to(x)}
        unread = self._network.conv_in.register_forward_hook(nothing) if self._skip_latent else nullcontext()
        with unread:
            down, middle = self._network(x, t, return_dict=False, **given)
        return [*down, middle]


def nothing(_: nn.Module, __: Any, output: Tensor) -> Tensor:
    """A hook for a layer that is not read."""
    return torch.zeros_like(output)
