"""What happens in a scene of the small world, in words."""

from __future__ import annotations

import random

from .world import Background, Motion, Scene, Shape, Speed

_VERBS: dict[str, tuple[tuple[str, str], ...]] = {
    "travel": (("moves", "moving"), ("slides", "sliding"), ("glides", "gliding"), ("travels", "travelling")),
    "turn": (("turns", "turning"), ("rotates", "rotating"), ("spins", "spinning")),
    "growing": (("grows", "growing"), ("gets bigger", "getting bigger"), ("expands", "expanding")),
    "shrinking": (("shrinks", "shrinking"), ("gets smaller", "getting smaller"), ("contracts", "contracting")),
    "still": (
        ("stays still", "staying still"),
        ("stands still", "standing still"),
        ("rests in place", "resting in place"),
        ("does not move", "not moving"),
    ),
}
_DIRECTIONS: dict[Motion, tuple[str, ...]] = {
    "left": ("left", "to the left", "leftwards", "towards the left"),
    "right": ("right", "to the right", "rightwards", "towards the right"),
    "up": ("up", "to the top", "upwards", "towards the top"),
    "down": ("down", "to the bottom", "downwards", "towards the bottom"),
    "clockwise": ("clockwise", "in a clockwise direction"),
    "anticlockwise": ("anticlockwise", "in an anticlockwise direction"),
}
_SPEEDS: dict[Speed, tuple[str, ...]] = {
    "slowly": ("slowly", "gently", "at a slow pace"),
    "quickly": ("quickly", "swiftly", "at a fast pace"),
}


def caption(scene: Scene, seed: int = 0) -> str:
    """A description in plain English: colour, kind and motion of every shape, a pan, and sometimes texture and background.

    The seed chooses the wording; a scene and its opposite get the same one, but for the words of the motion.
    """
    rng = random.Random(f"caption {seed}")
    noun = _noun(scene.shapes[0], mention_texture=rng.random() < 0.5)
    verb, participle = _motion_words(rng, scene.shapes[0])
    text = rng.choice(
        (f"{noun} {verb}", f"{noun} {participle}", f"a video of {noun} {participle}", f"there is {noun} {participle}")
    )
    for shape in scene.shapes[1:]:
        text += (
            rng.choice((" while ", ", and ")) + _noun(shape, rng.random() < 0.5) + " " + _motion_words(rng, shape)[0]
        )
    if rng.random() < 0.5:
        text += rng.choice((", on ", ", against ", ", in front of ")) + _background_words(rng, scene.background)
    if scene.pan:
        side = "right" if scene.pan > 0 else "left"
        text += rng.choice(
            (f", while the camera pans {side}", f". The camera pans to the {side}", f", camera panning {side}")
        )
    return f"{text[0].upper()}{text[1:]}."


def short_prompt(scene: Scene) -> str:
    """What is to be seen, without motion or background: the brief prompt of the refiner."""
    return " and ".join(_noun(shape, mention_texture=False) for shape in scene.shapes)


def _motion_words(rng: random.Random, shape: Shape) -> tuple[str, str]:
    """The motion with a finite verb and with a participle."""
    if shape.motion == "still":
        return rng.choice(_VERBS["still"])
    if shape.motion in ("growing", "shrinking"):
        verbs, direction = rng.choice(_VERBS[shape.motion]), ""
    else:
        verbs = rng.choice(_VERBS["travel" if any(shape.velocity) else "turn"])
        direction = rng.choice(_DIRECTIONS[shape.motion])
    words = [direction, rng.choice(_SPEEDS[shape.speed])]
    if rng.random() < 0.5:
        words.reverse()
    finite, participle = (" ".join(filter(None, (verb, *words))) for verb in verbs)
    return finite, participle


def _noun(shape: Shape, mention_texture: bool) -> str:
    texture = f"{shape.texture} " if mention_texture and shape.texture != "flat" else ""
    return _article(f"{texture}{shape.colour} {shape.kind}")


def _background_words(rng: random.Random, background: Background) -> str:
    colour, second = background.colours
    if background.pattern == "gradient":
        return f"a background fading from {colour} to {second}"
    adjectives = {
        "plain": ("", "plain "),
        "stripes": ("striped ", ""),
        "checks": ("chequered ", ""),
        "dots": ("dotted ", ""),
    }
    return _article(f"{rng.choice(adjectives[background.pattern])}{colour} background")


def _article(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"
