"""The host's node that scales attention within frames and over time, told which of our layers are which.

It looks for the names that Stable Video Diffusion gives its layers over time, which ours do not have: it would take them for
layers within frames. What stands in front of it here changes nothing for other models.
"""

from __future__ import annotations

from functools import wraps
from typing import Any

from comfy_api.latest import io

from ...i2vgen_core.network.blocks import MultiHeadAttention
from .models import VideoModel


def install() -> None:
    """Puts our own reading of the layers in front of the host's. Hosts before 0.8 have the node in another form, and keep it."""
    from comfy_extras.nodes_attention_multiply import UNetTemporalAttentionMultiply

    found = vars(UNetTemporalAttentionMultiply).get("execute")
    if found is None:
        return
    of_the_host = found.__func__

    @wraps(of_the_host)
    def execute(
        cls: Any,
        model: Any,
        self_structural: float,
        self_temporal: float,
        cross_structural: float,
        cross_temporal: float,
    ) -> Any:
        if isinstance(model.model, VideoModel):
            factors = {"places": self_structural, "context": cross_structural, "frames": self_temporal}
            return io.NodeOutput(scaled(model, factors))
        return of_the_host(cls, model, self_structural, self_temporal, cross_structural, cross_temporal)

    UNetTemporalAttentionMultiply.execute = classmethod(execute)


def scaled(model: Any, factors: dict[str, float]) -> Any:
    """A clone of a MODEL of ours whose attention layers give so much more or less.

    Args:
        factors: by what a layer attends to, see hooks.Over. Both layers over time attend to the frames themselves: none
            reads a context.
    """
    clone = model.clone()
    for name, layer in model.model.diffusion_model.named_modules():
        if isinstance(layer, MultiHeadAttention) and layer.name.over in factors:
            keys = (f"diffusion_model.{name}.to_out.0.{part}" for part in ("weight", "bias"))
            clone.add_patches(dict.fromkeys(keys, (None,)), 0.0, factors[layer.name.over])
    return clone
