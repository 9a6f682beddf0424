"""The network as ComfyUI's samplers call it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from itertools import chain
from typing import Any, NamedTuple

import comfy.model_management
import torch
from comfy.patcher_extension import WrapperExecutor, WrappersMP, get_all_wrappers
from torch import Tensor

from ...i2vgen_core.config import VAE_CHANNELS, UNetConfig
from ...i2vgen_core.errors import InputError
from ...i2vgen_core.network.blocks import TemporalTransformer
from ...i2vgen_core.network.control import Hint
from ...i2vgen_core.network.evaluation import Prepared
from ...i2vgen_core.network.hooks import BlockHooks, BlockName
from ...i2vgen_core.network.injection import Injection, injecting
from ...i2vgen_core.network.unet import UNet
from ...i2vgen_core.releases import JOININGS
from ...i2vgen_core.sampling.windows import join_windows, refiner_windows, share_of
from . import compat
from .acceleration import of_half, reuse_in
from .control import CONTROL, Control
from .geometry import Details, Piece, of_clips, pieces_of
from .patches import changes_nothing, stock_patches

logger = logging.getLogger("i2vgen_xl")


class _Inputs(NamedTuple):
    """What the host hands over for one evaluation, of one clip or of more behind each other.

    Args:
        by_frame: [(b f), ...] by name: `x` and `timesteps`, and those of _BY_FRAME that there are.
        by_clip: [b, ...] by name: `context`, and those of _BY_CLIP that there are.
        pieces: what each clip is a piece of.
    """

    by_frame: dict[str, Tensor]
    by_clip: dict[str, Tensor]
    pieces: list[Piece]

    def of_window(self, window: range) -> _Inputs:
        """Inputs of some frames of each clip."""
        part, count = slice(window.start, window.stop), len(self.pieces)
        return _Inputs(
            {name: each.unflatten(0, (count, -1))[:, part].flatten(0, 1) for name, each in self.by_frame.items()},
            self.by_clip,
            [piece._replace(frames=piece.frames[part]) for piece in self.pieces],
        )

    def of_clip(self, number: int) -> _Inputs:
        """Inputs of one clip."""
        by_frame, by_clip = (
            {name: each.chunk(len(self.pieces))[number] for name, each in group.items()}
            for group in (self.by_frame, self.by_clip)
        )
        return _Inputs(by_frame, by_clip, [self.pieces[number]])

    def apart(self) -> list[_Inputs]:
        """Inputs of each clip by itself."""
        return [self.of_clip(number) for number in range(len(self.pieces))]

    def prepared(self, channels: Mapping[BlockName, int]) -> Prepared | Tensor:
        """The context as it was prepared before the steps, see unpacked."""
        clip = self.by_clip
        return unpacked(clip.get("prepared"), clip["context"], clip.get("fps_embedding"), channels)


_BY_FRAME = ("details", "in_front", "motion", "hint")
"""What a network may read of each frame; `in_front` is alike in all frames of a clip. See HostUNet.forward."""

_BY_CLIP = ("fps", "prepared", "fps_embedding", "told")
"""What it may read of each clip beside its context; `told` and `hint` are a control branch's, see models.HintCondition."""

_WORDS = {
    "fps": "the frame rate",
    "in_front": "the frame in front of the video",
    "motion": "the tokens of body points",
    "hint": "the hint",
    "told": "what is told of the hint",
}

_CUT = "Take out the node that cuts the latent or its conditions: it takes some of them along, and not others."

SOURCE = "i2vgen_xl_source"
"""Key of a step's Source in the `transformer_options`."""


class Source(NamedTuple):
    """The video that an edit takes features over from, at one step.

    Args:
        x: its noisy latent [f, 4, h, w].
        prepared: its condition, without details.
        details: its details.
        injection: which features.
    """

    x: Tensor
    prepared: Prepared
    details: Details
    injection: Injection


