"""Microsoft's animated Fluent emoji, as the npm packages @lobehub/fluent-emoji-anim-1 to -4 hold them: what is drawn from.

A prepared folder holds `emoji/`, a 256x256 WebP file with alpha for each code point, most of them animations of 24 frames a
second; `emoji.json`, their names and groups; and `stills.bin`, some frames of each decoded, for the VAE, whose steps would
else wait for the animations. `training.prepare` makes one.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, cast

import torch
from PIL import Image
from torch import Tensor

from ..errors import InputError
from ..media.rendering import render
from ..media.world import BACKGROUNDS, COLOURS, KINDS, Background, Outline, Scene, Shape, Split, held_out

FPS = 24
LISTING = "emoji.json"
PICTURES = "emoji"
STILLS = "stills.bin"
STILLS_OF_EACH = 3
SIDE = 256


GROUPS = (
    "Activities",
    "Animals & Nature",
    "Food & Drink",
    "Objects",
    "People & Body",
    "Smileys & Emotion",
    "Travel & Places",
)
"""What is drawn from: of the others, flags and symbols, nothing reads as a thing."""

_LEFT_OUT = re.compile(
    r"clock$|-thirty$|banknote|button|calendar|card|chart|label|newspaper|page-|postbox|receipt|scroll|memo|ledger|musical-|"
    r"speech|thought|anger|hundred|zzz|score|medal|abacus|keyboard|ticket|index-pointing-at|"  # text and signs
    r"bridge-at|city|night-with|sunrise|sunset|foggy|camping|milky-way|national-park|railway|motorway|roller-coaster|"
    r"stadium|map|wedding|hotel|bank$|office|school|hospital|department|convenience|house|derelict|hut|bus-stop|"  # scenes
    r"bunny-ears|wrestling|handball|water-polo|mountain-biking|rowing|horse-racing|in-bed|bath$|people|busts|kneeling|"
    r"wheelchair|white-cane|golfing|climbing|selfie|breast-feeding|feeding-baby|family|couple|steamy|veil|nesting|footprints|"
    r"juggling|bouncing-ball|in-suit|standing|thread|sewing|safety-pin|paperclip|pushpin|chains|bubbles|sparkle|sweat-droplets|"
    r"dashing-away|dizzy|collision|fog|wind-face|tornado|cyclone|hot-springs|rainbow|hole|spider-web|microbe|string|"
    r"signs?$|symbol|fleur|shinto|fireworks|fishing-pole|sparkler|kite|chopsticks|ballot|barber|skier|snowboarder|parachute|"
    r"aerial-tramway|cableway|suspension|monorail|satellite$|antenna|level-slider|control-knobs|movie-camera|cigarette"
)
"""By name: text, whole places, and figures so small that a face is less than three latents; nothing that thin lines make."""

CAST = frozenset(
    [
        "dolphin",
        "butterfly",
        "whale",
        "penguin",
        "eagle",
        "dove",
        "wolf",
        "rabbit face",
        "cat",
        "lion",
        "octopus",
        "tropical fish",
        "peacock",
        "parrot",
        "bat",
        "elephant",
        "horse",
        "tiger",
        "chicken",
        "front facing baby chick",
        "cow face",
        "fox",
        "monkey face",
        "snowman",
        "ghost",
        "sun with face",
        "waving hand",
        "clapping hands",
        "running",
        "grinning face with big eyes",
        "angry face",
        "beating heart",
        "rocket",
        "helicopter",
        "flying saucer",
    ]
)
"""Families whose own motion is learnt. What the others do of their own accord, no picture of them tells, and a small network
that has seen each once draws the mean of all: these are few enough to be seen often, and move clearly."""

_TONES = ("light", "medium-light", "medium", "medium-dark", "dark")
_TONE = re.compile("1f3f[b-f]")
_HELD_OUT_TONE = "1f3fe"
_HELD_OUT_SHARE = 10  # one in so many names


@dataclass(frozen=True)
class Emoji:
    """One animated emoji.

    Attributes:
        code: its code points in lower-case hexadecimal, joined by hyphens: the file's name.
        name: in English, without the tone of the skin: "waving hand".
        group: of GROUPS.
        frames: of its animation; 1 where it stands still.
        split: a tenth of the names are held out from training, and one of the five tones of skin.
    """

    code: str
    name: str
    group: str
    frames: int
    split: Split

    @property
    def family(self) -> str:
        """What stands for its name where all persons of an occupation, and all tones, count as one."""
        return re.sub(r"^(man|woman|person) ", "", self.name)


def kept(name: str, group: str) -> bool:
    """Whether an emoji of this name and group is drawn from.

    Args:
        name: with hyphens, as the names' package has it.
        group: as there.
    """
    return group in GROUPS and not _LEFT_OUT.search(name)


def split_of(code: str, name: str) -> Split:
    """Whether an emoji is trained on: the names are held out by their digest, so that all tones and both sexes go together."""
    name = re.sub(r"^(man|woman|person)[ -]", "", name.replace("-", " "))
    number = int(hashlib.sha256(name.encode()).hexdigest(), 16)
    return "held_out" if number % _HELD_OUT_SHARE == 0 or _HELD_OUT_TONE in code else "train"


def plain_code(code: str) -> str:
    """A code without leading zeros and variation selectors, as both packages can be compared by."""
    return "-".join(part.lstrip("0") for part in code.split("-") if part != "fe0f")


def plain_name(name: str, code: str) -> str:
    """The name in words, without the skin's tone."""
    if _TONE.search(code):
        name = re.sub(rf"-({'|'.join(sorted(_TONES, key=len, reverse=True))})(-skin-tone)?$", "", name)
    return re.sub("-facing-right$", "", name).replace("-", " ")


