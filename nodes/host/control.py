"""Ctrl-Adapter in the host: an SD 1.5 ControlNet of the host's own sees the frames, an adapter makes it steer our network."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import comfy.cldm.cldm
import comfy.controlnet
import comfy.model_management
import comfy.ops
import comfy.utils
import torch
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ...i2vgen_core.checkpoints.adapter import load_adapter
from ...i2vgen_core.config import VAE_STEP, UNetConfig
from ...i2vgen_core.encoders.controlnet import nothing
from ...i2vgen_core.errors import InputError
from ...i2vgen_core.media.images import check_images
from ...i2vgen_core.network.adapter import CtrlAdapter, Steered, steered_channels
from ...i2vgen_core.sampling.control import ControlOptions
from . import compat, folders
from .geometry import Piece
from .inputs import check_conditioning, check_there

CONTROL = "i2vgen_xl_control"
"""Key of a Control in a MODEL's `transformer_options`, and of the models that it needs beside."""

STEERED = 2.05
"""Times the memory that a step takes where a ControlNet and its adapter steer it. Counted (tests/host/test_memory.py): 2.03 and
2.01 times the base's estimate for one and two guided halves, most of it features that wait for the base."""

_LOADER = "Apply it on the MODEL that the loader gives, before Context Windows or tiles are."


class CtrlAdapterSocket:
    """A Ctrl-Adapter as a block of the graph, its memory the host's."""

    def __init__(self, adapter: CtrlAdapter):
        management = comfy.model_management
        self.sizes = adapter.sizes
        self.patcher = compat.patcher(adapter, management.get_torch_device(), management.unet_offload_device())


def load(name: str) -> CtrlAdapterSocket:
    """A Ctrl-Adapter from a file under models/controlnet; its weights are cast as they are needed.

    Raises:
        CheckpointError: see checkpoints.adapter.load_adapter.
    """
    management = comfy.model_management
    device = management.get_torch_device()
    dtype = torch.float16 if management.should_use_fp16(device) else torch.float32
    path, place = folders.adapter(name), management.unet_offload_device()
    return CtrlAdapterSocket(load_adapter(path, dtype=dtype, device=place, operations=comfy.ops.manual_cast))


