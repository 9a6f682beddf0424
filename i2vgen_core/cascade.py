"""The whole cascade without a host: a photo in, a video out, from a folder in diffusers' layout."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from threading import Event
from typing import Literal

import torch
from torch import Tensor

from .config import BASES, VAE_SCALE, VAE_STEP
from .errors import InputError, check_shape, checked
from .media.colour import match_statistics
from .media.enlarge import (
    Canvas,
    Padding,
    enlarged,
    enlarged_size,
    held,
    inserted_for,
    padded,
    padding_of,
    without_padding,
)
from .media.given import ImageLike, as_images
from .media.images import check_images, check_size, clip_pixels, nearest_side, resize_video, size_like, video_frame
from .network.acceleration import EXACT
from .network.evaluation import Prepared
from .parts import Parts
from .releases import Release
from .sampling.control import Control, ControlledPredictor, controlled
from .sampling.guidance import guided, guided_and_joined
from .sampling.held import Held
from .sampling.options import BaseOptions, RefineOptions
from .sampling.schedules import schedule_for
from .sampling.solvers import Callback, Denoise
from .sampling.stages import AnimateStage, BaseStage, FewStepStage, RefineStage, first_stage
from .sampling.windows import Around


class Cancelled(Exception):
    """The caller has set the event that a run was told to look at. The cascade can be used again."""


@dataclass(frozen=True, eq=False)
class Videos:
    """What the cascade has made of a picture.

    Args:
        base: frames of the first stage, [F, H, W, 3] float32 in 0..1.
        refined: frames of the second stage, as many; None where it did not run.
    """

    base: Tensor
    refined: Tensor | None = None

    @property
    def frames(self) -> Tensor:
        """Frames of the last stage that ran."""
        return self.base if self.refined is None else self.refined


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


def inserted_like(rate: Fraction | float | None, options: RefineOptions, release: Release) -> RefineOptions:
    """A refinement's options with the number of frames to insert: what they ask for, else what brings a video of this rate
    nearest to 24 frames a second, as released (VEnhancer)."""
    if not release.inserted or options.inserted is not None or rate is None:
        return options
    return replace(options, inserted=inserted_for(float(rate)))


def sized_like(frames: Tensor, options: RefineOptions, release: Release) -> RefineOptions:
    """A refinement's options with a size: what they ask for, else the shape of the frames [F, H, W, 3], with about the
    release's number of pixels. Where the network enlarges, none: its size need not be a multiple of 8."""
    height, width = frames.shape[1:3]
    if release.enlarging and options.width is None and options.height is None:
        return options
    if options.width is None and options.height is None:
        usual = size_like(width, height, (release.width, release.height))
        return replace(options, width=usual[0], height=usual[1])
    wide = options.width or nearest_side((options.height or 0) * width / height)
    return replace(options, width=wide, height=options.height or nearest_side(wide * height / width))


