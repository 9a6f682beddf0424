"""`compose`: a video of a prompt and of pictures that it follows, or of a prompt alone."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor

from ..cascade import Cascade
from ..config import COMPOSERS
from ..family import compose
from ..media.guides import Guides
from ..media.images import luma, read_image
from ..media.source import read_source, source_files
from ..media.video import check_video_file
from ..memory import DTYPES
from ..releases import RELEASES
from ..sampling.options import BaseOptions
from .generate import add_lora_option, loras_of, progress, write_whole

_FILE_FPS = 8
_VIDEOS = {
    "depth": "depth of each frame, near places bright",
    "sketch": "lines of each frame",
    "motion": "pictures of optical flow, in the usual colours, one fewer than frames",
    "masked": "a video of which the mask's places are made anew",
    "mask": "white where it is to be made; one picture, or one for each frame",
}
_PICTURES = {
    "first-frame": "the video's first frame",
    "single-sketch": "lines of the first frame alone",
    "look": "a picture whose looks the video is to have",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `compose`."""
    usual, release = BaseOptions(), RELEASES["tft2v_composer"]
    parser.epilog = (
        "Videos are a file, pictures, or a folder of them, of any size. What the network in the folder does not read is an "
        "error. `generate --video` refines what was made."
    )
    add_common(parser)
    add = parser.add_argument
    add("--prompt", required=True, metavar="TEXT", help="what happens in the video; the release's suffix is added")
    for name, words in _VIDEOS.items():
        add(f"--{name}", nargs="+", default=[], metavar="FILE", help=words)
    for name, words in _PICTURES.items():
        add(f"--{name}", metavar="FILE", help=words)
    guides = Guides()
    depth = "what the nearest place counts as, 0..10 (%(default)s)"
    add("--depth-gain", type=float, default=guides.depth_gain, metavar="GAIN", help=depth)
    add("--far-is-bright", action="store_true", help="depth's bright places are the far ones")
    fastest = "pixels that the strongest colour of --motion stands for (%(default)s)"
    add("--fastest", type=float, default=guides.fastest, metavar="PIXELS", help=fastest)
    add("--steps", type=int, help=f"(the release's, {release.steps}; 4 for VideoLCM)")
    add("--guidance", type=float, help=f"(the release's, {release.guidance:g}; VideoLCM has none)")
    add("--negative", metavar="TEXT", help="negative prompt (the release's; VideoLCM has none)")
    add("--frames", type=int, help=f"(the release's, {release.frames})")
    kinds = (*COMPOSERS, "text2video")
    add("--kind", choices=kinds, help="what the folder's unet/ is, where its config.json does not say")
    add("--seed", type=int, default=usual.seed, help="of the noise (%(default)s)")


def add_common(parser: argparse.ArgumentParser) -> None:
    """What both commands of the family have."""
    add = parser.add_argument
    add("--model", type=Path, required=True, metavar="DIR", help="folder in diffusers' layout, its network in unet/")
    add("--out", type=Path, required=True, metavar="FILE.mp4", help="where the video goes, in the format of its ending")
    add("--width", type=int, help="(the release's)")
    add("--height", type=int, help="(the release's)")
    add("--file-fps", type=float, default=_FILE_FPS, help="frame rate of the file (%(default)s)")
    add_lora_option(parser)
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="(%(default)s)")
    add("--dtype", choices=list(DTYPES), help="of weights and arithmetic (fp16 on a GPU, fp32 on the CPU)")


def frames_of(what: str, words: list[str]) -> Tensor | None:
    """Frames [F, H, W, 3] of a video or pictures; None where none are named."""
    return read_source(source_files(what, words)).frames if words else None


def run(options: argparse.Namespace) -> None:
    """Writes the video."""
    settings = BaseOptions(
        width=options.width,
        height=options.height,
        frames=options.frames,
        steps=options.steps,
        guidance=options.guidance,
        negative=options.negative,
        seed=options.seed,
    )
    settings.check()
    named = [word for name in _VIDEOS for word in getattr(options, name)]
    pictures = {name: getattr(options, name.replace("-", "_")) for name in _PICTURES}
    check_video_file(options.out, options.file_fps, [*named, *filter(None, pictures.values())])
    videos = {name: frames_of(f"--{name}", getattr(options, name)) for name in _VIDEOS}
    first, single, look = (None if file is None else read_image(file) for file in pictures.values())
    mask = None if videos["mask"] is None else luma(videos["mask"]).float()
    guides = Guides(
        first,
        videos["depth"],
        videos["sketch"],
        single,
        videos["motion"],
        videos["masked"],
        mask,
        options.depth_gain,
        options.far_is_bright,
        options.fastest,
    )
    dtype = DTYPES.get(options.dtype)
    cascade = Cascade(options.model, dtype=dtype, device=options.device, base_kind=options.kind)
    for file, strength in loras_of(options):
        cascade.add_lora(file, strength, "base")
    with progress("compose", 1) as callback:
        latent = compose(cascade, options.prompt, guides, settings, look=look, callback=callback)
    cascade.free("text_encoder", "image_encoder", "base")
    write_whole(options.out, cascade.decode(latent), options.file_fps)
