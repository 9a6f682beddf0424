"""Videos that are longer than a network was trained on, in windows that overlap."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from ..errors import InputError
from ..media.tiles import sliding_windows
from ..releases import Joining

Share = Callable[[int], Tensor]
"""share(overlap): how much the later of two windows has of each of the frames that they share, [overlap] in 0..1."""

Around = Callable[[Callable[[], Tensor]], Tensor]
"""around(make): stands around the evaluation of each of several windows, which `make` runs. What it gives is taken for the
window's estimate; what it raises ends the run."""


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


def refiner_windows(frames: int, window: int, joining: Joining, inserted: int = 0) -> list[range]:
    """The windows of a refiner's video, half of which overlaps, none of which is short: the last is longer than the others
    where little is left (STAR and VEnhancer, both video_to_video_model.py: make_chunks).

    Args:
        frames: of the video.
        window: the most frames of a window but the last; 0 for all frames in one. From 33 to 40 frames STAR's program stops
            with an error for 32; here they are one window.
        joining: how they are to be joined: VEnhancer's, which blends, lets the last be longer.
        inserted: frames between two key frames: each window begins on a key frame.

    Raises:
        InputError: a window that has no room for two key frames and an overlap.
    """
    if not window or frames <= window:
        return [range(frames)]
    each = inserted + 1
    size = (window - 1) // each * each + 1
    overlap = math.floor((window / 2 - 1) / each) * each + 1
    if not 0 <= overlap < size:
        found = f"{window} frames with {inserted} inserted"
        raise InputError("windows", "room for two key frames and those between", found, "Use windows of 32 frames.")
    longest = 1.25 * size if joining == "cut" else max(size, round(1.33 * size))
    return sliding_windows(frames, size, overlap, longest)


def key_frames(frames: int, inserted: int) -> Tensor:
    """For each frame the number of its key frame, or -1 where it was inserted: [frames]."""
    numbers = torch.arange(frames)
    return torch.where(numbers % (inserted + 1) == 0, numbers // (inserted + 1), -1)


def share_of(joining: Joining, generator: torch.Generator) -> Share:
    """How windows are joined.

    Args:
        joining: `cut` in the middle of what they share (STAR), `blend` from one to the other (VEnhancer), whose first frame is
            the earlier's alone; or `random`: cut at a frame that is drawn anew each time (arXiv 2403.14773, section 3.3).
        generator: of what is drawn.
    """

    def cut(overlap: int) -> Tensor:
        return (torch.arange(overlap) >= overlap // 2).float()

    def blend(overlap: int) -> Tensor:
        return torch.arange(overlap) / overlap

    def random(overlap: int) -> Tensor:
        return (torch.arange(overlap) >= torch.randint(overlap + 1, (), generator=generator)).float()

    return {"cut": cut, "blend": blend, "random": random}[joining]


def join_windows(
    x: Tensor,
    windows: Sequence[range],
    share: Share,
    predict: Callable[[Tensor, int], Tensor],
    around: Around | None = None,
) -> Tensor:
    """A video's estimate from those of its windows, each made by itself.

    Args:
        x: [frames, ...].
        windows: in order, each with frames of the one before it.
        share: see Share.
        predict: of a window's frames and its number, the estimate.
        around: see Around; not called for a single window.

    Returns:
        Of x's shape.
    """
    if len(windows) == 1:
        return predict(x, 0)
    joined = torch.empty_like(x)
    for number, window in enumerate(windows):
        make = partial(predict, x[window.start : window.stop], number)
        made = make() if around is None else around(make)
        overlap = windows[number - 1].stop - window.start if number else 0
        if overlap > 0:
            later = share(overlap).to(made).view(-1, *[1] * (x.ndim - 1))
            before = joined[window.start : window.start + overlap]
            joined[window.start : window.start + overlap] = (1 - later) * before + later * made[:overlap]
        joined[window.start + max(0, overlap) : window.stop] = made[max(0, overlap) :]
    return joined


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
