"""The plain English of captions: what a thing is, what it does, how the camera moves."""

from __future__ import annotations

import random
import re

_ACTIONS_OF: dict[str, str] = {
    "flaps its ears": "elephant",
    "walks": "ox, water buffalo, cow, tiger, leopard, dog, pig, goat, ram, ewe, poodle, camel, two hump camel, llama, deer, "
    "giraffe, rhinoceros, hippopotamus, mammoth, bison, badger, hedgehog, skunk, guide dog, sauropod, gorilla, t rex",
    "gallops": "horse",
    "runs": "zebra",
    "stretches": "cat, black cat",
    "hops": "rabbit, baby chick, front facing baby chick, kangaroo",
    "jumps": "monkey, cricket",
    "flips its tail": "whale",
    "blows water": "spouting whale",
    "crawls": "snail, crocodile, lizard, ant, lady beetle, spider, cockroach, bug, worm, scorpion",
    "flicks its tongue": "snake",
    "swims": "octopus, fish, tropical fish, shark, squid, shrimp",
    "leaps": "dolphin",
    "puffs up": "blowfish",
    "hides in its shell": "turtle",
    "peeps out of its egg": "hatching chick",
    "waddles": "penguin, dodo",
    "tilts its head": "koala, bear, panda, polar bear, tiger face, pig face, mouse face, rabbit face, hamster, raccoon, "
    "dog face, cat face",
    "nods": "cow face, horse face, unicorn, dragon face, rooster, chicken, rat, mouse, boar, seal",
    "roars": "lion",
    "looks from side to side": "owl, eye, eyes",
    "flaps its wings": "eagle, dove, bat, butterfly, honeybee, mosquito, fly",
    "opens its wings": "beetle",
    "spreads its tail": "peacock",
    "bobs up and down": "duck, swan, bird, parrot, flamingo",
    "drops its petals": "wilted flower",
    "drives": "bus, minibus, taxi, oncoming taxi, automobile, oncoming automobile, police car, oncoming police car, "
    "delivery truck, tractor, articulated lorry, fire engine, ambulance, motorcycle, racing car, auto rickshaw, trolleybus, "
    "sport utility vehicle, locomotive, tram car, light rail",
    "rocks on the waves": "ship, speedboat, motor boat, passenger ship, ferry, sailboat, canoe",
    "flies": "helicopter, airplane, small airplane, airplane departure, airplane arrival, flying saucer, rocket, comet",
    "rolls": "water wave, roller skate",
    "turns round": "ferris wheel, star, snowflake",
    "burns": "fire, heart on fire",
    "shines": "sun, sun with face, glowing star",
    "drifts": "cloud, sun behind cloud, sun behind small cloud, sun behind large cloud",
    "rains": "cloud with rain, sun behind rain cloud",
    "snows": "cloud with snow",
    "flashes": "cloud with lightning, cloud with lightning and rain, high voltage, camera with flash",
    "falls": "droplet",
    "sways": "umbrella, closed umbrella, snowman, snowman without snow, teddy bear, christmas tree, wood",
    "turns over": "hourglass done, hourglass not done",
    "ticks": "watch, stopwatch",
    "swings its needle": "compass",
    "sprays water": "fountain",
    "clinks": "clinking beer mugs, clinking glasses",
    "pops": "bottle with popping cork",
    "bursts": "party popper",
    "steams": "hot beverage, teacup without handle",
    "waves its claws": "crab, lobster",
    "laughs": "jack o lantern",
    "glitters": "crystal ball",
    "beats": "beating heart, red heart, anatomical heart, blue heart, green heart, yellow heart, purple heart, black heart, "
    "white heart, brown heart, orange heart",
    "waves": "waving hand",
    "claps": "clapping hands",
    "flexes": "flexed biceps, mechanical arm",
    "writes": "writing hand",
    "opens and closes": "mouth, ok hand, pinching hand, raised hand",
}
ACTIONS = {name: action for action, names in _ACTIONS_OF.items() for name in names.split(", ")}
"""What emoji do of their own accord, by name, where it can be said."""

