"""The command line: `python -m i2vgen_core generate` and `scaffold`."""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from tqdm import tqdm

from .cascade import BaseOptions, Cascade, RefineOptions
from .config import BASES, REFINERS, RELEASES
from .errors import InputError
from .images import read_image
from .sampling import Callback
from .scaffold import SIZES, scaffold
from .video import check_video_file, write_video

logger = logging.getLogger("i2vgen_xl")

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def main(arguments: list[str] | None = None) -> int:
    """Runs a command; 2 at an input that cannot be used, with the reason on standard error."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    options = _parser().parse_args(arguments)
    try:
        options.run(options)
    except InputError as error:
        logger.error("error: %s", error)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m i2vgen_core", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_generate(commands.add_parser("generate", help="a video from a photo"))
    _add_scaffold(commands.add_parser("scaffold", help="a model folder with made-up weights"))
    return parser


def _add_generate(parser: argparse.ArgumentParser) -> None:
    base, refine = BaseOptions(), RefineOptions()
    vid2vid = RELEASES["vid2vid_xl"]
    add = parser.add_argument
    add(
        "--model",
        type=Path,
        required=True,
        metavar="DIR",
        help="folder in diffusers' layout, with refiner/ for cascade",
    )
    add("--image", type=Path, required=True, metavar="FILE", help="the photo")
    add("--prompt", required=True, metavar="TEXT", help="what happens in the video")
    add("--out", type=Path, required=True, metavar="FILE.mp4", help="where the video goes")
    add("--stage", choices=["base", "cascade"], help="default: cascade where the folder has a refiner")
    add("--frames", type=int, default=base.frames, help="frames of the video (%(default)s)")
    add("--fps", type=int, default=int(base.fps), help="condition on motion, 8 or 16 (%(default)s)")
    add("--file-fps", type=float, default=8, help="frame rate of the file (%(default)s)")
    add("--width", type=int, default=base.width, help="of the base video (%(default)s)")
    add("--height", type=int, default=base.height, help="of the base video (%(default)s)")
    add("--steps", type=int, help="of the base (the release's 50)")
    add("--guidance", type=float, help="of the base (the release's, 9 for I2VGen-XL)")
    add("--eta", type=float, default=base.eta, help="noise of DDIM, 0..1 (%(default)s)")
    add("--seed", type=int, default=0, help="of both stages (%(default)s)")
    add("--negative", metavar="TEXT", help=f"negative prompt of the base (the release's: {_short('i2vgen_xl')})")
    add("--detail-gain", choices=["official", "once"], default="official", help="once: weights of the diffusers port")
    add("--refine-width", type=int, default=refine.width, help="of the refined video (%(default)s)")
    add("--refine-height", type=int, default=refine.height, help="of the refined video (%(default)s)")
    add("--refine-prompt", metavar="TEXT", help="the refiner's, its release's suffix is appended (the base's prompt)")
    add(
        "--refine-negative",
        metavar="TEXT",
        help=f"the refiner's negative prompt (the release's: {_short('vid2vid_xl')})",
    )
    add(
        "--refine-steps",
        type=int,
        help=f"of the refiner (the release's {vid2vid.steps}, {vid2vid.heun_steps} with heun)",
    )
    add("--refine-guidance", type=float, help="of the refiner (the release's, 7.5 or 9)")
    add("--refine-rescale", type=float, help="guidance rescale, 0..1 (the release's, 0.2 or 0.3)")
    add(
        "--refine-noise-level", type=int, metavar="LEVEL", help="noise levels to start from (the release's, 600 or 700)"
    )
    add("--refine-solver", choices=["dpmpp_2m_sde", "heun"], default=refine.solver, help="(%(default)s)")
    add("--refine-entry", choices=["noise", "inversion"], help="(the release's: noise, sr600 inversion)")
    add("--refine-eta", type=float, default=refine.eta, help="noise of the SDE solver, 0..1 (%(default)s)")
    add("--refiner", choices=REFINERS, help="which refiner the folder holds, where its config.json does not say")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="(%(default)s)")
    add("--dtype", choices=list(_DTYPES), help="of weights and arithmetic (fp16 on a GPU, fp32 on the CPU)")
    parser.set_defaults(run=_generate)


def _short(kind: str) -> str:
    text = next(release.negative_prompt for name, release in RELEASES.items() if name == kind)
    return text[:40] + "..."


def _add_scaffold(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, metavar="DIR", help="a new folder")
    parser.add_argument("--size", choices=list(SIZES), default="tiny", help="full: the releases' sizes (%(default)s)")
    parser.add_argument("--base", choices=BASES, default=BASES[0], help="kind of the base (%(default)s)")
    parser.add_argument("--refiner", choices=REFINERS, default=REFINERS[0], help="kind of the refiner (%(default)s)")
    parser.set_defaults(
        run=lambda options: scaffold(options.folder, SIZES[options.size], base=options.base, refiner=options.refiner)
    )


def _generate(options: argparse.Namespace) -> None:
    cascade = Cascade(
        options.model,
        dtype=_DTYPES.get(options.dtype),
        device=options.device,
        refiner_kind=options.refiner,
        detail_gain=options.detail_gain,
    )
    base = BaseOptions(
        width=options.width,
        height=options.height,
        frames=options.frames,
        fps=options.fps,
        steps=options.steps,
        guidance=options.guidance,
        eta=options.eta,
        seed=options.seed,
        negative=options.negative,
    )
    refine = RefineOptions(
        width=options.refine_width,
        height=options.refine_height,
        steps=options.refine_steps,
        guidance=options.refine_guidance,
        rescale=options.refine_rescale,
        noise_level=options.refine_noise_level,
        solver=options.refine_solver,
        entry=options.refine_entry,
        eta=options.refine_eta,
        seed=options.seed,
        negative=options.refine_negative,
    )
    stage = options.stage or ("cascade" if (options.model / "refiner").is_dir() else "base")
    base.check()
    refine.check()
    check_video_file(options.out, options.file_fps)
    image = read_image(options.image)
    seconds: dict[str, float] = {}
    with _timed(seconds, "encode"):
        conditions = cascade.condition(image, options.prompt, base)
        cascade.release("text_encoder", "image_encoder")
    with _timed(seconds, "base"), _progress("base") as callback:
        latent = cascade.sample_base(conditions, base, callback=callback)
        cascade.release("base")
    with _timed(seconds, "decode"):
        frames = cascade.decode(latent)
    if stage == "cascade":
        with _timed(seconds, "encode for refinement"):
            latent = cascade.encode_video(frames, refine)
        with _timed(seconds, "refine"), _progress("refine") as callback:
            prompt = options.prompt if options.refine_prompt is None else options.refine_prompt
            latent = cascade.sample_refiner(latent, prompt, refine, callback=callback)
            cascade.release("text_encoder", "refiner")
        with _timed(seconds, "decode refined"):
            frames = cascade.decode(latent)
    write_video(options.out, frames, options.file_fps)
    count, height, width, _ = frames.shape
    logger.info("%s: %d frames of %dx%d", options.out, count, width, height)
    logger.info("seconds: %s", ", ".join(f"{name} {value:.1f}" for name, value in seconds.items()))
    logger.info("peak memory: %s", _peak_memory(cascade.device))


@contextmanager
def _timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    seconds[name] = time.perf_counter() - start


@contextmanager
def _progress(name: str) -> Iterator[Callback]:
    with tqdm(desc=name, unit="step") as bar:

        def callback(step: int, steps: int, *_: torch.Tensor) -> None:
            if step == 0 and bar.n:  # the sampler after an inversion
                bar.reset()
            bar.total = steps
            bar.update(step + 1 - bar.n)

        yield callback


def _peak_memory(device: torch.device) -> str:
    parts = []
    if device.type == "cuda":
        parts.append(f"{torch.cuda.max_memory_allocated(device) / 2**30:.2f} GiB on the GPU")
    if sys.platform != "win32":
        import resource

        unit = 1 if sys.platform == "darwin" else 2**10
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
        parts.append(f"{peak / 2**30:.2f} GiB of the process")
    return ", ".join(parts) or "not measured on this system"


if __name__ == "__main__":
    sys.exit(main())
