"""Finds one network among a file's tensors, whatever stands in front of its names, and in whatever form its weights are."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence

from torch import Tensor

from ..errors import CheckpointError
from .check import named
from .scaled import unscaled
from .unet_keys import CONTROL

logger = logging.getLogger("i2vgen_xl")


def network_tensors(state: Mapping[str, Tensor], signs: Sequence[str], what: str) -> dict[str, Tensor]:
    """One network's tensors by their own names, and its weights multiplied by their scales (see scaled.unscaled).

    A wrapper (`module.`, `_orig_mod.`), a whole checkpoint (`model.diffusion_model.`, `cond_stage_model.`) or a trainer
    puts a prefix in front of every name. It is what stands before a name that the network always has. Where more than one
    network is there, a moving average (a prefix with the word `ema`) goes before the weights that were trained.

    Args:
        state: all tensors of a file.
        signs: names that the network has, one for each layout.
        what: the network, for people.

    Returns:
        What is beneath the prefix; everything where none of the names is there.

    Raises:
        CheckpointError: more than one such network, or weights whose scales are not known.
    """
    found = _prefixes(state, signs)
    averages = [prefix for prefix in found if "ema" in re.split(r"[._]", prefix.lower())]
    chosen = averages or found
    if len(chosen) > 1:
        places = ", ".join(repr(named(prefix)) for prefix in chosen[:4])
        raise CheckpointError(
            what, "one in a file", f"{len(chosen)}, beneath {places}", "Save the one that you want alone."
        )
    if len(found) > 1:
        logger.info("%s: the moving average is taken, beneath %r", what, named(chosen[0]))
    prefix = chosen[0] if chosen else ""
    return unscaled({key[len(prefix) :]: value for key, value in state.items() if key.startswith(prefix)}, what)


def _prefixes(state: Mapping[str, Tensor], signs: Sequence[str]) -> list[str]:
    """What stands before one of the signs, the longest that a name ends with; whole words of names, each once."""
    found: dict[str, None] = {}
    for key in state:
        fitting = [sign for sign in signs if key == sign or key.endswith(f".{sign}")]
        if fitting:
            found[key[: -len(max(fitting, key=len))]] = None
    return [prefix for prefix in found if not prefix.endswith(CONTROL) or prefix[: -len(CONTROL)] not in found]
