"""The cascade's parts: networks and encoders, read from a folder when they are first needed."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn

from . import assets
from .checkpoints.encoders import load_image_encoder, load_text_encoder, load_vae
from .checkpoints.load import UNetCheckpoint, open_base, open_refiner
from .checkpoints.lora import merge_lora, open_lora, restore, stage_of
from .config import VAE_STEP, DetailGain, Kind
from .encoders.clip import ImageEncoder, TextEncoder
from .encoders.vae import VAE
from .errors import InputError, check_type, checked
from .memory import check_fits, dtype_of, encoding_bytes, evaluation_bytes, frame_bytes, machine_bytes, usable_device
from .network.image_conditioning import GlobalEncoder
from .network.unet import UNet
from .releases import Release

Part = TypeVar("Part")
Own = TypeVar("Own", bound="Parts")
Stage = Literal["base", "refiner"]


@dataclass(frozen=True)
class StageNetwork:
    """The network of a stage, as its file has it.

    Args:
        unet: the network.
        release: the settings that it comes with.
        global_encoder: of an I2VGen-XL base; the other networks have none.
    """

    unet: UNet
    release: Release
    global_encoder: GlobalEncoder | None = None


class Parts:
    """What a model folder holds, each part read when a stage first needs it and kept until freed, moved, replaced by
    assignment, and with LoRA files on its networks. Arguments and errors are those of cascade.Cascade, which runs them.
    """

    @checked
    def __init__(
        self,
        folder: Path | str = assets.FOLDER,
        *,
        dtype: torch.dtype | str | None = None,
        device: torch.device | str = "cpu",
        refiner_kind: Kind | None = None,
        detail_gain: DetailGain = "official",
        base_kind: Kind | None = None,
    ):
        self.folder = Path(folder)
        if not any(
            os.path.isdir(self.folder / part) for part in ("unet", "refiner")
        ):  # False for names that cannot be, too
            remedy = "Give a model folder in diffusers' layout, or make one with `scaffold`."
            raise InputError("model folder", "one with unet/ in it", str(self.folder)[:200], remedy)
        self.device = usable_device(device)
        usual = torch.float32 if self.device.type == "cpu" else torch.float16
        self.dtype = usual if dtype is None else dtype_of(dtype)
        self._refiner_kind: Kind | None = refiner_kind
        self._detail_gain: DetailGain = detail_gain
        self._base_kind: Kind | None = base_kind
        self._parts: dict[str, Any] = {}
        self._given: set[str] = set()  # names of the parts that were assigned
        self._loras: dict[Stage, list[tuple[Path, float]]] = {"base": [], "refiner": []}
        self._without_loras: dict[Stage, dict[str, Tensor]] = {}

    @checked
    def to(self: Own, device: torch.device | str | None = None, dtype: torch.dtype | str | None = None) -> Own:
        """Moves the parts, and gives them back themselves, to another device or type; what is None stays.

        Parts that were assigned are moved; those of the folder are moved to a device, and read again for another type, so
        that nothing of the file's precision is lost on the way.
        """
        device = self.device if device is None else usable_device(device)
        dtype = self.dtype if dtype is None else dtype_of(dtype)
        if dtype != self.dtype:
            self.free(*(name for name in self._parts if name not in self._given))
        self.device, self.dtype = device, dtype
        for part in self._parts.values():
            for module in _modules(part):
                _move(module, device, dtype)
        return self

    def free(self, *parts: str) -> None:
        """Frees parts by the names of their properties; what needs one reads it from the folder again. Where none is named,
        all but those that were assigned."""
        for name in parts or tuple(name for name in self._parts if name not in self._given):
            self._parts.pop(name, None)
            self._given.discard(name)
            self._without_loras.pop(name, None)  # type: ignore[call-overload]

    def _part(self, name: str, load: Callable[[], Part]) -> Part:
        if name not in self._parts:
            self._parts[name] = load()
            try:
                self._put_loras(name)
            except InputError:
                self.free(name)  # or the next to ask would have it without them
                raise
        return self._parts[name]

    def _assign(self, name: str, part: object, kind: type) -> None:
        check_type(name, part, kind)
        self.free(name)
        for module in _modules(part):
            _move(module, self.device, self.dtype)
        self._parts[name] = part
        self._given.add(name)
        self._put_loras(name)

    @property
    def text_encoder(self) -> TextEncoder:
        """CLIP's text tower."""
        folder, tokenizer = self.folder / "text_encoder", self.folder / "tokenizer"
        return self._part("text_encoder", lambda: load_text_encoder(folder, tokenizer=tokenizer, **self._place))

    @text_encoder.setter
    def text_encoder(self, encoder: TextEncoder) -> None:
        self._assign("text_encoder", encoder, TextEncoder)

    @property
    def image_encoder(self) -> ImageEncoder:
        """CLIP's image tower."""
        return self._part("image_encoder", lambda: load_image_encoder(self.folder / "image_encoder", **self._place))

    @image_encoder.setter
    def image_encoder(self, encoder: ImageEncoder) -> None:
        self._assign("image_encoder", encoder, ImageEncoder)

    @property
    def vae(self) -> VAE:
        """The VAE of single frames."""
        return self._part("vae", lambda: load_vae(self.folder / "vae", **self._place))

    @vae.setter
    def vae(self, vae: VAE) -> None:
        self._assign("vae", vae, VAE)

    @property
    def base(self) -> StageNetwork:
        """The base's network, with its global encoder."""

        def load() -> StageNetwork:
            checkpoint = self._checkpoint("base")
            place = self.dtype, self.device
            return StageNetwork(
                checkpoint.build_network(*place), checkpoint.release, checkpoint.build_global_encoder(*place)
            )

        return self._part("base", load)

    @base.setter
    def base(self, network: StageNetwork) -> None:
        self._assign("base", network, StageNetwork)

    @property
    def refiner(self) -> StageNetwork:
        """The refiner's network."""

        def load() -> StageNetwork:
            checkpoint = self._checkpoint("refiner")
            return StageNetwork(checkpoint.build_network(self.dtype, self.device), checkpoint.release)

        return self._part("refiner", load)

    @refiner.setter
    def refiner(self, network: StageNetwork) -> None:
        self._assign("refiner", network, StageNetwork)

    def _checkpoint(self, stage: Stage) -> UNetCheckpoint:
        """A stage's network as the folder has it."""
        if stage == "base":
            if not (self.folder / "unet").is_dir():
                remedy = "Put the base there, or run the refiner alone."
                raise InputError("model folder", "one with unet/ in it", str(self.folder), remedy)
            return open_base(self.folder / "unet", self._detail_gain, self._base_kind)
        path = self.folder / "refiner"
        if not path.is_dir():
            remedy = "Put the refiner there, or run the base stage alone."
            raise InputError("model folder", "one with refiner/ in it", str(self.folder), remedy)
        return open_refiner(path, self._refiner_kind)

    @checked
    def add_lora(self, file: Path | str, strength: float = 1.0, stage: Stage | None = None) -> None:
        """Puts a LoRA file on a stage's network, beside those that are on it.

        Args:
            file: of any trainer, see checkpoints.lora_keys.
            strength: of its change; 0 changes nothing.
            stage: which network; None is the one that the file says, else the base.

        Raises:
            CheckpointError: it cannot be read, or is of another network.
        """
        path = Path(file)
        on = stage_of(path) if stage is None else stage
        if on in self._parts:
            before = merge_lora(self._network(on), path, float(strength))
            self._without_loras[on] = before | self._without_loras.get(on, {})
        else:  # put on when the network is read
            checkpoint = self._checkpoint(on)
            open_lora(path, checkpoint.config.kind, {key: value.shape for key, value in checkpoint.network.items()})
        self._loras[on].append((path, float(strength)))

    @checked
    def remove_lora(self, file: Path | str | None = None) -> None:
        """Takes a LoRA file off its network, all of them if None; the weights are then, to the bit, what they were.

        Raises:
            InputError: that file is not on.
        """
        on = [str(path) for files in self._loras.values() for path, _ in files]
        if file is not None and str(file) not in on:
            raise InputError("LoRA file", " or ".join(on) or "one that is on", f"{str(file)!r}", "Name one that is on.")
        for stage, files in self._loras.items():
            self._loras[stage] = [each for each in files if file is not None and str(each[0]) != str(file)]
            if before := self._without_loras.pop(stage, None):
                restore(self._network(stage), before)
                self._put_loras(stage)

    def _put_loras(self, part: str) -> None:
        """Puts a stage's LoRA files on its network, which has none."""
        for stage, files in self._loras.items():
            for path, strength in files if stage == part else ():
                before = merge_lora(self._network(stage), path, strength)
                self._without_loras[stage] = before | self._without_loras.get(stage, {})

    def _network(self, stage: Stage) -> UNet:
        return (self.base if stage == "base" else self.refiner).unet

    @property
    def has_refiner(self) -> bool:
        """Whether there is a second stage."""
        return "refiner" in self._parts or (self.folder / "refiner").is_dir()

    @property
    def _place(self) -> dict:
        return {"dtype": self.dtype, "device": self.device}

    def check_frame(self, width: int | None, height: int | None) -> None:
        """Raises InputError if the machine has not the memory to encode a frame of this size; None is not looked at."""
        if width and height:
            needed = encoding_bytes(height, width, self.dtype.itemsize)
            check_fits(1, height, width, needed, machine_bytes(self.device))

    def check_video(self, network: UNet, frames: int, width: int, height: int) -> None:
        """Raises InputError if the machine has not the memory for a video's sampling, or for its frames."""
        self.check_frame(width, height)
        needed = evaluation_bytes(network.config, frames, height // VAE_STEP, width // VAE_STEP, self.dtype.itemsize)
        check_fits(frames, height, width, needed, machine_bytes(self.device))
        check_fits(frames, height, width, frame_bytes(frames, height, width), machine_bytes("cpu"))


def _move(module: nn.Module, device: torch.device, dtype: torch.dtype) -> None:
    """As module.to does it, without what diffusers' own adds: a warning of the modules to be kept in float32, of which a VAE
    has none."""
    nn.Module.to(module, device, dtype)


def _modules(part: object) -> list[nn.Module]:
    """The networks of a part."""
    return [each for each in vars(part).values() if isinstance(each, nn.Module)]
