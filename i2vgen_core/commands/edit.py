"""`edit`: a video that follows the change of its first frame."""

from __future__ import annotations

import argparse
import logging
from fractions import Fraction
from pathlib import Path

import torch

from .. import assets
from ..cascade import Cascade
from ..editing import edit_video
from ..errors import InputError
from ..media.encoding import ENDINGS
from ..media.images import read_image
from ..media.source import read_source, source_files
from ..media.video import check_video_file
from ..memory import DTYPES
from ..releases import RELEASES
from ..sampling.options import EditOptions
from .generate import add_lora_option, loras_of, progress, write_whole

logger = logging.getLogger("i2vgen_xl")

_FILE_FPS = 8


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `edit`."""
    usual, release = EditOptions(), RELEASES["i2vgen_xl"]
    parser.epilog = (
        "Change the first frame of the video with any tool, and give it as --first-frame. Fractions are of the edit's steps, "
        "from the noisiest on: larger ones keep more of the video's shapes and motion. Where a setting says (the release's), "
        "the default is what the model in the folder comes with; the values named are those of I2VGen-XL."
    )
    add = parser.add_argument
    model = "folder in diffusers' layout (the built-in tiny cascade)"
    add("--model", type=Path, default=assets.FOLDER, metavar="DIR", help=model)
    add("--video", nargs="+", required=True, metavar="FILE", help="the video; or its frames: pictures, or a folder")
    add("--first-frame", required=True, metavar="FILE", help="its first frame, edited, of the same shape")
    add("--prompt", required=True, metavar="TEXT", help="what happens in the edited video")
    endings = ", ".join((*ENDINGS, "_%04d.png")).replace("%", "%%")
    out = f"where the edited video goes, in the format of its ending ({endings})"
    add("--out", type=Path, required=True, metavar="FILE.mp4", help=out)
    add("--source-prompt", default=usual.source_prompt, metavar="TEXT", help="what happens in the video (nothing)")
    add("--frames", type=int, help=f"how many of the video's, from its first (up to the release's, {release.frames})")
    add("--fps", type=int, help=f"condition on motion, 8 or 16 (the release's, {release.fps:g})")
    add("--file-fps", type=float, help=f"frame rate of the file (that of the video; of pictures {_FILE_FPS})")
    add("--width", type=int, help=f"(the release's, {release.width})")
    add("--height", type=int, help=f"(the release's, {release.height})")
    add("--steps", type=int, help=f"of the edit (the release's, {release.steps})")
    add("--inversion-steps", type=int, metavar="N", help="of the video's way to noise (as many; officially 500 or 100)")
    add("--guidance", type=float, help=f"of the edit (the release's, {release.guidance:g})")
    for name, words in (
        ("convolution", "with the video's features of a residual block"),
        ("spatial", "with its queries and keys within frames"),
        ("temporal", "with its queries and keys over frames"),
    ):
        add(f"--{name}", type=float, default=getattr(usual, name), metavar="0..1", help=f"{words} (%(default)s)")
    start = "step of the edit to begin at; later ones keep more of the video (%(default)s)"
    add("--start", type=int, default=usual.start, metavar="STEP", help=start)
    noise = "share of fresh noise in the first latent (%(default)s)"
    add("--fresh-noise", type=float, default=usual.fresh_noise, metavar="0..1", help=noise)
    add("--seed", type=int, default=usual.seed, help="of that noise (%(default)s)")
    add("--negative", metavar="TEXT", help="negative prompt (the release's)")
    gain = "once: as AnyV2V was published, on the diffusers port (%(default)s)"
    add("--detail-gain", choices=["official", "once"], default="official", help=gain)
    add_lora_option(parser)
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="(%(default)s)")
    add("--dtype", choices=list(DTYPES), help="of weights and arithmetic (fp16 on a GPU, fp32 on the CPU)")


def run(options: argparse.Namespace) -> None:
    """Writes the edited video."""
    edit = EditOptions(
        width=options.width,
        height=options.height,
        frames=options.frames,
        fps=options.fps,
        steps=options.steps,
        inversion_steps=options.inversion_steps,
        guidance=options.guidance,
        convolution=options.convolution,
        spatial=options.spatial,
        temporal=options.temporal,
        start=options.start,
        fresh_noise=options.fresh_noise,
        seed=options.seed,
        negative=options.negative,
        source_prompt=options.source_prompt,
    )
    edit.check()
    dtype, gain = DTYPES.get(options.dtype), options.detail_gain
    cascade = Cascade(options.model, dtype=dtype, device=options.device, detail_gain=gain)
    files = source_files("--video", options.video)
    check_video_file(
        options.out, _FILE_FPS if options.file_fps is None else options.file_fps, [*files, options.first_frame]
    )
    if "://" in options.first_frame:
        found, remedy = f"the address '{options.first_frame}'", "Fetch it first, and name the file."
        raise InputError("--first-frame", "a file of this machine", found, remedy)
    source, picture = read_source(files), read_image(options.first_frame)
    fps: Fraction | float = options.file_fps or source.rate or _FILE_FPS  # type: ignore[assignment]
    for file, strength in loras_of(options):
        cascade.add_lora(file, strength, "base")
    with progress("edit", 1) as callback:
        frames = edit_video(cascade, source.frames, picture, options.prompt, edit, callback=callback)
    if len(frames) < len(source.frames):
        logger.warning("Edited are the first %d of %d frames; --frames asks for more.", len(frames), len(source.frames))
    if source.sound:
        logger.info("The edited video has no sound.")
    write_whole(options.out, frames, fps)
