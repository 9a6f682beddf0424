"""Measures what docs/control.md offers on held-out scenes of the built-in cascade's world, without and with each control.

    python -m benchmarks.control --scenes 32      runs, writes the page's table and docs/control_*.png; look at them

A scene's runs are kept in build/control.pt as they come, so that a run that is stopped goes on.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import mean, median

import torch
from torch import Tensor

from i2vgen_core.cascade import Cascade
from i2vgen_core.directing import follow, hold_area, hold_last
from i2vgen_core.media.compare import psnr
from i2vgen_core.media.images import write_image
from i2vgen_core.media.rendering import render
from i2vgen_core.media.video import contact_sheet, moments
from i2vgen_core.media.warp import Rough, camera, drag
from i2vgen_core.media.world import TRAVEL, Scene
from i2vgen_core.sampling.held import Held
from i2vgen_core.sampling.options import BaseOptions
from i2vgen_core.training.evaluate import Case, held_out_case
from i2vgen_core.training.measure import displacement, path

_ROOT = Path(__file__).parents[1]
_PAGE, _RUNS = _ROOT / "docs" / "control.md", _ROOT / "build" / "control.pt"
_START, _END = "<!-- benchmarks.control -->\n", "<!-- end of benchmarks.control -->\n"
_ROOM = 6
"""Pixels around what a shape ever covers that may move with it."""
_SHOWN = 5
"""Frames of a sheet's row."""
_ACROSS, _DOWN = 0.3, 0.2
"""How far a shape is dragged, in widths and heights."""
_NEAR = 6.0
"""% of the width that a dragged thing may be off its path."""
_CAMERA = {"pan": 0.25, "tilt": 0.25, "zoom": 1.3, "roll": 15.0}
"""How the camera moves, in widths, heights, times and degrees. Of these the world has words for a pan, half as far."""

Runs = dict[int, dict[str, Tensor]]


def cases(cascade: Cascade, scenes: int) -> list[Case]:
    """The first held-out scenes whose camera stands."""
    release, seed, found = cascade.base.release, 0, []
    while len(found) < scenes:
        case = held_out_case(seed, release.width, release.height, release.frames)
        found += [] if case.scene.pan else [case]
        seed += 1
    return found


def moving(case: Case) -> Tensor:
    """What may move, [1, H, W, 3] of 0 and 1: all that a shape ever covers, with some room."""
    covered = (case.truth.masks.amax((0, 1)) > 0).float()
    grown = torch.nn.functional.max_pool2d(covered[None], 2 * _ROOM + 1, 1, _ROOM)
    return grown[..., None].expand(-1, -1, -1, 3)


def run(cascade: Cascade, case: Case) -> dict[str, Tensor]:
    """The videos of a scene by control."""
    options = BaseOptions(fps=case.truth.fps, seed=case.seed)
    first, last = case.truth.frames[:1], case.truth.frames[-1:]
    dragged, turned = dragged_case(case), camera_case(case)

    def videos(told: Case, given: dict[str, Held | None]) -> dict[str, Tensor]:
        conditions = cascade.condition(first, told.prompt, options)
        return {
            name: cascade.decode(cascade.sample_base(conditions, options, held=held)) for name, held in given.items()
        }

    made = videos(
        case,
        {
            "without": None,
            "mask": hold_area(cascade, first, moving(case), options),
            "last": hold_last(cascade, last, options),
        },
    )
    rough = drag_of(dragged)
    made |= {"drag, rough": rough.frames}
    made |= videos(dragged, {"drag, without": None, "drag": follow(cascade, rough, options)})
    for name in _CAMERA:
        rough = camera(first, *cascade.video_size(options), **move_of(case, name))
        told = turned if name == "pan" else still_case(case)
        given = {name: follow(cascade, rough, options)}
        if _without(name) not in made:
            given |= {_without(name): None}
        made |= {f"{name}, rough": rough.frames} | videos(told, given)
    return made


def dragged_case(case: Case) -> Case:
    """The scene whose main shape is told to go to the side that has more room."""
    main = case.scene.shapes[0]
    told = replace(main, motion="right" if main.x < 0.5 else "left", speed="quickly")
    return _told(case, replace(case.scene, shapes=(told, *case.scene.shapes[1:])))


