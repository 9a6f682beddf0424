"""The host's model patches in our networks: what stock nodes and packs put into `transformer_options`.

As in the host's own video UNet (SVD), they reach the blocks and the attention within frames; attention over the frames
has no counterpart in the models that they were written for, and stays as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor

from ...i2vgen_core.network.blocks import MultiHeadAttention
from ...i2vgen_core.network.hooks import Hooks, Place
from . import compat


class StockPatches(Hooks):
    """One evaluation of a network with the patches of its MODEL.

    Args:
        transformer_options: the host's, with `patches` and `patches_replace`. As in the host's own networks, `block`,
            `block_index` and `original_shape` are written into it for the patches to read; the shape is that of the
            latent as the network has padded it, from which patches count tokens.
        reuse: recalls and keeps what the deep blocks make.
    """

    def __init__(self, transformer_options: dict[str, Any], reuse: Hooks):
        super().__init__(partial(compat.attention, transformer_options=transformer_options))
        self._options, self._reuse = transformer_options, reuse
        self._patches = transformer_options.get("patches", {})
        self._replacements = transformer_options.get("patches_replace", {})
        transformer_options["block_index"] = 0

    def join(self, place: Place, x: Tensor, skip: Tensor) -> Tensor:
        self._options["block"] = place
        for patch in self._patches.get("output_block_patch", []):
            x, skip = patch(x, skip, self._options)
        return super().join(place, x, skip)

    def block(self, place: Place, run: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        if place == ("input", 0):
            self._options["original_shape"] = [len(x), 4, *x.shape[2:]]
        elif place[0] != "output":
            x = self._through("input_block_patch_after_skip", x)  # of the last block, whose output is kept by now
        self._options["block"] = place
        x = super().block(place, run, x)
        return self._through("input_block_patch", x) if place[0] == "input" else x

    def recall(self) -> Tensor | None:
        features = self._reuse.recall()
        return None if features is None else self._own(features)

    def keep(self, features: Tensor) -> None:
        self._reuse.keep(self._own(features))

    def _own(self, features: Tensor) -> Tensor:
        """Patches may write into what goes into a block on the way up."""
        return features.clone() if "output_block_patch" in self._patches else features

    @property
    def changes_nothing(self) -> bool:
        """Whether there is neither a patch nor an attention of another node's, so that like inputs have like outputs."""
        return not (self._patches or self._replacements or "optimized_attention_override" in self._options)

    @property
    def sees_tokens(self) -> bool:  # type: ignore[override]  # the core's hooks have a plain attribute
        """Whether a patch of attention is there; patches expect all frames of both guided halves."""
        return any(name.startswith("attn") for name in (*self._patches, *self._replacements))

    def attend(
        self, layer: MultiHeadAttention, x: Tensor, context: Tensor, keys_values: tuple[Tensor, Tensor] | None = None
    ) -> Tensor:
        if layer.over == "frames":
            return super().attend(layer, x, context)
        name = "attn1" if layer.over == "places" else "attn2"
        changes = self._patches.get(f"{name}_patch", [])
        replacements = self._replacements.get(name, {})
        place = self._options["block"]
        replacement = replacements.get((*place, self._options["block_index"]), replacements.get(place))
        self._options |= {"n_heads": layer.heads, "dim_head": x.shape[-1] // layer.heads, "attn_precision": None}
        if changes or replacement:
            queries, keys, values = x, context, context
            if layer.over == "context":  # once a frame, as patches expect it
                keys = values = context.repeat_interleave(len(x) // len(context), dim=0)
            for patch in changes:
                queries, keys, values = patch(queries, keys, values, self._options)
            q, k, v = layer.to_q(queries), layer.to_k(keys), layer.to_v(values)
            attended = replacement(q, k, v, self._options) if replacement else self.attention(q, k, v, layer.heads)
            y = layer.to_out(attended)
        else:
            y = super().attend(layer, x, context, keys_values)
        for patch in self._patches.get(f"{name}_output_patch", []):
            y = patch(y, self._options)
        return y

    def _through(self, name: str, x: Tensor) -> Tensor:
        for patch in self._patches.get(name, []):
            x = patch(x, self._options)
        return x
