"""The whole cascade without a host: a photo in, a video out, from a folder in diffusers' layout."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from .checkpoints.load import open_base, open_refiner
from .conditioning import GlobalEncoder
from .config import RELEASES, TIMESTEPS, VAE_SCALE, DetailGain, Kind, Release
from .encoders import VAE, ImageEncoder, TextEncoder, load_image_encoder, load_text_encoder, load_vae
from .errors import InputError, check_range
from .images import check_images, check_size, clip_pixels, resize_video, video_frame
from .sampling import Callback, Denoise, ddim, ddim_inversion, guide, initial_noise, refine, step_noise
from .schedules import SOLVERS, Schedule, cosine, refine_steps, schedule_for
from .unet import UNet

Part = TypeVar("Part")
_MOST = 2**31 - 1


@dataclass(frozen=True)
class BaseOptions:
    """Settings of the base stage.

    Args:
        width, height: of the base video in pixels, multiples of 8 from 64 up.
        frames: 1 or more.
        fps: motion's frame rate; 8 and 16 were trained.
        steps: 1..999; None takes the release's.
        guidance: None takes the release's.
        eta: 0..1, see sampling.ddim.
        seed: of the noise.
        negative: negative prompt; None takes the release's.
    """

    width: int = 1280
    height: int = 704
    frames: int = 16
    fps: float = 16
    steps: int | None = None
    guidance: float | None = None
    eta: float = 0.0
    seed: int = 0
    negative: str | None = None

    def check(self) -> None:
        """Raises InputError for a setting that cannot be."""
        check_size(self.width, self.height)
        check_range("frames", self.frames, 1, _MOST)
        check_range("fps", self.fps, 1, _MOST)
        check_range("eta", self.eta, 0, 1)
        if self.steps is not None:
            check_range("steps", self.steps, 1, TIMESTEPS - 1)


@dataclass(frozen=True)
class RefineOptions:
    """Settings of the refinement stage; None takes the release's.

    Args:
        width, height: of the refined video in pixels, multiples of 8 from 64 up.
        steps: 1 or more.
        guidance: guidance scale.
        rescale: guidance rescale, 0..1.
        noise_level: noise levels of 1000 to start from.
        solver: `dpmpp_2m_sde` or `heun`.
        entry: `noise` or `inversion`.
        eta: 0..1, noise of the SDE solver.
        seed: of the noise.
        negative: negative prompt.
    """

    width: int = 1280
    height: int = 720
    steps: int | None = None
    guidance: float | None = None
    rescale: float | None = None
    noise_level: int | None = None
    solver: str = "dpmpp_2m_sde"
    entry: str | None = None
    eta: float = 1.0
    seed: int = 0
    negative: str | None = None

    def check(self) -> None:
        """Raises InputError for a setting that cannot be."""
        check_size(self.width, self.height)
        check_range("eta", self.eta, 0, 1)
        if self.steps is not None:
            check_range("steps", self.steps, 1, _MOST)
        if self.rescale is not None:
            check_range("rescale", self.rescale, 0, 1)
        if self.noise_level is not None:
            check_range("noise level", self.noise_level, 2, TIMESTEPS - 1)
        if self.solver not in SOLVERS:
            raise InputError("solver", " or ".join(SOLVERS), repr(self.solver), "Choose one of them.")
        if self.entry not in (None, "noise", "inversion"):
            raise InputError("entry", "noise or inversion", repr(self.entry), "Choose one of them.")


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
        folder: `unet/ vae/ text_encoder/ image_encoder/ tokenizer/`, and `refiner/` for the second stage.
        dtype: type of weights and arithmetic; None is float16 on a GPU and float32 on the CPU.
        device: where it runs.
        refiner_kind: which refiner `refiner/` holds; None takes what its config.json says, else vid2vid_xl.
        detail_gain: see UNetConfig.

    Raises:
        InputError: no such folder, or a part of it is missing.
    """

    def __init__(
        self,
        folder: Path | str,
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | str = "cpu",
        refiner_kind: Kind | None = None,
        detail_gain: DetailGain = "official",
    ):
        self.folder = Path(folder)
        if not (self.folder / "unet").is_dir():
            remedy = "Give a model folder in diffusers' layout, or make one with `scaffold`."
            raise InputError("model folder", "one with unet/ in it", str(self.folder), remedy)
        self.device = torch.device(device)
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

        def load() -> tuple[UNet, GlobalEncoder | None]:
            checkpoint = open_base(self.folder / "unet", self._detail_gain)
            place = self.dtype, self.device
            return checkpoint.build_network(*place), checkpoint.build_global_encoder(*place)

        return self._part("base", load)

    @property
    def refiner(self) -> UNet:
        """The refiner's network."""

        def load() -> UNet:
            path = self.folder / "refiner"
            if not path.is_dir():
                remedy = "Put the refiner there, or run the base stage alone."
                raise InputError("model folder", "one with refiner/ in it", str(self.folder), remedy)
            return open_refiner(path, self._refiner_kind).build_network(self.dtype, self.device)

        return self._part("refiner", load)

    @property
    def _place(self) -> dict:
        return {"dtype": self.dtype, "device": self.device}

    @torch.no_grad()
    def condition(self, image: Tensor, prompt: str, options: BaseOptions) -> BaseConditions:
        """Encodes image and prompts for the base stage (paper, section 3.2).

        Args:
            image: [N, H, W, 3] in 0..1; the first is taken.
            prompt: what happens in the video.
            options: size, frames, fps and negative prompt are read.
        """
        check_images(image)
        options.check()
        image = image[:1].to(self.device)
        base, encoder = self.base
        pixels = clip_pixels(image, options.width, self.image_encoder.config.image_size)
        embedding = self.image_encoder.encode(pixels).to(self.dtype)[:, None]
        seen, unseen = base.context_embedding(embedding), base.context_embedding(torch.zeros_like(embedding))
        fps = torch.tensor([float(options.fps)], device=self.device)
        shape = (options.frames, base.config.in_channels, options.height // 8, options.width // 8)
        if encoder is None:
            return BaseConditions(seen, unseen, fps, None, shape)

        latent = self.vae.encode(video_frame(image, options.width, options.height)).to(self.dtype) * VAE_SCALE
        negative = RELEASES[base.config.kind].negative_prompt if options.negative is None else options.negative
        text = self.text_encoder.encode([prompt, negative]).to(self.dtype)
        global_tokens = encoder(latent)
        positive, negated = (
            torch.cat([tokens[None], global_tokens, projected], dim=1)
            for tokens, projected in zip(text, (seen, unseen), strict=True)
        )
        return BaseConditions(positive, negated, fps, base.detail_encoder(latent, options.frames), shape)

    @torch.no_grad()
    def sample_base(
        self,
        conditions: BaseConditions,
        options: BaseOptions,
        *,
        noise: Tensor | None = None,
        callback: Callback | None = None,
    ) -> Tensor:
        """Runs the base stage: DDIM from pure noise.

        Args:
            conditions: of the image and prompts.
            options: steps, guidance, eta and seed are read.
            noise: [frames, 4, h, w]; the seed's if None.
            callback: see sampling.Callback.

        Returns:
            Unscaled latent [frames, 4, h, w], float32.
        """
        options.check()
        base, _ = self.base
        release, schedule = RELEASES[base.config.kind], schedule_for(base.config.kind)
        if noise is None:
            noise = initial_noise(conditions.shape, options.seed, release.offset_noise)
        noise = noise.to(self.device, torch.float32)
        frames = conditions.shape[0]

        def predict(x: Tensor, t: Tensor, context: Tensor) -> Tensor:
            return base(x, t, context, frames, conditions.fps, conditions.details)

        guidance = release.guidance if options.guidance is None else options.guidance
        denoise = self._guided(predict, schedule, conditions.positive, conditions.negative, guidance, 0.0)
        x = ddim(
            denoise,
            noise,
            schedule,
            options.steps or release.steps,
            eta=options.eta,
            noise=step_noise(noise, options.seed),
            callback=callback,
        )
        return x / VAE_SCALE

    def decode(self, latent: Tensor, frames_per_batch: int = 1) -> Tensor:
        """Unscaled latent [frames, 4, h, w] to images [frames, 8h, 8w, 3] in 0..1."""
        return self.vae.decode(latent, frames_per_batch)

    @torch.no_grad()
    def encode_video(self, images: Tensor, options: RefineOptions) -> Tensor:
        """Images [F, H, W, 3] in 0..1, scaled to the refined size, to an unscaled latent [F, 4, height/8, width/8]."""
        check_images(images, "the video")
        options.check()
        return self.vae.encode(resize_video(images, options.width, options.height).to(self.device), frames_per_batch=1)

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
        refiner = self.refiner
        kind = refiner.config.kind
        release, schedule = RELEASES[kind], schedule_for(kind)
        options = _filled(options, release)
        prompts = [prompt + release.prompt_suffix, options.negative or ""]
        positive, negative = self.text_encoder.encode(prompts).to(self.dtype).split(1)
        frames = len(latent)

        def predict(x: Tensor, t: Tensor, context: Tensor) -> Tensor:
            return refiner(x, t, context, frames)

        assert options.steps and options.noise_level and options.guidance is not None and options.rescale is not None
        plan = refine_steps(schedule, options.steps, options.noise_level, options.solver)
        x = latent.to(self.device, torch.float32) * VAE_SCALE
        if options.entry == "inversion":
            inversion = cosine()
            unguided = self._guided(predict, inversion, negative, negative, 1.0, 0.0)
            steps = min(options.steps, options.noise_level)
            x = ddim_inversion(unguided, x, inversion, steps, options.noise_level, callback=callback)
        else:
            noise = initial_noise(tuple(x.shape), options.seed) if noise is None else noise
            x = schedule.add_noise(x, noise.to(x), options.noise_level - 1)
        denoise = self._guided(predict, schedule, positive, negative, options.guidance, options.rescale)
        solver, eta, seed = options.solver, options.eta, options.seed
        return refine(denoise, x, plan, solver=solver, eta=eta, seed=seed, callback=callback) / VAE_SCALE

    def _guided(
        self,
        predict: Callable[[Tensor, Tensor, Tensor], Tensor],
        schedule: Schedule,
        positive: Tensor,
        negative: Tensor,
        guidance: float,
        rescale: float,
    ) -> Denoise:
        def denoise(x: Tensor, t: int) -> Tensor:
            timesteps = torch.tensor([t], device=x.device)
            network_input = x.to(self.dtype)
            velocity = predict(network_input, timesteps, positive).float()
            if guidance != 1:
                velocity = guide(velocity, predict(network_input, timesteps, negative).float(), guidance, rescale)
            return schedule.denoised(x, velocity, t)

        return denoise


def _filled(options: RefineOptions, release: Release) -> RefineOptions:
    """The options with the release's settings where they have none."""
    return replace(
        options,
        steps=options.steps or release.steps_for(options.solver),
        guidance=release.guidance if options.guidance is None else options.guidance,
        rescale=release.rescale if options.rescale is None else options.rescale,
        noise_level=options.noise_level or release.noise_level,
        entry=options.entry or release.entry,
        negative=release.negative_prompt if options.negative is None else options.negative,
    )
