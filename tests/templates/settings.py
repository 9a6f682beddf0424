"""What the templates' loaders and samplers are told, and what the picture of a scene is called."""

from __future__ import annotations

from i2vgen_core.checkpoints.download import FILES
from i2vgen_core.media.captions import caption, short_prompt
from i2vgen_core.media.world import sample_scene
from i2vgen_core.releases import RELEASES

BASE, REFINER = RELEASES["i2vgen_xl"], RELEASES["vid2vid_xl"]
TINY_STEPS, TINY_GUIDANCE = 20, 2.5  # what the tiny base's config.json says; test_workflows compares
BASE_VIDEO = "video/i2vgen_xl_base_00001_.mp4 [output]"
"""What the first template saves when it first runs, as Load Video names a file of the output folder."""
RATE = 8.0  # of the saved files, as the official code saves them
OWN_SIZE, WITH_BASE = "the model's own", "goes with the base"  # nodes/host knows them so; test_workflows compares


def released(*keys: str) -> list[dict[str, str]]:
    """A loader's `properties.models`: the front end offers the file whose name a widget has and no folder holds."""
    found = []
    for key in keys:
        file = FILES[key]
        url = f"https://huggingface.co/{file.repository}/resolve/main/{file.file}"
        found.append({"name": file.name, "url": url, "directory": file.folder})
    return found


def prompt_of(seed: int) -> str:
    """The sentence that Tiny Scene gives with its picture."""
    return caption(sample_scene(seed, split="held_out"), seed)


def short_prompt_of(seed: int) -> str:
    """What the picture of a scene shows, in few words."""
    return short_prompt(sample_scene(seed, split="held_out"))
