"""This project's values for a folder of golden values of UniAnimate and Animate-X, driven by its cases.json."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from einops import rearrange
from encoders_golden import ldm_vae_shapes
from golden_inputs import EXACT, LOOP, Values, flat, network_of, official_state, photo, unet_config, video
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from i2vgen_core.checkpoints.encoders import load_vae
from i2vgen_core.checkpoints.load import parse_unet
from i2vgen_core.config import ANIMATOR_STEMS, VAE_SCALE, Kind, PoseConfig, UNetConfig
from i2vgen_core.media.guides import pose_frames, stretched
from i2vgen_core.network.animation import Motion, Person, animation_conditions
from i2vgen_core.network.evaluation import Prepared
from i2vgen_core.network.unet import UNet
from i2vgen_core.poses.alignment import align
from i2vgen_core.poses.drawing import draw
from i2vgen_core.poses.keypoints import Poses, poses_of_whole_body
from i2vgen_core.releases import RELEASES
from i2vgen_core.sampling.guidance import guided_in_windows
from i2vgen_core.sampling.options import AnimateOptions
from i2vgen_core.sampling.schedules import schedule_for, strided_timesteps
from i2vgen_core.sampling.solvers import ddim, guide
from i2vgen_core.sampling.stages import AnimateStage
from i2vgen_core.sampling.windows import over_windows, window_ranges

NETWORK = 3e-5
"""Limit of a whole network: the official run in float32 is itself up to 6e-6 away from float64."""
PICTURE = 1.0  # of 255
CONCAT = 8


def config_of(kind: Kind, case: dict[str, Any]) -> UNetConfig:
    poses = None
    if kind == "animate_x":
        ipi = case["ipi"]
        poses = PoseConfig(
            width=ipi["width"],
            hidden=ipi["width"],
            layers=ipi["pose_layers"],
            resampler_width=ipi["heads"] * ipi["head_dim"],
            resampler_layers=ipi["depth"],
        )
        assert ipi["pose_heads"] == 8 and ipi["head_dim"] == case["head_dim"], "neither leaves a trace in shapes"
    return unet_config(kind, case, concat_channels=CONCAT, stems=ANIMATOR_STEMS, poses=poses)


@cache
def network(kind: Kind, case: str, weights: ModuleType) -> UNet:
    """The toy network of a case (as JSON), read as a file is."""
    sizes = json.loads(case)
    config = config_of(kind, sizes)
    read = parse_unet(official_state(config, weights), {"head_dim": config.head_dim}).config
    assert read == replace(config, first_temporal_heads=read.first_temporal_heads), "told by its tensors"
    return network_of(config, weights)


def net(kind: Kind, case: dict[str, Any], weights: ModuleType) -> UNet:
    sizes = ("model_channels", "multipliers", "head_dim", "first_temporal_heads", "blocks", "attention_scales", "ipi")
    return network(kind, json.dumps({key: case[key] for key in sizes if key in case}), weights)


class Inputs:
    """Inputs of one case, by the rules of the golden folder."""

    def __init__(self, weights: ModuleType, case: dict[str, Any]):
        self.weights, self.prefix = weights, case.get("prefix", "")
        self.batch, self.frames = case["batch"], case["frames"]
        self.height, self.width = case["height"], case["width"]
        shape = (self.batch, 4, self.frames, self.height, self.width)
        self.x = flat(self.noise("x", shape))
        self.text = self.noise("zero_y", (1, 77, 1024)).expand(self.batch, -1, -1)
        self.image = self.noise("image", (self.batch, 1, 1024))
        self.reference = self.noise("ref", (self.batch, 4, 1, self.height, self.width))[:, :, 0]
        self.t = torch.tensor(case["t"])

    def noise(self, name: str, shape: tuple[int, ...], *form: float) -> Tensor:
        return self.weights.noise(self.prefix + name, shape, *form)

    def pixels(self, name: str, frames: int) -> Tensor:
        """[b, f, 3, 8h, 8w]"""
        blocks = self.noise(name, (self.batch, 3, frames, self.height, self.width), 0.2, 0.5)
        blocks = blocks.repeat_interleave(8, dim=-1).repeat_interleave(8, dim=-2)
        grain = self.noise(f"{name}.grain", tuple(blocks.shape), 0.08)
        return rearrange(blocks + grain, "b c f h w -> b f c h w")

    def prepared(self, unet: UNet, *parts: str, poses: Prepared | None = None) -> Prepared:
        """What the network reads where these of image, reference, local and pose are there."""
        tokens = unet.pre_image_condition(self.image)
        context = torch.cat([self.text, tokens if "image" in parts else torch.zeros_like(tokens)], dim=1)
        pose, pictures, in_front = self.pixels("pose", self.frames + 1), {}, None
        if "pose" in parts:
            pictures["pose"] = pose[:, 1:]
        if "local" in parts:
            pictures["local_image"] = self.pixels("local", 1)
        if "reference" in parts:
            in_front = unet.stems.in_front(self.reference, pose[:, 0])
        details = unet.stems.beside_noise(pictures, self.frames, self.height, self.width)
        return replace(unet.prepare(context, details=details, in_front=in_front), poses=poses)

    def run(self, unet: UNet, *parts: str, poses: Prepared | None = None) -> Tensor:
        velocity = unet(self.x, self.t, self.prepared(unet, *parts, poses=poses), self.frames)
        return video(velocity, self.batch)


MODES = {
    "random_ref": ("image", "reference", "pose"),
    "first_frame": ("image", "local", "pose"),
    "both": ("image", "reference", "local", "pose"),
    "unconditional": (),
}


@torch.no_grad()
def unet_values(cases: dict[str, Any], weights: ModuleType) -> Values:
    values: Values = {}
    for name, case in cases.items():
        unet, made = net("unianimate", case, weights), Inputs(weights, case)
        size = made.height, made.width
        pose, local = made.pixels("pose", made.frames + 1), made.pixels("local", 1)
        parts = {
            "pose": unet.stems["pose"](pose[:, 1:], *size).transpose(1, 2),
            "local_image": unet.stems["local_image"](local, *size).transpose(1, 2),
            "reference_latent": unet.stems["reference"](made.reference[:, None], *size).transpose(1, 2),
            "reference_pose": unet.stems["reference_pose"](pose[:, :1], *size).transpose(1, 2),
            "image_tokens": unet.pre_image_condition(made.image),
        }
        values |= {f"{name}.{key}": (value, EXACT) for key, value in parts.items()}
        seen: list[Tensor] = []
        watch = unet.input_blocks[0][0].register_forward_pre_hook(lambda _, inputs, seen=seen: seen.append(inputs[0]))
        for mode, used in MODES.items():
            values[f"{name}.{mode}"] = made.run(unet, *used), NETWORK
        watch.remove()
        values[f"{name}.input"] = video(seen[list(MODES).index("both")], made.batch), EXACT
    return values


@torch.no_grad()
def animate_x_values(cases: dict[str, Any], weights: ModuleType) -> Values:
    values: Values = {}
    for name, case in cases.items():
        unet, made = net("animate_x", case, weights), Inputs(weights, case)
        frames = made.frames + 1
        points = made.noise("keypoints", (made.batch, frames, 2, 18), 0.25, 0.5)
        driving = made.noise("driving", (made.batch * frames, 1, 1024))
        poses = unet.prepare_poses(points, driving)
        nothing = unet.prepare_poses(torch.zeros_like(points), torch.zeros_like(driving))
        values |= {
            f"{name}.official.pose_tokens": (unet.pose_embedding_before(points), EXACT),
            f"{name}.official.motion_tokens": (poses.context, EXACT),
            f"{name}.unconditional.motion_tokens": (nothing.context, EXACT),
            f"{name}.official": (made.run(unet, *MODES["first_frame"], poses=poses), NETWORK),
            f"{name}.random_ref": (made.run(unet, *MODES["random_ref"], poses=poses), NETWORK),
            f"{name}.unconditional": (made.run(unet, poses=nothing), NETWORK),
        }
        if made.batch == 1:
            values |= {f"{name}.{key}": value for key, value in as_conditions(unet, made, points, driving).items()}
    return values


def as_conditions(unet: UNet, made: Inputs, points: Tensor, driving: Tensor) -> Values:
    """The same by the way that sampling goes, both conditions in one batch."""
    person = Person(
        made.text,
        made.image,
        made.pixels("pose", made.frames + 1)[0, 1:],
        first_frame=made.pixels("local", 1)[0, 0],
        motion=Motion(points[0], driving[:, 0]),
    )
    ((positive, negative),) = animation_conditions(unet, person, [range(made.frames)], made.height, made.width)
    both = unet(made.x, made.t, Prepared.together([positive, negative]), made.frames).chunk(2)
    return {key: (video(half, 1), NETWORK) for key, half in zip(("official", "unconditional"), both, strict=True)}


# ---------------------------------------------------------------- sampling


def toy(x: Tensor, t: int, y: Tensor | float) -> Tensor:
    return torch.tanh(0.7 * x * (1 - t / 1000) + 0.3 * y + 0.2 * t / 1000)


@torch.no_grad()
def schedule_values(cases: dict[str, Any], weights: ModuleType) -> Values:
    schedule, shape, scale = schedule_for("unianimate"), tuple(cases["shape"]), cases["guidance"]
    alphas = schedule.alphas_cumprod
    values: Values = {
        "alphas_cumprod": (alphas, EXACT),
        "betas": (1 - torch.cat([alphas[:1], alphas[1:] / alphas[:-1]]), EXACT),
    }
    x, cond, uncond = (flat(weights.noise(cases[key], shape)) for key in ("x", "cond", "uncond"))

    def denoise(x: Tensor, t: int) -> Tensor:
        return schedule.denoised(x, guide(toy(x, t, cond), toy(x, t, uncond), scale), t)

    for steps in cases["ddim_steps"]:
        timesteps = strided_timesteps(steps)
        values[f"ddim{steps}.timesteps"] = torch.tensor(timesteps), 0.0
        values[f"ddim{steps}"] = video(ddim(denoise, x, schedule, timesteps), shape[0]), EXACT

    frames = shape[2]
    reference = weights.noise(cases["reference"], (*shape[:2], 1, *shape[3:]))[:, :, 0].repeat_interleave(frames, 0)
    noise, offset = flat(weights.noise(cases["noise"], shape)), flat(weights.noise(cases["offset"], (*shape[:3], 1, 1)))
    for level in cases["prior_levels"]:
        for name, window in (("short", frames), ("long", frames - 1)):
            options = AnimateOptions(frames=frames, prior_level=level, window=window, overlap=0)
            first = AnimateStage(options, RELEASES["unianimate"], schedule).first_latent(reference, noise, offset)
            values[f"prior.{name}{level}"] = video(first, shape[0]), EXACT

    for case in cases["windows"]:
        found = window_ranges(case["frames"], case["size"], case["overlap"])
        assert [window.start for window in found] == case["starts"], case
    for case in cases["long"]:
        values |= toy_windows(cases, case, weights)
    return values


def toy_windows(cases: dict[str, Any], case: dict[str, Any], weights: ModuleType) -> Values:
    schedule, (batch, channels, _, *size) = schedule_for("unianimate"), cases["shape"]
    frames, window, overlap, steps = (case[key] for key in ("frames", "size", "overlap", "steps"))
    noises = weights.noise(cases["x"] + ".long", (batch, channels, frames, *size))
    every = weights.noise(cases["cond"] + ".long", (batch, channels, frames + 1, *size))
    windows = window_ranges(frames, window, overlap)

    def made(x: Tensor, poses: Tensor) -> Tensor:
        """Of one video."""

        def denoise(x: Tensor, t: int) -> Tensor:
            def predict(part: Tensor, number: int) -> list[Tensor]:
                rows = [1 + frame for frame in windows[number]]
                mixed = part + 0.4 * part.mean(dim=0, keepdim=True)
                return [toy(mixed, t, poses[rows] + 0.5 * poses[:1]), toy(mixed, t, 0.0)]

            return schedule.denoised(x, guide(*over_windows(x, windows, predict), cases["guidance"]), t)

        return ddim(denoise, x, schedule, strided_timesteps(steps))

    found = [video(made(flat(x), flat(y)), 1) for x, y in zip(noises.split(1), every.split(1), strict=True)]
    return {f"long.{frames}_{window}_{overlap}_{steps}": (torch.cat(found), EXACT)}


# ---------------------------------------------------------------- the whole way


@torch.no_grad()
def pipeline_values(cases: dict[str, Any], vae_sizes: dict[str, Any], weights: ModuleType) -> Values:
    vae = load_vae({key: weights.weight(key, shape) for key, shape in ldm_vae_shapes(vae_sizes).items()})
    values: Values = {}
    for name, case in cases.items():
        prefix, width, height = case["prefix"], case["width"], case["height"]
        h, w, frames = height // 8, width // 8, case["frames"]
        taken = pose_frames(case["pose_files"], frames, case["interval"])
        assert [frame for frame in taken if frame is not None] == case["pose_frames"]

        def noise(key: str, shape: tuple[int, ...], prefix: str = prefix) -> Tensor:
            return weights.noise(prefix + key, shape)

        def picture(key: str, size: tuple[int, int]) -> Tensor:
            return photo(weights, key, *size)

        person_picture = picture("photo", (case["photo_height"], case["photo_width"]))
        image = stretched(person_picture, width, height)
        drawn = [stretched(picture(key, case["pose_size"]), width, height) for key in ["pose_ref"]]
        for frame in taken:
            pose = torch.zeros_like(image) if frame is None else picture(f"pose{frame}", case["pose_size"])
            drawn.append(stretched(pose, width, height))
        poses = rearrange(torch.cat(drawn), "f h w c -> f c h w")
        pixels = rearrange(image, "n h w c -> n c h w")
        mean, log_variance = vae.moments(pixels * 2 - 1).chunk(2, dim=1)
        sampled = mean + (log_variance.clamp(-30, 20) / 2).exp() * noise("vae_eps", (1, 4, h, w))
        reference = sampled * VAE_SCALE
        options = AnimateOptions(
            width=width,
            height=height,
            frames=frames,
            steps=case["steps"],
            guidance=case["guide_scale"],
            prior_level=case["noise_prior_value"],
            window=case.get("context_size", frames),
            overlap=case.get("context_overlap", 0),
        )
        stage = AnimateStage(options, RELEASES["unianimate"], schedule_for("unianimate"))
        first_noise, offset = flat(noise("noise", (1, 4, frames, h, w))), flat(noise("offset", (1, 4, frames, 1, 1)))
        first = stage.first_latent(reference, first_noise, offset)
        clip = stretched(person_picture, 224, 224)
        values |= {
            f"{name}.reference_image": (levels(image)[0], PICTURE),
            f"{name}.pose": (levels(torch.cat(drawn[:3])), PICTURE),
            f"{name}.clip_image": (levels(clip)[0], PICTURE),
            f"{name}.reference_latent": (reference, EXACT),
            f"{name}.first_noise": (video(first, 1), EXACT),
        }
        unet = net("unianimate", case["network"], weights)
        person = Person(noise("zero_y", (1, 77, 1024)), noise("image", (1, 1024))[:, None], poses[1:])
        modes = {
            "random_ref": replace(person, reference=reference, reference_pose=poses[0]),
            "first_frame": replace(person, first_frame=pixels[0]),
        }
        for mode, one in modes.items():
            if ("randomref" if mode == "random_ref" else "local_image") not in str(case["keys"]):
                continue
            conditions = animation_conditions(unet, one, stage.windows, h, w)
            denoise = guided_in_windows(unet, stage.schedule, stage.windows, conditions, stage.settings.guidance)
            latent = stage.sample(denoise, first)
            values[f"{name}.{mode}"] = video(latent, 1), LOOP
            values[f"{name}.{mode}.first_frame_decoded"] = vae.decode_pixels(latent[:1] / VAE_SCALE)[0], LOOP
    return values


def levels(images: Tensor) -> Tensor:
    return rearrange((images * 255).round(), "n h w c -> n c h w")


# ---------------------------------------------------------------- poses


def pose_values(folder: Path, cases: dict[str, Any]) -> Values:
    """Of the folder's keypoints, which are inputs that stand among its values."""
    golden = load_file(folder / "pose.safetensors")
    keypoints, reference_keypoints = golden["keypoints"], golden["reference_keypoints"]
    aligned, reference, own = poses_of(cases, keypoints, reference_keypoints)
    # faces are not drawn, and so not read here; they go with the neck and the hip, which no limb moves
    neck, hip = keypoints[0, [5, 6], :2].double().mean(dim=0), keypoints[0, 12, :2].double()
    size = torch.tensor(cases["video"], dtype=torch.float64)
    placed = torch.from_numpy(aligned.body[0, [1, 8]])
    scale = (placed[1] - placed[0]) / ((hip - neck) / size)
    faces = torch.where(keypoints[:, 23:91, 2:] < 0.3, -1.0, keypoints[:, 23:91, :2].double() / size)
    return {
        "keypoints": (keypoints, EXACT),
        "reference_keypoints": (reference_keypoints, EXACT),
        "body": (torch.from_numpy(aligned.body), EXACT),
        "body_drawn": (torch.from_numpy(own.seen).byte(), 0.0),
        "hands": (torch.from_numpy(aligned.hands), EXACT),
        "faces": (faces * scale + placed[0] - neck / size * scale, EXACT),
        "reference_body": (torch.from_numpy(reference.body[0]), EXACT),
        "reference_hands": (torch.from_numpy(reference.hands[0]), EXACT),
    }


