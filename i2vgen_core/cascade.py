"""The whole cascade without a host: a photo in, a video out, from a folder in diffusers' layout."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from . import assets
from .checkpoints.encoders import load_image_encoder, load_text_encoder, load_vae
from .checkpoints.load import open_base, open_refiner
from .config import VAE_SCALE, VAE_STEP, DetailGain, Kind, Release
from .encoders.clip import ImageEncoder, TextEncoder
from .encoders.vae import VAE
from .errors import InputError
from .media.images import check_images, check_size, clip_pixels, resize_video, video_frame
from .memory import check_fits, encoding_bytes, evaluation_bytes, frame_bytes, machine_bytes, usable_device
from .network.image_conditioning import GlobalEncoder
from .network.unet import UNet
from .sampling.guidance import guided
from .sampling.options import BaseOptions, RefineOptions
from .sampling.schedules import schedule_for
from .sampling.solvers import Callback
from .sampling.stages import BaseStage, RefineStage

logger = logging.getLogger("i2vgen_xl")

Part = TypeVar("Part")


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


@dataclass(frozen=True)
class StageNetwork:
    """The network of a stage, as its file has it.

    Args:
        unet: the network.
        release: the settings that it comes with.
        global_encoder: of an I2VGen-XL base; the other networks have none.
    """

    unet: UNet
    release: Release
    global_encoder: GlobalEncoder | None = None


class Cascade:
    """The cascade's parts, read from a folder when a stage first needs them and kept until freed.

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
        folder: Path | str = assets.FOLDER,
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
        self.device = usable_device(device)
        self.dtype = dtype or (torch.float32 if self.device.type == "cpu" else torch.float16)
        self._refiner_kind: Kind | None = refiner_kind
        self._detail_gain: DetailGain = detail_gain
        self._parts: dict[str, object] = {}

    def free(self, *parts: str) -> None:
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
    def base(self) -> StageNetwork:
        """The base's network, with its global encoder."""

        def load() -> StageNetwork:
            checkpoint = open_base(self.folder / "unet", self._detail_gain)
            place = self.dtype, self.device
            return StageNetwork(
                checkpoint.build_network(*place), checkpoint.release, checkpoint.build_global_encoder(*place)
            )

        return self._part("base", load)

    @property
    def refiner(self) -> StageNetwork:
        """The refiner's network."""

        def load() -> StageNetwork:
            path = self.folder / "refiner"
            if not path.is_dir():
                remedy = "Put the refiner there, or run the base stage alone."
                raise InputError("model folder", "one with refiner/ in it", str(self.folder), remedy)
            checkpoint = open_refiner(path, self._refiner_kind)
            return StageNetwork(checkpoint.build_network(self.dtype, self.device), checkpoint.release)

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
        needed = evaluation_bytes(network.config, frames, height // VAE_STEP, width // VAE_STEP, self.dtype.itemsize)
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
        settings = self._base_stage(options).settings
        image = image[:1].to(self.device)
        base, encoder = self.base.unet, self.base.global_encoder
        width, height, frames = settings.width, settings.height, settings.frames
        self._check_video(base, frames, width, height)
        pixels = clip_pixels(image, width, self.image_encoder.config.image_size)
        embedding = self.image_encoder.encode(pixels).to(self.dtype)[:, None]
        seen, unseen = base.context_embedding(embedding), base.context_embedding(torch.zeros_like(embedding))
        fps = torch.tensor([float(settings.fps)], device=self.device)
        shape = (frames, base.config.in_channels, height // VAE_STEP, width // VAE_STEP)
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
            callback: see solvers.Callback.

        Returns:
            Unscaled latent [frames, 4, h, w], float32.
        """
        stage, base = self._base_stage(options), self.base.unet
        noise = stage.noise(conditions.shape) if noise is None else noise
        both = [base.prepare(each, conditions.fps) for each in (conditions.positive, conditions.negative)]
        guidance, details = stage.settings.guidance, conditions.details
        denoise = guided(base, stage.schedule, both, guidance, 0.0, details, options.acceleration, self.dtype)
        return stage.sample(denoise, noise.to(self.device, torch.float32), callback) / VAE_SCALE

    def decode(self, latent: Tensor, frames_per_batch: int = 1) -> Tensor:
        """Unscaled latent [frames, 4, h, w] to images [frames, 8h, 8w, 3] in 0..1."""
        return self.vae.decode(latent, frames_per_batch)

    @torch.no_grad()
    def encode_video(self, images: Tensor, options: RefineOptions) -> Tensor:
        """Images [F, H, W, 3] in 0..1, scaled to the refined size, to an unscaled latent [F, 4, height/8, width/8]."""
        check_images(images, "the video")
        self._refine_stage(options)
        width = options.width or self.refiner.release.width
        height = options.height or self.refiner.release.height
        check_size(width, height)
        self._check_video(self.refiner.unet, len(images), width, height)
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
            callback: see solvers.Callback.

        Returns:
            Unscaled latent [frames, 4, h, w], float32.
        """
        stage, refiner = self._refine_stage(options), self.refiner.unet
        stage.check_latent(latent)
        settings, speed = stage.settings, options.acceleration
        prompts = [prompt + settings.prompt_suffix, settings.negative_prompt]
        texts = self.text_encoder.encode(prompts).to(self.dtype).split(1)
        positive, negative = (refiner.prepare(text) for text in texts)
        x = latent.to(self.device, torch.float32) * VAE_SCALE
        if stage.inverts:
            unguided = guided(refiner, stage.schedule, [negative], 1.0, acceleration=speed, dtype=self.dtype)
            x = stage.invert(unguided, x, callback)
        else:
            noise = stage.noise(tuple(x.shape)) if noise is None else noise
            x = stage.add_noise(x, noise.to(x))
        both, guidance = [positive, negative], settings.guidance
        denoise = guided(
            refiner, stage.schedule, both, guidance, settings.rescale, acceleration=speed, dtype=self.dtype
        )
        return stage.sample(denoise, x, callback) / VAE_SCALE

    def _base_stage(self, options: BaseOptions) -> BaseStage:
        return BaseStage(options, self.base.release, schedule_for(self.base.unet.config.kind))

    def _refine_stage(self, options: RefineOptions) -> RefineStage:
        return RefineStage(options, self.refiner.release, schedule_for(self.refiner.unet.config.kind))