_SHAPE = "shape"
_REACH: dict[Outline, float] = {"circle": 1.0, "square": 1.25, "triangle": 1.45, "star": 1.4, "ring": 1.15}  # in sizes


def shapes() -> list[Emoji]:
    """The shapes of media.world as things to draw from, "red circle": their colours and edges are exact."""
    return [
        Emoji(
            f"{_SHAPE}-{colour}-{kind}",
            f"{colour} {kind}",
            "Shapes",
            1,
            "held_out" if held_out(colour, kind, "left") else "train",
        )
        for kind in KINDS
        for colour in COLOURS
    ]


def shape_frames(colour: str, kind: Outline) -> Tensor:
    """A shape as an animation of one frame, [1, 256, 256, 4] uint8, premultiplied."""
    shape = Shape(kind, colour, "glossy", 0.9 / _REACH[kind], 0.5, 0.5, 0.0, "still", "slowly")
    ground = Background("plain", ("grey", "grey"), 0.0, 1.0, (0.0, 0.0))
    clip = render(Scene((shape,), ground), SIDE, SIDE, 1, 1)
    cover = clip.masks[0, 0, ..., None]
    colours = clip.frames[0] - (1 - cover) * torch.tensor(BACKGROUNDS["grey"])
    return (torch.cat([colours, cover], dim=-1).clamp(0, 1) * 255).round().to(torch.uint8)[None]


class EmojiFolder:
    """A prepared folder, and the shapes.

    Args:
        path: of the folder, with LISTING and PICTURES.

    Raises:
        InputError: no such folder.
    """

    def __init__(self, path: Path):
        self.path = path
        try:
            rows: list[dict[str, Any]] = json.loads((path / LISTING).read_text(encoding="utf-8"))
            self.emoji = [Emoji(**row) for row in rows]
        except (OSError, ValueError, TypeError) as error:
            remedy = "Make one with `python -m i2vgen_core.training.prepare PACKAGES FOLDER`."
            raise InputError("--data", f"a folder with {LISTING}", f"'{path}' ({error})", remedy) from error
        self._row = {each.code: number for number, each in enumerate(self.emoji)}
        self._stills: Tensor | None = None
        shape = (len(self.emoji), STILLS_OF_EACH, SIDE, SIDE, 4)
        self.emoji += shapes()
        self._by_code = {each.code: each for each in self.emoji}
        file, size = path / STILLS, math.prod(shape)
        if file.is_file() and file.stat().st_size == size:
            self._stills = torch.from_file(str(file), shared=True, size=size, dtype=torch.uint8).view(shape)
        self._read = lru_cache(maxsize=48)(self._decode)

    def __getitem__(self, code: str) -> Emoji:
        return self._by_code[code]

    @cache  # noqa: B019 - as long as the folder
    def families(self, split: Split, moving: bool = False) -> Sequence[Sequence[Emoji]]:
        """The emoji of a split, those of one family together, so that a family is drawn as often as another.

        Args:
            split: of which.
            moving: only the cast, whose own motion is learnt.
        """
        families: dict[str, list[Emoji]] = {}
        for each in self.emoji:
            if each.split == split and (not moving or each.family in CAST):
                families.setdefault(each.family, []).append(each)
        return [families[name] for name in sorted(families)]

    def frames(self, code: str) -> Tensor:
        """The animation, [F, 256, 256, 4] uint8: red, green and blue times alpha, and alpha.

        Raises:
            InputError: the file cannot be read.
        """
        return self._read(code)

    def still(self, code: str, moment: float) -> Tensor:
        """One frame, [256, 256, 4] uint8, premultiplied: of the few of each that are decoded, or else of all.

        Args:
            code: of the emoji.
            moment: 0..1, where in its animation.
        """
        few = self._row.get(code)
        frames = self.frames(code) if self._stills is None or few is None else self._stills[few]
        return frames[min(int(moment * len(frames)), len(frames) - 1)]

    def _decode(self, code: str) -> Tensor:
        kind, _, name = code.partition("-")
        if kind == _SHAPE:
            colour, _, form = name.partition("-")
            return shape_frames(colour, cast(Outline, form))
        file = self.path / PICTURES / f"{code}.webp"
        try:
            return read_animation(file)
        except (OSError, SyntaxError) as error:
            raise InputError(str(file), "a picture with alpha", str(error), "Fetch the emoji again.") from error


def read_animation(file: Path, picked: Sequence[int] | None = None) -> Tensor:
    """The frames of a WebP file, [F, H, W, 4] uint8, premultiplied.

    Args:
        file: to read.
        picked: numbers of the frames to read, rising; all if None.
    """
    pictures = []
    with Image.open(file) as image:
        count = getattr(image, "n_frames", 1)
        for index in range(count) if picked is None else picked:
            image.seek(index)
            pictures.append(torch.frombuffer(bytearray(image.convert("RGBa").tobytes()), dtype=torch.uint8))
    return torch.stack(pictures).view(len(pictures), image.height, image.width, 4)
