"""What a long job has made so far, on the disk."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from ..errors import NO_ROOM
from .outputs import NoRoom

_NAME = "window"


class KeptWindows:
    """Stands around the windows of a run (sampling.windows.Around) and keeps their estimates, so that the run, begun again, goes
    on at the window where it was killed: the solver takes the same steps on the same numbers, and the network is not asked for
    what is there. The windows come in the same order in every run of a job.

    Args:
        folder: of the job alone; made when there is something to keep.
        device: where the run is.
    """

    def __init__(self, folder: Path, device: torch.device):
        self._folder, self._device = folder, device
        self._number = 0

    def __call__(self, make: Callable[[], Tensor]) -> Tensor:
        """The next window's estimate: the kept one, or what `make` makes.

        Raises:
            NoRoom: the disk is full.
        """
        file = self._folder / f"{self._number}.safetensors"
        self._number += 1
        try:
            return load_file(file)[_NAME].to(self._device)
        except (OSError, SafetensorError, KeyError):  # not there, or torn by a loss of power
            made = make()
        part = file.with_suffix(".part")
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            part.write_bytes(save({_NAME: made.cpu().contiguous()}))
            os.replace(part, file)
        except OSError as error:
            if error.errno in NO_ROOM:
                raise NoRoom(self._folder, error.strerror) from error
            raise
        return made
