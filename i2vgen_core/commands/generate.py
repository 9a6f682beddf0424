"""`generate`: a video from a photo, or a video refined."""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import fields
from fractions import Fraction
from pathlib import Path

import torch
from tqdm import tqdm

from .. import assets
from ..cascade import Cascade, inserted_like, sized_like
from ..config import REFINERS
from ..encoders.prompt import check_prompt
from ..errors import InputError
from ..media.captions import caption
from ..media.encoding import ENDINGS
from ..media.images import read_image
from ..media.rendering import render
from ..media.source import read_source, source_files
from ..media.video import check_video_file, same_rate, write_video
from ..media.world import sample_scene
from ..memory import DTYPES
from ..network.acceleration import EXACT, Acceleration
from ..releases import FAST_STEPS, JOININGS, MODES, RELEASES
from ..sampling.options import BaseOptions, RefineOptions
from ..sampling.schedules import BASE_SOLVERS
from ..sampling.solvers import Callback
from ..shots import OVERLAP, Shot, film, read_storyboard
from .control import add_control, control_of
from .directing import DIRECTING, add_directing, held_of

logger = logging.getLogger("i2vgen_xl")

_FILE_FPS = 8
_SCENE = 512, 256
"""Width and height of a scene's picture."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `generate`."""
    base, refine = BaseOptions(), RefineOptions()
    i2vgen, vid2vid = RELEASES["i2vgen_xl"], RELEASES["vid2vid_xl"]
    parser.epilog = (
        "Where a setting says (the release's), the default is what the model in the folder comes with; the values "
        "named are those of the full-size releases."
    )
    add = parser.add_argument
    add(
        "--model",
        type=Path,
        default=assets.FOLDER,
        metavar="DIR",
        help="folder in diffusers' layout, with refiner/ for cascade (the built-in tiny cascade)",
    )
    add(
        "--image",
        nargs="+",
        default=[],
        metavar="FILE",
        help="the photo, or several, one video each (without --model: a scene of the built-in cascade's own world)",
    )
    add(
        "--video",
        nargs="+",
        default=[],
        metavar="FILE",
        help="in place of a photo, a video for the refiner alone, with its sound; or its frames: pictures, or a folder",
    )
    add("--prompt", metavar="TEXT", help="what happens in the video (without --image: what happens in that scene)")
    story = "in place of --prompt, shots that follow each other: a line each, '16: a fox wakes up'"
    add("--storyboard", type=Path, metavar="FILE.txt", help=story)
    add("--overlap", type=int, default=OVERLAP, help="frames of the shot before that a shot begins with (%(default)s)")
    add_directing(parser)
    add_control(parser)
    endings = ", ".join((*ENDINGS, "_%04d.png")).replace("%", "%%")
    out = f"where the video goes, in the format of its ending ({endings}); of several, a folder"
    add("--out", type=Path, required=True, metavar="FILE.mp4", help=out)
    stages = "default: cascade where the folder has a refiner; with --video, refine"
    add("--stage", choices=["base", "cascade", "refine"], help=stages)
    add("--frames", type=int, help=f"frames of the video (the release's, {i2vgen.frames})")
    add("--fps", type=int, help=f"condition on motion, 8 or 16 (the release's, {i2vgen.fps:g})")
    add("--file-fps", type=float, help=f"frame rate of the file ({_FILE_FPS}; with --video, that of the video)")
    add("--width", type=int, help=f"of the base video (the release's, {i2vgen.width})")
    add("--height", type=int, help=f"of the base video (the release's, {i2vgen.height})")
    add("--steps", type=int, help=f"of the base (the release's 50; {FAST_STEPS} with other solvers than ddim)")
    add("--solver", choices=BASE_SOLVERS, default=base.solver, help="of the base (%(default)s)")
    add("--guidance", type=float, help="of the base (the release's, 9 for I2VGen-XL)")
    add("--eta", type=float, default=base.eta, help="noise of DDIM, 0..1 (%(default)s)")
    add("--seed", type=int, default=0, help="of both stages (%(default)s)")
    add("--negative", metavar="TEXT", help=f"negative prompt of the base (the release's: {_short('i2vgen_xl')})")
    add("--detail-gain", choices=["official", "once"], default="official", help="once: weights of the diffusers port")
    shape = "with --video, of its shape"
    add("--refine-width", type=int, help=f"of the refined video (the release's, {vid2vid.width}; {shape})")
    add("--refine-height", type=int, help=f"of the refined video (the release's, {vid2vid.height}; {shape})")
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
    add(
        "--refine-amount",
        type=float,
        default=refine.amount,
        help="how much is made anew, 0.1..1.5 of the release's noise level and guidance together (%(default)s)",
    )
    add("--refine-rescale", type=float, help="guidance rescale, 0..1 (the release's, 0.2 or 0.3)")
    add(
        "--refine-noise-level", type=int, metavar="LEVEL", help="noise levels to start from (the release's, 600 or 700)"
    )
    add("--refine-solver", choices=["dpmpp_2m_sde", "heun"], default=refine.solver, help="(%(default)s)")
    add("--refine-entry", choices=["noise", "inversion"], help="(the release's: noise, sr600 inversion)")
    add(
        "--refine-mode",
        choices=MODES,
        help="fast takes 14 steps from level 900 (the release's: STAR and VEnhancer fast)",
    )
    add(
        "--refine-window",
        type=int,
        metavar="FRAMES",
        help="that go through the refiner together; 0: all (the release's)",
    )
    add("--refine-joining", choices=JOININGS, help="how windows are joined (the release's: STAR cut, else blend)")
    add("--refine-enlarging", type=float, help="times as wide and high, STAR and VEnhancer (the release's, 4)")
    add("--refine-inserted", type=int, metavar="N", help="frames between two, 0..8, VEnhancer (up to 24 a second)")
    add("--refine-noise-aug", type=int, metavar="LEVEL", help="of key frames, 1..1000, VEnhancer (the release's, 250)")
    add("--refine-scale-told", type=int, metavar="N", help="what VEnhancer is told of the scale (the release's, 8)")
    add("--refine-eta", type=float, default=refine.eta, help="noise of the SDE solver, 0..1 (%(default)s)")
    for prefix, stage in (("", "base"), ("refine-", "refiner")):
        add_acceleration(parser, prefix, stage)
    add_lora_option(parser)
    add("--refiner", choices=REFINERS, help="which refiner the folder holds, where its config.json does not say")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="(%(default)s)")
    add("--dtype", choices=list(DTYPES), help="of weights and arithmetic (fp16 on a GPU, fp32 on the CPU)")


