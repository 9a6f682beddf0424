"""The blocks of `subgraphs/`: a stage each, with its settings outside. The templates use them too."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from i2vgen_core import assets

from . import notes
from .graph import Blueprint
from .settings import BASE, OWN_SIZE, RATE, REFINER, WITH_BASE, prompt_of, released, short_prompt_of

_SCENE = 13
"""Whose prompts the blocks begin with; what Tiny Scene's seed is in the templates."""


@cache
def image_to_video() -> Blueprint:
    """The base stage: an image in, frames and a video out, and the models for a second stage."""
    block = Blueprint(
        "Image to Video (I2VGen-XL)",
        "A picture and a sentence in, a video out: the base stage.",
        notes.IMAGE_TO_VIDEO,
        (300, 700),
        first_id=101,
    )
    group = block.group("Base", width=360)
    bundle = released("i2vgen_xl", "text", "vision", "vae")
    loader = group.add("I2VGenXLCascadeLoader", bundle=assets.NAME, models=bundle)
    size = group.add("I2VGenXLSize", size=OWN_SIZE, model=loader["MODEL"])
    clip = group.add(
        "I2VGenXLCLIPEncode",
        clip=loader["CLIP"],
        clip_vision=loader["CLIP_VISION"],
        prompt=prompt_of(_SCENE),
        negative_prompt=BASE.negative_prompt,
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
        control_after_generate="fixed",
    )
    end = block.group("Video")
    frames = end.add("I2VGenXLVAEDecode", vae=loader["VAE"], latent=sampled)
    video = end.add("CreateVideo", images=frames, fps=RATE)
    block.expose("image", (clip, "image"), (made, "image"))
    block.expose("prompt", (clip, "prompt"))
    block.expose("negative_prompt", (clip, "negative_prompt"))
    block.expose("size", (size, "size"))
    block.expose("frames", (made, "frames"))
    block.expose("steps", (sampled, "steps"))
    block.expose("seed", (sampled, "seed"))
    block.expose("rate", (video, "fps"))
    block.expose("bundle", (loader, "bundle"))
    block.give("IMAGE", frames)
    block.give("VIDEO", video)
    block.give("MODEL", loader["MODEL"])
    block.give("CLIP", loader["CLIP"])
    block.give("VAE", loader["VAE"])
    block.show(sampled)
    return block


@cache
def video_refine() -> Blueprint:
    """The second stage: frames in, larger and sharper frames and their video out."""
    block = Blueprint(
        "Refine a Video (I2VGen-XL)",
        "A video's frames in, larger and sharper ones out: the second stage.",
        notes.VIDEO_REFINE,
        (300, 700),
        first_id=201,
    )
    group = block.group("Refiner and prompts", width=360)
    refiner = group.add("I2VGenXLRefinerLoader", model_name=WITH_BASE, models=released("vid2vid_xl"))
    prompt = group.add(
        "StringConcatenate",
        title="With the quality suffix",
        string_a=short_prompt_of(_SCENE),
        string_b=REFINER.prompt_suffix,
    )
    positive = group.add("CLIPTextEncode", title="Positive prompt", text=prompt)
    negative = group.add("CLIPTextEncode", title="Negative prompt", text=REFINER.negative_prompt)
    stage = block.group("Refine")
    size = stage.add("I2VGenXLSize", size=OWN_SIZE, model=refiner)
    scaled = stage.add("ImageScale", upscale_method="bilinear", width=size["width"], height=size["height"])
    encoded = stage.add("VAEEncode", pixels=scaled)
    sides = {"positive": positive, "negative": negative}
    sampled = stage.add("I2VGenXLRefineSampler", model=refiner, latent=encoded, control_after_generate="fixed", **sides)
    end = block.group("Video")
    frames = end.add("I2VGenXLVAEDecode", latent=sampled)
    video = end.add("CreateVideo", images=frames, fps=RATE)
    block.expose("images", (scaled, "image"))
    block.expose("clip", (positive, "clip"), (negative, "clip"))
    block.expose("vae", (encoded, "vae"), (frames, "vae"))
    block.expose("base", (refiner, "base"))
    block.expose("prompt", (prompt, "string_a"))
    block.expose("negative_prompt", (negative, "text"))
    block.expose("size", (size, "size"))
    block.expose("noise_level", (sampled, "noise_level"))
    block.expose("steps", (sampled, "steps"))
    block.expose("seed", (sampled, "seed"))
    block.expose("rate", (video, "fps"))
    block.expose("refiner", (refiner, "model_name"))
    block.give("IMAGE", frames)
    block.give("VIDEO", video)
    block.show(sampled)
    return block


