"""What CLIP makes of prompts and image: the tokens that the networks read, and a word on those that they do not."""

from __future__ import annotations

from typing import Any

import node_helpers
from torch import Tensor

from ...i2vgen_core.encoders.tokenizer import END
from ...i2vgen_core.errors import InputError, check_finite
from ...i2vgen_core.media.images import check_images, clip_frame
from . import compat, encoders
from .inputs import check_there
from .notes import CROPPED, image_notes, write_notes

_SHOWN = 30  # tokens of what is cut off
_MOST = 20_000  # characters that are cut into tokens; over more of some scripts the host takes seconds


def encode_with_clip(
    clip: Any, clip_vision: Any, image: Tensor, prompt: str, negative_prompt: str, width: int
) -> tuple[Any, Any, Any]:
    """CONDITIONINGs of the prompt, with the image's embedding, and of the negative prompt; and the CLIP_VISION_OUTPUT.

    Args:
        clip: CLIP's text encoder.
        clip_vision: CLIP's image encoder.
        image: [n, h, w, 3] in 0..1; the first one is taken.
        prompt: its first 75 tokens are read.
        negative_prompt: likewise.
        width: of the video in pixels; the image's square is cropped at it. 0: the width that the base of clip_vision's
            loader was released for, I2VGen-XL's for that of another loader.

    Raises:
        InputError: an encoder is missing, or the image or a prompt cannot be read.
    """
    check_there("clip", clip, "Load CLIP")
    check_there("clip_vision", clip_vision, "Load CLIP Vision")
    check_images(image)
    width = width or encoders.own_width(clip_vision)
    vision = clip_vision.encode_image(clip_frame(image[:1], width, clip_vision.image_size))
    positive, negative = encode_prompts(
        clip, {"prompt": prompt, "negative_prompt": negative_prompt}, image_notes(image)
    )
    seen = {"clip_vision_output": vision, "strength": 1.0, "noise_augmentation": 0.0, CROPPED: width}
    return node_helpers.conditioning_set_values(positive, {"unclip_conditioning": [seen]}), negative, vision


def encode_prompts(clip: Any, prompts: dict[str, str], notes: list[str]) -> list[Any]:
    """A CONDITIONING of each prompt's first 75 tokens. What is cut off is written below the block.

    Args:
        clip: a CLIP.
        prompts: by the names of their inputs.
        notes: what is to be written besides.

    Raises:
        InputError: brackets nested too deeply, an embedding without a name, or weights that leave no finite numbers.
    """
    sides, notes = [], list(notes)
    for name, prompt in prompts.items():
        tokens = _tokens(clip, name, prompt[:_MOST])
        if note := _cut_off(clip, tokens):
            notes.append(f"{name}: {note}")
        if len(prompt) > _MOST:
            notes.append(f"{name}: what comes after its first {_MOST} characters is not read")
        side = clip.encode_from_tokens_scheduled({key: chunks[:1] for key, chunks in tokens.items()})
        for text, _ in side:
            check_finite(f"the encoded {name}", text, "Use weights such as (fox:1.2), and a CLIP that is whole.")
        sides.append(side)
    write_notes(notes)
    return sides


def _tokens(clip: Any, name: str, prompt: str) -> dict[str, list[list[Any]]]:
    try:
        return clip.tokenize(prompt)
    except RecursionError:
        expected, found = "brackets that are nested a few deep, for weights", f"{prompt.count('(')} opening ones"
        remedy = r"Take some out; a plain bracket is written \( or \)."
    except IndexError:  # the host's, at a bare "embedding:"
        expected, found = "a file's name after each 'embedding:'", "one without"
        remedy = "Name an embedding's file there, or take the word out."
    raise InputError(name, expected, found, remedy)


def _cut_off(clip: Any, tokens: dict[str, list[list[Any]]]) -> str:
    """What of the host's chunks of 75 tokens comes after the first; empty if nothing does."""
    chunks = next(iter(tokens.values()))
    rest = [token for chunk in chunks[1:] for token in _words(chunk)]
    if not rest:
        return ""
    more = "..." if len(rest) > _SHOWN else ""
    return f"{len(rest)} tokens after the first 75 are not read: {compat.text_of(clip, rest[:_SHOWN])}{more}"


def _words(chunk: list[Any]) -> list[int]:
    """Tokens of a chunk between its start and its end, without embeddings from files."""
    tokens = [token for token, *_ in chunk if isinstance(token, int)]
    return tokens[1 : tokens.index(END) if END in tokens else None]