def poses_of(cases: dict[str, Any], keypoints: Tensor, reference_keypoints: Tensor) -> tuple[Poses, Poses, Poses]:
    own = poses_of_whole_body(keypoints, *cases["video"])
    reference = poses_of_whole_body(reference_keypoints[None], *cases["reference"])
    return align(own, reference)[0], reference, own


def pose_pictures(folder: Path) -> dict[str, tuple[Tensor, Tensor]]:
    """By the names of the folder's pictures of poses, ours and the golden ones, in levels of 8 bits."""
    cases = json.loads((folder / "cases.json").read_text(encoding="utf-8")).get("pose", {})
    if not cases:
        return {}
    golden = load_file(folder / "pose.safetensors")
    aligned, reference, _ = poses_of(cases, golden["keypoints"], golden["reference_keypoints"])
    found = {}
    for name in cases["images"]:
        pose = reference if name == "ref" else aligned[[int(name)]]
        expected = torch.from_numpy(np.array(Image.open(folder / f"pose_{name}.png").convert("RGB")))
        found[f"pose_{name}.png"] = levels(draw(pose, *cases["canvas"]))[0], expected.permute(2, 0, 1)
    return found


def makers(folder: Path, weights: ModuleType) -> dict[str, Callable[[set[str]], Values]]:
    """By the files of a folder of animators, what makes our values."""
    cases = json.loads((folder / "cases.json").read_text(encoding="utf-8"))
    return {
        "unet": lambda _: unet_values(cases["unet"], weights),
        "schedules": lambda _: schedule_values(cases["schedules"], weights),
        "animate_x": lambda _: animate_x_values(cases["animate_x"], weights),
        "pipeline": lambda _: pipeline_values(cases["pipeline"], cases["vae"], weights),
        "pose": lambda _: pose_values(folder, cases["pose"]),
    }
