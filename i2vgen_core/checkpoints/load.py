"""From a file or a bundle's part to a network: read, rename, detect, check, build on meta, assign."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..config import REFINERS, DetailGain, Kind, UNetConfig
from ..errors import CheckpointError
from ..network.blocks import Layers
from ..network.image_conditioning import GlobalEncoder
from ..network.unet import UNet
from ..releases import RELEASES, Release, release_of
from .check import check_tensors, named, of_sizes
from .detect import CHOOSE, UNSAID, refuse_branch_alone, split_global_encoder, unet_config
from .prefixes import network_tensors
from .read import read_config, read_state_dict
from .unet_keys import SIGNS, StateDict, from_diffusers, from_official, is_diffusers_layout

logger = logging.getLogger("i2vgen_xl")

_MOST_TENSORS = 10_000
_NO_GLOBAL_ENCODER = (
    "six tensors local_image_embedding.* beside the network's",
    "none (ComfyUI's ModelSave wrote the network alone before version 0.2.0)",
    "Save the model again: the encoder goes along now. Or open the file with ComfyUI's Load Diffusion Model block, and wire "
    "the global_encoder of the I2VGen-XL Base Loader, with the base that it was made from, into Global Encode.",
)
"""Expected, found, and what to do, of a base that was saved without."""


@dataclass(frozen=True)
class UNetCheckpoint:
    """A network's tensors in our layout, checked, and what they are.

    Args:
        config: read from the shapes.
        network: tensors of `UNet(config)`, all of them.
        global_encoder: tensors of `GlobalEncoder`, all of them; empty where the kind has none, or it was not asked for.
        release: the settings it is to be run with.
    """

    config: UNetConfig
    network: StateDict
    global_encoder: StateDict
    release: Release

    def metadata(self) -> dict[str, str]:
        """What names and shapes do not say of it, as parse_unet reads it from a file's metadata."""
        usual = asdict(RELEASES[self.config.kind])
        own = {name: value for name, value in asdict(self.release).items() if value != usual[name]}
        said = {"kind": self.config.kind, "head_dim": str(self.config.head_dim)}
        return said | ({"release": json.dumps(own)} if own else {})

    def build_network(self, dtype: torch.dtype | None = None, device: torch.device | str = "cpu") -> UNet:
        """The network with these weights, in evaluation mode. Those of convolutions lie channels_last, as activations do:
        they would be brought into that order at every call."""
        return _assign(UNet(self.config, device="meta"), self.network, dtype, device, torch.channels_last)

    def build_global_encoder(
        self, dtype: torch.dtype | None = None, device: torch.device | str = "cpu"
    ) -> GlobalEncoder | None:
        """The global encoder with these weights; None where the kind has none."""
        if not self.config.reads_details:
            return None
        return _assign(_meta_global_encoder(self.config), self.global_encoder, dtype, device)


def open_unet(path: Path, *, kind: Kind | None = None, detail_gain: DetailGain = "official") -> UNetCheckpoint:
    """A network from a file or a bundle's `unet/` or `refiner/` folder.

    Args:
        path: the file or folder.
        kind: what the caller knows of it; decides between kinds of the same keys.
        detail_gain: see UNetConfig.

    Raises:
        CheckpointError: unreadable, another model, or tensors missing, unknown or of a wrong shape.
    """
    state, metadata = read_state_dict(path)
    settings: Mapping[str, Any] = metadata if path.is_file() else read_config(path) | metadata
    checkpoint = parse_unet(state, settings, kind=kind, detail_gain=detail_gain)
    if checkpoint.config.kind in REFINERS and not kind and not settings.get("kind"):
        logger.warning("%s: %s", named(path.name), UNSAID)
    return checkpoint


def open_base(path: Path, detail_gain: DetailGain = "official", kind: Kind | None = None) -> UNetCheckpoint:
    """open_unet for a first stage: a base, a composer, an animator or text to video. Raises CheckpointError for a refiner."""
    checkpoint = open_unet(path, kind=kind, detail_gain=detail_gain)
    if checkpoint.config.is_refiner:
        remedy = (
            "Load it with the I2VGen-XL Refiner Loader block, or put it into a model folder's refiner/. If it is VGen's text "
            "to video, which has the same tensors, say text2video."
        )
        raise CheckpointError(path.name, "a base network", f"a refiner ({checkpoint.config.kind})", remedy)
    return checkpoint


