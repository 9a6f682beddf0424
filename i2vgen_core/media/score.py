"""What came out: figures of a video that no reference is needed for, so that many seeds can be sorted.

Where a figure is defined as in VBench (Huang et al. 2024, arXiv 2311.17982; github.com/Vchitect/VBench), it has its name:
temporal flickering is the same; motion smoothness is the same formula on frames between two others, which are made with
our optical flow in place of a network; background consistency is the same formula on the features of whatever CLIP is given.
VBench's dynamic degree asks whether the fastest places move by more than 6 pixels in 256; here it is the number itself, by our flow.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn import functional

from ..errors import InputError
from .compare import psnr, sharpness
from .flow import optical_flow, warp
from .images import check_images, cover, luma
from .tables import plain_table

_SIDE, _TOLD = 128, 256  # pixels of the shorter side that motion is measured at, and told in
_FASTEST = 0.05  # share of the places whose motion counts, as in VBench
_SURE = 0.04  # of brightness, up to which a place that has moved may differ; what differs more was not found again
_BORDER = 1 / 16  # of the shorter side, that is left out: what comes in there was not in the frame before
_AT_ONCE = 16  # pairs of frames that flow is found for together
_CLIPPED = 1 / 255  # a channel this near to black or white has lost what lay beyond
_FAR = 0.2  # of the mean colour from the picture's: a frame that is blue, black or white
_WIDTH, _HEIGHT, _LETTER = 960, 200, 24  # of one plot, and of its letters
_LINE, _BAD = (0, 114, 178), (213, 94, 0)


@dataclass(frozen=True)
class Score:
    """Figures of a video of F frames.

    Args:
        motion: mean over the pairs of frames of the mean of the 5 % fastest places, pixels a frame at 256 on the shorter side.
        smoothness: motion smoothness, 0..1: how well every second frame is made of its neighbours; NaN of fewer than 3.
        flicker: temporal flickering, 0..1: 1 minus the mean difference of neighbouring frames. 1 is a still.
        likeness: PSNR of the first frame against the picture, dB; NaN without a picture.
        likeness_to_the_end: cosine similarity of every frame's CLIP features to the picture's, or without one to the first
            frame's, the mean; NaN without features.
        consistency: background consistency, 0..1, by CLIP's features; NaN without.
        sharpness: the mean of the frames' variances of the Laplacian, see `compare.sharpness`.
        clipped: mean share of places where a channel is black or white.
        off_colour: numbers of frames whose mean colour is far from the picture's, or without one from the first frame's:
            blue, black or white ones, as a run that failed has them.
        motions, changes: of each pair of frames, F - 1: motion, and mean difference of 255.
        sharpnesses: of each frame.
        similarities: of each frame, to the picture or the first frame; empty without features.
    """

    motion: float
    smoothness: float
    flicker: float
    likeness: float
    likeness_to_the_end: float
    consistency: float
    sharpness: float
    clipped: float
    off_colour: tuple[int, ...]
    motions: tuple[float, ...]
    changes: tuple[float, ...]
    sharpnesses: tuple[float, ...]
    similarities: tuple[float, ...] = ()

    def row(self) -> dict[str, float | None]:
        """The figures by their names in a table; None for what could not be measured."""
        figures = {
            "motion, px": self.motion,
            "motion smoothness, %": 100 * self.smoothness,
            "temporal flickering, %": 100 * self.flicker,
            "first frame, dB": self.likeness,
            "likeness, %": 100 * self.likeness_to_the_end,
            "background consistency, %": 100 * self.consistency,
            "sharpness": self.sharpness,
            "clipped, %": 100 * self.clipped,
            "frames off colour": float(len(self.off_colour)),
        }
        return {name: None if math.isnan(value) else value for name, value in figures.items()}

    def table(self) -> str:
        """The figures as Markdown, one a line."""
        return plain_table({name: {"value": value} for name, value in self.row().items()}, corner="figure")

    def plot(self) -> Tensor:
        """Plots over the frames [height, 960, 3] in 0..1: motion, change, sharpness, and likeness where it was measured."""
        panels = [
            _panel("motion, pixels a frame", self.motions, 1),
            _panel("change from frame to frame, of 255", self.changes, 1),
            _panel("sharpness", self.sharpnesses, 0, self.off_colour),
        ]
        if self.similarities:
            panels.append(_panel("likeness by CLIP", self.similarities, 0, self.off_colour))
        return torch.from_numpy(np.concatenate(panels)).float() / 255


def score(
    frames: Tensor,
    reference: Tensor | None = None,
    features: Tensor | None = None,
    reference_features: Tensor | None = None,
) -> Score:
    """Measures a video.

    Args:
        frames: [F, H, W, 3] in 0..1, 2 frames or more, 16 pixels a side or more.
        reference: the picture that it was made of, [n, H', W', 3]; of the first, the centre is cropped to the frames' shape as
            the base crops it.
        features: CLIP's of every frame, [F, d].
        reference_features: CLIP's of the picture, [1, d].

    Raises:
        InputError: not such a tensor, or features of another number of frames.
    """
    check_images(frames, "the video")
    count, height, width = frames.shape[:3]
    if count < 2 or min(height, width) < 16:
        found = f"{count} of {width}x{height}"
        raise InputError(
            "the video", "2 frames or more, 16 pixels a side or more", found, "Score a video, not a picture."
        )
    if features is not None and len(features) != count:
        raise InputError("CLIP's features", f"those of {count} frames", f"{len(features)}", "Encode every frame.")
    frames = frames.float()
    picture = frames[:1]
    if reference is not None:
        check_images(reference, "the reference")
        picture = cover(reference[:1].to(frames.device), width, height)
    motions, smoothness = _motion(_reduced(frames))
    changes = [(after - before).abs().mean().item() for before, after in pairwise(frames)]
    colours = torch.stack([frame.mean((0, 1)) for frame in frames])
    far = (colours - picture.mean((0, 1, 2))).abs().amax(1) > _FAR
    clipped = [((each <= _CLIPPED) | (each >= 1 - _CLIPPED)).any(2).float().mean().item() for each in frames]
    sharp = torch.cat([sharpness(part) for part in frames.split(_AT_ONCE)]).tolist()
    similarities, consistency = _consistency(features, reference_features)
    return Score(
        motion=_mean(motions),
        smoothness=smoothness,
        flicker=1 - _mean(changes),
        likeness=math.nan if reference is None else psnr(frames[:1], picture),
        likeness_to_the_end=_mean(similarities),
        consistency=consistency,
        sharpness=_mean(sharp),
        clipped=_mean(clipped),
        off_colour=tuple(far.nonzero()[:, 0].tolist()),
        motions=tuple(motions),
        changes=tuple(255 * change for change in changes),
        sharpnesses=tuple(sharp),
        similarities=tuple(similarities),
    )


def scores_table(scores: dict[str, Score]) -> str:
    """The figures of several videos as Markdown, a line each."""
    return plain_table({name: each.row() for name, each in scores.items()}, corner="video")


def _reduced(frames: Tensor) -> Tensor:
    """The luma at which motion is measured [F, h, w]; a picture that is smaller stays as it is."""
    grey = torch.cat([luma(part).float() for part in frames.split(_AT_ONCE)])[:, None]
    scale = _SIDE / min(grey.shape[-2:])
    if scale < 1:
        size = [max(1, round(side * scale)) for side in grey.shape[-2:]]
        grey = functional.interpolate(grey, size, mode="area")
    return grey[:, 0]


def _motion(grey: Tensor) -> tuple[list[float], float]:
    """The motion of each pair of frames, and how well every second frame is what lies between its neighbours."""
    pixels = _TOLD / min(grey.shape[-2:])
    border = max(1, round(_BORDER * min(grey.shape[-2:])))
    fastest = max(1, round(_FASTEST * grey[0, border:-border, border:-border].numel()))
    motions: list[float] = []
    errors: list[float] = []
    for start in range(0, len(grey) - 1, _AT_ONCE):
        part = grey[start : start + _AT_ONCE + 1]
        flow = optical_flow(part[:-1], part[1:])
        lost = (warp(part[1:, None], flow)[:, 0] - part[:-1]).abs() > _SURE
        speeds = flow.norm(dim=1).masked_fill(lost, 0)[:, border:-border, border:-border].flatten(1)
        motions += (pixels * speeds.topk(fastest).values.mean(1)).tolist()
    for middle in torch.arange(1, len(grey) - 1, 2).split(_AT_ONCE):
        before, after = grey[middle - 1], grey[middle + 1]
        half = (optical_flow(before, after) - optical_flow(after, before)) / 4
        between = (warp(before[:, None], -half) + warp(after[:, None], half))[:, 0] / 2
        errors += (between - grey[middle]).abs().mean((1, 2)).tolist()
    return motions, 1 - _mean(errors)


def _consistency(features: Tensor | None, reference: Tensor | None) -> tuple[list[float], float]:
    """Of each frame its likeness to the picture; and VBench's consistency: of each frame after the first the mean of its
    likeness to the first frame and to the frame before it, none below 0."""
    if features is None:
        return [], math.nan
    unit = functional.normalize(features.float(), dim=-1)
    picture = unit[:1] if reference is None else functional.normalize(reference[:1].float(), dim=-1)
    to_first, to_last = ((unit[1:] * other).sum(1).clamp(min=0) for other in (unit[:1], unit[:-1]))
    return (unit * picture).sum(1).tolist(), ((to_first + to_last) / 2).mean().item()


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else math.nan


def _panel(title: str, values: tuple[float, ...], first: int, marked: tuple[int, ...] = ()) -> np.ndarray:
    """One plot: a value a frame, the first one that of frame `first`; marked frames have dots."""
    font = ImageFont.load_default(_LETTER)
    image = Image.new("RGB", (_WIDTH, _HEIGHT), "white")
    draw = ImageDraw.Draw(image)
    low, high = min(values), max(values)
    left, right, top, bottom = 110, _WIDTH - 24, 44, _HEIGHT - 38
    draw.text((left, 20), title, "black", font, anchor="lm")
    draw.rectangle((left, top, right, bottom), fill=(240, 240, 240))
    room: float = high - low if high - low > 1e-3 * max(abs(high), 1e-6) else 0.0
    for value, height in ((high, top), (low, bottom)):
        draw.text((left - 10, height), f"{value:.3g}", "black", font, anchor="rm")
    last = first + len(values) - 1
    draw.text((left, bottom + 8), f"{first}", "black", font, anchor="mt")
    draw.text((right, bottom + 8), f"{last}", "black", font, anchor="mt")
    steps = max(1, len(values) - 1)
    points = [
        (left + (right - left) * number / steps, bottom - (bottom - top) * ((value - low) / room if room else 0.5))
        for number, value in enumerate(values)
    ]
    draw.line(points if len(points) > 1 else points * 2, fill=_LINE, width=4, joint="curve")
    for number in marked:
        x, y = points[number - first]
        draw.ellipse((x - 6, y - 6, x + 6, y + 6), fill=_BAD)
    return np.array(image)
