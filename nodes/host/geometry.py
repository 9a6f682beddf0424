"""Conditions that carry the geometry of what they were made for, so that they can be cut, repeated and moved.

Beside the host, other packs cut conditions into windows of frames and tiles of places, repeat them to the rows of a batch,
and slide over the latent, by sizes alone. So three small conditions go through the same hands as the others, and say of each
frame which video it is of, of each place where it lies, and of each context whose it is. What is evaluated is read from
them, never from a ratio of lengths; where they do not fit together, a sentence says so.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import comfy.conds
import torch
from torch import Tensor

from ...i2vgen_core.errors import InputError

_numbers = itertools.count(1)

_REMEDY = "Take out the node that cuts or repeats the frames: it gives the network pieces that are not whole clips."


class Piece(NamedTuple):
    """What one clip of an evaluation is a piece of.

    Args:
        condition: the number of the conditioning that it runs under; None if it is not known.
        frames: of that conditioning's video, in the clip's order.
        places: its first and last place there, counted by rows; None if the latent was cut without its conditions.
    """

    condition: int | None
    frames: tuple[int, ...]
    places: tuple[int, int] | None


class PerVideo(comfy.conds.CONDCrossAttn):
    """A condition that is there once a video, not repeated for each frame. Of two lengths, the shorter is repeated as
    the host does, which changes no attention."""

    def process_cond(self, batch_size: int, **_: Any) -> PerVideo:
        return self._copy_with(self.cond)


class PerVideoNumber(comfy.conds.CONDRegular):
    """The same of numbers, [1] or [1, n]."""

    def process_cond(self, batch_size: int, **_: Any) -> PerVideoNumber:
        return self._copy_with(self.cond)


class Rows(comfy.conds.CONDRegular):
    """Of each frame [f, 4] its conditioning's number, its number in that one's video, its number in its clip, and the
    clip's length. Rows that are taken out of it become a clip of their own."""

    def _copy_with(self, cond: Tensor) -> Rows:
        if not _repeats(self.cond, cond):
            cond = cond.clone()
            cond[:, 2] = torch.arange(len(cond), dtype=cond.dtype, device=cond.device)
            cond[:, 3] = len(cond)
        return Rows(cond)

    def process_cond(self, batch_size: int, **_: Any) -> Rows:
        return Rows(_to_batch(self.cond, batch_size))


class Places(comfy.conds.CONDRegular):
    """Of each place of each frame [f, 1, 1, h, w] its number, by rows. It has five axes, since one pack fails on what has
    the latent's size and four; who leaves it as it is, has cut the latent at places that nobody knows."""

    def process_cond(self, batch_size: int, area: Any = None, **_: Any) -> Places:
        return Places(_to_batch(_of_area(self.cond, area), batch_size))


class FrameValues(comfy.conds.CONDNoiseShape):
    """Values of each frame and place [f, c, h, w] that are the same whatever is taken out beside them."""

    def process_cond(self, batch_size: int, area: Any = None, **_: Any) -> FrameValues:
        return self._copy_with(_to_batch(_of_area(self.cond, area), batch_size))


class Details(comfy.conds.CONDNoiseShape):
    """Detail features of a video [f, 4, h, w]. Rows that are taken out of them become those of a clip of their number,
    which begin with the image's own: without, all windows but the first would know the image by its tokens alone, and
    lose its content.

    Args:
        cond: the features.
        encode: makes those of a clip of so many frames; None for a piece of a frame, which cannot be cut in time.
    """

    def __init__(self, cond: Tensor, encode: Callable[[int], Tensor] | None = None):
        super().__init__(cond)
        self._encode = encode
        self._clips: dict[int, Tensor] = {len(cond): cond}

    def of_clip(self, frames: int) -> Details:
        """Those of a clip of so many frames."""
        if frames not in self._clips:
            if self._encode is None:
                found = f"{frames} of the {len(self.cond)} frames of a tile"
                raise InputError("the image's details", "all frames of a tile", found, _REMEDY)
            self._clips[frames] = self._encode(frames)
        return Details(self._clips[frames], self._encode)

    def _copy_with(self, cond: Tensor) -> Details:
        if cond.shape[1:] != self.cond.shape[1:]:
            if len(cond) != len(self.cond):
                found = f"{list(cond.shape)} of {list(self.cond.shape)}"
                raise InputError("the image's details", "a cut in time or in place", found, _REMEDY)
            return Details(cond)
        whole = len(cond) // len(self.cond) if _repeats(self.cond, cond) else 0
        clip = self.of_clip(len(self.cond) if whole else len(cond))
        return Details(torch.cat([clip.cond] * max(1, whole)).to(cond), self._encode)

    def process_cond(self, batch_size: int, area: Any = None, **_: Any) -> Details:
        return Details(_to_batch(_of_area(self.cond, area), batch_size))


