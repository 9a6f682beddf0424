"""Our networks in the host's own loaders, Load Diffusion Model and Load Checkpoint."""

from __future__ import annotations

import logging
from typing import Any

import comfy.supported_models
import comfy.supported_models_base
from torch import Tensor

from ...i2vgen_core.checkpoints.detect import UNSAID
from ...i2vgen_core.checkpoints.load import UNetCheckpoint, parse_unet
from ...i2vgen_core.checkpoints.read import take_settings
from ...i2vgen_core.checkpoints.unet_keys import SIGNS
from ...i2vgen_core.config import REFINERS
from .models import ModelConfig, VideoModel

logger = logging.getLogger("i2vgen_xl")


class DetectedConfig(comfy.supported_models_base.BASE):
    """What the host takes a file for that has our networks' names.

    It gives a MODEL like that of our loaders. A base's global encoder has no socket of the host's: Global Encode needs it
    from a loader of ours.
    """

    @classmethod
    def matches(cls, unet_config: dict[str, Any], state_dict: dict[str, Tensor] | None = None, **_: Any) -> bool:
        """Whether the names are our networks'; the host asks each configuration that it knows."""
        return any(key.endswith(SIGNS[0]) for key in state_dict or ())

    def clip_target(self, state_dict: dict[str, Tensor] | None = None) -> None:
        """No CLIP comes out of Load Checkpoint: of what size a checkpoint's text encoder is, the host does not ask."""

    def get_model(self, state_dict: dict[str, Tensor], prefix: str = "", device: Any = None) -> VideoModel:
        """Reads what the network is from its tensors, which the host puts in next.

        Raises:
            CheckpointError: another network, or tensors missing, unknown or of a wrong shape.
        """
        state = {key: value for key, value in state_dict.items() if key.startswith(prefix)}
        settings = take_settings(state, "the model file")
        checkpoint = parse_unet(state, settings, alone=True)
        if checkpoint.config.kind in REFINERS and "kind" not in settings:
            logger.warning("Load Diffusion Model: %s", UNSAID)
        config = _FileConfig(checkpoint)
        config.set_inference_dtype(self.unet_config["dtype"], self.manual_cast_dtype)
        config.custom_operations = self.custom_operations
        return config.get_model(state, "", device)


class _FileConfig(ModelConfig):
    """Of a network whose tensors the host hands over as the file names them."""

    def __init__(self, checkpoint: UNetCheckpoint):
        super().__init__(checkpoint)
        self._network: dict[str, Tensor] | None = dict(checkpoint.network)

    def process_unet_state_dict(self, state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
        """The tensors by the network's own names, in the place of the file's."""
        network, self._network = self._network, None
        return state_dict if network is None else network


def install() -> None:
    """Adds our networks to those that the host knows; before its own, some of which ask for less."""
    comfy.supported_models.models.insert(0, DetectedConfig)
