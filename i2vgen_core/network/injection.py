"""What an edited video takes over from the video that it is made of, inside the network (AnyV2V, arXiv 2403.14468, section
4.2; pnp_utils.py).

Both go through the network together, the source first. At the blocks on the way up, the edit's rows get the source's
features of a residual block's convolutions, and the queries and keys of its self-attention: they say where things are and
how they move, while values, and what the picture and the prompt add, stay the edit's own.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .attention import Attention, scaled_dot_product_attention
from .hooks import AttentionHooks, BlockHooks, BlockName, Hooks, LayerName, Over
from .unet import UNet


@dataclass(frozen=True)
class Injection:
    """Which of the source's features the edit's rows get in one evaluation; as it is made here, none.

    Args:
        convolution: of a residual block's spatial convolutions, before its shortcut is added.
        spatial: queries and keys of self-attention within frames.
        temporal: queries and keys of self-attention over frames.
    """

    convolution: bool = False
    spatial: bool = False
    temporal: bool = False

    def __bool__(self) -> bool:
        return self.convolution or self.spatial or self.temporal


def injected_blocks(network: UNet) -> list[BlockName]:
    """Blocks on the way up whose self-attention takes the source's queries and keys: all that have attention but the first
    (4 to 11 of the release's 3 to 11). The first of these takes the convolutions' features."""
    up = [each.block for each in network.spatial_transformers if each.block.way == "output"]
    return up[1:] or up


def injecting(
    network: UNet, injection: Injection, videos: int, attention: Attention = scaled_dot_product_attention
) -> Hooks:
    """One evaluation in which the first of the batch's videos gives its features to all.

    Args:
        network: a base.
        injection: which features.
        videos: of the batch; all frames of the source come first.
        attention: computes every attention.
    """
    blocks = injected_blocks(network)
    return Hooks(
        _SourceAttention(blocks, injection, videos, attention), _SourceResiduals(blocks[:1], injection, videos)
    )


class _SourceAttention(AttentionHooks):
    def __init__(self, blocks: list[BlockName], injection: Injection, videos: int, attention: Attention):
        super().__init__(attention)
        self.whole = injection.spatial
        over: dict[Over, bool] = {"places": injection.spatial, "frames": injection.temporal}
        self._layers = {LayerName(block, each, "attn1") for each, taken in over.items() if taken for block in blocks}
        self._videos = videos

    def attend(self, name: LayerName, heads: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if name in self._layers:
            q, k = (of_first(each, self._videos) for each in (q, k))
        return super().attend(name, heads, q, k, v)


class _SourceResiduals(BlockHooks):
    def __init__(self, blocks: list[BlockName], injection: Injection, videos: int):
        self.whole = blocks if injection.convolution else ()
        self._videos = videos

    def residual(self, block: BlockName, y: Tensor) -> Tensor:
        return of_first(y, self._videos) if block in self.whole else y


def of_first(rows: Tensor, videos: int) -> Tensor:
    """Rows [(videos n), ...] with the first video's n in the place of every video's."""
    return torch.cat([rows[: len(rows) // videos]] * videos)