class Cascade(Parts):
    """The cascade on its parts, which it reads from a folder when a stage first needs them, and keeps until freed.

    `cascade(image, prompt)` makes a video in one call, and `refine` runs the second stage alone. `condition`,
    `sample_base`, `decode`, `encode_video`, `sample_refiner` and `decode_refined` are their steps. A part may be replaced by
    assignment: `cascade.vae = load_vae("other.safetensors")`.

    Args:
        folder: `unet/ vae/ text_encoder/ image_encoder/ tokenizer/`, and `refiner/` for the second stage; the built-in
            tiny cascade if not given.
        dtype: type of weights and arithmetic, such as torch.float16 or "fp16"; None is float16 on a GPU and float32 on the
            CPU.
        device: where it runs.
        refiner_kind: which refiner `refiner/` holds; None takes what its config.json says, else vid2vid_xl.
        detail_gain: see UNetConfig.
        base_kind: which first stage `unet/` holds, where its tensors cannot say: a composer, or text2video.

    Raises:
        InputError: no such folder, device or type, or a part of the folder is missing.
    """

    @checked
    def __call__(
        self,
        image: ImageLike,
        prompt: str,
        base: BaseOptions | None = None,
        refine: RefineOptions | None = None,
        *,
        stage: Literal["base", "cascade"] | None = None,
        refine_prompt: str | None = None,
        held: Held | None = None,
        callback: Callback | None = None,
        cancel: Event | None = None,
    ) -> Videos:
        """Makes a video of a picture: both stages, with all that lies between.

        Args:
            image: a path, a PIL image, an array or a tensor, see media.given.ImageLike; the first of many is taken.
            prompt: what happens in the video.
            base: settings of the base stage; the release's if None.
            refine: settings of the second stage; the release's, and the base's seed, if None.
            stage: `base` leaves the second one out; None runs it where there is a refiner.
            refine_prompt: the refiner's prompt; the base's if None.
            held: what is given of the base's video, see sample_base.
            callback: see solvers.Callback; it counts the steps of both stages. What it raises ends the run.
            cancel: looked at between the steps, between a step's windows, and between the frames that are decoded.

        Returns:
            The frames of both stages.

        Raises:
            InputError: a setting, picture or prompt that cannot be, before anything is sampled.
            Cancelled: `cancel` was set.
        """
        base = base or BaseOptions()
        refine = refine or RefineOptions(seed=base.seed)
        refines = self.has_refiner if stage is None else stage == "cascade"
        first = self._base_stage(base).steps
        steps = first + (self._refine_stage(refine).steps if refines else 0)

        def counted(start: int) -> Callback:
            def tell(step: int, _: int, x: Tensor, denoised: Tensor) -> None:
                _stop_if(cancel)
                if callback:
                    callback(start + step, steps, x, denoised)

            return tell

        _stop_if(cancel)
        conditions = self.condition(image, prompt, base)
        video = self._decode_until(cancel, self.sample_base(conditions, base, held=held, callback=counted(0)))
        if not refines:
            return Videos(video)
        prompt = prompt if refine_prompt is None else refine_prompt
        return Videos(video, self.refine(video, prompt, refine, callback=counted(first), cancel=cancel))

    @checked
    def refine(
        self,
        frames: Tensor,
        prompt: str,
        options: RefineOptions | None = None,
        *,
        callback: Callback | None = None,
        cancel: Event | None = None,
    ) -> Tensor:
        """Runs the second stage on a video, of the base or of any other origin: encode_video, sample_refiner, decode_refined.

        Args:
            frames: [F, H, W, 3] in 0..1.
            prompt: a short one; the release's suffix is appended.
            options: the release's if None.
            callback: see solvers.Callback.
            cancel: looked at between a step's windows, and between the frames that are decoded.

        Returns:
            Images [F, H, W, 3] in 0..1 of the refined size; more of them where the network inserts frames (VEnhancer).

        Raises:
            InputError: a setting, video or prompt that cannot be.
            Cancelled: `cancel` was set.
        """
        options = options or RefineOptions()
        latent, canvas = self.encode_video(frames, options), self.canvas(frames, options)

        def look_between(make: Callable[[], Tensor]) -> Tensor:
            _stop_if(cancel)
            return make()

        latent = self.sample_refiner(latent, prompt, options, callback=callback, around=look_between)
        return self._refined(self._decode_until(cancel, latent), canvas)

    def _decode_until(self, cancel: Event | None, latent: Tensor) -> Tensor:
        frames = []
        for frame in latent.split(1):
            _stop_if(cancel)
            frames.append(self.decode(frame))
        return torch.cat(frames)

    @checked
    @torch.no_grad()
    def condition(self, image: ImageLike, prompt: str, options: BaseOptions) -> BaseConditions:
        """Encodes image and prompts for the base stage (paper, section 3.2).

        Args:
            image: as for a call of the cascade; the first of many is taken.
            prompt: what happens in the video.
            options: size, frames, fps and negative prompt are read.

        Raises:
            InputError: a setting that cannot be, or a video that this machine has not the memory for.
        """
        pictures = as_images(image)
        settings = self._base_stage(options).settings
        pictures = pictures[:1].to(self.device)
        base, encoder = self.base.unet, self.base.global_encoder
        width, height, frames = settings.width, settings.height, settings.frames
        self.check_video(base, frames, width, height)
        pixels = clip_pixels(pictures, width, self.image_encoder.config.image_size)
        embedding = self.image_encoder.encode(pixels).to(self.dtype)[:, None]
        seen, unseen = base.context_embedding(embedding), base.context_embedding(torch.zeros_like(embedding))
        fps = torch.tensor([float(settings.fps)], device=self.device)
        shape = (frames, base.config.in_channels, height // VAE_STEP, width // VAE_STEP)
        if encoder is None:
            return BaseConditions(seen, unseen, fps, None, shape)

        latent = self._encode_fitted(pictures, width, height).to(self.dtype) * VAE_SCALE
        whose = ["the prompt", "the negative prompt"]
        text = self.text_encoder.encode([prompt, settings.negative_prompt], whose).to(self.dtype)
        global_tokens = encoder(latent)
        positive, negated = (
            torch.cat([tokens[None], global_tokens, projected], dim=1)
            for tokens, projected in zip(text, (seen, unseen), strict=True)
        )
        return BaseConditions(positive, negated, fps, base.detail_encoder(latent, frames), shape)

    def video_size(self, options: BaseOptions) -> tuple[int, int, int]:
        """Width, height and frames of a base video with these options."""
        settings = self._base_stage(options).settings
        return settings.width, settings.height, settings.frames

    @checked
    @torch.no_grad()
    def encode_images(self, images: ImageLike, options: BaseOptions) -> Tensor:
        """Pictures, cropped to the base video's shape and scaled to its size, to an unscaled latent [n, 4, height/8, width/8].

        Args:
            images: as for a call of the cascade; all of them are taken.
            options: the size is read.
        """
        width, height, _ = self.video_size(options)
        self.check_frame(width, height)
        return self._encode_fitted(as_images(images).to(self.device), width, height)

    def _encode_fitted(self, images: Tensor, width: int, height: int) -> Tensor:
        return self.vae.encode(video_frame(images, width, height))

    @checked
    @torch.no_grad()
    def sample_base(
        self,
        conditions: BaseConditions,
        options: BaseOptions,
        *,
        noise: Tensor | None = None,
        held: Held | None = None,
        control: Control | None = None,
        callback: Callback | None = None,
    ) -> Tensor:
        """Runs the base stage, from pure noise or from a latent of which a part may be held.

        Args:
            conditions: of the image and prompts.
            options: steps, guidance, eta, seed, solver, denoise and acceleration are read.
            noise: [frames, 4, h, w]; the seed's if None.
            held: what is given of the video; directing.py makes it of pictures and masks.
            control: what steers it; steering.py makes it.
            callback: see solvers.Callback.

        Returns:
            Unscaled latent [frames, 4, h, w], float32.
        """
        stage = self._base_stage(options)
        settings, shape = stage.settings, conditions.shape
        asked = settings.frames, shape[1], settings.height // VAE_STEP, settings.width // VAE_STEP
        check_shape("frames, height and width of the options", asked, shape, "Give the options of the conditions.")
        noise = stage.noise(shape) if noise is None else noise
        check_shape("noise", noise.shape, shape, "Draw it in the shape of the conditions.")
        denoise, noise = self.denoiser(conditions, options, control), noise.to(self.device, torch.float32)
        return stage.run(denoise, noise, held, callback) / VAE_SCALE

    @checked
    @torch.no_grad()
    def denoiser(self, conditions: BaseConditions, options: BaseOptions, control: Control | None = None) -> Denoise:
        """The base under guidance as a function of a noisy latent and a timestep, for a sampler of one's own.

        Args:
            conditions: of the image and prompts.
            options: guidance and acceleration are read; with a control, steps and solver too.
            control: what steers it.

        Returns:
            See solvers.Denoise: denoise(x, t) is the estimate of the clean latent, of x's shape [frames, 4, h, w], for t in
            0..999 of schedule_for(kind). Both are scaled: config.VAE_SCALE times the VAE's latent. One is made for each run.
        """
        stage, base = self._base_stage(options), self.base.unet
        both = [base.prepare(each, conditions.fps) for each in (conditions.positive, conditions.negative)]
        guidance, details = stage.settings.guidance, conditions.details
        if control is not None:
            if options.acceleration != EXACT:
                raise InputError("acceleration", "none where a control steers", "some", "Leave one of the two out.")
            control.options.check(conditions.shape[0])
            predict = ControlledPredictor(base, control, details, stage.timesteps)
            return controlled(predict, stage.schedule, both, guidance, self.dtype)
        return guided(base, stage.schedule, both, guidance, 0.0, details, options.acceleration, self.dtype)

    @checked
    def decode(self, latent: Tensor, frames_per_batch: int = 1) -> Tensor:
        """Unscaled latent [frames, 4, h, w] to images [frames, 8h, 8w, 3] in 0..1."""
        return self.vae.decode(latent, frames_per_batch)

    @checked
    @torch.no_grad()
    def encode_video(self, images: Tensor, options: RefineOptions) -> Tensor:
        """Images [F, H, W, 3] in 0..1, scaled to the refined size, to an unscaled latent [F, 4, height/8, width/8].

        For a network that enlarges (STAR, VEnhancer) they are made as many times as large, each but the last is held for the
        frames to be inserted, and white is put around them (media/enlarge.py); `decode_refined` cuts it off.
        """
        check_images(images, "the video")
        stage = self._refine_stage(options)
        if self.refiner.release.enlarging:
            height, width = self._enlarged_size(images, options)
            padding = self._padding(height, width)
            sides = width + padding.left + padding.right, height + padding.top + padding.bottom
            inserted = stage.settings.inserted
            frames = (len(images) - 1) * (inserted + 1) + 1
            self.check_video(self.refiner.unet, max(map(len, stage.windows(frames))), *sides)
            ready = (padded(enlarged(frame, height, width), padding) for frame in images.split(1))
            latents = [self.vae.encode(each.to(self.device), frames_per_batch=1).cpu() for each in ready]
            return held(torch.cat(latents), inserted)  # a frame that is held has the latent of its own
        width = options.width or self.refiner.release.width
        height = options.height or self.refiner.release.height
        check_size(width, height)
        self.check_video(self.refiner.unet, len(images), width, height)
        return self.vae.encode(resize_video(images, width, height).to(self.device), frames_per_batch=1)

    def _enlarged_size(self, images: Tensor, options: RefineOptions) -> tuple[int, int]:
        """Height and width of an enlarged video, without what is put around it."""
        height, width = images.shape[1:3]
        settings = self._refine_stage(options).settings
        if options.width is None and options.height is None:
            return enlarged_size(height, width, settings.enlarging, settings.fewest_pixels, settings.most_pixels)
        given = sized_like(images, options, self.refiner.release)
        assert given.height is not None and given.width is not None
        return given.height, given.width

    def _padding(self, height: int, width: int) -> Padding:
        release = self.refiner.release
        return padding_of(height, width, (release.height, release.width))

    @checked
    def canvas(self, images: Tensor, options: RefineOptions) -> Canvas | None:
        """What decode_refined needs of the images and options that `encode_video` is given; it lets the refiner be freed before
        that. None for a network that puts nothing around the frames."""
        release = self.refiner.release
        if not release.enlarging:
            return None
        return Canvas(self._padding(*self._enlarged_size(images, options)), None if release.noise_aug else images)

    @checked
    def decode_refined(self, latent: Tensor, canvas: Canvas | None) -> Tensor:
        """The frames of a refined video.

        Args:
            latent: unscaled [frames, 4, h, w].
            canvas: see there.

        Returns:
            Images [frames, H, W, 3] in 0..1, without what was put around them, in the originals' colours.
        """
        return self._refined(self.decode(latent), canvas)

    def _refined(self, frames: Tensor, canvas: Canvas | None) -> Tensor:
        if canvas is None:
            return frames
        frames = without_padding(frames, canvas.padding)
        if canvas.originals is None:
            return frames
        pairs = zip(frames.split(1), canvas.originals.to(frames).split(1), strict=True)
        return torch.cat([match_statistics(*pair) for pair in pairs])

    @checked
    @torch.no_grad()
    def sample_refiner(
        self,
        latent: Tensor,
        prompt: str,
        options: RefineOptions,
        *,
        noise: Tensor | None = None,
        hint_noise: Tensor | None = None,
        callback: Callback | None = None,
        around: Around | None = None,
    ) -> Tensor:
        """Runs the refinement stage on an encoded video (paper, section 3.3).

        Args:
            latent: unscaled [frames, 4, h, w] of the refined size.
            prompt: a short one; the release's suffix is appended here.
            options: all but the size are read.
            noise: [frames, 4, h, w], for the entry by noise; the seed's if None.
            hint_noise: of the key frames [k, 4, h, w], where they are noised (VEnhancer); the seed's if None.
            callback: see solvers.Callback.
            around: of a long video's windows, see windows.Around.

        Returns:
            Unscaled latent [frames, 4, h, w], float32.
        """
        stage, refiner = self._refine_stage(options), self.refiner.unet
        stage.check_latent(latent)
        settings, speed = stage.settings, options.acceleration
        prompts = [prompt + settings.prompt_suffix, settings.negative_prompt]
        whose, added = ["the refiner's prompt", "the refiner's negative prompt"], settings.prompt_suffix
        texts = self.text_encoder.encode(prompts, whose, added).to(self.dtype).split(1)
        positive, negative = (refiner.prepare(text) for text in texts)
        x = latent.to(self.device, torch.float32) * VAE_SCALE
        control, windows = refiner.config.control, stage.windows(len(x))
        hint = None if control is None else stage.hint(control, x, hint_noise)

        def denoiser(conditions: list[Prepared], guidance: float, rescale: float) -> Denoise:
            return guided_and_joined(
                refiner,
                stage.schedule,
                windows,
                stage.share(),
                conditions,
                guidance,
                rescale,
                speed,
                self.dtype,
                hint,
                around,
            )

        if stage.inverts:
            x = stage.invert(denoiser([negative], 1.0, 0.0), x, callback)
        else:
            noise = stage.noise(tuple(x.shape)) if noise is None else noise
            check_shape("noise", noise.shape, x.shape, "Draw it in the latent's shape.")
            x = stage.add_noise(x, noise.to(x))
        denoise = denoiser([positive, negative], settings.guidance, settings.rescale)
        return stage.sample(denoise, x, callback) / VAE_SCALE

    def _base_stage(self, options: BaseOptions) -> BaseStage | FewStepStage:
        kind = self.base.unet.config.kind
        if kind not in BASES:
            raise InputError("the network", "a base", kind, "Use family.compose or family.animate.")
        stage = first_stage(options, kind, self.base.release, schedule_for(kind))
        assert not isinstance(stage, AnimateStage)
        return stage

    def _refine_stage(self, options: RefineOptions) -> RefineStage:
        return RefineStage(options, self.refiner.release, schedule_for(self.refiner.unet.config.kind))


def _stop_if(cancel: Event | None) -> None:
    if cancel is not None and cancel.is_set():
        raise Cancelled
