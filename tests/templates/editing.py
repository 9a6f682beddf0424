"""Templates that edit a video by its first frame: the whole clip follows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from . import notes
from .graph import Graph, Node
from .settings import BASE_VIDEO, prompt_of
from .stages import edit_stage, save, save_compared, scene

_OFF: dict[str, Any] = {"bypassed": True}
_RED, _PAINTED = 0xE02E33, prompt_of(13).replace("green", "red")
"""A colour, and what happens in the video of the first template once its triangle has it."""
_STYLED = "A green triangle slides gently up, in front of a cream background."


def video_recolour() -> Graph:
    graph = Graph("video_recolour", notes.RECOLOUR, "I2VGen-XL 32 Video to video, a thing recoloured")
    video, first = _first_frame(graph)
    paint = graph.group("2. A thing, painted")
    red = paint.add("ImageToMask", title="How red places are", image=first, channel="red")
    around = paint.add("ThresholdMask", title="Red enough: around the thing", mask=red, value=0.45)
    thing = paint.add("InvertMask", title="The thing", mask=around)
    colour = graph.group("Its colour")
    size = colour.add("GetImageSize", image=first)
    flat = colour.add("EmptyImage", title="A colour", width=size["width"], height=size["height"], color=_RED)
    painted = colour.add("ImageCompositeMasked", destination=first, source=flat, mask=thing)
    colour.add("PreviewImage", images=painted)
    return _edited(graph, video, painted, prompt=_PAINTED)


def video_image_edit() -> Graph:
    graph = Graph("video_image_edit", notes.IMAGE_EDIT, "I2VGen-XL 33 Video to video by an image-edit model")
    video, first = _first_frame(graph)
    group = graph.group("2. Edit model (bypassed)")
    name = "instruct-pix2pix-00-22000.safetensors"
    url = f"https://huggingface.co/timbrooks/instruct-pix2pix/resolve/main/{name}"
    files = [{"name": name, "url": url, "directory": "checkpoints"}]
    model = group.add("CheckpointLoaderSimple", ckpt_name=name, models=files, **_OFF)
    told = group.add("CLIPTextEncode", title="What to change", clip=model["CLIP"], text="make it red", **_OFF)
    empty = group.add("CLIPTextEncode", title="Negative: nothing", clip=model["CLIP"], text="", **_OFF)
    both = {"positive": told, "negative": empty}
    made = group.add("InstructPixToPixConditioning", vae=model["VAE"], pixels=first, **both, **_OFF)
    sides = {name: made[name] for name in both}
    sampling = graph.group("Its sampling (bypassed)")
    latent = sampling.add("KSampler", model=model, latent_image=made["latent"], cfg=7.0, **sides, **_OFF)
    decoded = sampling.add("VAEDecode", samples=latent, vae=model["VAE"], **_OFF)
    title = "The frame, or what was made of it"
    chosen = sampling.add("ImageBlend", title=title, image1=first, image2=decoded, blend_factor=1.0, **_OFF)
    graph.group("First frame").add("PreviewImage", images=chosen)
    return _edited(graph, video, chosen)


def video_style() -> Graph:
    graph = Graph("video_style", notes.STYLE, "I2VGen-XL 34 Video to video in another style")
    video, first = _first_frame(graph)
    group = graph.group("2. Another style")
    style = scene(group, 20)
    drawn = group.add("ColorTransfer", image_target=first, image_ref=style.image)
    group.add("PreviewImage", images=drawn)
    return _edited(graph, video, drawn, prompt=_STYLED, fresh_noise=0.1)


def _first_frame(graph: Graph) -> tuple[Node, Node]:
    """A video's parts, and its first frame."""
    group = graph.group("1. Your video")
    parts = group.add("GetVideoComponents", video=group.add("LoadVideo", file=BASE_VIDEO))
    return parts, group.add("ImageFromBatch", title="Its first frame", image=parts["images"])


def _edited(graph: Graph, video: Node, first_frame: Node, **settings: Any) -> Graph:
    """The last groups of an edit: the stage, and both videos beside each other."""
    edited = edit_stage(graph.group("3. Edit"), video["images"], first_frame, video["fps"], **settings)
    save(graph.group("4. Edited video"), edited["VIDEO"], graph.name)
    end = graph.group("5. Before and after")
    save_compared(end, video["images"], edited["IMAGE"], video["fps"], f"{graph.name}_compared")
    return graph


EDITING: list[Callable[[], Graph]] = [video_recolour, video_image_edit, video_style]
"""In the order in which the front end lists them."""