@dataclass(frozen=True, eq=False)
class Control:
    """What steers a MODEL.

    Args:
        adapter: the adapters.
        network: the ControlNet.
        dtype: of its arithmetic.
        hints: pictures of the control [f, 3, H, W] in 0..1.
        texts: of the positive and the negative prompt for the ControlNet, [1, n, d].
        token: CLIP image embedding [1, 1, d].
        options: strength and where it steers.
    """

    adapter: CtrlAdapter
    network: Any
    dtype: torch.dtype
    hints: Tensor
    texts: tuple[Tensor, Tensor]
    token: Tensor
    options: ControlOptions

    def steer(self, x: Tensor, timesteps: Tensor, pieces: Sequence[Piece], options: dict[str, Any]) -> Steered:
        """What is added in one evaluation of clips x [(b f), 4, h, w].

        Raises:
            InputError: the clips are no whole videos of as many frames as there are pictures, or it is not known which
                prompt they are evaluated for.
        """
        frames, halves = len(self.hints), options.get("cond_or_uncond", [])
        if any(piece.frames != tuple(range(frames)) for piece in pieces):
            found = f"{len(pieces[0].frames)} frames, from number {pieces[0].frames[0]}"
            remedy = (
                "Give a picture for each frame; with Ctrl-Adapter there are no context windows: it numbers the frames."
            )
            raise InputError("the frames that are evaluated", f"all {frames} that have a picture", found, remedy)
        if len(halves) != len(pieces):
            expected, found = f"what {len(pieces)} clips are evaluated for", f"that of {len(halves)}"
            raise InputError("guidance", expected, found, _LOADER)
        told, strength = timesteps[:1], self._strength(options)
        token = self.token.to(x)
        if strength:
            clips = zip(x.chunk(len(pieces)), halves, strict=True)
            seen = [self._features(clip, told, self.texts[min(half, 1)]) for clip, half in clips]
            features = [strength * torch.cat(each).to(x) for each in zip(*seen, strict=True)]
            key_frames = self.options.key_frames
            return Steered(self.adapter(features, told, token, frames, key_frames))
        # as released: the last adapter still runs, on zeros
        nothing = x.new_zeros(len(x), self.adapter.sizes[-1].channels, *self._middle(x.shape[2:]))
        key_frames = self.options.key_frames
        return Steered(self.adapter([nothing], told, token, frames, key_frames, middle_alone=True))

    def _middle(self, size: torch.Size) -> tuple[int, ...]:
        """Height and width of the middle's features: each halving rounds up."""
        halvings = sum(_is_downsampling(block) for block in self.network.input_blocks)
        return tuple(-(-side // 2**halvings) for side in size)

    def _features(self, x: Tensor, t: Tensor, text: Tensor) -> list[Tensor]:
        frames, (height, width) = len(x), x.shape[2:]
        hints = self.hints
        if hints.shape[2:] != (VAE_STEP * height, VAE_STEP * width):
            hints = comfy.utils.common_upscale(hints, VAE_STEP * width, VAE_STEP * height, "bilinear", "center")
        given = {
            "x": x.to(self.dtype),
            "hint": hints.to(x.device, self.dtype),
            "timesteps": t.to(self.dtype).expand(frames),
            "context": text.to(x.device, self.dtype).expand(frames, -1, -1),
        }
        first = self.network.input_blocks[0]
        with first.register_forward_hook(nothing) if self.options.key_frames else nullcontext():
            made = self.network(**given)
        return [*made["output"], *made["middle"]]

    def _strength(self, options: dict[str, Any]) -> float:
        """Of the step that is running, by the noise levels of the run."""
        levels = options.get("sample_sigmas")
        if levels is None or len(levels) < 2:
            return self.options.strength
        steps = levels[:-1].cpu().float()
        step = int((steps - float(options["sigmas"][0])).abs().argmin())
        return self.options.strength_at(step, len(steps))


def apply(
    model: Any,
    socket: Any,
    control_net: Any,
    images: Tensor,
    text_positive: Any,
    text_negative: Any,
    clip_vision_output: Any,
    options: ControlOptions,
    network: UNetConfig,
) -> Any:
    """A clone of a MODEL of an I2VGen-XL base that a ControlNet steers.

    Args:
        images: pictures of the control, one for each frame [f, H, W, 3].
        text_positive, text_negative: CONDITIONING of Stable Diffusion 1.5's CLIP.
        clip_vision_output: of the first frame, the same as in CLIP Encode.
        network: the MODEL's sizes.

    Raises:
        InputError: an input that is of other models, or settings that cannot be.
    """
    check_there("control_net", control_net, "Load ControlNet Model")
    check_images(images, "the pictures of the control")
    options.check(len(images))
    control = getattr(control_net, "control_model", None)
    usual = type(control_net) is comfy.controlnet.ControlNet and isinstance(control, comfy.cldm.cldm.ControlNet)
    if not usual or control is None or control.num_classes is not None:
        remedy = "Load one of lllyasviel's control_v11 files with Load ControlNet Model."
        raise InputError("control_net", "a ControlNet of Stable Diffusion 1.5", type(control_net).__name__, remedy)
    found = [size.channels for size in socket.sizes]
    if found != steered_channels(network):
        remedy = "Use the adapters of I2VGen-XL with its base."
        expected = f"adapters of {steered_channels(network)} channels"
        raise InputError("ctrl_adapter", expected, str(found), remedy)
    token = clip_vision_output.image_embeds[:1, None]
    if token.shape[-1] != socket.sizes[0].token_dim:
        remedy = "Use I2VGen-XL's CLIP vision model."
        raise InputError("CLIP image embedding", f"width {socket.sizes[0].token_dim}", f"{token.shape[-1]}", remedy)
    width = next(each.shape[1] for name, each in control.state_dict().items() if name.endswith("attn2.to_k.weight"))
    texts = []
    for name, conditioning in (("text_positive", text_positive), ("text_negative", text_negative)):
        check_conditioning(name, conditioning)
        text = conditioning[0][0]
        if text is None or text.ndim != 3 or text.shape[-1] != width:
            remedy = "Encode it with Stable Diffusion 1.5's CLIP, by CLIP Text Encode."
            raise InputError(name, f"width {width}", "none" if text is None else f"{text.shape[-1]}", remedy)
        texts.append(text[:1])
    dtype = control_net.manual_cast_dtype or control.dtype
    hints = images.movedim(-1, 1).float()
    model = model.clone()
    own = Control(socket.patcher.model, control, dtype, hints, (texts[0], texts[1]), token, options)
    model.model_options.setdefault("transformer_options", {})[CONTROL] = own
    model.add_wrapper_with_key(WrappersMP.PREPARE_SAMPLING, CONTROL, _with_its_memory)
    model.set_additional_models(CONTROL, [control_net.control_model_wrapped, socket.patcher])
    return model


def _with_its_memory(executor: Any, model: Any, *given: Any, **more: Any) -> Any:
    """The host asks a model for its estimate here, and counts weights by itself."""
    with model.model.needing(STEERED):
        return executor(model, *given, **more)


def key_frames_of(text: str) -> tuple[int, ...]:
    """Numbers of frames, as a user writes them: "0 5 10 15", or with commas. Raises InputError for anything else."""
    words = text.replace(",", " ").split()
    for word in words:
        if not word.isdecimal() or len(word) > 4:
            raise InputError("key frames", "numbers of frames, such as 0 5 10 15", repr(word)[:40], "Write numbers.")
    return tuple(map(int, words))


def _is_downsampling(block: Any) -> bool:
    return any(type(part).__name__ == "Downsample" for part in block.children())
