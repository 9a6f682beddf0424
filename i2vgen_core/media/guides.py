"""Pictures that guide a composer or an animator, brought to the form that the networks were trained on.

Both stretch a picture to the video's size, with Pillow's bilinear filter on 8 bits, and do not keep its proportions (VGen and
UniAnimate, utils/transforms.py: Resize).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import kornia
import numpy as np
import torch
from einops import rearrange
from PIL import Image
from torch import Tensor

from ..config import Stem
from ..errors import InputError, check_finite, check_range
from ..releases import RANGES
from .images import CLIP_MEAN, CLIP_STD, check_images

DEPTH_GAIN = 2.0
"""What the nearest place of a clip is given: depth was trained as MiDaS's inverse depth by 20, cut to 0..10."""
_DEPTH = 10.0
_BLOCK = 16
"""Side of what one motion vector of an MPEG-4 video is of."""
_WHEEL = (0, 15, 21, 25, 36, 49, 55)
"""Of 55 directions around, where a flow picture's colours are red, yellow, green, cyan, blue, magenta and red again (Baker
et al., A Database and Evaluation Methodology for Optical Flow)."""


@dataclass(frozen=True)
class Guides:
    """What a composer's video is to follow; None where there is none. Pictures may have any size and length.

    Args:
        image: the first frame, [n, h, w, 3] in 0..1; the first one is read.
        depth: [f, h, w, 3] in 0..1, near places bright.
        sketch: lines of each frame [f, h, w, 3], bright on dark or dark on bright.
        single_sketch: lines of the first frame, [n, h, w, 3]; the first one is read.
        motion: how far each place has moved since the frame before, [f - 1, h, w, 2] in pixels of this size, x and y; or
            pictures of it [f - 1, h, w, 3] in the usual colours.
        masked: a video [f, h, w, 3] of which a part is to be made.
        mask: [f, h, w], 1 where it is to be made; one for all frames, or one for each.
        depth_gain: what the nearest place of the clip is given, 0..10.
        far_is_bright: whether depth's bright places are the far ones.
        fastest: pixels of the video that the strongest colour of motion's pictures stands for.
    """

    image: Tensor | None = None
    depth: Tensor | None = None
    sketch: Tensor | None = None
    single_sketch: Tensor | None = None
    motion: Tensor | None = None
    masked: Tensor | None = None
    mask: Tensor | None = None
    depth_gain: float = DEPTH_GAIN
    far_is_bright: bool = False
    fastest: float = 8.0


def guide_pictures(guides: Guides, width: int, height: int, frames: int) -> tuple[dict[Stem, Tensor], list[str]]:
    """The guides in the form that a composer's stems were trained on, and what was done to them.

    Args:
        guides: see Guides.
        width, height, frames: of the video.

    Returns:
        By the stems' names [1, frames, c, height, width], or one frame where it is that of all; and notes for people.

    Raises:
        InputError: a picture, mask or flow that cannot be, or a video without its mask.
    """
    notes: list[str] = []

    def fit(name: str, images: Tensor) -> Tensor:
        check_images(images, name.replace("_", " "))
        rows, note = _rows(len(images), frames)
        notes.extend(f"{name}: {note}" for _ in range(bool(note)))
        return stretched(images[rows], width, height)

    made: dict[Stem, Tensor] = {}
    if guides.depth is not None:
        made["depth"] = _depth(fit("depth", guides.depth), guides)
    if guides.image is not None:
        check_images(guides.image)
        made["local_image"] = rearrange(stretched(guides.image[:1], width, height), "f h w c -> 1 f c h w")
    if guides.motion is not None:
        made["motion"] = motion_vectors(_flow(guides, width), width, height, frames)
    lines: tuple[tuple[Stem, Tensor | None], ...] = (
        ("sketch", guides.sketch),
        ("single_sketch", None if guides.single_sketch is None else guides.single_sketch[:1]),
    )
    for name, images in lines:
        if images is not None:
            made[name], inverted = bright_lines(fit(name, images))
            notes.extend(f"{name}: dark lines on bright are read the other way round" for _ in range(inverted))
    if (guides.masked is None) != (guides.mask is None):
        found = "the video alone" if guides.mask is None else "the mask alone"
        raise InputError("masked video", "a video with its mask", found, "Give both, or neither.")
    if guides.masked is not None and guides.mask is not None:
        made["masked"] = _masked(guides.masked, guides.mask, width, height, frames)
        if len(guides.masked) < frames:
            notes.append(f"masked video: the frames after its {len(guides.masked)} are to be made whole")
    return made, notes


