"""From a photo to what the networks take: cover-resize, centre crop, CLIP's pixels; and reading a photo from a file.

Images are float tensors [N, H, W, 3] in 0..1. The geometry is that of VGen's utils/transforms.py (CenterCropWide,
Resize), which runs on Pillow. kornia and torch have no filter equal to Pillow's BOX at fractional ratios (their area
filter is off by up to 165 of 255 on the golden photos), so that one is built here; it is exact but for 8-bit rounding.
"""

import math
import os
from pathlib import Path

import kornia
import torch
from einops import rearrange
from PIL import Image
from torch import Tensor
from torch.nn import functional

from ..config import VAE_STEP
from ..errors import InputError
from .photo import read_pixels

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
_LUMA = (0.2126, 0.7152, 0.0722)  # BT.709

_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_LOWEST, _HIGHEST = -1, 2


def video_frame(images: Tensor, width: int, height: int) -> Tensor:
    """Box-filtered cover-resize and centre crop to width x height (VGen utils/transforms.py, CenterCropWide).

    The official code rounds the resized size down, which can leave a black line of one pixel; here the frame is always
    filled. Enlarging with a box filter repeats pixels, as the official code does.

    Args:
        images: [N, H, W, 3] in 0..1.
        width, height: in pixels, at least 64, multiples of 8.

    Returns:
        [N, height, width, 3] float32 in 0..1.

    Raises:
        InputError: images is not such a tensor, or the size is not one a video can have.
    """
    check_images(images)
    check_size(width, height)
    return cover(images, width, height)


def clip_frame(images: Tensor, width: int, size: int = 224) -> Tensor:
    """The picture CLIP sees: the centre square at the video's width, then antialiased bilinear (VGen's vit transform).

    Args:
        images: [N, H, W, 3] in 0..1.
        width: the video's width in pixels, at least 64, a multiple of 8.
        size: side of CLIP's input in pixels.

    Returns:
        [N, size, size, 3] float32 in 0..1.

    Raises:
        InputError: images is not such a tensor, or width is not one a video can have.
    """
    check_images(images)
    check_size(width, width)
    images = images.float()
    # Both filters are separable: one axis after the other, nothing of width x width is made.
    for dim, resized, start in _cover_axes(images.shape[1:3], width, width):
        images = _bilinear_resize(_box_resize(images, dim, resized, start, width), dim, size)
    return (images * 255).round() / 255  # CLIP is given 8-bit pictures, by the official code and by the host


def clip_pixels(images: Tensor, width: int, size: int = 224) -> Tensor:
    """`clip_frame`, normalised with CLIP's mean and standard deviation.

    Args and errors are those of `clip_frame`.

    Returns:
        [N, 3, size, size] float32, about -1.8..2.2.
    """
    pixels = rearrange(clip_frame(images, width, size), "n h w c -> n c h w")
    return kornia.enhance.normalize(pixels, pixels.new_tensor(CLIP_MEAN), pixels.new_tensor(CLIP_STD))


def resize_video(images: Tensor, width: int, height: int) -> Tensor:
    """Bilinear resize of the base video before refining (VGen tools/inferences/inference_sr600_entrance.py).

    Args:
        images: [F, H, W, 3] in 0..1.
        width, height: in pixels, at least 64, multiples of 8. The aspect ratio is not kept.

    Returns:
        [F, height, width, 3] float32 in 0..1.

    Raises:
        InputError: images is not such a tensor, or the size is not one a video can have.
    """
    check_images(images)
    check_size(width, height)
    pixels = rearrange(images.float(), "f h w c -> f c h w")
    pixels = kornia.geometry.transform.resize(pixels, (height, width), interpolation="bilinear", align_corners=False)
    return rearrange(pixels, "f c h w -> f h w c")


def read_image(path: str | os.PathLike[str]) -> Tensor:
    """Reads a photo as viewers show it: upright, in sRGB by its colour profile, on white where it is transparent, the
    first picture of many. Greyscale (16-bit included), palette and CMYK become RGB.

    Args:
        path: a PNG, JPEG, WebP, TIFF, BMP, GIF, PPM or (where Pillow reads it) AVIF file.

    Returns:
        [1, H, W, 3] float32 in 0..1. A picture of more than photo.MOST_PIXELS is read at a half, a quarter or an eighth
        of its sides.

    Raises:
        InputError: there is no such file, it is not a whole image of these formats, or it is larger than the memory.
    """
    return torch.from_numpy(read_pixels(path))[None]


