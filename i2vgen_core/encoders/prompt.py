"""What is wrong with a prompt, before anything is computed: this family was trained on English captions that say what moves.

Its captions are one sentence or two: a subject, what it does, where it is, and words of style and quality, as "A fox runs over a
snowy field at dusk, detailed fur, high quality". What is said here are hints: nothing is refused for them.
"""

from __future__ import annotations

import re
from functools import lru_cache

from ..config import TEXT_TOKENS
from .tokenizer import Tokenizer, repaired

_READ = TEXT_TOKENS - 2

CAPTION = (
    "Write the caption of a short video that begins with this picture. One or two plain English sentences of at most 45 words: who "
    "or what is seen, what it does and how it moves, where it is, then a few words of style and quality. Name the motion with a verb. "
    "No lists, no quotation marks, no explanation. What the viewer wants to happen: "
)
"""What a language model is asked for, in front of a user's words."""


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


_VERBS = _set(
    "appear approach arrive ascend bark beat bend bite blink bloom blow boil bounce bow break breathe burn burst "
    "buzz canter carry catch chase chew circle clap climb close collapse come contract crack crash crawl creep "
    "cross cry cut dance dash descend dig dive drag draw dribble drift drink drip drive drop eat emerge enter "
    "erupt expand explode fade fall fan fight flap flash flee flick flicker flip float flow flutter fly follow "
    "freeze frown gallop gather get give glide go grab graze grin grow hit hold hop hover hug hurry jog juggle "
    "jump kick kiss kneel knock land laugh launch lean leap leave lick lift light lower march melt mix move nod "
    "open orbit pace paddle paint pan pass pedal peel perch pick play plunge point pop pound pour prance press "
    "pull pulse push put race rain raise reach recede rest ride ring ripple rise roar rock roll rotate row run "
    "rush sail sway scatter scroll scurry shake shift shine shiver shoot shrink shuffle sing sink sip sit skate "
    "ski skip slam slide slip smile smoke snow soar spark sparkle spill spin splash spread sprint stand start "
    "stir stomp stop stretch stride stroll strut stumble swarm sweep swim swing swirl swoop take talk tap tear "
    "throw thrash tilt toss touch trail travel tremble trot tumble turn twinkle twirl twist unfold vibrate wade "
    "wag wake walk wander wave weave whirl wiggle wink wobble work write yawn zoom"
)
_IRREGULAR = _set(
    "ate bit blew broke came caught drank drew drove dug fell fled flew gave got grew held hit left lit lying "
    "dying lay made ran rang rode rose sang sank sat shook shone shot shrank slid sped spun stood struck swam "
    "swept swung taking threw took tore went woke wove wrote"
)
_STILL = _set("still static motionless unmoving frozen")  # who says so means it

_ENGLISH = _set("a an and are as at by for from in into is it its of on over the their through to under up while with")
_OTHERS = {
    name: _set(words)
    for name, words in {
        "German": "auf aus das dem den der des die ein eine einem einen einer im ist mit und von vor zum zur über",
        "French": "au aux avec dans de des du elle en est et il la le les par sur un une vers",
        "Spanish": "al con de del el en es la las los por se su sobre un una y hacia",
        "Portuguese": "ao as com da das de do dos em na no o os para pela pelo se sobre um uma e",
        "Italian": "al con da dei del della di e il in la le lo nel nella per si su un una verso",
        "Dutch": "aan de door een en het in is met naar op over van voor",
    }.items()
}

_WEIGHT = re.compile(r"(?<!\\)\([^()]*:\s*-?\d*\.?\d+\s*\)")
_NOTHING = (
    (re.compile(r"<(?:lora|lyco|hypernet):[^>]*>"), "a LoRA is put on by its loader"),
    (re.compile(r"(?<!\\)\[[^\[\]]*\]"), "square brackets change no weight"),
    (re.compile(r"\b(?:BREAK|AND)\b"), "it is read as a word"),
    (re.compile(r"--\w+"), "options of other services are read as words"),
)


