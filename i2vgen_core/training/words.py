"""The plain English of captions: what a thing is, what it does, how the camera moves."""

from __future__ import annotations

import random

ACTIONS: dict[str, str] = {}
"""What emoji do of their own accord, by name, where it can be said."""

_MOVES = ("moves", "comes alive", "is moving", "moves by itself")
_FACES = ("moves", "makes a face", "comes alive")
_STILL = ("stays still", "stands still", "does not move", "rests in place")
_TRAVEL = ("moves", "slides", "glides", "travels")
_DIRECTIONS = {
    "left": ("left", "to the left"),
    "right": ("right", "to the right"),
    "up": ("up", "upwards"),
    "down": ("down", "downwards"),
}
_TURNS = ("turns", "rotates", "spins")
_GROWS = {
    "growing": ("grows", "gets bigger"),
    "shrinking": ("shrinks", "gets smaller"),
}
_SPEEDS = {"slowly": ("slowly", "gently"), "quickly": ("quickly", "fast")}
_GROUNDS = {
    "plain": ("before a plain background", "on a plain background"),
    "gradient": ("before a soft background", "on a gradient background"),
    "room": ("in a room", "before a wall"),
    "hills": ("in front of hills", "on a meadow"),
    "sea": ("at the sea", "on a beach"),
    "night": ("at night", "under the moon"),
    "photo": ("", ""),
}
_PLURALS = ("s",)
_SINGULARS = ("ss", "us", "dress", "lens", "compass", "octopus", "brass", "lotus", "abacus", "cactus", "t rex")


def noun(name: str) -> str:
    """A name with its article: "an elephant", "french fries"."""
    last = name.split()[-1]
    if last.endswith(_PLURALS) and not last.endswith(_SINGULARS):
        return name
    return f"{'an' if name[0] in 'aeio' else 'a'} {name}"


def action(rng: random.Random, name: str, group: str) -> str:
    """What it does of its own accord, as a verb with what belongs to it."""
    if name in ACTIONS:
        return ACTIONS[name]
    return rng.choice(_FACES if group == "Smileys & Emotion" else _MOVES)


def travel_words(rng: random.Random, move: str, speed: str) -> str:
    """A move of the whole thing: "slides to the left slowly"."""
    if move == "still":
        return rng.choice(_STILL)
    if move in _GROWS:
        words = [rng.choice(_GROWS[move])]
    elif move in _DIRECTIONS:
        words = [rng.choice(_TRAVEL), rng.choice(_DIRECTIONS[move])]
    else:
        words = [rng.choice(_TURNS), move]
    words.insert(rng.randint(1, len(words)), rng.choice(_SPEEDS[speed]))
    return " ".join(words)


def camera_words(rng: random.Random, camera: str, speed: str) -> str:
    """What the camera does: "the camera slowly pans left"."""
    how = rng.choice(_SPEEDS[speed])
    if camera == "still":
        return rng.choice(("the camera stands still", "nothing moves", "the camera does not move"))
    verb = "zooms" if camera in ("in", "out") else rng.choice(("pans", "moves"))
    return rng.choice((f"the camera {how} {verb} {camera}", f"the camera {verb} {camera} {how}"))


def background_words(rng: random.Random, kind: str) -> str:
    """Where it is: "on a beach"."""
    return rng.choice(_GROUNDS[kind])
