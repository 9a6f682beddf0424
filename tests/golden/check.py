"""Compares this code with a folder of golden values of the official code.

    python tests/golden/check.py DIR

DIR holds cases.json, weights.py and the safetensors files of networks, schedules, encoders and images. What is compared
follows from cases.json alone. Prints the worst relative error of each value beside its limit; exits 1 if one is over,
or if a golden value has nothing to be compared with.
"""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from einops import rearrange
from safetensors.torch import load_file
from torch import Tensor

ROOT = Path(__file__).resolve().parents[2]
if importlib.util.find_spec("i2vgen_core") is None:
    sys.path.append(str(ROOT))

from i2vgen_core.checkpoints.load import parse_unet  # noqa: E402
from i2vgen_core.checkpoints.unet_keys import GLOBAL_ENCODER, to_official  # noqa: E402
from i2vgen_core.config import RELEASES, Kind, UNetConfig  # noqa: E402
from i2vgen_core.network.blocks import Layers  # noqa: E402
from i2vgen_core.network.image_conditioning import GlobalEncoder  # noqa: E402
from i2vgen_core.network.unet import UNet  # noqa: E402
from i2vgen_core.sampling import schedules  # noqa: E402
from i2vgen_core.sampling.noise import BrownianNoise  # noqa: E402
from i2vgen_core.sampling.solvers import ddim, ddim_inversion, dpmpp_2m_sde, guide, heun  # noqa: E402

EXACT = 1e-5
LOOP = 1e-4
"""Limit where a whole sampling loop ran."""
TABLE = 1e-5

Values = dict[str, tuple[Tensor, float]]
"""Ours, and the limit of max|ours - golden| / max|golden|; a limit of 1 or more is an absolute one (of 255)."""


@dataclass(frozen=True)
class Result:
    name: str
    error: float
    limit: float

    @property
    def passed(self) -> bool:
        return self.error <= self.limit


def check(folder: Path) -> Iterator[Result]:
    """Every golden value of the folder against ours."""
    cases = json.loads((folder / "cases.json").read_text(encoding="utf-8"))
    weights = load_module(folder / "weights.py")
    here = Path(__file__).parent
    makers: dict[str, Callable[[], Values]] = {
        "unet": lambda: unet_values(cases["unet"], weights),
        "schedules": lambda: schedule_values(cases["schedules"], weights),
        "encoders": lambda: load_module(here / "encoders_golden.py").encoder_values(folder),
        "images": lambda: load_module(here / "images_golden.py").image_values(folder),
    }
    for name, make in makers.items():
        golden = load_file(folder / f"{name}.safetensors")
        ours = make()
        for key, expected in sorted(golden.items()):
            value, limit = ours.get(key, (None, EXACT))
            yield Result(f"{name}: {key}", _error(value, expected, absolute=limit >= 1), limit)


def _error(ours: Tensor | None, golden: Tensor, absolute: bool) -> float:
    if ours is None or ours.shape != golden.shape or not torch.isfinite(ours.double()).all():
        return float("inf")
    worst = float((ours.double() - golden.double()).abs().max())
    return worst if absolute else worst / float(golden.double().abs().max())