class Frames(comfy.conds.CONDNoiseShape):
    """What stands beside the noise of a video's frames, or in front of the video beside each of them [f, c, h, w], where each
    frame has its own. Rows that are taken out of it become those of a video of these frames alone.

    Args:
        cond: the features.
        encode: makes those of these frames of the video, which know of each other alone; None for a piece of a frame, which
            cannot be cut in time.
        made: by their numbers, those that have been made.
    """

    def __init__(
        self,
        cond: Tensor,
        encode: Callable[[list[int]], Tensor] | None = None,
        made: dict[tuple[int, ...], Tensor] | None = None,
    ):
        super().__init__(cond)
        self._encode = encode
        self._made = {} if made is None else made

    def of_frames(self, rows: list[int]) -> Frames:
        """Those of a window."""
        if self._encode is None:
            found = f"{len(rows)} of the {len(self.cond)} frames of a tile"
            raise InputError("what stands beside the noise", "all frames of a tile", found, _REMEDY)
        key = tuple(rows)
        if key not in self._made:
            self._made[key] = self._encode(rows).to(self.cond)
        # These are numbered anew: who cuts them again, has them of a video of these frames.
        return type(self)(self._made[key], lambda again: self.of_frames([rows[row] for row in again]).cond)

    def _copy_with(self, cond: Tensor) -> Frames:
        if cond.shape[1:] != self.cond.shape[1:]:
            if len(cond) != len(self.cond):
                found = f"{list(cond.shape)} of {list(self.cond.shape)}"
                raise InputError("what stands beside the noise", "a cut in time or in place", found, _REMEDY)
            return type(self)(cond)
        if torch.equal(cond, self.cond.to(cond)):
            return type(self)(cond, self._encode, self._made)
        if _repeats(self.cond, cond):
            return type(self)(cond)
        return self.of_frames(self._rows_of(cond))

    def _rows_of(self, cond: Tensor) -> list[int]:
        """Which frames these are; of frames that are alike, those that follow each other."""
        whole, rows = self.cond.to(cond), [-1]
        for row in cond:
            following = [(rows[-1] + 1 + number) % len(whole) for number in range(len(whole))]
            found = next((number for number in following if torch.equal(whole[number], row)), None)
            if found is None:
                raise InputError("what stands beside the noise", "that of the video's frames", "other values", _REMEDY)
            rows.append(found)
        return rows[1:]

    def process_cond(self, batch_size: int, area: Any = None, **_: Any) -> Frames:
        cond = _to_batch(_of_area(self.cond, area), batch_size)
        return self if cond is self.cond else type(self)(cond)


class FrameTokens(Frames):
    """Tokens of each frame [f, n, d], which have no place: an area reads them all."""

    def process_cond(self, batch_size: int, area: Any = None, **_: Any) -> Frames:
        return super().process_cond(batch_size)


def fit(latent: Tensor, size: torch.Size) -> Tensor:
    """A picture's latent at the size being sampled, where a graph has resized between the blocks."""
    if latent.shape[-2:] == size:
        return latent
    return torch.nn.functional.interpolate(latent.float(), size=tuple(size), mode="bilinear").to(latent.dtype)


def conditions(frames: int, height: int, width: int, device: Any) -> dict[str, comfy.conds.CONDRegular]:
    """The geometry of a conditioning that is made for a latent of this size: `rows`, `places` and `owner`."""
    whole = {"dtype": torch.int32, "device": device}  # the host casts all other numbers to the network's type
    number, order = next(_numbers), torch.arange(frames, **whole)
    rows = torch.stack([torch.full_like(order, number), order, order, torch.full_like(order, frames)], dim=1)
    places = torch.arange(height * width, **whole).view(1, 1, 1, height, width).expand(frames, -1, -1, -1, -1)
    return {
        "rows": Rows(rows),
        "places": Places(places),
        "owner": PerVideoNumber(torch.tensor([[number]], **whole)),
    }


