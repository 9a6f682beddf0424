"""The world that the built-in cascade learns: animated emoji before simple grounds, and photographs under a moving camera.

A clip is decided by its first frame and its caption, but for what an emoji does of its own accord, whose truth is its
file. Units: the origin is the picture's centre, x to the right and y down, lengths and places in picture heights, speeds
per second, so the frame rate sets the motion per frame.
"""

from __future__ import annotations

import colorsys
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import InputError
from ..media.world import Pace, Rgb, Speed, Split
from .data import Sample
from .emoji import CAST, FPS, EmojiFolder
from .photos import Photos
from .words import action, agreed, background_words, camera_words, noun, travel_words

Move = Literal["still", "left", "right", "up", "down", "clockwise", "anticlockwise", "growing", "shrinking"]
Camera = Literal["still", "left", "right", "up", "down", "in", "out"]
GroundKind = Literal["plain", "gradient", "room", "hills", "sea", "night", "photo"]

MOVES: tuple[Move, ...] = get_args(Move)
CAMERAS: tuple[Camera, ...] = get_args(Camera)
OPPOSITES: dict[str, str] = {
    "left": "right",
    "right": "left",
    "up": "down",
    "down": "up",
    "clockwise": "anticlockwise",
    "anticlockwise": "clockwise",
    "growing": "shrinking",
    "shrinking": "growing",
    "in": "out",
    "out": "in",
}
TRAVEL: dict[Speed, float] = {"slowly": 0.10, "quickly": 0.24}  # picture heights a second
TURN: dict[Speed, float] = {"slowly": 25.0, "quickly": 60.0}  # degrees a second
GROWTH: dict[Speed, float] = {"slowly": 0.12, "quickly": 0.28}  # of the logarithm of the size, a second
PACE = Pace(TRAVEL, TURN, GROWTH)
DURATION = 15 / 8  # seconds from the first to the last of 16 frames at 8 fps
_ASPECT = 12 / 7  # of the picture that scenes are placed in


@dataclass(frozen=True)
class Thing:
    """An emoji at the first frame, and what it does.

    Attributes:
        code: of the emoji.
        size: height of its square picture, in picture heights.
        x, y: its centre.
        alive: whether its own animation runs.
        start: seconds into its animation at the first frame.
        move: of the whole of it.
        speed: of the move.
    """

    code: str
    size: float
    x: float
    y: float
    alive: bool = False
    start: float = 0.0
    move: Move = "still"
    speed: Speed = "slowly"

    @property
    def velocity(self) -> tuple[float, float]:
        """Picture heights a second, to the right and down."""
        return PACE.velocity(self.move, self.speed)

    @property
    def turn_rate(self) -> float:
        """Degrees a second, clockwise."""
        return PACE.turn_rate(self.move, self.speed)

    @property
    def growth(self) -> float:
        """Growth g a second: after t seconds the size is size * exp(g * t)."""
        return PACE.growth(self.move, self.speed)


@dataclass(frozen=True)
class Ground:
    """What is behind the things.

    Attributes:
        kind: of what sort.
        colours: three, whose meaning is the kind's.
        seed: of its forms; of a photograph, its number.
        angle: of a gradient, in degrees; of a photograph, its zoom.
    """

    kind: GroundKind
    colours: tuple[Rgb, Rgb, Rgb]
    seed: int
    angle: float = 0.0


@dataclass(frozen=True)
class Scene:
    """Everything that determines a clip at any size and frame rate.

    Attributes:
        things: the first is the main one and in front; none before a photograph.
        ground: behind them.
        camera: what it does.
        speed: of the camera.
    """

    things: tuple[Thing, ...]
    ground: Ground
    camera: Camera = "still"
    speed: Speed = "slowly"

    @property
    def determined(self) -> bool:
        """Whether first frame and caption say all: nothing lives of its own accord."""
        return not any(thing.alive for thing in self.things)

    @property
    def moves(self) -> bool:
        """Whether the main thing moves as a whole, or the camera does."""
        return self.camera != "still" or any(thing.move != "still" for thing in self.things[:1])


@dataclass(frozen=True)
class Clip:
    """A rendered scene and its truth.

    Attributes:
        frames: [F, H, W, 3] float32 in 0..1.
        masks: [F, things, H, W] in 0..1, how much of each pixel shows that thing; what is hidden is not counted.
        fps: frames a second.
    """

    frames: Tensor
    masks: Tensor
    fps: float