def write_image(path: str | os.PathLike[str], image: Tensor) -> None:
    """Writes a picture [H, W, 3] in 0..1; the file's ending says in which format.

    Raises:
        InputError: as check_image_file.
    """
    check_image_file(path)
    pixels = (image.detach().cpu().clamp(0, 1) * 255).round().byte()
    Image.fromarray(pixels.numpy()).save(path)


def check_image_file(path: str | os.PathLike[str]) -> None:
    """Raises InputError unless a picture can be written there. For saying so before the work."""
    Image.init()
    place = Path(path)
    if Image.EXTENSION.get(place.suffix.lower()) not in Image.SAVE:
        remedy = f"Name it {place.stem}.png."
        raise InputError("the picture file", "a name that ends in .png, .jpg or .webp", f"'{place.name}'", remedy)
    if not place.parent.is_dir():
        raise InputError("the picture file", "a path in a folder that exists", f"'{place}'", "Create the folder first.")


def luma(images: Tensor) -> Tensor:
    """BT.709's luma of images [N, H, W, 3] in 0..1, of the values as they are stored: [N, H, W] float64.

    Raises:
        InputError: images is not such a tensor.
    """
    check_images(images)
    return images.detach().double() @ images.new_tensor(_LUMA, dtype=torch.float64)


def check_images(images: Tensor, what: str = "the image") -> None:
    """Raises InputError unless images is a float tensor [N, H, W, 3] with at least one image in it.

    Values are let pass from -1 to 2: resampling may overshoot 0..1, and saving cuts it.
    """
    expected = "a float tensor [N, H, W, 3] in 0..1"
    if not isinstance(images, Tensor):
        raise InputError(what, expected, type(images).__name__, "Convert it to a torch tensor.")
    found = f"{str(images.dtype).removeprefix('torch.')} {list(images.shape)}"
    if images.ndim != 4:
        raise InputError(what, expected, found, "Give a batch with channels last; one image is a batch of one.")
    if images.shape[-1] == 4:
        raise InputError(what, expected, f"{found}, with an alpha channel", "Remove the alpha channel first.")
    if images.shape[-1] != 3:
        raise InputError(what, expected, found, "Give RGB with the channels last.")
    if images.numel() == 0:
        raise InputError(what, expected, f"{found}, an empty batch", "Give at least one image.")
    if images.dtype not in _FLOATS:
        raise InputError(what, expected, found, "Convert it to float and divide by the largest value (8-bit: 255).")
    low, high = (value.item() for value in images.aminmax())
    if math.isnan(low):
        remedy = "Look at the block or the file that it comes from: something failed there."
        raise InputError(what, expected, f"{found} with values that are not numbers (NaN)", remedy)
    if low < _LOWEST or high > _HIGHEST:
        remedy = "Divide by the largest value (8-bit: 255), or cut what is outside."
        raise InputError(what, expected, f"{found} with values from {low:.4g} to {high:.4g}", remedy)


FRAME_SIZES: dict[str, tuple[int, int]] = {
    "base 1280x704": (1280, 704),
    "base 704x1280": (704, 1280),
    "base 960x960": (960, 960),
    "base 448x256": (448, 256),
    "base 256x448": (256, 448),
    "base 320x320": (320, 320),
    "refiner 1280x720": (1280, 720),
    "refiner 704x1296": (704, 1296),
    "refiner 960x976": (960, 976),
    "refiner 1920x1104": (1920, 1104),
    "tiny base 128x64": (128, 64),
    "tiny refiner 288x144": (288, 144),
}
"""Sizes that go through a network's levels without a remainder, width and height by name: the releases' own 1280x704,
448x256 and 1280x720, portrait and square ones of about the same area, and one of twice the refiner's."""


