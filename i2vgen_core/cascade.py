"""The whole cascade without a host: a photo in, a video out, from a folder in diffusers' layout."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from . import builtin
from .acceleration import EXACT, Acceleration, DeepFeatures, Reuse
from .checkpoints.load import open_base, open_refiner
from .conditioning import GlobalEncoder, Prepared
from .config import ENTRIES, VAE_SCALE, DetailGain, Kind, Release, check_settings
from .encoders import VAE, ImageEncoder, TextEncoder, load_image_encoder, load_text_encoder, load_vae
from .errors import InputError, check_choice
from .images import check_images, check_size, clip_pixels, resize_video, video_frame
from .memory import check_fits, encoding_bytes, evaluation_bytes, frame_bytes, machine_bytes
from .sampling import Callback, Denoise, ddim_inversion, generate, guide, initial_noise, refine
from .schedules import BASE_SOLVERS, SOLVERS, Schedule, cosine, refine_steps, schedule_for
from .unet import UNet

logger = logging.getLogger("i2vgen_xl")

Part = TypeVar("Part")

_HOST_ROOM = 4 * 2**30
"""Bytes of activations that a batch of both guided halves may have where the device does not tell what is free."""


@dataclass(frozen=True)
class BaseOptions:
    """Settings of the base stage; None takes the release's.

    Args:
        width, height: of the base video in pixels, multiples of 8 from 64 up.
        frames: 1..4096.
        fps: motion's frame rate, 1..120; 8 and 16 were trained.
        steps: 1..999.
        guidance: guidance scale, 0..100.
        eta: 0..1, see sampling.ddim.
        seed: of the noise, 0..2^64 - 1.
        negative: negative prompt.
        solver: one of schedules.BASE_SOLVERS.
        acceleration: what is left out, for speed.
    """

    width: int | None = None
    height: int | None = None
    frames: int | None = None
    fps: float | None = None
    steps: int | None = None
    guidance: float | None = None
    eta: float = 0.0
    seed: int = 0
    negative: str | None = None
    solver: str = "ddim"
    acceleration: Acceleration = EXACT

    def check(self) -> None:
        """Raises InputError for a setting that cannot be."""
        _check_size(self.width, self.height)
        names = ("frames", "fps", "steps", "guidance", "eta", "seed")
        check_settings({name: getattr(self, name) for name in names})
        check_choice("solver", self.solver, BASE_SOLVERS)
        self.acceleration.check()


@dataclass(frozen=True)
class RefineOptions:
    """Settings of the refinement stage; None takes the release's.

    Args:
        width, height: of the refined video in pixels, multiples of 8 from 64 up.
        steps: 1..999.
        guidance: guidance scale, 0..100.
        rescale: guidance rescale, 0..1.
        noise_level: noise levels of 1000 to start from, 2..999.
        solver: `dpmpp_2m_sde` or `heun`.
        entry: `noise` or `inversion`.
        eta: 0..1, noise of the SDE solver.
        seed: of the noise, 0..2^64 - 1.
        negative: negative prompt.
        acceleration: what is left out, for speed.
    """

    width: int | None = None
    height: int | None = None
    steps: int | None = None
    guidance: float | None = None
    rescale: float | None = None
    noise_level: int | None = None
    solver: str = "dpmpp_2m_sde"
    entry: str | None = None
    eta: float = 1.0
    seed: int = 0
    negative: str | None = None
    acceleration: Acceleration = EXACT

    def check(self) -> None:
        """Raises InputError for a setting that cannot be."""
        _check_size(self.width, self.height)
        names = ("steps", "guidance", "rescale", "noise_level", "eta", "seed")
        check_settings({name: getattr(self, name) for name in names})
        check_choice("solver", self.solver, SOLVERS)
        if self.entry is not None:
            check_choice("entry", self.entry, ENTRIES)
        self.acceleration.check()


@dataclass(frozen=True)
class BaseConditions:
    """Everything the base reads beside the noise, made once a video.

    Args:
        positive: context tokens [1, n, context_dim] of the prompt and the image.
        negative: the same of the negative prompt, with a zeroed image embedding.
        fps: [1].
        details: detail features [frames, 4, h, w]; None for a base that reads none.
        shape: of the latent, [frames, 4, h, w].
    """

    positive: Tensor
    negative: Tensor
    fps: Tensor
    details: Tensor | None
    shape: tuple[int, ...]


class Cascade:
    """The cascade's parts, read from a folder when a stage first needs them and kept until released.

    Args:
        folder: `unet/ vae/ text_encoder/ image_encoder/ tokenizer/`, and `refiner/` for the second stage; the built-in
            tiny cascade if not given.
        dtype: type of weights and arithmetic; None is float16 on a GPU and float32 on the CPU.
        device: where it runs.
        refiner_kind: which refiner `refiner/` holds; None takes what its config.json says, else vid2vid_xl.
        detail_gain: see UNetConfig.

    Raises:
        InputError: no such folder or device, or a part of the folder is missing.
    """

    def __init__(
        self,
        folder: Path | str = builtin.FOLDER,
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | str = "cpu",
        refiner_kind: Kind | None = None,
        detail_gain: DetailGain = "official",
    ):
        self.folder = Path(folder)
        if not os.path.isdir(self.folder / "unet"):  # False for names that cannot be, too
            remedy = "Give a model folder in diffusers' layout, or make one with `scaffold`."
            raise InputError("model folder", "one with unet/ in it", str(self.folder)[:200], remedy)
        self.device = _there(device)
        self.dtype = dtype or (torch.float32 if self.device.type == "cpu" else torch.float16)
        self._refiner_kind: Kind | None = refiner_kind
        self._detail_gain: DetailGain = detail_gain
        self._parts: dict[str, object] = {}

    def release(self, *parts: str) -> None:
        """Frees parts by the names of their properties, all of them if none is named; what needs one reads it again."""
        for name in parts or tuple(self._parts):
            self._parts.pop(name, None)

    def _part(self, name: str, load: Callable[[], Part]) -> Part:
        if name not in self._parts:
            self._parts[name] = load()
        return self._parts[name]  # type: ignore[return-value]

    @property
    def text_encoder(self) -> TextEncoder:
        """CLIP's text tower."""
        folder, tokenizer = self.folder / "text_encoder", self.folder / "tokenizer"
        return self._part("text_encoder", lambda: load_text_encoder(folder, tokenizer=tokenizer, **self._place))

    @property
    def image_encoder(self) -> ImageEncoder:
        """CLIP's image tower."""
        return self._part("image_encoder", lambda: load_image_encoder(self.folder / "image_encoder", **self._place))

    @property
    def vae(self) -> VAE:
        """The VAE of single frames."""
        return self._part("vae", lambda: load_vae(self.folder / "vae", **self._place))

    @property
    def base(self) -> tuple[UNet, GlobalEncoder | None]:
        """The base network, and the learnt global encoder that MS-Image2Video has none of."""
        return self._base[0]

    @property
    def base_release(self) -> Release:
        """The settings that the base comes with."""
        return self._base[1]

    @property
    def _base(self) -> tuple[tuple[UNet, GlobalEncoder | None], Release]:
        def load() -> tuple[tuple[UNet, GlobalEncoder | None], Release]:
            checkpoint = open_base(self.folder / "unet", self._detail_gain)
            place = self.dtype, self.device
            networks = checkpoint.build_network(*place), checkpoint.build_global_encoder(*place)
            return networks, checkpoint.release

        return self._part("base", load)

    @property
    def refiner(self) -> UNet:
        """The refiner's network."""
        return self._refiner[0]

    @property
    def refiner_release(self) -> Release:
        """The settings that the refiner comes with."""
        return self._refiner[1]

    @property
    def _refiner(self) -> tuple[UNet, Release]:
        def load() -> tuple[UNet, Release]:
            path = self.folder / "refiner"
            if not path.is_dir():
                remedy = "Put the refiner there, or run the base stage alone."
                raise InputError("model folder", "one with refiner/ in it", str(self.folder), remedy)
            checkpoint = open_refiner(path, self._refiner_kind)
            return checkpoint.build_network(self.dtype, self.device), checkpoint.release

        return self._part("refiner", load)

    @property
    def _place(self) -> dict:
        return {"dtype": self.dtype, "device": self.device}

    def check_frame(self, width: int | None, height: int | None) -> None:
        """Raises InputError if the machine has not the memory to encode a frame of this size; None is not looked at."""
        if width and height:
            needed = encoding_bytes(height, width, self.dtype.itemsize)
            check_fits(1, height, width, needed, machine_bytes(self.device))

    def _check_video(self, network: UNet, frames: int, width: int, height: int) -> None:
        """Raises InputError if the machine has not the memory for a video's sampling, or for its frames."""
        self.check_frame(width, height)
        needed = evaluation_bytes(network.config, frames, height // 8, width // 8, self.dtype.itemsize)
        check_fits(frames, height, width, needed, machine_bytes(self.device))
        check_fits(frames, height, width, frame_bytes(frames, height, width), machine_bytes("cpu"))

    @torch.no_grad()
    def condition(self, image: Tensor, prompt: str, options: BaseOptions) -> BaseConditions:
        """Encodes image and prompts for the base stage (paper, section 3.2).

        Args:
            image: [N, H, W, 3] in 0..1; the first is taken.
            prompt: what happens in the video.
            options: size, frames, fps and negative prompt are read.

        Raises:
            InputError: a setting that cannot be, or a video that this machine has not the memory for.
        """
        check_images(image)
        options.check()
        image = image[:1].to(self.device)
        (base, encoder), release = self._base
        settings = _base_settings(options, release)
        width, height, frames = settings.width, settings.height, settings.frames
        self._check_video(base, frames, width, height)
        pixels = clip_pixels(image, width, self.image_encoder.config.image_size)
        embedding = self.image_encoder.encode(pixels).to(self.dtype)[:, None]
        seen, unseen = base.context_embedding(embedding), base.context_embedding(torch.zeros_like(embedding))
        fps = torch.tensor([float(settings.fps)], device=self.device)
        shape = (frames, base.config.in_channels, height // 8, width // 8)
        if encoder is None:
            return BaseConditions(seen, unseen, fps, None, shape)

        latent = self.vae.encode(video_frame(image, width, height)).to(self.dtype) * VAE_SCALE
        text = self.text_encoder.encode([prompt, settings.negative_prompt]).to(self.dtype)
        global_tokens = encoder(latent)
        positive, negated = (
            torch.cat([tokens[None], global_tokens, projected], dim=1)
            for tokens, projected in zip(text, (seen, unseen), strict=True)
        )
        return BaseConditions(positive, negated, fps, base.detail_encoder(latent, frames), shape)

    @torch.no_grad()
    def sample_base(
        self,
        conditions: BaseConditions,
        options: BaseOptions,
        *,
        noise: Tensor | None = None,
        callback: Callback | None = None,
    ) -> Tensor:
        """Runs the base stage, from pure noise.

        Args:
            conditions: of the image and prompts.
            options: steps, guidance, eta, seed, solver and acceleration are read.
            noise: [frames, 4, h, w]; the seed's if None.
            callback: see sampling.Callback.

        Returns:
            Unscaled latent [frames, 4, h, w], float32.
        """
        options.check()
        (base, _), release = self._base
        settings, schedule = _base_settings(options, release), schedule_for(base.config.kind)
        if noise is None:
            noise = initial_noise(conditions.shape, options.seed, settings.offset_noise)
        noise = noise.to(self.device, torch.float32)
        both = [base.prepare(each, conditions.fps) for each in (conditions.positive, conditions.negative)]
        speed, details = options.acceleration, conditions.details
        denoise = guided(base, schedule, both, settings.guidance, 0.0, details, speed, self.dtype)
        solver, eta, seed = options.solver, options.eta, options.seed
        steps = settings.steps
        return (
            generate(denoise, noise, schedule, steps, solver=solver, eta=eta, seed=seed, callback=callback) / VAE_SCALE
        )

    def decode(self, latent: Tensor, frames_per_batch: int = 1) -> Tensor:
        """Unscaled latent [frames, 4, h, w] to images [frames, 8h, 8w, 3] in 0..1."""
        return self.vae.decode(latent, frames_per_batch)

    @torch.no_grad()
    def encode_video(self, images: Tensor, options: RefineOptions) -> Tensor:
        """Images [F, H, W, 3] in 0..1, scaled to the refined size, to an unscaled latent [F, 4, height/8, width/8]."""
        check_images(images, "the video")
        options.check()
        width = options.width or self.refiner_release.width
        height = options.height or self.refiner_release.height
        check_size(width, height)
        self._check_video(self.refiner, len(images), width, height)
        return self.vae.encode(resize_video(images, width, height).to(self.device), frames_per_batch=1)

    @torch.no_grad()
    def sample_refiner(
        self,
        latent: Tensor,
        prompt: str,
        options: RefineOptions,
        *,
        noise: Tensor | None = None,
        callback: Callback | None = None,
    ) -> Tensor:
        """Runs the refinement stage on an encoded video (paper, section 3.3).

        Args:
            latent: unscaled [frames, 4, h, w] of the refined size.
            prompt: a short one; the release's suffix is appended here.
            options: all but the size are read.
            noise: [frames, 4, h, w], for the entry by noise; the seed's if None.
            callback: see sampling.Callback.

        Returns:
            Unscaled latent [frames, 4, h, w], float32.
        """
        options.check()
        refiner, release = self._refiner
        settings, schedule = _refiner_settings(options, release), schedule_for(refiner.config.kind)
        prompts = [prompt + settings.prompt_suffix, settings.negative_prompt]
        texts = self.text_encoder.encode(prompts).to(self.dtype).split(1)
        positive, negative = (refiner.prepare(text) for text in texts)
        level, speed = settings.noise_level, options.acceleration
        plan = refine_steps(schedule, settings.steps, level, options.solver)
        x = latent.to(self.device, torch.float32) * VAE_SCALE
        if settings.entry == "inversion":
            inversion = cosine()
            unguided = guided(refiner, inversion, [negative], 1.0, acceleration=speed, dtype=self.dtype)
            x = ddim_inversion(unguided, x, inversion, min(settings.steps, level), level, callback=callback)
        else:
            noise = initial_noise(tuple(x.shape), options.seed) if noise is None else noise
            x = schedule.add_noise(x, noise.to(x), level - 1)
        both, guidance = [positive, negative], settings.guidance
        denoise = guided(refiner, schedule, both, guidance, settings.rescale, acceleration=speed, dtype=self.dtype)
        solver, eta, seed = options.solver, options.eta, options.seed
        return refine(denoise, x, plan, solver=solver, eta=eta, seed=seed, callback=callback) / VAE_SCALE


def guided(
    network: UNet,
    schedule: Schedule,
    conditions: list[Prepared],
    guidance: float,
    rescale: float = 0.0,
    details: Tensor | None = None,
    acceleration: Acceleration = EXACT,
    dtype: torch.dtype = torch.float32,
) -> Denoise:
    """A network with guidance as a sampler sees it; one for each run.

    Args:
        network: a base or a refiner.
        schedule: its own.
        conditions: of one batch row each, the positive first; the negative is not read with a guidance scale of 1.
        guidance, rescale: see sampling.guide.
        details: [f, 4, h, w], see UNet.forward.
        acceleration: what is left out.
        dtype: of the network's inputs.
    """
    features = DeepFeatures(acceleration.reuse_interval)

    def denoise(x: Tensor, t: int) -> Tensor:
        features.step()
        timesteps = torch.tensor([t], device=x.device)
        read = conditions if guidance != 1 and acceleration.guides(t) else conditions[:1]
        velocities = predict(network, x.to(dtype), timesteps, read, details, features)
        velocity = velocities[0].float()
        if len(velocities) > 1:
            velocity = guide(velocity, velocities[1].float(), guidance, rescale)
        return schedule.denoised(x, velocity, t)

    return denoise


def predict(
    network: UNet,
    x: Tensor,
    timesteps: Tensor,
    conditions: list[Prepared],
    details: Tensor | None = None,
    features: DeepFeatures | None = None,
) -> list[Tensor]:
    """The velocities of one video under each of its conditions, in one batch where memory has room, else one by one.

    Args:
        network: a base or a refiner.
        x: noisy scaled latent [f, 4, h, w].
        timesteps: [1].
        conditions: of one batch row each.
        details: [f, 4, h, w], see UNet.forward.
        features: of the run, where some are used again.

    Returns:
        As many velocities [f, 4, h, w].
    """

    def run(prepared: Prepared, *numbers: int) -> tuple[Tensor, ...]:
        hooks = Reuse(features, numbers) if features else None
        return network(x, timesteps, prepared, len(x), details=details, hooks=hooks).chunk(len(numbers))

    if len(conditions) > 1 and _fit_together(network, x, len(conditions)):
        try:
            return list(run(Prepared.together(conditions), *range(len(conditions))))
        except torch.cuda.OutOfMemoryError:
            logger.warning("memory ran out with both guided halves at once: they go one after the other")
    return [run(condition, number)[0] for number, condition in enumerate(conditions)]


def _fit_together(network: UNet, x: Tensor, conditions: int) -> bool:
    """Whether the activations of a batch of conditions fit into what memory is free."""
    needed = conditions * evaluation_bytes(network.config, len(x), x.shape[2], x.shape[3], x.element_size())
    if x.device.type != "cuda":
        return needed <= _HOST_ROOM
    free, _ = torch.cuda.mem_get_info(x.device)
    return needed <= free + torch.cuda.memory_reserved(x.device) - torch.cuda.memory_allocated(x.device)


def _there(device: torch.device | str) -> torch.device:
    """Raises InputError unless torch can work on the device."""
    try:
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError) as error:  # AssertionError: a torch that is built without it
        found = f"{str(device)[:80]!r} ({str(error).splitlines()[0][:100]})"
        raise InputError("device", "one that torch can work on here", found, "Use cpu, or cuda with a GPU.") from error
    return torch.device(device)


def _check_size(width: int | None, height: int | None) -> None:
    """check_size of the sides that are given."""
    check_size(64 if width is None else width, 64 if height is None else height)


def _base_settings(options: BaseOptions, release: Release) -> Release:
    """The release's settings with the options in their place."""
    given = {
        "width": options.width,
        "height": options.height,
        "frames": options.frames,
        "fps": options.fps,
        "steps": options.steps or release.steps_for(options.solver),
        "guidance": options.guidance,
        "negative_prompt": options.negative,
    }
    settings = _replaced(release, given)
    check_size(settings.width, settings.height)
    return settings


def _refiner_settings(options: RefineOptions, release: Release) -> Release:
    """The release's settings with the options in their place; `steps` are those of the options' solver."""
    given = {
        "steps": options.steps or release.steps_for(options.solver),
        "guidance": options.guidance,
        "rescale": options.rescale,
        "noise_level": options.noise_level,
        "entry": options.entry,
        "negative_prompt": options.negative,
    }
    return _replaced(release, given)


def _replaced(release: Release, given: dict[str, Any]) -> Release:
    return replace(release, **{name: value for name, value in given.items() if value is not None})
