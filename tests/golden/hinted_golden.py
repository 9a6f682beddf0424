"""This project's values for a folder of golden values of STAR or VEnhancer, driven by its cases.json."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from einops import rearrange
from golden_inputs import EXACT, Values, flat, official_shapes, unet_config, video
from safetensors.torch import load_file
from torch import Tensor, nn

from i2vgen_core.checkpoints.load import parse_unet
from i2vgen_core.checkpoints.unet_keys import from_official
from i2vgen_core.config import VAE_SCALE, VAE_STEP, ControlConfig, Kind, UNetConfig
from i2vgen_core.media.colour import match_low_bands, match_statistics
from i2vgen_core.media.enlarge import (
    enlarged,
    enlarged_size,
    held,
    inserted_for,
    padded,
    padding_of,
    without_padding,
)
from i2vgen_core.media.tiles import (
    GROUP,
    GROUP_OVERLAP,
    TILE,
    TILE_OVERLAP,
    decode_in_tiles,
    gaussian_weights,
    sliding_windows,
)
from i2vgen_core.network.blocks import (
    Downsample,
    PlaceGate,
    ResBlock,
    SpatialTransformer,
    TemporalTransformer,
    Upsample,
)
from i2vgen_core.network.control import Hint
from i2vgen_core.network.evaluation import Evaluation
from i2vgen_core.network.hooks import Hooks
from i2vgen_core.network.unet import UNet
from i2vgen_core.releases import RELEASES
from i2vgen_core.sampling.guidance import guided_and_joined
from i2vgen_core.sampling.noise import BrownianNoise
from i2vgen_core.sampling.options import RefineOptions
from i2vgen_core.sampling.schedules import Schedule, schedule_for
from i2vgen_core.sampling.solvers import StepNoise, dpmpp_2m_sde, guide
from i2vgen_core.sampling.stages import RefineStage, hint_of_keys
from i2vgen_core.sampling.windows import join_windows, key_frames, refiner_windows

NETWORK = 2e-5
RUN = 3e-5
"""Limits of a whole network and of a sampling loop, as the folders' READMEs have them."""


class Folder:
    """A folder's network and its sampling.

    Args:
        cases: its cases.json.
        weights: what its weights and noises are made by.
        sigmas_vp: the table that its runs were made with, to the bit; ours if None. PyTorch takes logarithms in float32 from a
            library that has other code for other makers' processors, so a table's last bit is a matter of the machine. A Brownian
            path forgives none of it: its noise goes with the root of a time's error, a thousandth for a millionth.
    """

    def __init__(self, cases: dict[str, Any], weights: ModuleType, sigmas_vp: Tensor | None = None):
        self.cases, self.weights = cases, weights
        self.kind: Kind = cases["which"]
        self.release = RELEASES[self.kind]
        self.schedule = schedule_for(self.kind) if sigmas_vp is None else Schedule(1 - sigmas_vp.double() ** 2)

    def network(self, scale: dict[str, float], control: bool = True) -> UNet:
        """The toy network, read as a file is, with or without its control branch."""
        return _network(self, json.dumps(scale), control)

    def state(self, scale: dict[str, float]) -> dict[str, Tensor]:
        """The tensors of the toy network's file, some of them scaled."""

        def made(key: str, shape: tuple[int, ...]) -> Tensor:
            weight = self.weights.weight(self.cases["weights"] + key, shape)
            for part, factor in scale.items():
                if part in key:
                    weight = weight * factor
            return weight

        return {key: made(key, shape) for key, shape in official_shapes(self.config).items()}

    @property
    def config(self) -> UNetConfig:
        is_star = self.kind == "star"
        control = ControlConfig(4, not is_star)
        return unet_config(self.kind, self.cases["network"], gated=is_star, control=control)

    def stage(self, case: dict[str, Any], **others: Any) -> RefineStage:
        """Of a run's settings; noise_aug 0, which a stage refuses, is left to hint_of_keys."""
        inserted = case.get("inserted") if self.kind == "venhancer" else None
        options = RefineOptions(
            steps=case["steps"],
            guidance=case["guidance"],
            rescale=case.get("rescale"),
            noise_level=case["levels"],
            mode=case["mode"],
            window=case.get("chunk"),
            inserted=inserted,
            noise_aug=case.get("noise_aug") or None,
            scale_told=case.get("s_cond"),
            **others,
        )
        return RefineStage(options, self.release, self.schedule)

    def windows(self, case: dict[str, Any], frames: int) -> list[range]:
        return refiner_windows(
            frames, case.get("chunk", self.release.window), self.release.joining, case.get("inserted", 0)
        )


