"""Templates of the refiners that read a video as their hint. Their files do not come with the pack: the notes say which they
wait for. tests/host runs them on made-up networks."""

from __future__ import annotations

from collections.abc import Callable

from i2vgen_core.checkpoints.download import FILES
from i2vgen_core.config import Kind
from i2vgen_core.releases import RELEASES

from .family import waiting_note
from .graph import Graph
from .settings import RATE, released
from .stages import save

_MEMORY = """Time and memory go with the size that comes out. *window* in Refine Prepare is how many frames go through the network \
together where there are more."""


def _refined(graph: Graph, kind: Kind, prompt: str, fps: float | None = None, **prepared: float) -> Graph:
    """From a video to a refined one, at the rate of the video unless another is given."""
    release = RELEASES[kind]
    yours = graph.group("1. Your video")
    parts = yours.add("GetVideoComponents", video=yours.add("LoadVideo", file="video.mp4"))
    models = graph.group("2. Models")
    refiner = models.add("I2VGenXLRefinerLoader", model_name=FILES[kind].name, room=220)
    clip = models.add("CLIPLoader", clip_name=FILES["text"].name, models=released("text"))
    vae = models.add("VAELoader", vae_name=FILES["vae"].name, models=released("vae"))
    prompts = graph.group("3. Prompts")
    positive = prompts.add("CLIPTextEncode", title="Prompt", clip=clip, text=prompt + release.prompt_suffix)
    negative = prompts.add("CLIPTextEncode", title="Negative prompt", clip=clip, text=release.negative_prompt)
    group = graph.group("4. Refinement")
    ready = group.add(
        "I2VGenXLRefinePrepare",
        model=refiner,
        positive=positive,
        negative=negative,
        vae=vae,
        images=parts["images"],
        control_after_generate="fixed",
        **prepared,
    )
    sides = {name: ready[name] for name in ("positive", "negative")}
    latent = group.add("I2VGenXLRefineSampler", model=refiner, latent=ready["LATENT"], **sides)
    end = graph.group("5. Refined video")
    frames = end.add("I2VGenXLVAEDecode", vae=vae, latent=latent)
    save(end, end.add("CreateVideo", images=frames, fps=parts["fps"] if fps is None else fps), graph.name)
    return graph


def restore_video() -> Graph:
    words = f"""STAR takes noise, blur and compression out of a real video and makes it four times as wide and high. It reads the \
video itself beside the prompt. Say in few words what is seen; the release's suffix follows, without a separator, as released. \
For a video in a bad state take *{FILES["star_heavy"].name}*. {_MEMORY}"""
    note = waiting_note("Restore an old video", words, "star")
    return _refined(Graph("restore_video", note, "I2VGen-XL 29 Refine an old video, restored"), "star", "a good video")


def enlarge_video() -> Graph:
    words = f"""VEnhancer makes a generated video larger and puts frames between its own: two here, so that a video of 8 frames a \
second becomes one of 24. *noise_aug* is how far it may go from what it is given. For another rate change *inserted* in Refine \
Prepare and *fps* in Create Video. {_MEMORY}"""
    note = waiting_note("Larger and smoother", words, "venhancer")
    graph = Graph("enlarge_video", note, "I2VGen-XL 30 Refine a video, larger and smoother")
    return _refined(graph, "venhancer", "A fox runs through a forest, morning light. ", fps=3 * RATE, inserted=2)


RESTORING: list[Callable[[], Graph]] = [restore_video, enlarge_video]
"""In the order in which the front end lists them, after the family's."""
