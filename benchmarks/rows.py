"""The rows of the table: what is measured, the bar it has to reach, and what was aimed at."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from . import measure, peer

GIB = 2**30
BASE, LARGE = (32, 56), (88, 160)
"""Latents of 448x256 and of 1280x704."""


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Args:
        what: is measured.
        value, unit: the figure.
        bar, aim: what the figure has to reach, and what was hoped for.
        at_least: whether more is better.
        detail: how it came about.
        runs: seconds of single runs by name, where some were measured.
    """

    what: str
    value: float
    unit: str
    bar: float
    aim: float
    at_least: bool
    detail: str
    runs: dict[str, tuple[float, ...]]

    @property
    def passed(self) -> bool:
        return self.value >= self.bar if self.at_least else self.value <= self.bar

    def to_json(self) -> dict[str, Any]:
        """The row and whether it reached its bar."""
        return asdict(self) | {"passed": self.passed}


@dataclass(frozen=True)
class Plan:
    """Sizes of what is timed.

    Args:
        frames, side: of the guided step's latents.
        repeats: of each run, after one that warms up.
        vae_side: of the latents that the VAE decodes, `vae_frames` of them.
    """

    frames: int = 16
    side: int = 32
    repeats: int = 3
    vae_side: int = 32
    vae_frames: int = 2


QUICK = Plan(frames=4, side=16, repeats=1, vae_side=16, vae_frames=2)


def counted(_: Plan) -> Iterator[Row]:
    """What no clock is needed for: live bytes and step-invariant work, at full size on meta."""
    yield from _counted()


def vae(plan: Plan) -> Iterator[Row]:
    """Seconds of decoding."""
    yield _vae_seconds(plan)


def nodes(plan: Plan) -> Iterator[Row]:
    """ComfyUI's graph against the core."""
    yield _node_path(plan)


def fp32(plan: Plan) -> Iterator[Row]:
    """Seconds of a guided step of 1.42 G parameters."""
    yield _guided_step(peer.made_up_networks(torch.float32), plan, "fp32", 1.9, 2.2, tolerance=1e-4)


def bf16(plan: Plan) -> Iterator[Row]:
    """The same in 16 bit."""
    yield _guided_step(peer.made_up_networks(torch.bfloat16), plan, "bf16", 1.7, 2.2, tolerance=0.1)


GROUPS = {group.__name__: group for group in (counted, vae, nodes, fp32, bf16)}
"""What `--only` chooses from."""


def _guided_step(networks: peer.Networks, plan: Plan, dtype: str, bar: float, aim: float, tolerance: float) -> Row:
    step = peer.Step(networks, plan.frames, plan.side, plan.side)
    step.prepare()
    error = _error(step.ours(), step.theirs(), tolerance)
    seconds = measure.interleaved({"diffusers": step.theirs, "ours": step.ours}, plan.repeats, warm_up=False)
    size = f"{plan.side}x{plan.side} latents, {plan.frames} frames"
    return Row(
        f"guided step, {dtype}, {size}",
        seconds["diffusers"].median / seconds["ours"].median,
        "x diffusers",
        bar,
        aim,
        at_least=True,
        detail=f"diffusers {seconds['diffusers']}, ours {seconds['ours']}; outputs differ by {error:.1e} of the largest",
        runs={name: each.runs for name, each in seconds.items()},
    )


