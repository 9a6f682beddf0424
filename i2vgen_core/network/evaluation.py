"""What an evaluation of the network reads beside the noisy video."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .hooks import BlockName, Hooks

KeysValues = tuple[Tensor, Tensor]
"""Keys and values [b, n, c] of a context [b, n, d] in one attention layer."""


@dataclass(frozen=True)
class Prepared:
    """What the network makes of its conditions: made once a video by UNet.prepare, read at every step.

    Args:
        context: tokens [b, n, context_dim].
        keys_values: of the context, by the block whose attention they belong to.
        fps: embedding of the frame rate [b, e]; None where none is read.
        details: features beside the noise [(b f), c, h, w], where the conditions of one video differ in them; else they go
            to UNet.forward, once for all.
        in_front: features of the frame in front of each video [b, c, h, w]; zeros if None, where the network has such.
        poses: the same of the tokens that each frame has to itself [(b f), n, context_dim]; None where the network has none.
    """

    context: Tensor
    keys_values: Mapping[BlockName, KeysValues]
    fps: Tensor | None = None
    details: Tensor | None = None
    in_front: Tensor | None = None
    poses: Prepared | None = None

    @staticmethod
    def together(parts: Sequence[Prepared]) -> Prepared:
        """Several conditions as one batch, of like length."""
        poses = [part.poses for part in parts if part.poses is not None]
        return Prepared(
            torch.cat([part.context for part in parts]),
            {block: _joined([part.keys_values[block] for part in parts]) for block in parts[0].keys_values},
            _together([part.fps for part in parts]),
            _together([part.details for part in parts]),
            _together([part.in_front for part in parts]),
            Prepared.together(poses) if poses else None,
        )


def _together(parts: Sequence[Tensor | None]) -> Tensor | None:
    given = [part for part in parts if part is not None]
    return torch.cat(given) if given else None


def _joined(parts: Sequence[KeysValues]) -> KeysValues:
    return torch.cat([keys for keys, _ in parts]), torch.cat([values for _, values in parts])


@dataclass(frozen=True)
class Context:
    """The context as one block's attention reads it.

    Args:
        tokens: [b, n, d].
        keys, values: made of the tokens, [b, n, c].
    """

    tokens: Tensor
    keys: Tensor
    values: Tensor

    def __getitem__(self, rows: slice) -> Context:
        return Context(self.tokens[rows], self.keys[rows], self.values[rows])


@dataclass(frozen=True)
class Evaluation:
    """What the blocks read beside the features.

    Args:
        embedding: of the time step, with that of the frame rate, [b, e]; or one for each frame, [b, f, e].
        frames: of each video.
        prepared: the conditions.
        hooks: what is to run otherwise than in the paper.
        checkpointing: whether parts of blocks keep their inputs alone, and run again for gradients.
        size: height and width that a block's upsampling is to give.
    """

    embedding: Tensor
    frames: int
    prepared: Prepared
    hooks: Hooks
    checkpointing: bool = False
    size: torch.Size | None = None

    def context(self, block: BlockName) -> Context:
        """The context as this block's attention reads it."""
        return Context(self.prepared.context, *self.prepared.keys_values[block])

    def pose_context(self, block: BlockName) -> Context:
        """The tokens of each frame's own pose as this block's attention reads them."""
        assert self.prepared.poses is not None, "UNet.prepare_poses makes them"
        return Context(self.prepared.poses.context, *self.prepared.poses.keys_values[block])

    def towards(self, skip: Tensor) -> Evaluation:
        """The evaluation as a block gets it whose output is to meet these features [n, c, h, w] next."""
        return replace(self, size=skip.shape[-2:])

    def run(self, part: nn.Module, x: Tensor) -> Tensor:
        """Runs a part of a block."""
        return checkpoint(part, x, self, use_reentrant=False) if self.checkpointing else part(x, self)
