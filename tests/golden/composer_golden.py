"""This project's values for a folder of golden values of composers and text to video, driven by its cases.json."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from einops import rearrange
from golden_inputs import EXACT, LOOP, Values, flat, network_of, photo, unet_config, video
from torch import Tensor

from i2vgen_core.config import COMPOSER_STEMS, Kind, UNetConfig
from i2vgen_core.media.guides import masked_video, stretched
from i2vgen_core.network.unet import UNet
from i2vgen_core.sampling.guidance import guided
from i2vgen_core.sampling.schedules import Schedule, ddim_timesteps, lcm_timesteps, schedule_for
from i2vgen_core.sampling.solvers import ddim, guide, lcm, lcm_scalings

PICTURE = 1.0  # of 255


def config_of(kind: Kind, case: dict[str, Any]) -> UNetConfig:
    stems = COMPOSER_STEMS if kind.endswith("composer") else ()
    channels = case["concat_channels"] if kind != "text2video" else 0
    return unet_config(kind, case, concat_channels=channels, stems=stems, image_tokens=case["image_tokens"])


class Inputs:
    """Inputs of one case, by the rules of the golden folder."""

    def __init__(self, weights: ModuleType, pictures: dict[str, list[Any]], case: dict[str, Any], width: int):
        self.noise, self.pictures, self.prefix = weights.noise, pictures, case["prefix"]
        self.batch, self.frames = case["batch"], case["frames"]
        self.height, self.width = case["height"], case["width"]
        self.size = tuple(case.get("pictures") or (8 * self.height, 8 * self.width))
        self.x = flat(self.made("x", (self.batch, 4, self.frames, self.height, self.width)))
        self.text = self.made("y", (self.batch, 77, width))
        self.image = self.made("image", (self.batch, 1, width))

    def made(self, name: str, shape: tuple[int, ...], *form: float) -> Tensor:
        return self.noise(self.prefix + name, shape, *form)

    def picture(self, name: str, frames: int | None = None, prefix: str = "") -> Tensor:
        """[b, f, c, H, W] of a stem's picture; of one frame where all have the same."""
        channels, scale, shift = self.pictures[name]
        one = name in ("local_image", "single_sketch")
        frames = frames or (1 if one else self.frames)
        if name == "masked":
            video = self.made("masked", (self.batch, frames, 3, *self.size), scale, shift)
            hole = (self.made("hole", (self.batch, frames, 1, *self.size)) > 0).float()
            made = [
                masked_video((colours.permute(0, 2, 3, 1) + 1) / 2, holes[:, 0])
                for colours, holes in zip(video, hole, strict=True)
            ]
            return torch.cat(made)
        made = self.made(prefix + name, (self.batch, channels, frames, *self.size), scale, shift)
        return rearrange(made, "b c f h w -> b f c h w")

    def mix(self, names: Iterable[str]) -> tuple[dict[Any, Tensor], Tensor | None]:
        """Pictures by their stems, and the image embedding, of a mix."""
        pictures: dict[Any, Tensor] = {}
        image = None
        for name in names:
            plain = name.removesuffix("0")
            value = self.image if plain == "image" else self.picture(plain)
            value = torch.zeros_like(value) if plain != name else value
            if plain == "image":
                image = value
            else:
                pictures[plain] = value
        return pictures, image

    def beside_noise(self, unet: UNet, pictures: dict[Any, Tensor]) -> Tensor | None:
        return unet.stems.beside_noise(pictures, self.frames, self.height, self.width)


def context_of(unet: UNet, text: Tensor, image: Tensor | None) -> Tensor:
    return text if image is None else torch.cat([text, unet.pre_image_condition(image)], dim=1)


