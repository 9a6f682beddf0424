"""The stems: how pictures of a video reach a composer or an animator, made once a video and before sampling.

A stem is three convolutions that bring a picture to the latent's size, and a small transformer over the frames. What the
stems make of a video's pictures is summed and stands beside the noise (VGen, unet_tf2tv.py and unet_videolcm.py). A picture
that is absent adds nothing; one of zeros does. An animator has two more stems for the reference and its pose: their sum is a
frame of its own, in front of the video (UniAnimate, unet_unianimate.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ..config import Stem, UNetConfig
from ..errors import InputError
from .blocks import Layers, at_once
from .image_conditioning import DetailTransformer


@dataclass(frozen=True)
class StemKind:
    """What a stem reads and where it goes.

    Args:
        convolutions, transformer: its modules' names in the release.
        channels: of the picture.
        in_front: whether it goes into the frame in front of the video, not beside the noise.
        latent: whether it reads a latent, whose size it keeps, not pixels.
    """

    convolutions: str
    transformer: str
    channels: int
    in_front: bool = False
    latent: bool = False


STEMS: dict[Stem, StemKind] = {
    "depth": StemKind("depth_embedding", "depth_embedding_after", 1),
    "local_image": StemKind("local_image_embedding", "local_image_embedding_after", 3),
    "motion": StemKind("motion_embedding", "motion_embedding_after", 2),
    "sketch": StemKind("sketch_embedding", "sketch_embedding_after", 1),
    "single_sketch": StemKind("single_sketch_embedding", "single_sketch_embedding_after", 1),
    "masked": StemKind("masked_embedding", "mask_embedding_after", 4),
    "pose": StemKind("dwpose_embedding", "dwpose_embedding_after", 3),
    "reference": StemKind("randomref_embedding2", "randomref_embedding_after2", 4, in_front=True, latent=True),
    "reference_pose": StemKind("randomref_pose2_embedding", "randomref_pose2_embedding_after", 3, in_front=True),
}
"""All stems of the family, in the order in which their features are summed."""


class PixelConvolutions(nn.Sequential):
    """Pictures of any size to features of the latent's size: a mean over what falls together, then two halvings."""

    def __init__(self, channels: int, hidden: int, outputs: int, layers: Layers):
        super().__init__(
            layers.conv3x3(channels, hidden),
            nn.SiLU(),
            nn.Identity(),  # the mean, whose size is the video's and no weight
            layers.conv3x3(hidden, hidden, stride=2),
            nn.SiLU(),
            layers.conv3x3(hidden, outputs, stride=2),
        )

    def forward(self, pictures: Tensor, height: int, width: int) -> Tensor:  # type: ignore[override]
        """Pictures [n, channels, H, W] to features [n, outputs, height, width]."""
        first, activation, _, *rest = self
        x = F.adaptive_avg_pool2d(activation(first(pictures)), (4 * height, 4 * width))
        for part in rest:
            x = part(x)
        return x


class LatentConvolutions(nn.Sequential):
    """A latent to features of its size."""

    def __init__(self, channels: int, hidden: int, outputs: int, layers: Layers):
        super().__init__(
            layers.conv3x3(channels, hidden),
            nn.SiLU(),
            layers.conv3x3(hidden, hidden),
            nn.SiLU(),
            layers.conv3x3(hidden, outputs),
        )

    def forward(self, latent: Tensor, height: int, width: int) -> Tensor:  # type: ignore[override]
        """Scaled latent [n, channels, height, width] to features [n, outputs, height, width]."""
        return super().forward(latent)


def add_stems(network: nn.Module, config: UNetConfig, layers: Layers) -> None:
    """Gives a network its stems, under the names that the release has for their modules."""
    for name in config.stems:
        kind = STEMS[name]
        outputs = config.concat_channels + (config.in_channels if kind.in_front else 0)
        convolutions = LatentConvolutions if kind.latent else PixelConvolutions
        channels = config.in_channels if kind.latent else kind.channels
        network.add_module(kind.convolutions, convolutions(channels, 4 * config.concat_channels, outputs, layers))
        network.add_module(kind.transformer, DetailTransformer(outputs, layers))


@dataclass(frozen=True)
class StemView:
    """One stem of a network: a view on two of its modules."""

    convolutions: nn.Module
    transformer: nn.Module

    def __call__(self, pictures: Tensor, height: int, width: int) -> Tensor:
        """Pictures [b, f, c, H, W] to features [b, f, outputs, height, width], each video's frames seen together."""
        frames = pictures.flatten(0, 1)
        parts = [self.convolutions(part, height, width) for part in frames.split(at_once(frames[0], len(frames)))]
        y = rearrange(torch.cat(parts), "(b f) c h w -> (b h w) f c", b=len(pictures))
        return rearrange(self.transformer(y), "(b h w) f c -> b f c h w", h=height, w=width)


@dataclass(frozen=True)
class Stems:
    """The stems of one network: a view on its modules, for what is to be made before sampling."""

    network: nn.Module
    config: UNetConfig

    def __getitem__(self, name: Stem) -> StemView:
        if name not in self.config.stems:
            remedy = f"It reads {', '.join(self.config.stems) or 'none'}."
            raise InputError("picture", f"one that {self.config.kind} reads", str(name)[:40], remedy)
        kind = STEMS[name]
        return StemView(getattr(self.network, kind.convolutions), getattr(self.network, kind.transformer))

    def beside_noise(self, pictures: Mapping[Stem, Tensor], frames: int, height: int, width: int) -> Tensor | None:
        """What the pictures put beside the noise.

        Args:
            pictures: those that there are, by their stems, each [b, frames, c, H, W], or [b, 1, c, H, W] where all frames
                have the same. depth [0, 10]; sketch and single_sketch 0..1, bright lines on black; motion in pixels; masked
                -1..1 times the mask, then the mask, 1 where the picture is kept; local_image and pose 0..1.
            frames, height, width: of the latent.

        Returns:
            Features [(b frames), concat_channels, height, width]; None without pictures, which is the same as zeros.

        Raises:
            InputError: a picture that the network does not read, or of another form.
        """
        named = [name for name in STEMS if name in pictures] + [name for name in pictures if name not in STEMS]
        features = [self._features(name, pictures[name], frames, height, width) for name in named]
        if not features:
            return None
        total = sum(features[1:], start=features[0])
        return total.expand(-1, frames, -1, -1, -1).flatten(0, 1)

    def in_front(self, latent: Tensor, pose: Tensor) -> Tensor:
        """The frame in front of the video.

        Args:
            latent: the reference's, scaled, [b, 4, h, w].
            pose: the reference's, in 0..1, [b, 3, H, W].

        Returns:
            Features [b, in_channels + concat_channels, h, w].
        """
        size = latent.shape[-2:]
        return (self["reference"](latent[:, None], *size) + self["reference_pose"](pose[:, None], *size))[:, 0]

    def _features(self, name: Stem, pictures: Tensor, frames: int, height: int, width: int) -> Tensor:
        stem = self[name]
        channels = STEMS[name].channels
        if pictures.ndim != 5 or pictures.shape[1] not in (1, frames) or pictures.shape[2] != channels:
            expected = f"[videos, {frames} frames or 1, {channels} channels, height, width]"
            raise InputError(f"{name} pictures", expected, str(list(pictures.shape)), "Give as many as frames, or one.")
        return stem(pictures, height, width)
