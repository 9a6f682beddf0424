"""What a CONDITIONING holds, and what a network of the cascade makes of it."""

from __future__ import annotations

from typing import Any

import comfy.model_management
import torch
from torch import Tensor

from ...i2vgen_core.config import TEXT_TOKENS, VAE_SCALE
from ...i2vgen_core.errors import InputError
from ...i2vgen_core.media.inspection import Parts, inspect, split_context
from ...i2vgen_core.network.image_conditioning import position_ramp
from .inputs import check_conditioning
from .models import CONDITION, VideoCondition, cascade_model, image_embedding

_PLACES = 8, 8  # height and width of a latent where the conditioning says none


def draw(positive: Any, negative: Any = None, model: Any = None) -> tuple[Tensor, str]:
    """Picture [1, h, 1024, 3] in 0..1 and Markdown table of what a network reads of one or two CONDITIONINGs.

    Args:
        positive: a CONDITIONING.
        negative: the other side; None: the first alone.
        model: see parts_of.

    Raises:
        InputError: see parts_of.
    """
    picture, table = inspect(*(parts_of(side, model) for side in (positive, negative) if side is not None))
    return picture[None], table


@torch.no_grad()
def parts_of(conditioning: Any, model: Any = None) -> Parts:
    """The first conditioning's parts.

    Args:
        conditioning: a CONDITIONING.
        model: a MODEL of this pack, to have the parts as it reads them; it is loaded. None: as the blocks made them.

    Raises:
        InputError: the conditioning is empty or not for this model, or the model is not of this pack.
    """
    check_conditioning("conditioning", conditioning)
    text, extra = conditioning[0]
    if text is not None and (text.ndim != 3 or not text.numel()):
        remedy = "Wire in a conditioning of CLIP's, as Global Encode and CLIP Text Encode give it."
        raise InputError("text conditioning", "tokens [1, n, width]", f"{list(text.shape)}", remedy)
    found = extra.get(CONDITION)
    condition = found if isinstance(found, VideoCondition) else None
    if model is not None:
        return _as_read(text, extra, found, model)
    seen = extra.get("unclip_conditioning")
    details = global_tokens = None
    if condition is not None and condition.image_latent is not None and condition.global_tokens is not None:
        details = position_ramp(condition.image_latent.float() * VAE_SCALE, condition.frames)[0]
        global_tokens = condition.global_tokens[0].float()
    return Parts(
        text=None if text is None else text[0, :TEXT_TOKENS].float(),
        global_tokens=global_tokens,
        image=image_embedding(seen).float() if seen else None,
        details=details,
        projected=False,
    )


def _as_read(text: Any, extra: dict[str, Any], condition: Any, model: Any) -> Parts:
    network = cascade_model(model).model.network
    comfy.model_management.load_models_gpu([model])
    frames = condition.frames if condition else 1
    height, width = getattr(condition, "places", None) or _PLACES
    device = model.load_device
    noise = torch.zeros(frames, network.in_channels, height, width, device=device)
    conds = model.model.extra_conds(
        **{**extra, "cross_attn": None if text is None else text.to(device), "noise": noise, "device": device}
    )
    details = conds["details"].cond.float().cpu() if "details" in conds else None
    return split_context(conds["c_crossattn"].cond[0].float().cpu(), details, network)
