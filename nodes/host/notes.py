"""What a block leaves out of its inputs, said below it and in the log."""

from __future__ import annotations

import logging
from typing import Any

from torch import Tensor

from ...i2vgen_core.config import TEXT_TOKENS
from ...i2vgen_core.media.images import video_frame
from ...i2vgen_core.media.world import looks_drawn
from ...i2vgen_core.releases import Release
from . import compat

logger = logging.getLogger("i2vgen_xl")

_FAR = 9.0
"""Times as many pixels, or as few, from which on a size is said to be far from a network's own: 448x256 is not yet."""

CROPPED = "i2vgen_xl_width"
"""Where a conditioning's view of a picture says at what width of a video it was cropped."""

_ENLARGED = 1.25
"""From here on an enlarged picture is said to be small for its frame."""


def write_notes(notes: list[str], warn: bool = True) -> None:
    """Writes notes below the block that runs now, and into the log where they warn."""
    for note in notes if warn else []:
        logger.warning(note)
    if notes:
        compat.progress_text("\n".join(notes))


def image_notes(image: Tensor) -> list[str]:
    """A note on pictures [n, h, w, 3] of which only the first is read."""
    return [f"image: the first of {len(image)} is read"] if len(image) > 1 else []


def frame_notes(release: Release, built_in: bool, image: Tensor, width: int, height: int) -> list[str]:
    """One note at most on a base's picture and size, of all there might be the gravest.

    Args:
        release: of the base.
        built_in: whether it is the built-in one, which knows its own world alone.
        image: [n, h, w, 3] in 0..1; of the first.
        width: of the video in pixels.
        height: likewise.
    """
    far = size_notes(release, width, height)
    strange = [f"{width}x{height} pixels"] if far and built_in else []
    if built_in and not looks_drawn(video_frame(image[:1], release.width, release.height)[0]):
        strange.append("such a picture")
    if strange:
        own, remedy = f"{release.width}x{release.height}", "For that, choose the released files in the loader."
        return [f"The built-in cascade knows drawn shapes at {own}, not {' nor '.join(strange)}. {remedy}"]
    return far or _enlarged(image, width, height)


def _enlarged(image: Tensor, width: int, height: int) -> list[str]:
    down, across = image.shape[1:3]
    scale = max(width / across, height / down)
    if scale <= _ENLARGED:
        return []
    frame = f"a frame of {width}x{height}"
    return [f"image: {across}x{down} pixels are enlarged {scale:.1f} times for {frame}, and stay soft"]


def width_notes(conditioning: Any, width: int) -> list[str]:
    """A note where CLIP Encode has cropped the picture for another width, in pixels, than the video has."""
    cropped = {seen.get(CROPPED, width) for _, extra in conditioning for seen in extra.get("unclip_conditioning", ())}
    others = sorted(cropped - {width})
    return [f"width: {each} in CLIP Encode, {width} here; make the two equal" for each in others]


def size_notes(release: Release, width: int, height: int) -> list[str]:
    """Notes on a video's size in pixels, where it is far from the size that a network was trained at."""
    share = width * height / (release.width * release.height)
    if 1 / _FAR < share < _FAR:
        return []
    return [f"size: {release.title} is made for {release.width}x{release.height}, and {width}x{height} is far from it"]


def text_notes(title: str, suffix: str = "", **conditionings: Any) -> list[str]:
    """Notes on CONDITIONINGs by their names, whose tokens past the first 77 a network does not read.

    Args:
        title: the network's name.
        suffix: what its release adds to every positive prompt. A short prompt with it has two chunks of 77, of which the
            official code reads no more either: whose words are cut is said, since nobody can mend it.
        conditionings: CONDITIONINGs.
    """
    lengths = {
        name: max((text.shape[1] for text, _ in conditioning if text is not None and text.ndim == 3), default=0)
        for name, conditioning in conditionings.items()
    }
    own = "; of a short prompt it leaves out the end of the release's own suffix alone" if suffix else ""
    return [
        f"{name}: {title} reads the first {TEXT_TOKENS} of {length} tokens"
        f"{own if name == 'positive' and length == 2 * TEXT_TOKENS else ''}"
        for name, length in lengths.items()
        if length > TEXT_TOKENS
    ]


def latent_notes(latent: dict[str, Any]) -> list[str]:
    """Notes on a LATENT that a stage reads otherwise than it may be meant.

    Args:
        latent: [frames, 4, h, w], and what blocks have put beside it.
    """
    numbers, notes = latent.get("batch_index"), []
    if numbers is not None and len(set(numbers)) < len(numbers):
        notes.append(
            f"latent: some of its {len(numbers)} frames have the same number, as where videos were joined; they are sampled "
            "as one video, and frames of one number from the same noise"
        )
    return notes