_PEOPLE = {
    "running": "runs",
    "walking": "walks",
    "swimming": "swims",
    "surfing": "surfs",
    "biking": "rides a bicycle",
    "lifting weights": "lifts weights",
    "dancing": "dances",
    "cartwheeling": "turns a cartwheel",
    "bowing": "bows",
    "raising hand": "raises a hand",
    "tipping hand": "holds out a hand",
    "shrugging": "shrugs",
    "facepalming": "covers the face",
    "gesturing no": "crosses both arms",
    "gesturing ok": "lifts both arms",
    "frowning": "frowns",
    "pouting": "pouts",
    "fencing": "fences",
    "getting massage": "gets a massage",
    "getting haircut": "gets a haircut",
    "in lotus position": "meditates",
}
"""What "man", "woman" or "person" may be followed by, and what that person then does."""

_FACE_ACTIONS = {
    "tears of joy": "laughs with tears",
    "rolling on the floor": "rolls with laughter",
    "laugh|squinting|beaming|grinning": "grins",
    "cry|tear": "cries",
    "wink": "winks",
    "kiss": "blows a kiss",
    "sleep|sleepy": "sleeps",
    "yawn": "yawns",
    "sneez": "sneezes",
    "vomit": "vomits",
    "explod": "explodes",
    "scream": "screams",
    "angry|pouting|steam": "gets angry",
    "tongue": "sticks out the tongue",
    "rolling eyes": "rolls the eyes",
    "cat$|monkey": "tilts its head",
    "heart": "beats",
}
"""Of smileys, by what their names contain; the first that fits."""

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
_SPEEDS = {"slowly": ("slowly", "gently"), "quickly": ("quickly", "swiftly")}
_GROUNDS = {
    "plain": ("before a plain background", "on a plain background"),
    "gradient": ("before a soft background", "on a gradient background"),
    "room": ("in a room", "before a wall"),
    "hills": ("in front of hills", "on a meadow"),
    "sea": ("at the sea", "on a beach"),
    "night": ("at night", "under the moon"),
    "photo": ("", ""),
}
_SINGULARS = ("ss", "us", "is", "ros")
_IRREGULAR = {
    "does": "do",
    "is": "are",
    "flashes": "flash",
    "stretches": "stretch",
    "comes": "come",
    "flies": "fly",
    "its": "their",
    "itself": "themselves",
}


def noun(name: str) -> str:
    """A thing with its article: "an elephant", "french fries", and "a man" of "man running"."""
    person, _, rest = name.partition(" ")
    if rest in _PEOPLE:
        name = person
    elif name in ("waving hand", "writing hand"):
        name = "hand"
    elif name == "clapping hands":
        return "two hands"
    if is_plural(name):
        return name
    return f"{'an' if name[0] in 'aeiou' and not name.startswith(('uni', 'one ', 'eu')) else 'a'} {name}"


def is_plural(name: str) -> bool:
    """Whether a name is of several: "french fries"."""
    if name.partition(" ")[2] in _PEOPLE:
        return False
    last = re.split(r" (?:with|of|in|behind|without|on|showing|holding) ", name)[0].split()[-1]
    return last.endswith("s") and not last.endswith(_SINGULARS)


def agreed(verb: str, name: str) -> str:
    """A verb with what belongs to it, for a name of one or of several: "grows", "grow"."""
    if not is_plural(name):
        return verb
    first, *rest = verb.split()
    first = _IRREGULAR.get(first, first.removesuffix("s"))
    return " ".join([first, *(_IRREGULAR.get(word, word) if word in ("its", "itself") else word for word in rest)])


def action(rng: random.Random, name: str, group: str) -> str:
    """What it does of its own accord, as a verb with what belongs to it: "flaps its ears"."""
    said = ACTIONS.get(name) or _PEOPLE.get(name.partition(" ")[2])
    if said is None and group == "Smileys & Emotion":
        said = next((does for part, does in _FACE_ACTIONS.items() if re.search(part, name)), None)
    if said is not None and rng.random() < 0.9:
        return said
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
