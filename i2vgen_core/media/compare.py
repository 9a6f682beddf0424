"""Two videos against one another: brought to one size, laid into one picture, with figures of every frame."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional

from ..errors import check_choice
from .images import check_images, luma
from .tables import plain_table

Layout = Literal["side_by_side", "split", "stacked"]
LAYOUTS: tuple[Layout, ...] = get_args(Layout)

_LAPLACIAN = ((0.0, 1.0, 0.0), (1.0, -4.0, 1.0), (0.0, 1.0, 0.0))


@dataclass(frozen=True)
class Comparison:
    """The outcome of `compare`.

    Args:
        frames: [F, height, width, 3] in 0..1, width or height twice a video's where both are whole.
        psnr: of each frame of the one video against the other's, in dB.
        sharpness: of each frame of both.
    """

    frames: Tensor
    psnr: tuple[float, ...]
    sharpness: tuple[tuple[float, ...], tuple[float, ...]]

    def table(self) -> str:
        """The figures as Markdown: the means, then frame by frame."""
        rows = {"mean": self._row(*(sum(values) / len(values) for values in (self.psnr, *self.sharpness)))}
        figures = zip(self.psnr, *self.sharpness, strict=True)
        return plain_table(rows | {str(frame): self._row(*row) for frame, row in enumerate(figures)}, corner="frame")

    @staticmethod
    def _row(psnr: float, a: float, b: float) -> dict[str, float | None]:
        return {"PSNR, dB": psnr, "sharpness a": a, "sharpness b": b}


def compare(a: Tensor, b: Tensor, layout: Layout = "side_by_side") -> Comparison:
    """Compares two videos frame by frame, at the larger one's size and over the shorter one's length.

    Args:
        a, b: [F, H, W, 3] in 0..1, each of its own size and length.
        layout: "side_by_side" puts the whole of b to the right of a; "split" shows a's left half and b's right one with
            a white line between; "stacked" puts the whole of b below a, where a wide video is seen larger.

    Raises:
        InputError: a or b is not such a tensor, or there is no such layout.
    """
    check_images(a, "the video a")
    check_images(b, "the video b")
    check_choice("layout", layout, LAYOUTS)
    frames = min(len(a), len(b))
    a, b = to_larger_size(a[:frames].float(), b[:frames].to(a.device, torch.float32))
    sharp = tuple(sharpness(a).tolist()), tuple(sharpness(b).tolist())
    return Comparison(_laid_out(a, b, layout), tuple(psnr(*pair) for pair in zip(a, b, strict=True)), sharp)


def to_larger_size(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Two videos [F, H, W, 3] in 0..1 at the size of the one with more pixels; the other one is scaled to it
    bicubically. An aspect ratio that differs is not kept, as the cascade does not keep it between its stages."""
    if a.shape[1:3] == b.shape[1:3]:
        return a, b
    if a.shape[1] * a.shape[2] >= b.shape[1] * b.shape[2]:
        return a, _scaled(b, a.shape[1], a.shape[2])
    return _scaled(a, b.shape[1], b.shape[2]), b


def psnr(a: Tensor, b: Tensor) -> float:
    """Peak signal-to-noise ratio in dB of pictures in 0..1, of any one shape; at most 100."""
    return -10 * math.log10(max((a - b).square().mean().item(), 1e-10))


def sharpness(frames: Tensor) -> Tensor:
    """The variance of the Laplacian of each frame's luma in 0..255: [F].

    The common measure of focus (Pech-Pacheco et al. 2000, "Diatom autofocusing in brightfield microscopy"). It grows
    with detail and with noise, and compares pictures of one content and size.

    Args:
        frames: [F, H, W, 3] in 0..1.
    """
    grey = 255 * luma(frames)[:, None]
    kernel = grey.new_tensor(_LAPLACIAN)[None, None]
    edges = functional.conv2d(functional.pad(grey, (1, 1, 1, 1), mode="replicate"), kernel)
    return edges.var(dim=(1, 2, 3), correction=0)


def _laid_out(a: Tensor, b: Tensor, layout: Layout) -> Tensor:
    if layout == "side_by_side":
        return torch.cat([a, b], dim=2)
    if layout == "stacked":
        return torch.cat([a, b], dim=1)
    width = a.shape[2]
    middle, line = width // 2, max(1, width // 512)
    frames = torch.cat([a[:, :, :middle], b[:, :, middle:]], dim=2)
    frames[:, :, middle - line : middle + line] = 1
    return frames


def _scaled(frames: Tensor, height: int, width: int) -> Tensor:
    pixels = functional.interpolate(frames.movedim(-1, 1), (height, width), mode="bicubic", align_corners=False)
    return pixels.movedim(1, -1).clamp(0, 1)
