"""CLIP's tokens, as open_clip makes them."""

from __future__ import annotations

import html
import logging
from collections.abc import Sequence
from pathlib import Path

import ftfy
import torch
import transformers
from torch import Tensor

from ..config import TEXT_TOKENS
from ..errors import CheckpointError

VOCABULARY = Path(__file__).parents[1] / "assets" / "tokenizer"
VOCABULARY_SIZE = 49408
START, END, PAD = 49406, 49407, 0
_SHOWN = 120  # characters of what is cut off

logger = logging.getLogger("i2vgen_xl")


class Tokenizer:
    """CLIP's byte-pair encoding as open_clip runs it, text cleaning and padding with 0 included.

    Args:
        folder: vocab.json and merges.txt, or tokenizer.json; the project's own copy if None or not there. What the
            folder says of padding and length is not followed: the published one pads with the end token.
        length: tokens of one prompt.

    Raises:
        CheckpointError: the folder holds another vocabulary.
    """

    def __init__(self, folder: Path | None = None, length: int = TEXT_TOKENS):
        self.length = length
        folder = folder if folder is not None and folder.is_dir() else VOCABULARY
        what, expected = f"tokenizer folder {folder.name}", f"CLIP's {VOCABULARY_SIZE} tokens"
        remedy = "Use CLIP's vocab.json and merges.txt, or remove the folder to use the built-in ones."
        try:
            kind = transformers.CLIPTokenizerFast  # type: ignore[attr-defined]  # in 5 an alias that its types hide
            self._bpe = kind.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError, ImportError) as error:  # ImportError: transformers 4, on a broken vocabulary
            raise CheckpointError(what, expected, " ".join(str(error).split())[:200], remedy) from error
        if self._bpe.vocab_size != VOCABULARY_SIZE or self._bpe("").input_ids != [START, END]:
            raise CheckpointError(what, expected, f"{self._bpe.vocab_size} tokens", remedy)

    def __call__(self, prompts: list[str], whose: Sequence[str] = (), added: str = "") -> Tensor:
        """Tokens int64 [B, length]: start, text cut to fit, end, zeros. What is cut off is logged.

        Args:
            prompts: of any length.
            whose: what the log calls each of them.
            added: what a release has added to the end of a prompt. Where that alone is cut, nobody needs a warning.
        """
        texts = [_plain(prompt) for prompt in prompts]
        rows = self._bpe(
            texts,
            truncation=True,
            max_length=self.length,
            padding=False,
            split_special_tokens=True,
            return_offsets_mapping=True,
        )
        tokens = torch.full((len(texts), self.length), PAD, dtype=torch.int64)
        names = whose or ["a prompt"] * len(texts)
        for row, ids, places, text, name in zip(tokens, rows.input_ids, rows.offset_mapping, texts, names, strict=True):
            row[: len(ids)] = torch.tensor(ids)
            if len(ids) == self.length and (rest := text[places[-2][1] :].strip()):
                shown = rest if len(rest) <= _SHOWN else rest[:_SHOWN] + "..."
                if added and _plain(added).endswith(rest):
                    said = "%s: of the words that its release adds, those after the first %d tokens are not read: %s"
                    logger.info(said, name, self.length - 2, shown)
                else:
                    logger.warning(
                        "%s: what comes after the first %d tokens is not read: %s", name, self.length - 2, shown
                    )
        return tokens

    def cut_off(self, prompt: str) -> str:
        """The end of a prompt that is not read, in lower case; empty if all of it is."""
        text = _plain(prompt)
        places = self._bpe(
            text, truncation=True, max_length=self.length, split_special_tokens=True, return_offsets_mapping=True
        ).offset_mapping
        return text[places[-2][1] :].strip() if len(places) == self.length else ""


def _plain(text: str) -> str:
    return " ".join(repaired(text).split()).lower()


def repaired(text: str) -> str:
    """Text with the repairs that open_clip's tokenizer begins with: broken Unicode, and HTML entities."""
    return html.unescape(html.unescape(ftfy.fix_text(text)))