def pieces_of(
    x: Tensor, context: Tensor, rows: Tensor | None, places: Tensor | None, owner: Tensor | None
) -> tuple[list[Piece], list[int]]:
    """What an evaluation of x [(b f), 4, h, w] is of: its b clips, and the row of the context that each reads.

    Args:
        x: one or more clips of like length behind each other.
        context: [n, ...], each row for one or more of the clips.
        rows, places, owner: what has become of `conditions` on the way; all None without, where x is one clip.

    Raises:
        InputError: they do not tell whole clips, or whose contexts these are.
    """
    if rows is None or owner is None:
        if len(context) != 1:
            found = f"{len(context)} of them, and nothing that says whose they are"
            raise InputError("conditioning", "one, or the geometry of each", found, _REMEDY)
        return [Piece(None, tuple(range(len(x))), None)], [0]
    _check(len(rows) == len(x), "the network's batch", f"the {len(rows)} frames of its conditions", f"{len(x)}")
    _check(len(owner) == len(context), "the network's contexts", f"{len(owner)}, as its conditions", f"{len(context)}")
    corners = None
    if places is not None and places.shape[-2:] == x.shape[-2:] and len(places) == len(x):
        corners = torch.stack([places[:, 0, 0, 0, 0], places[:, 0, 0, -1, -1]], dim=1)
    table, owners, corners_of = _numbers_of(rows, owner, corners)

    length, clips = table[0][3], []
    _check(len(table) % length == 0, "the network's batch", f"clips of {length} frames", f"{len(x)} frames in all")
    for first in range(0, len(table), length):
        clip = table[first : first + length]
        condition = clip[0][0]
        expected = [[condition, place, length] for place in range(length)]
        if [[number, place, of] for number, _, place, of in clip] != expected:
            numbers = ", ".join(f"{place + 1} of {of}" for _, _, place, of in clip[:4])
            raise InputError("the network's batch", f"whole clips of {length} frames", f"frames {numbers}", _REMEDY)
        seen = None if corners_of is None else (corners_of[first][0], corners_of[first][1])
        clips.append(Piece(condition, tuple(frame for _, frame, _, _ in clip), seen))

    known = {number: row for row, (number,) in reversed(list(enumerate(owners)))}
    missing = [clip.condition for clip in clips if clip.condition not in known]
    _check(not missing, "the network's contexts", "one of each clip's conditioning", f"{len(missing)} clips without")
    return clips, [known[clip.condition] for clip in clips if clip.condition is not None]


def of_clips(reads: Sequence[int], conditions: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What each clip reads of each condition, by the rows that `pieces_of` says; those that are read whole and in their order
    are the same tensors."""
    rows = list(reads)
    return {name: each if rows == list(range(len(each))) else each[rows] for name, each in conditions.items()}


def _check(right: bool, what: str, expected: str, found: str) -> None:
    if not right:
        raise InputError(what, expected, found, _REMEDY)


def _numbers_of(*tensors: Tensor | None) -> list[Any]:
    """The tensors [n, m] as lists, with one transfer from their device."""
    there = [each for each in tensors if each is not None]
    values = torch.cat([each.flatten() for each in there]).tolist()
    lists: list[Any] = []
    for each in tensors:
        if each is None:
            lists.append(None)
            continue
        own, values = values[: each.numel()], values[each.numel() :]
        lists.append([own[i : i + each.shape[1]] for i in range(0, len(own), each.shape[1])])
    return lists


def _repeats(whole: Tensor, cond: Tensor) -> bool:
    """Whether cond is the whole, once or more times in a row."""
    times, left = divmod(len(cond), len(whole))
    return times > 0 and not left and all(torch.equal(each, whole.to(cond)) for each in cond.split(len(whole)))


def _of_area(cond: Tensor, area: Sequence[int] | None) -> Tensor:
    """The part of [..., h, w] in an area of the host's: height, width, and where it begins."""
    if area is None:
        return cond
    height, width, top, left = area
    return cond[..., top : top + height, left : left + width]


def _to_batch(cond: Tensor, size: int) -> Tensor:
    """Whole repeats of the rows to a batch of this size; where there are none, as it is, which the network says."""
    times, left = divmod(size, len(cond))
    return cond if left or times < 2 else torch.cat([cond] * times)
