"""The template of a base that follows a ControlNet by a Ctrl-Adapter. None of their files comes with the pack: the note says which
they are. tests/host runs it on made-up networks."""

from __future__ import annotations

from collections.abc import Callable

from i2vgen_core.checkpoints.download import FILES

from .family import NetworkStart, video_in, waiting_note
from .graph import Graph
from .settings import released

_CONTROL = "https://huggingface.co/comfyanonymous/ControlNet-v1-1_fp16_safetensors/resolve/main/control_v11p_sd15_canny_fp16.safetensors"
_CLIP_L = "https://huggingface.co/comfyanonymous/flux_text_encoders/resolve/main/clip_l.safetensors"
_SIDE = 512
"""Pixels of the videos that the adapters were trained on."""
_FOX = "A fox runs through a forest, morning light"


def edges_to_video() -> Graph:
    net, clip = (url.rsplit("/", 1)[1] for url in (_CONTROL, _CLIP_L))
    words = """A photo moves as the edges of a video do: a ControlNet of Stable Diffusion 1.5 sees each frame's edges, and a \
Ctrl-Adapter makes them steer I2VGen-XL. The photo should show what the video's first frame does. For depth, wire \
*MoGe* or another depth block in the place of *Canny*, and load *i2vgenxl_depth* and *control_v11f1p_sd15_depth*; \
soft edges and scribbles likewise."""
    more = f"""A ControlNet and its text encoder:

- *controlnet*: [{net}]({_CONTROL}), 0.72 GB
- *text_encoders*: [{clip}]({_CLIP_L}), 0.25 GB"""
    note = waiting_note("Edges to video", words, "ctrl_canny", more, ("i2vgen_xl", "text", "vision", "vae"))
    graph = Graph("edges_to_video", note, "I2VGen-XL 35 Edges to video, Ctrl-Adapter")
    photo = graph.group("Photo").add("LoadImage", image="photo.png")
    start = NetworkStart(graph, "i2vgen_xl", "i2vgen_xl", detail_gain="once")
    vision, release = start.vision, start.release
    control = graph.group("2. Control")
    name, models = FILES["ctrl_canny"].name, released("ctrl_canny")
    adapter = control.add("I2VGenXLCtrlAdapterLoader", adapter_name=name, models=models)
    control_net = control.add("ControlNetLoader", control_net_name=net, models=_at(_CONTROL, "controlnet"))
    title = "CLIP of Stable Diffusion 1.5"
    own = control.add("CLIPLoader", title=title, clip_name=clip, models=_at(_CLIP_L, "text_encoders"))
    group, frames = video_in(graph, "3. Edges of a video")
    lines = group.add("Canny", image=frames)
    texts = graph.group("4. Prompts")
    prompts = texts.add(
        "I2VGenXLCLIPEncode",
        clip=start.clip,
        clip_vision=vision,
        image=photo,
        prompt=_FOX,
        negative_prompt=release.negative_prompt,
        width=_SIDE,
    )
    good, bad = (
        texts.add("CLIPTextEncode", title=f"For the ControlNet: {title}", clip=own, text=text)
        for title, text in (("prompt", _FOX), ("negative", release.negative_prompt))
    )
    details = graph.group("5. Details and length")
    made = details.add(
        "I2VGenXLGlobalEncode",
        positive=prompts["positive"],
        negative=prompts["negative"],
        global_encoder=start.model["global_encoder"],
        vae=start.vae,
        image=photo,
        width=_SIDE,
        height=_SIDE,
        frames=release.frames,
        fps=0,
    )
    taken = details.add("ImageFromBatch", title="As many frames", image=lines, length=release.frames)
    steered = details.add(
        "I2VGenXLApplyCtrlAdapter",
        model=start.model,
        ctrl_adapter=adapter,
        control_net=control_net,
        images=taken,
        text_positive=good,
        text_negative=bad,
        clip_vision_output=details.add("CLIPVisionEncode", clip_vision=vision, image=photo),
    )
    start.sampled(graph.group("6. Sampling"), made, steered)
    return graph


def _at(url: str, folder: str) -> list[dict[str, str]]:
    """Of a file that a stock block loads."""
    return [{"name": url.rsplit("/", 1)[1], "url": url, "directory": folder}]


STEERING: list[Callable[[], Graph]] = [edges_to_video]
