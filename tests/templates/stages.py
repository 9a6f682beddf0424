"""The stages that the templates have in common: each as one block, or as the blocks that are in it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from i2vgen_core import assets

from .blueprints import image_to_video, video_edit, video_refine
from .graph import Graph, Group, Node, Output
from .settings import BASE, OWN_SIZE, RATE, REFINER, WITH_BASE, prompt_of, released


@dataclass(frozen=True)
class Picture:
    """A picture of the tiny cascade's world, and its sentence."""

    image: Output
    prompt: Output
    text: str


def scene(group: Group, seed: int = 13, preview: bool = True) -> Picture:
    """Draws a picture, and shows it."""
    node = group.add("I2VGenXLTinyScene", seed=seed, control_after_generate="fixed")
    if preview:
        group.add("PreviewImage", images=node["IMAGE"])
    return Picture(node["IMAGE"], node["prompt"], prompt_of(seed))


def first_stage(
    group: Group, picture: Picture, *, image: Output | Node | None = None, prompt: str = "", **settings: Any
) -> Node:
    """The base stage in one block.

    Args:
        group: where it stands.
        picture: that the video begins with, and whose sentence it follows.
        image: in place of the picture's.
        prompt: in place of the picture's.
        settings: of the block.
    """
    said: dict[str, Any] = {"prompt": prompt} if prompt else {"prompt": picture.prompt}
    shown = {} if prompt else {"prompt": picture.text}
    return group.add(image_to_video(), image=image or picture.image, values=shown, **said, **settings)


def second_stage(
    group: Group, base: Node, picture: Picture | None = None, frames: Node | Output | None = None, **settings: Any
) -> Node:
    """The refiner in one block.

    Args:
        group: where it stands.
        base: gives CLIP, VAE and the base that the refiner goes with: `first_stage` or a loader.
        picture: whose sentence it follows; without one, the block's own.
        frames: in place of the first stage's.
        settings: of the block.
    """
    models = {"clip": base["CLIP"], "vae": base["VAE"], "base": base["MODEL"]}
    said: dict[str, Any] = {"prompt": picture.prompt, "values": {"prompt": picture.text}} if picture else {}
    return group.add(video_refine(), images=frames or base["IMAGE"], **said, **models, **settings)


def edit_stage(group: Group, frames: Output, first_frame: Node | Output, rate: Output, **settings: Any) -> Node:
    """AnyV2V in one block: a video's frames, and the first of them, edited."""
    return group.add(video_edit(), images=frames, first_frame=first_frame, rate=rate, **settings)


def cascade_loader(group: Group) -> Node:
    """Of the whole base with its encoders."""
    bundle = released("i2vgen_xl", "text", "vision", "vae")
    return group.add("I2VGenXLCascadeLoader", bundle=assets.NAME, models=bundle)


@dataclass(frozen=True)
class Conditions:
    """What the conditioning stage gives."""

    positive: Output
    negative: Output
    latent: Output


