"""A small world of moving shapes: its scenes, each drawn from a seed. rendering.py shows them, captions.py puts them in words.

A clip is decided by its first frame and its caption: each motion has one exact speed for "slowly" and one for
"quickly", the caption always names the motion of every shape and a pan of the camera, and everything else can be seen
in the first frame. A start position leaves room for the opposite motion too, so it does not tell the direction.

Units: positions are fractions of the picture, x to the right and y down; lengths are in picture heights (in halves of
the width where the picture is narrower than 2:1); speeds are per second, so the frame rate sets the motion per frame.
"""

import itertools
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
from torch import Tensor

from ..errors import InputError

Split = Literal["train", "held_out"]
Level = Literal["plain", "varied", "full"]
Motion = Literal["left", "right", "up", "down", "still", "clockwise", "anticlockwise", "growing", "shrinking"]
Speed = Literal["slowly", "quickly"]
Outline = Literal["circle", "square", "triangle", "star", "ring"]
Texture = Literal["flat", "glossy", "striped", "spotted"]
Pattern = Literal["plain", "gradient", "stripes", "checks", "dots"]

SPLITS: tuple[Split, ...] = get_args(Split)
LEVELS: tuple[Level, ...] = get_args(Level)
MOTIONS: tuple[Motion, ...] = get_args(Motion)
KINDS: tuple[Outline, ...] = get_args(Outline)
OPPOSITES: dict[Motion, Motion] = {
    "left": "right",
    "right": "left",
    "up": "down",
    "down": "up",
    "clockwise": "anticlockwise",
    "anticlockwise": "clockwise",
    "growing": "shrinking",
    "shrinking": "growing",
}
TRAVEL: dict[Speed, float] = {"slowly": 0.075, "quickly": 0.18}  # fractions of the picture a second
TURN: dict[Speed, float] = {"slowly": 40.0, "quickly": 120.0}  # degrees a second
GROWTH: dict[Speed, float] = {"slowly": 0.15, "quickly": 0.35}  # of the logarithm of the size, a second


@dataclass(frozen=True)
class Pace:
    """How fast a world's motions are, a second.

    Args:
        travel: lengths, in the world's own unit.
        turn: degrees.
        grow: of the logarithm of the size.
    """

    travel: Mapping[Speed, float]
    turn: Mapping[Speed, float]
    grow: Mapping[Speed, float]

    def velocity(self, motion: str, speed: Speed) -> tuple[float, float]:
        """To the right and down; (0, 0) of what does not travel."""
        x, y = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}.get(motion, (0, 0))
        return x * self.travel[speed], y * self.travel[speed]

    def turn_rate(self, motion: str, speed: Speed) -> float:
        """Degrees, clockwise."""
        return {"clockwise": 1, "anticlockwise": -1}.get(motion, 0) * self.turn[speed]

    def growth(self, motion: str, speed: Speed) -> float:
        """Growth of the logarithm of the size."""
        return {"growing": 1, "shrinking": -1}.get(motion, 0) * self.grow[speed]


PACE = Pace(TRAVEL, TURN, GROWTH)
DURATION = 15 / 8  # seconds from the first to the last of 16 frames at 8 fps: as long as the main shape stays in sight

Rgb = tuple[float, float, float]
COLOURS: dict[str, Rgb] = {
    "red": (0.88, 0.18, 0.20),
    "orange": (0.97, 0.55, 0.13),
    "yellow": (0.99, 0.85, 0.22),
    "green": (0.22, 0.66, 0.30),
    "turquoise": (0.13, 0.74, 0.74),
    "blue": (0.17, 0.40, 0.88),
    "purple": (0.54, 0.26, 0.76),
    "pink": (0.97, 0.52, 0.72),
    "brown": (0.50, 0.31, 0.18),
    "white": (0.97, 0.97, 0.96),
}
# No name is that of a shape's colour, so that a colour in a caption always is the shape's.
LIGHT_BACKGROUNDS: dict[str, Rgb] = {
    "cream": (0.97, 0.93, 0.83),
    "azure": (0.74, 0.87, 0.95),
    "mint": (0.77, 0.91, 0.82),
    "lavender": (0.85, 0.81, 0.94),
    "sand": (0.89, 0.80, 0.64),
    "grey": (0.70, 0.72, 0.75),
}
DARK_BACKGROUNDS: dict[str, Rgb] = {
    "navy": (0.10, 0.14, 0.31),
    "charcoal": (0.19, 0.20, 0.23),
    "moss": (0.13, 0.29, 0.22),
    "plum": (0.30, 0.11, 0.24),
}
BACKGROUNDS = LIGHT_BACKGROUNDS | DARK_BACKGROUNDS

_CONTRAST = 0.46  # least distance in RGB between a shape and its background
_FAINT, _DRAWN = (0.004, 0.04), 0.27
"""Steps between neighbouring pixels that shading makes, and the share of them up to which a picture is taken for drawn."""
REACH = 1.45
"""No shape reaches further from its centre, in sizes."""


