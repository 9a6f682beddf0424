"""Where a caller may reach into a network while it runs: its attention layers and its blocks.

ComfyUI's model patches and the reuse of deep features do so. The network of the paper needs none of it.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from torch import Tensor

from .attention import Attention, attend_over_frames, attend_within_frames, scaled_dot_product_attention

Over = Literal["places", "context", "frames", "poses"]
"""What an attention layer attends to: the places of a frame, the context, the frames at a place; or, in the attention to
poses, the places again and then the frame's own tokens."""


class BlockName(NamedTuple):
    """A block of the UNet: on the way down, in the middle or on the way up, and its number there; or of a control branch, whose
    middle comes after its last block on the way down."""

    way: Literal["input", "middle", "output", "control"]
    number: int


class LayerName(NamedTuple):
    """An attention layer: its block, what it attends to, and its name there in the release's state dict."""

    block: BlockName
    over: Over
    layer: Literal["attn1", "attn2"]


class AttentionHooks:
    """What the attention layers do. A subclass overrides what it changes.

    Args:
        attention: computes every attention.

    Attributes:
        whole: whether layers within frames are given all frames of all videos at once, as a subclass that compares
            frames or videos needs it. Without, memory may hold a few frames at a time.
    """

    whole = False

    def __init__(self, attention: Attention = scaled_dot_product_attention):
        self.attention = attention

    def enter(self, block: BlockName, shape: tuple[int, ...]) -> None:
        """Is told that a block's attention within frames begins, on features of this shape [n, c, h, w]."""

    def tokens(self, name: LayerName, heads: int, x: Tensor, context: Tensor) -> tuple[Tensor, Tensor, Tensor] | None:
        """What a layer's queries, keys and values are made of; None for x, context and context.

        Args:
            name: of the layer.
            heads: of the layer.
            x: tokens [n, t, c]; over frames [b, f, places, c].
            context: tokens [b, m, d], shared by n / b consecutive sequences, which are all frames of a video; or x.
        """
        return None

    def attend(self, name: LayerName, heads: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attention of a layer's queries, of the shape of x in `tokens`, to its keys and values, of that of context.

        Returns:
            As the queries.
        """
        attend = attend_over_frames if name.over == "frames" else attend_within_frames
        return attend(self.attention, q, k, v, heads)

    def between(self, name: LayerName, x: Tensor) -> Tensor:
        """What is given to the second attention layer of two within frames, from what the first, of this name, has made:
        tokens [n, t, c]."""
        return x

    def output(self, name: LayerName, y: Tensor) -> Tensor:
        """What a layer gives, from what it made: of the shape of x in `tokens`."""
        return y


class BlockHooks:
    """What goes into the blocks and comes out of them. A subclass overrides what it changes.

    Attributes:
        whole: blocks whose `residual` is given all frames of all videos at once, as a subclass that compares videos needs
            it. Without, memory may hold a few frames at a time.
    """

    whole: Collection[BlockName] = ()

    def embed(self, embedding: Tensor) -> Tensor:
        """What every block reads of the time step and the frame rate, [v, e] of v videos."""
        return embedding

    def enter(self, block: BlockName, x: Tensor) -> Tensor:
        """What a block reads, from what it is given, [(b f), c, h, w]; on the way up, after `join`."""
        return x

    def residual(self, block: BlockName, y: Tensor) -> Tensor:
        """What a residual block's spatial convolutions give, before its shortcut is added: y [(b f), c, h, w]."""
        return y

    def leave(self, block: BlockName, x: Tensor) -> Tensor:
        """What a block gives, from what it made, [(b f), c, h, w]; on the way down, what the way up meets again."""
        return x

    def hand_up(self, block: BlockName, x: Tensor) -> Tensor:
        """What the way up is given of a block on the way down or of the middle, from what that block gave, [(b f), c, h, w]: the
        place for a control's features. Asked once all of the way down has run, in the blocks' order; the way down never
        sees it."""
        return x

    def join(self, block: BlockName, x: Tensor, skip: Tensor) -> tuple[Tensor, Tensor]:
        """What a block on the way up reads beside each other: what the last block gave, and what the block of this size
        on the way down gave, both [(b f), c, h, w]."""
        return x, skip

    def recall(self) -> Tensor | None:
        """What `keep` was given by an earlier evaluation, [(b f), c, h, w], to be taken in place of running the blocks
        that make it; None to run them all."""
        return None

    def keep(self, features: Tensor) -> None:
        """Is given what all blocks but the first and the last have made, where they run."""


@dataclass(frozen=True)
class Hooks:
    """What one evaluation of a network does otherwise than in the paper; as it is made here, nothing."""

    attention: AttentionHooks = field(default_factory=AttentionHooks)
    blocks: BlockHooks = field(default_factory=BlockHooks)
