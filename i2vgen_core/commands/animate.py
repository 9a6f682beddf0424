"""`animate`: a person's picture follows the poses of a video."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from ..cascade import Cascade
from ..errors import InputError
from ..family import Driving, animate, pose_pictures
from ..media.images import read_image
from ..media.video import check_video_file
from ..memory import DTYPES
from ..poses.keypoints import poses_of_frames
from ..releases import RELEASES
from ..sampling.options import AnimateOptions
from .compose import add_common, frames_of
from .generate import loras_of, progress, write_whole

_MODES = ("reference", "first frame", "both")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `animate`."""
    usual, release = AnimateOptions(), RELEASES["unianimate"]
    parser.epilog = (
        "Keypoints are OpenPose's JSON, as pose detectors save it: a list with an object for each picture. They are aligned "
        "to the person and drawn; or give the pictures themselves, the reference's pose first, as --poses. Animate-X reads "
        "keypoints that are not aligned, and the --driving video that they are of."
    )
    add_common(parser)
    add = parser.add_argument
    add("--image", required=True, metavar="FILE", help="the person")
    add("--keypoints", type=Path, metavar="FILE.json", help="of the driving video")
    add("--reference-keypoints", type=Path, metavar="FILE.json", help="of the person's picture")
    add("--not-aligned", action="store_true", help="draw the keypoints as they are")
    add("--poses", nargs="+", default=[], metavar="FILE", help="in place of keypoints: pictures, the reference's first")
    add("--driving", nargs="+", default=[], metavar="FILE", help="the video of the keypoints, for Animate-X")
    add("--mode", choices=_MODES, default=_MODES[0], help="how the picture reaches the network (%(default)s)")
    add("--interval", type=int, default=1, help="every so many poses one is taken (%(default)s)")
    add("--frames", type=int, help="(as many as poses)")
    add("--steps", type=int, help=f"(the release's, {release.steps}, which are 31)")
    add("--guidance", type=float, help=f"(the release's, {release.guidance:g})")
    add("--window", type=int, default=usual.window, help="frames that go through together (%(default)s)")
    add("--overlap", type=int, default=usual.overlap, help="frames that two windows share (%(default)s)")
    add("--seed", type=int, default=usual.seed, help="of the noise (%(default)s)")


def run(options: argparse.Namespace) -> None:
    """Writes the video."""
    if options.interval < 1:
        raise InputError("--interval", "1 or more", f"{options.interval}", "Take every pose, or every second.")
    check_video_file(options.out, options.file_fps, [options.image, *options.poses, *options.driving])
    image, poses, driving = read_image(options.image), frames_of("--poses", options.poses), None
    keypoints = None if options.keypoints is None else poses_of_frames(_read(options.keypoints), "--keypoints")
    if poses is None:
        if keypoints is None or options.reference_keypoints is None:
            expected = "--keypoints with --reference-keypoints, or --poses"
            raise InputError("poses", expected, "neither", "Detect the poses of the video and of the picture first.")
        reference = poses_of_frames(_read(options.reference_keypoints), "--reference-keypoints")
        poses = pose_pictures(keypoints, reference, not options.not_aligned)
    if options.driving:
        if keypoints is None:
            raise InputError("--driving", "a video with its --keypoints", "no keypoints", "Give both.")
        frames = frames_of("--driving", options.driving)
        assert frames is not None
        driving = Driving(frames, keypoints)
    settings = AnimateOptions(
        width=options.width,
        height=options.height,
        frames=options.frames or max(1, -(-(len(poses) - 1) // options.interval)),
        steps=options.steps,
        guidance=options.guidance,
        window=options.window,
        overlap=options.overlap,
        seed=options.seed,
    )
    settings.check()
    cascade = Cascade(options.model, dtype=DTYPES.get(options.dtype), device=options.device)
    for file, strength in loras_of(options):
        cascade.add_lora(file, strength, "base")
    more: dict[str, Any] = {"mode": options.mode, "interval": options.interval, "driving": driving}
    with progress("animate", 1) as callback:
        latent = animate(cascade, image, poses, settings, callback=callback, **more)
    cascade.free("text_encoder", "image_encoder", "base")
    write_whole(options.out, cascade.decode(latent), options.file_fps)


def _read(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        remedy = "Save the detector's keypoints there."
        raise InputError(f"'{file}'"[:100], "a JSON file of keypoints", str(error)[:100], remedy) from error
