"""Floating-point operations of whole runs at the release's sizes, counted on meta, with what an acceleration leaves out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from i2vgen_core.config import UNetConfig
from i2vgen_core.network.evaluation import Prepared
from i2vgen_core.network.hooks import BlockHooks, Hooks
from i2vgen_core.releases import RELEASES
from i2vgen_core.sampling.guidance import guided
from i2vgen_core.sampling.options import BaseOptions
from i2vgen_core.sampling.schedules import cosine_zero_snr
from i2vgen_core.sampling.stages import BaseStage

from . import peer

Kind = tuple[int, bool]
"""An evaluation: how many conditions it has, and whether it uses features of an earlier one."""


def teraflops_of_runs(runs: Mapping[str, BaseOptions], frames: int, size: tuple[int, int]) -> dict[str, float]:
    """Teraflops of sampling with each of some options, which name their steps."""
    step = peer.Step(peer.made_up_networks(torch.bfloat16, "meta"), frames, *size)
    step.prepare()
    cost = {kind: _teraflops(step, *kind) for kind in ((1, False), (2, False), (1, True), (2, True))}
    return {name: sum(cost[kind] * times for kind, times in evaluations(run).items()) for name, run in runs.items()}


def evaluations(options: BaseOptions, guidance: float = 9.0) -> Counter[Kind]:
    """What a run evaluates, and how often: the core's own sampler and guidance on a network that only counts."""
    network = _Counting()
    schedule, nothing = cosine_zero_snr(), torch.zeros(1, 1, 1)
    conditions = [Prepared(nothing, {})] * 2
    denoise = guided(network, schedule, conditions, guidance, acceleration=options.acceleration)  # type: ignore[arg-type]
    stage = BaseStage(options, RELEASES["i2vgen_xl"], schedule)
    stage.sample(denoise, stage.noise((1, 4, 1, 1)))
    return network.seen


class _Counting:
    config = UNetConfig()

    def __init__(self) -> None:
        self.seen: Counter[Kind] = Counter()

    def __call__(self, x: Tensor, timesteps: Tensor, prepared: Prepared, frames: int, **others: Any) -> Tensor:
        hooks: BlockHooks = others["hooks"].blocks
        conditions, features = len(prepared.context), hooks.recall()
        if features is None:
            hooks.keep(x)
        self.seen[conditions, features is not None] += 1
        return torch.zeros(conditions * frames, *x.shape[1:])


class _Recalling(BlockHooks):
    def __init__(self, features: Tensor):
        self._features = features

    def recall(self) -> Tensor:
        return self._features


@torch.no_grad()
def _teraflops(step: peer.Step, conditions: int, reused: bool) -> float:
    network, x = step.networks.ours, step.x
    prepared = step.conditions[0] if conditions == 1 else Prepared.together(step.conditions)
    features = x.new_empty(conditions * len(x), network.config.model_channels, *x.shape[2:])
    hooks = Hooks(blocks=_Recalling(features)) if reused else Hooks()
    with FlopCounterMode(display=False) as counter:
        network(x, step.timestep, prepared, step.frames, details=step.details, hooks=hooks)
    return counter.get_total_flops() / 1e12
