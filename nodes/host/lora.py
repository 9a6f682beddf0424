"""LoRA files in the host's own loaders: names that it does not know of our networks, alphas that a file says in its metadata,
and files of which nothing fits.

The host makes its map of names from each architecture that it knows (comfy.lora.model_lora_keys_unet) and has no place where
another model could add to it. The functions of this file stand in front of the host's, and change nothing for other models.
"""

from __future__ import annotations

from functools import wraps
from typing import Any

import comfy.lora
import comfy.sd
import torch
from torch import Tensor

from ...i2vgen_core.checkpoints.lora_keys import OURS, in_our_names, layers_by_name, with_alphas
from ...i2vgen_core.errors import InputError
from .models import VideoModel


class _Names(dict[str, Any]):
    """The host's map from names in a file to keys of one of our models, which knows what model that is."""

    def __init__(self, names: dict[str, Any], model: VideoModel):
        super().__init__(names)
        self.title = model.release.title
        self.network: dict[str, torch.Size] = {k: v.shape for k, v in model.diffusion_model.state_dict().items()}
        for layer in layers_by_name(self.network).values():
            if layer.rows:  # the host's form of a part of a weight's rows: axis, first, number
                self[OURS + layer.name] = (OURS + layer.weight, (0, *layer.rows))


def install() -> None:
    """Puts the functions in front of the host's."""
    keys_of, load = comfy.lora.model_lora_keys_unet, comfy.lora.load_lora
    load_for_models = comfy.sd.load_lora_for_models

    @wraps(keys_of)
    def model_lora_keys_unet(model: Any, key_map: dict[str, Any] | None = None) -> dict[str, Any]:
        names = keys_of(model, {} if key_map is None else key_map)
        return _Names(names, model) if isinstance(model, VideoModel) else names

    @wraps(load)
    def load_lora(lora: dict[str, Tensor], to_load: dict[str, Any], log_missing: bool = True) -> dict[str, Any]:
        if not isinstance(to_load, _Names):
            return load(lora, to_load, log_missing)
        loaded = load(in_our_names(lora, to_load.network), to_load, log_missing)
        if log_missing and not loaded:  # of a hook, a part may be for CLIP alone
            found = f"{', '.join(list(lora)[:2])[:160]} and {len(lora)} in all, which fit no layer by name and size"
            remedy = "Choose a LoRA that was trained on this network."
            raise InputError("LoRA file", f"one of {to_load.title}", found, remedy)
        return loaded

    @wraps(load_for_models)
    def load_lora_for_models(model: Any, clip: Any, lora: dict[str, Tensor], *strengths: float, **more: Any) -> Any:
        if isinstance(getattr(model, "model", None), VideoModel):  # older hosts read no metadata
            lora = with_alphas(lora, more.get("lora_metadata") or {})
        return load_for_models(model, clip, lora, *strengths, **more)

    comfy.lora.model_lora_keys_unet, comfy.lora.load_lora = model_lora_keys_unet, load_lora
    comfy.sd.load_lora_for_models = load_lora_for_models
