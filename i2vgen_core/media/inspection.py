"""What a network reads of a conditioning, as a picture and a table: tokens of text, image and global encoder, details.

Colours are the first three principal components of what is drawn together, so that equal colours are equal directions:
the positive and the negative side's tokens of one kind, or the frames of the detail features.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn import functional

from ..config import GLOBAL_TOKENS, TEXT_TOKENS, UNetConfig
from ..errors import InputError

_WIDTH, _LETTER, _SMALL = 1024, 40, 30  # of the picture and its letters, in pixels
_MARGIN, _HEADING = 24, 58
_GREY, _FAR, _NEAR = (120, 120, 120), (213, 94, 0), (235, 235, 235)  # far and near: of the cosine similarity 0 and 1
_SHOWN = 4  # frames of the details

Sides = dict[str, Tensor]
"""The tokens of one kind by the names of their sides."""


@dataclass(frozen=True)
class Parts:
    """The parts of one side's conditioning; None for what it does not have. All float32 on the CPU.

    Args:
        text: tokens [n, d], 77 as released.
        global_tokens: of the learnt global encoder, [64, d], row by row of 8x8 places.
        image: the CLIP image tokens [n, d], 4 as released, or the embedding [1, d'] that they are made of.
        details: features that are concatenated to the latent, or the image latent and the ramp that they are made of:
            [frames, 4, h, w].
        projected: whether image and details are as the network has made them.
    """

    text: Tensor | None = None
    global_tokens: Tensor | None = None
    image: Tensor | None = None
    details: Tensor | None = None
    projected: bool = True


def split_context(context: Tensor, details: Tensor | None, network: UNetConfig) -> Parts:
    """A network's inputs taken apart.

    Args:
        context: [n, d] in the network's order: text, global and CLIP image tokens; one kind alone in networks that read
            one.
        details: [frames, 4, h, w], or None.
        network: whose inputs they are.
    """
    if network.is_refiner:
        return Parts(text=context)
    if not network.reads_details:
        length = 0 if network.reads_image else TEXT_TOKENS
        seen = context[length:] if len(context) > length else None
        return Parts(text=context[:length] if length else None, image=seen)
    sizes = [len(context) - network.image_tokens - GLOBAL_TOKENS, GLOBAL_TOKENS, network.image_tokens]
    text, global_tokens, image = context.split(sizes)
    return Parts(text, global_tokens, image, details)


def inspect(positive: Parts, negative: Parts | None = None) -> tuple[Tensor, str]:
    """Draws and tabulates what a conditioning holds.

    Of each kind of token: norms as heights, or as sizes in the global tokens' 8x8 grid; directions as colours; and the
    cosine similarity of positive and negative, token by token. Of the details: some frames, and every frame's RMS.

    Args:
        positive: what is inspected.
        negative: the other side, if it is to be compared.

    Returns:
        The picture [height, 1024, 3] in 0..1, and the table as Markdown.

    Raises:
        InputError: there is nothing in either, or values that are not finite.
    """
    sides = {"positive": positive} if negative is None else {"positive": positive, "negative": negative}
    texts = {name: side.text for name, side in sides.items() if side.text is not None}
    grids = {name: side.global_tokens for name, side in sides.items() if side.global_tokens is not None}
    images = {name: side.image for name, side in sides.items() if side.image is not None}
    details = next((side.details for side in sides.values() if side.details is not None), None)
    if not (texts or grids or images or details is not None):
        raise InputError("conditioning", "text, image or details", "none of them", "Wire Global Encode's output in.")
    for kind, part in (("text", texts), ("global tokens", grids), ("image", images), ("details", {"": details})):
        if not all(values is None or values.isfinite().all() for values in part.values()):
            remedy = "Look at the encoder that it comes from: something failed there."
            raise InputError(f"conditioning, {kind}", "finite values alone", "NaN or infinite ones", remedy)
    image_name = "CLIP image" if positive.projected else "CLIP image embedding"
    details_name = "details" if positive.projected else "image latent and ramp"

    panels: list[Image.Image] = []
    if texts:
        panels.append(_bars_panel("text", texts))
    if grids:
        panels.append(_grid_panel("global", grids))
    if images:
        panels.append(_bars_panel(image_name, images, height=250 if positive.projected else 150))
    if details is not None:
        panels.append(_details_panel(details_name, details))
    table = _table({"text": texts, "global": grids, image_name: images}, details_name, details)
    return torch.from_numpy(np.concatenate([np.array(panel) for panel in panels])).float() / 255, table


def principal_colours(vectors: Tensor) -> Tensor:
    """The first three principal components of vectors [n, d] as colours [n, 3] in 0..0.9; grey where all are the same.

    Each component fills its channel from the 2nd to the 98th percentile, but one much weaker than the first stays weak.
    Its sign is that of its skewness, so that the same vectors always have the same colours. None is white.
    """
    centred = (vectors - vectors.mean(0)).double()
    _, lengths, axes = torch.linalg.svd(centred, full_matrices=False)
    axes = axes[:3]
    components = centred @ axes.T
    components = components * torch.where((components**3).sum(0) < 0, -1.0, 1.0)
    low, high = (components.quantile(share, dim=0) for share in (0.02, 0.98))
    spread = torch.maximum((high - low).clamp(min=1e-6), 0.1 * (components[:, 0].max() - components[:, 0].min()))
    colours = torch.full((len(vectors), 3), 0.5)
    shades = 0.5 + 0.8 * (components - (low + high) / 2) / spread
    if lengths[0] > 1e-4 * (vectors.double().norm() + 1e-12):
        colours[:, : axes.shape[0]] = shades.float()
    return colours.clamp(0, 0.9)


# ---------------------------------------------------------------- panels


def _panel(heading: str, height: int) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    image = Image.new("RGB", (_WIDTH, height), "white")
    draw = ImageDraw.Draw(image)
    draw.text((_MARGIN, _HEADING / 2 + 6), heading, "black", ImageFont.load_default(_LETTER), anchor="lm")
    return image, draw


def _bars_panel(name: str, sides: Sides, height: int = 330) -> Image.Image:
    """Norms of tokens as bars in their colours, positive upwards and negative downwards, their similarity between."""
    counts = [len(tokens) for tokens in sides.values()]
    image, draw = _panel(f"{name}: {_number(counts[0])}{_similarity_words(sides)}", height)
    small = ImageFont.load_default(_SMALL)
    norms = [tokens.norm(dim=-1) for tokens in sides.values()]
    most = max(1e-6, *(norm.max().item() for norm in norms))
    colours = principal_colours(torch.cat(list(sides.values()))).split(counts)
    similarity = _similarity(sides)
    left, right, top, bottom = 190.0, _WIDTH - _MARGIN, _HEADING + 6.0, height - 14.0
    paired = len(sides) == 2
    strip = 22 if similarity is not None else 0
    middle = (top + bottom - strip) / 2 if paired else bottom
    step = (right - left) / max(counts)
    gap = min(2.0, step / 8)
    for side, (norm, colour) in enumerate(zip(norms, colours, strict=True)):
        room = middle - top
        for index, (length, rgb) in enumerate(zip(norm.tolist(), _bytes(colour), strict=True)):
            x = left + index * step
            reach = max(2.0, room * length / most)
            y = (middle - reach, middle) if side == 0 else (middle + strip, middle + strip + reach)
            draw.rectangle((x, y[0], x + step - gap, y[1]), fill=rgb)
    if similarity is not None:
        for index, value in enumerate(similarity.tolist()):
            x = left + index * step
            draw.rectangle((x, middle + 3, x + step - gap, middle + strip - 3), fill=_similarity_colour(value))
    first, *others = sides
    draw.text((_MARGIN, top + 0.3 * _SMALL), first, _GREY, small, anchor="lm")
    draw.text((_MARGIN, top + 1.5 * _SMALL), f"to {most:.3g}", _GREY, small, anchor="lm")
    for other in others:
        draw.text((_MARGIN, bottom - 0.3 * _SMALL), other, _GREY, small, anchor="lm")
    if strip:
        draw.text((_MARGIN, middle + strip / 2), "cosine", _GREY, small, anchor="lm")
    return image


def _grid_panel(name: str, sides: Sides) -> Image.Image:
    """Tokens of an 8x8 grid: squares in their colours whose sizes are the norms, and a map of the similarity."""
    height = 374
    counts = [len(tokens) for tokens in sides.values()]
    image, draw = _panel(f"{name}: {_number(counts[0])}{_similarity_words(sides)}", height)
    small = ImageFont.load_default(_SMALL)
    count = math.isqrt(counts[0])
    side = 248
    cell = side / count
    most = max(1e-6, *(tokens.norm(dim=-1).max().item() for tokens in sides.values()))
    colours = principal_colours(torch.cat(list(sides.values()))).split(counts)
    lefts = [_MARGIN + i * (side + 80.0) for i in range(3)]
    top = _HEADING + 10.0
    for (title, tokens), left, colour in zip(sides.items(), lefts, colours, strict=False):
        draw.rectangle((left, top, left + side, top + side), fill=(248, 248, 248))
        for index, (norm, rgb) in enumerate(zip(tokens.norm(dim=-1).tolist(), _bytes(colour), strict=True)):
            reach = (cell - 1) * max(0.15, norm / most) / 2
            x, y = left + (index % count + 0.5) * cell, top + (index // count + 0.5) * cell
            draw.rectangle((x - reach, y - reach, x + reach, y + reach), fill=rgb)
        draw.text((left + side / 2, top + side + 26), title, _GREY, small, anchor="mm")
    similarity = _similarity(sides)
    if similarity is not None:
        left = lefts[2]
        for index, value in enumerate(similarity.tolist()):
            x, y = left + index % count * cell, top + index // count * cell
            draw.rectangle((x, y, x + cell - 2, y + cell - 2), fill=_similarity_colour(value))
        draw.text((left + side / 2, top + side + 26), "cosine", _GREY, small, anchor="mm")
    return image


def _details_panel(name: str, details: Tensor) -> Image.Image:
    """Some frames in the colours of their channels' principal components, and every frame's RMS."""
    frames = len(details)
    shown = sorted({round(i * (frames - 1) / (_SHOWN - 1)) for i in range(_SHOWN)} | {min(1, frames - 1)})[:5]
    rows, columns = details.shape[-2:]
    room = (_WIDTH - 2 * _MARGIN - 16 * (len(shown) - 1)) / max(len(shown), 2)
    scale = min(room / columns, 260 / rows)
    width, tall = max(1, round(columns * scale)), max(1, round(rows * scale))
    bars = 70
    height = _HEADING + 10 + tall + 46 + bars + 24
    image, draw = _panel(f"{name}: {_number(frames, 'frame')} of {columns}x{rows}", height)
    small = ImageFont.load_default(_SMALL)
    pixels = details[shown].movedim(1, -1)
    colours = principal_colours(pixels.flatten(0, -2)).view(*pixels.shape[:3], 3)
    left, top = float(_MARGIN), _HEADING + 10.0
    for frame, colour in zip(shown, colours, strict=True):
        picture = Image.fromarray((colour * 255).round().byte().numpy())
        image.paste(picture.resize((width, tall), Image.Resampling.NEAREST), (round(left), round(top)))
        draw.text((left + width / 2, top + tall + 24), str(frame), _GREY, small, anchor="mm")
        left += width + 16
    rms = details.square().mean((1, 2, 3)).sqrt()
    base, first = height - 16.0, 190.0
    step = (_WIDTH - _MARGIN - first) / frames
    for frame, value in enumerate(rms.tolist()):
        reach = max(2.0, bars * value / max(rms.max().item(), 1e-6))
        x = first + frame * step
        draw.rectangle((x, base - reach, x + step - min(2.0, step / 8), base), fill=(0, 114, 178))
    draw.text((_MARGIN, base - 1.7 * _SMALL), "RMS", _GREY, small, anchor="lm")
    draw.text((_MARGIN, base - 0.5 * _SMALL), f"to {rms.max().item():.3g}", _GREY, small, anchor="lm")
    return image


def _number(count: int, noun: str = "token") -> str:
    return f"{count} {noun}" + ("" if count == 1 else "s")


def _similarity_words(sides: Sides) -> str:
    similarity = _similarity(sides)
    return "" if similarity is None else f", mean cosine {similarity.mean().item():.2f}"


def _similarity(sides: Sides) -> Tensor | None:
    """The cosine similarity of two sides token by token, [n]; None where they cannot be compared."""
    first, *others = sides.values()
    if not others or first.shape != others[0].shape:
        return None
    return functional.cosine_similarity(first, others[0], dim=-1)


def _similarity_colour(value: float) -> tuple[int, int, int]:
    share = min(max(value, 0.0), 1.0)
    red, green, blue = (round(far + share * (near - far)) for far, near in zip(_FAR, _NEAR, strict=True))
    return red, green, blue


def _bytes(colours: Tensor) -> list[tuple[int, int, int]]:
    return [(red, green, blue) for red, green, blue in (colours * 255).round().int().tolist()]


# ---------------------------------------------------------------- table


def _table(tokens: dict[str, Sides], details_name: str, details: Tensor | None) -> str:
    """Count, width and norms of each kind of token on each side, their similarity, and the details' RMS by frame."""
    lines = ["| | tokens | width | norm: least | mean | most | cosine: least | mean |", "|---" * 8 + "|"]
    for name, sides in tokens.items():
        for side, values in sides.items():
            norm = values.norm(dim=-1)
            cells = [f"{name}, {side}", str(len(values)), str(values.shape[-1])]
            cells += [f"{figure.item():.2f}" for figure in (norm.min(), norm.mean(), norm.max())]
            similarity = _similarity(sides) if side == "negative" else None
            if similarity is not None:
                cells += [f"{figure.item():.3f}" for figure in (similarity.min(), similarity.mean())]
            else:
                cells += ["", ""]
            lines.append("| " + " | ".join(cells) + " |")
    if details is not None:
        rms = ", ".join(f"{value:.2f}" for value in details.square().mean((1, 2, 3)).sqrt().tolist())
        frames, channels, rows, columns = details.shape
        lines += ["", f"{details_name}: {frames} frames of {channels} channels, {columns}x{rows}; RMS by frame {rms}"]
    return "\n".join(lines)