class Start:
    """Models, size and picture: what the base stage in single blocks begins with.

    Attributes:
        loader: of the whole base; `model`, `vae` and `clip` are its outputs.
        picture: that the video begins with.
        size: the base's width and height.
    """

    def __init__(self, graph: Graph, seed: int = 13, keep: bool = False):
        """Args:
        seed: of the picture.
        keep: whether the base's seed stays when the graph has run, so that what comes after it can be tried out.
        """
        models = graph.group("1. Models and size")
        self.loader = cascade_loader(models)
        self.model, self.vae, self.clip = (self.loader[name] for name in ("MODEL", "VAE", "CLIP"))
        self.graph = graph
        self._after = "fixed" if keep else "randomize"
        self.size = models.add("I2VGenXLSize", size=OWN_SIZE, model=self.model)
        self.picture = scene(graph.group("2. Picture"), seed)

    def prompts(self, group: Group, image: Output | Node | None = None, prompt: str = "", title: str = "") -> Node:
        said: dict[str, Any] = {"prompt": prompt} if prompt else {"prompt": self.picture.prompt}
        return group.add(
            "I2VGenXLCLIPEncode",
            title=title or None,
            clip=self.clip,
            clip_vision=self.loader["CLIP_VISION"],
            image=image or self.picture.image,
            values={} if prompt else {"prompt": self.picture.text},
            negative_prompt=BASE.negative_prompt,
            width=self.size["width"],
            **said,
        )

    def conditions(self, group: Group, prompts: Node, frames: int = 16, title: str = "") -> Conditions:
        node = group.add(
            "I2VGenXLGlobalEncode",
            title=title or None,
            positive=prompts["positive"],
            negative=prompts["negative"],
            global_encoder=self.loader["global_encoder"],
            vae=self.vae,
            image=self.picture.image,
            width=self.size["width"],
            height=self.size["height"],
            frames=frames,
            fps=0,
        )
        return Conditions(*(node[name] for name in ("positive", "negative", "LATENT")))

    def sample(self, group: Group, made: Conditions, model: Output | Node | None = None) -> Node:
        """The base's sampler and its decoding. Returns the frames' node."""
        latent = group.add(
            "I2VGenXLBaseSampler",
            model=model or self.model,
            positive=made.positive,
            negative=made.negative,
            latent=made.latent,
            control_after_generate=self._after,
        )
        return group.add("I2VGenXLVAEDecode", vae=self.vae, latent=latent)


def save(group: Group, video: Node | Output, name: str, title: str = "", room: int = 0) -> Node:
    """A video to a file, which the front end plays."""
    prefix = f"video/i2vgen_xl_{name}"
    return group.add("SaveVideo", title=title or None, video=video, filename_prefix=prefix, room=room)


def save_frames(group: Group, frames: Node | Output, name: str) -> Node:
    """Frames to a file, at the rate of the official code's files."""
    return save(group, group.add("CreateVideo", images=frames, fps=RATE), name)


def save_compared(group: Group, a: Output, b: Output, rate: Output | float, name: str) -> Node:
    """Two videos of frames to a file, the second below the first: beside it, a narrow block shows them as a strip. Returns the
    comparison's node."""
    both = group.add("I2VGenXLCompareVideos", images_a=a, images_b=b, mode="stacked")
    save(group, group.add("CreateVideo", images=both, fps=rate), name, room=430)
    return both


def refinement(graph: Graph, base: Node, picture: Picture, size: tuple[int, int], number: int) -> Node:
    """The second stage in single blocks, three groups from `number` on. Returns the latent's node."""
    prompts = graph.group(f"{number}. Refiner and prompts")
    models = released("vid2vid_xl")
    refiner = prompts.add("I2VGenXLRefinerLoader", model_name=WITH_BASE, base=base["MODEL"], models=models)
    said = prompts.add(
        "StringConcatenate",
        title="With the quality suffix",
        string_a=picture.prompt,
        string_b=REFINER.prompt_suffix,
        values={"string_a": picture.text},
    )
    positive = prompts.add("CLIPTextEncode", title="Refiner: positive prompt", clip=base["CLIP"], text=said)
    text = REFINER.negative_prompt
    negative = prompts.add("CLIPTextEncode", title="Refiner: negative prompt", clip=base["CLIP"], text=text)
    windows = windowed(graph.group(f"{number + 1}. Windows (bypassed)"), refiner, context_length=8, bypassed=True)
    group = graph.group(f"{number + 2}. Refinement")
    width, height = size
    scaled = group.add("ImageScale", image=base["IMAGE"], upscale_method="bilinear", width=width, height=height)
    encoded = group.add("VAEEncode", pixels=scaled, vae=base["VAE"])
    sides = {"positive": positive, "negative": negative}
    return group.add("I2VGenXLRefineSampler", model=windows, latent=encoded, **sides)


def windowed(group: Group, model: Node | Output, **settings: Any) -> Node:
    """A model that sees some frames at a time."""
    return group.add("ContextWindowsManual", model=model, **{"causal_window_fix": False, **settings})


def table(group: Group, source: Output, title: str, room: int = 0) -> Node:
    """Figures in Markdown, shown as a table: web/tables.js reads the property."""
    return group.add("PreviewAny", source=source, title=title, properties={"i2vgen_xl_markdown": True}, room=room)
