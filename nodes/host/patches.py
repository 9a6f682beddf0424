"""The host's model patches in our networks: what stock nodes and packs put into `transformer_options`.

As in the host's own video UNet (SVD), they reach the blocks and the attention within frames; attention over the frames
and to poses has no counterpart in the models that they were written for, and stays as it is, but for spatio-temporal guidance,
which was made for it. As in the host's own networks, what is evaluated is written into `transformer_options` for the patches to
read.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ...i2vgen_core.config import TEXT_TOKENS
from ...i2vgen_core.errors import InputError
from ...i2vgen_core.network.hooks import AttentionHooks, BlockHooks, BlockName, Hooks, LayerName
from . import compat

_LIKE = 0.99
"""Cosine from which on tokens are the picture's, weighed or in 16 bit too."""


def stock_patches(
    transformer_options: dict[str, Any],
    reuse: BlockHooks,
    steered: BlockHooks,
    channels: int,
    x: Tensor,
    timesteps: Tensor,
    context: Tensor,
    passed_over: frozenset[BlockName] = frozenset(),
) -> Hooks:
    """One evaluation of a network with the patches of its MODEL.

    Args:
        transformer_options: the host's, with `patches` and `patches_replace`.
        reuse: recalls and keeps what the deep blocks make.
        steered: adds what a control makes to what the way up is handed.
        channels: of the network's first block.
        x: noisy latents [(b f), 4, h, w].
        timesteps: of every frame [(b f)].
        context: of every clip [b, n, d].
        passed_over: blocks in which each frame attends to itself alone, not to the others.
    """
    attention = _StockAttention(transformer_options, passed_over)
    return Hooks(
        attention, _StockBlocks(transformer_options, attention, reuse, steered, channels, x, timesteps, context)
    )


def changes_nothing(transformer_options: dict[str, Any]) -> bool:
    """Whether there is neither a patch nor an attention of another node's, so that like inputs have like outputs."""
    return not any(transformer_options.get(name) for name in ("patches", "patches_replace")) and (
        "optimized_attention_override" not in transformer_options
    )


