"""Ctrl-Adapters of toy size with made-up weights, for networks of any sizes."""

import json

import torch
import toy

from i2vgen_core.network.adapter import steered_channels

KEYS = json.loads((toy.GOLDEN / "ctrl_adapter" / "adapter_keys.json").read_text(encoding="utf-8"))["toy"]
WIDTH = 96
"""Of the tokens in the golden values' adapters."""


def shapes(config, width=WIDTH, token_dim=None):
    """Of a file with adapters for a network: those of the golden values' names, with its channels."""
    channels = steered_channels(config)
    names = [f"down_blocks_adapter.{number}" for number in range(len(channels) - 1)] + ["mid_block_adapter"]
    found = {}
    for name, own in zip(names, channels, strict=True):
        for key, shape in KEYS.items():
            if key.startswith("down_blocks_adapter.0."):
                sizes = {64: own, 96: width, 768: 8 * width, 384: 4 * width, 1024: token_dim or config.image_dim}
                found[key.replace("down_blocks_adapter.0", name)] = [sizes.get(side, side) for side in shape]
    return found


def state(config, seed=0, **sizes):
    """Tensors of such a file."""
    made = {key: torch.empty(shape, device="meta") for key, shape in shapes(config, **sizes).items()}
    return toy.fill(made, seed)


def released():
    """Names and shapes of a released file, on meta: the golden values' by their sizes."""
    sizes = {64: 320, 128: 640, 256: 1280, 96: 512, 768: 4096, 384: 2048}
    return {key: torch.empty([sizes.get(side, side) for side in shape], device="meta") for key, shape in KEYS.items()}
