"""Where a caller may reach into a network while it runs. ComfyUI's model patches do; the network alone needs none."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from .attention import Attention, scaled_dot_product_attention

if TYPE_CHECKING:
    from .blocks import MultiHeadAttention

Place = tuple[Literal["input", "middle", "output"], int]
"""A block of the UNet: on the way down, in the middle or on the way up, and its number there."""


class Hooks:
    """Every method as it is here gives the network of the paper. A subclass overrides what it changes.

    Args:
        attention: computes every attention.
    """

    def __init__(self, attention: Attention = scaled_dot_product_attention):
        self.attention = attention

    def join(self, place: Place, x: Tensor, skip: Tensor) -> Tensor:
        """What a block on the way up reads.

        Args:
            place: which one.
            x: what the last block gave, [(b f), c, h, w].
            skip: what the block of this size on the way down gave.
        """
        return torch.cat([x, skip], dim=1)

    def block(self, place: Place, run: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """Runs one block.

        Args:
            place: which one.
            run: the block itself.
            x: what it reads, [(b f), c, h, w].
        """
        return run(x)

    def recall(self) -> Tensor | None:
        """What `keep` was given by an earlier evaluation, [(b f), c, h, w], to be taken in place of running the blocks
        that make it; None to run them all."""
        return None

    def keep(self, features: Tensor) -> None:
        """Is given what goes into the last blocks on the way up, UNet.OUTER of them, where all blocks run."""

    sees_tokens = False
    """Whether attention within frames has to run on all frames at once, since something else looks at the tokens."""

    def attend(
        self, layer: MultiHeadAttention, x: Tensor, context: Tensor, keys_values: tuple[Tensor, Tensor] | None = None
    ) -> Tensor:
        """Runs one attention layer; `layer.over` says what it attends over. Arguments as in MultiHeadAttention.forward."""
        return layer(x, context, self.attention, keys_values)