class HostUNet(UNet):
    """The network as the host calls it: frames as the batch, one or more videos behind each other."""

    def __init__(self, config: UNetConfig, *, model_channels: int, dtype: Any, device: Any, operations: Any):
        super().__init__(config, operations=operations, dtype=dtype, device=device)
        self.dtype = dtype
        self.in_channels = self.out_channels = config.in_channels  # of a latent, as the host's own networks name them
        self.model_channels = model_channels
        self._parted: Any = None
        self._over_frames = [part.block for part in self.modules() if isinstance(part, TemporalTransformer)]

    def forward(  # type: ignore[override]  # the host calls it with arguments of its own
        self,
        x: Tensor,
        timesteps: Tensor,
        context: Tensor,
        y: Any = None,
        control: Any = None,
        transformer_options: dict[str, Any] | None = None,
        **conditions: Any,
    ) -> Tensor:
        """One evaluation. Wrappers are called as the host's own networks call them, with the same positional arguments.

        Args:
            x: noisy latents [(b f), 4, h, w].
            timesteps: [(b f)].
            context: [b, n, d], once a video.
            y: read by other networks of the host; None.
            control: of a ControlNet; None.
            transformer_options: the host's.
            conditions: `details`, `fps` [b], and `prepared` and `fps_embedding`, what `prepare` made of context and fps,
                unless weights change during the run; `in_front` [(b f), c, h, w] and `motion` [(b f), 2 n, d] of an animator, the
                tokens of each frame and of the one in front; `hint` and `told` of a refiner with
                a control branch; and their geometry, see geometry.conditions.

        Raises:
            InputError: there is a ControlNet; none was trained for these networks. Or what has been cut, repeated or moved
                on the way here no longer fits together.
        """
        options = {} if transformer_options is None else transformer_options
        wrappers = get_all_wrappers(WrappersMP.DIFFUSION_MODEL, options)
        run = WrapperExecutor.new_class_executor(self._evaluate, self, wrappers)
        return run.execute(x, timesteps, context, y, control, options, **conditions)

    def _evaluate(
        self,
        x: Tensor,
        timesteps: Tensor,
        context: Tensor,
        y: Any = None,
        control: Any = None,
        transformer_options: dict[str, Any] | None = None,
        rows: Tensor | None = None,
        places: Tensor | None = None,
        owner: Tensor | None = None,
        **conditions: Any,
    ) -> Tensor:
        if control is not None:
            raise no_control("ControlNet")
        by_frame, by_clip = (
            {name: conditions[name] for name in names if conditions.get(name) is not None}
            for names in (_BY_FRAME, _BY_CLIP)
        )
        self._check_there({**by_frame, **by_clip})
        pieces, reads = pieces_of(x, context, rows, places, owner)
        self._check_rows(x, timesteps, by_frame)
        for each in by_clip.values():
            if len(each) != len(context):
                raise InputError("the network's contexts", f"{len(context)} of each kind", f"{len(each)} of one", _CUT)
        by_clip = of_clips(reads, {"context": context, **by_clip})
        inputs = _Inputs({"x": x, "timesteps": timesteps, **by_frame}, by_clip, pieces)
        options = {} if transformer_options is None else transformer_options
        run, may_part = _run_of(options), len(pieces) > 1 and changes_nothing(options)
        if not may_part or run is None or run != self._parted:
            try:
                return self._together(inputs, options)
            except Exception as error:
                if not may_part or not compat.is_out_of_memory(error):
                    raise
            # Out of the handler, whose exception holds what the evaluation had made.
            logger.warning("memory ran out with both guided halves at once: from here on they go one after the other")
            comfy.model_management.soft_empty_cache()
            self._parted = run
        halves = list(dict.fromkeys(reads))  # as many as the host has conditions here, in their order
        return torch.cat(
            [
                self._together(each, of_half(options, halves.index(read)))
                for each, read in zip(inputs.apart(), reads, strict=True)
            ]
        )

    def _words(self, name: str) -> str:
        """What a condition is called in a sentence."""
        beside = "the image's details" if self.config.reads_details else "what stands beside the noise"
        return _WORDS.get(name, beside)

    def _check_there(self, found: Mapping[str, Tensor]) -> None:
        """Raises InputError where what the network reads beside its context has been lost on the way: without, it would make
        another video."""
        config = self.config
        reads = {
            "details": config.reads_details or bool(config.stems),
            "fps": config.reads_image,
            "in_front": config.reads_reference,
            "motion": config.poses is not None,
            "hint": config.control is not None,
            "told": config.control is not None,
        }
        lost = [name for name, read in reads.items() if read and name not in found]
        if lost:
            remedy = "Take out the node that calls the network by itself: it passes on the conditions that it knows."
            raise InputError(self._words(lost[0]), "some, in every call of the network", "none", remedy)

    def _check_rows(self, x: Tensor, timesteps: Tensor, by_frame: Mapping[str, Tensor]) -> None:
        """Raises InputError unless all that goes by frame is of the latent's frames and places."""
        if x.shape[1] != VAE_CHANNELS:
            remedy = "Take out the node that puts something beside the latent: it is for another network."
            raise InputError("the network's latent", f"{VAE_CHANNELS} channels", f"{x.shape[1]}", remedy)
        for name, each in by_frame.items():
            if name != "motion" and (len(each), each.shape[2:]) != (len(x), x.shape[2:]):
                found = f"{list(each.shape)} for a latent of {list(x.shape)}"
                raise InputError(self._words(name), "those of the frames and places that are evaluated", found, _CUT)
        motion = by_frame.get("motion", x)
        if len(motion) != len(x):
            raise InputError(self._words("motion"), f"those of {len(x)} frames", f"{len(motion)}", _CUT)
        if len(timesteps) != len(x):
            raise InputError("the network's batch", f"{len(x)} levels of noise, one a frame", f"{len(timesteps)}", _CUT)

    def _together(self, inputs: _Inputs, options: dict[str, Any]) -> Tensor:
        if SOURCE in options:
            return self._beside_source(inputs, options, options[SOURCE])
        windows = _windows_of(inputs)
        if len(windows) > 1:
            return self._in_windows(inputs, options, windows)
        by_frame, by_clip, pieces = inputs
        x, timesteps, context = by_frame["x"], by_frame["timesteps"], by_clip["context"]
        frames, reuse = len(pieces[0].frames), reuse_in(options, x, pieces)
        control: Control | None = options.get(CONTROL)
        steered = BlockHooks() if control is None else control.steer(x, timesteps, pieces, options)
        hooks = stock_patches(
            options, reuse, steered, self.config.model_channels, x, timesteps, context, self._passed_over(options)
        )
        known = inputs.prepared(self.channels)
        fps, in_front, beside = by_clip.get("fps"), by_frame.get("in_front"), by_frame.get("details")
        if in_front is not None:  # of an animator, whose halves differ in what stands beside the noise, too
            known = self.prepare(known) if isinstance(known, Tensor) else known
            motion = by_frame.get("motion")
            poses = None if motion is None else self.pose_keys_values(_with_front(motion, frames))
            known, beside = replace(known, details=beside, in_front=in_front[::frames], poses=poses), None
        shared: Any = x, timesteps[::frames], beside, by_frame.get("hint"), by_clip.get("told")
        if len(pieces) == 2 and changes_nothing(options) and _halves_are_alike(*shared, fps):
            shared = [None if each is None else each.chunk(2)[0] for each in shared]
        x, timesteps, beside, hint, told = shared
        return super().forward(x, timesteps, known, frames, fps, beside, hooks, self._hint(hint, told, frames))

    def _in_windows(self, inputs: _Inputs, options: dict[str, Any], windows: list[range]) -> Tensor:
        """The clips' velocities from those of windows, each evaluated by itself."""
        step = int(inputs.by_frame["timesteps"][0])  # a frame to cut at is drawn anew in each, the same for both halves
        share = share_of(JOININGS[int(inputs.by_clip["told"][0, 3])], torch.Generator().manual_seed(step))
        videos = inputs.by_frame["x"].unflatten(0, (len(inputs.pieces), -1)).transpose(0, 1)

        def predict(_: Tensor, number: int) -> Tensor:
            comfy.model_management.throw_exception_if_processing_interrupted()
            made = self._together(inputs.of_window(windows[number]), options)
            return made.unflatten(0, (len(inputs.pieces), -1)).transpose(0, 1)

        return join_windows(videos, windows, share, predict).transpose(0, 1).flatten(0, 1)

    def _hint(self, frames_of: Tensor | None, told: Tensor | None, frames: int) -> Hint | None:
        """What the control branch reads, from what is known of each frame [(v f), 5, h, w]."""
        if frames_of is None or told is None or self.config.control is None:
            return None
        latent = frames_of[:, :-1]
        if not self.config.control.key_frames:
            return Hint(latent)
        there = frames_of[:, -1, 0, 0].unflatten(0, (-1, frames)) > 0.5
        keys = torch.where(there, torch.arange(frames, device=there.device), -1)
        return Hint(latent, keys, told[:, 0], told[:, 1])

    def _beside_source(self, inputs: _Inputs, options: dict[str, Any], source: Source) -> Tensor:
        """The clips' velocities, with the source's features; the same frames of it go through the network with them."""
        by_frame, by_clip, pieces = inputs
        x, frames, count = by_frame["x"], pieces[0].frames, len(pieces[0].frames)
        if any(piece.frames != frames for piece in pieces):
            return torch.cat([self._beside_source(each, options, source) for each in inputs.apart()])
        if x.shape[2:] != source.x.shape[2:]:
            expected, here = ("{}x{}".format(*each.shape[:1:-1]) for each in (source.x, x))
            remedy = "Take out the node that cuts the video into tiles or areas: an edit follows its source as a whole."
            raise InputError("the latent that is evaluated", f"the whole of {expected}", here, remedy)
        known = inputs.prepared(self.channels)
        known = known if isinstance(known, Prepared) else self.prepare(known, by_clip.get("fps"))
        if source.prepared.context.shape[1] != known.context.shape[1]:
            found = f"{source.prepared.context.shape[1]} and {known.context.shape[1]}"
            remedy = "Encode both with CLIP Encode."
            raise InputError("tokens of the source's prompt and the edit's", "as many", found, remedy)
        rows = Prepared.together(
            [
                replace(source.prepared, details=source.details.of_clip(count).cond.to(x)),
                replace(known, details=by_frame.get("details")),
            ]
        )
        batch = torch.cat([source.x[list(frames)].to(x), x])
        told = torch.cat([by_frame["timesteps"][:1], by_frame["timesteps"][::count]])
        attention = partial(compat.attention, transformer_options=options)
        hooks = injecting(self, source.injection, 1 + len(pieces), attention)
        return super().forward(batch, told, rows, count, hooks=hooks)[count:]

    def _passed_over(self, options: dict[str, Any]) -> frozenset[BlockName]:
        """Blocks whose attention over frames a guidance leaves out of its weak branch (STG, arXiv 2411.18664), as the host's
        node LTXVSpatioTemporalGuidance numbers the layers of its own network."""
        numbers = options.get("stg_self_attn_blocks", ())
        blocks = self._over_frames
        if any(number >= len(blocks) for number in numbers):
            found = ", ".join(map(str, sorted(numbers)))
            raise InputError(
                "blocks of spatio-temporal guidance",
                f"numbers from 0 to {len(blocks) - 1}",
                found,
                "Name others there.",
            )
        return frozenset(blocks[number] for number in numbers)

    @property
    def channels(self) -> dict[BlockName, int]:
        """Channels of the keys and values that each block makes of a context."""
        return {each.block: each.channels for each in self.spatial_transformers}


