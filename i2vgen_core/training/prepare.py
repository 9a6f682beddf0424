"""Prepares the pictures that the built-in cascade is trained on, from packages that npm has brought:

    npm pack --pack-destination build/packages @lobehub/fluent-emoji-anim-{1,2,3,4}@1.0.0 @iconify-json/fluent-emoji-flat@1.2.6
    python -m i2vgen_core.training.prepare build/packages build/data

Photographs are copied from scikit-image and scikit-learn, where those are installed. Nothing of it is needed to make a video.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import logging
import shutil
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image

from ..errors import InputError
from .emoji import LISTING, PICTURES, STILLS, STILLS_OF_EACH, kept, plain_code, plain_name, read_animation, split_of
from .photos import FOLDER as PHOTOS
from .photos import HELD_OUT

logger = logging.getLogger("i2vgen_xl")

PACKAGES = (*(f"@lobehub/fluent-emoji-anim-{number}" for number in (1, 2, 3, 4)), "@iconify-json/fluent-emoji-flat")

PHOTOGRAPHS = {
    "skimage": {
        "data/astronaut.png": "astronaut.png",  # NASA, public domain
        "data/brick.png": "brick.png",  # CC0
        "data/camera.png": "camera.png",  # CC0
        "data/chelsea.png": f"{HELD_OUT}_chelsea.png",  # CC0
        "data/coffee.png": f"{HELD_OUT}_coffee.png",  # CC0
        "data/coins.png": "coins.png",  # Brooklyn Museum, no known restrictions
        "data/ihc.png": "ihc.png",  # no known restrictions
        "data/retina.jpg": "retina.jpg",  # CC0
        "data/rocket.jpg": "rocket.jpg",  # SpaceX, public domain
    },
    "sklearn": {
        "datasets/images/china.jpg": "china.jpg",  # CC BY 2.0, danielbuechele
        "datasets/images/flower.jpg": "flower.jpg",  # CC BY 2.0, vultilion
    },
}
"""Photographs of packages, by the packages' names: their files, and what they are called in a prepared folder."""


def prepare(packages: Path, out: Path) -> int:
    """Makes the folder that `training.emoji.EmojiFolder` reads.

    Args:
        packages: a folder with the packages' .tgz files, or with the packages unpacked, in folders of any names.
        out: the folder to make.

    Returns:
        How many emoji there are.

    Raises:
        InputError: the packages' files are not there.
    """
    with _unpacked(packages) as folder:
        animations = {file.stem: file for file in sorted(folder.rglob("assets/*.webp"))}
        names, groups = _names(folder)
        if not animations or not names:
            remedy = "Fetch them with npm pack, as the README of training says."
            raise InputError(str(packages), f"the packages {', '.join(PACKAGES)}", "not all of their files", remedy)
        rows = []
        (out / PICTURES).mkdir(parents=True, exist_ok=True)
        stills = (out / STILLS).open("wb")
        for code, file in animations.items():
            name = names.get(plain_code(code), "")
            group = groups.get(name, "")
            if not kept(name, group):
                continue
            with Image.open(file) as image:
                frames = getattr(image, "n_frames", 1)
            words = plain_name(name, code)
            rows.append({"code": code, "name": words, "group": group, "frames": frames, "split": split_of(code, words)})
            shutil.copyfile(file, out / PICTURES / file.name)
            picked = [frames * (2 * i + 1) // (2 * STILLS_OF_EACH) for i in range(STILLS_OF_EACH)]
            stills.write(read_animation(file, picked).numpy().tobytes())
        stills.close()
    (out / LISTING).write_text(json.dumps(rows, indent=0) + "\n", encoding="utf-8")
    return len(rows)


def copy_photographs(out: Path) -> int:
    """Copies the photographs of the packages that are installed into a prepared folder.

    Returns:
        How many there are now, with those that a person has put there.
    """
    folder = out / PHOTOS
    folder.mkdir(parents=True, exist_ok=True)
    for package, files in PHOTOGRAPHS.items():
        found = importlib.util.find_spec(package)
        places = [] if found is None else list(found.submodule_search_locations or ())
        for place in places:
            for file, name in files.items():
                if (Path(place) / file).is_file():
                    shutil.copyfile(Path(place) / file, folder / name)
    return sum(file.is_file() for file in folder.iterdir())


def _names(folder: Path) -> tuple[dict[str, str], dict[str, str]]:
    """Names by plain code, and groups by name."""
    characters = next(iter(sorted(folder.rglob("chars.json"))), None)
    if characters is None:
        return {}, {}
    names = json.loads(characters.read_text(encoding="utf-8"))
    categories = json.loads((characters.parent / "metadata.json").read_text(encoding="utf-8"))["categories"]
    groups = {name: group for group, members in categories.items() for name in members}
    return {plain_code(code): name for code, name in names.items()}, groups


@contextmanager
def _unpacked(packages: Path) -> Iterator[Path]:
    archives = sorted(packages.glob("*.tgz"))
    if not archives:
        yield packages
        return
    with tempfile.TemporaryDirectory() as folder:
        for archive in archives:
            with tarfile.open(archive) as content:
                content.extractall(Path(folder) / archive.stem, filter="data")
        yield Path(folder)


def main(arguments: list[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m i2vgen_core.training.prepare", description=__doc__)
    parser.add_argument("packages", type=Path, help="folder with the packages, as .tgz or unpacked")
    parser.add_argument("out", type=Path, help="folder to make")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        count = prepare(options.packages, options.out)
        photographs = copy_photographs(options.out)
    except InputError as error:
        logger.error("error: %s", error)
        return 2
    logger.info("%d emoji and %d photographs in %s", count, photographs, options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
