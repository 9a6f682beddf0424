"""Makes docs/demo.webp, the moving picture at the top of the README, of the video that the demo has made:

make demo && .venv/bin/python demo/moving_picture.py
"""

from pathlib import Path

from PIL import Image

from i2vgen_core.media.video import read_video

ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    """Writes the frames of output/demo.mp4 as an animated WebP of the video's own size and rate."""
    frames, fps = read_video(ROOT / "output" / "demo.mp4")
    first, *others = (Image.fromarray((frame * 255).round().byte().numpy()) for frame in frames)
    duration = round(1000 / fps)
    first.save(ROOT / "docs" / "demo.webp", save_all=True, append_images=others, duration=duration, loop=0, quality=80)


if __name__ == "__main__":
    main()