def add_acceleration(parser: argparse.ArgumentParser, prefix: str, stage: str) -> None:
    """What a stage may leave out, see Acceleration."""
    for end, default in (("start", EXACT.guidance_start), ("end", EXACT.guidance_end)):
        words = f"where guidance of the {stage} has its {end}, 0 at the noisiest level to 1 (%(default)s)"
        parser.add_argument(f"--{prefix}guidance-{end}", type=float, default=default, metavar="0..1", help=words)
    words = f"the {stage} runs whole once in so many evaluations, else its outer blocks (%(default)s)"
    parser.add_argument(f"--{prefix}reuse-interval", type=int, default=EXACT.reuse_interval, metavar="N", help=words)


def add_lora_option(parser: argparse._ActionsContainer) -> None:
    """`--lora`, see loras_of."""
    parser.add_argument(
        "--lora",
        action="append",
        default=[],
        metavar="FILE[:STRENGTH]",
        help="a LoRA file, for the stage that it says, else the base (strength 1); again for more",
    )


def loras_of(options: argparse.Namespace) -> list[tuple[Path, float]]:
    """Files and strengths of `--lora`. What stands after the last colon is a strength where it is a number."""
    found = []
    for text in options.lora:
        file, _, strength = text.rpartition(":")
        try:
            found.append((Path(file), float(strength)) if file else (Path(text), 1.0))
        except ValueError:
            found.append((Path(text), 1.0))
    return found


def acceleration_of(options: argparse.Namespace, prefix: str = "") -> Acceleration:
    """What the options of add_acceleration say."""
    names = [field.name for field in fields(Acceleration)]
    return Acceleration(**{name: getattr(options, prefix + name) for name in names})


