"""The two blocks of `subgraphs/`: a stage each, with the five widgets that people change."""

from __future__ import annotations

from collections.abc import Callable

from i2vgen_core import assets
from i2vgen_core.config import RELEASES

from .graph import Blueprint
from .stages import OWN_SIZE, released

_TINY_PROMPT = "A green triangle slides gently up."


def image_to_video() -> Blueprint:
    """The base stage: an image in, frames out."""
    block = Blueprint(
        "Image to Video (I2VGen-XL)", "A picture and a sentence in, a video's frames out: the base stage."
    )
    group = block.group("Base", width=400)
    bundle = released("i2vgen_xl", "text", "vision", "vae")
    loader = group.add("I2VGenXLCascadeLoader", bundle=assets.NAME, models=bundle)
    size = group.add("I2VGenXLSize", size=OWN_SIZE, model=loader["MODEL"])
    clip = group.add(
        "I2VGenXLCLIPEncode",
        clip=loader["CLIP"],
        clip_vision=loader["CLIP_VISION"],
        prompt=_TINY_PROMPT,
        negative_prompt=RELEASES["i2vgen_xl"].negative_prompt,
        width=size["width"],
    )
    stage = block.group("Sample")
    made = stage.add(
        "I2VGenXLGlobalEncode",
        positive=clip["positive"],
        negative=clip["negative"],
        global_encoder=loader["global_encoder"],
        vae=loader["VAE"],
        width=size["width"],
        height=size["height"],
        fps=0,
    )
    sampled = stage.add(
        "I2VGenXLBaseSampler",
        model=loader["MODEL"],
        positive=made["positive"],
        negative=made["negative"],
        latent=made["LATENT"],
    )
    frames = stage.add("I2VGenXLVAEDecode", vae=loader["VAE"], latent=sampled)
    block.expose("image", (clip, "image"), (made, "image"))
    block.expose("prompt", (clip, "prompt"))
    block.expose("size", (size, "size"))
    block.expose("frames", (made, "frames"))
    block.expose("seed", (sampled, "seed"))
    block.expose("bundle", (loader, "bundle"))
    block.give("IMAGE", frames)
    block.give("CLIP", loader["CLIP"])
    block.give("VAE", loader["VAE"])
    return block


def video_refine() -> Blueprint:
    """The second stage: frames in, larger and sharper frames out."""
    block = Blueprint("Video Refine (I2VGen-XL)", "A video's frames in, larger and sharper ones out: the second stage.")
    release = RELEASES["vid2vid_xl"]
    group = block.group("Refiner and prompts", width=400)
    refiner = group.add("I2VGenXLRefinerLoader", model_name=assets.NAME, models=released("vid2vid_xl"))
    positive = group.add("CLIPTextEncode", text="a green triangle" + release.prompt_suffix)
    negative = group.add("CLIPTextEncode", text=release.negative_prompt)
    stage = block.group("Refine")
    size = stage.add("I2VGenXLSize", size=OWN_SIZE, model=refiner)
    scaled = stage.add("ImageScale", upscale_method="bilinear", width=size["width"], height=size["height"])
    encoded = stage.add("VAEEncode", pixels=scaled)
    sides = {"positive": positive, "negative": negative}
    sampled = stage.add("I2VGenXLRefineSampler", model=refiner, latent=encoded, **sides)
    frames = stage.add("I2VGenXLVAEDecode", latent=sampled)
    block.expose("images", (scaled, "image"))
    block.expose("clip", (positive, "clip"), (negative, "clip"))
    block.expose("vae", (encoded, "vae"), (frames, "vae"))
    block.expose("prompt", (positive, "text"))
    block.expose("size", (size, "size"))
    block.expose("noise_level", (sampled, "noise_level"))
    block.expose("seed", (sampled, "seed"))
    block.expose("refiner", (refiner, "model_name"))
    block.give("IMAGE", frames)
    return block


BLUEPRINTS: list[Callable[[], Blueprint]] = [image_to_video, video_refine]