def check_prompt(text: str, weights: bool = False) -> list[str]:
    """Hints on a prompt, a sentence each; none where there is nothing to say.

    Args:
        text: the prompt.
        weights: whether what encodes it reads weights such as (fox:1.2), as ComfyUI does.
    """
    if not text.strip():
        return ["The prompt is empty: say what happens in the video."]
    hints = [_too_long(text)]
    hints += [
        f"{found.group()[:40]!r} does nothing here: {why}."
        for pattern, why in _NOTHING
        if (found := pattern.search(text))
    ]
    if not weights and (found := _WEIGHT.search(text)):
        hints.append(f"{found.group()[:40]!r} does nothing here: brackets and numbers are read as words.")
    language = _other_language(text)
    if language:
        hints.append(f"This looks like {language}: CLIP was trained on English captions.")
    elif not _says_motion(text):
        hints.append("No verb of motion: say what moves, and how.")
    return [hint for hint in hints if hint]


def as_caption(answer: str) -> str:
    """The caption in what a language model has answered: its first paragraph, without what it thought aloud, names of what
    follows, and quotation marks; cut at the last sentence, or else the last word, that CLIP reads."""
    text = re.sub(r"<think>.*?(?:</think>|$)", "", answer, flags=re.DOTALL).strip()
    paragraphs = [each.strip() for each in re.split(r"\n\s*\n", text) if each.strip()]
    text = " ".join((paragraphs or [""])[0].split())
    text = re.sub(r"^[*#\s]*(?:caption|prompt)[*\s]*:\s*", "", text, flags=re.IGNORECASE)
    text = text.strip("*`\"'\u201c\u201d\u2018\u2019 ")
    while text and unread(text):
        sentence, word = re.search(r".*[.!?](?=\s)", text), re.search(r".*(?=\s)", text)
        shorter = sentence or word
        text = shorter.group().rstrip(" ,;") if shorter else ""
    return text


def _too_long(text: str) -> str:
    """What CLIP does not read."""
    rest = unread(text)
    if not rest:
        return ""
    shown = rest if len(rest) <= 80 else rest[:80] + "..."
    return f"CLIP reads the first {_READ} tokens, and not: {shown}"


def unread(text: str) -> str:
    """The end of a prompt, after CLIP's first 75 tokens, in the tokenizer's lower case; empty if it is not as long."""
    return _tokenizer().cut_off(text)


@lru_cache(maxsize=1)
def _tokenizer() -> Tokenizer:
    return Tokenizer()


def _words(text: str) -> list[str]:
    return re.findall(r"[^\W\d_]+", repaired(text).lower())


def _other_language(text: str) -> str:
    """A language's name, or "another language than English"; empty for English and for what cannot be told."""
    letters = [letter for letter in text if letter.isalpha()]
    if sum(ord(letter) > 0x2AF for letter in letters) > 0.3 * len(letters):
        return "another language than English"
    words = _words(text)
    english = sum(word in _ENGLISH for word in words)
    counts = {name: sum(word in usual for word in words) for name, usual in _OTHERS.items()}
    name = max(counts, key=lambda each: counts[each])
    return name if counts[name] >= 2 and counts[name] > 2 * english else ""


def _says_motion(text: str) -> bool:
    return any(word in _IRREGULAR or word in _STILL or _stems(word) & _VERBS for word in _words(text))


def _stems(word: str) -> set[str]:
    """What a form of a verb may be of: running, runs and ran are of run."""
    stems = {word}
    for ending in ("ing", "ed", "es", "s", "d"):
        if word.endswith(ending) and len(word) > len(ending) + 1:
            stem = word[: -len(ending)]
            stems |= {stem, stem + "e"}
            if len(stem) > 2 and stem[-1] == stem[-2]:
                stems.add(stem[:-1])
            if stem.endswith("i"):
                stems.add(stem[:-1] + "y")
    return stems