def sample_scene(emoji: EmojiFolder, seed: int, split: Split = "train", photos: Photos | None = None) -> Scene:
    """Draws a scene; the same arguments and folder always give the same one.

    Args:
        emoji: what is drawn from.
        seed: any whole number.
        split: which emoji, and which photographs; the same seed gives unrelated scenes in both.
        photos: for scenes that a camera moves over; none if None.
    """
    rng = random.Random(f"alive {split} {seed}")
    if photos is not None and photos.count(split) and rng.random() < 0.15:
        return _photograph(rng, photos, split)
    speed: Speed = rng.choice(("slowly", "quickly"))
    u = rng.random()
    if u < 0.45:  # it lives
        main = replace(_thing(rng, emoji, split, moving=True), alive=True, start=0.0)
        if rng.random() < 0.15:
            main = _placed(rng, replace(main, move=rng.choice(MOVES[1:5]), speed=speed))
    elif u < 0.88:  # it moves as a whole
        move = rng.choice(MOVES[1:5] * 2 + MOVES[5:])
        main = _placed(rng, replace(_thing(rng, emoji, split), move=move, speed=speed))
    else:
        main = _thing(rng, emoji, split)
    things = [main]
    if rng.random() < 0.15 and main.size < 0.9:
        things = _two(rng, emoji, split, main)
    camera: Camera = "still"
    if main.move == "still" and rng.random() < (0.15 if main.alive else 0.6):
        camera = rng.choice(CAMERAS[1:])
    kinds: tuple[GroundKind, ...] = ("plain", "gradient", "room", "hills", "sea", "night")
    kind = rng.choice(kinds if camera == "still" else kinds[1:])  # a pan over a plain ground would be a thing's move
    return Scene(tuple(things), _ground(rng, kind), camera, rng.choice(("slowly", "quickly")))


def opposite(scene: Scene) -> Scene:
    """The scene with the same first frame whose main thing, or else the camera, does the opposite.

    Raises:
        InputError: nothing in it has an opposite.
    """
    if scene.things and scene.things[0].move in OPPOSITES:
        main = scene.things[0]
        return replace(scene, things=(replace(main, move=OPPOSITES[main.move]), *scene.things[1:]))  # type: ignore[arg-type]
    if scene.camera in OPPOSITES:
        return replace(scene, camera=OPPOSITES[scene.camera])  # type: ignore[arg-type]
    raise InputError("the scene", "a move that has an opposite", "none", "Choose another seed.")


def caption(emoji: EmojiFolder, scene: Scene, seed: int = 0) -> str:
    """A description in plain English: every thing and what it does, the camera's move, and at times the ground.

    The seed chooses the wording; a scene and its opposite get the same one, but for the words of the move.
    """
    rng = random.Random(f"caption {seed}")
    parts = []
    for thing in scene.things:
        name = emoji[thing.code].name
        does = []
        if thing.alive:
            does.append(action(rng, name, emoji[thing.code].group))
        if thing.move != "still" or not thing.alive:
            does.append(travel_words(rng, thing.move, thing.speed))
        parts.append(f"{noun(name)} {' and '.join(agreed(verb, name) for verb in does)}")
    text = rng.choice((" while ", ", and ")).join(parts)
    ground = background_words(rng, scene.ground.kind)
    if scene.things and rng.random() < 0.4:
        text += f" {ground}"
    if not scene.things or scene.camera != "still":
        camera = camera_words(rng, scene.camera, scene.speed)
        text = f"{text}, while {camera}" if text else camera
    return f"{text[0].upper()}{text[1:]}."


def subject(emoji: EmojiFolder, scene: Scene) -> str:
    """What is to be seen, without motion or ground: the brief prompt of the refiner."""
    return " and ".join(noun(emoji[thing.code].name) for thing in scene.things) or "a photograph"