class _StockAttention(AttentionHooks):
    def __init__(self, options: dict[str, Any], passed_over: frozenset[BlockName]):
        super().__init__(partial(compat.attention, transformer_options=options))
        self._options, self._passed_over = options, passed_over
        self._patches, self._replacements = options.get("patches", {}), options.get("patches_replace", {})
        self.entered = 0
        # Patches of attention expect all frames of both guided halves.
        self.whole = any(name.startswith(("attn", "middle_patch")) for name in (*self._patches, *self._replacements))

    def enter(self, block: BlockName, shape: tuple[int, ...]) -> None:
        self._options |= {"activations_shape": list(shape), "block_index": 0, "transformer_index": self.entered}
        self.entered += 1

    def tokens(self, name: LayerName, heads: int, x: Tensor, context: Tensor) -> tuple[Tensor, Tensor, Tensor] | None:
        if not _is_patched(name):
            return None
        self._options |= {"n_heads": heads, "dim_head": x.shape[-1] // heads, "attn_precision": None}
        patches = self._changes(name)
        if not patches:
            return None
        queries, keys, values = x, context, context
        if name.over == "context":  # once a frame, as patches expect it
            keys = values = context.repeat_interleave(len(x) // len(context), dim=0)
        for patch in patches:
            queries, keys, values = _three(patch(queries, keys, values, self._options))
        if name.over == "context" and len(keys) > len(x):
            keys, values = _with_picture(keys, values, context)
        return queries, keys, values

    def attend(self, name: LayerName, heads: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if name.over == "frames" and name.block in self._passed_over:
            return v
        changed, replacement = bool(self._changes(name)), self._replacement(name)
        if not changed and replacement is None:
            return super().attend(name, heads, q, k, v)
        if not changed:
            k, v = (each.repeat_interleave(len(q) // len(each), dim=0) for each in (k, v))
        return self.attention(q, k, v, heads) if replacement is None else replacement(q, k, v, self._options)

    def between(self, name: LayerName, x: Tensor) -> Tensor:
        return _through(self._patches.get("middle_patch", []), x, self._options) if _is_patched(name) else x

    def output(self, name: LayerName, y: Tensor) -> Tensor:
        if _is_patched(name):
            y = _through(self._patches.get(f"{name.layer}_output_patch", []), y, self._options)
        return y

    def _changes(self, name: LayerName) -> list[Any]:
        return self._patches.get(f"{name.layer}_patch", []) if _is_patched(name) else []

    def _replacement(self, name: LayerName) -> Any:
        """What a node has put in the place of a layer's attention, or of its whole block's; None if nothing."""
        if not _is_patched(name):
            return None
        replacements = self._replacements.get(name.layer, {})
        return replacements.get((*name.block, 0), replacements.get(name.block))


class _StockBlocks(BlockHooks):
    def __init__(
        self,
        options: dict[str, Any],
        attention: _StockAttention,
        reuse: BlockHooks,
        steered: BlockHooks,
        channels: int,
        x: Tensor,
        timesteps: Tensor,
        context: Tensor,
    ):
        self._options, self._attention, self._reuse, self._channels = options, attention, reuse, channels
        self._steered = steered
        self._x, self._timesteps, self._context = x, timesteps, context
        self._patches = options.get("patches", {})
        self._embedding = timesteps
        options |= {"original_shape": list(x.shape), "transformer_index": 0}

    def embed(self, embedding: Tensor) -> Tensor:
        """Patches expect a row for each frame; what they make has to be alike in all frames of a clip."""
        if "emb_patch" not in self._patches:
            self._embedding = embedding
            return embedding
        frames = len(self._timesteps) // len(embedding)
        rows = embedding.repeat_interleave(frames, dim=0)
        for patch in self._patches["emb_patch"]:
            rows = patch(rows, self._channels, self._options)
        self._embedding = rows[::frames]
        if rows.shape != (len(self._timesteps), embedding.shape[1]) or not torch.equal(
            rows, self._embedding.repeat_interleave(frames, dim=0)
        ):
            remedy = "Take out the node that patches it: it treats frames as pictures of their own."
            raise InputError("the time embedding", "one for all frames of a clip", "another in some of them", remedy)
        return self._embedding

    def enter(self, block: BlockName, x: Tensor) -> Tensor:
        if block == ("input", 0):  # of the latent as the network has padded it: patches count tokens from it
            self._x = x
            self._options["original_shape"] = [len(x), 4, *x.shape[2:]]
        elif block.way != "output":
            x = _through(
                self._patches.get("input_block_patch_after_skip", []), x, self._options
            )  # of the last block, whose output is kept by now
        self._options["block"] = tuple(block)
        return x

    def leave(self, block: BlockName, x: Tensor) -> Tensor:
        self._options["transformer_index"] = self._attention.entered
        if block.way == "input":
            return _through(self._patches.get("input_block_patch", []), x, self._options)
        return self._after_middle(x) if block.way == "middle" else x

    def hand_up(self, block: BlockName, x: Tensor) -> Tensor:
        return self._steered.hand_up(block, x)

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

    def _after_middle(self, x: Tensor) -> Tensor:
        for patch in self._patches.get("middle_block_after_patch", []):
            frames = len(x) // len(self._context)
            given = {
                "h": x,
                "x": self._x,
                "y": None,
                "timesteps": self._timesteps,
                "transformer_options": self._options,
            }
            by_frame = {"emb": self._embedding, "context": self._context}
            x = patch(given | {name: each.repeat_interleave(frames, dim=0) for name, each in by_frame.items()})["h"]
        return x


def _is_patched(name: LayerName) -> bool:
    """Whether the layer is of those that the host's own networks have."""
    return name.over in ("places", "context") and name.block.way != "control"


def _three(made: Any) -> tuple[Tensor, Tensor, Tensor]:
    """What a patch of attention has made queries, keys and values of. Raises InputError unless it is three tensors, of as many
    keys as values."""
    if isinstance(made, tuple | list) and len(made) == 3 and all(isinstance(each, Tensor) for each in made):
        queries, keys, values = made
        if keys.shape[:2] == values.shape[:2]:
            return queries, keys, values
        found = f"{list(keys.shape[:2])} keys and {list(values.shape[:2])} values"
    else:
        found = "something else"
    remedy = "Take out the node that patches it: it is for another network."
    raise InputError("what a patch of attention gives", "queries, and as many keys as values", found, remedy)


def _with_picture(keys: Tensor, values: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
    """What a patch has made of the context [b, n, d] where it has added rows, [r, m, d], with the picture's tokens in all of them.

    Packs that give parts of the frame prompts of their own know words alone, and repeat all rows to one length. Their rows get
    the picture of the row before, which they were added to; and each row is there once, which attention cannot tell from more.
    """
    tokens, pictures = context.shape[1], context[:, TEXT_TOKENS:].flatten(1)
    if not pictures.numel() or keys.shape[1] % tokens:
        return keys, values
    likeness = F.cosine_similarity(keys[:, None, TEXT_TOKENS:tokens].flatten(2), pictures[None], dim=-1)
    whole = likeness.amax(dim=1) > _LIKE
    rows = torch.where(whole, torch.arange(len(keys), device=keys.device), 0).cummax(dim=0).values
    added = context[likeness.argmax(dim=1)[rows], TEXT_TOKENS:]

    def once(made: Tensor) -> Tensor:
        return torch.where(
            whole[:, None, None], made[:, :tokens], torch.cat([made[:, :TEXT_TOKENS], added.to(made)], dim=1)
        )

    return once(keys), once(values)


def _through(patches: list[Any], x: Tensor, options: dict[str, Any]) -> Tensor:
    for patch in patches:
        x = patch(x, options)
    return x