def _counted() -> Iterator[Row]:
    networks = peer.made_up_networks(torch.bfloat16, "meta")
    weights = sum(each.numel() * each.element_size() for each in networks.ours.parameters())
    ours = 0
    for size, name in ((BASE, "448x256"), (LARGE, "1280x704")):
        step = peer.Step(networks, 16, *size)
        step.prepare()
        theirs, ours = measure.live_peak(step.theirs), measure.live_peak(step.our_half)
        detail = f"diffusers {theirs / GIB:.2f} GiB with both halves at once, ours {ours / GIB:.2f} GiB one by one"
        what = f"live activations, {name}, 16 frames, 16 bit"
        yield Row(what, ours / theirs, "of diffusers", 0.19, 0.15, at_least=False, detail=detail, runs={})
    what = "UNet weights and activations, 1280x704, 16 frames, 16 bit"
    yield Row(
        what, (weights + ours) / GIB, "GiB", 4.4, 4.0, at_least=False, detail="the last row and the weights", runs={}
    )

    step = peer.Step(networks, 2, 8, 8)
    step.prepare()
    work = measure.work_without([step.x, step.timestep], step.our_half)
    theirs = measure.work_without(list(step.their_inputs[:2]), step.theirs)
    detail = (
        f"matrix products and convolutions that depend on neither latent nor step; diffusers {theirs / 1e9:.2f} GFLOP"
    )
    yield Row("step-invariant work a step", work / 1e9, "GFLOP", 0, 0, at_least=False, detail=detail, runs={})

    their_vae, our_vae = peer.made_up_vaes(torch.bfloat16, "meta")
    latent = torch.empty(16, 4, *LARGE, dtype=torch.bfloat16, device="meta")
    peak = measure.live_peak(lambda: our_vae.decode(latent, 1))
    theirs = measure.live_peak(lambda: _decode_one_by_one(their_vae, latent))
    detail = f"one frame at a time, its images kept in fp32; diffusers so {theirs / GIB:.2f} GiB"
    what = "VAE decode, live peak, 1280x704, 16 frames, 16 bit"
    yield Row(what, peak / GIB, "GiB", 1.3, 1.0, at_least=False, detail=detail, runs={})


def _vae_seconds(plan: Plan) -> Row:
    their_vae, our_vae = peer.made_up_vaes(torch.float32)
    latent = torch.randn(plan.vae_frames, 4, plan.vae_side, plan.vae_side)
    theirs: Callable[[], Tensor] = lambda: _decode_one_by_one(their_vae, latent)  # noqa: E731
    ours: Callable[[], Tensor] = lambda: our_vae.decode(latent, 1)  # noqa: E731
    error = _error(ours(), theirs(), 1e-4)
    seconds = measure.interleaved({"diffusers": theirs, "ours": ours}, max(3, plan.repeats))
    pixels = 8 * plan.vae_side
    return Row(
        f"VAE decode, fp32, {plan.vae_frames} frames of {pixels}x{pixels}",
        seconds["diffusers"].median / seconds["ours"].median,
        "x diffusers",
        1.25,
        1.35,
        at_least=True,
        detail=f"diffusers {seconds['diffusers']}, ours {seconds['ours']}; images differ by {error:.1e}",
        runs={name: each.runs for name, each in seconds.items()},
    )


@torch.no_grad()
def _decode_one_by_one(vae: Any, latent: Tensor) -> Tensor:
    images = [(vae.decode(frame).sample / 2 + 0.5).clamp(0, 1).float() for frame in latent.split(1)]
    return torch.cat(images).permute(0, 2, 3, 1)


def _node_path(plan: Plan) -> Row:
    command = [sys.executable, "-m", "benchmarks.node_path", str(max(3, plan.repeats))]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command[1:])}: {done.stderr[-2000:]}")
    runs = {name: measure.Seconds(tuple(each)) for name, each in json.loads(done.stdout.splitlines()[-1]).items()}
    return Row(
        "base run in ComfyUI's graph",
        runs["core"].median / runs["host"].median,
        "x core",
        0.97,
        1.0,
        at_least=True,
        detail=f"core {runs['core']}, graph {runs['host']}: 3 steps of a network 64 channels wide, 16 frames of 128x128",
        runs={name: each.runs for name, each in runs.items()},
    )


def _error(ours: Tensor, theirs: Tensor, tolerance: float) -> float:
    """max |ours - theirs| / max |theirs|. Raises SystemExit where it is above the tolerance."""
    error = float((ours.float() - theirs.float()).abs().max() / theirs.float().abs().max())
    if not error <= tolerance:
        raise SystemExit(f"outputs differ by {error:.1e} of the largest value, {tolerance:.0e} are allowed")
    return error
