"""Grows a VAE: more channels and blocks, beginning as the same function, so that nothing that was learnt is lost.

A channel becomes several that hold the same, beside one another, so that the groups of a norm hold what they held; what reads
them takes a share of each, uneven ones, so that they part as they learn. A new residual block begins with nothing to add.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import InputError


@torch.no_grad()
def grow_vae(small: Any, channels: tuple[int, ...], blocks: int, seed: int = 0) -> Any:
    """A larger diffusers.AutoencoderKL that does what a smaller one does.

    Args:
        small: the smaller one, of the same number of resolutions.
        channels: of each resolution of the larger, multiples of the smaller's.
        blocks: residual blocks of a resolution in the larger's encoder, see VAETraining.
        seed: of the uneven shares and the new blocks.

    Raises:
        InputError: a number of channels is no multiple, or there are fewer blocks.
    """
    from .vae import VAETraining, build_vae

    before = tuple(small.config.block_out_channels)
    if (
        len(before) != len(channels)
        or blocks < small.config.layers_per_block
        or any(new % old for new, old in zip(channels, before, strict=True))
    ):
        found = f"channels {channels} and {blocks} blocks from {before} and {small.config.layers_per_block}"
        raise InputError("the larger VAE", "as many resolutions, each a multiple", found, "Change its sizes.")
    large = build_vae(VAETraining(channels=channels, blocks=blocks))
    generator = torch.Generator().manual_seed(seed)
    known = dict(small.named_modules())
    for name, module in large.named_modules():
        old = known.get(name)
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            if old is not None:
                # Attention divides by the root of the width.
                scale = (len(module.weight) / len(old.weight)) ** -0.5 if name.endswith("to_q") else 1.0
                module.weight.copy_(_widened(old.weight, module.weight.shape, generator) * scale)
                if module.bias is not None:
                    module.bias.copy_(old.bias.repeat_interleave(len(module.bias) // len(old.bias)) * scale)
            elif name.endswith("conv_shortcut"):
                module.weight.copy_(_passed_on(module.weight.shape))
            elif name.endswith("conv2"):
                nn.init.zeros_(module.weight)
            if old is None and name.endswith(("conv_shortcut", "conv2")) and module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.GroupNorm) and old is not None:
            for tensor, source in ((module.weight, old.weight), (module.bias, old.bias)):
                tensor.copy_(source.repeat_interleave(len(tensor) // len(source)))
    return large


def _widened(weight: Tensor, shape: torch.Size, generator: torch.Generator) -> Tensor:
    """A layer's weights for more channels out, which hold the same, and more in, of which each gives a share."""
    weight = weight.repeat_interleave(shape[0] // weight.shape[0], 0)
    copies = shape[1] // weight.shape[1]
    if copies == 1:
        return weight
    shares = 1 / copies + 0.3 / copies * (torch.rand(shape[0], weight.shape[1], copies, generator=generator) - 0.5)
    shares = shares / shares.sum(-1, keepdim=True)
    extra = weight.shape[2:]
    return (weight[:, :, None] * shares.view(*shares.shape, *(1,) * len(extra))).flatten(1, 2)


def _passed_on(shape: torch.Size) -> Tensor:
    """A 1x1 convolution of [out, in, 1, 1] by which channels that hold the same go on to those that are to hold it."""
    out, into = shape[:2]
    known = math.gcd(out, into)
    same = (torch.arange(out) // (out // known))[:, None] == torch.arange(into) // (into // known)
    return (same / same.sum(1, keepdim=True))[:, :, None, None]
