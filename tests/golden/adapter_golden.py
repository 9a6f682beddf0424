"""This project's values for a folder of golden values of Ctrl-Adapter, driven by its cases.json."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from diffusers.models.controlnets.controlnet import ControlNetModel
from editing_golden import BASE, base_of
from golden_inputs import EXACT, LOOP, Values, flat, video
from torch import Tensor

from i2vgen_core.checkpoints.adapter import load_adapter
from i2vgen_core.encoders.controlnet import FrameControl
from i2vgen_core.network.adapter import CtrlAdapter
from i2vgen_core.network.unet import UNet
from i2vgen_core.sampling.control import Control, ControlledPredictor, ControlOptions, controlled
from i2vgen_core.sampling.schedules import leading_timesteps, schedule_for
from i2vgen_core.sampling.solvers import ddim

HEADS = 4
"""Of the toy ControlNet, whose `attention_head_dim` means that."""


class Inputs:
    """Inputs of one case, by the rules of the golden folder; rows are the positive half first, as ours are."""

    def __init__(self, weights: ModuleType, network: dict[str, Any], case: dict[str, Any]):
        self._weights, self.network, self.prefix = weights, network, case["prefix"]
        self.frames, self.size = case["frames"], (case["height"], case["width"])

    def noise(self, name: str, shape: tuple[int, ...]) -> Tensor:
        return self._weights.noise(self.prefix + name, shape)

    @property
    def x(self) -> Tensor:
        return flat(self.noise("x", (1, 4, self.frames, *self.size)))

    def features(self) -> list[Tensor]:
        """Of each block on the way down and the middle [(2 f), c, h, w]."""
        made, (height, width) = [], self.size
        channels, multipliers = self.network["model_channels"], self.network["multipliers"]
        widths = [channels]
        sizes = [(height, width)]
        for level, multiplier in enumerate(multipliers):
            for _ in range(self.network["blocks"]):
                widths.append(channels * multiplier)
                sizes.append((height, width))
            if level < len(multipliers) - 1:
                height, width = math.ceil(height / 2), math.ceil(width / 2)
                widths.append(channels * multiplier)
                sizes.append((height, width))
        names = [*range(len(widths)), "mid"]
        for name, c, size in zip(names, [*widths, widths[-1]], [*sizes, sizes[-1]], strict=True):
            made.append(swapped(self.noise(f"control.{name}", (2 * self.frames, c, *size))))
        return made


def swapped(halves: Tensor) -> Tensor:
    """The other half first: theirs is the negative, ours the positive."""
    return torch.cat(halves.chunk(2)[::-1])


@torch.no_grad()
def values(folder: Path, cases: dict[str, Any], weights: ModuleType) -> Values:
    network, every, prefix = cases["network"], cases["every_channel"], cases["weights"]
    shapes = json.loads((folder / "adapter_keys.json").read_text(encoding="utf-8"))["toy"]
    state = {key: weights.weight(prefix + key, tuple(shape)) for key, shape in shapes.items()}
    adapter = load_adapter(state, network["head_dim"])
    checkpoint = base_of(network, prefix, weights)
    unet, encoder = checkpoint.build_network(), checkpoint.build_global_encoder()
    assert encoder is not None
    found: Values = {"alphas_cumprod": (schedule_for(BASE).alphas_cumprod, EXACT)}

    @cache
    def controlnet(skip: bool) -> ControlNetModel:  # of its own, since its first weights are set to 0
        return toy_controlnet(network, prefix, weights)

    for name, case in cases["cases"].items():
        made = Inputs(weights, network, case)
        token = made.noise("image", (1, 1, network["context_dim"]))
        for one in case["adapter"]:
            features, t = made.features(), torch.tensor([one["t"]])
            key_frames = one.get("sparse", [])
            if one.get("zero"):
                added = adapter([torch.zeros_like(features[-1])], t, token, made.frames, middle_alone=True)
            else:
                added = adapter(features, t, token, made.frames, key_frames)
            for block, value in added.items():
                if key_frames:
                    value = value.unflatten(0, (2, made.frames))[:, key_frames].flatten(0, 1)
                key = "mid" if block.way == "middle" else block.number
                limit = LOOP if one.get("zero") else EXACT
                found[f"{name}.adapter.{one['name']}.{key}"] = swapped(value)[:, ::every].contiguous(), limit
        for one in case.get("controlnet", []):
            hints = (made.noise("hint", (made.frames, 3, 8 * made.size[0], 8 * made.size[1])) / math.sqrt(3) + 1) / 2
            skip = one.get("skip_conv_in", False)
            text = made.noise("clip", (made.frames, 77, network["model_channels"]))
            down = FrameControl(controlnet(skip), hints, [text], skip)(made.x, one["t"], 1)
            for key, value in zip([*range(len(down) - 1), "mid"], down, strict=True):
                found[f"{name}.controlnet.{one['name']}.{key}"] = value[:, ::every].contiguous(), EXACT
        latent = made.noise("latent", (1, 4, *made.size))
        fps = torch.tensor([float(case["fps"])])
        conditions = []
        for text, embedding in (("positive", token), ("negative", torch.zeros_like(token))):
            tokens = made.noise(f"text.{text}", (1, 77, network["context_dim"]))
            parts = [tokens, encoder(latent), unet.context_embedding(embedding)]
            conditions.append(unet.prepare(torch.cat(parts, dim=1), fps))
        details = unet.detail_encoder(latent, made.frames)
        for run in case["runs"]:
            for key, value in run_values(unet, adapter, made, conditions, details, token, run).items():
                found[f"{name}.run.{run['name']}.{key}"] = value
    return found


def run_values(
    unet: UNet,
    adapter: CtrlAdapter,
    made: Inputs,
    conditions: list[Any],
    details: Tensor,
    token: Tensor,
    run: dict[str, Any],
) -> Values:
    timesteps, features = leading_timesteps(run["steps"]), made.features()

    def scaled(x: Tensor, t: int, count: int) -> list[Tensor]:
        return [each * (0.5 + t / 1000) for each in features]

    options = ControlOptions(run["scale"], run["start"], run["end"], tuple(run.get("sparse", ())))
    options.check(made.frames)
    predict = ControlledPredictor(unet, Control(adapter, scaled, token, options), details, timesteps)
    schedule, entered = schedule_for(BASE), {}
    denoise = controlled(predict, schedule, conditions, run["guidance"])

    def seen(x: Tensor, t: int) -> Tensor:
        entered[t] = x
        return denoise(x, t)

    last = ddim(seen, made.x, schedule, timesteps, clean_end=run["steps"] <= 500)
    first = predict(made.x, timesteps[0], conditions)
    found: Values = {"first_prediction": (torch.cat([video(each, 1) for each in first[::-1]]), EXACT)}
    for t, following in zip(timesteps, [*timesteps[1:], None], strict=True):
        found[f"{t}"] = video(last if following is None else entered[following], 1), LOOP
    return found


def toy_controlnet(network: dict[str, Any], prefix: str, weights: ModuleType) -> ControlNetModel:
    channels = tuple(network["model_channels"] * multiplier for multiplier in network["multipliers"])
    made = ControlNetModel(
        block_out_channels=channels,
        layers_per_block=network["blocks"],
        attention_head_dim=HEADS,
        cross_attention_dim=network["model_channels"],
        conditioning_embedding_out_channels=(8, 16, 24, 32),
    )
    made.load_state_dict(
        {
            key: weights.weight(f"{prefix}controlnet.{key}", tuple(value.shape))
            for key, value in made.state_dict().items()
        }
    )
    return made.eval()


def makers(folder: Path, weights: ModuleType) -> dict[str, Callable[[set[str]], Values]]:
    """By the files of a folder of Ctrl-Adapter, what makes our values."""
    cases = json.loads((folder / "cases.json").read_text(encoding="utf-8"))
    return {"ctrl_adapter": lambda _: values(folder, cases, weights)}