def run(options: argparse.Namespace) -> None:
    """Makes the video, and says how long each stage took and the peak memory."""
    cascade = Cascade(
        options.model,
        dtype=DTYPES.get(options.dtype),
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
        solver=options.solver,
        acceleration=acceleration_of(options),
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
        acceleration=acceleration_of(options, "refine_"),
        mode=options.refine_mode,
        window=options.refine_window,
        joining=options.refine_joining,
        enlarging=options.refine_enlarging,
        noise_aug=options.refine_noise_aug,
        scale_told=options.refine_scale_told,
        inserted=options.refine_inserted,
        amount=options.refine_amount,
    )
    base.check()
    refine.check()
    cascade.check_frame(base.width, base.height)
    if options.video or options.stage == "refine":
        _refine_video(options, cascade, refine)
        return
    stage = options.stage or ("cascade" if (options.model / "refiner").is_dir() else "base")
    if stage == "cascade":
        cascade.check_frame(refine.width, refine.height)
    fps = _FILE_FPS if options.file_fps is None else options.file_fps
    shots = _shots(options)
    outputs = _outputs(options.image, options.out)
    for out in outputs:
        check_video_file(out, fps, options.image)
    images, prompt = _pictures(options)
    for hint in check_prompt(prompt) if options.prompt else []:
        logger.info("prompt: %s", hint)
    for file, strength in loras_of(options):
        cascade.add_lora(file, strength)
    refined_prompt = prompt if options.refine_prompt is None else options.refine_prompt
    seconds: dict[str, float] = {}
    if shots:
        _film(options, cascade, images[0], shots, base, refine if stage == "cascade" else None, seconds)
        _say_costs(seconds, cascade)
        return
    with _timed(seconds, "encode"):
        steered = control_of(options, cascade, base)
        conditions = [cascade.condition(image, prompt, base) for image in images]
        held = [held_of(options, cascade, image, base) for image in images]
        controls = [steered(image, prompt) for image in images]
        cascade.free("text_encoder", "image_encoder")
    with _timed(seconds, "base"), progress("base", len(images)) as callback:
        every = zip(conditions, held, controls, strict=True)
        latents = [
            cascade.sample_base(each, base, held=given, control=control, callback=callback)
            for each, given, control in every
        ]
        controls.clear()
        cascade.free("base")
    bar = progress("refine", len(images)) if stage == "cascade" else nullcontext()
    with bar as callback:
        for out, latent in zip(outputs, latents, strict=True):
            with _timed(seconds, "decode"):
                frames = cascade.decode(latent)
            if stage == "cascade":
                frames = _refined(cascade, frames, refined_prompt, refine, callback, seconds, out is outputs[-1])
            write_whole(out, frames, fps)
    _say_costs(seconds, cascade)


def _shots(options: argparse.Namespace) -> list[Shot]:
    """Those of the storyboard; none without one."""
    if options.storyboard is None:
        return []
    others = {f"--{name.replace('_', '-')}": getattr(options, name) for name in (*DIRECTING, "control")}
    others["--prompt"] = options.prompt is not None
    if found := [name for name, there in others.items() if there] or (
        ["several pictures"] if len(options.image) > 1 else []
    ):
        remedy = "Say what happens in the file, and give one picture."
        raise InputError("--storyboard", "one picture beside it", found[0], remedy)
    return read_storyboard(options.storyboard)


def _film(
    options: argparse.Namespace,
    cascade: Cascade,
    image: torch.Tensor,
    shots: list[Shot],
    base: BaseOptions,
    refine: RefineOptions | None,
    seconds: dict[str, float],
) -> None:
    """Makes the shots, one after the other, and refines each where there is a refiner: memory is that of one shot."""
    with _timed(seconds, "shots"), progress("shots", len(shots)) as callback:
        clips = list(film(cascade, image, shots, base, overlap=options.overlap, callback=callback))
        cascade.free("base", "image_encoder")
    if refine is not None:
        with progress("refine", len(shots)) as callback:
            for number, (frames, shot) in enumerate(zip(clips, shots, strict=True)):
                prompt = shot.prompt if options.refine_prompt is None else options.refine_prompt
                clips[number] = _refined(cascade, frames, prompt, refine, callback, seconds, shot is shots[-1])
    write_whole(options.out, torch.cat(clips), _FILE_FPS if options.file_fps is None else options.file_fps)


def _refine_video(options: argparse.Namespace, cascade: Cascade, refine: RefineOptions) -> None:
    """The second stage alone, on a video or its pictures: frames, rate, length, shape and sound stay."""
    if options.image or options.stage not in (None, "refine"):
        found = "--image too" if options.image else f"--stage {options.stage}"
        raise InputError("--video", "a video for the refiner alone", found, "Give a photo or a video, not both.")
    for name in (*DIRECTING, "control", "storyboard"):
        if getattr(options, name):
            remedy = "It is the base's: give a photo."
            raise InputError(f"--{name.replace('_', '-')}", "a photo, in --image", "--video", remedy)
    if not options.video:
        raise InputError("--stage refine", "a video in --video", "none", "Name the video, or its pictures.")
    files = source_files("--video", options.video)
    check_video_file(options.out, _FILE_FPS if options.file_fps is None else options.file_fps, files)
    source = read_source(files)
    fps: Fraction | float = options.file_fps or source.rate or _FILE_FPS  # type: ignore[assignment]
    sound = source.sound if source.rate and same_rate(fps, source.rate) else None
    if source.sound and not sound:
        logger.warning("The sound is left out: at %g frames a second it would not fit the pictures.", fps)
    for file, strength in loras_of(options):
        cascade.add_lora(file, strength, "refiner")
    release = cascade.refiner.release
    refine = inserted_like(source.rate, sized_like(source.frames, refine, release), release)
    inserted = release.inserted if refine.inserted is None else refine.inserted
    seconds: dict[str, float] = {}
    prompts = (options.refine_prompt, options.prompt, "")
    prompt = next(text for text in prompts if text is not None)
    with progress("refine", 1) as callback:
        frames = _refined(cascade, source.frames, prompt, refine, callback, seconds, last=True)
    write_whole(options.out, frames, fps * (inserted + 1), sound)
    _say_costs(seconds, cascade)


