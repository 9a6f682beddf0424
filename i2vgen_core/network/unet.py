"""The video network of every stage: a Stable Diffusion UNet with convolutions and attention over time (UNetSD).

One class for the whole family. The bases read the frame rate and the CLIP image embedding, I2VGen-XL's also the image
latent; the refiners read text alone and pad their heights in their own way (VGen, unet_i2vgen.py and unet_sr600.py;
ModelScope, unet_i2v.py and unet_v2v.py); some have a control branch (control.py). Text to video has the backbone alone (VGen, unet_t2v.py); the composers and the
animators read pictures through stems (stems.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import Kind, UNetConfig
from .backbone import block_parts, time_embedding, way_down
from .blocks import (
    Block,
    Downsample,
    FreeU,
    Layers,
    OutputBlock,
    SpatialTransformer,
    Upsample,
    per_condition,
    sinusoidal_embedding,
)
from .control import ControlBranch, Hint
from .cpu import cpu_operators
from .evaluation import Evaluation, Prepared
from .hooks import BlockHooks, BlockName, Hooks
from .image_conditioning import DetailConvolutions, DetailEncoder, DetailTransformer, ImageProjection
from .pose import MotionResampler, PointEncoder, PosedTransformer
from .stems import Stems, add_stems

_FREE_U: dict[Kind, tuple[FreeU, ...]] = {"sr600": (FreeU(1.1, 0.6), FreeU(1.2, 0.4))}
"""By release, of the first blocks on the way up (VGen, unet_sr600.py)."""


class UNet(nn.Module):
    """Predicts the velocity of a noisy video latent.

    Args:
        config: the network's sizes.
        operations: namespace of layer classes, `torch.nn` or the host's.
        dtype: type of the weights.
        device: where the weights are made; `meta` makes none.

    Attributes:
        checkpointing: for training in less memory: the blocks keep their inputs alone, and run again for gradients.
    """

    checkpointing = False

    def __init__(
        self,
        config: UNetConfig,
        operations: Any = nn,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ):
        super().__init__()
        self.config = config
        layers = Layers(operations, dtype, device)
        embedding = 4 * config.model_channels
        self.time_embed = time_embedding(config, layers)
        if config.reads_image:
            self.context_embedding = ImageProjection(config, embedding, layers)
            self.fps_embedding = time_embedding(config, layers)
        if config.reads_image_beside_text:
            self.pre_image_condition = ImageProjection(config, config.context_dim, layers)
        if config.reads_details:
            self.local_image_concat = DetailConvolutions(config.in_channels, layers)
            self.local_temporal_encoder = DetailTransformer(config.in_channels, layers)
        add_stems(self, config, layers)
        if config.poses is not None:
            self.pose_embedding_before = PointEncoder(config.poses, config.image_tokens, layers)
            self.pose_embedding_after = MotionResampler(config, config.poses, layers)
        self._build_backbone(layers)
        if config.control is not None:
            self.VideoControlNet = ControlBranch(config, config.control, layers)
        blocks = [block for block in self.modules() if isinstance(block, Block)]
        self.spatial_transformers = [
            part for block in blocks for part in block.children() if isinstance(part, SpatialTransformer)
        ]

    def _build_backbone(self, layers: Layers) -> None:
        config = self.config
        levels = list(zip(config.channel_mult, config.attention_levels, strict=True))
        self.input_blocks, self.middle_block, skips = way_down(config, layers, "input")
        channels = skips[-1]
        self.output_blocks = nn.ModuleList()
        free_u = dict(enumerate(_FREE_U.get(config.kind, ())))
        for level, (multiplier, attention) in reversed(list(enumerate(levels))):
            for number in range(config.num_res_blocks + 1):
                outputs = config.model_channels * multiplier
                name = BlockName("output", len(self.output_blocks))
                made = block_parts(config, name, channels + skips.pop(), outputs, attention, layers)
                channels = outputs
                if level > 0 and number == config.num_res_blocks:
                    made.append(Upsample(channels, config.is_refiner, layers))
                self.output_blocks.append(OutputBlock(name, made, free_u.get(name.number)))

        self.out = nn.Sequential(layers.group_norm(channels), nn.SiLU(), layers.conv3x3(channels, config.out_channels))

    @property
    def detail_encoder(self) -> DetailEncoder:
        """The detail path of an `i2vgen_xl` base, to be run before sampling."""
        return DetailEncoder(self.local_image_concat, self.local_temporal_encoder, self.config.detail_gain)

    @property
    def stems(self) -> Stems:
        """What reads pictures, to be run before sampling."""
        return Stems(self, self.config)

    def prepare(
        self,
        context: Tensor,
        fps: Tensor | None = None,
        details: Tensor | None = None,
        in_front: Tensor | None = None,
    ) -> Prepared:
        """What the network makes of the conditions at every step alike, for forward's `context`; arguments as there and in
        Prepared."""
        with cpu_operators(context):
            keys_values = {each.block: each.keys_values(context) for each in self.spatial_transformers}
            rate = None if fps is None else self.fps_embedding(self._sinusoidal(fps, context.dtype))
        return Prepared(context, keys_values, rate, details, in_front)

    def prepare_poses(self, points: Tensor, pictures: Tensor) -> Prepared:
        """What a network with poses makes of a driving video (`animate_x`), for Prepared's `poses`.

        Args:
            points: [b, f, 2, n] of the video's f frames, that in front among them; see PointEncoder.
            pictures: CLIP embeddings of the frames, [(b f), 1, image_dim].
        """
        return self.pose_keys_values(self.pose_tokens(points, pictures))

    def pose_tokens(self, points: Tensor, pictures: Tensor) -> Tensor:
        """The tokens that each frame has to itself [(b f), n, context_dim]; arguments as in prepare_poses."""
        return self.pose_embedding_after(self.pose_embedding_before(points), pictures)

    def pose_keys_values(self, tokens: Tensor) -> Prepared:
        """What the network makes of pose_tokens at every step alike."""
        attentions = [each.pose_attention for each in self.spatial_transformers if isinstance(each, PosedTransformer)]
        return Prepared(tokens, {each.block: each.keys_values(tokens) for each in attentions})

    def forward(
        self,
        x: Tensor,
        timesteps: Tensor,
        context: Tensor | Prepared,
        frames: int,
        fps: Tensor | None = None,
        details: Tensor | None = None,
        hooks: Hooks | None = None,
        hint: Hint | None = None,
    ) -> Tensor:
        """One evaluation.

        Args:
            x: noisy scaled latent of v videos [(v f), 4, h, w], any size.
            timesteps: [v], 0..999.
            context: [b, n, context_dim]. Text, global and CLIP image tokens in this order for `i2vgen_xl`, CLIP image
                tokens for `image2video`, text tokens for the refiners and text to video, text and then CLIP image tokens,
                where there are any, for composers and animators. Or what `prepare` made of them and `fps` before
                the first step. b is v, or a multiple of it: several conditions of the same videos, all of the first
                condition first.
            frames: f, 1 or more.
            fps: [b], the motion's frame rate (bases), the same in all conditions of a video.
            details: features beside the noise [(v f), c, h, w], the same in all conditions of a video: the detail encoder's
                (`i2vgen_xl`), or the stems'; zeros if None, where there are none.
            hooks: what is to run otherwise than in the paper; its attention is used for every layer.
            hint: what a control branch reads, the same in all conditions of a video; none of it if None, with which the branch
                still runs.

        Returns:
            The velocity [(b f), 4, h, w].
        """
        with cpu_operators(x):
            prepared = self.prepare(context, fps) if isinstance(context, Tensor) else context
            hooks = hooks or Hooks()
            embedding = hooks.blocks.embed(self._embed(timesteps, prepared, x.dtype))
            x = self._with_features(x, details, prepared, frames)
            before = int(self.config.reads_reference)
            evaluation = Evaluation(embedding, before + frames, prepared, hooks, self.checkpointing)
            velocity = self._velocity(x, timesteps, hint or Hint(), evaluation)
            return velocity.unflatten(0, (-1, before + frames))[:, before:].flatten(0, 1) if before else velocity

    def _with_features(self, x: Tensor, details: Tensor | None, prepared: Prepared, frames: int) -> Tensor:
        """What the first convolution reads: the noisy latent with the features beside it, and the frame in front of each
        video where the network has one."""
        config = self.config
        if prepared.details is not None or config.reads_reference:  # a video's conditions differ in them
            x = per_condition(x, len(prepared.context) * frames // len(x))
            details = prepared.details
        if details is None and config.concat_channels:
            details = x.new_zeros(len(x), config.concat_channels, *x.shape[-2:])
        if details is not None:
            x = torch.cat([x, details], dim=1)
        if config.reads_reference:
            videos = x.unflatten(0, (-1, frames))
            reference = torch.zeros_like(videos[:, 0]) if prepared.in_front is None else prepared.in_front
            x = torch.cat([reference[:, None], videos], dim=1).flatten(0, 1)
        return x

    def _velocity(self, x: Tensor, timesteps: Tensor, hint: Hint, evaluation: Evaluation) -> Tensor:
        height, width = x.shape[-2:]
        if self.config.is_refiner:
            x = self._pad_to_fit(x)
        x = x.contiguous(memory_format=torch.channels_last)

        first, *down = cast("list[Block | Downsample]", list(self.input_blocks))
        *up, last = cast("list[OutputBlock]", list(self.output_blocks))
        hooks = evaluation.hooks.blocks
        control: Iterator[Tensor] = iter(())
        if self.config.control is not None:
            control = self.VideoControlNet.features(x, timesteps, hint, evaluation)
        skips = [_through(first, x, evaluation)]
        deep = hooks.recall()
        if deep is None:
            deep = self._between(down, up, skips, control, evaluation)
            hooks.keep(deep)
        else:
            skips[0] = _handed_up(first.name, skips[0], control, hooks)
        x = last.join(deep, skips, hooks)
        del deep  # it is in x now: memory's peak is up here
        x = _through(last, x, evaluation)
        return self.out(x)[..., :height, :width]

    def _between(
        self,
        down: list[Block | Downsample],
        up: list[OutputBlock],
        skips: list[Tensor],
        control: Iterator[Tensor],
        evaluation: Evaluation,
    ) -> Tensor:
        """All blocks but the first and the last, on what the first made, the only one of the skips; it is left there."""
        hooks = evaluation.hooks.blocks
        x = skips[-1]
        for block in down:
            x = _through(block, x, evaluation)
            skips.append(x)
        x = _through(self.middle_block, x, evaluation)
        for number, name in enumerate([BlockName("input", 0), *(block.name for block in down)]):
            skips[number] = _handed_up(name, skips[number], control, hooks)
        x = _handed_up(self.middle_block.name, x, control, hooks)
        for block in up:
            x = block.join(x, skips, hooks)
            x = _through(block, x, evaluation.towards(skips[-1]))
        return x

    def _embed(self, timesteps: Tensor, prepared: Prepared, dtype: torch.dtype) -> Tensor:
        """The time embedding [b, e], with the frame rate's in the bases."""
        embedding = self.time_embed(self._sinusoidal(timesteps, dtype))
        embedding = per_condition(embedding, len(prepared.context) // len(embedding))
        return embedding if prepared.fps is None else embedding + prepared.fps

    def _sinusoidal(self, numbers: Tensor, dtype: torch.dtype) -> Tensor:
        return sinusoidal_embedding(numbers, self.config.model_channels).to(dtype)

    def _pad_to_fit(self, x: Tensor) -> Tensor:
        """Repeats the last row and column up to the next size that the refiners' padding brings back exactly: a height
        of 2 more, and a width of 0 more, than a multiple of what the levels halve in all."""
        multiple = 2 ** (len(self.config.channel_mult) - 1)
        height, width = x.shape[-2:]
        return F.pad(x, (0, -width % multiple, 0, (2 - height) % multiple), mode="replicate")


def _handed_up(name: BlockName, x: Tensor, control: Iterator[Tensor], hooks: BlockHooks) -> Tensor:
    """A block's features as the way up meets them; `control` gives what is added, as many times as there are blocks."""
    added = next(control, None)
    return hooks.hand_up(name, x if added is None else x + added)


def _through(block: Block | Downsample, x: Tensor, evaluation: Evaluation) -> Tensor:
    hooks = evaluation.hooks.blocks
    return hooks.leave(block.name, block(hooks.enter(block.name, x), evaluation))
