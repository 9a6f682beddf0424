"""Videos that are longer than a network was trained on, in windows that overlap."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..errors import InputError


def window_ranges(frames: int, size: int, overlap: int) -> list[range]:
    """The windows of a video: all of it where it is no longer than one, else windows that share `overlap` frames, the last of
    them at the end (UniAnimate, diffusion_ddim.py: context_scheduler and p_mean_variance).

    Args:
        frames: of the video, 1 or more.
        size: frames of a window, 1 or more.
        overlap: 0 to size - 1.
    """
    if size < 1 or not 0 <= overlap < size:
        found = f"{size} frames of which {overlap} overlap"
        raise InputError("windows", "an overlap of fewer frames than a window has", found, "Use 32 and 8.")
    if frames <= size:
        return [range(frames)]
    starts = list(range(0, frames - overlap, size - overlap))
    return [range(start, start + size) for start in (*starts[:-1], frames - size)]


def over_windows(x: Tensor, windows: Sequence[range], predict: Callable[[Tensor, int], list[Tensor]]) -> list[Tensor]:
    """Velocities of a video from those of its windows: of each frame the mean over the windows that see it.

    Args:
        x: [frames, ...].
        windows: which together hold all frames.
        predict: of a window's frames and its number, the velocities under each condition.

    Returns:
        One for each condition, of x's shape.
    """
    if len(windows) == 1:
        return predict(x, 0)
    sums: list[Tensor] = []
    seen = torch.zeros(len(x), *[1] * (x.ndim - 1), device=x.device)
    for number, window in enumerate(windows):
        rows = slice(window.start, window.stop)
        velocities = predict(x[rows], number)
        sums = sums or [torch.zeros_like(x, dtype=torch.float32) for _ in velocities]
        for total, velocity in zip(sums, velocities, strict=True):
            total[rows] += velocity.float()
        seen[rows] += 1
    return [total / seen for total in sums]
