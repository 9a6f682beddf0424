"""The host's model patches in our networks: what stock nodes and packs put into `transformer_options`.

As in the host's own video UNet (SVD), they reach the blocks and the attention within frames; attention over the frames
has no counterpart in the models that they were written for, and stays as it is. As in the host's own networks, what is
evaluated is written into `transformer_options` for the patches to read.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import Tensor

from ...i2vgen_core.network.hooks import AttentionHooks, BlockHooks, BlockName, Hooks, LayerName
from . import compat


def stock_patches(transformer_options: dict[str, Any], reuse: BlockHooks) -> Hooks:
    """One evaluation of a network with the patches of its MODEL.

    Args:
        transformer_options: the host's, with `patches` and `patches_replace`.
        reuse: recalls and keeps what the deep blocks make.
    """
    return Hooks(_StockAttention(transformer_options), _StockBlocks(transformer_options, reuse))


def changes_nothing(transformer_options: dict[str, Any]) -> bool:
    """Whether there is neither a patch nor an attention of another node's, so that like inputs have like outputs."""
    return not any(transformer_options.get(name) for name in ("patches", "patches_replace")) and (
        "optimized_attention_override" not in transformer_options
    )


class _StockAttention(AttentionHooks):
    def __init__(self, options: dict[str, Any]):
        super().__init__(partial(compat.attention, transformer_options=options))
        self._options = options
        self._patches, self._replacements = options.get("patches", {}), options.get("patches_replace", {})
        self._entered = 0
        # Patches of attention expect all frames of both guided halves.
        self.whole = any(name.startswith("attn") for name in (*self._patches, *self._replacements))

    def enter(self, block: BlockName, shape: tuple[int, ...]) -> None:
        self._options |= {"activations_shape": list(shape), "block_index": 0, "transformer_index": self._entered}
        self._entered += 1

    def tokens(self, name: LayerName, heads: int, x: Tensor, context: Tensor) -> tuple[Tensor, Tensor, Tensor] | None:
        if name.over == "frames":
            return None
        self._options |= {"n_heads": heads, "dim_head": x.shape[-1] // heads, "attn_precision": None}
        patches = self._changes(name)
        if not patches:
            return None
        queries, keys, values = x, context, context
        if name.over == "context":  # once a frame, as patches expect it
            keys = values = context.repeat_interleave(len(x) // len(context), dim=0)
        for patch in patches:
            queries, keys, values = patch(queries, keys, values, self._options)
        return queries, keys, values

    def attend(self, name: LayerName, heads: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        changed, replacement = bool(self._changes(name)), self._replacement(name)
        if not changed and replacement is None:
            return super().attend(name, heads, q, k, v)
        if not changed:
            k, v = (each.repeat_interleave(len(q) // len(each), dim=0) for each in (k, v))
        return self.attention(q, k, v, heads) if replacement is None else replacement(q, k, v, self._options)

    def output(self, name: LayerName, y: Tensor) -> Tensor:
        if name.over != "frames":
            for patch in self._patches.get(f"{name.layer}_output_patch", []):
                y = patch(y, self._options)
        return y

    def _changes(self, name: LayerName) -> list[Any]:
        return [] if name.over == "frames" else self._patches.get(f"{name.layer}_patch", [])

    def _replacement(self, name: LayerName) -> Any:
        """What a node has put in the place of a layer's attention, or of its whole block's; None if nothing."""
        if name.over == "frames":
            return None
        replacements = self._replacements.get(name.layer, {})
        return replacements.get((*name.block, 0), replacements.get(name.block))


class _StockBlocks(BlockHooks):
    def __init__(self, options: dict[str, Any], reuse: BlockHooks):
        self._options, self._reuse = options, reuse
        self._patches = options.get("patches", {})

    def enter(self, block: BlockName, x: Tensor) -> Tensor:
        if block == ("input", 0):  # of the latent as the network has padded it: patches count tokens from it
            self._options["original_shape"] = [len(x), 4, *x.shape[2:]]
        elif block.way != "output":
            x = self._through("input_block_patch_after_skip", x)  # of the last block, whose output is kept by now
        self._options["block"] = tuple(block)
        return x

    def leave(self, block: BlockName, x: Tensor) -> Tensor:
        return self._through("input_block_patch", x) if block.way == "input" else x

    def join(self, block: BlockName, x: Tensor, skip: Tensor) -> tuple[Tensor, Tensor]:
        self._options["block"] = tuple(block)
        for patch in self._patches.get("output_block_patch", []):
            x, skip = patch(x, skip, self._options)
        return x, skip

    def recall(self) -> Tensor | None:
        features = self._reuse.recall()
        return None if features is None else self._own(features)

    def keep(self, features: Tensor) -> None:
        self._reuse.keep(self._own(features))

    def _own(self, features: Tensor) -> Tensor:
        """Patches may write into what goes into a block on the way up."""
        return features.clone() if "output_block_patch" in self._patches else features

    def _through(self, name: str, x: Tensor) -> Tensor:
        for patch in self._patches.get(name, []):
            x = patch(x, self._options)
        return x
