"""Thumbnails of the templates whose files do not come with the pack, so that no run can show what they make.

    python -m tests.templates.drawn

After `make --pictures`, which gives them their graphs. Above is what goes in, below what comes of it, said to be drawn.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from PIL import Image, ImageDraw, ImageFilter

from i2vgen_core.media.rendering import Clip, render
from i2vgen_core.media.world import Background, Scene, Shape

from .family import depth_to_video, four_steps, masked_to_video, person_to_video, sketch_to_video, text_to_video
from .graph import Graph
from .make import PLAYED, SIDE, WORKFLOWS, save_thumbnail
from .restoring import enlarge_video, restore_video

Frames = list[Image.Image]

_SIZE = SIDE, SIDE // 2
_SCENE = Scene(
    (
        Shape("star", "orange", "flat", 0.2, 0.3, 0.45, 10.0, "right", "slowly"),
        Shape("circle", "blue", "glossy", 0.14, 0.8, 0.62, 0.0, "still", "slowly"),
    ),
    Background("gradient", ("azure", "cream"), 90.0, 0.3, (0.0, 0.0)),
)
_NEAR = 1.0, 0.6
"""How near the two shapes are."""


def _pictures(frames: torch.Tensor) -> Frames:
    return [Image.fromarray((frame * 255).round().to(torch.uint8).numpy()) for frame in frames]


def _video(clip: Clip) -> Frames:
    return _pictures(clip.frames)


def _lines(clip: Clip) -> Frames:
    edges = [frame.convert("L").filter(ImageFilter.FIND_EDGES) for frame in _video(clip)]
    return [frame.point(lambda light: 255 * (light > 40)).convert("RGB") for frame in edges]


def _depth(clip: Clip) -> Frames:
    far = torch.linspace(0.1, 0.4, _SIZE[1])[:, None].expand(*_SIZE[::-1])  # the ground comes nearer downwards
    nearness = sum(near * mask for near, mask in zip(_NEAR, clip.masks.unbind(1), strict=True))
    depth = nearness + far * (1 - clip.masks.sum(1))
    return _pictures(depth[..., None].expand(-1, -1, -1, 3))


def _masked(clip: Clip) -> Frames:
    frames = _video(clip)
    for frame in frames:
        ImageDraw.Draw(frame).rectangle((40, 30, 200, 130), fill=(128, 128, 128))
    return frames


def _photo(clip: Clip) -> Frames:
    return _video(clip)[:1]


def _sentence(_: Clip) -> Frames:
    page = Image.new("RGB", _SIZE, (38, 38, 44))
    ImageDraw.Draw(page).text((20, 38), "“An orange star slides\nto the right.”", fill="white", font_size=22)
    return [page]


def _old(clip: Clip) -> Frames:
    grain = torch.randn(1, *_SIZE[::-1], 1, generator=torch.Generator().manual_seed(0))  # still: moving, it is 300 kB
    grey = clip.frames.mean(-1, keepdim=True).expand_as(clip.frames)
    soft = [frame.filter(ImageFilter.GaussianBlur(2)) for frame in _pictures(0.5 * clip.frames + 0.5 * grey)]
    worn = torch.stack([torch.frombuffer(bytearray(frame.tobytes()), dtype=torch.uint8) for frame in soft])
    return _pictures((worn.reshape(clip.frames.shape) / 255 + 0.05 * grain).clamp(0, 1))


def _small(clip: Clip) -> Frames:
    small = [frame.resize((_SIZE[0] // 8, _SIZE[1] // 8)) for frame in _video(clip)]
    return [small[number // 4 * 4].resize(_SIZE, Image.Resampling.NEAREST) for number in range(len(small))]


def _walker(number: int) -> dict[str, tuple[float, float]]:
    """Joints of somebody who waves, in the picture's pixels."""
    turn = math.sin(2 * math.pi * number / PLAYED)
    return {
        "head": (160, 32),
        "neck": (160, 52),
        "hip": (160, 98),
        "left hand": (200 + 8 * turn, 30 - 6 * abs(turn)),
        "left elbow": (190, 58),
        "right elbow": (134, 74),
        "right hand": (130 + 4 * turn, 98),
        "left knee": (176, 122),
        "left foot": (180, 150),
        "right knee": (146, 122),
        "right foot": (142, 150),
    }


_BODY = [
    ("neck", "hip", "green"),
    ("neck", "left elbow", "gold"),
    ("left elbow", "left hand", "orange"),
    ("neck", "right elbow", "tomato"),
    ("right elbow", "right hand", "red"),
    ("hip", "left knee", "deepskyblue"),
    ("left knee", "left foot", "blue"),
    ("hip", "right knee", "violet"),
    ("right knee", "right foot", "purple"),
    ("head", "neck", "magenta"),
]


def _poses(_: Clip) -> Frames:
    return [_figure(_walker(number), (0, 0, 0), None) for number in range(PLAYED)]


def _person(_: Clip) -> Frames:
    return [_figure(_walker(number), (203, 214, 222), (70, 84, 120)) for number in range(PLAYED)]


def _figure(
    joints: dict[str, tuple[float, float]], ground: tuple[int, int, int], cloth: tuple[int, int, int] | None
) -> Image.Image:
    """Bones in colours, or somebody in cloth."""
    picture = Image.new("RGB", _SIZE, ground)
    draw = ImageDraw.Draw(picture)
    for start, end, colour in _BODY:
        width = 4 if cloth is None else 34 if (start, end) == ("neck", "hip") else 13
        draw.line((joints[start], joints[end]), fill=cloth or colour, width=width)
        for x, y in (joints[start], joints[end]):
            draw.circle((x, y), width / 2, fill=cloth or colour)
    x, y = joints["head"]
    draw.circle((x, y), 5 if cloth is None else 15, fill="magenta" if cloth is None else (228, 184, 150))
    return picture


DRAWN: dict[Callable[[], Graph], tuple[str, Callable[[Clip], Frames], str, Callable[[Clip], Frames]]] = {
    sketch_to_video: ("lines of a video", _lines, "a video that has them (drawn)", _video),
    depth_to_video: ("depth of a video", _depth, "a video that has it (drawn)", _video),
    masked_to_video: ("a mask over time", _masked, "filled in (drawn)", _video),
    four_steps: ("picture", _photo, "four steps (drawn)", _video),
    person_to_video: ("poses", _poses, "a person follows (drawn)", _person),
    text_to_video: ("text alone", _sentence, "video (drawn)", _video),
    restore_video: ("an old video", _old, "restored (drawn)", _video),
    enlarge_video: ("small, few frames", _small, "larger, smoother (drawn)", _video),
}
"""What goes in and what comes of it, each with its label."""


def main() -> None:
    clip = render(_SCENE, *_SIZE, frames=PLAYED, fps=8)
    for make, (given, above, made, below) in DRAWN.items():
        save_thumbnail([(given, above(clip)), (made, below(clip))], WORKFLOWS / f"{make().title}.jpg")


if __name__ == "__main__":
    main()
