"""The cascade's networks as native MODEL objects: memory, casts, LoRA, previews and cancel are the host's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import comfy.latent_formats
import comfy.model_base
import comfy.model_management
import comfy.ops
import comfy.supported_models_base
import comfy.utils
import torch
from comfy.patcher_extension import WrappersMP
from torch import Tensor, nn

from ...i2vgen_core.checkpoints.load import UNetCheckpoint, open_unet
from ...i2vgen_core.checkpoints.read import SETTINGS, read_config, settings_tensor
from ...i2vgen_core.checkpoints.unet_keys import GLOBAL_ENCODER
from ...i2vgen_core.config import BASES, TEXT_TOKENS, DetailGain, Kind, UNetConfig
from ...i2vgen_core.encoders.config import latent_rgb
from ...i2vgen_core.errors import InputError, check_choice, check_finite
from ...i2vgen_core.network.blocks import Layers
from ...i2vgen_core.network.image_conditioning import GlobalEncoder
from ...i2vgen_core.releases import JOININGS, Joining
from ...i2vgen_core.sampling.schedules import Schedule, schedule_for
from ...i2vgen_core.sampling.windows import refiner_windows
from . import compat, family, geometry
from .inputs import video_latent
from .network import HostUNet, no_control, packed
from .notes import text_notes, write_notes
from .preview import VideoLatent

WEIGHT_DTYPES: dict[str, torch.dtype | None] = {
    "default": None,
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "fp8_e4m3fn": torch.float8_e4m3fn,
}

CONDITION = "i2vgen_xl"
"""Key of a conditioning's VideoCondition."""

HINT = "i2vgen_xl_hint"
"""Key of a conditioning's HintCondition."""


@dataclass(frozen=True)
class VideoCondition:
    """What the Global Encode block puts on a conditioning, positive and negative alike.

    Args:
        frames: of the video that it was made for.
        fps: motion's frame rate.
        image_latent: unscaled [1, 4, h, w]; None for a base that reads no details.
        global_tokens: [1, 64, context_dim]; None likewise.
    """

    frames: int
    fps: float
    image_latent: Tensor | None = None
    global_tokens: Tensor | None = None

    @property
    def places(self) -> tuple[int, int] | None:
        """Height and width of the latent that it was made for; None where it has nothing of its size."""
        return None if self.image_latent is None else (self.image_latent.shape[-2], self.image_latent.shape[-1])


@dataclass(frozen=True, eq=False)
class HintCondition:
    """What the Refine Prepare block puts on a conditioning, positive and negative alike.

    Args:
        frames: scaled hint of each frame, and 1 where it has one, [frames, 5, h, w].
        level: timestep that the hint is noised to; -1 for a clean one.
        scale: how far the video was enlarged, as the network is told.
        window: frames that go through the network together where there are more; 0 for all.
        joining: of windows.
        inserted: frames between two key frames.
    """

    frames: Tensor
    level: int
    scale: int
    window: int
    joining: Joining
    inserted: int

    def windows(self, frames: int) -> list[range]:
        """Windows of a video of so many frames."""
        return refiner_windows(frames, self.window, self.joining, self.inserted)

    @property
    def numbers(self) -> list[int]:
        """Its numbers, in the order of HostUNet's `told`."""
        return [self.level, self.scale, self.window, JOININGS.index(self.joining), self.inserted]


