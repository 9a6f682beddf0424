"""The workflows as graphs in API format, at sizes that a test can run. Tests change single inputs of them."""

from collections.abc import Callable
from typing import Any

from i2vgen_core.sampling.options import BaseOptions

Graph = dict[str, dict[str, Any]]

BUNDLE = "tiny"
PHOTO = "photo.png"
PROMPT = "a cat looks around"
NEGATIVE = "static, blurry"
REFINE_PROMPT = "a cat"
REFINE_NEGATIVE = "worst quality"
WIDTH, HEIGHT, FRAMES, FPS, STEPS, SEED = 96, 64, 3, 16, 3, 7
REFINED_WIDTH, REFINED_HEIGHT = 120, 88  # latents of 15x11, which the refiners pad in both directions
RATE = 8.0
BASE_OPTIONS = BaseOptions(
    width=WIDTH, height=HEIGHT, frames=FRAMES, fps=FPS, steps=STEPS, seed=SEED, negative=NEGATIVE
)
"""The settings of `base_latent` for the core."""


def node(class_type: str, **inputs: Any) -> dict[str, Any]:
    """A node of a graph; a link is [node id, output number]."""
    return {"class_type": class_type, "inputs": inputs}


def conditions(bundle: str = BUNDLE) -> Graph:
    """From the photo to what a base sampler takes: `global_encode`'s positive, negative and empty latent."""
    return {
        "loader": node("I2VGenXLCascadeLoader", bundle=bundle, weight_dtype="default"),
        "photo": node("LoadImage", image=PHOTO),
        "clip_encode": node(
            "I2VGenXLCLIPEncode",
            clip=["loader", 2],
            clip_vision=["loader", 3],
            image=["photo", 0],
            prompt=PROMPT,
            negative_prompt=NEGATIVE,
            width=WIDTH,
        ),
        "global_encode": node(
            "I2VGenXLGlobalEncode",
            positive=["clip_encode", 0],
            negative=["clip_encode", 1],
            global_encoder=["loader", 1],
            vae=["loader", 4],
            image=["photo", 0],
            width=WIDTH,
            height=HEIGHT,
            frames=FRAMES,
            fps=FPS,
        ),
    }


def base_latent(bundle: str = BUNDLE) -> Graph:
    """Up to the base video's latent, which `base` gives."""
    return conditions(bundle) | {
        "base": node(
            "I2VGenXLBaseSampler",
            model=["loader", 0],
            positive=["global_encode", 0],
            negative=["global_encode", 1],
            latent=["global_encode", 2],
            seed=SEED,
            steps=STEPS,
            cfg=0.0,
            eta=0.0,
        ),
    }


def stock_latent(bundle: str = BUNDLE) -> Graph:
    """The same with the host's own KSampler, which `base` is here."""
    return conditions(bundle) | {
        "base": node(
            "KSampler",
            model=["loader", 0],
            positive=["global_encode", 0],
            negative=["global_encode", 1],
            latent_image=["global_encode", 2],
            seed=SEED,
            steps=STEPS,
            cfg=9.0,
            sampler_name="ddim",
            scheduler="ddim_uniform",
            denoise=1.0,
        ),
    }


def refined_latent(bundle: str = BUNDLE) -> Graph:
    """Up to the refined video's latent, which `refine` gives; `encode` has what goes into the refiner."""
    return base_latent(bundle) | {
        "base_frames": node("I2VGenXLVAEDecode", vae=["loader", 4], latent=["base", 0], frames_per_batch=0),
        "scale": node(
            "ImageScale",
            image=["base_frames", 0],
            upscale_method="bilinear",
            width=REFINED_WIDTH,
            height=REFINED_HEIGHT,
            crop="disabled",
        ),
        "encode": node("VAEEncode", pixels=["scale", 0], vae=["loader", 4]),
        "refiner": node(
            "I2VGenXLRefinerLoader", model_name=f"{bundle}/refiner", variant="auto", weight_dtype="default"
        ),
        "positive": node("CLIPTextEncode", clip=["loader", 2], text=REFINE_PROMPT),
        "negative": node("CLIPTextEncode", clip=["loader", 2], text=REFINE_NEGATIVE),
        "refine": node(
            "I2VGenXLRefineSampler",
            model=["refiner", 0],
            positive=["positive", 0],
            negative=["negative", 0],
            latent=["encode", 0],
            seed=SEED,
            steps=STEPS,
            cfg=0.0,
            rescale=-1.0,
            noise_level=0,
            solver="dpmpp_2m_sde",
            entry="auto",
            eta=1.0,
        ),
    }