def open_refiner(path: Path, kind: Kind | None = None) -> UNetCheckpoint:
    """open_unet for the cascade's second stage. Raises CheckpointError for any other network too."""
    checkpoint = open_unet(path, kind=kind)
    if not checkpoint.config.is_refiner:
        remedy = "Load it with the I2VGen-XL Base Loader block, or put it into a model folder's unet/."
        raise CheckpointError(path.name, "a refiner", f"a base ({checkpoint.config.kind})", remedy)
    return checkpoint


def parse_unet(
    state: StateDict,
    settings: Mapping[str, Any] | None = None,
    *,
    kind: Kind | None = None,
    detail_gain: DetailGain = "official",
    alone: bool = False,
) -> UNetCheckpoint:
    """A network from tensors in any layout.

    Args:
        state: tensors in the official layout, with or without a prefix, or in diffusers'.
        settings: config.json or metadata: `attention_head_dim` or `head_dim`, `kind`, and `release` are read from it.
            `release` holds settings of releases.Release that are the network's own; in metadata, as JSON.
        kind, detail_gain: see open_unet.
        alone: whether a base may come without its global encoder, which is empty then.
    """
    settings = settings or {}
    state = in_our_layout(state)
    config = unet_config(
        state, kind=kind or settings.get("kind"), head_dim=_head_dim(settings), detail_gain=detail_gain
    )
    network, encoder = split_global_encoder(state)
    what = f"the {config.kind} network"
    check_tensors(network, of_sizes(what, lambda: UNet(config, device="meta")).state_dict(), what)
    if config.reads_details and (encoder or not alone):
        if not encoder:
            raise CheckpointError("the global encoder", *_NO_GLOBAL_ENCODER)
        meta_encoder = of_sizes("the global encoder", lambda: _meta_global_encoder(config))
        check_tensors(encoder, meta_encoder.state_dict(), "the global encoder")
    elif encoder:  # of a kind that has none
        remedy = "Use the released file."
        raise CheckpointError(what, "no global encoder", named(next(iter(encoder))), remedy)
    return UNetCheckpoint(config, network, encoder, release_of(config.kind, _own_release(settings)))


def in_our_layout(state: StateDict) -> StateDict:
    """A UNet's tensors of any layout under our names, prefixes removed; nothing is checked but that they are not too
    many to be one. Raises CheckpointError."""
    refuse_branch_alone(state)
    state = network_tensors(state, SIGNS, "the model file")
    if len(state) > _MOST_TENSORS:
        raise CheckpointError("the model file", f"at most {_MOST_TENSORS} tensors", f"{len(state)}", CHOOSE)
    return from_diffusers(state) if is_diffusers_layout(state) else from_official(state)


def _head_dim(settings: Mapping[str, Any]) -> int | None:
    """As metadata (text) or config.json (a number) has it; diffusers calls it attention_head_dim."""
    value = settings.get("head_dim") or settings.get("attention_head_dim")
    if value is None or (str(value).isdecimal() and len(str(value)) < 6 and int(value) > 0):
        return value if value is None else int(value)
    raise CheckpointError("head_dim", "a whole number above 0", repr(value)[:60], "Correct config.json, or remove it.")


def _own_release(settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """As metadata (JSON in text) or config.json (an object) has it."""
    value = settings.get("release", {})
    with suppress(ValueError, RecursionError):  # text that is no JSON is no object either
        value = json.loads(value) if isinstance(value, str) else value
    if isinstance(value, Mapping):
        return value
    remedy = "Correct the model's config.json or metadata."
    raise CheckpointError("release", "an object of settings by name", repr(value)[:60], remedy)


def _assign(
    module: nn.Module,
    state: StateDict,
    dtype: torch.dtype | None,
    device: torch.device | str,
    images: torch.memory_format = torch.preserve_format,
) -> Any:
    """Puts the weights into a module on meta; `images` is the memory format of those with four dimensions."""

    def place(value: Tensor) -> Tensor:
        order = images if value.ndim == 4 else torch.preserve_format
        return value.to(device=device, dtype=dtype if value.is_floating_point() else None, memory_format=order)

    module.load_state_dict({key: place(value) for key, value in state.items()}, strict=True, assign=True)
    return module.eval().requires_grad_(False)


def _meta_global_encoder(config: UNetConfig) -> GlobalEncoder:
    return GlobalEncoder(config.in_channels, config.context_dim, Layers(device="meta"))
