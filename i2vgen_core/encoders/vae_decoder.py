"""The decoder of diffusers' AutoencoderKL with its own weights, run in less memory and time than its forward."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ..network.attention import scaled_dot_product_attention
from ..network.cpu import cpu_operators


@torch.no_grad()
def decode(model: Any, latent: Tensor) -> Tensor:
    """Pixels [n, 3, 8h, 8w] of unscaled latents [n, 4, h, w], as `model.decode` makes them up to rounding.

    SiLU and the residual reuse the memory of what was just made.

    Args:
        model: diffusers.AutoencoderKL.
        latent: of the model's type and device.
    """
    decoder = model.decoder
    with cpu_operators(latent):
        x = decoder.conv_in(model.post_quant_conv(latent.contiguous(memory_format=_layout(latent))))
        x = _residual(decoder.mid_block.resnets[0], x)
        x = _self_attention(decoder.mid_block.attentions[0], x)
        x = _residual(decoder.mid_block.resnets[1], x)
        for level in decoder.up_blocks:
            for block in level.resnets:
                x = _residual(block, x)
            for upsampler in level.upsamplers or ():
                x = upsample_and_convolve(x, upsampler.conv)
        return decoder.conv_out(F.silu(decoder.conv_norm_out(x), inplace=True))


def _layout(x: Tensor) -> torch.memory_format:
    """channels_last on the CPU, whose convolutions are faster so; elsewhere torch's group norm would copy it back."""
    return torch.channels_last if x.device.type == "cpu" else torch.contiguous_format


def _residual(block: Any, x: Tensor) -> Tensor:
    y = block.conv1(F.silu(block.norm1(x), inplace=True))
    y = block.conv2(F.silu(block.norm2(y), inplace=True))
    return y.add_(x if block.conv_shortcut is None else block.conv_shortcut(x))


def _self_attention(block: Any, x: Tensor) -> Tensor:
    tokens = rearrange(block.group_norm(x), "n c h w -> n (h w) c").contiguous()
    q, k, v = block.to_q(tokens), block.to_k(tokens), block.to_v(tokens)
    y = block.to_out[0](scaled_dot_product_attention(q, k, v, block.heads))
    return rearrange(y, "n (h w) c -> n c h w", h=x.shape[2]) + x


def upsample_and_convolve(x: Tensor, conv: nn.Conv2d) -> Tensor:
    """A 3x3 convolution of x at twice its size (nearest), [n, c, h, w] to [n, o, 2h, 2w], without making that.

    At twice the size, neighbours are often the same value: an output row reads two input rows, one of them with the
    sum of two rows of the kernel. So each of the four phases of the output is a 2x2 convolution of x, 16 products an
    input value in place of 36.
    """
    n, _, h, w = x.shape
    padded = F.pad(x, (1, 1, 1, 1))
    shape = (n, conv.out_channels, 2 * h, 2 * w)
    out = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=_layout(x))
    for row in range(2):
        for column in range(2):
            weight = _phase(_phase(conv.weight.float(), row, 2), column, 3).to(x.dtype)
            part = padded[:, :, row : row + h + 1, column : column + w + 1]
            out[:, :, row::2, column::2] = F.conv2d(part, weight, conv.bias)
    return out


def _phase(weight: Tensor, phase: int, dim: int) -> Tensor:
    """The two taps that a kernel of three has on the smaller grid, for the first or the second output of each pair."""
    first, second, third = weight.split(1, dim)
    return torch.cat([first, second + third] if phase == 0 else [first + second, third], dim)