def render(
    emoji: EmojiFolder,
    scene: Scene,
    width: int,
    height: int,
    frames: int,
    fps: float,
    photos: Photos | None = None,
    still: bool = False,
) -> Clip:
    """Renders a scene, anti-aliased; every size shows the same clip.

    Args:
        emoji: the pictures.
        scene: what to render.
        width, height: in pixels.
        frames: how many, the first at 0 seconds.
        fps: frames a second.
        photos: of a scene whose ground is one.
        still: show each emoji at one moment, which is quick: nothing is decoded.
    """
    times = torch.arange(frames, dtype=torch.float32) / fps
    pan_x, pan_y, zoom = _camera(scene, times)
    pixel = 1 / height
    x = ((torch.arange(width) + 0.5) * pixel - width * pixel / 2).view(1, 1, -1)
    y = ((torch.arange(height) + 0.5) * pixel - 0.5).view(1, -1, 1)
    x, y = x / zoom + pan_x, y / zoom + pan_y  # [F, 1, W], [F, H, 1]
    if scene.camera == "still":  # a ground that stands still is rendered once
        pixels = _paint(scene.ground, x[:1], y[:1], pixel, photos).expand(frames, -1, -1, -1).clone()
    else:
        pixels = _paint(scene.ground, x, y, pixel, photos).contiguous()
    masks = torch.zeros(frames, len(scene.things), height, width)
    for index in reversed(range(len(scene.things))):
        thing = scene.things[index]
        shown = emoji.still(thing.code, thing.start / 2 % 1)[None] if still else emoji.frames(thing.code)
        rgba = _sampled(shown, thing, times, x, y, height * float(torch.maximum(zoom, 1 / zoom).max()))
        cover = rgba[:, 3]
        pixels = pixels * (1 - cover[..., None]) + rgba[:, :3].movedim(1, -1)
        masks *= 1 - cover[:, None]
        masks[:, index] = cover
    return Clip(pixels.clamp(0, 1), masks, fps)


@dataclass(frozen=True)
class Alive:
    """Clips of the world by number, as training's sources are.

    Args:
        emoji: what is drawn from.
        photos: for a camera to move over; none if None.
        seed: scenes of different seeds do not meet.
        split: which emoji and photographs.
    """

    emoji: EmojiFolder
    photos: Photos | None = None
    seed: int = 0
    split: Split = "train"

    @staticmethod
    def at(path: Path, seed: int = 0, split: Split = "train") -> Alive:
        """The world of a prepared folder."""
        return Alive(EmojiFolder(path), Photos(path), seed, split)

    def scene(self, number: int) -> Scene:
        """The scene of a number."""
        return sample_scene(self.emoji, number + self.seed * 10**9, self.split, self.photos)

    def clip(self, number: int, width: int, height: int, frames: int, fps: float) -> Sample:
        scene = self.scene(number)
        clip = render(self.emoji, scene, width, height, frames, fps, self.photos)
        return Sample(clip.frames, fps, caption(self.emoji, scene, number), subject(self.emoji, scene))

    def picture(self, number: int, width: int, height: int) -> Tensor:
        """The first frame of a scene, with emoji at any moment of their animations."""
        return render(self.emoji, self.scene(number), width, height, 1, FPS, self.photos, still=True).frames[0]


def _thing(rng: random.Random, emoji: EmojiFolder, split: Split, moving: bool = False) -> Thing:
    """A large one that stands still, about the middle."""
    code = rng.choice(rng.choice(emoji.families(split, moving))).code
    size = rng.uniform(0.75, 1.08)
    room = max(0.0, (_ASPECT - size) / 2)
    return Thing(code, size, rng.uniform(-room, room) * 0.9, rng.uniform(-0.06, 0.06), start=rng.uniform(0, 2))


def _placed(rng: random.Random, thing: Thing) -> Thing:
    """Where it stays in the picture on its path and on the opposite one, so that its place does not tell the direction."""
    size = min(thing.size, 0.85) if thing.move in ("up", "down", "growing") else thing.size
    largest = size * math.exp(abs(thing.growth) * DURATION)
    reach_x, reach_y = (abs(speed) * DURATION for speed in thing.velocity)
    room_x = max(0.0, (_ASPECT - 0.9 * largest) / 2 - reach_x)
    room_y = max(0.0, (1.25 - largest) / 2 - reach_y)
    return replace(thing, size=size, x=rng.uniform(-room_x, room_x), y=rng.uniform(-room_y, room_y))


