"""Compares this code with a folder of golden values of the official code.

    python tests/golden/check.py DIR

DIR holds cases.json, weights.py (that of this folder, if it has none) and safetensors files: of the cascade's networks,
schedules, encoders and images, or of the composers, of the animators, or of a refiner with a control branch. What is compared follows from cases.json alone.
Prints the worst relative error of each value beside its limit, and the files that nothing here makes values of; exits 1 if
one is over, or if a golden value has nothing to be compared with.
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

HERE = Path(__file__).resolve().parent
if importlib.util.find_spec("i2vgen_core") is None:
    sys.path.append(str(HERE.parents[1]))
sys.path.append(str(HERE))

from golden_inputs import EXACT, LOOP, Values, flat, official_state, unet_config, video  # noqa: E402

from i2vgen_core.checkpoints.load import parse_unet  # noqa: E402
from i2vgen_core.config import BASES, REFINERS  # noqa: E402
from i2vgen_core.releases import RELEASES  # noqa: E402
from i2vgen_core.sampling import schedules  # noqa: E402
from i2vgen_core.sampling.noise import BrownianNoise  # noqa: E402
from i2vgen_core.sampling.solvers import ddim, ddim_inversion, dpmpp_2m_sde, guide, heun  # noqa: E402

TABLE = 1e-5
PICTURE = 1.0  # of 255

MODULES = {
    "sampling": "composer_golden",
    "animate_x": "animator_golden",
    "which": "hinted_golden",
    "every_channel": "adapter_golden",
    "cases": "editing_golden",
}
"""What makes our values of the folders beside the cascade's, by what stands in their cases.json alone."""


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
    for name, make in makers_of(folder).items():
        golden = load_file(folder / f"{name}.safetensors")
        ours = make(set(golden))
        for key, expected in sorted(golden.items()):
            value, limit = ours.get(key, (None, EXACT))
            yield Result(f"{name}: {key}", _error(value, expected, absolute=limit >= 1), limit)
    for name, (picture, expected) in load_module(HERE / "animator_golden.py").pose_pictures(folder).items():
        yield Result(name, _error(picture, expected, absolute=True), PICTURE)


def makers_of(folder: Path) -> dict[str, Callable[[set[str]], Values]]:
    """What makes our values, by the folder's files, which its cases tell; each is given the golden values' names."""
    cases = json.loads((folder / "cases.json").read_text(encoding="utf-8"))
    own = folder / "weights.py"
    weights = load_module(own if own.is_file() else HERE / "weights.py")
    for mark, module in MODULES.items():
        if mark in cases:
            return load_module(HERE / f"{module}.py").makers(folder, weights)
    return {
        "unet": lambda _: unet_values(cases["unet"], weights),
        "schedules": lambda _: schedule_values(cases["schedules"], weights),
        "encoders": lambda _: load_module(HERE / "encoders_golden.py").encoder_values(folder),
        "images": lambda _: load_module(HERE / "images_golden.py").image_values(folder),
    }


def _error(ours: Tensor | None, golden: Tensor, absolute: bool) -> float:
    if ours is None or ours.shape != golden.shape:
        return float("inf")
    there = ~torch.isinf(golden)
    if not torch.equal(ours[~there], golden[~there]) or not torch.isfinite(ours[there].double()).all():
        return float("inf")
    ours, golden = ours[there], golden[there]
    worst = float((ours.double() - golden.double()).abs().max())
    return worst if absolute else worst / float(golden.double().abs().max())


def load_module(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


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
        for kind in BASES + REFINERS:
            config = unet_config(kind, case)
            checkpoint = parse_unet(official_state(config, weights), {"head_dim": config.head_dim}, kind=kind)
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
    folder = Path(sys.argv[1])
    results = list(check(folder))
    for result in results:
        mark = "ok  " if result.passed else "OVER"
        print(f"{mark} {result.name:56} {result.error:9.2e}  limit {result.limit:g}")
    others = {file.stem for file in folder.glob("*.safetensors")} - set(makers_of(folder))
    for name in sorted(others):
        print(f"not compared: {name}.safetensors")
    failed = sum(not result.passed for result in results)
    print(f"{len(results)} values, {failed} over their limit")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
