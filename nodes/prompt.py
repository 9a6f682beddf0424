"""Prompt block: a caption of the kind that the networks were trained on, and what is wrong with it."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from .host.schema import CATEGORY, schema
from .host.text import help_with


class Prompt(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="I2VGenXLPrompt",
            display_name="I2VGen-XL Prompt",
            category=CATEGORY,
            description="Checks a prompt, or lets a text model write one of a few words and the picture.",
            inputs=[
                io.String.Input(
                    "words",
                    multiline=True,
                    dynamic_prompts=True,
                    tooltip="What happens in the video. Without a text model this is the prompt; with one, a few words are enough, "
                    "in any language that it knows.",
                ),
                io.Clip.Input(
                    "text_model",
                    optional=True,
                    tooltip="A text model that writes, from stock Load CLIP: Gemma or Qwen, one that sees pictures if the picture "
                    "is wired. Without it the words are checked alone.",
                ),
                io.Image.Input(
                    "image",
                    optional=True,
                    tooltip="The photo, shown to the text model. Of a batch, the first image.",
                ),
            ],
            outputs=[
                io.String.Output(display_name="prompt", tooltip="To CLIP Encode's prompt, or a line of Shots."),
                io.String.Output(
                    display_name="hints",
                    tooltip="What is too long, does nothing, names no motion or is not English; to Preview as Text.",
                ),
            ],
            search_aliases=["i2vgen", "caption", "enhance prompt", "prompt check", "llm", "vlm", "describe image"],
        )

    @classmethod
    def execute(cls, words: str, text_model: Any = None, image: Any = None) -> io.NodeOutput:
        return io.NodeOutput(*help_with(words, text_model, image))
