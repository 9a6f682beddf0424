"""The frequency analysis of videos by which I2VGen-XL (arXiv 2311.04145) explains what its refinement stage does.

Spectra are power spectral densities of the luma, scaled so that white noise of variance v has the flat power v at every
size and length. Frequencies are in cycles per pixel or per frame, up to 0.5; times the height in pixels or the frame
rate they are cycles per picture height or Hz.
"""

import math
from collections.abc import Mapping
from typing import Literal, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ..errors import InputError
from .compare import to_larger_size
from .images import check_images, luma
from .tables import plain_table

Band = Literal["low", "middle", "high"]
BANDS: dict[Band, tuple[float, float]] = {"low": (0, 1 / 6), "middle": (1 / 6, 1 / 3), "high": (1 / 3, 0.5)}
"""Thirds of the frequencies, in cycles per pixel or per frame; a band excludes its lower end and includes its upper."""

MIN_FRAMES = 8
"""A temporal spectrum needs so many."""

_PANEL = (960, 600)  # width and height of a plot of `analyse`
_FLOOR = 1 / 255**2 / 12  # the power of 8-bit rounding; what is below it cannot be seen
_LINES = ((0, 114, 178), (213, 94, 0), (0, 158, 115), (204, 121, 167), (86, 180, 233), (60, 60, 60))  # Okabe and Ito


class Spectrum(NamedTuple):
    """A power spectrum.

    Attributes:
        frequencies: [N] float64, rising, without 0: cycles per pixel or per frame.
        power: [N] float64, squared luma (luma in 0..1) per unit of frequency.
    """

    frequencies: Tensor
    power: Tensor