@dataclass(frozen=True)
class Shape:
    """A shape at the first frame, and how it moves.

    Attributes:
        kind: its outline.
        colour: a name of COLOURS.
        texture: its filling, which turns and grows with it; the light on a glossy one stays.
        size: about the radius of a circle of its area, in picture heights.
        x, y: its centre, in fractions of the picture.
        angle: clockwise from upright, in degrees.
        motion: the one thing it does.
        speed: how fast; without meaning for "still".
    """

    kind: Outline
    colour: str
    texture: Texture
    size: float
    x: float
    y: float
    angle: float
    motion: Motion
    speed: Speed

    @property
    def velocity(self) -> tuple[float, float]:
        """Horizontal and vertical speed in the world, in fractions of the picture a second."""
        return PACE.velocity(self.motion, self.speed)

    @property
    def turn_rate(self) -> float:
        """Degrees a second, clockwise."""
        return PACE.turn_rate(self.motion, self.speed)

    @property
    def growth(self) -> float:
        """Growth g a second: after t seconds the size is size * exp(g * t)."""
        return PACE.growth(self.motion, self.speed)


@dataclass(frozen=True)
class Background:
    """What is behind the shapes.

    Attributes:
        pattern: its kind.
        colours: two names of BACKGROUNDS: a gradient goes from the first to the second, the others use the first.
        angle: the direction of a gradient, of stripes, and the tilt of checks and dots, in degrees.
        period: the pattern's, in picture heights.
        phase: x and y of the pattern's shift, in periods.
    """

    pattern: Pattern
    colours: tuple[str, str]
    angle: float
    period: float
    phase: tuple[float, float]


@dataclass(frozen=True)
class Scene:
    """Everything that determines a clip at any size and frame rate.

    Attributes:
        shapes: one or two; the first is the main shape and in front.
        background: behind them.
        pan: speed of the camera to the right, in fractions of the picture a second; the picture moves to the left.
    """

    shapes: tuple[Shape, ...]
    background: Background
    pan: float = 0.0


def held_out(colour: str, kind: Outline, motion: Motion) -> bool:
    """Whether a combination belongs to the held-out scenes: a tenth do, one colour for each kind and sort of motion.

    A motion and its opposite always go together, so the opposite of a held-out scene is held out.
    """
    sort = min(MOTIONS.index(motion), MOTIONS.index(OPPOSITES.get(motion, motion))) // 2
    return (list(COLOURS).index(colour) + 2 * KINDS.index(kind) + 3 * sort) % 10 == 0


def looks_drawn(image: Tensor) -> bool:
    """Whether a picture has even areas and sharp edges, as this world's have, and no shading, as photographs have.

    Of 1300 pictures of this world none was taken for a photograph; of 100 photographs, paintings and diagrams 10 were taken for drawn.

    Args:
        image: [h, w, 3] in 0..1, at a video's size.
    """
    steps = [(image[:, 1:] - image[:, :-1]).abs().amax(-1), (image[1:] - image[:-1]).abs().amax(-1)]
    every = torch.cat([step.flatten() for step in steps])
    return float(((every > _FAINT[0]) & (every < _FAINT[1])).float().mean()) <= _DRAWN


def sample_scene(seed: int, split: Split = "train", level: Level = "full") -> Scene:
    """Draws a scene; the same arguments always give the same one, on every machine.

    Motions and kinds are drawn evenly. No combination of a shape's colour, kind and motion is in both splits (see
    `held_out`), and the same seed gives unrelated scenes in them.

    Args:
        seed: any whole number.
        split: which scenes to draw from.
        level: "plain" has one untextured shape that travels or stays still, before a plain background; "varied" adds
            textures, turning, growing, gradients and patterns; "full" adds a second shape and pans of the camera.

    Raises:
        InputError: split or level is unknown.
    """
    for name, value, known in (("split", split, SPLITS), ("level", level, LEVELS)):
        if value not in known:
            raise InputError(name, " or ".join(known), repr(value), f"Use {known[0]!r}.")
    rng = random.Random(f"world {split} {level} {seed}")
    shapes: tuple[Shape, ...] = (_sample_main(rng, split, level),)
    if level == "full" and rng.random() < 0.4:
        shapes = _add_second(rng, split, shapes[0])
    background = _sample_background(rng, level, [shape.colour for shape in shapes])
    # A pan is drawn only where it can be seen, and where it leaves the meaning of the shape's own motion clear.
    pans = level == "full" and background.pattern != "plain" and not any(shapes[0].velocity) and rng.random() < 0.35
    return Scene(shapes, background, rng.choice((-1, 1)) * TRAVEL["slowly"] if pans else 0.0)


