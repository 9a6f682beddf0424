"""Spectra of signals whose spectrum is known."""

import math

import pytest
import torch

from i2vgen_core.errors import InputError
from i2vgen_core.media.spectrum import (
    BANDS,
    Spectrum,
    analyse,
    band_distance,
    band_level,
    plot,
    spatial_spectrum,
    temporal_spectrum,
)


def noise(frames, height, width, deviation=0.1):
    luma = 0.5 + deviation * torch.randn(frames, height, width, 1, generator=torch.Generator().manual_seed(0))
    return luma.expand(-1, -1, -1, 3)


def blurred(frames, deviation):
    """A Gaussian blur, by its exact transfer function."""
    rows, columns = torch.fft.fftfreq(frames.shape[1]), torch.fft.fftfreq(frames.shape[2])
    gain = torch.exp(-2 * (math.pi * deviation) ** 2 * (rows[:, None] ** 2 + columns**2))
    return torch.fft.ifft2(torch.fft.fft2(frames, dim=(1, 2)) * gain[..., None], dim=(1, 2)).real


@pytest.mark.parametrize(("height", "width"), [(64, 128), (63, 97)])
@pytest.mark.parametrize("cycles", [0.08, 0.25, 0.42])
@pytest.mark.parametrize("angle", [0, 35, 90])
def test_a_sine_peaks_at_its_spatial_frequency(height, width, cycles, angle):
    y, x = torch.arange(height)[:, None], torch.arange(width)
    phase = 2 * math.pi * cycles * (x * math.cos(math.radians(angle)) + y * math.sin(math.radians(angle)))
    frequencies, power = spatial_spectrum((0.5 + 0.2 * phase.sin())[None, :, :, None].expand(2, -1, -1, 3))
    assert abs(frequencies[power.argmax()].item() - cycles) <= 1 / min(height, width)
    # Where the sine does not end with a whole period its mean is not 0, and removing it shows in the lowest frequency.
    far = ((frequencies - cycles).abs() > 4 / min(height, width)) & (frequencies > 2 / min(height, width))
    assert power[far].max() < power.max() / 1000


@pytest.mark.parametrize("cycles", [0.125, 0.25, 0.4375])
def test_a_sine_peaks_at_its_temporal_frequency(cycles):
    wave = 0.5 + 0.2 * torch.sin(2 * math.pi * cycles * torch.arange(16) + 0.3)
    frequencies, power = temporal_spectrum(wave[:, None, None, None].expand(-1, 8, 8, 3))
    assert frequencies[power.argmax()] == cycles
    assert power[(frequencies - cycles).abs() > 0.15].max() < power.max() / 100


@pytest.mark.parametrize("size", [(16, 64, 128), (9, 63, 97), (8, 144, 288)], ids=str)
def test_white_noise_is_flat_at_its_variance(size):
    video = noise(*size)
    variance = video[..., 0].var().item()
    decibels = 10 * math.log10(variance)
    for band in BANDS:
        assert band_level(spatial_spectrum(video), band) == pytest.approx(decibels, abs=0.3)
    # Removing the mean of so few frames takes 0.8 dB from the slowest frequency, which is in the low band.
    for band, tolerance in (("low", 1.0), ("middle", 0.3), ("high", 0.3)):
        assert band_level(temporal_spectrum(video), band) == pytest.approx(decibels, abs=tolerance)
    assert spatial_spectrum(video).power.mean() == pytest.approx(variance, rel=0.05)
    assert temporal_spectrum(video).power[1:].mean() == pytest.approx(variance, rel=0.03)


def test_luma_weighs_the_channels():
    video = torch.full((8, 32, 32, 3), 0.5)
    video[..., 1] = noise(8, 32, 32)[..., 0]
    green, grey = spatial_spectrum(video).power.mean(), spatial_spectrum(noise(8, 32, 32)).power.mean()
    assert green / grey == pytest.approx(0.7152**2, rel=1e-4)


def test_brightness_does_not_matter():
    video = noise(8, 64, 64)
    for spectrum in (spatial_spectrum, temporal_spectrum):
        assert torch.allclose(spectrum(video).power, spectrum(video + 0.3).power, rtol=1e-4)
    assert spatial_spectrum(torch.full((8, 64, 64, 3), 0.7)).power.max() < 1e-12


def test_blur_lowers_the_high_band_alone():
    sharp = noise(4, 144, 288)
    spectra = spatial_spectrum(sharp), spatial_spectrum(blurred(sharp, 0.5))
    assert band_distance(*spectra, "low") < 0.6
    assert band_distance(*spectra, "low") < band_distance(*spectra, "middle") / 3
    # The blur's own gain at the middle of the band, in dB.
    expected = 20 * math.log10(math.e) * 2 * (math.pi * 0.5 * 5 / 12) ** 2
    assert band_distance(*spectra, "high") == pytest.approx(expected, rel=0.05)
    assert band_level(spectra[0], "high") - band_level(spectra[1], "high") == pytest.approx(expected, rel=0.05)
    assert band_distance(*(temporal_spectrum(v) for v in (sharp.repeat(2, 1, 1, 1),) * 2), "high") == 0


