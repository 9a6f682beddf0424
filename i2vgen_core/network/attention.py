"""Attention as the networks ask for it: one function that a caller may replace (the host puts its own in)."""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

_BATCH_LIMIT = 2**15
"""Sequences per call: CUDA's fused kernels put the batch on a grid axis that ends at 65535."""

_HEADS_LIMIT = 2**15
"""Heads per call, which the same kernels put on such an axis too."""


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


def attend_within_frames(attention: Attention, q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """Attention of queries [n, t, c] to keys and values [b, m, c], each of which n / b consecutive sequences share.

    The queries that share keys go as one sequence, so that keys and values are there once a video, not once a frame.
    """
    queries = rearrange(q, "(b f) t c -> b (f t) c", b=len(k))
    return attention(queries, k, v, heads).view(q.shape)


def attend_over_frames(attention: Attention, q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """Attention over the frames f of each place s, [b, f, s, c], without a copy: every place's heads are heads of one
    attention over the frames, as they lie in memory. A sequence for each place would have to be copied together."""
    if (places := _HEADS_LIMIT // heads) < q.shape[2]:
        parts = zip(q.split(places, 2), k.split(places, 2), v.split(places, 2), strict=True)
        return torch.cat([attend_over_frames(attention, *part, heads) for part in parts], dim=2)
    return attention(q.flatten(2), k.flatten(2), v.flatten(2), q.shape[2] * heads).view(q.shape)