class VideoModel(comfy.model_base.BaseModel):
    """A network of the cascade with its schedule and settings, and how a conditioning becomes its inputs."""

    def __init__(self, model_config: ModelConfig, device: Any = None):
        self.network, self.release = model_config.network, model_config.release
        self.source = model_config.source
        self.schedule = schedule_for(self.network.kind)
        self._times_the_memory = 1.0
        unet = partial(HostUNet, self.network)
        super().__init__(model_config, comfy.model_base.ModelType.V_PREDICTION, device=device, unet_model=unet)
        self.model_sampling.set_sigmas(_host_sigmas(self.schedule))

    def memory_required(self, *shapes: Any, **cond_shapes: Any) -> float:
        """What the host makes room for before a run, in bytes."""
        return super().memory_required(*shapes, **cond_shapes) * self._times_the_memory

    @contextmanager
    def needing(self, times: float) -> Iterator[None]:
        """Within, so many times the memory of a run by itself is asked for."""
        self._times_the_memory = times
        try:
            yield
        finally:
            self._times_the_memory = 1.0

    def extra_conds(self, **kwargs: Any) -> dict[str, Any]:
        """Called once a run for each conditioning, before the first step, with the network loaded."""
        _check_controls(kwargs)
        conds = self._conds(kwargs)
        tiled = getattr(self.current_patcher, "model_options", {}).get("tiled_diffusion")
        if tiled and any(value.cond.shape[2:] == kwargs["noise"].shape[2:] for value in conds.values()):
            remedy = "Put it on a refiner's MODEL that reads text alone: it fails on conditions of the latent's size."
            raise InputError("model", f"one without Tiled Diffusion, for {self.release.title}", "one with it", remedy)
        return conds

    def _conds(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        noise, device = kwargs["noise"], kwargs["device"]
        video_latent({"samples": noise})
        self.check_sampling(self.model_sampling)
        to = {"device": device, "dtype": self.manual_cast_dtype or self.get_dtype()}
        made_for = geometry.conditions(len(noise), noise.shape[-2], noise.shape[-1], device)
        text: Tensor | None = kwargs.get("cross_attn")
        if self.network.is_refiner:
            hint = {} if self.network.control is None else self._hint(kwargs.get(HINT), noise, device)
            return made_for | self._context(self._checked(text).to(**to), None, kwargs.get("hooks")) | hint

        condition = kwargs.get(CONDITION)
        if self.network.kind not in BASES:
            return made_for | self._beside_the_cascade(condition, self._checked(text).to(**to), kwargs)
        if not isinstance(condition, VideoCondition):
            remedy = "Put the I2VGen-XL Global Encode block between the prompts and the sampler."
            found = "text alone" if condition is None else "one of another network"
            raise InputError("conditioning", "an image's, for a base model", found, remedy)
        _check_video(condition, noise)
        embedding = self.image_embedding(kwargs.get("unclip_conditioning")).to(**to)
        image_tokens = self.diffusion_model.context_embedding(embedding)
        fps, hooks = torch.tensor([float(condition.fps)], device=device), kwargs.get("hooks")
        if not self.network.reads_details:
            return made_for | self._context(image_tokens, fps, hooks)

        if condition.image_latent is None or condition.global_tokens is None:
            remedy = "Wire the global encoder of this model's loader into the Global Encode block."
            raise InputError("conditioning", "the image's details and global tokens", "none of them", remedy)
        tokens, width = condition.global_tokens, self.network.context_dim
        if tokens.shape[-1] != width:
            remedy = "Wire the global encoder of this model's loader into the Global Encode block."
            raise InputError("global tokens", f"width {width}", f"{tokens.shape[-1]}", remedy)
        for what, values in (("image latent", condition.image_latent), ("global tokens", tokens)):
            check_finite(what, values, "Look at the picture, and at the VAE.")
        text = self._checked(text).to(**to)
        context = torch.cat([text, tokens.to(**to), image_tokens], dim=1)
        latent = geometry.fit(condition.image_latent.to(**to), noise.shape[-2:])
        encode = partial(self.diffusion_model.detail_encoder, self.process_latent_in(latent))
        details = geometry.Details(encode(len(noise)), encode)
        return made_for | self._context(context, fps, hooks) | {"details": details}

    def _hint(self, condition: HintCondition | None, noise: Tensor, device: Any) -> dict[str, Any]:
        if condition is None:
            remedy = "Put the I2VGen-XL Refine Prepare block between the prompts and the sampler."
            raise InputError("conditioning", f"a video's, for {self.release.title}", "text alone", remedy)
        expected, found = [(len(each), *each.shape[-2:]) for each in (noise, condition.frames)]
        if expected != found:
            remedy = "Wire the latent of the Refine Prepare block that made the conditioning into the sampler."
            frames, height, width = found
            there = "{} of {}x{}".format(*expected)
            raise InputError("latent", f"{frames} frames of {height}x{width}, as the hint has", there, remedy)
        numbers = torch.tensor([condition.numbers], dtype=torch.int32, device=device)
        frames_of = geometry.FrameValues(condition.frames.to(device))
        return {"hint": frames_of, "told": geometry.PerVideoNumber(numbers)}

    def _beside_the_cascade(self, condition: Any, text: Tensor, kwargs: dict[str, Any]) -> dict[str, Any]:
        """extra_conds of a composer, an animator or text to video."""
        noise, to = kwargs["noise"], {"device": kwargs["device"], "dtype": text.dtype}
        if condition is not None:
            _check_video(condition, noise)
        made = family.animation if self.network.reads_reference else family.composition
        context, conds = made(self, condition, text, kwargs.get("unclip_conditioning"), noise, to)
        return self._context(context, None, kwargs.get("hooks")) | conds

    def resize_cond_for_context_window(
        self, cond_key: str, cond_value: Any, window: Any, x_in: Tensor, device: Any, **_: Any
    ) -> Any:
        """Called by the host for each condition of each context window; None leaves the condition to it."""
        if isinstance(cond_value, geometry.Details):
            frames = window.get_tensor(x_in[..., :1, :1])  # with the frame before, which the host may add
            return cond_value.of_clip(len(frames))
        if isinstance(cond_value, geometry.Frames):
            every = torch.arange(len(x_in)).view(-1, 1, 1, 1)
            return cond_value.of_frames(window.get_tensor(every).flatten().tolist())
        if isinstance(cond_value, geometry.Rows | geometry.FrameValues):
            return cond_value._copy_with(window.get_tensor(cond_value.cond, device))
        return None

    def _context(self, context: Tensor, fps: Tensor | None, hooks: Any) -> dict[str, Any]:
        """Context and frame rate as conditions, with what the network makes of them once a run. Hooks may change its
        weights from step to step, and then it makes it at every step."""
        conds: dict[str, Any] = {"c_crossattn": geometry.PerVideo(context)}
        if fps is not None:
            conds["fps"] = geometry.PerVideoNumber(fps)
        if hooks is not None:
            return conds
        prepared = self.diffusion_model.prepare(context, fps)
        if prepared.fps is not None:
            conds["fps_embedding"] = geometry.PerVideoNumber(prepared.fps)
        return conds | {"prepared": geometry.PerVideo(packed(prepared))}

    def check_sampling(self, sampling: Any) -> None:
        """Raises InputError if a node's ModelSampling has another schedule, or takes the network to predict something else.
        The host's nodes can make a base's schedule anew, not a refiner's; the levels without signal may differ, as they do
        there."""
        own = _host_sigmas(self.schedule)
        sigmas = getattr(sampling, "sigmas", own[:0]).cpu()
        stage = "a refiner" if self.network.is_refiner else "a base"
        if sigmas.shape != own.shape or not torch.allclose(_signal(sigmas), _signal(own), rtol=0, atol=1e-3):
            remedy = (
                "Take the ModelSampling block out, or what else sets it; they make schedules of other models alone."
            )
            raise InputError("model", f"{stage} with the schedule it was trained with", "another schedule", remedy)
        one = torch.ones(1, 1, 1, 1, device=sampling.sigmas.device)
        denoised = float(sampling.calculate_denoised(one.flatten(), one, 2 * one))
        if abs(denoised - (1 - 0.5**0.5)) > 1e-3:  # 2 / 2 - 1 / sqrt(2), at a sigma of 1
            remedy = "Set the ModelSampling block to v_prediction, or take it out."
            raise InputError("model", f"{stage} that predicts a velocity", "another prediction", remedy)

    def image_embedding(self, unclip: list[dict[str, Any]] | None) -> Tensor:
        """The CLIP image embedding [1, 1, image_dim] of a conditioning, zeros where it has none (the negative)."""
        width = self.network.image_dim
        if not unclip:
            return torch.zeros(1, 1, width)
        embedding = image_embedding(unclip)
        if embedding.shape[-1] != width:
            raise InputError("CLIP image embedding", f"width {width}", f"{embedding.shape[-1]}", _VISION_REMEDY)
        check_finite("CLIP image embedding", embedding, "Look at the CLIP vision model, and at its image.")
        return embedding[:, None]

    def _checked(self, text: Tensor | None) -> Tensor:
        what, width, title = "text conditioning", self.network.context_dim, self.release.title
        remedy = "Encode the prompt with this model's CLIP: the loader's, or OpenCLIP ViT-H/14 for a release."
        found = None if text is None or not text.ndim else text.shape[-1]
        if text is None or found != width:
            raise InputError(what, f"width {width} for {title}", f"{found}", remedy)
        if text.ndim != 3 or len(text) != 1 or not text.shape[1]:
            expected = f"one prompt's tokens, [1, {TEXT_TOKENS}, {width}], for {title}"
            raise InputError(what, expected, f"{list(text.shape)}", remedy)
        check_finite(what, text, "Look at the text encoder, and at what has changed its output.")
        write_notes(text_notes(title, prompt=[(text, {})]))
        return text[:, :TEXT_TOKENS]  # as the official code cuts a longer prompt; the host goes on in chunks of 77


class ModelConfig(comfy.supported_models_base.BASE):
    unet_extra_config: ClassVar[dict[str, Any]] = {}
    latent_format = VideoLatent
    # The host's estimate is 0.02 MiB times this for each place of a frame, where attention is fused and types are 16 bit.
    # Counted for 16 frames (benchmarks: live_peak): 0.20 GiB for one guided half at 448x256 are 0.36, its keys and values
    # among them, which no size changes; 1.34 and 2.55 GiB for one and two at 1280x704 are 0.31 and 0.29. The Accelerate
    # block's features are 0.03 more. tests/host/test_memory.py counts anew.
    memory_usage_factor = 0.36

    def __init__(self, checkpoint: UNetCheckpoint, source: Path | None = None, rgb: list[list[float]] | None = None):
        network = checkpoint.config
        self.source = source
        super().__init__({"model_channels": network.model_channels})
        self.network, self.release, self.latent_format = network, checkpoint.release, VideoLatent(rgb)
        self.global_encoder, self.metadata = checkpoint.global_encoder, checkpoint.metadata()
        if network.kind == "i2vgen_xl":  # what ModelSamplingDiscrete makes a schedule of; the default is image2video's
            self.sampling_settings = {"beta_schedule": "cosine", "zsnr": True}
        elif network.kind not in BASES and not network.is_refiner:
            schedule = {"beta_schedule": "cosine"} if network.kind == "text2video" else {}
            self.sampling_settings = schedule | {"zsnr": True}

    def get_model(self, state_dict: Any, prefix: str = "", device: Any = None) -> VideoModel:
        return VideoModel(self, device)

    def process_unet_state_dict_for_saving(self, state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
        """What ModelSave and CheckpointSave write: the network in our shapes, since the host makes a patched weight only as
        it writes it; and beside it the global encoder, and what shapes do not say."""
        beside = {GLOBAL_ENCODER + key: value for key, value in self.global_encoder.items()}
        beside[SETTINGS] = settings_tensor(self.metadata)
        return super().process_unet_state_dict_for_saving(dict(state_dict) | beside)


def load_model(
    path: Path, weight_dtype: str, kind: Kind, detail_gain: DetailGain, *, disable_dynamic: bool = False
) -> Any:
    """A MODEL read again from its file, as the host asks for other devices and for a copy that is not streamed."""
    checkpoint = open_unet(path, kind=kind, detail_gain=detail_gain)
    return build_model(checkpoint, path, weight_dtype, disable_dynamic=disable_dynamic)


def build_model(checkpoint: UNetCheckpoint, path: Path, weight_dtype: str, *, disable_dynamic: bool = False) -> Any:
    """A MODEL from an opened checkpoint.

    Args:
        checkpoint: of a base or a refiner.
        path: where it came from; the host reads it again for other devices.
        weight_dtype: one of WEIGHT_DTYPES.
        disable_dynamic: the host's, when it asks for a copy whose weights are not streamed.
    """
    check_choice("weight_dtype", weight_dtype, WEIGHT_DTYPES)
    rgb = latent_rgb(read_config(path.parent / "vae")) if path.is_dir() else None  # of the bundle's own VAE
    state, config = dict(checkpoint.network), ModelConfig(checkpoint, path, rgb)
    management = comfy.model_management
    load_device, offload_device = management.get_torch_device(), management.unet_offload_device()
    dtype = WEIGHT_DTYPES[weight_dtype] or management.unet_dtype(
        model_params=sum(value.numel() for value in state.values()),
        supported_dtypes=list(config.supported_inference_dtypes),
        weight_dtype=comfy.utils.weight_dtype(state),
    )
    manual_cast = management.unet_manual_cast(dtype, load_device, config.supported_inference_dtypes)
    config.set_inference_dtype(dtype, manual_cast)
    model = config.get_model(state)
    patcher = compat.patcher(model, load_device, offload_device, disable_dynamic)
    model.to(offload_device)
    compat.load_weights(model, patcher, state)
    if load_device.type == "cpu":  # see build_network; where the host streams weights to a GPU, they stay as they are
        model.diffusion_model.to(memory_format=torch.channels_last)
    patcher.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, "i2vgen_xl", _sample_checked)
    options = (weight_dtype, checkpoint.config.kind, checkpoint.config.detail_gain)
    patcher.cached_patcher_init = (load_model, (path, *options))
    return patcher


class GlobalEncoderSocket:
    """The learnt global encoder as a block of the graph, its memory the host's.

    Args:
        checkpoint: an opened base; one of `image2video`, which has no such encoder, gives an empty socket.
        built_in: whether the base is the built-in one.
    """

    def __init__(self, checkpoint: UNetCheckpoint, built_in: bool = False):
        self.config, self.release, self.built_in = checkpoint.config, checkpoint.release, built_in
        self._patcher = None
        if not checkpoint.config.reads_details:
            return
        management = comfy.model_management
        layers = Layers(comfy.ops.manual_cast, torch.float32, management.unet_offload_device())
        module = GlobalEncoder(checkpoint.config.in_channels, checkpoint.config.context_dim, layers)
        module.load_state_dict(checkpoint.global_encoder, strict=True)
        module.eval().requires_grad_(False)
        self._patcher = compat.patcher(module, management.get_torch_device(), management.unet_offload_device())

    @property
    def reads_image(self) -> bool:
        """Whether there is an encoder."""
        return self._patcher is not None

    def encode(self, latent: Tensor) -> Tensor:
        """Unscaled image latent [1, 4, h, w] to tokens [1, 64, context_dim], on the host's intermediate device."""
        assert self._patcher is not None
        comfy.model_management.load_models_gpu([self._patcher])
        scaled = comfy.latent_formats.SD15().process_in(latent.float().to(self._patcher.load_device))
        module: nn.Module = self._patcher.model
        return module(scaled).to(comfy.model_management.intermediate_device())


def network_of(model: Any) -> UNetConfig | None:
    """What a MODEL is; None if it is not of this pack."""
    return model.model.network if isinstance(getattr(model, "model", None), VideoModel) else None


def detailed_base(model: Any) -> UNetConfig:
    """Sizes of a MODEL of an I2VGen-XL base. Raises InputError if it is none."""
    network = network_of(model)
    if network is None or not network.reads_details:
        found = "another model" if network is None else network.kind
        remedy = "Wire the Cascade Loader's or the Base Loader's MODEL into it."
        raise InputError("model", "an I2VGen-XL base", found, remedy)
    return network


def cascade_model(model: Any) -> Any:
    """The MODEL, of either stage. Raises InputError if it is not of this pack."""
    if network_of(model) is None:
        remedy = "Wire the MODEL of one of this pack's loaders into it."
        raise InputError("model", "a network of the cascade", "another model", remedy)
    return model


def _check_controls(conditioning: dict[str, Any]) -> None:
    for key, kind in (("control", "ControlNet"), ("gligen", "GLIGEN")):
        if conditioning.get(key) is not None:
            raise no_control(kind)


def _sample_checked(
    executor: Any,
    noise: Tensor,
    latent_image: Tensor,
    sampler: Any,
    sigmas: Tensor,
    denoise_mask: Tensor | None = None,
    *others: Any,
    **more: Any,
) -> Tensor:
    """One run, of the host's samplers and ours alike: what it begins with and what comes of it are finite, and there is no
    control. Stands before other packs' wrappers of a run, some of which look for the blocks of the host's networks first."""
    for conditionings in executor.class_obj.conds.values():
        for conditioning in conditionings:
            _check_controls(conditioning)
            _check_area(conditioning.get("area"))
    _check_context_reference(executor.class_obj.model_patcher)
    for what, values in (("latent", latent_image), ("noise", noise), ("noise mask", denoise_mask)):
        if values is not None:
            check_finite(what, values, "Look at where it comes from: something failed there.")
    sampled = executor(noise, latent_image, sampler, sigmas, denoise_mask, *others, **more)
    remedy = "Use a lower guidance scale, or weight_dtype fp32 or bf16 where it is fp16."
    check_finite("the sampled latent", sampled, remedy)
    return sampled


def _check_area(area: Sequence[Any] | None) -> None:
    """The host reads the numbers of an area in time and place as those of a place, where a latent has no time."""
    if area is not None and len(area) > 5:
        remedy = "Set the area with a Conditioning (Set Area) block; for another prompt at another time, use Context Windows."
        raise InputError("conditioning", "an area of the frames' places", "one in time too", remedy)


def _check_context_reference(patcher: Any) -> None:
    """Advanced-ControlNet's ContextRef, which AnimateDiff-Evolved keeps beside the model, becomes a ControlNet once the run
    has begun."""
    kept = getattr(patcher, "get_attachment", lambda _: None)("ADE_params")
    extras = getattr(getattr(kept, "context_options", None), "extras", None)
    if getattr(extras, "context_ref", None) is not None:
        raise no_control("ContextRef")


def _host_sigmas(schedule: Schedule) -> Tensor:
    """The schedule's sigmas with a finite end: the host's own stand-in for zero terminal SNR."""
    alphas = schedule.alphas_cumprod.clamp(min=4.8973451890853435e-08)
    return ((1 - alphas) / alphas).sqrt()


def _signal(sigmas: Tensor) -> Tensor:
    """The part of a latent at these levels that is not noise, 0..1."""
    return 1 / (sigmas.float() ** 2 + 1) ** 0.5


def _check_video(condition: Any, noise: Tensor) -> None:
    """Raises InputError where a latent [f, 4, h, w] is not the video that a conditioning was made for, nor that one enlarged:
    in a part of it, every part would show the whole picture."""
    if condition.frames != len(noise):
        remedy = (
            "A latent's batch is the frames of one video: wire in that of the block that made the "
            "conditioning. For more videos, run with other seeds."
        )
        raise InputError("latent", f"{condition.frames} frames, as the conditioning has", f"{len(noise)}", remedy)
    if condition.places is None:
        return
    scales = [now / then for now, then in zip(noise.shape[-2:], condition.places, strict=True)]
    if min(scales) < 1 or max(scales) > 1.25 * min(scales):
        expected, found = (f"{width}x{height}" for height, width in (condition.places, noise.shape[-2:]))
        remedy = (
            "Set the video's size in the block that made the conditioning; what samples tiles or crops of a latent "
            "is for a refiner's MODEL."
        )
        raise InputError("latent", f"{expected} places, as the conditioning has, or that enlarged", found, remedy)


_VISION_REMEDY = "Use this model's CLIP vision model: the loader's, or OpenCLIP ViT-H/14 for a release."


def image_embedding(unclip: list[dict[str, Any]]) -> Tensor:
    """The CLIP image embedding [1, width] of a conditioning that has one or more of them."""
    embeddings = [each["clip_vision_output"].image_embeds[:1] for each in unclip]
    for each in embeddings:
        if each.ndim != 2 or each.shape != embeddings[0].shape or not each.numel():
            raise InputError("CLIP image embedding", "[1, width]", f"{list(each.shape)}", _VISION_REMEDY)
    return sum(each * cond["strength"] for each, cond in zip(embeddings, unclip, strict=True))  # type: ignore[return-value]
