"""How time and memory grow with frames, size and number of videos.

    python -m benchmarks.growth            # counts and measures, into build/growth/growth.json: 3 minutes on one core
    python -m benchmarks.growth --write    # docs/growth.md's table and docs/growth.png from it; nothing runs

Work and memory of one evaluation at the release's sizes, 1.42 G parameters in 16 bit, one guided half, are counted on meta:
floating-point operations, and live activations. Seconds of context windows are the processor's, of the built-in base in
ComfyUI. Exits with 1 where 64 frames cost more than 4.4 times what 16 do.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from tests.host import graphs
from tests.host.matrix_rows import context_windows

from . import measure, peer
from .host import comfyui
from .plot import Plot, draw
from .rows import BASE, GIB

BAR = 4.4
FRAMES = (8, 16, 32, 64, 128)
SIZES = {"256x256": (32, 32), "448x256": BASE, "640x384": (48, 80), "1280x704": (88, 160), "1920x1088": (136, 240)}
VIDEOS = (1, 2, 4)
WINDOW, SHARED = 16, 4
STEPS = 2

_ROOT = Path(__file__).parents[1]
_PAGE, _PICTURE = _ROOT / "docs" / "growth.md", _ROOT / "docs" / "growth.png"
_START, _END = "<!-- benchmarks.growth -->\n", "<!-- end of benchmarks.growth -->\n"

Cost = dict[str, float]


def windows(frames: int) -> int:
    """Context windows of WINDOW frames, SHARED of them shared by two, that a clip has."""
    return 1 if frames <= WINDOW else -(-(frames - WINDOW) // (WINDOW - SHARED)) + 1


def counted(networks: peer.Networks, frames: int, size: tuple[int, int], videos: int = 1) -> Cost:
    """Teraflops and GiB of live activations of an evaluation of some videos."""
    step = peer.Step(networks, frames, *size)
    step.prepare()
    condition = step.conditions[0]
    prepared = type(condition).together([condition] * videos)
    x, details = (torch.cat([each] * videos) for each in (step.x, step.details))
    timesteps = step.timestep.expand(videos)

    @torch.no_grad()
    def run() -> torch.Tensor:
        return networks.ours(x, timesteps, prepared, frames, details=details)

    with FlopCounterMode(display=False) as counter:
        run()
    return {"teraflops": counter.get_total_flops() / 1e12, "GiB": measure.live_peak(run) / GIB}


def windowed_seconds() -> Iterator[tuple[int, float]]:
    """Processor seconds of sampling in context windows, by frames: ComfyUI's, two steps of the built-in base."""
    with comfyui() as (host, _):
        graph = context_windows(WINDOW, SHARED)(graphs.base_latent("tiny (built in)"))
        for frames in (FRAMES[1], *FRAMES[1:]):  # the first run warms up
            changes = {"width": 128, "height": 64, "frames": frames}
            ready = graphs.changed(
                graph,
                clip_encode__width=128,
                base__steps=STEPS,
                **{f"global_encode__{key}": value for key, value in changes.items()},
            )
            host.run(graphs.changed(ready, base__steps=1), {"latent": ("base", 0)}, reuse_cache=True)
            start = time.process_time()
            result = host.run(ready, {"latent": ("base", 0)}, reuse_cache=True)
            if result.error:
                raise SystemExit(result.error)
            yield frames, time.process_time() - start


def run(file: Path) -> None:
    """Writes the JSON, point by point; what it has is not counted again."""
    result: dict[str, Any] = json.loads(file.read_text()) if file.is_file() else {}
    points = result.setdefault("points", {})
    networks = peer.made_up_networks(torch.bfloat16, "meta")
    cases = [("448x256", frames, 1) for frames in FRAMES] + [(name, 16, 1) for name in SIZES]
    cases += [("448x256", 16, videos) for videos in VIDEOS]
    for name, frames, videos in cases:
        key = f"{name}, {frames} frames, {videos} videos"
        if key not in points:
            points[key] = counted(networks, frames, SIZES[name], videos)
            sys.stderr.write(f"{key}: {points[key]}\n")
            file.write_text(json.dumps(result, indent=1) + "\n")
    if "seconds" not in result:
        result["seconds"] = dict(windowed_seconds())
        result["load"] = os.getloadavg()[1]
        file.write_text(json.dumps(result, indent=1) + "\n")