def _windows_of(inputs: _Inputs) -> list[range]:
    """The windows of each clip, all of it where nothing is told."""
    frames = len(inputs.pieces[0].frames)
    if "told" not in inputs.by_clip:
        return [range(frames)]
    _, _, window, joining, inserted = inputs.by_clip["told"][0].tolist()
    return refiner_windows(frames, window, JOININGS[joining], inserted)


def no_control(kind: str) -> InputError:
    """What is said of a control of this kind."""
    remedy = f"Take out the node that applies the {kind}."
    return InputError("conditioning", f"no {kind}, since none was trained for these networks", "one", remedy)


def packed(prepared: Prepared) -> Tensor:
    """A context and its keys and values beside each other, as one condition of the host's."""
    return torch.cat([prepared.context, *chain.from_iterable(prepared.keys_values.values())], dim=-1)


def unpacked(
    condition: Tensor | None, context: Tensor, fps_embedding: Tensor | None, channels: Mapping[BlockName, int]
) -> Prepared | Tensor:
    """What was prepared of a context; the context where there is none, or where a node has changed it since.

    Args:
        condition: what `packed` made, or None.
        context, fps_embedding: as they are now.
        channels: of the keys and values, by block.
    """
    width = context.shape[-1]
    if condition is None or not torch.equal(condition[..., :width], context):
        return context
    parts = condition[..., width:].split([each for each in channels.values() for _ in range(2)], dim=-1)
    keys_values = zip(parts[::2], parts[1::2], strict=True)
    return Prepared(context, dict(zip(channels, keys_values, strict=True)), fps_embedding)


def _run_of(options: dict[str, Any]) -> Any:
    """What tells a sampling run's evaluations of both halves from those of other runs, which have conditions of their
    own; None where the caller does not say."""
    return frozenset(options["uuids"]) if "uuids" in options else None


def _with_front(motion: Tensor, frames: int) -> Tensor:
    """Tokens of each clip's frames [(b f), 2 n, d], with those in front behind them, as the network takes them:
    [(b (f + 1)), n, d]."""
    own, front = motion.unflatten(0, (-1, frames)).chunk(2, dim=2)
    return torch.cat([front[:, :1], own], dim=1).flatten(0, 1)


def _halves_are_alike(*inputs: Tensor | None) -> bool:
    """Whether the guided halves differ in nothing but their context, see core's per_condition."""
    return all(each is None or torch.equal(*each.chunk(2)) for each in inputs)