def opposite(scene: Scene) -> Scene:
    """The scene with the same first frame whose main shape does the opposite; `caption` of it is the opposite prompt.

    A main shape that stays still has no opposite; there the camera pans the other way.

    Raises:
        InputError: the main shape stays still and the camera does not pan.
    """
    main = scene.shapes[0]
    if main.motion in OPPOSITES:
        return replace(scene, shapes=(replace(main, motion=OPPOSITES[main.motion]), *scene.shapes[1:]))
    if scene.pan:
        return replace(scene, pan=-scene.pan)
    raise InputError("the scene", "a motion that has an opposite", "a still main shape", "Choose another seed.")


def _sample_main(rng: random.Random, split: Split, level: Level) -> Shape:
    motions = MOTIONS[:5] if level == "plain" else MOTIONS
    shape = _sample_shape(rng, split, motions, textured=level != "plain")
    shape = replace(shape, size=rng.uniform(0.14, 0.20) if shape.growth == 0 else rng.uniform(0.13, 0.16))
    return _place(rng, shape)


def _sample_shape(rng: random.Random, split: Split, motions: Sequence[Motion], textured: bool) -> Shape:
    motion, kind = rng.choice(motions), rng.choice(KINDS)
    colours = [colour for colour in COLOURS if held_out(colour, kind, motion) == (split == "held_out")]
    textures: tuple[Texture, ...] = ("flat", "glossy", "striped", "spotted") if textured else ("flat", "glossy")
    if motion in ("clockwise", "anticlockwise") and kind in ("circle", "ring"):
        textures = ("striped", "spotted")  # else the turn could not be seen
    speed: Speed = rng.choice(("slowly", "quickly")) if motion != "still" else "slowly"
    angle = rng.uniform(-25, 25)
    return Shape(kind, rng.choice(colours), rng.choice(textures), 0.1, 0.5, 0.5, angle, motion, speed)


def _place(rng: random.Random, shape: Shape) -> Shape:
    """Puts a shape where two thirds of its radius stay inside on both its path and the opposite one.

    Each axis leaves room for slow travel even where the shape has none, so that slow motions cannot be told by the place.
    """
    largest = shape.size * math.exp(abs(shape.growth) * DURATION)
    places = []
    for speed, length in zip(shape.velocity, (2, 1), strict=True):
        room = 0.5 - 0.65 * largest / length - max(abs(speed), TRAVEL["slowly"]) * DURATION
        places.append(0.5 + rng.uniform(-room, room))
    return replace(shape, x=places[0], y=places[1])


def _add_second(rng: random.Random, split: Split, main: Shape) -> tuple[Shape, ...]:
    """Adds a smaller shape of another colour that the main one never touches, whichever way either moves."""
    for _ in range(40):
        shape = _sample_shape(rng, split, MOTIONS[:5] if rng.random() < 0.5 else ("still",), textured=True)
        shape = _place(rng, replace(shape, size=rng.uniform(0.09, 0.12), speed="slowly"))
        told_apart = shape.colour != main.colour and _clear_backgrounds((main.colour, shape.colour))
        if told_apart and not _may_touch(main, shape):
            return main, shape
    return (main,)


def _may_touch(a: Shape, b: Shape) -> bool:
    sizes = sum(shape.size * math.exp(abs(shape.growth) * DURATION) for shape in (a, b))
    for step, a_sign, b_sign in itertools.product(range(9), (-1, 1), (-1, 1)):
        time = step / 8 * DURATION
        x = a.x - b.x + (a_sign * a.velocity[0] - b_sign * b.velocity[0]) * time
        y = a.y - b.y + (a_sign * a.velocity[1] - b_sign * b.velocity[1]) * time
        if math.hypot(2 * x, y) < REACH * sizes:
            return True
    return False


def _clear_backgrounds(colours: Sequence[str]) -> list[str]:
    """The backgrounds that all these colours stand out from."""
    return [
        name
        for name, rgb in BACKGROUNDS.items()
        if all(math.dist(rgb, COLOURS[colour]) > _CONTRAST for colour in colours)
    ]


def _sample_background(rng: random.Random, level: Level, colours: Sequence[str]) -> Background:
    names = _clear_backgrounds(colours)
    first = rng.choice(names)
    # Both ends of a gradient are light or both dark: in between, no shape's colour is met.
    second = rng.choice([name for name in names if (name in LIGHT_BACKGROUNDS) == (first in LIGHT_BACKGROUNDS)])
    patterns: tuple[Pattern, ...] = ("plain",)
    if level != "plain":
        patterns = ("plain", "gradient", "stripes", "checks", "dots")
    pattern = rng.choice(patterns)
    if second == first and pattern == "gradient":
        pattern = "plain"
    phase = (rng.random(), rng.random())
    return Background(pattern, (first, second), rng.uniform(0, 180), rng.uniform(0.22, 0.38), phase)
