"""This project's values for a folder of golden values of AnyV2V, driven by its cases.json."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from golden_inputs import EXACT, LOOP, Values, flat, official_shapes, unet_config, video
from torch import Tensor

from i2vgen_core.checkpoints.load import UNetCheckpoint, parse_unet
from i2vgen_core.config import Kind
from i2vgen_core.network.evaluation import Prepared
from i2vgen_core.network.injection import Injection, injecting
from i2vgen_core.network.unet import UNet
from i2vgen_core.releases import RELEASES
from i2vgen_core.sampling.editing import EditStage, guided_by_source
from i2vgen_core.sampling.guidance import guided
from i2vgen_core.sampling.options import EditOptions
from i2vgen_core.sampling.schedules import leading_timesteps, schedule_for
from i2vgen_core.sampling.solvers import clean_inversion

BASE: Kind = "i2vgen_xl"
INJECTED = {"conv": "convolution", "spatial": "spatial", "temporal": "temporal"}


def base_of(network: dict[str, Any], prefix: str, weights: ModuleType) -> UNetCheckpoint:
    """A base with the weights of the golden values, whose names have a prefix."""
    config = unet_config(BASE, network)
    state = {key: weights.weight(prefix + key, shape) for key, shape in official_shapes(config).items()}
    return parse_unet(state, {"head_dim": config.head_dim}, kind=BASE, detail_gain=network["detail_gain"])


class Inputs:
    """Inputs of one case, by the rules of the golden folder."""

    def __init__(self, checkpoint: UNetCheckpoint, unet: UNet, weights: ModuleType, case: dict[str, Any]):
        self._checkpoint, self._unet, self._weights = checkpoint, unet, weights
        self.prefix, self.fps = case["prefix"], torch.tensor([float(case["fps"])])
        self.frames, self.size = case["frames"], (case["height"], case["width"])

    def noise(self, name: str, shape: tuple[int, ...]) -> Tensor:
        return self._weights.noise(self.prefix + name, shape)

    def latent(self, name: str) -> Tensor:
        """[f, 4, h, w]."""
        return flat(self.noise(name, (1, 4, self.frames, *self.size)))

    def image_latent(self, name: str) -> Tensor:
        """[1, 4, h, w]; the source's is that of its first frame."""
        return self.latent("source")[:1] if name == "source" else self.noise("edited", (1, 4, *self.size))

    def details(self, name: str) -> Tensor:
        return self._unet.detail_encoder(self.image_latent(name), self.frames)

    def prepared(self, text: str, image: str, seen: bool = True) -> Prepared:
        """The condition of a text and of the image `source` or `edit`, without its details."""
        width, encoder = self._unet.config.context_dim, self._checkpoint.build_global_encoder()
        assert encoder is not None
        embedding = self.noise(f"image.{image}", (1, 1, width))
        projected = self._unet.context_embedding(embedding if seen else torch.zeros_like(embedding))
        tokens = self.noise(f"text.{text}", (1, 77, width))
        context = torch.cat([tokens, encoder(self.image_latent(image)), projected], dim=1)
        return self._unet.prepare(context, self.fps)


@torch.no_grad()
def values(cases: dict[str, Any], weights: ModuleType) -> Values:
    checkpoint = base_of(cases["network"], cases["weights"], weights)
    unet, schedule = checkpoint.build_network(), schedule_for(BASE)
    found: Values = {"alphas_cumprod": (schedule.alphas_cumprod, EXACT)}
    for name, case in cases["cases"].items():
        made = Inputs(checkpoint, unet, weights, case)
        conditions = {
            "source": made.prepared("source", "source"),
            "negative": made.prepared("negative", "edit", seen=False),
            "edit": made.prepared("edit", "edit"),
        }
        details = {"source": made.details("source"), "edit": made.details("edit")}
        rows = [
            Prepared.together([Prepared(each.context, each.keys_values, each.fps, details[image])])
            for each, image in zip(conditions.values(), ("source", "edit", "edit"), strict=True)
        ]
        batch = torch.cat([made.latent("z"), made.latent("x"), made.latent("x")])
        for step in case["steps"]:
            injection = Injection(**{INJECTED[kind]: True for kind in step["inject"]})
            hooks, t = injecting(unet, injection, 3), torch.tensor([step["t"]])
            velocity = unet(batch, t, Prepared.together(rows), made.frames, hooks=hooks)
            found[f"{name}.step.{step['name']}"] = video(velocity, 3), EXACT
        for run in case["runs"]:
            for key, (latent, limit) in run_values(unet, made, conditions, rows[0], details, run).items():
                found[f"{name}.{run['name']}.{key}"] = video(latent, 1), limit
    return found


def run_values(
    unet: UNet,
    made: Inputs,
    conditions: dict[str, Prepared],
    source: Prepared,
    details: dict[str, Tensor],
    run: dict[str, Any],
) -> Values:
    options = EditOptions(
        steps=run["edit_steps"],
        inversion_steps=run["inversion_steps"],
        guidance=run["guidance"],
        convolution=run["pnp_f_t"],
        spatial=run["pnp_spatial_attn_t"],
        temporal=run["pnp_temp_attn_t"],
        start=run["ddim_init_latents_t_idx"],
        fresh_noise=run["random_ratio"],
    )
    schedule = schedule_for(BASE)
    stage = EditStage(options, RELEASES[BASE], schedule)
    alone = guided(unet, schedule, [conditions["source"]], 1.0, details=details["source"])
    every = leading_timesteps(run["inversion_steps"])[::-1]
    inverted = dict(clean_inversion(alone, made.latent("source"), schedule, every))
    for t, latent in stage.invert(alone, made.latent("source")).items():
        assert torch.equal(latent, inverted[t]), "the stage inverts no further than its edit reads"
    found: Values = {f"inverted.{t}": (latent, EXACT) for t, latent in inverted.items()}
    denoise = guided_by_source(
        unet,
        schedule,
        source,
        [conditions["edit"], conditions["negative"]],
        details["edit"],
        inverted,
        stage.injection_at,
        stage.settings.guidance,
    )
    first = stage.first_latent(inverted, made.latent("eps"))
    entered: dict[int, Tensor] = {}

    def seen(x: Tensor, t: int) -> Tensor:
        entered[t] = x
        return denoise(x, t)

    found["edited"] = stage.sample(seen, first), LOOP
    following = [*stage.timesteps[1:], None]
    for t, after in zip(stage.timesteps, following, strict=True):
        found[f"edited.{t}"] = (found["edited"][0] if after is None else entered[after]), LOOP
    return found


def makers(folder: Path, weights: ModuleType) -> dict[str, Callable[[set[str]], Values]]:
    """By the files of a folder of AnyV2V, what makes our values."""
    cases = json.loads((folder / "cases.json").read_text(encoding="utf-8"))
    return {"anyv2v": lambda _: values(cases, weights)}