def way(case: Case) -> Tensor:
    """Where a dragged shape is to be, [F, 2] in fractions of the picture: an arc, which no prompt of this world tells."""
    main, share = case.scene.shapes[0], torch.linspace(0, 1, len(case.truth.frames))
    across, down = (math.copysign(far, 0.5 - at) for far, at in ((_ACROSS, main.x), (_DOWN, main.y)))
    return torch.stack((main.x + across * share, main.y + down * (math.pi / 2 * share).sin()), dim=1)


def drag_of(case: Case) -> Rough:
    """Its shape on its way."""
    frames, height, width, _ = case.truth.frames.shape
    part = (case.truth.masks[:1, 0] > 0.05).float()
    path = way(case) * torch.tensor([width, height])
    return drag(case.truth.frames[:1], part, path.tolist(), width, height, frames)


def still_case(case: Case) -> Case:
    """The scene whose shapes stay."""
    shapes = tuple(replace(shape, motion="still") for shape in case.scene.shapes)
    return _told(case, replace(case.scene, shapes=shapes))


def camera_case(case: Case) -> Case:
    """The scene whose shapes stay, told that the camera pans."""
    scene, pan = still_case(case).scene, move_of(case, "pan")["pan"]
    return _told(case, replace(scene, pan=math.copysign(TRAVEL["slowly"], pan)))


def move_of(case: Case, name: str, share: float = 1.0) -> dict[str, float]:
    """A share of a camera's move, for warp.camera: pans and tilts go to the side on which the main shape stays in sight."""
    main, far = case.scene.shapes[0], _CAMERA[name]
    if name == "zoom":
        return {name: far**share}
    at = {"pan": main.x, "tilt": main.y}.get(name, 1.0)
    return {name: share * math.copysign(far, at - 0.5)}


def _told(case: Case, scene: Scene) -> Case:
    frames, height, width, _ = case.truth.frames.shape
    return Case(case.seed, scene, render(scene, width, height, frames, case.truth.fps))


def off_the_way(case: Case, frames: Tensor) -> float:
    """Greatest distance of the dragged shape's centre from its way, % of the picture's width; infinite where it is lost."""
    found = path(case.tracker(frames))
    if displacement(found) is None:
        return math.inf
    off = (found - way(case)) * torch.tensor([1, frames.shape[1] / frames.shape[2]])
    return 100 * off.norm(dim=1).nan_to_num(0).max().item()


def outside(case: Case, frames: Tensor) -> float:
    """PSNR to the true clip where neither a dragged shape nor one that goes as it was told comes, dB."""
    covered = torch.maximum(drag_of(case).mask.amax(0), case.truth.masks[:, 0].amax(0))
    apart = torch.nn.functional.max_pool2d(covered[None], 2 * _ROOM + 1, 1, _ROOM)[0] == 0
    return psnr(frames[:, apart][:, None], case.truth.frames[:, apart][:, None])


def moved(case: Case, frames: Tensor, name: str) -> float:
    """The share of a camera's move that brings a video's first frame nearest to its last one."""
    height, width = frames.shape[1:3]

    def distance(share: float) -> float:
        rough = camera(frames[:1], width, height, 2, **move_of(case, name, share))
        return (rough.frames[-1] - frames[-1])[rough.mask[-1] > 0].square().mean().item()

    return min((number / 20 for number in range(-20, 41)), key=distance)


def directions(judged: Sequence[Case], runs: Runs, given: bool) -> float:
    """% of the scenes and moves in which the camera goes the right way, a quarter as far as it is asked or more."""
    right = []
    for name in _CAMERA:
        video = name if given else _without(name)
        right += [moved(case, runs[case.seed][video], name) >= 0.25 for case in judged]
    return 100 * mean(right)


def _without(name: str) -> str:
    """The run that a camera's move is compared with: no words tell the moves but the pan apart."""
    return "pan, without" if name == "pan" else "tilt, without"


def jump(frames: Tensor) -> float:
    """Difference of the last frame to the one before it over the clip's median difference."""
    changes = frames.diff(dim=0).abs().mean((1, 2, 3))
    return (changes[-1] / changes.median()).item()


