"""The templates. Each function here becomes a file in `workflows/`; the front end lists them by their titles."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from . import notes
from .graph import Graph, Node
from .stages import (
    TINY_GUIDANCE,
    TINY_STEPS,
    Conditions,
    Start,
    refine,
    refiner_prompts,
    second_stage,
    upscale,
    video,
)

_STOCK = {"sampler_name": "ddim", "scheduler": "ddim_uniform", "steps": TINY_STEPS, "cfg": TINY_GUIDANCE}


_THEN = "A red circle moves down quickly, in front of a navy background."
"""Another motion in the scene of seed 4."""


def base() -> Graph:
    graph = Graph("base", notes.BASE, "I2VGen-XL 02 Image to video, first stage")
    start = Start(graph)
    frames = start.base()
    video(graph.group("6. Video", width=420), frames, graph.name)
    return graph


def base_chain() -> Graph:
    graph = Graph("base_chain", notes.CHAIN, "I2VGen-XL 05 Image to video, chained clips")
    start = Start(graph, seed=4, keep=True)
    first = start.base()
    joint = graph.group("6. Second clip", width=400)
    last = joint.add("ImageFromBatch", title="Last frame of the first clip", image=first, batch_index=15)
    prompts = start.prompts(joint, last, prompt=_THEN, title="Second clip: prompts")
    second = graph.group("7. Second clip's base stage")
    frames = start.sample(second, start.conditions(second, prompts, last), seed=1)
    join = graph.group("8. Join")
    matched = join.add("I2VGenXLColorMatch", images=frames, reference=last)
    rest = join.add("ImageFromBatch", title="Without its first frame", image=matched, batch_index=1, length=4096)
    both = join.add("BatchImagesNode", values={"images.image0": first, "images.image1": rest})
    video(graph.group("9. Video", width=420), both, graph.name)
    return graph


def base_long_video() -> Graph:
    graph = Graph("base_long_video", notes.LONG, "I2VGen-XL 06 Image to video, long")
    start = Start(graph)
    prompts = start.prompts(graph.group("4. Prompts", width=400))
    windows = graph.group("5. Windows")
    model = _windows(windows, start.model, freenoise=True, context_overlap=8)
    conditions = start.conditions(windows, prompts, frames=64)
    frames = start.sample(graph.group("6. Base stage"), conditions, model)
    video(graph.group("7. Video", width=420), frames, graph.name)
    return graph


def base_loop() -> Graph:
    graph = Graph("base_loop", notes.LOOP, "I2VGen-XL 07 Image to video, loop")
    start = Start(graph)
    prompts = start.prompts(graph.group("4. Prompts", width=400))
    ends = graph.group("5. Ends that stay")
    size = {"width": start.size["width"], "height": start.size["height"]}
    fitted = ends.add("ImageScale", image=start.picture, upscale_method="area", crop="center", **size)
    held = ends.add("VAEEncode", pixels=fitted, vae=start.vae)
    every = ends.add("RepeatLatentBatch", samples=held, amount=16)
    mask = graph.group("6. Mask: white is made")
    black = mask.add("EmptyImage", title="Black: first and last frame", **size)
    white = mask.add("EmptyImage", title="White: the 14 between", batch_size=14, color=0xFFFFFF, **size)
    pictures = {"images.image0": black, "images.image1": white, "images.image2": black}
    frames = mask.add("BatchImagesNode", values=pictures)
    masked = mask.add("ImageToMask", image=frames)
    group = graph.group("7. Base stage")
    conditions = start.conditions(group, prompts)
    latent = group.add("SetLatentNoiseMask", samples=every, mask=masked)
    sampled = _ksampler(group, start, Conditions(conditions.positive, conditions.negative, latent))
    decoded = group.add("I2VGenXLVAEDecode", vae=start.vae, latent=sampled)
    end = graph.group("8. Video", width=420)
    video(end, end.add("ImageFromBatch", title="Without the last frame", image=decoded, length=15), graph.name)
    return graph


def base_lora() -> Graph:
    graph = Graph("base_lora", notes.LORA, "I2VGen-XL 09 Image to video with a LoRA")
    start = Start(graph)
    prompts = start.prompts(graph.group("4. Prompts", width=400))
    group = graph.group("5. Base stage with a LoRA")
    lora = group.add("LoraLoaderModelOnly", model=start.model, lora_name="your_lora.safetensors", bypassed=True)
    frames = start.sample(group, start.conditions(group, prompts), lora)
    video(graph.group("6. Video", width=420), frames, graph.name)
    return graph


def base_stock_ksampler() -> Graph:
    graph = Graph("base_stock_ksampler", notes.STOCK, "I2VGen-XL 10 Image to video with KSampler")
    start = Start(graph)
    prompts = start.prompts(graph.group("4. Prompts", width=400))
    group = graph.group("5. Base stage with KSampler")
    conditions = start.conditions(group, prompts)
    latent = _ksampler(group, start, conditions)
    one = group.add("VAEDecode", samples=latent, vae=start.vae)
    custom = graph.group("6. The same in single blocks")
    chosen = custom.add("KSamplerSelect", sampler_name=_STOCK["sampler_name"])
    sigmas = custom.add("BasicScheduler", model=start.model, scheduler=_STOCK["scheduler"], steps=TINY_STEPS)
    noise = custom.add("RandomNoise", control_after_generate="fixed")
    sides = {"positive": conditions.positive, "negative": conditions.negative}
    guider = custom.add("CFGGuider", model=start.model, cfg=TINY_GUIDANCE, **sides)
    parts: dict[str, Any] = {"noise": noise, "guider": guider, "sampler": chosen, "sigmas": sigmas}
    sampled = custom.add("SamplerCustomAdvanced", latent_image=conditions.latent, **parts)
    two = custom.add("VAEDecode", samples=sampled, vae=start.vae)
    video(graph.group("7. Video of KSampler", width=420), one, graph.name)
    video(graph.group("8. The same once more", width=420), two, f"{graph.name}_custom")
    return graph


def base_swap_encoder() -> Graph:
    graph = Graph("base_swap_encoder", notes.SWAP, "I2VGen-XL 11 Image to video, encoder swapped")
    start = Start(graph, seed=4, keep=True)
    other = start.scene("Another picture", 20)["IMAGE"]
    group = graph.group("4. Prompts", width=400)
    own = start.prompts(group, title="CLIP tokens of the picture")
    swapped = start.prompts(group, other, title="CLIP tokens of the other picture")
    stage = graph.group("5. Base stage: own tokens")
    one = start.sample(stage, start.conditions(stage, own))
    stage = graph.group("6. Base stage: swapped")
    two = start.sample(stage, start.conditions(stage, swapped, title="Global tokens of the picture"))
    compare = graph.group("7. Left: own, right: swapped", width=420)
    both = compare.add("I2VGenXLCompareVideos", images_a=one, images_b=two)
    video(compare, both, graph.name)
    return graph


def base_two_prompts() -> Graph:
    graph = Graph("base_two_prompts", notes.TWO_PROMPTS, "I2VGen-XL 08 Image to video, two prompts")
    start = Start(graph, seed=4)
    group = graph.group("4. Prompts", width=400)
    first = start.prompts(group, title="First: prompts")
    second = start.prompts(group, prompt=_THEN, title="Then: prompts")
    stage = graph.group("5. Both on one picture")
    one = start.conditions(stage, first, frames=24, title="First")
    two = start.conditions(stage, second, frames=24, title="Then")
    both = stage.add("ConditioningCombine", conditioning_1=one.positive, conditioning_2=two.positive)
    stage = graph.group("6. Base stage in two windows")
    model = _windows(stage, start.model, freenoise=True, context_overlap=8, split_conds_to_windows=True)
    frames = start.sample(stage, Conditions(both["CONDITIONING"], one.negative, one.latent), model)
    video(graph.group("7. Video", width=420), frames, graph.name)
    return graph


def cascade() -> Graph:
    graph = Graph("cascade", notes.CASCADE, "I2VGen-XL 01 Image to video, refined")
    start = Start(graph, keep=True)
    refiner = start.refiner()
    frames = start.base()
    video(graph.group("6. Base video", width=420), frames, "base")
    _, refined = second_stage(graph, start, refiner, frames, 7)
    video(graph.group("9. Refined video", width=420), refined, graph.name)
    return graph


def cascade_beyond_720p() -> Graph:
    graph = Graph("cascade_beyond_720p", notes.BEYOND, "I2VGen-XL 15 Image to video, refined beyond 720p")
    start = Start(graph, keep=True)
    refiner = start.refiner()
    frames = start.base()
    prompts = refiner_prompts(graph, start.clip, start.seed, 6)
    group = graph.group("7. Refinement in windows and tiles")
    scaled = upscale(group, frames, (416, 208))
    model = _windows(group, refiner["MODEL"], context_length=8, bypassed=True)
    latent = refine(group, model, prompts, start.vae, scaled, decode=False)
    tiles = graph.group("8. Video", width=420)
    decoded = tiles.add("VAEDecodeTiled", samples=latent, vae=start.vae, tile_size=256)
    video(tiles, decoded, graph.name)
    return graph


def cascade_interpolate() -> Graph:
    graph = Graph("cascade_interpolate", notes.INTERPOLATE, "I2VGen-XL 14 Image to video, refined, interpolated")
    start = Start(graph, keep=True)
    refiner = start.refiner()
    frames = start.base()
    _, refined = second_stage(graph, start, refiner, frames, 6)
    between = graph.group("8. Frames between")
    film = "film_net_fp16.safetensors"
    folder = "frame_interpolation"
    url = f"https://huggingface.co/Comfy-Org/frame_interpolation/resolve/main/{folder}/{film}"
    files = [{"name": film, "url": url, "directory": folder}]
    model = between.add("FrameInterpolationModelLoader", model_name=film, models=files, bypassed=True)
    more = between.add("FrameInterpolate", interp_model=model, images=refined, multiplier=2, bypassed=True)
    video(graph.group("9. Video", width=420), more, graph.name)
    return graph


def cascade_step_by_step() -> Graph:
    graph = Graph("cascade_step_by_step", notes.STEPS, "I2VGen-XL 04 Image to video, step by step")
    start = Start(graph, keep=True)
    refiner = start.refiner()
    prompts = start.prompts(graph.group("4. Prompts", width=400))
    stage = graph.group("5. Base stage")
    made = start.conditions(stage, prompts)
    latent = start.sample_latent(stage, made)
    frames = stage.add("I2VGenXLVAEDecode", vae=start.vae, latent=latent)
    inside = graph.group("What the network reads", width=400)
    both = {"positive": made.positive, "negative": made.negative, "model": start.model}
    tokens = inside.add("I2VGenXLInspectConditioning", **both)
    inside.add("PreviewImage", images=tokens["IMAGE"], room=420)
    inside.add("PreviewAny", source=tokens["table"], title="Tokens: norms")
    seen = graph.group("6. The base's frames", width=400)
    seen.add("PreviewImage", images=frames, room=320)
    base_video = graph.group("Base video", below=True, width=400)
    video(base_video, frames, "base")
    scaled, refined = second_stage(graph, start, refiner, frames, 7)
    spectra = graph.group("What the refiner changes", width=420)
    plot = spectra.add("I2VGenXLSpectrum", images=scaled, images_after=refined)
    spectra.add("PreviewImage", images=plot["IMAGE"], room=420)
    spectra.add("PreviewAny", source=plot["table"], title="Spectra: decibels")
    end = graph.group("9. Before and after", width=420)
    compared = end.add("I2VGenXLCompareVideos", images_a=scaled, images_b=refined)
    video(end, compared, graph.name)
    end.add("PreviewAny", source=compared["table"], title="PSNR and sharpness")
    return graph


def cascade_text_to_image() -> Graph:
    graph = Graph("cascade_text_to_image", notes.TEXT_TO_IMAGE, "I2VGen-XL 12 Text to image to video, refined")
    start = Start(graph, keep=True)
    refiner = start.refiner()
    stock = graph.group("Text to image (bypassed)", width=400)
    name = "sd_xl_base_1.0.safetensors"
    url = f"https://huggingface.co/stabilityai/stable-diffusion-xl-base-1.0/resolve/main/{name}"
    files = [{"name": name, "url": url, "directory": "checkpoints"}]
    off: dict[str, Any] = {"bypassed": True}
    model = stock.add("CheckpointLoaderSimple", ckpt_name=name, models=files, **off)
    text = "a fox in the snow, photograph"
    positive = stock.add("CLIPTextEncode", clip=model["CLIP"], text=text, title="Image: prompt", **off)
    negative = stock.add("CLIPTextEncode", clip=model["CLIP"], text="blurry", title="Image: negative prompt", **off)
    empty = stock.add("EmptyLatentImage", width=1344, height=768, **off)
    sides = {"positive": positive, "negative": negative}
    latent = stock.add("KSampler", model=model, latent_image=empty, cfg=7.0, **sides, **off)
    stock.add("VAEDecode", samples=latent, vae=model["VAE"], title="Image: drag IMAGE to The picture", **off)
    group = graph.group("4. The picture, and its prompts", width=400)
    picture = group.add("ImageFromBatch", title="The picture", image=start.picture)
    clip = start.prompts(group, picture)
    stage = graph.group("5. Base stage")
    frames = start.sample(stage, start.conditions(stage, clip, picture))
    _, refined = second_stage(graph, start, refiner, frames, 6)
    video(graph.group("8. Refined video", width=420), refined, graph.name)
    return graph


def cascade_upscale_model() -> Graph:
    graph = Graph("cascade_upscale_model", notes.UPSCALE, "I2VGen-XL 13 Image to video, upscale model and refiner")
    start = Start(graph, keep=True)
    refiner = start.refiner()
    frames = start.base()
    larger = graph.group("6. Upscale model (bypassed)")
    name = "RealESRGAN_x4plus.safetensors"
    url = f"https://huggingface.co/Comfy-Org/Real-ESRGAN_repackaged/resolve/main/{name}"
    files = [{"name": name, "url": url, "directory": "upscale_models"}]
    model = larger.add("UpscaleModelLoader", model_name=name, models=files, bypassed=True)
    enlarged = larger.add("ImageUpscaleWithModel", upscale_model=model, image=frames, bypassed=True)
    _, refined = second_stage(graph, start, refiner, enlarged, 7)
    video(graph.group("9. Refined video", width=420), refined, graph.name)
    return graph


def refine_video() -> Graph:
    graph = Graph("refine_video", notes.REFINE, "I2VGen-XL 03 Refine a video")
    start = Start(graph, keep=True)
    refiner = start.refiner()
    frames = start.base()
    yours = graph.group("Your video (bypassed)")
    file = yours.add("LoadVideo", file="video.mp4", bypassed=True)
    yours.add("GetVideoComponents", video=file, bypassed=True, title="Drag images to Upscale Image")
    _, refined = second_stage(graph, start, refiner, frames, 6)
    video(graph.group("8. Refined video", width=420), refined, graph.name)
    return graph


TEMPLATES: list[Callable[[], Graph]] = [
    cascade,
    base,
    refine_video,
    cascade_step_by_step,
    base_chain,
    base_long_video,
    base_loop,
    base_two_prompts,
    base_lora,
    base_stock_ksampler,
    base_swap_encoder,
    cascade_text_to_image,
    cascade_upscale_model,
    cascade_interpolate,
    cascade_beyond_720p,
]
"""In the order in which the front end lists them."""


def _ksampler(group: Any, start: Start, made: Conditions) -> Node:
    sides = {"positive": made.positive, "negative": made.negative}
    return group.add(
        "KSampler", model=start.model, latent_image=made.latent, control_after_generate="fixed", **sides, **_STOCK
    )


def _windows(group: Any, model: Any, **settings: Any) -> Node:
    return group.add("ContextWindowsManual", model=model, **{"causal_window_fix": False, **settings})
