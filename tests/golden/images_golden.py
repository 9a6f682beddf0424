"""Our preprocessing of the golden folder's made photos. Driven by the folder's cases.json alone."""

import importlib.util
import json
import math
from pathlib import Path
from types import ModuleType

import torch
from safetensors import safe_open
from torch import Tensor

from i2vgen_core.media import images

LIMIT = 2.0  # of 255: an 8-bit rounding between the official code's two filter passes, and one at its end


def image_values(folder: Path) -> dict[str, tuple[Tensor, float]]:
    """Every value of images.safetensors as this code computes it, with its limit.

    Args:
        folder: holds cases.json, weights.py and images.safetensors.

    Returns:
        name -> (uint8 [H, W, 3], largest allowed absolute difference in steps of 1/255). `<name>.frame` is left out
        where the folder has no such value: the official frame falls short of its target there.
    """
    weights = _module(folder / "weights.py")
    with safe_open(folder / "images.safetensors", "pt") as file:
        golden_names = set(file.keys())
    values: dict[str, tuple[Tensor, float]] = {}
    for case in json.loads((folder / "cases.json").read_text(encoding="utf-8"))["images"]:
        photo = _photo(weights, case["name"], case["height"], case["width"])
        width, height = case["to_width"], case["to_height"]
        frame = f"{case['name']}.frame"
        if frame in golden_names:
            values[frame] = (_bytes(images.video_frame(photo, width, height)), LIMIT)
        values[f"{case['name']}.clip"] = (_bytes(images.clip_frame(photo, width)), LIMIT)
    return values


def _photo(weights: ModuleType, name: str, height: int, width: int) -> Tensor:
    blocks = weights.noise(name, (3, height // 16 + 1, width // 16 + 1))
    blocks = blocks.repeat_interleave(16, 1).repeat_interleave(16, 2)[:, :height, :width]
    x = blocks + 0.15 * weights.noise(f"{name}.grain", (3, height, width))
    levels = ((x / math.sqrt(3) + 1) / 2 * 255).clamp(0, 255).round()
    return levels.permute(1, 2, 0)[None] / 255


def _bytes(images: Tensor) -> Tensor:
    return (images[0] * 255).round().to(torch.uint8)


def _module(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"golden_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
