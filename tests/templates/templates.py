"""The templates. Each function here becomes a file in `workflows/`; the front end lists them by their titles."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from . import notes
from .directing import DIRECTING
from .editing import EDITING
from .graph import Graph, Group, Node
from .settings import (
    BASE_VIDEO,
    OWN_SIZE,
    RATE,
    REFINER,
    TINY_GUIDANCE,
    TINY_STEPS,
    WITH_BASE,
    released,
    short_prompt_of,
)
from .stages import (
    Conditions,
    Start,
    cascade_loader,
    first_stage,
    refinement,
    save,
    save_compared,
    save_frames,
    scene,
    second_stage,
    table,
    windowed,
)

_STOCK = {"sampler_name": "ddim", "scheduler": "ddim_uniform", "steps": TINY_STEPS, "cfg": TINY_GUIDANCE}
_THEN = "A red circle moves down quickly, in front of a navy background."
"""Another motion in the scene of seed 4."""
_OFF: dict[str, Any] = {"bypassed": True}


def cascade() -> Graph:
    graph = Graph("cascade", notes.CASCADE, "I2VGen-XL 01 Image to video")
    picture = scene(graph.group("1. Picture"))
    first = first_stage(graph.group("2. First stage"), picture)
    second = second_stage(graph.group("3. Second stage"), first, picture)
    videos = graph.group("4. Videos")
    save(videos, first["VIDEO"], "base", "First stage")
    save(videos, second["VIDEO"], graph.name, "Second stage")
    return graph


def base() -> Graph:
    graph = Graph("base", notes.BASE, "I2VGen-XL 02 Image to video, first stage")
    start = Start(graph)
    prompts = start.prompts(graph.group("3. Prompts"))
    conditions = start.conditions(graph.group("4. Details and length"), prompts)
    frames = start.sample(graph.group("5. Base stage"), conditions)
    save_frames(graph.group("6. Video"), frames, graph.name)
    return graph


def refine_video() -> Graph:
    graph = Graph("refine_video", notes.REFINE, "I2VGen-XL 03 Refine a video")
    yours = graph.group("1. Your video")
    file = yours.add("LoadVideo", file=BASE_VIDEO)
    parts = yours.add("GetVideoComponents", video=file)
    loader = cascade_loader(graph.group("2. CLIP, VAE and refiner"))
    refined = second_stage(graph.group("3. Second stage"), loader, frames=parts["images"], rate=parts["fps"])
    save(graph.group("4. Refined video"), refined["VIDEO"], graph.name)
    end = graph.group("5. Before and after")
    save_compared(end, parts["images"], refined["IMAGE"], parts["fps"], f"{graph.name}_compared")
    return graph


def cascade_step_by_step() -> Graph:
    graph = Graph("cascade_step_by_step", notes.STEPS, "I2VGen-XL 04 Image to video, step by step")
    start = Start(graph, keep=True)
    prompts = start.prompts(graph.group("3. Prompts"))
    made = start.conditions(graph.group("4. Details and length"), prompts)
    frames = start.sample(graph.group("5. First stage"), made)
    inside = graph.group("What the network reads")
    both = {"positive": made.positive, "negative": made.negative, "model": start.model}
    tokens = inside.add("I2VGenXLInspectConditioning", **both)
    inside.add("PreviewImage", images=tokens["IMAGE"], title="Tokens")
    table(inside, tokens["table"], "Tokens: norms", 510)
    refined = second_stage(graph.group("6. Second stage"), start.loader, start.picture, frames)["IMAGE"]
    spectra = graph.group("What the refiner changes")
    plot = spectra.add("I2VGenXLSpectrum", images=frames, images_after=refined)
    spectra.add("PreviewImage", images=plot["IMAGE"], title="Spectra")
    table(spectra, plot["table"], "Spectra: decibels", 350)
    end = graph.group("7. Before and after")
    compared = save_compared(end, frames, refined, RATE, graph.name)
    table(graph.group("What was changed"), compared["table"], "PSNR and sharpness")  # last: it grows with the frames
    return graph


def base_chain() -> Graph:
    graph = Graph("base_chain", notes.CHAIN, "I2VGen-XL 05 Image to video, chained clips")
    picture = scene(graph.group("1. Picture"), 4)
    first = first_stage(graph.group("2. First clip"), picture)["IMAGE"]
    joint = graph.group("3. Last frame of the first clip")
    last = joint.add("ImageFromBatch", image=first, batch_index=15)
    frames = first_stage(graph.group("4. Second clip"), picture, image=last, prompt=_THEN, seed=1)["IMAGE"]
    join = graph.group("5. Join")
    matched = join.add("I2VGenXLColorMatch", images=frames, reference=last)
    rest = join.add("ImageFromBatch", title="Without its first frame", image=matched, batch_index=1, length=4096)
    both = join.add("BatchImagesNode", values={"images.image0": first, "images.image1": rest})
    save_frames(graph.group("6. Video"), both, graph.name)
    return graph


def base_long_video() -> Graph:
    graph = Graph("base_long_video", notes.LONG, "I2VGen-XL 06 Image to video, long")
    start = Start(graph)
    prompts = start.prompts(graph.group("3. Prompts"))
    windows = graph.group("4. Windows")
    model = windowed(windows, start.model, freenoise=True, context_overlap=8)
    conditions = start.conditions(graph.group("5. Details and length"), prompts, frames=64)
    frames = start.sample(graph.group("6. Base stage"), conditions, model)
    save_frames(graph.group("7. Video"), frames, graph.name)
    return graph


def base_loop() -> Graph:
    graph = Graph("base_loop", notes.LOOP, "I2VGen-XL 07 Image to video, loop")
    start = Start(graph)
    prompts = start.prompts(graph.group("3. Prompts"))
    ends = graph.group("4. Ends that stay")
    size = {"width": start.size["width"], "height": start.size["height"]}
    fitted = ends.add("ImageScale", image=start.picture.image, upscale_method="area", crop="center", **size)
    held = ends.add("VAEEncode", pixels=fitted, vae=start.vae)
    every = ends.add("RepeatLatentBatch", samples=held, amount=16)
    mask = graph.group("5. Mask: white is made")
    black = mask.add("EmptyImage", title="Black: first and last frame", **size)
    white = mask.add("EmptyImage", title="White: the 14 between", batch_size=14, color=0xFFFFFF, **size)
    pictures = {"images.image0": black, "images.image1": white, "images.image2": black}
    frames = mask.add("BatchImagesNode", values=pictures)
    masked = mask.add("ImageToMask", image=frames)
    group = graph.group("6. Details and latent")
    conditions = start.conditions(group, prompts)
    latent = group.add("SetLatentNoiseMask", samples=every, mask=masked)
    group = graph.group("7. Base stage")
    sampled = _ksampler(group, start, Conditions(conditions.positive, conditions.negative, latent))
    decoded = group.add("I2VGenXLVAEDecode", vae=start.vae, latent=sampled)
    end = graph.group("8. Video")
    save_frames(end, end.add("ImageFromBatch", title="Without the last frame", image=decoded, length=15), graph.name)
    return graph


def base_two_prompts() -> Graph:
    graph = Graph("base_two_prompts", notes.TWO_PROMPTS, "I2VGen-XL 08 Image to video, two prompts")
    start = Start(graph, seed=4)
    group = graph.group("3. Prompts")
    first = start.prompts(group, title="First: prompts")
    second = start.prompts(group, prompt=_THEN, title="Then: prompts")
    stage = graph.group("4. Both on one picture")
    one = start.conditions(stage, first, frames=24, title="First")
    two = start.conditions(stage, second, frames=24, title="Then")
    both = stage.add("ConditioningCombine", conditioning_1=one.positive, conditioning_2=two.positive)
    model = windowed(
        graph.group("5. Two windows"), start.model, freenoise=True, context_overlap=8, split_conds_to_windows=True
    )
    made = Conditions(both["CONDITIONING"], one.negative, one.latent)
    frames = start.sample(graph.group("6. Base stage"), made, model)
    save_frames(graph.group("7. Video"), frames, graph.name)
    return graph


def base_lora() -> Graph:
    graph = Graph("base_lora", notes.LORA, "I2VGen-XL 09 Image to video with a LoRA")
    start = Start(graph)
    prompts = start.prompts(graph.group("3. Prompts"))
    group = graph.group("4. LoRA (bypassed)")
    lora = group.add("LoraLoaderModelOnly", model=start.model, lora_name="your_lora.safetensors", **_OFF)
    conditions = start.conditions(graph.group("5. Details and length"), prompts)
    frames = start.sample(graph.group("6. Base stage"), conditions, lora)
    save_frames(graph.group("7. Video"), frames, graph.name)
    return graph


def base_stock_ksampler() -> Graph:
    graph = Graph("base_stock_ksampler", notes.STOCK, "I2VGen-XL 10 Image to video with KSampler")
    start = Start(graph)
    prompts = start.prompts(graph.group("3. Prompts"))
    conditions = start.conditions(graph.group("4. Details and length"), prompts)
    group = graph.group("5. Base stage with KSampler")
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
    save_frames(graph.group("7. Video of KSampler"), one, graph.name)
    save_frames(graph.group("8. The same once more"), two, f"{graph.name}_custom")
    return graph


def base_swap_encoder() -> Graph:
    graph = Graph("base_swap_encoder", notes.SWAP, "I2VGen-XL 11 Image to video, encoder swapped")
    start = Start(graph, seed=4, keep=True)
    other = scene(graph.group("Another picture"), 20).image
    group = graph.group("3. Prompts")
    own = start.prompts(group, title="CLIP tokens of the picture")
    swapped = start.prompts(group, other, title="CLIP tokens of the other picture")
    details = graph.group("4. Details of the picture")
    made, made_swapped = start.conditions(details, own), start.conditions(details, swapped)
    one = start.sample(graph.group("5. Base stage: own tokens"), made)
    two = start.sample(graph.group("6. Base stage: swapped"), made_swapped)
    save_compared(graph.group("7. Own above swapped"), one, two, RATE, graph.name)
    return graph


def cascade_text_to_image() -> Graph:
    graph = Graph("cascade_text_to_image", notes.TEXT_TO_IMAGE, "I2VGen-XL 12 Text to image to video, refined")
    stock = graph.group("1. Text to image (bypassed)")
    name = "sd_xl_base_1.0.safetensors"
    url = f"https://huggingface.co/stabilityai/stable-diffusion-xl-base-1.0/resolve/main/{name}"
    files = [{"name": name, "url": url, "directory": "checkpoints"}]
    model = stock.add("CheckpointLoaderSimple", ckpt_name=name, models=files, **_OFF)
    text = "a fox in the snow, photograph"
    positive = stock.add("CLIPTextEncode", clip=model["CLIP"], text=text, title="Image: prompt", **_OFF)
    negative = stock.add("CLIPTextEncode", clip=model["CLIP"], text="blurry", title="Image: negative prompt", **_OFF)
    empty = stock.add("EmptyLatentImage", width=1344, height=768, **_OFF)
    sides = {"positive": positive, "negative": negative}
    sample = graph.group("Its sampling (bypassed)")
    latent = sample.add("KSampler", model=model, latent_image=empty, cfg=7.0, **sides, **_OFF)
    sample.add("VAEDecode", samples=latent, vae=model["VAE"], title="Image: drag IMAGE to The picture", **_OFF)
    group = graph.group("2. The picture")
    picture = scene(group, preview=False)
    chosen = group.add("ImageFromBatch", title="The picture", image=picture.image)
    group.add("PreviewImage", images=chosen)
    first = first_stage(graph.group("3. First stage"), picture, image=chosen)
    second = second_stage(graph.group("4. Second stage"), first, picture)
    save(graph.group("5. Refined video"), second["VIDEO"], graph.name)
    return graph


def cascade_upscale_model() -> Graph:
    graph = Graph("cascade_upscale_model", notes.UPSCALE, "I2VGen-XL 13 Image to video, upscale model and refiner")
    picture = scene(graph.group("1. Picture"))
    first = first_stage(graph.group("2. First stage"), picture)
    larger = graph.group("3. Upscale model (bypassed)")
    name = "RealESRGAN_x4plus.safetensors"
    url = f"https://huggingface.co/Comfy-Org/Real-ESRGAN_repackaged/resolve/main/{name}"
    files = [{"name": name, "url": url, "directory": "upscale_models"}]
    model = larger.add("UpscaleModelLoader", model_name=name, models=files, **_OFF)
    enlarged = larger.add("ImageUpscaleWithModel", upscale_model=model, image=first["IMAGE"], **_OFF)
    second = second_stage(graph.group("4. Second stage"), first, picture, enlarged)
    save(graph.group("5. Refined video"), second["VIDEO"], graph.name)
    return graph


def cascade_interpolate() -> Graph:
    graph = Graph("cascade_interpolate", notes.INTERPOLATE, "I2VGen-XL 14 Image to video, refined, interpolated")
    picture = scene(graph.group("1. Picture"))
    first = first_stage(graph.group("2. First stage"), picture)
    second = second_stage(graph.group("3. Second stage"), first, picture)
    between = graph.group("4. Frames between (bypassed)")
    film = "film_net_fp16.safetensors"
    folder = "frame_interpolation"
    url = f"https://huggingface.co/Comfy-Org/frame_interpolation/resolve/main/{folder}/{film}"
    files = [{"name": film, "url": url, "directory": folder}]
    model = between.add("FrameInterpolationModelLoader", model_name=film, models=files, **_OFF)
    more = between.add("FrameInterpolate", interp_model=model, images=second["IMAGE"], multiplier=2, **_OFF)
    save_frames(graph.group("5. Video"), more, graph.name)
    return graph


def cascade_beyond_720p() -> Graph:
    graph = Graph("cascade_beyond_720p", notes.BEYOND, "I2VGen-XL 15 Image to video, refined beyond 720p")
    picture = scene(graph.group("1. Picture"))
    first = first_stage(graph.group("2. First stage"), picture)
    latent = refinement(graph, first, picture, (416, 208), 3)
    tiles = graph.group("6. Video, decoded in tiles")
    decoded = tiles.add("VAEDecodeTiled", samples=latent, vae=first["VAE"], tile_size=256)
    save_frames(tiles, decoded, graph.name)
    return graph


def refine_long_video() -> Graph:
    graph = Graph("refine_long_video", notes.REFINE_LONG, "I2VGen-XL 31 Refine a long video")
    yours = graph.group("1. Your video")
    parts = yours.add("GetVideoComponents", video=yours.add("LoadVideo", file=BASE_VIDEO))
    loader = cascade_loader(graph.group("2. CLIP, VAE and refiner"))
    prompts = graph.group("3. Refiner and prompts")
    models = released("vid2vid_xl")
    refiner = prompts.add("I2VGenXLRefinerLoader", model_name=WITH_BASE, base=loader["MODEL"], models=models)
    said = prompts.add(
        "StringConcatenate",
        title="With the quality suffix",
        string_a=short_prompt_of(13),
        string_b=REFINER.prompt_suffix,
    )
    positive = prompts.add("CLIPTextEncode", title="Refiner: positive prompt", clip=loader["CLIP"], text=said)
    text = REFINER.negative_prompt
    negative = prompts.add("CLIPTextEncode", title="Refiner: negative prompt", clip=loader["CLIP"], text=text)
    larger = graph.group("4. Size")
    size = larger.add("I2VGenXLSize", size=OWN_SIZE, model=refiner)
    sides = {name: size[name] for name in ("width", "height")}
    scaled = larger.add("ImageScale", image=parts["images"], upscale_method="bilinear", **sides)
    encoded = larger.add("VAEEncode", pixels=scaled, vae=loader["VAE"])
    windows = windowed(graph.group("5. Windows"), refiner, context_length=8)
    group = graph.group("6. Refinement")
    latent = group.add("I2VGenXLRefineSampler", model=windows, latent=encoded, positive=positive, negative=negative)
    end = graph.group("7. Refined video")
    frames = end.add("I2VGenXLVAEDecode", vae=loader["VAE"], latent=latent)
    save(end, end.add("CreateVideo", images=frames, fps=parts["fps"]), graph.name)
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
    refine_long_video,
    *DIRECTING,
    *EDITING,
]
"""In the order in which the front end lists them."""


def _ksampler(group: Group, start: Start, made: Conditions) -> Node:
    sides = {"positive": made.positive, "negative": made.negative}
    return group.add(
        "KSampler", model=start.model, latent_image=made.latent, control_after_generate="fixed", **sides, **_STOCK
    )
