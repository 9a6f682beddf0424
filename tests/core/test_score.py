"""Figures of a video: motion in known pixels, VBench's formulas where they are its own, and frames that failed."""

import math

import pytest
import torch
from torch.nn import functional

from i2vgen_core.__main__ import main
from i2vgen_core.errors import InputError
from i2vgen_core.media.flow import optical_flow, warp
from i2vgen_core.media.images import read_image, write_image
from i2vgen_core.media.score import score, scores_table

HEIGHT, WIDTH, FRAMES = 64, 96, 6


@pytest.fixture(scope="module")
def cloth() -> torch.Tensor:
    """Something with texture that is larger than the frame, [1, 1, 128, 160]."""
    coarse = torch.rand(1, 1, 20, 25, generator=torch.Generator().manual_seed(1))
    return functional.interpolate(coarse, (128, 160), mode="bicubic").mul(0.6).add(0.2).clamp(0, 1)


def panned(cloth: torch.Tensor, right: float, frames: int = FRAMES) -> torch.Tensor:
    """A video [F, 64, 96, 3] in which everything goes right by so many pixels a frame."""
    shown = []
    for number in range(frames):
        flow = torch.tensor([-right * number, 0.0]).view(1, 2, 1, 1).expand(1, 2, *cloth.shape[-2:])
        shown.append(warp(cloth, flow)[0, 0, 32 : 32 + HEIGHT, 32 : 32 + WIDTH])
    return torch.stack(shown)[..., None].expand(-1, -1, -1, 3).contiguous()


@pytest.mark.parametrize("right", [0.5, 1.0, 3.0, 7.0])
def test_flow_is_the_shift(cloth, right):
    grey = panned(cloth, right)[..., 0]
    flow = optical_flow(grey[:-1], grey[1:])[..., 8:-8, 16:-16]
    assert (flow[:, 0] - right).abs().median() < 0.05 and flow[:, 1].abs().median() < 0.05
    assert (flow[:, 0] - right).abs().mean() < 0.3


def test_where_there_is_no_texture_nothing_moves():
    grey = torch.linspace(0.2, 0.4, FRAMES)[:, None, None].expand(-1, HEIGHT, WIDTH)
    assert optical_flow(grey[:-1], grey[1:]).abs().max() < 1e-3


def test_motion_is_told_at_one_size(cloth):
    """2 pixels of 64 are 8 of 256; twice as large, the same video has the same motion."""
    video = panned(cloth, 2.0, 3)
    assert score(video).motion == pytest.approx(8, rel=0.1)
    larger = functional.interpolate(video.movedim(-1, 1), scale_factor=4, mode="bicubic").movedim(1, -1).clamp(0, 1)
    assert score(larger).motion == pytest.approx(8, rel=0.1)
    assert score(panned(cloth, 0.0, 3)).motion == pytest.approx(0, abs=0.01)


def test_smoothness_falls_where_frames_do_not_fit(cloth):
    even = panned(cloth, 2.0, 7)
    jumping = even[[0, 3, 1, 5, 2, 6, 4]]
    assert score(even).smoothness > 0.99 > score(jumping).smoothness
    assert math.isnan(score(even[:2]).smoothness)


def test_flicker_is_vbenchs():
    """255 minus the mean absolute difference, over 255 (vbench/temporal_flickering.py)."""
    video = torch.full((3, HEIGHT, WIDTH, 3), 0.4)
    video[1] += 0.1
    assert score(video).flicker == pytest.approx((255 - 25.5) / 255)
    assert score(video).changes == pytest.approx([25.5, 25.5], rel=1e-4)


def test_consistency_is_vbenchs():
    """The mean of each frame's likeness to the first one and to the one before, none below 0 (background_consistency.py)."""
    features = torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 2.0], [-1.0, 0.0]])
    video = torch.rand(4, HEIGHT, WIDTH, 3, generator=torch.Generator().manual_seed(2))
    half = math.sqrt(0.5)
    found = score(video, features=features)
    assert found.consistency == pytest.approx(((half + half) / 2 + (0 + half) / 2 + (0 + 0) / 2) / 3)
    assert found.similarities == pytest.approx([1, half, 0, -1], abs=1e-6)
    to_picture = score(video, features=features, reference_features=torch.tensor([[0.0, 1.0]]))
    assert to_picture.similarities == pytest.approx([0, half, 1, 0], abs=1e-6)
    assert to_picture.consistency == found.consistency
    with pytest.raises(InputError, match="those of 4 frames"):
        score(video, features=features[:3])


def test_frames_that_failed_are_named(cloth):
    video = panned(cloth, 1.0)
    video[2] = torch.tensor([0.0, 0.0, 1.0])
    video[4] = 0
    found = score(video)
    assert found.off_colour == (2, 4)
    assert found.clipped == pytest.approx(2 / FRAMES)
    whole = score(panned(cloth, 1.0, 2))
    assert whole.off_colour == () and whole.clipped == 0


def test_likeness_is_of_the_picture_as_the_base_crops_it(cloth):
    video = panned(cloth, 1.0, 2)
    wider = functional.pad(video[:1].movedim(-1, 1), (20, 20, 0, 0), mode="replicate").movedim(1, -1)
    assert score(video, wider).likeness == 100
    assert math.isnan(score(video).likeness)
    assert score(video, wider.flip(2)).likeness < 30


def test_the_table_and_the_plot(cloth):
    video = panned(cloth, 2.0, 3)
    found = score(video)
    table = found.table()
    assert f"| motion, px | {found.motion:.2f} |" in table and "| likeness, % |  |" in table
    assert found.plot().shape == (600, 960, 3)
    with_features = score(video, features=torch.rand(3, 4))
    assert with_features.plot().shape == (800, 960, 3)
    two = scores_table({"a": found, "b": with_features}).splitlines()
    assert len(two) == 4 and two[2].startswith("| a | ") and two[3].startswith("| b | ")


@pytest.mark.parametrize("shape", [(1, HEIGHT, WIDTH, 3), (FRAMES, 8, WIDTH, 3)])
def test_what_is_no_video_is_refused(shape):
    with pytest.raises(InputError, match="2 frames or more, 16 pixels a side or more"):
        score(torch.rand(shape))


def test_the_command_tells_the_figures_of_each_video(cloth, tmp_path, capsys):
    for name, right in (("a", 1.0), ("b", 3.0)):
        (tmp_path / name).mkdir()
        for number, frame in enumerate(panned(cloth, right, 3)):
            write_image(tmp_path / name / f"{number}.png", frame)
    folders, picture = [str(tmp_path / name) for name in "ab"], str(tmp_path / "a" / "0.png")
    assert main(["score", *folders, "--reference", picture]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" | ")[0] for line in lines[2:]] == [f"| {folder}" for folder in folders]
    assert lines[2].split(" | ")[4] == "100.00" and float(lines[3].split(" | ")[1]) > 8
    assert main(["score", folders[0], "--plot", str(tmp_path / "plot.png")]) == 0
    assert read_image(tmp_path / "plot.png").shape == (1, 600, 960, 3)
    assert main(["score", *folders, "--plot", str(tmp_path / "plot.png")]) == 2
    assert main(["score", str(tmp_path / "none.mp4")]) == 2
