"""Templates in which the user directs: what stays, what the last frame is, where things go, how the camera moves, what happens
after another, and what a prompt lacks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from . import notes
from .graph import Graph, Node
from .settings import BASE
from .stages import Conditions, Start, cascade_loader, save_frames, scene

_MIRRORED = "y-axis: horizontally"
_TO_THE_LEFT = "A red circle moves to the left quickly, in front of a navy background."
_TO_THE_RIGHT, _PATH = "A brown star travelling quickly towards the right.", "0,0 25,18 50,0"
_PANNED = "A brown star resting in place, while the camera pans right."
_STORY = """8: A brown star resting in place.
A brown star travelling quickly towards the right.
A brown star rotates quickly in a clockwise direction.
A brown star slides quickly to the bottom."""
_WORDS = "A [green] triangle slides gently up."
_WRITER = "gemma4_e4b_it_fp8_scaled.safetensors"


def first_last() -> Graph:
    graph = Graph("first_last", notes.FIRST_LAST, "I2VGen-XL 22 Image to video, first and last frame")
    start = Start(graph, seed=4)
    ends = graph.group("Last picture")
    last = ends.add("ImageFlip", title="The same, mirrored", image=start.picture.image, flip_method=_MIRRORED)
    ends.add("PreviewImage", images=last)
    prompts = start.prompts(graph.group("3. Prompts"), prompt=_TO_THE_LEFT)
    group = graph.group("4. Details and last frame")
    made = start.conditions(group, prompts)
    held = group.add("I2VGenXLFirstLast", model=start.model, vae=start.vae, latent=made.latent, last_image=last)
    return _directed(graph, start, made, held)


def part_moves() -> Graph:
    graph = Graph("part_moves", notes.PART_MOVES, "I2VGen-XL 23 Image to video, a part moves")
    start = Start(graph, seed=18)
    size = {"width": start.size["width"], "height": start.size["height"]}
    mask = graph.group("3. Mask: white moves")
    black = mask.add("SolidMask", title="Black: all of the picture", value=0.0, **size)
    white = mask.add("SolidMask", title="White: the part", value=1.0, width=76, height=64)
    both = mask.add("MaskComposite", destination=black, source=white, x=52, operation="add")
    mask.add("PreviewImage", images=mask.add("MaskToImage", mask=both))
    every = graph.group("4. The picture in every frame")
    fitted = every.add("ImageScale", image=start.picture.image, upscale_method="area", crop="center", **size)
    encoded = every.add("VAEEncode", pixels=fitted, vae=start.vae)
    repeated = every.add("RepeatLatentBatch", samples=encoded, amount=16)
    latent = every.add("SetLatentNoiseMask", samples=repeated, mask=both)
    prompts = start.prompts(graph.group("5. Prompts"))
    made = start.conditions(graph.group("6. Details"), prompts)
    frames = start.sample(graph.group("7. Base stage"), Conditions(made.positive, made.negative, latent["LATENT"]))
    save_frames(graph.group("8. Video"), frames, graph.name)
    return graph


def drag() -> Graph:
    graph = Graph("drag", notes.DRAG, "I2VGen-XL 24 Image to video, a thing dragged")
    start = Start(graph, seed=14)
    prompts = start.prompts(graph.group("3. Prompts"), prompt=_TO_THE_RIGHT)
    made = start.conditions(graph.group("4. Details and length"), prompts)
    group = graph.group("5. Part and path")
    box = group.add("PrimitiveBoundingBox", title="Around the part", x=39, y=6, width=34, height=34)
    rough = group.add("I2VGenXLDrag", image=start.picture.image, latent=made.latent, path=_PATH, box=box)
    return _followed(graph, start, made, rough)


def camera() -> Graph:
    graph = Graph("camera", notes.CAMERA, "I2VGen-XL 25 Image to video, the camera moves")
    start = Start(graph, seed=14)
    prompts = start.prompts(graph.group("3. Prompts"), prompt=_PANNED)
    made = start.conditions(graph.group("4. Details and length"), prompts)
    group = graph.group("5. Camera")
    rough = group.add("I2VGenXLCamera", image=start.picture.image, latent=made.latent, pan=0.25)
    return _followed(graph, start, made, rough)


def shots() -> Graph:
    graph = Graph("shots", notes.SHOTS, "I2VGen-XL 27 Image to video, a story of four shots")
    models = graph.group("1. Models")
    loader = cascade_loader(models)
    picture = scene(graph.group("2. Picture"), 14)
    parts = {name.lower(): loader[name] for name in ("MODEL", "CLIP", "CLIP_VISION", "VAE")}
    story = graph.group("3. Story", width=340).add(
        "I2VGenXLShots",
        global_encoder=loader["global_encoder"],
        image=picture.image,
        shots=_STORY,
        negative_prompt=BASE.negative_prompt,
        control_after_generate="fixed",
        **parts,
    )
    save_frames(graph.group("4. Video"), story, graph.name)
    return graph


def prompt_help() -> Graph:
    graph = Graph("prompt_help", notes.PROMPT_HELP, "I2VGen-XL 28 Image to video, help with the prompt")
    start = Start(graph)
    writer = graph.group("3. Text model (bypassed)")
    url = f"https://huggingface.co/Comfy-Org/gemma-4/resolve/main/text_encoders/{_WRITER}"
    files = [{"name": _WRITER, "url": url, "directory": "text_encoders"}]
    model = writer.add("CLIPLoader", clip_name=_WRITER, models=files, bypassed=True)
    words = graph.group("4. Your words")
    told = words.add("I2VGenXLPrompt", words=_WORDS, text_model=model, image=start.picture.image)
    words.add("PreviewAny", title="Prompt", source=told["prompt"], room=150)
    words.add("PreviewAny", title="What it lacks", source=told["hints"], room=200)
    prompts = start.prompts(graph.group("5. Prompts"), prompt=told["prompt"])
    made = start.conditions(graph.group("6. Details and length"), prompts)
    frames = start.sample(graph.group("7. Base stage"), made)
    save_frames(graph.group("8. Video"), frames, graph.name)
    return graph


DIRECTING: list[Callable[[], Graph]] = [first_last, part_moves, drag, camera, shots, prompt_help]
"""In the order in which the front end lists them."""


def _followed(graph: Graph, start: Start, made: Conditions, rough: Node) -> Graph:
    """The last groups of a video that follows a rough animation."""
    group = graph.group("Rough animation")
    group.add("PreviewImage", images=rough["IMAGE"])
    animation: dict[str, Any] = {"images": rough["IMAGE"], "mask": rough["MASK"]}
    return _directed(
        graph,
        start,
        made,
        group.add("I2VGenXLFollowAnimation", model=start.model, vae=start.vae, latent=made.latent, **animation),
    )


def _directed(graph: Graph, start: Start, made: Conditions, held: Node) -> Graph:
    """The last groups of a video that a block holds by model and latent."""
    group = graph.group("Base stage")
    directed = Conditions(made.positive, made.negative, held["LATENT"])
    save_frames(graph.group("Video"), start.sample(group, directed, held["MODEL"]), graph.name)
    return graph