def _point(result: dict[str, Any], name: str = "448x256", frames: int = 16, videos: int = 1) -> Cost:
    return result["points"][f"{name}, {frames} frames, {videos} videos"]


def section(result: dict[str, Any]) -> str:
    """The tables of docs/growth.md."""
    lines = ["| 448x256 | operations | live activations | in windows: operations | in windows: live activations |"]
    lines += ["|---|---|---|---|---|"]
    window = _point(result)
    for frames in FRAMES:
        cost, many = _point(result, frames=frames), windows(frames)
        inside = window if frames > WINDOW else cost
        cells = f"{many * inside['teraflops']:.1f} T ({many}) | {inside['GiB']:.2f} GiB"
        lines.append(f"| {frames} frames | {cost['teraflops']:.1f} T | {cost['GiB']:.2f} GiB | {cells} |")
    lines += ["", "| 16 frames | operations | live activations |", "|---|---|---|"]
    for name in SIZES:
        cost = _point(result, name)
        lines.append(f"| {name} | {cost['teraflops']:.1f} T | {cost['GiB']:.2f} GiB |")
    for videos in VIDEOS[1:]:
        cost = _point(result, videos=videos)
        lines.append(f"| 448x256, {videos} videos at once | {cost['teraflops']:.1f} T | {cost['GiB']:.2f} GiB |")
    lines += [
        "",
        "| frames, windows; built-in base in ComfyUI | seconds of 2 steps | a window and step |",
        "|---|---|---|",
    ]
    for frames, seconds in result["seconds"].items():
        each = seconds / STEPS / windows(int(frames))
        lines.append(f"| {frames} frames, {windows(int(frames))} in all | {seconds:.2f} s | {each:.2f} s |")
    return "\n".join(lines) + "\n"


def plots(result: dict[str, Any]) -> list[Plot]:
    """Frames, sizes and windows."""
    window = _point(result)

    def over_frames(unit: str) -> list[tuple[float, float]]:
        return [(frames, _point(result, frames=frames)[unit]) for frames in FRAMES]

    def in_windows(unit: str) -> list[tuple[float, float]]:
        factor = windows if unit == "teraflops" else lambda _: 1
        return [(frames, factor(frames) * window[unit]) for frames in FRAMES[1:]]

    places = {name: height * width / 1000 for name, (height, width) in SIZES.items()}
    ticks = {value: name for name, value in places.items()}
    return [
        Plot(
            "operations of an evaluation, T (448x256)",
            "frames",
            {"at once": over_frames("teraflops"), "in windows of 16": in_windows("teraflops")},
        ),
        Plot(
            "live activations, GiB (448x256)",
            "frames",
            {"at once": over_frames("GiB"), "in windows of 16": in_windows("GiB")},
        ),
        Plot(
            "16 frames: operations, T; live activations, GiB x 100",
            "size, by its places",
            {
                "operations, T": [(places[name], _point(result, name)["teraflops"]) for name in SIZES],
                "live activations, GiB x 100": [(places[name], 100 * _point(result, name)["GiB"]) for name in SIZES],
            },
            ticks=ticks,
        ),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("build/growth"), help="JSON (%(default)s)")
    parser.add_argument("--write", action="store_true", help="write docs/growth.md's part and its picture")
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    file = options.out / "growth.json"
    if not options.write:
        run(file)
    result = json.loads(file.read_text())
    if options.write:
        before, rest = _PAGE.read_text().split(_START)
        _PAGE.write_text(before + _START + section(result) + _END + rest.split(_END)[1])
        draw(plots(result), _PICTURE)
    ratio = _point(result, frames=64)["teraflops"] / _point(result)["teraflops"]
    sys.stdout.write(f"{section(result)}\n64 frames cost {ratio:.2f} x 16 frames (bar {BAR})\n")
    return int(ratio > BAR)


if __name__ == "__main__":
    sys.exit(main())