@torch.no_grad()
def unet_values(cases: dict[str, Any], weights: ModuleType, names: set[str]) -> Values:
    """Of the names that are asked for: the text-to-video networks are in one case alone."""
    network = cases["network"]

    @lru_cache
    def net(kind: Kind) -> UNet:
        return network_of(config_of(kind, network), weights)

    values: dict[str, Tensor] = {}
    composer = net("videolcm_composer")
    for name, case in cases["cases"].items():
        made = Inputs(weights, cases["pictures"], case, network["context_dim"])
        t, size = torch.tensor(case["t"]), (made.height, made.width)
        for stem in cases["pictures"]:
            single = stem in ("local_image", "single_sketch")
            pictures = made.picture(stem, made.frames, "stem." if single else "")
            values[f"{name}.stem.{stem}"] = composer.stems[stem](pictures, *size).transpose(1, 2)
        values[f"{name}.image_tokens"] = composer.pre_image_condition(made.image)
        values[f"{name}.zero_image_tokens"] = composer.pre_image_condition(torch.zeros_like(made.image[:1]))
        for mix, used in case["mixes"].items():
            pictures, image = made.mix(used)
            details = made.beside_noise(composer, pictures)
            if details is not None:
                values[f"{name}.concat.{mix}"] = video(details, made.batch)
            context = context_of(composer, made.text, image)
            velocity = composer(made.x, t, context, made.frames, details=details)
            values[f"{name}.velocity.{mix}"] = video(velocity, made.batch)
        others: dict[str, tuple[Kind, bool]] = {
            "videolcm_t2v": ("videolcm_t2v", False),
            "vgen_t2v": ("text2video", False),
            "tft2v_t2v.image": ("tft2v_t2v", True),
        }
        for key, (kind, reads_image) in others.items():
            if f"{name}.{key}" in names:
                context = context_of(net(kind), made.text, made.image if reads_image else None)
                values[f"{name}.{key}"] = video(net(kind)(made.x, t, context, made.frames), made.batch)
    return {name: (value, EXACT) for name, value in values.items() if name in names}


# ---------------------------------------------------------------- sampling


@torch.no_grad()
def sampling_values(cases: dict[str, Any], weights: ModuleType, names: set[str]) -> Values:
    sampling, shape = cases["sampling"], tuple(cases["sampling"]["shape"])
    tft2v, videolcm = schedule_for("tft2v_composer"), schedule_for("videolcm_composer")
    distilled = lcm_timesteps(50)
    scalings = torch.tensor([lcm_scalings(t) for t in distilled], dtype=torch.float64)
    values: Values = {
        "tft2v.alphas_cumprod": (tft2v.alphas_cumprod, EXACT),
        "videolcm.alphas_cumprod": (videolcm.alphas_cumprod, EXACT),
        "videolcm.boundary_timesteps": (torch.tensor(distilled), 0.0),
        "videolcm.c_skip": (scalings[:, 0], EXACT),
        "videolcm.c_out": (scalings[:, 1], EXACT),
    }
    for steps, timesteps in sampling["tft2v.timesteps"].items():
        assert ddim_timesteps(int(steps)) == timesteps, f"tft2v {steps}"
    for steps, timesteps in sampling["videolcm.timesteps"].items():
        assert lcm_timesteps(int(steps)) == timesteps, f"videolcm {steps}"

    x, cond, uncond = (flat(weights.noise(sampling[key], shape)) for key in ("x", "cond", "uncond"))

    def toy(y: Tensor, x: Tensor, t: int) -> Tensor:
        return torch.tanh(0.7 * x * (1 - t / 1000) + 0.3 * y + 0.2 * t / 1000)

    def runs(kind: str) -> list[int]:
        return [int(name.removeprefix(kind)) for name in names if name.removeprefix(kind).isdecimal()]

    for steps in runs("tft2v.ddim"):
        scale = sampling["guidance"][str(steps)]

        def guided_toy(x: Tensor, t: int, scale: float = scale) -> Tensor:
            return tft2v.denoised(x, guide(toy(cond, x, t), toy(uncond, x, t), scale), t)

        values[f"tft2v.ddim{steps}"] = video(ddim(guided_toy, x, tft2v, steps), shape[0]), EXACT
    for steps in runs("videolcm.lcm"):
        key = f"videolcm.lcm{steps}"

        def keep(step: int, _: int, x: Tensor, denoised: Tensor, key: str = key) -> None:
            values[f"{key}.x{step}"] = video(x, shape[0]), EXACT
            values[f"{key}.denoised{step}"] = video(denoised, shape[0]), EXACT

        noise = noises(weights, sampling["lcm_noise"], shape)
        last = lcm(
            lambda x, t: videolcm.denoised(x, toy(cond, x, t), t), x, videolcm, steps, noise=noise, callback=keep
        )
        values[key] = video(last, shape[0]), EXACT
    if "network" in sampling:
        values |= network_loops(cases, sampling["network"], weights, videolcm)
    return {name: value for name, value in values.items() if name in names}


