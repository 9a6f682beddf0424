"""Clips encoded once: a VAE takes as long to encode a clip as a small network takes to learn from it.

`python -m i2vgen_core.training.cache --model MODEL --data DATA --out FOLDER --clips 1000` encodes clips of the world of
emoji; `train base --data FOLDER` then draws from them. A clip is longer than what is drawn of it: parts of it at several
frame rates, and, where the first frame and the caption say all, the same backwards with the opposite caption.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import random
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, count, islice
from pathlib import Path
from typing import Protocol

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..errors import InputError
from .alive import Alive, Scene, caption, opposite, render
from .data import Source
from .diffusion import ClipShape, Encoders, draw_clips
from .loop import PRECISIONS, autocast

logger = logging.getLogger("i2vgen_xl")

LISTING = "clips.json"
_SHARD = 50  # clips a file


@dataclass(frozen=True, eq=False)
class Encoded:
    """A batch of clips as a network reads them.

    Attributes:
        latents: scaled, [b, f, 4, h, w].
        image: CLIP embeddings of the first frames, [b, 1, image_dim].
        prompts: what happens.
        fps: frames a second, [b].
    """

    latents: Tensor
    image: Tensor
    prompts: list[str]
    fps: Tensor


class Clips(Protocol):
    """Batches of encoded clips by number, the same ones on every run."""

    def draw(self, shapes: Sequence[ClipShape], size: tuple[int, int], number: int, seed: int) -> Encoded:
        """The batch of a number: of one of the shapes, and of this width and height."""
        ...


@dataclass(frozen=True)
class Fresh:
    """Clips that are rendered, or read, and encoded as they are drawn.

    Args:
        source: of the clips.
        encoders: frozen.
        device: where they are.
    """

    source: Source
    encoders: Encoders
    device: torch.device | str = "cpu"

    def draw(self, shapes: Sequence[ClipShape], size: tuple[int, int], number: int, seed: int) -> Encoded:
        samples = draw_clips(self.source, shapes, size, number, seed)
        frames = torch.stack([sample.frames for sample in samples]).to(self.device)
        image = self.encoders.images(frames[:, 0])
        fps = torch.tensor([sample.fps for sample in samples], device=image.device, dtype=torch.float32)
        return Encoded(self.encoders.latents(frames), image, [sample.prompt for sample in samples], fps)


class Cached:
    """Clips of a folder that `encode` has filled.

    Args:
        path: the folder.
        device: where the batches go.

    Raises:
        InputError: no such folder, or a file is missing.
    """

    def __init__(self, path: Path, device: torch.device | str = "cpu"):
        self._device = device
        try:
            content = json.loads((path / LISTING).read_text(encoding="utf-8"))
            files = sorted(path.glob("clips-*.safetensors"))
            shards = [load_file(file) for file in files]
        except (OSError, ValueError) as error:
            raise InputError(str(path), "a folder of encoded clips", str(error), "Encode them again.") from error
        self._rows = content["clips"]
        self._size = (content["width"], content["height"])
        if not shards or sum(len(shard["latents"]) for shard in shards) != len(self._rows):
            raise InputError(str(path), f"{len(self._rows)} clips", "fewer, or more", "Encode them again.")
        self._latents = torch.cat([shard["latents"] for shard in shards])
        self._images = torch.cat([shard["images"] for shard in shards])

    def draw(self, shapes: Sequence[ClipShape], size: tuple[int, int], number: int, seed: int) -> Encoded:
        """Draws a batch as Clips does. Raises InputError where the clips are of another size, or all shorter than a shape."""
        if size != self._size:
            expected = f"clips of {size[0]}x{size[1]}"
            raise InputError("--data", expected, f"{self._size[0]}x{self._size[1]}", "Encode them at that size.")
        rng = random.Random(f"{seed} {number}")
        shape = rng.choices(shapes, [shape.weight for shape in shapes])[0]
        taken = []
        for place in range(number * shape.clips, (number + 1) * shape.clips):
            round_, place = divmod(place, len(self._rows))
            order = random.Random(f"{seed} {round_}").sample(range(len(self._rows)), len(self._rows))
            taken.append(self._part(rng, shape, order[place]))
        latents, images, prompts, fps = zip(*taken, strict=True)
        device = self._device
        return Encoded(
            torch.stack([each.float() for each in latents]).to(device),
            torch.stack([each.float() for each in images])[:, None].to(device),
            list(prompts),
            torch.tensor(fps, device=device),
        )

    def _part(self, rng: random.Random, shape: ClipShape, which: int) -> tuple[Tensor, Tensor, str, float]:
        """Latents, embedding, prompt and frame rate of a part of one clip."""
        row, length = self._rows[which], self._latents.shape[1]
        strides = [round(row["fps"] / fps) for fps in shape.fps if row["fps"] % fps == 0]
        strides = [stride for stride in strides if (shape.frames - 1) * stride < length]
        if shape.frames == 1:
            strides = [1]
        if not strides:  # it has none of these rates: as close together as it has them
            strides = [1]
        stride = rng.choice(strides)
        span = (shape.frames - 1) * stride
        if span >= length:
            remedy = "Encode longer clips, or train on fewer frames."
            raise InputError(f"{shape.frames} frames", f"at most {length}", "more", remedy)
        start = rng.randint(0, length - 1 - span)
        frames = list(range(start, start + span + 1, stride))
        prompt = row["prompt"]
        if row["backwards"] and rng.random() < 0.5:
            frames.reverse()
            prompt = row["backwards"]
        return self._latents[which][frames], self._images[which][frames[0]], prompt, row["fps"] / stride


@torch.no_grad()
def encode(
    world: Alive,
    encoders: Encoders,
    out: Path,
    clips: int,
    size: tuple[int, int],
    frames: int,
    rates: Sequence[float],
    precision: str = "fp32",
    moves: int = 0,
) -> None:
    """Fills a folder with encoded clips; what is there of an earlier run of the same settings is kept.

    Args:
        world: the clips' source.
        encoders: the VAE and CLIP's image tower.
        out: the folder.
        clips: how many, rounded up to whole files.
        size: width and height.
        frames: of each clip.
        rates: frames a second, in turn.
        precision: of the encoders' arithmetic, see LoopConfig.
        moves: how many more, likewise, of scenes in which something moves as a whole, and of which first frame and caption
            say all.
    """
    out.mkdir(parents=True, exist_ok=True)
    rows = []
    of_all, of_moves = (_SHARD * math.ceil(number / _SHARD) for number in (clips, moves))
    numbers = chain(range(of_all), (number for number in count(of_all) if _is_told(world.scene(number))))
    for first in range(0, of_all + of_moves, _SHARD):
        file = out / f"clips-{first:06d}.safetensors"
        latents, images = [], []
        for place, number in enumerate(islice(numbers, _SHARD), first):
            fps, scene = rates[place % len(rates)], world.scene(number)
            backwards = ""
            if scene.determined:
                backwards = caption(world.emoji, opposite(scene) if scene.moves else scene, number)
            rows.append({"prompt": caption(world.emoji, scene, number), "backwards": backwards, "fps": fps})
            if file.exists():
                continue
            clip = render(world.emoji, scene, *size, frames, fps, world.photos).frames
            with autocast(encoders.device, precision):
                latents.append(encoders.latents(clip[None])[0].half())
                images.append(encoders.images(clip)[:, 0].half())
        if not file.exists():
            unfinished = file.with_suffix(".part")
            tensors = {"latents": torch.stack(latents), "images": torch.stack(images)}
            save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, unfinished)
            unfinished.replace(file)
            logger.info("%d of %d clips", len(rows), of_all + of_moves)
        listing = {"width": size[0], "height": size[1], "clips": rows}
        (out / LISTING).write_text(json.dumps(listing, indent=0) + "\n", encoding="utf-8")


def _is_told(scene: Scene) -> bool:
    return scene.determined and scene.moves


def main(arguments: list[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m i2vgen_core.training.cache", description=__doc__)
    add = parser.add_argument
    add("--model", type=Path, required=True, metavar="DIR", help="model folder whose encoders are used")
    add("--data", type=Path, required=True, metavar="DIR", help="prepared by training.prepare")
    add("--out", type=Path, required=True, metavar="DIR", help="folder for the encoded clips")
    add("--clips", type=int, default=1000, help="(%(default)s)")
    add("--size", type=int, nargs=2, default=(192, 112), metavar=("W", "H"), help="of the clips (192 112)")
    add("--frames", type=int, default=20, help="of each; what is drawn is a part (%(default)s)")
    add("--fps", type=int, nargs="+", default=(8, 8, 8, 16), help="in turn (8 8 8 16)")
    add("--precision", choices=PRECISIONS, default="bf16", help="of the encoders' arithmetic (%(default)s)")
    add(
        "--moves",
        type=int,
        default=0,
        help="more clips, in which something moves as a whole, as their captions say (none)",
    )
    add("--seed", type=int, default=0, help="of the scenes (%(default)s)")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        world = Alive.at(options.data, options.seed)
        encoders = Encoders(options.model)
        size = tuple(options.size)
        how = options.frames, options.fps, options.precision, options.moves
        encode(world, encoders, options.out, options.clips, size, *how)
    except InputError as error:
        logger.error("error: %s", error)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
