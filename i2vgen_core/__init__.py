"""I2VGen-XL (arXiv 2311.04145) as a library: one image in, a video out, in two diffusion stages. Imports no host.

    from i2vgen_core import Cascade, write_video

    write_video("fox.mp4", Cascade("models/i2vgen-xl")("photo.jpg", "A fox runs").frames, fps=8)

What `__all__` names is the library: it stays, and is imported when it is first asked for. The rest may move between versions.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .cascade import Cancelled, Cascade, Videos
    from .checkpoints.encoders import load_vae
    from .config import VAE_SCALE
    from .directing import follow, hold_area, hold_last
    from .editing import edit_clip, edit_video, invert_clip
    from .errors import CheckpointError, InputError
    from .media.images import read_image, write_image
    from .media.video import read_video, write_video
    from .media.warp import camera, drag
    from .network.acceleration import Acceleration
    from .sampling.options import BaseOptions, EditOptions, RefineOptions

__version__ = "0.2.0"

__all__ = [
    "VAE_SCALE",
    "Acceleration",
    "BaseOptions",
    "Cancelled",
    "Cascade",
    "CheckpointError",
    "EditOptions",
    "InputError",
    "RefineOptions",
    "Videos",
    "__version__",
    "camera",
    "drag",
    "edit_clip",
    "edit_video",
    "follow",
    "hold_area",
    "hold_last",
    "invert_clip",
    "load_vae",
    "read_image",
    "read_video",
    "write_image",
    "write_video",
]

_PLACES = {
    "VAE_SCALE": "config",
    "Acceleration": "network.acceleration",
    "BaseOptions": "sampling.options",
    "Cancelled": "cascade",
    "Cascade": "cascade",
    "CheckpointError": "errors",
    "EditOptions": "sampling.options",
    "InputError": "errors",
    "RefineOptions": "sampling.options",
    "Videos": "cascade",
    "camera": "media.warp",
    "drag": "media.warp",
    "edit_clip": "editing",
    "edit_video": "editing",
    "follow": "directing",
    "hold_area": "directing",
    "hold_last": "directing",
    "invert_clip": "editing",
    "load_vae": "checkpoints.encoders",
    "read_image": "media.images",
    "read_video": "media.video",
    "write_image": "media.images",
    "write_video": "media.video",
}
"""The module of each name: torch and transformers take seconds to import, and only some of the names need them."""


if not TYPE_CHECKING:  # or a type checker would take any name for one of the library's

    def __getattr__(name: str) -> Any:
        if name not in _PLACES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(importlib.import_module(f".{_PLACES[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