def bright_lines(images: Tensor) -> tuple[Tensor, bool]:
    """Lines as stems read them, bright on black: images [F, H, W, 3] in 0..1 to [1, F, 1, H, W], and whether they were the
    other way round, as a clip is that is bright in the mean."""
    grey = images.float().mean(dim=-1)
    inverted = bool(grey.mean() > 0.5)
    return (1 - grey if inverted else grey)[None, :, None], inverted


def _depth(images: Tensor, guides: Guides) -> Tensor:
    """Over the whole clip, so that nothing flickers: what is farthest is 0, what is nearest depth_gain."""
    check_range("depth gain", guides.depth_gain, 0, _DEPTH)
    grey = images.mean(dim=-1)
    low, high = grey.aminmax()
    share = (grey - low) / (high - low).clamp(min=1 / 255)
    return (guides.depth_gain * (1 - share if guides.far_is_bright else share))[None, :, None]


def _masked(video: Tensor, mask: Tensor, width: int, height: int, frames: int) -> Tensor:
    """A mask may be of another size, and of one frame; frames that the video has not got are holes."""
    expected = "[frames, height, width] in 0..1, or one frame for all"
    if not isinstance(mask, Tensor) or mask.ndim != 3 or not mask.numel() or not mask.is_floating_point():
        found = str(list(mask.shape)) if isinstance(mask, Tensor) else type(mask).__name__
        raise InputError("the mask", expected, found, "Wire in a MASK.")
    check_finite("the mask", mask, "Look at the block that it comes from.")
    check_images(video, "the masked video")
    there = min(len(video), frames)
    if len(mask) not in (1, len(video)) and len(mask) < there:
        raise InputError(
            "the mask", f"one frame, or {len(video)} as the video", f"{len(mask)}", "Give one for each frame."
        )
    kept = stretched(video[:there], width, height)
    holes = kornia.geometry.transform.resize(mask[:there, None].float(), (height, width))[:, 0].round().clamp(0, 1)
    missing = kept.new_zeros(frames - there, height, width, 3)
    holes = torch.cat([holes.expand(there, -1, -1), torch.ones_like(missing[..., 0])])
    return masked_video(torch.cat([kept, missing]), holes)


