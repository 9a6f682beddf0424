"""A video from the picture beside this file, by the built-in tiny cascade. `run.py demo` runs it in the project's
environment."""

import logging
import shlex
import sys
from pathlib import Path

from i2vgen_core.__main__ import main
from i2vgen_core.media.images import write_image
from i2vgen_core.media.video import contact_sheet, read_video

logger = logging.getLogger("i2vgen_xl")

ROOT = Path(__file__).resolve().parents[1]
VIDEO = Path("output", "demo.mp4")
SHEET = VIDEO.with_suffix(".png")
PROMPT = "A green triangle slides gently up."
COMMAND = ["generate", "--image", str(Path("demo", "scene.png")), "--prompt", PROMPT, "--out", str(VIDEO)]


def demo() -> int:
    """Runs the command line's `generate` in the repository's root, then makes the contact sheet."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    (ROOT / VIDEO).parent.mkdir(exist_ok=True)
    logger.info(
        "The built-in cascade is tiny and knows moving shapes alone; no part of this picture's scene was trained on."
    )
    logger.info("python -m i2vgen_core %s", shlex.join(COMMAND))
    if status := main(COMMAND):
        return status
    frames, _ = read_video(VIDEO)
    write_image(SHEET, contact_sheet(frames, columns=4))
    logger.info("video:         %s", ROOT / VIDEO)
    logger.info("contact sheet: %s", ROOT / SHEET)
    return 0


if __name__ == "__main__":
    sys.exit(demo())
