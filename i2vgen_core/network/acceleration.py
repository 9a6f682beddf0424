"""Faster runs at some cost in quality, each part by choice: fewer guided steps, and deep features that are used again."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

from torch import Tensor

from ..config import TIMESTEPS
from ..errors import InputError, check_range
from .hooks import BlockHooks


@dataclass(frozen=True)
class Acceleration:
    """What a run leaves out; as it is made here, nothing.

    A run's progress is counted in noise levels, from 0 at the noisiest to 1, as ComfyUI counts `start_percent` and
    `end_percent`: DDIM's steps are even in it, and a refiner that starts at level 600 begins at 0.4.

    Args:
        guidance_start, guidance_end: 0..1, both ends included: where the prompt is weighed against the negative one
            (arXiv 2404.07724). Outside, the network runs for the prompt alone, as with a guidance scale of 1.
        reuse_interval: 1 or more. Of so many evaluations one runs the whole network; the others run the blocks of full
            size at its two ends, and take what lies between from it (DeepCache, arXiv 2312.00858).
    """

    guidance_start: float = 0.0
    guidance_end: float = 1.0
    reuse_interval: int = 1

    def check(self) -> None:
        """Raises InputError for a setting that cannot be."""
        check_range("guidance start", self.guidance_start, 0, 1)
        check_range("guidance end", self.guidance_end, 0, 1)
        check_range("reuse interval", self.reuse_interval, 1, TIMESTEPS)
        if self.guidance_start > self.guidance_end:
            found = f"{self.guidance_start:g} to {self.guidance_end:g}"
            remedy = "Exchange the two, or take a guidance scale of 1 for no guidance at all."
            raise InputError("guidance interval", "a start before its end", found, remedy)

    def guides(self, t: int) -> bool:
        """Whether timestep t, 0..999, is guided."""
        last = TIMESTEPS - 1
        return (1 - self.guidance_end) * last <= t <= (1 - self.guidance_start) * last


EXACT = Acceleration()
"""Nothing is left out."""


class DeepFeatures:
    """The features that one run uses again. Made for a run and let go with it.

    Features are kept for each key: whatever is evaluated by itself, such as a batch of conditions or a window of frames,
    has its own, and counts its evaluations by itself. What a step does not evaluate any more, as where guidance has ended
    or windows have moved, is let go at the next.

    Args:
        interval: see Acceleration.reuse_interval.
    """

    def __init__(self, interval: int):
        self._interval = interval
        self._kept: dict[Hashable, tuple[Tensor, int]] = {}
        self._evaluated: set[Hashable] = set()

    def step(self) -> None:
        """Says that a step of the sampler begins."""
        self._kept = {key: kept for key, kept in self._kept.items() if key in self._evaluated}
        self._evaluated.clear()

    def recall(self, key: Hashable) -> Tensor | None:
        """The key's features, if this evaluation is to use them; None if it is to run the whole network."""
        self._evaluated.add(key)
        features, uses = self._kept.get(key, (None, 0))
        if features is None or uses == self._interval - 1:
            return None
        self._kept[key] = features, uses + 1
        return features

    def keep(self, key: Hashable, features: Tensor) -> None:
        """Takes the features that a whole evaluation has made."""
        if self._interval > 1:
            self._kept[key] = features, 0

    def clear(self) -> None:
        """Lets all of them go."""
        self._kept.clear()


class Reuse(BlockHooks):
    """One evaluation that uses a run's features again, or makes them.

    Args:
        features: of the run.
        key: what is evaluated.
    """

    def __init__(self, features: DeepFeatures, key: Hashable):
        self._features, self._key = features, key

    def recall(self) -> Tensor | None:
        return self._features.recall(self._key)

    def keep(self, features: Tensor) -> None:
        self._features.keep(self._key, features)
