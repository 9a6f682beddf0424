"""Words by which the front end's search finds the pack's subgraph blueprints."""

from __future__ import annotations

from pathlib import Path

from server import PromptServer

_FOLDER = Path(__file__).parents[2] / "subgraphs"
_WORDS = {
    "Image to Video": ["i2v", "img2vid", "animate", "motion", "photo", "photo to video", "clip vision", "i2vgen"],
    "Refine a Video": [
        "video to video",
        "vid2vid",
        "upscale video",
        "video upscale",
        "enhance video",
        "sharpen",
        "i2vgen refiner",
    ],
    "Edit a Video Clip": ["video editing", "anyv2v", "restyle video", "recolour"],
}
"""By the beginning of a blueprint's name. The stages have them behind another word ("to animate a photo"), so that the whole
solution is found first: among blocks that such words alone bring, the front end takes the best fit. What is typed in a block's
name or id comes before all of these (web/i2vgen_xl.js)."""


async def add_search_words() -> None:
    """Puts the words beside the blueprints in the host's list, where its front end reads them; before 0.3 there is none."""
    manager = getattr(getattr(PromptServer, "instance", None), "subgraph_manager", None)
    if manager is None:
        return
    for entry in (await manager.get_custom_node_subgraphs(None)).values():
        words = next((words for start, words in _WORDS.items() if entry["name"].startswith(start)), None)
        if words and Path(entry["path"]).parent.resolve() == _FOLDER.resolve():
            entry["info"]["search_aliases"] = words