def load_module(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def unet_config(kind: Kind, case: dict[str, Any]) -> UNetConfig:
    levels = range(len(case["multipliers"]))
    return UNetConfig(
        kind=kind,
        in_channels=case["in_channels"],
        model_channels=case["model_channels"],
        channel_mult=tuple(case["multipliers"]),
        attention_levels=tuple(2.0**-level in case["attention_scales"] for level in levels),
        num_res_blocks=case["blocks"],
        head_dim=case["head_dim"],
        first_temporal_heads=case["first_temporal_heads"],
        context_dim=case["context_dim"],
        image_dim=case["context_dim"],
    )


def official_shapes(config: UNetConfig) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a network's file in the official layout, global encoder included."""
    state = dict(UNet(config, device="meta").state_dict())
    if config.reads_details:
        encoder = GlobalEncoder(config.in_channels, config.context_dim, Layers(device="meta"))
        state |= {GLOBAL_ENCODER + key: value for key, value in encoder.state_dict().items()}
    return {key: tuple(value.shape) for key, value in to_official(state).items()}


@torch.no_grad()
def unet_values(cases: dict[str, Any], weights: ModuleType) -> Values:
    values: Values = {}
    for name, case in cases.items():
        batch, frames, height, width = (case[key] for key in ("batch", "frames", "height", "width"))
        channels, context_dim = case["in_channels"], case["context_dim"]
        t, fps = torch.tensor(case["t"]), torch.tensor(case["fps"])
        text = weights.noise("y", (batch, 77, context_dim))
        image = weights.noise("image", (batch, 1, context_dim))
        local = weights.noise("local", (batch, channels, 1, height, width))[:, :, 0]
        x = flat(weights.noise("x", (batch, channels, frames, height, width)))
        x_refiner = flat(weights.noise("x2", (batch, channels, frames, height + 2, width)))
        found: dict[str, Tensor] = {}
        for kind in RELEASES:
            config = unet_config(kind, case)
            state = {key: weights.weight(key, shape) for key, shape in official_shapes(config).items()}
            checkpoint = parse_unet(state, {"head_dim": config.head_dim}, kind=kind)
            unet = checkpoint.build_network()
            if kind == "i2vgen_xl":
                encoder = checkpoint.build_global_encoder()
                assert encoder is not None
                global_tokens = found["i2vgen.global_tokens"] = encoder(local)
                details = unet.detail_encoder(local, frames)
                found["i2vgen.concat"] = video(details, batch)
                found["i2vgen.clip_image_tokens"] = unet.context_embedding(image)
                for branch, embedding in (("cond", image), ("zero_image", torch.zeros_like(image))):
                    context = torch.cat([text, global_tokens, unet.context_embedding(embedding)], dim=1)
                    found[f"i2vgen.{branch}"] = video(unet(x, t, context, frames, fps, details), batch)
            elif kind == "image2video":
                found["image2video"] = video(unet(x, t, unet.context_embedding(image), frames, fps), batch)
            else:
                found[kind.removesuffix("_xl")] = video(unet(x_refiner, t, text, frames), batch)
        values |= {f"{name}.{key}": (value, EXACT) for key, value in found.items()}
    return values


def flat(x: Tensor) -> Tensor:
    return rearrange(x, "b c f h w -> (b f) c h w")


def video(x: Tensor, batch: int) -> Tensor:
    return rearrange(x, "(b f) c h w -> b c f h w", b=batch)


@torch.no_grad()
def schedule_values(cases: dict[str, Any], weights: ModuleType) -> Values:
    """Tables, and the samplers' latents [B, C, F, H, W]: every video of the batch runs by itself. Nothing of the official
    code couples them but the Brownian path, which it draws over the whole batch."""
    inputs = [weights.noise(cases[key], tuple(cases["shape"])) for key in ("x", "cond", "uncond", "noise")]
    values, latents = schedule_tables(cases), []
    for index, one in enumerate(zip(*(tensor.split(1) for tensor in inputs), strict=True)):
        latents.append(video_latents(cases, [flat(tensor) for tensor in one], inputs[0], index))
    return values | {
        key: (torch.cat([video(found[key][0], 1) for found in latents]), limit)
        for key, (_, limit) in latents[0].items()
    }


def schedule_tables(cases: dict[str, Any]) -> Values:
    """What depends on the schedules alone."""
    base, refine = schedules.schedule_for("i2vgen_xl"), schedules.schedule_for("vid2vid_xl")
    alphas = base.alphas_cumprod
    values: Values = {
        "base.alphas_cumprod": (alphas, TABLE),
        "base.betas": (1 - torch.cat([alphas[:1], alphas[1:] / alphas[:-1]]), TABLE),
        "image2video.alphas_cumprod": (schedules.schedule_for("image2video").alphas_cumprod, TABLE),
        "refine.sigmas_vp": (refine.sigmas_vp, TABLE),
        "sr600.sigmas_vp": (schedules.schedule_for("sr600").sigmas_vp, TABLE),
        "sr600.inversion_sigmas_vp": (schedules.cosine().sigmas_vp, TABLE),
    }
    for solver, steps, *_ in cases["refine"] + cases.get("refine_stochastic", []):
        plan = schedules.refine_steps(refine, steps, RELEASES["vid2vid_xl"].noise_level, solver)
        values[f"refine.{solver}_{steps}.sigmas"] = plan.sigmas, TABLE
        values[f"refine.{solver}_{steps}.timesteps"] = torch.tensor(plan.timesteps), 0.0
    return values


def video_latents(cases: dict[str, Any], inputs: list[Tensor], batch: Tensor, index: int) -> Values:
    """The samplers' latents of one video.

    Args:
        cases: of the schedules.
        inputs: first latent, condition, negative condition and noise, each [F, C, H, W].
        batch: the first latents of all videos [B, C, F, H, W], which say how much the Brownian path draws.
        index: of the video in the batch.
    """
    x, cond, uncond, eps = inputs

    def velocity(x: Tensor, t: int, y: Tensor) -> Tensor:
        """The toy network that stands for the UNet."""
        return torch.tanh(0.7 * x * (1 - t / 1000) + 0.3 * y + 0.2 * t / 1000)

    def denoiser(schedule: schedules.Schedule, scale: float, rescale: float = 0.0) -> Callable[[Tensor, int], Tensor]:
        def denoise(x: Tensor, t: int) -> Tensor:
            guided = guide(velocity(x, t, cond), velocity(x, t, uncond), scale, rescale)
            return schedule.denoised(x, guided, t)

        return denoise

    base, refine, inversion = (
        schedules.schedule_for("i2vgen_xl"),
        schedules.schedule_for("vid2vid_xl"),
        schedules.cosine(),
    )
    values: Values = {}
    denoise = denoiser(base, cases["base_guidance"])
    for steps in cases["ddim_steps"]:
        values[f"base.ddim{steps}"] = ddim(denoise, x, base, steps), LOOP
    steps = cases["inversion_steps"]
    inverted = ddim_inversion(lambda x, t: base.denoised(x, velocity(x, t, cond), t), x, base, steps, 1000)
    values[f"base.ddim_inversion{steps}"] = inverted, LOOP

    level = RELEASES["vid2vid_xl"].noise_level
    diffused = refine.add_noise(x, eps, level - 1)
    values[f"refine.diffused{level - 1}"] = diffused, EXACT
    denoise = denoiser(refine, cases["refine_guidance"], cases["refine_rescale"])
    runs = [(solver, steps, 0.0, None) for solver, steps in cases["refine"]] + cases.get("refine_stochastic", [])
    for solver, steps, eta, seed in runs:
        plan = schedules.refine_steps(refine, steps, level, solver)
        if solver == "heun":
            latent = heun(denoise, diffused, plan)
        else:
            noise = None if seed is None else batch_noise(batch, plan.sigmas, seed, index)
            latent = dpmpp_2m_sde(denoise, diffused, plan, eta=eta, noise=noise)
        suffix = "" if seed is None else f"_seed{seed}"
        values[f"refine.{solver}_eta{eta:g}_{steps}{suffix}"] = latent, LOOP

    steps, levels = cases["sr600_inversion"]
    inverted = ddim_inversion(
        lambda x, t: inversion.denoised(x, velocity(x, t, uncond), t), x, inversion, steps, levels
    )
    values[f"sr600.inversion{steps}_of_{levels}"] = inverted, LOOP
    return values


def batch_noise(batch: Tensor, sigmas: Tensor, seed: int, index: int) -> Callable[[Tensor, Tensor], Tensor]:
    """One video's part of a Brownian path over a batch [B, C, F, H, W]. A path draws its numbers in the order of
    memory, so that of a batch is that of one video with the channels of all."""
    channels = batch.shape[1]
    whole = BrownianNoise(rearrange(batch, "b c f h w -> f (b c) h w"), sigmas, seed)

    def noise(sigma: Tensor, following: Tensor) -> Tensor:
        return whole(sigma, following)[:, index * channels : (index + 1) * channels]

    return noise


def main() -> int:
    if len(sys.argv) != 2 or not (Path(sys.argv[1]) / "cases.json").is_file():
        sys.exit(re.sub(r"\n\n.*", "", __doc__ or "", flags=re.S) + "\n\nusage: check.py DIR (with cases.json)")
    results = list(check(Path(sys.argv[1])))
    for result in results:
        mark = "ok  " if result.passed else "OVER"
        print(f"{mark} {result.name:56} {result.error:9.2e}  limit {result.limit:g}")
    failed = sum(not result.passed for result in results)
    print(f"{len(results)} values, {failed} over their limit")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
