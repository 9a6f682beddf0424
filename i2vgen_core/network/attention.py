"""Attention as the networks ask for it: one function that a caller may replace (the host puts its own in)."""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

_BATCH_LIMIT = 2**15
"""Sequences per call: CUDA's fused kernels put the batch on a grid axis that ends at 65535."""


class Attention(Protocol):
    """What a replacement has to look like."""

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
        """Softmax attention without a mask.

        Args:
            q: queries [b, n, heads * d].
            k: keys [b, m, heads * d].
            v: values [b, m, heads * d].
            heads: number of heads.

        Returns:
            [b, n, heads * d].
        """
        ...


def scaled_dot_product_attention(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """torch's fused attention; the default."""
    if len(q) > _BATCH_LIMIT:
        parts = zip(q.split(_BATCH_LIMIT), k.split(_BATCH_LIMIT), v.split(_BATCH_LIMIT), strict=True)
        return torch.cat([scaled_dot_product_attention(*part, heads) for part in parts])
    q, k, v = (rearrange(tokens, "b n (h d) -> b h n d", h=heads) for tokens in (q, k, v))
    return rearrange(F.scaled_dot_product_attention(q, k, v), "b h n d -> b n (h d)")
