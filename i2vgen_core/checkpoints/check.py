"""The strict comparison that every load goes through, before any library or host sees the tensors."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from ..errors import CheckpointError

_NAMED = 3


def check_tensors(state: Mapping[str, Tensor], expected: Mapping[str, Tensor], what: str) -> None:
    """Raises CheckpointError unless names and shapes are exactly the expected ones.

    Args:
        state: what was read.
        expected: tensors of the right names and shapes, on meta for example.
        what: the part, for people.
    """
    shapes = {key: list(value.shape) for key, value in expected.items()}
    problems = {
        "missing": [key for key in shapes if key not in state],
        "unknown": [key for key in state if key not in shapes],
        "of a wrong shape": [
            f"{key} {list(value.shape)} instead of {shapes[key]}"
            for key, value in state.items()
            if key in shapes and list(value.shape) != shapes[key]
        ],
    }
    found = "; ".join(
        f"{len(keys)} {name} ({', '.join(keys[:_NAMED])}{', ...' if len(keys) > _NAMED else ''})"
        for name, keys in problems.items()
        if keys
    )
    if found:
        remedy = "The file is damaged or of another model: use the released one."
        raise CheckpointError(what, f"{len(shapes)} tensors", found, remedy)
