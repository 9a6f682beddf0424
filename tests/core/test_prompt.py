"""Hints on a prompt, and captions out of what a language model answers."""

import pytest

from i2vgen_core.encoders.prompt import as_caption, check_prompt, unread
from i2vgen_core.media.captions import caption
from i2vgen_core.media.world import sample_scene

LONG = "a fox runs, " * 30


@pytest.mark.parametrize(
    ("prompt", "hint"),
    [
        ("", "The prompt is empty"),
        ("a cat on a sofa, best quality", "No verb of motion"),
        ("Ein Fuchs läuft durch den Schnee", "This looks like German"),
        ("Un renard court dans la neige", "This looks like French"),
        ("El zorro corre por la nieve", "This looks like Spanish"),
        ("狐が雪の中を走る", "This looks like another language"),
        ("a fox runs <lora:fox:0.8>", "'<lora:fox:0.8>' does nothing here"),
        ("a [fox] runs", "'[fox]' does nothing here"),
        ("a fox runs BREAK snow", "'BREAK' does nothing here"),
        ("a fox runs --ar 16:9", "'--ar' does nothing here"),
        ("a (fox:1.2) runs", "'(fox:1.2)' does nothing here"),
        (LONG, "CLIP reads the first 75 tokens, and not: "),
    ],
)
def test_what_is_wrong_is_said(prompt, hint):
    hints = check_prompt(prompt)
    assert [each for each in hints if each.startswith(hint)], hints
    assert len(hints) == 1


@pytest.mark.parametrize(
    "prompt",
    [
        "A fox runs over a snowy field",
        "the woman is dancing in the rain, photo",
        "Waves crash on rocks",
        "leaves fell",
        "a ring that does not move",
        "a still life, static camera",
        "The camera zooms in on El Capitan, la Sierra, and the sun rises",
        r"a fox \(red:2\) jumps",
    ],
)
def test_nothing_is_said_of_a_prompt_that_fits(prompt):
    assert check_prompt(prompt) == []


def test_weights_are_read_where_the_encoder_reads_them():
    assert check_prompt("a (fox:1.2) runs", weights=True) == []


def test_the_built_in_worlds_captions_fit():
    said = {seed: check_prompt(caption(sample_scene(seed, split="held_out"), seed)) for seed in range(100)}
    assert {seed: hints for seed, hints in said.items() if hints} == {}


@pytest.mark.parametrize(
    ("answer", "caption"),
    [
        ("A fox runs.", "A fox runs."),
        ('"A fox runs over the snow."\n\nI hope this helps!', "A fox runs over the snow."),
        ("**Caption:** A fox\nruns.", "A fox runs."),
        ("<think>\nwhat is seen?\n</think>\n\nA fox runs.", "A fox runs."),
        ("<think>never done", ""),
        ("", ""),
    ],
)
def test_a_caption_is_taken_out_of_an_answer(answer, caption):
    assert as_caption(answer) == caption


def test_a_long_answer_ends_with_a_sentence_that_is_read():
    whole = "A red fox runs over a field. " * 5
    caption = as_caption(whole + "It sleeps in the " + "very " * 70 + "deep snow.")
    assert caption == whole.strip() and unread(caption) == ""
    words = as_caption("very " * 200)
    assert words.startswith("very very") and unread(words) == "" and unread(words + " very very") != ""
