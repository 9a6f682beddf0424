"""A story of shots as a graph of blocks, one clip a shot: the host keeps what has not changed, as it does for any graph."""

from __future__ import annotations

from typing import Any

from comfy_execution.graph_utils import GraphBuilder
from torch import Tensor

from ...i2vgen_core.media.images import check_images, video_frame
from ...i2vgen_core.shots import Clip, held_start
from .inputs import check_there, video_size

_JOINED = 50
"""Videos that Batch Images takes."""


def chain(
    clips: list[Clip],
    loaded: dict[str, Any],
    image: Any,
    asked: dict[str, Any],
    sampled: dict[str, Any],
    strength: float,
) -> tuple[dict[str, Any], list[Any]]:
    """The graph that makes clips one after the other, and the link to its video.

    Args:
        clips: see core's clips_of.
        loaded: links to `model`, `clip`, `clip_vision`, `global_encoder` and `vae`.
        image: link to the first picture.
        asked: `width`, `height`, `fps` and `negative_prompt`.
        sampled: settings of the Base Sampler, but for the seed.
        strength: of Color Match.
    """
    graph = GraphBuilder()
    vae, size = loaded["vae"], {name: asked[name] for name in ("width", "height")}
    videos: list[Any] = []
    for clip in clips:
        picture = image
        if videos:
            picture = graph.node("ImageFromBatch", image=videos[-1], batch_index=-clip.held, length=1).out(0)
        prompts = graph.node(
            "I2VGenXLCLIPEncode",
            clip=loaded["clip"],
            clip_vision=loaded["clip_vision"],
            image=picture,
            prompt=clip.prompt,
            negative_prompt=asked["negative_prompt"],
            width=asked["width"],
        )
        made = graph.node(
            "I2VGenXLGlobalEncode",
            positive=prompts.out(0),
            negative=prompts.out(1),
            global_encoder=loaded["global_encoder"],
            vae=vae,
            image=picture,
            frames=clip.frames,
            fps=asked["fps"],
            **size,
        )
        latent = made.out(2)
        if videos:
            latent = graph.node("I2VGenXLContinue", vae=vae, latent=latent, images=videos[-1], frames=clip.held).out(0)
        sides = {"positive": made.out(0), "negative": made.out(1), "latent": latent}
        sampler = graph.node("I2VGenXLBaseSampler", model=loaded["model"], seed=clip.seed, **sides, **sampled)
        frames = graph.node("I2VGenXLVAEDecode", vae=vae, latent=sampler.out(0), frames_per_batch=0).out(0)
        if videos:
            matched = graph.node(
                "I2VGenXLColorMatch", images=frames, reference=picture, method="wavelet", strength=strength
            )
            frames = graph.node(
                "ImageFromBatch", image=matched.out(0), batch_index=clip.held, length=clip.frames - clip.held
            ).out(0)
        videos.append(frames)
    while len(videos) > 1:
        videos = [_joined(graph, videos[start : start + _JOINED]) for start in range(0, len(videos), _JOINED)]
    return graph.finalize(), videos[0]


def _joined(graph: GraphBuilder, videos: list[Any]) -> Any:
    return graph.node("BatchImagesNode", **{f"images.image{number}": each for number, each in enumerate(videos)}).out(0)


def continue_from(vae: Any, latent: Any, images: Tensor, frames: int) -> dict[str, Any]:
    """A LATENT whose first frames are the last ones of a video, and its noise mask, which holds them.

    Args:
        vae: the base's VAE.
        latent: LATENT of the clip.
        images: the video before it [n, H, W, 3] in 0..1.
        frames: that are held; of a shorter video, all of them.

    Raises:
        InputError: a part is missing, the clip has no frames of its own, or a picture that cannot be.
    """
    check_there("vae", vae, "Load VAE")
    check_images(images, "the video before")
    width, height, length = video_size(latent)
    held = held_start(vae.encode(video_frame(images[-frames:], width, height)), length)
    assert held.mask is not None
    return {**latent, "samples": held.latent, "noise_mask": held.mask[:, None]}