@cache
def _network(folder: Folder, scale: str, control: bool) -> UNet:
    config, state = folder.config, folder.state(json.loads(scale))
    checkpoint = parse_unet(state, {"head_dim": config.head_dim})
    expected = UNetConfig(**{**vars(config), "image_dim": checkpoint.config.image_dim})
    assert checkpoint.config == expected, "told by its tensors"
    if control:
        return checkpoint.build_network()
    plain = {key: value for key, value in state.items() if not key.startswith("VideoControlNet.")}
    unet = UNet(UNetConfig(**{**vars(config), "control": None})).eval().requires_grad_(False)
    unet.load_state_dict(from_official(plain))
    return unet


# ---------------------------------------------------------------- the network


@torch.no_grad()
def unet_values(folder: Folder) -> Values:
    values: Values = {}
    for name, case in folder.cases["unet"].items():
        values |= {f"{name}.{key}": value for key, value in network_values(folder, case).items()}
    return values | part_values(folder)


def network_values(folder: Folder, case: dict[str, Any], unet: UNet | None = None) -> Values:
    """Of a case's runs, with the network that is read from its weights unless another is given."""
    prefix, batch, frames, height, width = (case[key] for key in ("prefix", "batch", "frames", "height", "width"))
    scale = case.get("scale", {})
    unet = unet or folder.network(scale)

    def noise(name: str, shape: tuple[int, ...]) -> Tensor:
        return folder.weights.noise(prefix + name, shape)

    def latent(name: str) -> Tensor:
        return flat(noise(name, (batch, 4, case.get("keys", frames), height, width)))

    def number(name: str) -> Tensor | None:
        return torch.tensor(case[name]) if name in case else None

    x = flat(noise("x", (batch, 4, frames, height, width)))

    def hint(latent_name: str | None = "hint", second: str = "", without: tuple[str, ...] = ()) -> Hint:
        def of(key: str, name: str) -> Tensor | None:
            return None if key in without else number(name + ("2" if second == key else ""))

        clean = None if latent_name is None else latent(latent_name)
        return Hint(clean, of("mask", "mask"), of("noise_level", "t_hint"), of("scale", "s_cond"))

    def run(given: Hint, text: str = "y", time: str = "t") -> Tensor:
        y = noise(text, (batch, 77, 1024))
        return video(unet(x, torch.tensor(case[time]), y, frames, hint=given), batch)

    def plain() -> Tensor:
        uncontrolled = folder.network(scale, control=False)
        y = noise("y", (batch, 77, 1024))
        return video(uncontrolled(x, torch.tensor(case["t"]), y, frames), batch)

    runs: dict[str, Callable[[], Tensor]] = {
        "controlled": lambda: run(hint()),
        "text": lambda: run(hint(), text="y2"),
        "time": lambda: run(hint(), time="t2"),
        "hint": lambda: run(hint("hint2")),
        "noise_level": lambda: run(hint(second="noise_level")),
        "scale": lambda: run(hint(second="scale")),
        "no_hint": lambda: run(hint(None)),
        "no_noise_level": lambda: run(hint(without=("noise_level",))),
        "no_scale": lambda: run(hint(without=("scale",))),
        "no_mask": lambda: run(hint(without=("mask",))),
        "no_conditions": lambda: run(Hint()),
        "uncontrolled": plain,
    }
    values: Values = {name: (runs[name](), NETWORK) for name in case["runs"]}
    branch, timesteps = unet.VideoControlNet, torch.tensor(case["t"])
    evaluation = Evaluation(
        unet._embed(timesteps, unet.prepare(noise("y", (batch, 77, 1024))), x.dtype),
        frames,
        unet.prepare(noise("y", (batch, 77, 1024))),
        Hooks(),
    )
    outputs = list(branch.features(x, timesteps, hint(), evaluation))
    values |= {f"control.{k}": (outputs[k], NETWORK) for k in case["control"]}
    if case.get("embeddings"):
        level, told = number("t_hint"), number("s_cond")
        assert level is not None and told is not None
        values |= {
            "noise_level_embedding": (branch.noise_level_embedding(level, x.dtype), EXACT),
            "scale_embedding": (branch.scale_cond(branch._sinusoidal(told, x.dtype)), EXACT),
            "time_embedding": (branch.time_embed(branch._sinusoidal(timesteps, x.dtype)), EXACT),
        }
    return values