def motion_vectors(flow: Tensor, width: int, height: int, frames: int) -> Tensor:
    """Motion as a composer reads it: that of blocks, as in MPEG-4, each at its block's middle, and zeros elsewhere and in
    the first frame (VideoComposer, datasets.py: extract_motion_vectors).

    Args:
        flow: [n, h, w, 2], x and y that places have moved since the frame before, in pixels of this size.
        width, height, frames: of the video; where there is less flow, the rest stands still.

    Returns:
        [1, frames, 2, height, width] in pixels.

    Raises:
        InputError: not such a tensor.
    """
    if not isinstance(flow, Tensor) or flow.ndim != 4 or flow.shape[-1] != 2 or not flow.numel():
        found = str(list(flow.shape)) if isinstance(flow, Tensor) else type(flow).__name__
        remedy = "Wire in optical flow, one frame fewer than the video, or pictures of it."
        raise InputError("motion", "[frames - 1, height, width, 2]", found, remedy)
    check_finite("motion", flow, "Look at the block that it comes from.")
    flow = rearrange(flow[: frames - 1].float(), "f h w c -> f c h w")
    flow = flow * flow.new_tensor([width / flow.shape[3], height / flow.shape[2]]).view(1, 2, 1, 1)
    blocks = torch.nn.functional.adaptive_avg_pool2d(flow, (math.ceil(height / _BLOCK), math.ceil(width / _BLOCK)))
    made = flow.new_zeros(1, frames, 2, height, width)
    down, across = (torch.arange(count) * _BLOCK + _BLOCK // 2 for count in blocks.shape[2:])
    inside = (down < height).nonzero()[:, 0], (across < width).nonzero()[:, 0]
    blocks = blocks[:, :, inside[0]][:, :, :, inside[1]]
    made[0, 1 : 1 + len(blocks), :, down[inside[0], None], across[inside[1]]] = blocks
    return made


def flow_of_pictures(images: Tensor, fastest: float) -> Tensor:
    """Flow [F, H, W, 2] of its pictures [F, H, W, 3] in 0..1: colours say the direction, and their strength, on white or on
    black, the length, of which the strongest of the clip stands for `fastest` pixels."""
    check_images(images, "motion")
    images = images.float().clamp(0, 1)
    strength = images.amax(dim=-1) - images.amin(dim=-1)
    hue = kornia.color.rgb_to_hsv(rearrange(images, "f h w c -> f c h w"))[:, 0] / (2 * math.pi) * 6
    corners = hue.new_tensor(_WHEEL)
    below = hue.floor().clamp(0, 5).long()
    place = corners[below] + (hue - below) * (corners[below + 1] - corners[below])
    angle = math.pi * (2 * place / (_WHEEL[-1] - 1) - 1)
    length = strength * fastest / strength.amax().clamp(min=1 / 255)
    return torch.stack([-length * angle.cos(), -length * angle.sin()], dim=-1)


def _flow(guides: Guides, width: int) -> Tensor:
    motion = guides.motion
    if not isinstance(motion, Tensor) or motion.ndim != 4 or motion.shape[-1] != 3:
        return motion  # type: ignore[return-value]  # motion_vectors looks at it
    check_range("fastest motion", guides.fastest, 0, RANGES["width"][1])
    return flow_of_pictures(motion, guides.fastest * motion.shape[2] / width)


def _rows(available: int, frames: int) -> tuple[list[int], str]:
    """Which pictures the frames take, one where it is that of all, and what is to be said of it."""
    if available in (1, frames):
        return list(range(available)), ""
    if available > frames:
        return list(range(frames)), f"the first {frames} of {available} are read"
    note = f"the last of {available} stands for the frames that are missing to {frames}"
    return [min(frame, available - 1) for frame in range(frames)], note


def stretched(images: Tensor, width: int, height: int) -> Tensor:
    """Images [N, H, W, 3] in 0..1 to [N, height, width, 3] float32, in steps of 1/255, whatever their proportions.

    Raises:
        InputError: images is not such a tensor.
    """
    check_images(images)
    levels = (images.float().clamp(0, 1) * 255).round().byte().cpu().numpy()
    made = [np.asarray(Image.fromarray(each).resize((width, height), Image.Resampling.BILINEAR)) for each in levels]
    return torch.from_numpy(np.stack(made)).to(images.device).float() / 255


def stretched_clip_pixels(images: Tensor, size: int = 224) -> Tensor:
    """What CLIP sees of images [N, H, W, 3] in 0..1: stretched to a square, with CLIP's mean and standard deviation,
    [N, 3, size, size]. A composer's picture was stretched to the video's size before; an animator's was not."""
    pixels = rearrange(stretched(images, size, size), "n h w c -> n c h w")
    return kornia.enhance.normalize(pixels, pixels.new_tensor(CLIP_MEAN), pixels.new_tensor(CLIP_STD))


def masked_video(video: Tensor, holes: Tensor) -> Tensor:
    """A video with holes as a composer reads it (VGen, inference_tft2v_vcomposer_entrance.py: make_masked_images).

    Args:
        video: [F, H, W, 3] in 0..1.
        holes: [F, H, W] or [1, H, W], 1 where the picture is to be made, 0 where it is kept.

    Returns:
        [1, F, 4, H, W]: the colours in -1..1, grey in the holes, and 1 where they are kept.

    Raises:
        InputError: not such tensors, or not of one size.
    """
    check_images(video, "the video")
    if holes.ndim != 3 or holes.shape[0] not in (1, len(video)) or holes.shape[1:] != video.shape[1:3]:
        expected = f"[{len(video)} or 1, {video.shape[1]}, {video.shape[2]}]"
        raise InputError("the mask", expected, str(list(holes.shape)), "Give a mask of the video's size.")
    kept = (1 - holes.float()).expand(len(video), -1, -1)[:, None]
    colours = rearrange(video.float(), "f h w c -> f c h w") * 2 - 1
    return torch.cat([colours * kept, kept], dim=1)[None]


def pose_frames(available: int, frames: int, interval: int = 1) -> list[int | None]:
    """Which poses of a driving video an animated video takes: every `interval`-th from the first. Where there are too few,
    the interval is what fits, at least 1; None are those still missing, which are black (UniAnimate,
    inference_unianimate_entrance.py: load_video_frames).

    Args:
        available: poses, 1 or more.
        frames: of the animated video, 1 or more.
        interval: 1 or more.
    """
    if min(available, frames, interval) < 1:
        found = f"{available} poses, {frames} frames, interval {interval}"
        raise InputError(
            "poses", "one or more poses, frames and frames to a pose", found, "Wire the poses' pictures in."
        )
    if interval * (frames - 1) + 1 > available:
        interval = max((available - 1) // max(frames - 1, 1), 1)
    return [frame if frame < available else None for frame in range(0, interval * frames, interval)]