def save(latent: str, frames_per_batch: int = 0) -> Graph:
    """From a latent to an MP4 file: `frames` has the images, `save` writes."""
    return {
        "frames": node("I2VGenXLVAEDecode", vae=["loader", 4], latent=[latent, 0], frames_per_batch=frames_per_batch),
        "video": node("CreateVideo", images=["frames", 0], fps=RATE),
        "save": node("SaveVideo", video=["video", 0], filename_prefix="test", format="mp4", codec="h264"),
    }


def base_only() -> Graph:
    """workflows: the base alone."""
    return base_latent() | save("base")


def base_with_ksampler() -> Graph:
    """workflows: the base with the stock KSampler."""
    return stock_latent() | save("base")


def full_cascade() -> Graph:
    """workflows: both stages."""
    return refined_latent() | save("refine", frames_per_batch=2)


def changed(graph: Graph, **inputs: Any) -> Graph:
    """A copy with inputs changed, named `node__input`."""
    copy = {name: {**each, "inputs": dict(each["inputs"])} for name, each in graph.items()}
    for name, value in inputs.items():
        where, key = name.split("__")
        copy[where]["inputs"][key] = value
    return copy


SMALL: dict[str, dict[str, Any]] = {
    "I2VGenXLBaseSampler": {"steps": 1},
    "I2VGenXLRefineSampler": {"steps": 1},
    "KSampler": {"steps": 1},
    "BasicScheduler": {"steps": 1},
    "I2VGenXLShots": {"steps": 1, "frames": 3},
    "I2VGenXLVideoEdit": {"steps": 2},
    "ImageScale": {"width": 120, "height": 88},
}
TEMPLATE_FRAMES = {
    "base_long_video": 20,
    "base_two_prompts": 24,
    "base_loop": 16,
    "base_chain": 16,
    "refine_long_video": 11,
    "part_moves": 16,
}
"""Of the templates whose other blocks count on a number; all others are run with three."""
KEPT_SIZE = ("base_loop", "part_moves", "video_recolour", "video_image_edit", "video_style")
"""Whose pictures have to be of the base's size."""


def small_template(make: Callable[[], Any]) -> Graph:
    """A template's graph in API format, with few steps and small frames. The base's size stays: it is wired. In the place of
    a video's file is a scene that stands still."""
    prompt = make().prompt()
    for name, each in prompt.items():
        for entry, value in SMALL.get(each["class_type"], {}).items():
            if not (each["class_type"] == "ImageScale" and make.__name__ in KEPT_SIZE):
                each["inputs"][entry] = value
        if each["class_type"] == "I2VGenXLGlobalEncode":
            each["inputs"]["frames"] = TEMPLATE_FRAMES.get(make.__name__, 3)
        if each["class_type"] == "LoadVideo":
            prompt[name] = node("CreateVideo", images=["scenes", 0], fps=RATE)
    if "scenes" in {link[0] for each in prompt.values() for link in each["inputs"].values() if isinstance(link, list)}:
        prompt["scene"] = node("I2VGenXLTinyScene", seed=13)
        prompt["scenes"] = node("RepeatImageBatch", image=["scene", 0], amount=TEMPLATE_FRAMES.get(make.__name__, 3))
    return prompt
