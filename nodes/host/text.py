"""Prompts from the host's own text models, and what is wrong with a prompt, said below the block."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ...i2vgen_core.encoders.prompt import CAPTION, as_caption, check_prompt
from ...i2vgen_core.errors import InputError
from ...i2vgen_core.media.images import check_images
from .notes import write_notes

_LONGEST = 256
"""Tokens that a text model may answer."""


def help_with(words: str, text_model: Any, image: Tensor | None) -> tuple[str, str]:
    """A prompt and the hints on it.

    Args:
        words: what the user has written.
        text_model: a text model of the host's, which makes a caption of them; None: the words are the prompt.
        image: the picture [n, H, W, 3] in 0..1 that the model is shown, the first one; or None.

    Raises:
        InputError: a CLIP that writes no text, or an answer without any.
    """
    prompt = " ".join(words.split())
    if text_model is not None:
        prompt = _caption(prompt, text_model, image)
    hints = check_prompt(prompt, weights=True)
    write_notes(hints, warn=False)
    return prompt, "\n".join(f"- {hint}" for hint in hints) or "Nothing to mend."


def _caption(words: str, text_model: Any, image: Tensor | None) -> str:
    """What the host's Generate Text makes of the words and the picture, as it runs in a graph."""
    remedy = "Load one that writes, such as Gemma or Qwen, or take the wire out."
    try:
        from comfy_extras.nodes_textgen import TextGenerate
    except ImportError:  # before 0.33
        raise InputError(
            "text_model", "a ComfyUI with Generate Text", "one without", "Update it, or take the wire out."
        ) from None
    if not _writes(text_model):
        raise InputError("text_model", "a text model that writes", "a CLIP that only encodes", remedy)
    if image is not None:
        check_images(image)
        image = image[:1]
    request = CAPTION + (words or "something that fits the picture.")
    output = TextGenerate.execute(text_model, request, _LONGEST, {"sampling_mode": "off"}, image=image)
    caption = as_caption(output.args[0])
    if not caption:
        raise InputError("the text model's answer", "a caption", "no text", remedy)
    return caption


def _writes(text_model: Any) -> bool:
    """Whether a CLIP has a language model in it: every encoder of the host's has `generate`, and passes it on to what has none."""
    inner = getattr(text_model, "cond_stage_model", None)
    encoder = getattr(inner, str(getattr(inner, "clip", "")), inner)
    transformer = getattr(encoder, "transformer", None)
    return hasattr(inner, "generate") and (transformer is None or hasattr(transformer, "generate"))