@cache
def video_edit() -> Blueprint:
    """AnyV2V: a video and its first frame, edited, in; the edited video out."""
    block = Blueprint(
        "Edit a Video Clip (I2VGen-XL)",
        "A video and its first frame, edited by any tool, in; the video edited likewise out.",
        notes.VIDEO_EDIT,
        (300, 700),
        first_id=301,
    )
    group = block.group("Base and frames", width=360)
    bundle = released("i2vgen_xl", "text", "vision", "vae")
    loader = group.add("I2VGenXLCascadeLoader", bundle=assets.NAME, models=bundle)
    size = group.add("I2VGenXLSize", size=OWN_SIZE, model=loader["MODEL"])
    sides = {"width": size["width"], "height": size["height"]}
    frames = group.add("ImageScale", upscale_method="bilinear", crop="center", **sides)
    count = group.add("GetImageSize", image=frames)
    first = group.add("ImageFromBatch", title="First frame", image=frames)
    texts, stage = block.group("Prompts"), block.group("Edit")
    made = []
    for title, image, prompt in (("Source", first, ""), ("Edited", None, prompt_of(_SCENE))):
        given = {"image": image} if image else {}
        clip = texts.add(
            "I2VGenXLCLIPEncode",
            title=f"{title}: prompts",
            clip=loader["CLIP"],
            clip_vision=loader["CLIP_VISION"],
            prompt=prompt,
            negative_prompt=BASE.negative_prompt,
            width=size["width"],
            **given,
        )
        details = stage.add(
            "I2VGenXLGlobalEncode",
            title=f"{title}: details",
            positive=clip["positive"],
            negative=clip["negative"],
            global_encoder=loader["global_encoder"],
            vae=loader["VAE"],
            frames=count["batch_size"],
            fps=0,
            **sides,
            **given,
        )
        made.append((clip, details))
    (source_clip, source), (clip, details) = made
    latent = stage.add("VAEEncode", pixels=frames, vae=loader["VAE"])
    edited = block.group("Video")
    sampled = edited.add(
        "I2VGenXLVideoEdit",
        model=loader["MODEL"],
        source_positive=source["positive"],
        positive=details["positive"],
        negative=details["negative"],
        source_latent=latent,
        control_after_generate="fixed",
    )
    decoded = edited.add("I2VGenXLVAEDecode", vae=loader["VAE"], latent=sampled)
    video = edited.add("CreateVideo", images=decoded, fps=RATE)
    block.expose("images", (frames, "image"))
    block.expose("first_frame", (clip, "image"), (details, "image"))
    block.expose("prompt", (clip, "prompt"))
    block.expose("negative_prompt", (clip, "negative_prompt"), (source_clip, "negative_prompt"))
    block.expose("size", (size, "size"))
    block.expose("steps", (sampled, "steps"))
    block.expose("seed", (sampled, "seed"))
    block.expose("fresh_noise", (sampled, "fresh_noise"))
    block.expose("rate", (video, "fps"))
    block.expose("bundle", (loader, "bundle"))
    block.give("IMAGE", decoded)
    block.give("VIDEO", video)
    block.show(sampled)
    return block


BLUEPRINTS: list[Callable[[], Blueprint]] = [image_to_video, video_refine, video_edit]
