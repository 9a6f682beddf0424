"""What a user directs in a base video, without a host: areas that stay, the last frame, things that are dragged, the camera.

Each function here makes a Held of pictures and masks, for `Cascade.sample_base(..., held=)` or a call of the cascade.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .cascade import Cascade
from .errors import InputError, check_range, checked
from .media.given import ImageLike, as_images
from .media.images import video_frame
from .media.warp import Rough
from .sampling.held import LAST_SIGNAL, WEAK_SIGNAL, Held, both, clocks
from .sampling.options import BaseOptions


@checked
def hold_area(cascade: Cascade, image: ImageLike, mask: ImageLike, options: BaseOptions) -> Held:
    """Holds a part of the picture still.

    Args:
        cascade: with a base.
        image: the video's first frame.
        mask: pictures of the image's shape, one for all frames or one for each: white moves, black stays as in the image.
        options: size and frames are read.

    Raises:
        InputError: another number of masks, or a setting or picture that cannot be.
    """
    width, height, frames = cascade.video_size(options)
    masks = video_frame(as_images(mask), width, height).mean(3)
    if len(masks) not in (1, frames):
        raise InputError(
            "mask", f"1 picture, or {frames}", f"{len(masks)}", "Give one for all frames, or one for each."
        )
    return Held(cascade.encode_images(as_images(image)[:1], options).expand(frames, -1, -1, -1), masks)


@checked
def hold_last(
    cascade: Cascade, image: ImageLike, options: BaseOptions, held: Held | None = None, *, until: float = LAST_SIGNAL
) -> Held:
    """Makes the video end in a picture.

    Args:
        cascade: with a base.
        image: the last frame.
        options: size and frames are read.
        held: what is held beside it; where its mask blends, the place is held by signal instead, see Held.
        until: see with_last.

    Raises:
        InputError: a video of one frame, or a setting or picture that cannot be.
    """
    _, _, frames = cascade.video_size(options)
    last = cascade.encode_images(as_images(image)[:1], options)
    if held is None:
        held = Held(torch.zeros_like(last).expand(frames, -1, -1, -1))
    return with_last(held, last, until)


def with_last(held: Held, last: Tensor, until: float = LAST_SIGNAL) -> Held:
    """What is held with the last frame beside it.

    Args:
        held: of two frames or more.
        last: the last frame's latent, unscaled [1, 4, h, w].
        until: share of the signal, 0..1, until which the last frame is held: with 1 it is the picture, but for what the VAE
            loses; below, its last steps fit it to the frames before it.
    """
    check_range("until", until, 0, 1)
    frames = len(held.latent)
    if frames < 2:
        raise InputError("frames", "2 or more for a video with a last frame", f"{frames}", "Make a longer video.")
    mask = torch.ones(1, *last.shape[-2:]) if held.mask is None else held.mask.reshape(-1, *held.mask.shape[-2:])
    mask = mask.expand(frames, -1, -1).clone()
    mask[-1] = torch.minimum(mask[-1], torch.tensor(1 - until).to(mask))
    return Held(torch.cat([held.latent[:-1], last.to(held.latent)]), mask, by_signal=True)


@checked
def follow(
    cascade: Cascade,
    rough: Rough,
    options: BaseOptions,
    held: Held | None = None,
    *,
    weak: float = WEAK_SIGNAL,
    strong: float | None = None,
) -> Held:
    """Makes the video go as a rough animation goes (Time-to-Move, arXiv 2511.08633).

    Args:
        cascade: with a base.
        rough: media.warp's, or pictures and a mask of one's own; cropped to the video's shape.
        options: size and frames are read.
        held: what is held beside it, for as long as it is; its mask says how long, see Held.
        weak, strong: until which share of the signal the animation is held outside and inside its mask, 0..1. Larger follows
            it more; smaller leaves more to the network. Inside, the network's own if None.

    Raises:
        InputError: an animation of another number of frames, or a setting or picture that cannot be.
    """
    width, height, frames = cascade.video_size(options)
    if len(rough.frames) != frames:
        raise InputError("animation", f"{frames} frames", f"{len(rough.frames)}", "Make it as long as the video.")
    strong = cascade.base.release.follow_signal if strong is None else strong
    followed = Held(cascade.encode_images(rough.frames, options), clocks(rough.mask, width, height, weak, strong), True)
    return followed if held is None or held.mask is None else both(followed, held)