def size_like(width: int, height: int, usual: tuple[int, int]) -> tuple[int, int]:
    """The size of a video of the shape width x height and of about as many pixels as a usual one: that itself, where the
    shapes are within 2 %, else one that goes through a network's levels without a remainder, as those of FRAME_SIZES do."""
    shape = width / height
    if abs(shape * usual[1] / usual[0] - 1) < 0.02:
        return usual
    pixels = usual[0] * usual[1]
    wide, high = round(math.sqrt(pixels * shape) / 64), round((math.sqrt(pixels / shape) - 16) / 64)
    return max(1, wide) * 64, max(1, high) * 64 + 16


_SHORTEST, _LONGEST = 64, 16384


def nearest_side(side: float) -> int:
    """The nearest width or height in pixels that a video can have."""
    return min(max(_SHORTEST, round(side / VAE_STEP) * VAE_STEP), _LONGEST)


def check_size(width: int, height: int) -> None:
    """Raises InputError unless both sides are 64 to 16384 pixels and multiples of 8 (the VAE's step)."""
    for name, side in (("width", width), ("height", height)):
        if not _SHORTEST <= side <= _LONGEST or side % VAE_STEP:
            expected = f"a multiple of {VAE_STEP} from {_SHORTEST} to {_LONGEST} pixels"
            raise InputError(name, expected, str(side), f"Use {nearest_side(side)}.")


def cover(images: Tensor, width: int, height: int) -> Tensor:
    """`video_frame` for any size: images [N, H, W, 3] to [N, height, width, 3] float32."""
    images = images.float()
    for dim, resized, start in _cover_axes(images.shape[1:3], width, height):
        images = _box_resize(images, dim, resized, start, (height, width)[dim - 1])
    return images


def _cover_axes(source: torch.Size, width: int, height: int) -> list[tuple[int, int, int]]:
    """Dimension, size after the resize and start of the crop of both axes, the one that shrinks most first."""
    scale = min(source[1] / width, source[0] / height)
    axes = []
    for dim, there, side in ((1, source[0], height), (2, source[1], width)):
        resized = max(side, int(there // scale))  # the official size, unless it falls short of the frame
        axes.append((side / there, (dim, resized, (resized - side) // 2)))
    return [axis for _, axis in sorted(axes, key=lambda axis: axis[0])]


def _bilinear_resize(images: Tensor, dim: int, size: int) -> Tensor:
    """One axis of [N, H, W, 3] to `size` pixels by torch's antialiased bilinear filter, which is Pillow's; kornia's
    antialiasing is a Gaussian blur."""
    planes = rearrange(images, "n h w c -> n c h w")
    shape = (size, planes.shape[3]) if dim == 1 else (planes.shape[2], size)
    planes = functional.interpolate(planes, shape, mode="bilinear", align_corners=False, antialias=True)
    return rearrange(planes, "n c h w -> n h w c")


def _box_resize(images: Tensor, dim: int, size: int, start: int, length: int) -> Tensor:
    """Pillow's BOX filter along one axis to `size` pixels, of which start..start+length are computed.

    A target pixel is the plain mean of the source pixels whose centres lie in its box. The arithmetic is Pillow's own
    (Resample.c, double precision), since at many ordinary ratios centres fall on the very edge of a box.
    """
    source = images.shape[dim]
    scale = source / size
    box = max(scale, 1.0)
    centre = (torch.arange(start, start + length, dtype=torch.float64) + 0.5) * scale
    first = (centre - 0.5 * box + 0.5).long().clamp(min=0)
    end = (centre + 0.5 * box + 0.5).long().clamp(max=source)
    taps = first[:, None] + torch.arange(math.ceil(box) + 1)
    offset = (taps - centre[:, None] + 0.5) * (1.0 / box)
    inside = (taps < end[:, None]) & (offset > -0.5) & (offset <= 0.5)

    taps = taps.clamp(max=source - 1).to(images.device)
    weights = (inside / inside.sum(1, keepdim=True)).to(images)
    shape = [1] * images.ndim
    shape[dim] = length
    resized = images.new_zeros(())
    for tap, weight in zip(taps.unbind(1), weights.unbind(1), strict=True):
        resized = resized + images.index_select(dim, tap) * weight.view(shape)
    return resized
