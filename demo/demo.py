"""A video from the photo beside this file, on made-up weights. `run.py demo` runs it in the project's environment."""

import logging
import shlex
import shutil
import sys
from pathlib import Path

from i2vgen_core.__main__ import main
from i2vgen_core.images import write_image
from i2vgen_core.video import contact_sheet, read_video

logger = logging.getLogger("i2vgen_xl")

ROOT = Path(__file__).resolve().parents[1]
MODEL = Path("build", "demo-model")
VIDEO = Path("output", "demo.mp4")
SHEET = VIDEO.with_suffix(".png")
PROMPT = "A tabby cat turns its head and blinks, whiskers moving, soft light, shallow depth of field."
COMMAND = [
    *("generate", "--model", str(MODEL), "--image", str(Path("demo", "photo.jpg")), "--prompt", PROMPT),
    *("--out", str(VIDEO), "--stage", "cascade", "--frames", "8", "--width", "192", "--height", "128"),
    *("--steps", "8", "--refine-width", "240", "--refine-height", "160", "--refine-steps", "5"),
]


def demo() -> int:
    """Runs the command line's `scaffold` and `generate` in the repository's root, then makes the contact sheet."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    shutil.rmtree(ROOT / MODEL, ignore_errors=True)
    (ROOT / VIDEO).parent.mkdir(exist_ok=True)
    logger.info("Trained weights do not ship yet. This demo runs on MADE-UP weights of toy size:")
    logger.info("it shows that every stage runs, and the pictures show nothing of what the model can do.")
    if status := main(["scaffold", str(MODEL), "--size", "tiny"]):
        return status
    logger.info("python -m i2vgen_core %s", shlex.join(COMMAND))
    if status := main(COMMAND):
        return status
    frames, _ = read_video(VIDEO)
    write_image(SHEET, contact_sheet(frames, columns=4))
    logger.info("video:         %s", ROOT / VIDEO)
    logger.info("contact sheet: %s", ROOT / SHEET)
    logger.info("Both were made with made-up weights.")
    return 0


if __name__ == "__main__":
    sys.exit(demo())