def _two(rng: random.Random, emoji: EmojiFolder, split: Split, main: Thing) -> list[Thing]:
    """A second one beside the main one; both in their halves."""
    size = rng.uniform(0.6, 0.72)
    side = rng.choice((-1, 1))
    main = replace(main, size=size, x=side * 0.44)
    other = replace(_thing(rng, emoji, split), size=rng.uniform(0.6, 0.72), x=-side * 0.44)
    if emoji[other.code].family in CAST and rng.random() < 0.5:
        other = replace(other, alive=True, start=0.0)
    return [main, other]


def _colour(rng: random.Random, low: float, high: float, saturation: float) -> Rgb:
    return colorsys.hsv_to_rgb(rng.random(), rng.uniform(0.02, saturation), rng.uniform(low, high))


def _ground(rng: random.Random, kind: GroundKind) -> Ground:
    if kind in ("plain", "gradient", "room"):
        low, high = rng.choice(((0.75, 1.0), (0.45, 0.8), (0.1, 0.4)))
        colours = tuple(_colour(rng, low, high, 0.55) for _ in range(3))
    elif kind == "hills":
        sky, far = _colour(rng, 0.8, 1.0, 0.35), _colour(rng, 0.5, 0.85, 0.5)
        hue = rng.choice((rng.uniform(0.2, 0.4), rng.uniform(0.07, 0.14)))  # green, or sand
        colours = (sky, far, colorsys.hsv_to_rgb(hue, rng.uniform(0.3, 0.65), rng.uniform(0.45, 0.85)))
    elif kind == "sea":
        hue = rng.uniform(0.48, 0.62)
        sky = colorsys.hsv_to_rgb(rng.choice((hue, rng.uniform(0, 0.12))), rng.uniform(0.1, 0.4), rng.uniform(0.85, 1))
        sand = colorsys.hsv_to_rgb(rng.uniform(0.09, 0.14), rng.uniform(0.2, 0.4), rng.uniform(0.8, 0.95))
        colours = (sky, colorsys.hsv_to_rgb(hue, rng.uniform(0.4, 0.75), rng.uniform(0.5, 0.85)), sand)
    else:
        hue = rng.uniform(0.55, 0.78)
        colours = tuple(colorsys.hsv_to_rgb(hue, rng.uniform(0.4, 0.7), v) for v in (0.12, 0.35, 0.2))
    return Ground(kind, colours, rng.getrandbits(31), rng.uniform(0, 360))  # type: ignore[arg-type]


def _photograph(rng: random.Random, photos: Photos, split: Split) -> Scene:
    """A photograph that a camera moves over."""
    grey = (0.5, 0.5, 0.5)
    ground = Ground("photo", (grey, grey, grey), photos.draw(rng, split), rng.random())
    return Scene((), ground, rng.choice(CAMERAS), rng.choice(("slowly", "quickly")))


_CAMERA_TRAVEL: dict[Speed, float] = {"slowly": 0.10, "quickly": 0.22}
_CAMERA_ZOOM: dict[Speed, float] = {"slowly": 0.10, "quickly": 0.22}  # of the logarithm of the size, a second


