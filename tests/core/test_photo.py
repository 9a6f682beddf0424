"""Pictures as their files say that they are to be shown: colour profiles, orientation, size, metadata, wrappers."""

import io
import logging
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from i2vgen_core.errors import InputError
from i2vgen_core.media import photo as module
from i2vgen_core.media.images import read_image


def picture(width=64, height=48):
    """Ramps of the three channels, and a strip of full colours [H, W, 3] uint8."""
    y, x = np.mgrid[0:height, 0:width]
    pixels = np.stack([255 * x / width, 255 * y / height, 255 - 255 * x / width], -1).astype(np.uint8)
    colours = [(220, 40, 40), (40, 170, 60), (40, 60, 210), (245, 245, 245)]
    for index, colour in enumerate(colours):
        pixels[-8:, index * width // 4 : (index + 1) * width // 4] = colour
    return pixels


def fixed(*values):
    return b"".join(struct.pack(">i", round(value * 65536)) for value in values)


def profile(space=b"RGB ", gamma=1.8, padding=0):
    """A version 2 profile of made-up primaries or of grey, with `padding` bytes in a tag that nobody reads."""
    curve = b"curv" + bytes(4) + struct.pack(">IH", 1, round(gamma * 256))
    white = b"XYZ " + bytes(4) + fixed(0.9642, 1, 0.82491)
    tags = [(b"desc", b"desc" + bytes(4) + struct.pack(">I", 5) + b"made\0" + bytes(78)), (b"wtpt", white)]
    tags += [(b"cprt", b"text\0\0\0\0none\0")]
    if space == b"RGB ":
        primaries = {b"r": (0.55, 0.27, 0.01), b"g": (0.27, 0.66, 0.05), b"b": (0.1442, 0.07, 0.76491)}
        tags += [(name + b"XYZ", b"XYZ " + bytes(4) + fixed(*xyz)) for name, xyz in primaries.items()]
        tags += [(name + b"TRC", curve) for name in primaries]
    else:
        tags += [(b"kTRC", curve)]
    tags += [(b"junk", b"text" + bytes(4 + padding))] if padding else []
    table, body, start = b"", b"", 132 + 12 * len(tags)
    for name, data in tags:
        table += name + struct.pack(">II", start + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    head = struct.pack(">I4xI", start + len(body), 0x02400000) + b"mntr" + space + b"XYZ "
    head += struct.pack(">6H", 2024, 1, 1, 0, 0, 0) + b"acsp" + bytes(28) + fixed(0.9642, 1, 0.82491)
    return head + bytes(128 - len(head)) + struct.pack(">I", len(tags)) + table + body


def to_srgb(image, icc):
    source = ImageCms.ImageCmsProfile(io.BytesIO(icc))
    return np.asarray(ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB"))


def read(path):
    """As whole numbers of 255, [H, W, 3]."""
    return (read_image(path)[0] * 255).round().int().numpy()


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.jfif", "a.webp", "a.tif", "a.avif"])
def test_colour_profiles_are_applied(tmp_path, name):
    stored = Image.fromarray(picture())
    exact = {"a.jpg": {"quality": 100}, "a.jfif": {"format": "JPEG"}, "a.webp": {"lossless": True}}
    stored.save(tmp_path / name, icc_profile=profile(), **exact.get(name, {}))
    right = to_srgb(Image.open(tmp_path / name).convert("RGB"), profile())
    assert np.abs(right - picture().astype(int)).mean() > 10, "the profile changes nothing"
    assert np.abs(read(tmp_path / name) - right).max() <= 1


def test_a_profile_leaves_transparency(tmp_path):
    pixels = np.dstack([picture(), np.where(np.arange(64) < 32, 0, 255)[None].repeat(48, 0).astype(np.uint8)])
    Image.fromarray(pixels, "RGBA").save(tmp_path / "a.png", icc_profile=profile())
    found = read(tmp_path / "a.png")
    assert (found[:, :32] == 255).all()
    assert np.abs(found[:, 32:] - to_srgb(Image.fromarray(picture()), profile())[:, 32:]).max() <= 1


def test_grey_with_a_profile_of_grey_or_of_colour(tmp_path):
    grey = Image.fromarray(picture()).convert("L")
    for space, right in (
        (b"GRAY", to_srgb(grey, profile(b"GRAY"))),
        (b"RGB ", to_srgb(grey.convert("RGB"), profile())),
    ):
        grey.save(tmp_path / "a.png", icc_profile=profile(space))
        assert np.abs(read(tmp_path / "a.png") - right).max() <= 1


def test_grey_of_16_bits_with_a_profile_and_with_transparency(tmp_path):
    grey = Image.fromarray(picture()).convert("L")
    deep = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    for name in ("a.png", "a.tif"):
        deep.save(tmp_path / name, icc_profile=profile(b"GRAY"))
        assert np.abs(read(tmp_path / name) - to_srgb(grey, profile(b"GRAY"))).max() <= 1
    deep.save(tmp_path / "a.png")
    plain = (tmp_path / "a.png").read_bytes()
    at = plain.index(b"IDAT") - 4
    transparent = chunk(b"tRNS", struct.pack(">H", int(np.asarray(deep)[0, 0])))
    (tmp_path / "a.png").write_bytes(plain[:at] + transparent + plain[at:])
    right = np.repeat(np.asarray(grey)[..., None], 3, 2).copy()
    right[right == right[0, 0]] = 255
    assert (read(tmp_path / "a.png") == right).all()


def test_grey_of_16_bits_where_white_is_0(tmp_path):
    deep = np.asarray(Image.fromarray(picture()).convert("L")).astype(np.uint16) * 257
    Image.fromarray(deep).save(tmp_path / "a.tif")
    stored = (tmp_path / "a.tif").read_bytes()
    black_is_0, white_is_0 = (struct.pack("<HHIH", 262, 3, 1, value) for value in (1, 0))
    assert black_is_0 in stored
    (tmp_path / "a.tif").write_bytes(stored.replace(black_is_0, white_is_0))
    assert (read(tmp_path / "a.tif") == 255 - deep[..., None] // 257).all()


def of_display_p3(linear):
    """Values of Display P3 for a colour that is given in linear light of sRGB, [..., 3] in 0..1."""
    to_p3 = np.array([[0.8225, 0.1774, 0.0], [0.0332, 0.9669, 0.0], [0.0171, 0.0724, 0.9108]])  # SMPTE EG 432-1
    light = linear @ to_p3.T
    return np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)


@pytest.mark.slow  # libswscale makes its table of colours
@pytest.mark.parametrize("name", ["a.png", "a.avif"])
def test_a_gamut_that_is_told_by_numbers(tmp_path, name):
    stored = picture() / 255
    linear = np.where(stored <= 0.04045, stored / 12.92, ((stored + 0.055) / 1.055) ** 2.4)
    pixels = (of_display_p3(linear) * 255).round().astype(np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 3
    exact = {"quality": 100, "subsampling": "4:4:4"} if name == "a.avif" else {}
    Image.fromarray(pixels[::-1, ::-1]).save(tmp_path / name, exif=exif, **exact)
    stored = (tmp_path / name).read_bytes()
    if name == "a.png":
        told = stored[:33] + chunk(b"cICP", bytes([12, 13, 0, 1])) + stored[33:]
    else:
        told = stored.replace(b"colrnclx\0\1", b"colrnclx\0\x0c")
    assert told != stored
    (tmp_path / name).write_bytes(told)
    assert np.abs(pixels.astype(int) - picture()).mean() > 5, "the gamut changes nothing"
    # The steps of libswscale's table, and of AV1's YUV.
    assert np.abs(read(tmp_path / name) - picture()).mean() < 1.5


def test_lab_is_shown_by_its_colours(tmp_path):
    srgb, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    ImageCms.profileToProfile(Image.fromarray(picture()), srgb, lab, outputMode="LAB").save(tmp_path / "a.tif")
    assert np.abs(read(tmp_path / "a.tif") - picture()).mean() < 2


def test_the_profile_of_srgb_changes_no_bit(tmp_path):
    Image.fromarray(picture()).save(
        tmp_path / "a.png", icc_profile=ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    )
    assert (read(tmp_path / "a.png") == picture()).all()


@pytest.mark.parametrize(
    "broken", [b"junk", profile()[:200], profile(b"GRAY"), bytes(3000)], ids=["junk", "cut", "of grey", "zeros"]
)
def test_a_broken_profile_is_passed_over_and_said(tmp_path, caplog, broken):
    Image.fromarray(picture()).save(tmp_path / "a.png", icc_profile=broken)
    with caplog.at_level(logging.WARNING, "i2vgen_xl"):
        assert (read(tmp_path / "a.png") == picture()).all()
    assert "a.png: its colour profile" in caplog.text


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_turned_upright(tmp_path, orientation):
    upright = picture()
    undo = {
        1: lambda p: p,
        2: lambda p: p[:, ::-1],
        3: lambda p: p[::-1, ::-1],
        4: lambda p: p[::-1],
        5: lambda p: p.transpose(1, 0, 2),
        6: lambda p: np.rot90(p),
        7: lambda p: p[::-1, ::-1].transpose(1, 0, 2),
        8: lambda p: np.rot90(p, -1),
    }
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(undo[orientation](upright))).save(tmp_path / "a.png", exif=exif)
    assert (read(tmp_path / "a.png") == upright).all()


def test_damaged_exif_data_refuse_nothing(tmp_path):
    Image.fromarray(picture()).save(tmp_path / "a.png", exif=b"Exif\0\0no such data")
    assert (read(tmp_path / "a.png") == picture()).all()


# ---------------------------------------------------------------- metadata and size


def chunk(name, data):
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


MUCH = zlib.compress(bytes(3_000_000))
BIG = {
    "zTXt": chunk(b"zTXt", b"workflow\0\0" + MUCH),
    "iTXt": chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0en\0wort\0" + MUCH),
    "iTXt as it is": chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + bytes(3_000_000)),
    "tEXt": chunk(b"tEXt", b"prompt\0" + b"x" * 3_000_000),
    "many": chunk(b"zTXt", b"workflow\0\0" + zlib.compress(bytes(1_000_000))) * 80,
    "damaged": chunk(b"zTXt", b"workflow\0\0not compressed"),
    "iCCP": chunk(b"iCCP", b"display\0\0" + zlib.compress(bytes(40_000_000))),
}


def damaged(name, data):
    """A chunk whose check sum is wrong."""
    return chunk(name, data)[:-1] + bytes([chunk(name, data)[-1] ^ 1])


BIG |= {f"short {name.decode()}": chunk(name, b"") for name in (b"pHYs", b"gAMA", b"cHRM", b"sRGB", b"cICP")}
BIG |= {f"damaged {name.decode()}": damaged(name, b"comment\0" * 4) for name in (b"tEXt", b"gAMA", b"eXIf", b"prVt")}


@pytest.mark.parametrize("kind", BIG)
@pytest.mark.parametrize("place", ["before", "after"])
def test_metadata_of_any_size(tmp_path, kind, place):
    Image.fromarray(picture()).save(tmp_path / "a.png")
    plain = (tmp_path / "a.png").read_bytes()
    at = 33 if place == "before" else len(plain) - 12  # after IHDR, before IEND
    (tmp_path / "a.png").write_bytes(plain[:at] + BIG[kind] + plain[at:])
    assert (read(tmp_path / "a.png") == picture()).all()


def test_a_large_profile_is_applied(tmp_path):
    """Profiles of calibrated displays have megabytes; Pillow refuses a PNG for one of more than 1 MiB."""
    large = profile(padding=3_000_000)
    Image.fromarray(picture()).save(tmp_path / "a.png")
    plain = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(plain[:33] + chunk(b"iCCP", b"big\0\0" + zlib.compress(large)) + plain[33:])
    right = to_srgb(Image.fromarray(picture()), large)
    assert np.abs(read(tmp_path / "a.png") - right).max() <= 1


def test_short_texts_are_still_read(tmp_path):
    """Some programs write the orientation into a text."""
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><tiff:Orientation>3</tiff:Orientation></x:xmpmeta>'
    Image.fromarray(picture()).save(tmp_path / "a.png")
    plain = (tmp_path / "a.png").read_bytes()
    texts = chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp) + BIG["zTXt"]
    (tmp_path / "a.png").write_bytes(plain[:33] + texts + plain[33:])
    assert (read(tmp_path / "a.png") == picture()[::-1, ::-1]).all()


def test_no_number_of_pixels_is_refused_that_fits_the_memory(tmp_path, monkeypatch):
    Image.fromarray(picture()).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    assert (read(tmp_path / "a.png") == picture()).all()
    monkeypatch.setattr(module, "machine_bytes", lambda _: 40_000)
    with pytest.raises(InputError, match=r"64x48 pixels.*smaller copy"):
        read_image(tmp_path / "a.png")


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.tif"])
def test_large_pictures_are_read_smaller_but_still_cover_the_frame(tmp_path, monkeypatch, name):
    assert [module._reduction(size) for size in [(8192, 4096), (8200, 6150), (20000, 15000), (60000, 2500)]] == [
        1,
        2,
        4,
        1,
    ]
    monkeypatch.setattr(module, "MOST_PIXELS", 64 * 32)
    monkeypatch.setattr(module, "_SHORTEST", 32)
    large = np.asarray(Image.fromarray(picture()).resize((192, 128), Image.Resampling.BILINEAR))
    Image.fromarray(large).save(tmp_path / name, **({"quality": 100, "subsampling": 0} if name == "a.jpg" else {}))
    found = read_image(tmp_path / name)[0].numpy() * 255
    assert found.shape == (32, 48, 3)
    right = np.asarray(Image.fromarray(large).reduce(4)).astype(float)
    assert np.abs(found - right).mean() < 2


def test_a_large_jpeg_is_never_whole_in_memory(tmp_path, monkeypatch):
    """libjpeg decodes it at the smaller size."""
    monkeypatch.setattr(module, "MOST_PIXELS", 64 * 32)
    monkeypatch.setattr(module, "_SHORTEST", 32)
    sizes = []
    monkeypatch.setattr(
        module, "shown", lambda image, *_: sizes.append((image.size, image.getbbox())) or np.zeros((1, 1, 3))
    )
    Image.new("RGB", (256, 192), "white").save(tmp_path / "a.jpg")
    read_image(tmp_path / "a.jpg")
    assert sizes == [((64, 48), (0, 0, 64, 48))]


# ---------------------------------------------------------------- wrappers


@pytest.mark.parametrize("name", ["a.webp", "a.png", "a.gif", "a.avif"])
def test_moving_pictures_give_their_first(tmp_path, name):
    frames = [Image.new("RGB", (64, 48), colour) for colour in ("red", "lime", "blue")]
    frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], duration=100)
    assert np.abs(read(tmp_path / name)[0, 0] - (255, 0, 0)).max() <= 3


def test_the_content_counts_not_the_name(tmp_path):
    Image.fromarray(picture()).save(tmp_path / "a.png")
    (tmp_path / "a.png").rename(tmp_path / "a.jpg")
    assert torch.equal(read_image(tmp_path / "a.jpg"), torch.from_numpy(picture())[None] / 255)