def noises(weights: ModuleType, name: str, shape: tuple[int, ...]) -> Callable[[], Tensor]:
    count = iter(range(1000))
    return lambda: flat(weights.noise(f"{name}{next(count)}", shape))


def network_loops(cases: dict[str, Any], case: dict[str, Any], weights: ModuleType, schedule: Schedule) -> Values:
    """The toy composer itself in both loops, by the stages' own guidance."""
    network = cases["network"]
    unet = network_of(config_of("tft2v_composer", network), weights)
    made = Inputs(weights, cases["pictures"], case, network["context_dim"])
    shape = (made.batch, 4, made.frames, made.height, made.width)
    negative = weights.noise(case["negative"], (1, 77, network["context_dim"]))
    values: Values = {}
    for names in case["mixes"]:
        pictures, image = made.mix(names)
        videos: dict[str, list[Tensor]] = {}
        for row in range(made.batch):
            one = slice(row, row + 1)
            seen, x = None if image is None else image[one], made.x.unflatten(0, (made.batch, -1))[row]
            details = made.beside_noise(unet, {name: value[one] for name, value in pictures.items()})
            nothing = None if seen is None else torch.zeros_like(seen)
            both = [
                unet.prepare(context_of(unet, made.text[one], seen)),
                unet.prepare(context_of(unet, negative, nothing)),
            ]
            steps = case["ddim_steps"]
            denoise = guided(unet, schedule, both, case["guidance"], details=details)
            videos.setdefault(f"tft2v.network_ddim{steps}", []).append(ddim(denoise, x, schedule, steps))
            steps, draw = case["lcm_steps"], noises(weights, case["noise"], shape)
            denoise = guided(unet, schedule, both[:1], 1.0, details=details)
            rows = lcm(denoise, x, schedule, steps, noise=lambda draw=draw, row=row: draw().chunk(made.batch)[row])
            videos.setdefault(f"videolcm.network_lcm{steps}", []).append(rows)
        mix = "_".join(names)
        values |= {f"{key}.{mix}": (video(torch.cat(each), made.batch), LOOP) for key, each in videos.items()}
    return values


# ---------------------------------------------------------------- pictures


def picture_values(cases: dict[str, Any], weights: ModuleType, names: set[str]) -> Values:
    values: Values = {}
    for case in cases.get("photos", []):
        width, height = case["to_width"], case["to_height"]
        frame = stretched(photo(weights, case["name"], case["height"], case["width"]), width, height)
        for name, image in (("frame", frame), ("clip", stretched(frame, 224, 224))):
            values[f"{case['name']}.{name}_every8"] = (image[0, ::8, ::8] * 255).round(), PICTURE
    if "masked" in names:
        colours = weights.noise("mask.video", (1, 2, 3, 6, 8), 0.28, 0.5)[0].permute(0, 2, 3, 1)
        holes = (weights.noise("mask.hole", (1, 2, 1, 6, 8)) > 0).float()[0, :, 0]
        values["masked"] = masked_video(colours, holes).transpose(1, 2), EXACT
    return values


def makers(folder: Path, weights: ModuleType) -> dict[str, Callable[[set[str]], Values]]:
    """By the files of a folder of composers, what makes our values of the names that it has."""
    cases = json.loads((folder / "cases.json").read_text(encoding="utf-8"))
    return {
        "unet": lambda names: unet_values(cases, weights, names),
        "sampling": lambda names: sampling_values(cases, weights, names),
        "pictures": lambda names: picture_values(cases, weights, names),
    }
