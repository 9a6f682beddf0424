"""The stages that the templates have in common, each one or two groups of a graph."""

from __future__ import annotations

from dataclasses import dataclass

from i2vgen_core import assets
from i2vgen_core.checkpoints.download import FILES
from i2vgen_core.config import RELEASES
from i2vgen_core.media.world import caption, sample_scene, short_prompt

from .graph import Graph, Group, Node, Output

BASE, REFINER = RELEASES["i2vgen_xl"], RELEASES["vid2vid_xl"]
TINY_STEPS, TINY_GUIDANCE = 20, 2.5  # what the tiny base's config.json says; test_workflows compares
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


@dataclass(frozen=True)
class Conditions:
    """What the conditioning stage gives."""

    positive: Output
    negative: Output
    latent: Output


class Start:
    """Models, size and picture: the first column, shared by all templates.

    Attributes:
        loader: of the whole base; `model`, `vae` and `clip` are its outputs.
        picture: the image that the video begins with.
        size: the base's width and height.
    """

    def __init__(self, graph: Graph, seed: int = 13, keep: bool = False):
        """Args:
        seed: of the picture.
        keep: whether the base's seed stays when the graph has run, so that what comes after it can be tried out.
        """
        self._models = graph.group("1. Models", width=340)
        bundle = released("i2vgen_xl", "text", "vision", "vae")
        self.loader = self._models.add("I2VGenXLCascadeLoader", bundle=assets.NAME, models=bundle)
        self.model, self.vae, self.clip = (self.loader[name] for name in ("MODEL", "VAE", "CLIP"))
        self.graph, self.seed = graph, seed
        self._after = "fixed" if keep else "randomize"
        size = graph.group("2. Size", below=True, width=340)
        self.size = size.add("I2VGenXLSize", size=OWN_SIZE, model=self.model)
        self.picture = self.scene("3. Picture", seed)["IMAGE"]

    def scene(self, title: str, seed: int) -> Node:
        """A group of its own with a picture of the tiny cascade's world, below the last group."""
        group = self.graph.group(title, below=True, width=340)
        scene = group.add("I2VGenXLTinyScene", seed=seed, control_after_generate="fixed")
        group.add("PreviewImage", images=scene["IMAGE"])
        return scene

    def refiner(self) -> Node:
        """The second stage's loader, below the first one's."""
        models = released("vid2vid_xl")
        return self._models.add("I2VGenXLRefinerLoader", model_name=WITH_BASE, base=self.model, models=models)

    def prompts(self, group: Group, image: Output | Node | None = None, prompt: str = "", title: str = "") -> Node:
        return group.add(
            "I2VGenXLCLIPEncode",
            title=title or None,
            clip=self.clip,
            clip_vision=self.loader["CLIP_VISION"],
            image=image or self.picture,
            prompt=prompt or prompt_of(self.seed),
            negative_prompt=BASE.negative_prompt,
            width=self.size["width"],
        )

    def conditions(
        self, group: Group, prompts: Node, image: Output | Node | None = None, frames: int = 16, title: str = ""
    ) -> Conditions:
        node = group.add(
            "I2VGenXLGlobalEncode",
            title=title or None,
            positive=prompts["positive"],
            negative=prompts["negative"],
            global_encoder=self.loader["global_encoder"],
            vae=self.vae,
            image=image or self.picture,
            width=self.size["width"],
            height=self.size["height"],
            frames=frames,
            fps=0,
        )
        return Conditions(*(node[name] for name in ("positive", "negative", "LATENT")))

    def sample(self, group: Group, made: Conditions, model: Output | Node | None = None, seed: int = 0) -> Node:
        """The base's sampler and its decoding. Returns the frames' node."""
        latent = self.sample_latent(group, made, model, seed)
        return group.add("I2VGenXLVAEDecode", vae=self.vae, latent=latent)

    def sample_latent(self, group: Group, made: Conditions, model: Output | Node | None = None, seed: int = 0) -> Node:
        return group.add(
            "I2VGenXLBaseSampler",
            model=model or self.model,
            positive=made.positive,
            negative=made.negative,
            latent=made.latent,
            seed=seed,
            control_after_generate=self._after,
        )

    def base(self, frames: int = 16) -> Node:
        """Prompts, conditioning and sampling as the base's template has them. Returns the frames' node."""
        prompts = self.prompts(self.graph.group("4. Prompts", width=400))
        group = self.graph.group("5. Base stage")
        return self.sample(group, self.conditions(group, prompts, frames=frames))


def video(group: Group, frames: Node | Output, name: str, rate: float | Output = RATE) -> Node:
    """Frames to a file that the front end plays."""
    made = group.add("CreateVideo", images=frames, fps=rate)
    return group.add("SaveVideo", video=made, filename_prefix=f"video/i2vgen_xl_{name}")


def refiner_prompts(graph: Graph, clip: Output, seed: int, number: int) -> tuple[Node, Node]:
    """The refiner's two prompts: what the scene shows, with the release's suffix, and the release's negative one."""
    group = graph.group(f"{number}. Refiner's prompts", width=400)
    text = short_prompt(sample_scene(seed, split="held_out")) + REFINER.prompt_suffix
    positive = group.add("CLIPTextEncode", title="Refiner: positive prompt", clip=clip, text=text, room=190)
    negative = REFINER.negative_prompt
    return positive, group.add("CLIPTextEncode", title="Refiner: negative prompt", clip=clip, text=negative, room=170)


def upscale(group: Group, frames: Node | Output, size: Node | tuple[int, int]) -> Node:
    """To the size to come out, as the release does: bilinearly."""
    width, height = (size["width"], size["height"]) if isinstance(size, Node) else size
    return group.add("ImageScale", image=frames, upscale_method="bilinear", width=width, height=height)


def refine(
    group: Group, refiner: Node | Output, prompts: tuple[Node, Node], vae: Output, frames: Node, decode: bool = True
) -> Node:
    """The second stage of frames at the size to come out. Returns the frames' node, or the latent's."""
    encoded = group.add("VAEEncode", pixels=frames, vae=vae)
    latent = group.add(
        "I2VGenXLRefineSampler",
        model=refiner,
        positive=prompts[0],
        negative=prompts[1],
        latent=encoded,
    )
    return group.add("I2VGenXLVAEDecode", vae=vae, latent=latent, frames_per_batch=0) if decode else latent


def second_stage(graph: Graph, start: Start, refiner: Node, frames: Node | Output, number: int) -> tuple[Node, Node]:
    """Two groups, from `number` on: the refiner's prompts, and frames upscaled and refined. Returns both."""
    prompts = refiner_prompts(graph, start.clip, start.seed, number)
    group = graph.group(f"{number + 1}. Refinement")
    scaled = upscale(group, frames, group.add("I2VGenXLSize", size=OWN_SIZE, model=refiner))
    return scaled, refine(group, refiner, prompts, start.vae, scaled)