def part_values(folder: Folder) -> Values:
    cases, unet = folder.cases["parts"], folder.network({})
    prefix, batch, frames, height, width = (cases[key] for key in ("prefix", "batch", "frames", "height", "width"))
    text = folder.weights.noise(prefix + "y", (batch * frames, 77, 1024))
    embedding = folder.weights.noise(prefix + "emb", (batch * frames, 4 * unet.config.model_channels))

    def evaluation(clips: int) -> Evaluation:
        """Of as many videos."""
        of_frame = embedding.unflatten(0, (clips, -1))
        return Evaluation(of_frame, batch * frames // clips, unet.prepare(text[:clips]), Hooks())

    def value(name: str, path: str) -> Tensor:
        part = unet.get_submodule(path)

        def given(channels: int, *form: int) -> Tensor:
            return folder.weights.noise(prefix + name, (form[0], channels, *form[1:]))

        by_frame, by_video = (batch * frames, height, width), (batch, frames, height, width)
        if name in cases["channels"]:
            channels = cases["channels"][name]
            if isinstance(part, PlaceGate):
                x = given(channels, *by_frame)
                gate = part(rearrange(x, "n c h w -> n (h w) c"), height)
                return x * rearrange(gate, "n (h w) c -> n c h w", h=height)
            x = folder.weights.noise(prefix + name, (batch * height * width, frames, channels))
            return x * part(x, 1)
        if isinstance(part, TemporalTransformer):
            x = flat(given(part.norm.num_channels, *by_video))
            return video(part(x, evaluation(batch)), batch)
        if isinstance(part, SpatialTransformer):
            return part(given(part.channels, *by_frame), evaluation(batch * frames))
        if isinstance(part, ResBlock):
            return part(given(part.in_layers[2].weight.shape[1], *by_frame), evaluation(batch))
        convolution = part
        if isinstance(part, (Downsample, Upsample)):
            convolution = part.op if isinstance(part, Downsample) else part.conv
        elif isinstance(part, nn.Sequential):
            convolution = part[0]
        x = given(convolution.weight.shape[1], *by_frame)
        return part(x, evaluation(batch)) if isinstance(part, (Downsample, Upsample)) else part(x)

    return {f"part.{name}": (value(name, path), EXACT) for name, path in cases["modules"].items()}


# ---------------------------------------------------------------- sampling


class Draws:
    """The solver's noise of a run."""

    def __init__(self, folder: Folder, case: dict[str, Any], prefix: str):
        self.folder, self.case, self.prefix = folder, case, prefix
        self.number = 0

    def __call__(self, x: Tensor, sigmas: Tensor) -> StepNoise | None:
        if self.case.get("eta", 1.0) == 0:
            return None
        if "seed" in self.case:
            return BrownianNoise(x, sigmas, self.case["seed"])
        shape = (1, x.shape[1], len(x), *x.shape[2:])

        def draw(sigma: Tensor, following: Tensor) -> Tensor:
            self.number += 1
            return flat(self.folder.weights.noise(f"{self.prefix}step{self.number - 1}", shape))

        return draw


@torch.no_grad()
def schedule_values(folder: Folder) -> Values:
    cases = folder.cases["schedules"]
    values: Values = {"sigmas_vp": (schedule_for(folder.kind).sigmas_vp, EXACT)}
    for name, own in cases["runs"].items():
        values |= toy_run(folder, cases["prefix"], name, cases["default"] | own)
    return values


def toy_run(folder: Folder, beginning: str, name: str, case: dict[str, Any]) -> Values:
    prefix, frames, size = f"{beginning}{name}.", case["frames"], (case["height"], case["width"])
    schedule, inserted = folder.schedule, case.get("inserted", 0)

    def noise(key: str, count: int = frames) -> Tensor:
        return flat(folder.weights.noise(prefix + key, (1, 4, count, *size)))

    stage, windows = folder.stage(case), folder.windows(case, frames)
    computed = folder.cases["computed"]["schedules"][name]
    assert stage.timesteps == computed["timesteps"], name
    if "chunks" in computed:
        assert [[window.start, window.stop] for window in windows] == computed["chunks"], name
    clean, yc, yu = noise("video"), noise("yc", 1), noise("yu", 1)
    start = schedule.add_noise(clean, noise("eps"), case["levels"] - 1)
    if folder.kind == "star":
        hint = stage.hint(ControlConfig(), clean)
        read = hint.latent
    else:
        keys = int((key_frames(frames, inserted) >= 0).sum())
        hint = hint_of_keys(schedule, clean, noise("hint_eps", keys), inserted, case["noise_aug"] - 1, case["s_cond"])
        assert hint.latent is not None and hint.keys is not None
        assert hint.noise_level is not None and hint.scale is not None
        told = hint.latent + 0.001 * hint.noise_level + 0.05 * hint.scale
        read = torch.where((hint.keys[0] >= 0)[:, None, None, None], told[hint.keys[0]], 0.0)
    assert read is not None

    def denoised(part: Tensor, window: range, t: int) -> Tensor:
        s, g = t / 1000, read[window.start : window.stop]

        def velocity(y: Tensor) -> Tensor:
            mixed = part + 0.4 * part.mean(dim=0, keepdim=True)
            return torch.tanh(0.7 * mixed * (1 - s) + 0.3 * y + 0.5 * g + 0.2 * s)

        guided = velocity(yc)
        if case["guidance"] != 1:
            guided = guide(guided, velocity(yu), case["guidance"], case["rescale"])
        return schedule.denoised(part, guided, t)

    def denoise(x: Tensor, t: int) -> Tensor:
        return join_windows(x, windows, stage.share(), lambda part, number: denoised(part, windows[number], t))

    drawn = Draws(folder, case, prefix)(start, stage.plan.sigmas)
    made = dpmpp_2m_sde(denoise, start, stage.plan, eta=case.get("eta", 1.0), noise=drawn)
    values: Values = {f"{name}.sigmas": (stage.plan.sigmas, EXACT), name: (video(made, 1), RUN)}
    if case.get("keep_start"):
        values[f"{name}.start"] = video(start, 1), EXACT
    return values


# ---------------------------------------------------------------- pictures


class ToyVAE:
    """Stands for the VAE."""

    def __init__(self, folder: Folder, prefix: str):
        self.weights, self.prefix = folder.weights, prefix
        self.down, self.up = folder.weights.noise("vae.down", (4, 3)), folder.weights.noise("vae.up", (3, 4), 0.2)

    def encode(self, images: Tensor) -> Tensor:
        """Frames [F, H, W, 3] in 0..1 to scaled latents."""
        pooled = nn.functional.avg_pool2d(images.movedim(-1, 1) * 2 - 1, VAE_STEP)
        latent = torch.einsum("oc, fchw -> fohw", self.down, pooled)
        drawn = [
            self.weights.noise(f"{self.prefix}vae{frame}", (1, 4, *latent.shape[2:])) for frame in range(len(latent))
        ]
        return (latent + 0.1 * torch.cat(drawn)) * VAE_SCALE

    def decode(self, latent: Tensor) -> Tensor:
        """Scaled latents of one call to pixels [f, 3, H, W]."""
        pixels = torch.einsum("co, fohw -> fchw", self.up, latent / VAE_SCALE)
        pixels = pixels + 0.5 * pixels.mean(dim=0, keepdim=True)
        return pixels.repeat_interleave(VAE_STEP, 2).repeat_interleave(VAE_STEP, 3)


@torch.no_grad()
def picture_values(folder: Folder) -> Values:
    cases, computed = folder.cases["pictures"], folder.cases["computed"]["pictures"]
    prefix, values = cases["prefix"], {}
    for height, width, expected in computed["padding"]:
        assert list(padding_of(height, width)) == expected, (height, width)
    for frames, second, expected in computed["chunks"]:
        own = {"inserted": second} if folder.kind == "venhancer" else {"chunk": second}
        found = [[window.start, window.stop] for window in folder.windows(own, frames)]
        assert found == (expected or [[0, frames]]), (frames, second)
    for height, width, scale, expected in computed.get("target", []):
        bounds = folder.release.fewest_pixels, folder.release.most_pixels
        assert list(enlarged_size(height, width, scale, *bounds)) == expected, (height, width, scale)
    for keys, inserted, expected in computed.get("mask", []):
        assert key_frames(len(held(torch.zeros(keys), inserted)), inserted).tolist() == expected, (keys, inserted)
    for fps, target, expected in computed.get("inserted", []):
        assert inserted_for(fps, target) == expected, (fps, target)
    for name, (frames, h, w, height, width) in cases["enlarge"].items():
        pixels = folder.weights.noise(prefix + name, (frames, 3, h, w), 0.4)
        values[f"enlarge.{name}"] = enlarged(pixels.movedim(1, -1), height, width).movedim(-1, 1), EXACT
    for name, (frames, height, width, h, w) in cases.get("colour", {}).items():
        target = folder.weights.noise(f"{prefix}{name}.target", (frames, height, width, 3), 0.25, 0.45).clamp(0, 1)
        source = folder.weights.noise(f"{prefix}{name}.source", (frames, 3, h, w), 0.35, 0.1).clamp(-1, 1)
        original = source.movedim(1, -1) / 2 + 0.5
        values[f"colour.{name}.adain"] = 255 * match_statistics(target, original), EXACT
        if original.shape == target.shape:
            values[f"colour.{name}.wavelet"] = 255 * match_low_bands(target, original), EXACT
    for name, (frames, height, width) in cases.get("decode", {}).items():
        for side, size, overlap, length in (
            ("height", TILE[0], TILE_OVERLAP[0], height),
            ("width", TILE[1], TILE_OVERLAP[1], width),
            ("time", GROUP, GROUP_OVERLAP, frames),
        ):
            found = sliding_windows(length, size, overlap, max(size, round(1.33 * size)))
            assert [[window.start, window.stop] for window in found] == computed["decode_windows"][name][side]
        vae, (down, across) = ToyVAE(folder, prefix), cases["decode_stride"]
        latent = flat(folder.weights.noise(prefix + name, (1, 4, frames, height, width), 0.18))
        values[f"decode.{name}"] = video(decode_in_tiles(vae.decode, latent)[..., ::down, ::across], 1), EXACT
    if "gaussian" in cases:
        width, height = cases["gaussian"]
        values["gaussian_weights"] = gaussian_weights(height, width), EXACT
    return values


# ---------------------------------------------------------------- the whole program


@torch.no_grad()
def pipeline_values(folder: Folder) -> Values:
    cases = folder.cases["pipeline"]
    values: Values = {}
    for name, own in cases["runs"].items():
        values |= {f"{name}.{key}": value for key, value in program(folder, name, cases["default"] | own).items()}
    return values


def program(folder: Folder, name: str, case: dict[str, Any]) -> Values:
    prefix, count, h, w = case["prefix"], case["frames"], case["height"], case["width"]
    inserted = case.get("inserted", 0)

    def noise(key: str, *shape: int) -> Tensor:
        return folder.weights.noise(prefix + key, shape)

    drawn = folder.weights.noise(prefix + "video", (count, 3, h, w), 0.4) + folder.weights.noise(
        prefix + "light", (count, 3, 1, 1), 0.2
    )
    made = ((drawn.clamp(-1, 1) + 1) * 127.5).round().movedim(1, -1) / 255
    height, width = case["target"] if "target" in case else (h * case["upscale"], w * case["upscale"])
    padding = padding_of(height, width, tuple(case["least"]))
    vae = ToyVAE(folder, prefix)
    latent = vae.encode(padded(held(enlarged(made, height, width), inserted), padding))
    frames, shape = len(latent), (1, 4, len(latent), *latent.shape[2:])

    stage = folder.stage(case)
    windows = stage.windows(frames)
    computed = folder.cases["computed"]["pipeline"][name]
    assert [[window.start, window.stop] for window in windows] == computed.get("chunks", [[0, frames]])
    assert stage.timesteps == computed["timesteps"]
    unet = folder.network(case.get("scale", {}))
    assert unet.config.control is not None
    keys = int((key_frames(frames, inserted) >= 0).sum())
    hint_noise = flat(noise("hint_noise", 1, 4, keys, *latent.shape[2:]))
    if case.get("noise_aug", 1):
        hint = stage.hint(unet.config.control, latent, hint_noise)
    else:
        hint = hint_of_keys(folder.schedule, latent, hint_noise, inserted, -1, case["s_cond"])
    conditions = [unet.prepare(noise(text, 1, 77, 1024)) for text in ("text", "negative")]
    settings = stage.settings
    denoise = guided_and_joined(
        unet, folder.schedule, windows, stage.share(), conditions, settings.guidance, settings.rescale, hint=hint
    )
    start = stage.add_noise(latent, flat(noise("noise", *shape)))
    step_noise = Draws(folder, case, prefix)(start, stage.plan.sigmas)
    seen: list[Tensor] = []
    watch = unet.input_blocks[0][0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    sampled = dpmpp_2m_sde(denoise, start, stage.plan, noise=step_noise)
    watch.remove()
    if folder.kind == "star":
        pixels = torch.cat([vae.decode(part) for part in sampled.split(3)])
    else:
        pixels = decode_in_tiles(vae.decode, sampled)
    images = without_padding((pixels.movedim(1, -1) / 2 + 0.5).clamp(0, 1), padding)
    stride = case["stride"]

    def shown(frames: Tensor) -> Tensor:
        return 255 * frames[:, ::stride, ::stride]

    values: Values = {
        "sampled": (video(sampled, 1), RUN),
        "video": (shown(images), RUN),
        "latent": (video(latent, 1), EXACT),
    }
    if "first_input" in case["keep"]:
        values["first_input"] = video(seen[0], 1), EXACT
    if "colour" in case["keep"]:
        values["colour"] = shown(match_statistics(images, made)), RUN
    return values


def makers(folder: Path, weights: ModuleType) -> dict[str, Callable[[set[str]], Values]]:
    """By the files of a folder of STAR or VEnhancer, what makes our values."""
    file = folder / "schedules.safetensors"
    table = load_file(file).get("sigmas_vp") if file.is_file() else None
    of = Folder(json.loads((folder / "cases.json").read_text(encoding="utf-8")), weights, table)
    assert of.release.prompt_suffix == of.cases["prompts"]["added"], "the added prompt"
    assert of.release.negative_prompt == of.cases["prompts"]["negative"], "the negative prompt"
    return {
        "unet": lambda _: unet_values(of),
        "schedules": lambda _: schedule_values(of),
        "pictures": lambda _: picture_values(of),
        "pipeline": lambda _: pipeline_values(of),
    }