def spatial_spectrum(frames: Tensor) -> Spectrum:
    """The mean over the frames of their radially averaged power spectra (Hann window, each frame's mean removed).

    Args:
        frames: [F, H, W, 3] in 0..1, at least 8 pixels a side.

    Returns:
        The spectrum over cycles per pixel, in steps of 1 / min(H, W) up to 0.5.

    Raises:
        InputError: frames is not such a tensor.
    """
    grey = luma(frames)
    height, width = grey.shape[1:]
    side = min(height, width)
    if side < 8:
        raise InputError("the video", "at least 8 pixels a side", f"{width}x{height}", "Use a larger picture.")
    window = _hann(height, grey)[:, None] * _hann(width, grey)
    power = torch.fft.fft2(window * (grey - grey.mean((1, 2), keepdim=True))).abs().square().mean(0)
    power = (power / window.square().sum()).flatten()

    rows, columns = (torch.fft.fftfreq(n, dtype=power.dtype, device=power.device) for n in (height, width))
    ring = torch.hypot(rows[:, None], columns).mul(side).round().long().flatten()
    mean = torch.bincount(ring, weights=power) / torch.bincount(ring).clamp(min=1)
    steps = torch.arange(1, side // 2 + 1, device=power.device)
    return Spectrum(steps.double() / side, mean[steps])


def temporal_spectrum(frames: Tensor) -> Spectrum:
    """The mean over the pixels of the power spectra of their course in time (Hann window, each pixel's mean removed).

    Removing the mean takes up to 0.8 dB from the slowest frequency of white noise.

    Args:
        frames: [F, H, W, 3] in 0..1, at least 8 frames.

    Returns:
        The spectrum over cycles per frame, in steps of 1 / F up to 0.5.

    Raises:
        InputError: frames is not such a tensor.
    """
    grey = luma(frames)
    if len(grey) < MIN_FRAMES:
        raise InputError("the video", f"at least {MIN_FRAMES} frames", str(len(grey)), "Use a longer video.")
    window = _hann(len(grey), grey)[:, None, None]
    power = torch.fft.rfft(window * (grey - grey.mean(0)), dim=0).abs().square().mean((1, 2)) / window.square().sum()
    steps = torch.arange(1, len(power), device=power.device)
    return Spectrum(steps.double() / len(grey), power[1:])


def band_level(spectrum: Spectrum, band: Band) -> float:
    """The mean of the logarithmic power of a band, in dB; power below that of 8-bit rounding counts as that power.

    Raises:
        InputError: the spectrum has no frequency in that band, or there is no such band.
    """
    return _decibels(spectrum, band).mean().item()


def band_distance(a: Spectrum, b: Spectrum, band: Band) -> float:
    """The mean absolute difference of two spectra's logarithmic power in a band, in dB.

    Power below that of 8-bit rounding counts as that power: two videos that differ only there look alike.

    Args:
        a, b: spectra of videos of the same size, or the same length.
        band: "low", "middle" or "high": see BANDS.

    Raises:
        InputError: the spectra's frequencies differ, they have none in that band, or there is no such band.
    """
    if a.frequencies.shape != b.frequencies.shape or not torch.allclose(a.frequencies, b.frequencies):
        found = " and ".join(f"{len(s.frequencies)} up to {s.frequencies[-1].item():.3f}" for s in (a, b))
        raise InputError("the spectra", "the same frequencies", found, "Resize or cut one video to the other's size.")
    return (_decibels(a, band) - _decibels(b, band)).abs().mean().item()


def analyse(video: Tensor, after: Tensor | None = None) -> tuple[Tensor, str]:
    """The frequency analysis of a video, or of one before and after a stage, as a picture and as a table.

    Two videos of different sizes are compared at the larger one's size, the other one enlarged: an enlarged video has
    nothing in its high band, and what a stage adds there shows. Of fewer than 8 frames there is no temporal spectrum.

    Args:
        video: [F, H, W, 3] in 0..1, at least 8 pixels a side.
        after: the same video after the stage, of any size and length.

    Returns:
        The plots [height, width, 3] in 0..1, spatial above temporal; and as Markdown the levels of the bands in dB,
        with the change from the one to the other.

    Raises:
        InputError: an input is not such a tensor.
    """
    videos = {"video": video}
    if after is not None:
        check_images(video, "the video")
        check_images(after, "the video after")
        videos = dict(zip(("before", "after"), to_larger_size(video.float(), after.float()), strict=True))
    spectra = {"spatial": {name: spatial_spectrum(frames) for name, frames in videos.items()}}
    pictures = [plot(spectra["spatial"], "spatial", "cycles per pixel", *_PANEL)]
    timed = {name: frames for name, frames in videos.items() if len(frames) >= MIN_FRAMES}
    notes = [f"No temporal spectrum of {name}: it needs {MIN_FRAMES} frames." for name in videos if name not in timed]
    if timed:
        spectra["temporal"] = {name: temporal_spectrum(frames) for name, frames in timed.items()}
        pictures.append(plot(spectra["temporal"], "temporal", "cycles per frame", *_PANEL))
    levels = band_levels(spectra)
    rows = {row: {name: levels[row].get(name) for name in videos} for row in levels}
    if after is not None:
        for row in rows.values():
            before, later = row["before"], row["after"]
            row["change"] = None if before is None or later is None else later - before
    return torch.cat(pictures), "\n\n".join([plain_table(rows), *notes])


def band_levels(spectra: Mapping[str, Mapping[str, Spectrum]]) -> dict[str, dict[str, float | None]]:
    """Levels in dB of the low, middle and high band, by row ("spatial low, dB") and video, for `tables.plain_table`.

    Args:
        spectra: "spatial" and "temporal", each by the names of its videos.
    """
    return {
        f"{axis} {band}, dB": {name: band_level(spectrum, band) for name, spectrum in videos.items()}
        for axis, videos in spectra.items()
        for band in BANDS
    }


def plot(spectra: Mapping[str, Spectrum], title: str, unit: str, width: int = 720, height: int = 480) -> Tensor:
    """Draws spectra over one another, power in dB over the frequency, with the three bands marked.

    Lines and letters scale with the picture, so that it can be read when it is shown small.

    Args:
        spectra: up to six, by the names for the legend.
        title: above the plot.
        unit: of the frequency, such as "cycles per pixel".
        width, height: of the picture in pixels.

    Returns:
        [height, width, 3] float32 in 0..1.

    Raises:
        InputError: there are no spectra, or more than six.
    """
    if not 0 < len(spectra) <= len(_LINES):
        raise InputError("the spectra", f"1 to {len(_LINES)}", str(len(spectra)), "Draw several plots.")
    size = height / 20
    font, large = ImageFont.load_default(size), ImageFont.load_default(1.15 * size)
    curves = {name: (s.frequencies.tolist(), _level(s.power).tolist()) for name, s in spectra.items()}
    values = [value for _, levels in curves.values() for value in levels]
    bottom, top = 10 * math.floor(min(values) / 10), 10 * math.ceil(max(values) / 10)
    top = max(top, bottom + 10)
    left, right, upper, lower = 3.4 * size, width - size, 2.4 * size, height - 3.4 * size

    def place(frequency: float, level: float) -> tuple[float, float]:
        return left + (right - left) * frequency / 0.5, lower - (lower - upper) * (level - bottom) / (top - bottom)

    image = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(image)
    for shade, (band, (low, high)) in zip((245, 235, 225), BANDS.items(), strict=True):
        draw.rectangle((*place(low, top), *place(high, bottom)), fill=(shade, shade, shade))
        draw.text((place((low + high) / 2, top)[0], lower + 0.3 * size), band, "grey", font, anchor="mt")
        draw.text((place(high, bottom)[0], lower + 0.3 * size), f"{high:.2f}", "black", font, anchor="mt")
    spacing = 10 * max(1, math.ceil((top - bottom) / 60))
    for level in range(bottom, top + 1, spacing):
        draw.line((*place(0, level), *place(0.5, level)), fill="white", width=max(1, height // 300))
        draw.text((left - 0.3 * size, place(0, level)[1]), str(level), "black", font, anchor="rm")
    for row, (colour, (name, (frequencies, levels))) in enumerate(zip(_LINES, curves.items(), strict=False)):
        points = [place(*point) for point in zip(frequencies, levels, strict=True)]
        draw.line(points, fill=colour, width=max(2, round(size / 5)), joint="curve")
        y = upper + (0.9 + 1.3 * row) * size
        draw.text((right - 0.5 * size, y), name, colour, large, anchor="rm")
    draw.text((left, upper / 2), f"{title}: power, dB", "black", large, anchor="lm")
    draw.text(((left + right) / 2, height - 0.4 * size), unit, "black", large, anchor="ms")
    return torch.from_numpy(np.array(image)).float() / 255


def _hann(length: int, like: Tensor) -> Tensor:
    """Hann's window with its zeros just outside, so that every sample counts."""
    return torch.hann_window(length + 2, periodic=False, dtype=like.dtype, device=like.device)[1:-1]


def _level(power: Tensor) -> Tensor:
    return 10 * power.clamp(min=_FLOOR).log10()


def _decibels(spectrum: Spectrum, band: Band) -> Tensor:
    if band not in BANDS:
        raise InputError("band", " or ".join(BANDS), repr(band), "Use 'high' for details.")
    low, high = BANDS[band]
    inside = (spectrum.frequencies > low) & (spectrum.frequencies <= high)
    if not inside.any():
        raise InputError(
            "the spectrum", f"frequencies in {low:.2f}..{high:.2f}", "none", "Use a larger or longer video."
        )
    return _level(spectrum.power[inside])
