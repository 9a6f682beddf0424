"""Prompts to conditionings: the tokens that the networks read, and a word on those that they do not."""

from __future__ import annotations

import logging
from typing import Any

from ...i2vgen_core.tokenizer import END
from . import compat

logger = logging.getLogger("i2vgen_xl")

_SHOWN = 30  # tokens of what is cut off


def encode_prompts(clip: Any, prompts: dict[str, str]) -> list[Any]:
    """A CONDITIONING of each prompt's first 75 tokens. What is cut off is logged, and written below the block.

    Args:
        clip: a CLIP.
        prompts: by the names of their inputs.
    """
    sides, notes = [], []
    for name, prompt in prompts.items():
        tokens = clip.tokenize(prompt)
        if note := _cut_off(clip, tokens):
            notes.append(f"{name}: {note}")
        sides.append(clip.encode_from_tokens_scheduled({key: chunks[:1] for key, chunks in tokens.items()}))
    for note in notes:
        logger.warning(note)
    if notes:
        compat.progress_text("\n".join(notes))
    return sides


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
