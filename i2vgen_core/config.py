"""What each network of the family is: its kind and its sizes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal[
    "i2vgen_xl",
    "image2video",
    "vid2vid_xl",
    "sr600",
    "text2video",
    "tft2v_t2v",
    "videolcm_t2v",
    "tft2v_composer",
    "videolcm_composer",
    "unianimate",
    "animate_x",
    "star",
    "venhancer",
]
DetailGain = Literal["official", "once"]
BASES: tuple[Kind, ...] = ("i2vgen_xl", "image2video")
REFINERS: tuple[Kind, ...] = ("vid2vid_xl", "sr600")
"""Those without a control branch, which have the same tensors."""
HINTED: tuple[Kind, ...] = ("star", "venhancer")
"""Refiners with a control branch, which reads the video that they start from."""
TEXT_TO_VIDEO: tuple[Kind, ...] = ("text2video", "tft2v_t2v", "videolcm_t2v")
COMPOSERS: tuple[Kind, ...] = ("tft2v_composer", "videolcm_composer")
"""What pictures guide: a sketch, depth, motion, a masked video or a first frame."""
ANIMATORS: tuple[Kind, ...] = ("unianimate", "animate_x")
"""What moves a person's picture as poses say."""

FIRST_STAGES: tuple[Kind, ...] = (*BASES, *TEXT_TO_VIDEO, *COMPOSERS, *ANIMATORS)
"""What makes a video that a refiner can refine."""

Stem = Literal[
    "depth", "local_image", "motion", "sketch", "single_sketch", "masked", "pose", "reference", "reference_pose"
]
"""Pictures that a network may read, each through a stem of its own (network/stems.py), in the order of their sum."""

COMPOSER_STEMS: tuple[Stem, ...] = ("depth", "local_image", "motion", "sketch", "single_sketch", "masked")
ANIMATOR_STEMS: tuple[Stem, ...] = ("local_image", "pose", "reference", "reference_pose")

VAE_SCALE = 0.18215
"""Latents are multiplied by this before a network sees them (VGen, configs: scale_factor)."""

VAE_CHANNELS = 4
"""Channels of the latents."""
VAE_STEP = 8
"""Pixels of a frame's side to one place of its latent."""

TEXT_TOKENS, GLOBAL_TOKENS, IMAGE_TOKENS = 77, 64, 4
"""Context tokens of the prompt (CLIP's length; the official code cuts a longer one), of the global encoder (8x8 places), and
of the CLIP image embedding."""

TIMESTEPS = 1000
"""Noise levels of every release's training schedule."""


@dataclass(frozen=True)
class PoseConfig:
    """Sizes of what reads a driving video's body points (`animate_x`).

    Args:
        width: of a frame's features.
        hidden: width between a layer's two linear ones.
        layers: over the frames.
        points: of a body, with an x and a y each.
        resampler_width: of the queries of the layers that read the driving picture.
        resampler_layers: how many there are.
    """

    width: int = 1024
    hidden: int = 1024
    layers: int = 3
    points: int = 18
    resampler_width: int = 1024
    resampler_layers: int = 8


@dataclass(frozen=True)
class ControlConfig:
    """What a refiner's control branch reads.

    Args:
        hint_channels: of the latents.
        key_frames: whether the latents are those of key frames, told with their noise level and a scale (`venhancer`); else
            of all frames.
    """

    hint_channels: int = 4
    key_frames: bool = False


@dataclass(frozen=True)
class UNetConfig:
    """Sizes of one network of the UNetSD family.

    Args:
        kind: which release it belongs to; decides the conditions it reads and how it pads.
        in_channels: channels of the latent (the concat of `i2vgen_xl` has as many again).
        out_channels: channels of the prediction.
        model_channels: channels of the first level; the time embedding has four times as many.
        channel_mult: channels of each level in units of `model_channels`; every level but the last halves the size.
        attention_levels: per level, whether its blocks have a spatial and a temporal transformer.
        num_res_blocks: blocks of a level on the way down (one more on the way up).
        head_dim: width of an attention head. Leaves no trace in a state dict's shapes; 64 in every release.
        first_temporal_heads: heads of the temporal transformer right after the first convolution.
        context_dim: width of the context tokens.
        image_dim: width of the CLIP image embedding, where it is read.
        image_tokens: tokens that the CLIP image embedding becomes.
        detail_gain: `official` adds the detail features twice, as the released weights were trained; `once` is for
            weights trained against the diffusers port (`i2vgen_xl`).
        concat_channels: channels beside the noise that the stems fill, zeros where no picture does.
        stems: the pictures that it can read.
        poses: sizes of what reads body points; None where nothing does.
        gated: whether gates stand before attention to itself (`star`).
        control: what the control branch reads; None where there is none.
    """

    kind: Kind = "i2vgen_xl"
    in_channels: int = 4
    out_channels: int = 4
    model_channels: int = 320
    channel_mult: tuple[int, ...] = (1, 2, 4, 4)
    attention_levels: tuple[bool, ...] = (True, True, True, False)
    num_res_blocks: int = 2
    head_dim: int = 64
    first_temporal_heads: int = 8
    context_dim: int = 1024
    image_dim: int = 1024
    image_tokens: int = IMAGE_TOKENS
    detail_gain: DetailGain = "official"
    concat_channels: int = 0
    stems: tuple[Stem, ...] = ()
    poses: PoseConfig | None = None
    gated: bool = False
    control: ControlConfig | None = None

    @property
    def reads_image(self) -> bool:
        """Whether it is conditioned on the CLIP image embedding and the frame rate."""
        return self.kind in BASES

    @property
    def reads_image_beside_text(self) -> bool:
        """Whether it is conditioned on the CLIP image embedding through a projection of its own, without a frame rate."""
        return self.kind == "tft2v_t2v" or bool(self.stems)

    @property
    def reads_reference(self) -> bool:
        """Whether every video has one more frame in front, which holds the reference and is dropped from what is made."""
        return "reference" in self.stems

    @property
    def reads_details(self) -> bool:
        """Whether the image latent reaches it, as global tokens and as detail features beside the noise."""
        return self.kind == "i2vgen_xl"

    @property
    def is_refiner(self) -> bool:
        """Whether it is a second stage: text alone, and the refiners' own padding."""
        return self.kind in REFINERS + HINTED

    @property
    def input_channels(self) -> int:
        """Channels of the first convolution: the noisy latent's, and those beside it."""
        return self.in_channels + (self.in_channels if self.reads_details else self.concat_channels)


def released_config(kind: Kind) -> UNetConfig:
    """The sizes that a kind was released in."""
    stems = COMPOSER_STEMS if kind in COMPOSERS else ANIMATOR_STEMS if kind in ANIMATORS else ()
    concat_channels = 8 if stems or kind in ("tft2v_t2v", "videolcm_t2v") else 0
    poses = PoseConfig() if kind == "animate_x" else None
    control = ControlConfig(key_frames=kind == "venhancer") if kind in HINTED else None
    return UNetConfig(
        kind=kind, concat_channels=concat_channels, stems=stems, poses=poses, gated=kind == "star", control=control
    )
