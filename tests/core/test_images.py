"""Preprocessing against the golden values, against Pillow on many sizes, and photos of every kind from files."""

import importlib.util
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch.nn import functional

from i2vgen_core.errors import InputError
from i2vgen_core.media.images import (
    check_image_file,
    clip_frame,
    clip_pixels,
    read_image,
    resize_video,
    video_frame,
    write_image,
)

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden"
TARGETS = [(448, 256), (1280, 704), (256, 448), (64, 64), (512, 64)]


def image_values(folder):
    spec = importlib.util.spec_from_file_location("images_golden", GOLDEN / "images_golden.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.image_values(folder)


def photo(width, height, seed=0):
    generator = np.random.default_rng(seed)
    return generator.integers(0, 256, (height, width, 3), dtype=np.uint8)


def tensor(pixels):
    return torch.from_numpy(pixels)[None].float() / 255


def pillow_cover(pixels, width, height):
    """The official crop in Pillow, with the size raised where it falls short. Returns also whether it was."""
    image = Image.fromarray(pixels)
    scale = min(image.width / width, image.height / height)
    official = (int(image.width // scale), int(image.height // scale))
    size = (max(width, official[0]), max(height, official[1]))
    left, top = (size[0] - width) // 2, (size[1] - height) // 2
    image = image.resize(size, Image.Resampling.BOX).crop((left, top, left + width, top + height))
    return image, size != official


def steps(ours, image):
    """Largest difference in steps of 1/255."""
    return (ours[0] * 255 - torch.from_numpy(np.array(image)).float()).abs().max().item()


# ---------------------------------------------------------------- golden values


def test_golden_images():
    golden = load_file(GOLDEN / "images.safetensors")
    values = image_values(GOLDEN)
    assert values.keys() == golden.keys()
    for name, (ours, limit) in values.items():
        assert ours.dtype == golden[name].dtype == torch.uint8 and ours.shape == golden[name].shape, name
        assert (ours.int() - golden[name].int()).abs().max().item() <= limit, name


# ---------------------------------------------------------------- geometry

# Ordinary sizes; sizes whose pixel centres fall on box edges (1080 to 256); sizes smaller than the target.
SIZES = [(640, 480), (1280, 720), (1920, 1080), (1080, 1920), (451, 300), (600, 400), (480, 480), (33, 20), (20, 90)]


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_video_frame_is_pillows_box_filter(size):
    pixels = photo(*size)
    for width, height in TARGETS:
        expected, _ = pillow_cover(pixels, width, height)
        # Pillow rounds to 8 bits after each of its two passes: at most half a step each.
        assert steps(video_frame(tensor(pixels), width, height), expected) <= 1.001, (width, height)


@pytest.mark.parametrize("size", [(640, 480), (1280, 704), (600, 900), (451, 300), (100, 80)], ids=str)
def test_clip_frame_is_pillows_bilinear_filter(size):
    pixels = photo(*size)
    for width in (448, 1280, 256, 64):
        square, _ = pillow_cover(pixels, width, width)
        # Four passes, each rounded to 8 bits.
        assert steps(clip_frame(tensor(pixels), width), square.resize((224, 224), Image.Resampling.BILINEAR)) <= 2.001


def test_a_white_photo_fills_the_frame_at_every_size():
    draw = random.Random(0)
    sizes = [(640, 480), (1, 1), (1, 3000), (3000, 1), (448, 256), (449, 257), (447, 255)]
    sizes += [(draw.randint(1, 900), draw.randint(1, 900)) for _ in range(40)]
    short = 0
    for width, height in sizes:
        white = np.full((height, width, 3), 255, np.uint8)
        for target in [(448, 256), (384, 272)]:
            frame = video_frame(tensor(white), *target)
            assert frame.shape == (1, target[1], target[0], 3)
            assert (frame - 1).abs().max() < 1e-5, (width, height, target)
            scale = min(width / target[0], height / target[1])
            short += width // scale < target[0] or height // scale < target[1]
    assert short > 20  # the official flooring would have left a line on these


def test_a_batch_is_its_images_one_by_one():
    images = torch.cat([tensor(photo(200, 120, seed)) for seed in range(3)])
    for function in (lambda x: video_frame(x, 128, 64), lambda x: clip_pixels(x, 128)):
        assert torch.equal(function(images), torch.cat([function(image[None]) for image in images]))


def test_half_precision_gives_float32():
    pixels = tensor(photo(200, 120)).half()
    frame = video_frame(pixels, 128, 64)
    assert frame.dtype == torch.float32
    torch.testing.assert_close(frame, video_frame(pixels.float(), 128, 64))


def test_clip_pixels_of_white():
    pixels = clip_pixels(torch.ones(2, 80, 100, 3), 64, size=56)
    assert pixels.shape == (2, 3, 56, 56)
    expected = torch.tensor([1.930336, 2.074866, 2.145897]).view(1, 3, 1, 1).expand_as(pixels)
    torch.testing.assert_close(pixels, expected, atol=1e-4, rtol=0)


def test_resize_video_is_bilinear_without_aligned_corners():
    frames = torch.rand(3, 64, 112, 3, generator=torch.Generator().manual_seed(0))
    ours = resize_video(frames, 320, 184)
    expected = functional.interpolate(frames.permute(0, 3, 1, 2), (184, 320), mode="bilinear", align_corners=False)
    torch.testing.assert_close(ours, expected.permute(0, 2, 3, 1))


# ---------------------------------------------------------------- wrong inputs


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (torch.rand(1, 80, 80, 4), "alpha"),
        (torch.rand(0, 80, 80, 3), "empty batch"),
        (torch.rand(1, 0, 80, 3), "empty batch"),
        (torch.rand(80, 80, 3), "batch of one"),
        (torch.rand(1, 3, 80, 80), "channels last"),
        (torch.rand(1, 80, 80, 1), "RGB"),
        (torch.zeros(1, 80, 80, 3, dtype=torch.uint8), "255"),
        (np.zeros((1, 80, 80, 3)), "torch tensor"),
    ],
)
def test_wrong_images(image, message):
    for function in (
        lambda: video_frame(image, 64, 64),
        lambda: clip_pixels(image, 64),
        lambda: resize_video(image, 64, 64),
    ):
        with pytest.raises(InputError, match=message):
            function()


@pytest.mark.parametrize(
    ("width", "height", "message"), [(56, 64, "width.*Use 64"), (64, 0, "height"), (64, 250, "Use 248")]
)
def test_wrong_sizes(width, height, message):
    image = torch.rand(1, 80, 80, 3)
    for function in (video_frame, resize_video):
        with pytest.raises(InputError, match=message):
            function(image, width, height)
    with pytest.raises(InputError, match="width"):
        clip_frame(image, 60)


# ---------------------------------------------------------------- files


def saved(folder, image, name, **options):
    image.save(folder / name, **options)
    return read_image(folder / name)


def test_reads_rgb_exactly(tmp_path):
    pixels = photo(40, 30)
    for name in ("a.png", "a.bmp", "a.tiff", "a.ppm"):
        torch.testing.assert_close(saved(tmp_path, Image.fromarray(pixels), name), tensor(pixels), atol=1e-7, rtol=0)


def test_exif_orientation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: show rotated by 90 degrees clockwise
    pixels = photo(40, 30)
    turned = saved(tmp_path, Image.fromarray(pixels), "turned.png", exif=exif)
    assert torch.equal(turned, tensor(np.rot90(pixels, -1).copy()))


def test_transparency_becomes_white(tmp_path):
    colour = np.full((2, 4, 4), (255, 0, 0, 0), np.uint8)
    colour[:, 2:, 3] = 255
    image = saved(tmp_path, Image.fromarray(colour, "RGBA"), "alpha.png")
    assert torch.equal(image[0, :, :2], torch.ones(2, 2, 3))
    assert torch.equal(image[0, 0, 3], torch.tensor([1.0, 0.0, 0.0]))

    palette = Image.new("P", (4, 2), 1)
    palette.putpalette([0, 0, 255, 0, 255, 0])
    assert torch.equal(saved(tmp_path, palette, "palette.png")[0, 0, 0], torch.tensor([0.0, 1.0, 0.0]))
    assert torch.equal(saved(tmp_path, palette, "clear.png", transparency=1), torch.ones(1, 2, 4, 3))


def test_grey_of_16_bits_keeps_its_range(tmp_path):
    ramp = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    for name in ("deep.png", "deep.tiff"):
        image = saved(tmp_path, Image.fromarray(ramp), name)
        expected = torch.from_numpy(ramp.astype(np.float32) / 65535)[None, :, :, None].expand(1, 8, 8, 3)
        torch.testing.assert_close(image, expected, atol=1e-6, rtol=0)


def test_grey_and_cmyk_become_rgb(tmp_path):
    assert torch.equal(saved(tmp_path, Image.new("L", (4, 4), 51), "grey.png"), torch.full((1, 4, 4, 3), 51 / 255))
    cmyk = saved(tmp_path, Image.new("CMYK", (4, 4), (0, 255, 255, 0)), "cmyk.tiff")
    assert torch.equal(cmyk[0, 0, 0], torch.tensor([1.0, 0.0, 0.0]))


def test_unreadable_files_say_so(tmp_path):
    with pytest.raises(InputError, match="Check the path"):
        read_image(tmp_path / "none.png")
    (tmp_path / "text.png").write_text("not an image")
    Image.fromarray(photo(200, 200)).save(tmp_path / "whole.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "whole.jpg").read_bytes()[:3000])
    Image.fromarray(photo(20, 20)).save(tmp_path / "script.eps")
    Image.fromarray(np.zeros((4, 4), np.float32)).save(tmp_path / "float.tiff")
    for name in ("text.png", "cut.jpg", "script.eps", "float.tiff"):
        with pytest.raises(InputError, match="save it as PNG or JPEG"):
            read_image(tmp_path / name)


def test_the_example_photo():
    path = ROOT / "demo" / "photo.jpg"
    assert read_image(path).shape == (1, 300, 451, 3)
    assert path.stat().st_size <= 200_000


def test_pictures_that_cannot_be_written_say_so(tmp_path):
    write_image(tmp_path / "a.PNG", torch.rand(8, 8, 3))
    assert read_image(tmp_path / "a.PNG").shape == (1, 8, 8, 3)
    for name, message in (("a.mp4", "Name it a.png"), ("a", "Name it a.png"), ("none/a.png", "Create the folder")):
        with pytest.raises(InputError, match=message):
            check_image_file(tmp_path / name)
        with pytest.raises(InputError, match=message):
            write_image(tmp_path / name, torch.rand(8, 8, 3))