def _refined(
    cascade: Cascade,
    frames: torch.Tensor,
    prompt: str,
    refine: RefineOptions,
    callback: Callback | None,
    seconds: dict[str, float],
    last: bool,
) -> torch.Tensor:
    """As Cascade.refine, and says how long each part took. Of the last video it frees what decoding does not read."""
    with _timed(seconds, "encode for refinement"):
        latent, canvas = cascade.encode_video(frames, refine), cascade.canvas(frames, refine)
    with _timed(seconds, "refine"):
        latent = cascade.sample_refiner(latent, prompt, refine, callback=callback)
        if last:
            cascade.free("text_encoder", "refiner")
    with _timed(seconds, "decode refined"):
        return cascade.decode_refined(latent, canvas)


def write_whole(out: Path, frames: torch.Tensor, fps: Fraction | float, sound: Path | None = None) -> None:
    """Writes a video; in another folder where that one takes no more, so that nothing that was sampled is lost.

    Raises:
        InputError: it could not be written there; the message says where it is.
    """
    try:
        write_video(out, frames, fps, sound=sound)
    except (OSError, InputError) as error:  # the latter of a folder that takes nothing more since it was looked at
        reason = error.found if isinstance(error, InputError) else error.strerror or error
        found = f"'{out.parent}', where the video could not be written ({reason})"
        expected = "a folder with room to write"
        for folder in (Path(tempfile.gettempdir()), Path.home()):
            other = folder / f"{uuid.uuid4().hex[:8]}-{out.name}"
            try:
                write_video(other, frames, fps, sound=sound)
            except (OSError, InputError):
                continue
            raise InputError("--out", expected, found, f"It is whole in '{other}': make room, and move it.") from error
        raise InputError("--out", expected, found, "Make room, and run the command again.") from error
    count, height, width, _ = frames.shape
    logger.info("%s: %d frames of %dx%d", out, count, width, height)


def _say_costs(seconds: dict[str, float], cascade: Cascade) -> None:
    logger.info("seconds: %s", ", ".join(f"{name} {value:.1f}" for name, value in seconds.items()))
    logger.info("peak memory: %s", _peak_memory(cascade.device))


def _outputs(images: list[str], out: Path) -> list[Path]:
    """Where the videos go: of one picture, the file; of several, files in the folder that are called as the pictures."""
    for image in images:
        if "://" in image:
            remedy = "Fetch it first, and name the file; `batch` takes addresses."
            raise InputError("--image", "a file of this machine", f"the address '{image}'", remedy)
    if len(images) < 2:
        return [out]
    outputs = [out / f"{Path(image).stem}.mp4" for image in images]
    if twice := [file.name for file in outputs if outputs.count(file) > 1]:
        raise InputError("--image", "pictures of different names", f"{twice[0]} twice", "Rename one of them.")
    if out.suffix or not out.is_dir():
        raise InputError("--out", "a folder that exists, for several pictures", f"'{out}'", "Make it, or name another.")
    return outputs


def _pictures(options: argparse.Namespace) -> tuple[list[torch.Tensor], str]:
    """The pictures [1, H, W, 3] and the prompt: those given, or a scene of the built-in cascade's own world."""
    if options.image and (options.prompt is not None or options.storyboard):
        return [read_image(file) for file in options.image], options.prompt or ""
    if options.image or options.model != assets.FOLDER:
        missing, expected = ("--prompt", "what happens in the video") if options.image else ("--image", "a photo")
        raise InputError(
            missing, expected, "none", "Only the built-in cascade has a picture and a sentence of its own."
        )
    scene = sample_scene(options.seed, split="held_out")
    prompt = caption(scene, options.seed) if options.prompt is None else options.prompt
    logger.info("a scene of the built-in cascade's world, that of --seed %d: %s", options.seed, prompt)
    return [render(scene, *_SCENE, frames=1, fps=8).frames], prompt


def _short(kind: str) -> str:
    text = next(release.negative_prompt for name, release in RELEASES.items() if name == kind)
    return text[:40] + "..."


@contextmanager
def _timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    """Adds what the block takes."""
    start = time.perf_counter()
    yield
    seconds[name] = seconds.get(name, 0.0) + time.perf_counter() - start


@contextmanager
def progress(name: str, runs: int) -> Iterator[Callback]:
    """A bar over the steps of so many runs, one after the other."""
    with tqdm(desc=name, unit="step") as bar:

        def callback(step: int, steps: int, *_: torch.Tensor) -> None:
            bar.total = steps * runs
            bar.update(1)

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