def flicker(case: Case, frames: Tensor) -> float:
    """Mean difference between neighbouring frames where nothing may move and no kernel of the decoder sees what does, of 255."""
    still = torch.nn.functional.max_pool2d(moving(case)[..., 0][None], 33, 1, 16)[0, 0] == 0
    return 255 * frames[:, still].diff(dim=0).abs().mean().item() if still.any() else float("nan")


def rows(judged: Sequence[Case], runs: Runs) -> list[tuple[str, str, float, float]]:
    """What is measured, its bar, and the medians over the scenes without and with the control."""

    def medians(without: str, name: str, figure: Callable[[Case, Tensor], float]) -> tuple[float, float]:
        pairs = [[figure(case, runs[case.seed][each]) for each in (without, name)] for case in judged]
        before, given = zip(*(pair for pair in pairs if pair[0] == pair[0]), strict=True)
        return median(before), median(given)

    return [
        (
            "a part that stays: change from frame to frame in it, of 255",
            "",
            *medians("without", "mask", flicker),
        ),
        (
            "last frame: against the picture, PSNR, dB",
            "22 or more",
            *medians("without", "last", lambda case, frames: psnr(frames[-1:], case.truth.frames[-1:])),
        ),
        (
            "last frame: difference to the frame before over the clip's median",
            "2 or less",
            *medians("without", "last", lambda _, frames: jump(frames)),
        ),
        (
            "drag: the thing's greatest distance from its path, % of the width",
            "",
            *medians("drag, without", "drag", lambda case, frames: off_the_way(dragged_case(case), frames)),
        ),
        (
            f"drag: scenes in which it is never further than {_NEAR:g} %, %",
            "90 or more",
            *(
                100 * mean(off_the_way(dragged_case(case), runs[case.seed][name]) <= _NEAR for case in judged)
                for name in ("drag, without", "drag")
            ),
        ),
        (
            "drag: the picture elsewhere, PSNR, dB",
            "1 less at most",
            *medians("drag, without", "drag", lambda case, frames: outside(dragged_case(case), frames)),
        ),
        (
            "camera: pans, tilts, zooms and rolls that go the right way, %",
            "95 or more",
            *(directions(judged, runs, given) for given in (False, True)),
        ),
        *(
            (
                f"camera: share of a {name} that is seen",
                "0.7 to 1.3",
                *medians(_without(name), name, partial(moved, name=name)),
            )
            for name in _CAMERA
        ),
    ]


def write(judged: Sequence[Case], runs: Runs) -> None:
    """The page's table, and a sheet for each control: the truth or the rough animation, without it, with it, of two
    scenes."""
    table = ["| What is measured | Bar | Without | With |", "|---|---|---|---|"]
    table += [f"| {name} | {bar} | {without:.2f} | {given:.2f} |" for name, bar, without, given in rows(judged, runs)]
    scenes = f"Medians over {len(judged)} held-out scenes of the built-in cascade, as it is shipped:\n\n"
    before, rest = _PAGE.read_text(encoding="utf-8").split(_START)
    after = rest.split(_END)[1]
    _PAGE.write_text(before + _START + scenes + "\n".join(table) + "\n" + _END + after, encoding="utf-8")
    shown = {
        "mask": (None, "without"),
        "last": (None, "without"),
        "drag": ("drag, rough", "drag, without"),
        **{name: (f"{name}, rough", _without(name)) for name in _CAMERA},
    }
    for name, (above, without) in shown.items():
        parts = []
        for case in judged[:2]:
            made = runs[case.seed]
            clips = (case.truth.frames if above is None else made[above], made[without], made[name])
            parts += [moments(clip, _SHOWN) for clip in clips]
        write_image(_PAGE.parent / f"control_{name}.png", contact_sheet(torch.cat(parts), _SHOWN))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=32)
    arguments = parser.parse_args()
    cascade = Cascade()
    judged = cases(cascade, arguments.scenes)
    _RUNS.parent.mkdir(exist_ok=True)
    runs: Runs = torch.load(_RUNS, weights_only=True) if _RUNS.is_file() else {}
    for case in judged:
        if case.seed not in runs:
            runs[case.seed] = run(cascade, case)
            torch.save(runs, _RUNS)
    write(judged, runs)


if __name__ == "__main__":
    main()