def _camera(scene: Scene, times: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Where the camera looks, x and y, and how near it is, [F, 1, 1]: a camera that pans left looks further to the left."""
    x, y = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}.get(scene.camera, (0, 0))
    zoom = {"in": 1, "out": -1}.get(scene.camera, 0) * _CAMERA_ZOOM[scene.speed]
    times = times.view(-1, 1, 1)
    travel = _CAMERA_TRAVEL[scene.speed] * times
    return x * travel, y * travel, torch.exp(zoom * times)


def _sampled(shown: Tensor, thing: Thing, times: Tensor, x: Tensor, y: Tensor, scale: float) -> Tensor:
    """The thing's picture at world places, [F, 4, H, W], premultiplied.

    Args:
        shown: its animation, [F, 256, 256, 4].
        thing: which, and where.
        times: seconds, [F].
        x, y: of the pixels, [F, 1, W] and [F, H, 1].
        scale: pixels a picture height, at the most.
    """
    moments = (times if thing.alive else times[:1] * 0) + thing.start
    picture = shown[((moments * FPS).long()) % len(shown)].movedim(-1, 1).float() / 255
    sizes = (thing.size * torch.exp(thing.growth * times)).view(-1, 1, 1)
    # 1.5 times as large, so that the second resampling does not blur; and the same for the opposite, for one first frame.
    side = math.ceil(1.5 * scale * thing.size * math.exp(abs(thing.growth) * float(times[-1])))
    if side < picture.shape[-1]:
        picture = F.interpolate(picture, size=(side, side), mode="bilinear", antialias=True)
    speed_x, speed_y = thing.velocity
    seconds = times.view(-1, 1, 1)
    u, v = (x - thing.x - speed_x * seconds) / sizes * 2, (y - thing.y - speed_y * seconds) / sizes * 2
    turned = torch.deg2rad(thing.turn_rate * seconds)
    cos, sin = torch.cos(turned), torch.sin(turned)
    grid = torch.stack(torch.broadcast_tensors(u * cos + v * sin, v * cos - u * sin), dim=-1)
    picture = picture.expand(len(grid), -1, -1, -1)
    return F.grid_sample(picture, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def _paint(ground: Ground, x: Tensor, y: Tensor, pixel: float, photos: Photos | None) -> Tensor:
    """Colours [F, H, W, 3] at world places x [F, 1, W] and y [F, H, 1]."""
    first, second, third = (x.new_tensor(colour) for colour in ground.colours)
    rng = random.Random(f"ground {ground.seed}")
    shape = torch.broadcast_shapes(x.shape, y.shape)
    if ground.kind == "photo":
        if photos is None:
            raise InputError("the scene", "photographs", "none", "Give those of the prepared folder.")
        return photos.at(ground.seed, ground.angle, x, y)
    if ground.kind == "plain":
        return first.expand(*shape, 3)
    if ground.kind == "gradient":
        angle = math.radians(ground.angle)
        along = x * math.cos(angle) + y * math.sin(angle)
        return torch.lerp(first, second, (0.5 + along / 2.4).clamp(0, 1)[..., None])
    horizon = rng.uniform(0.05, 0.35)
    if ground.kind == "room":
        wall = torch.lerp(first, second, (0.5 + (x + 0 * y) / 4).clamp(0, 1)[..., None] * 0.5)
        return _over(wall, third, y - horizon + 0 * x, pixel)
    if ground.kind == "sea":
        sky = torch.lerp(first, second.new_ones(3), ((y + 0.6) / 1.4).clamp(0, 1)[..., None] * 0.6 + 0 * x[..., None])
        shade = (1 - 0.25 * (y - horizon).clamp(0, 1))[..., None]
        picture = _over(sky, second * shade, y - horizon * 0.6 + 0 * x, pixel)
        return _over(picture, third, y - (horizon * 0.4 + 0.32) - _wave(rng, x, 0.03), pixel)
    sky = torch.lerp(first, second, ((y + 0.7) / 1.6).clamp(0, 1)[..., None] * 0.5 + 0 * x[..., None])
    if ground.kind == "night":
        sun_x, sun_y, radius = rng.uniform(-0.7, 0.7), rng.uniform(-0.4, -0.2), rng.uniform(0.06, 0.1)
        sky = _over(sky, second.new_tensor((0.95, 0.94, 0.85)), radius - torch.hypot(x - sun_x, y - sun_y), pixel)
    far = y - horizon + 0.15 - _wave(rng, x, 0.10)
    near = y - horizon - 0.05 - _wave(rng, x, 0.06)
    shade = (1 - 0.3 * (y - horizon).clamp(0, 1))[..., None]
    return _over(_over(sky, torch.lerp(second, third, 0.35), far, pixel), third * shade, near, pixel)


def _wave(rng: random.Random, x: Tensor, height: float) -> Tensor:
    """A soft line, for hills and shores."""
    phases: Sequence[float] = [rng.uniform(0, 6.28) for _ in range(2)]
    return height * (torch.sin(x * rng.uniform(1.6, 3.0) + phases[0]) + 0.4 * torch.sin(x * 5 + phases[1]))


def _over(below: Tensor, colour: Tensor, inside: Tensor, pixel: float) -> Tensor:
    """A form over a picture: it covers where `inside` is above 0, with soft edges."""
    return torch.lerp(below, colour.expand_as(below), (0.5 + inside / pixel).clamp(0, 1)[..., None])
