"""A picture as a caller has it: a file, a PIL image, an array or a tensor."""

from __future__ import annotations

import os
from typing import TypeAlias

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..errors import InputError, check_type
from .images import check_images, read_image
from .photo import shown

ImageLike: TypeAlias = str | os.PathLike[str] | Image.Image | np.ndarray | Tensor
"""A file's path; a PIL image; an array or a tensor [H, W, 3] or [N, H, W, 3], of numbers in 0..1, or 0..255 in 8 bits."""


def as_images(image: ImageLike) -> Tensor:
    """A picture as the cascade takes it.

    Files and PIL images are shown as viewers show them, see photo.read_pixels.

    Args:
        image: see ImageLike.

    Returns:
        [N, H, W, 3] in 0..1; of a file or a PIL image, N is 1.

    Raises:
        InputError: none of these, or one that cannot be read.
    """
    check_type("image", image, ImageLike)
    if isinstance(image, str | os.PathLike):
        return read_image(image)
    try:
        if isinstance(image, Image.Image):
            image.load()
            image = shown(image, image.info.get("icc_profile"), "the image")
        tensor = image if isinstance(image, Tensor) else torch.from_numpy(np.ascontiguousarray(image))
    except (TypeError, ValueError, OSError) as error:  # of types that have no picture in them, and of cut files
        raise InputError("the image", "one of 8 bits or of numbers in 0..1", str(error)[:200], "Convert it.") from error
    tensor = tensor.float() / 255 if tensor.dtype == torch.uint8 else tensor
    tensor = tensor[None] if tensor.ndim == 3 else tensor
    check_images(tensor)
    return tensor