def test_flicker_shows_in_time_and_not_in_space():
    still = noise(1, 64, 64).repeat(16, 1, 1, 1)
    flicker = still + 0.05 * (-1.0) ** torch.arange(16).view(-1, 1, 1, 1)
    assert temporal_spectrum(flicker).power.argmax() == 7  # 0.5 cycles a frame
    assert band_level(temporal_spectrum(still), "high") == pytest.approx(-58.9, abs=0.1)  # that of 8-bit rounding
    for band in BANDS:
        assert band_distance(spatial_spectrum(still), spatial_spectrum(flicker), band) < 1e-3


def test_what_8_bits_cannot_show_does_not_count():
    video = noise(8, 64, 64, 1e-4)
    assert band_distance(spatial_spectrum(video), spatial_spectrum(torch.full_like(video, 0.5)), "high") == 0


def test_bands_cover_every_frequency_once():
    frequencies = torch.cat([torch.arange(1, n // 2 + 1).double() / n for n in (8, 12, 144, 720)])
    counts = sum(((frequencies > low) & (frequencies <= high)).int() for low, high in BANDS.values())
    assert counts.min() == counts.max() == 1


def test_wrong_spectra():
    small, large = spatial_spectrum(noise(1, 64, 64)), spatial_spectrum(noise(1, 72, 72))
    with pytest.raises(InputError, match="same frequencies"):
        band_distance(small, large, "low")
    with pytest.raises(InputError, match="low or middle or high"):
        band_level(small, "ultra")
    with pytest.raises(InputError, match="found none"):
        band_level(Spectrum(torch.tensor([0.1]), torch.tensor([1.0])), "high")
    with pytest.raises(InputError, match="8 frames"):
        temporal_spectrum(noise(7, 16, 16))
    with pytest.raises(InputError, match="8 pixels"):
        spatial_spectrum(noise(8, 7, 16))
    with pytest.raises(InputError, match="channels last"):
        spatial_spectrum(torch.rand(8, 3, 16, 16))


def test_plot():
    spectrum = spatial_spectrum(noise(1, 64, 64))
    higher = Spectrum(spectrum.frequencies, spectrum.power * 100)
    picture = plot({"a": spectrum, "b": higher}, "Spatial spectrum", "cycles per pixel", 360, 240)
    assert picture.shape == (240, 360, 3) and picture.min() >= 0 and picture.max() == 1
    curves = []
    for colour in ((0, 114, 178), (213, 94, 0)):
        drawn = ((picture - torch.tensor(colour) / 255).abs().amax(-1) < 1e-3).nonzero().float()
        drawn = drawn[drawn[:, 1] < 250]  # the legend is further to the right
        assert drawn[:, 1].unique().numel() > 150
        curves.append(drawn[:, 0].mean().item())
    assert curves[0] - curves[1] > 40  # 20 dB higher is higher in the picture
    with pytest.raises(InputError, match="1 to 6"):
        plot({}, "", "")


def test_analysis_of_one_video():
    picture, table = analyse(noise(16, 64, 64))
    assert picture.shape == (1200, 960, 3)
    lines = table.splitlines()
    assert lines[0] == "| | video |" and [line.split(" |")[0] for line in lines[2:]] == [
        f"| {axis} {band}, dB" for axis in ("spatial", "temporal") for band in BANDS
    ]
    level = float(lines[2].split("|")[2])
    assert level == pytest.approx(-20, abs=0.5)  # the deviation is 0.1


def test_analysis_before_and_after():
    """A blur that halves the size, and a stage that brings it back."""
    sharp = noise(8, 64, 64)
    small = torch.nn.functional.interpolate(sharp.movedim(-1, 1), (32, 32), mode="area").movedim(1, -1)
    _, table = analyse(small, sharp)
    rows = {line.split("|")[1].strip(): line.split("|")[2:5] for line in table.splitlines()[2:]}
    before, after, change = map(float, rows["spatial high, dB"])
    assert change == pytest.approx(after - before, abs=0.011) and change > 15
    picture, text = analyse(sharp[:3], sharp)
    assert picture.shape == (1200, 960, 3)
    assert text.endswith("No temporal spectrum of before: it needs 8 frames.") and "| temporal low, dB |  | -2" in text


def test_analysis_of_a_picture_is_spatial():
    picture, table = analyse(noise(1, 64, 64))
    assert picture.shape == (600, 960, 3) and "temporal low" not in table
