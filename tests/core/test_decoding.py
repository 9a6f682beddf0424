"""Videos as their files say that they are to be shown: HDR, matrices and ranges, pixel aspect, mirroring, cover pictures,
transparency, times of frames, fields; and that nothing becomes darker by being written and read."""

import io
import struct
from fractions import Fraction

import av
import numpy as np
import pytest
import torch
from av.stream import Disposition
from PIL import Image

from i2vgen_core.errors import InputError
from i2vgen_core.media import decoding
from i2vgen_core.media.conversion import Converter, fraction
from i2vgen_core.media.video import read_video, read_video_at, video_seconds, write_video

COLOURS = [(200, 160, 140), (40, 60, 210), (40, 170, 60), (245, 245, 245), (128, 128, 128), (220, 40, 40), (20, 20, 20)]


def patches(size=32):
    """A row of coloured squares, [size, 7 size, 3] uint8."""
    return np.array(COLOURS, np.uint8)[None].repeat(size, 0).repeat(size, 1)


def means(picture, size=32):
    """The mean of each square's middle, [7, 3], of 255."""
    whole = np.asarray(picture).reshape(size, -1, size, 3)[size // 4 : -size // 4, :, size // 4 : -size // 4]
    return whole.mean((0, 2)) * 255


def yuv(rgb, red, blue, full=False, bits=8):
    """Planes of 4:2:0 by a matrix that is told by its weights of red and blue, stacked as PyAV wants them."""
    luma = rgb @ np.array([red, 1 - red - blue, blue])
    differences = ((rgb[..., 2] - luma) / (2 - 2 * blue), (rgb[..., 0] - luma) / (2 - 2 * red))
    halves = [each.reshape(each.shape[0] // 2, 2, -1, 2).mean((1, 3)) for each in differences]
    most, unit = 2**bits - 1, 2 ** (bits - 8)
    y = most * luma if full else unit * (16 + 219 * luma)
    chroma = [(most if full else 224 * unit) * half + 128 * unit for half in halves]
    stacked = np.concatenate([each.ravel() for each in (y, *chroma)]).round().clip(0, most)
    return stacked.reshape(-1, rgb.shape[1]).astype(np.uint8 if bits == 8 else np.uint16)


def encode(path, pictures, pixels, codec="libx264", times=None, tags=(2, 2, 2, 0), aspect=None, flags=0, **options):
    """Writes frames that are given as PyAV takes them.

    Args:
        times: in eighths of a second.
        tags: matrix, primaries, transfer and range as libav numbers them.
        aspect: of a pixel.
    """
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=8, options=options)
        frames = [
            each if isinstance(each, av.VideoFrame) else av.VideoFrame.from_ndarray(each, format=pixels)
            for each in pictures
        ]
        context = stream.codec_context
        stream.width, stream.height, stream.pix_fmt = frames[0].width, frames[0].height, pixels
        context.colorspace, context.color_primaries, context.color_trc, context.color_range = tags
        context.flags |= flags
        if aspect:
            context.sample_aspect_ratio = aspect
        for frame, time in zip(frames, times or range(len(frames)), strict=True):
            frame.pts, frame.time_base = time, Fraction(1, 8)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


# ---------------------------------------------------------------- colour


def pq(nits):
    power = (nits / 10000) ** (2610 / 16384)
    return ((3424 / 4096 + 2413 / 128 * power) / (1 + 2392 / 128 * power)) ** (2523 / 32)


def hlg(nits):
    shown = nits / 1000
    scene = shown * (shown @ [0.2627, 0.678, 0.0593])[..., None] ** (1 / 1.2 - 1)
    high = 0.17883277 * np.log(np.maximum(12 * scene - 0.28466892, 1e-9)) + 0.55991073
    return np.where(scene <= 1 / 12, np.sqrt(3 * scene), high)


TO_2020 = np.array([[0.6274, 0.3293, 0.0433], [0.0691, 0.9195, 0.0114], [0.0164, 0.0880, 0.8956]])


@pytest.mark.slow  # libswscale makes its table of colours
@pytest.mark.parametrize(("curve", "transfer"), [(pq, 16), (hlg, 18)], ids=["PQ", "HLG"])
def test_hdr_is_shown_as_its_sdr_picture(tmp_path, curve, transfer):
    """Graphics white has 203 nits (ITU-R BT.2408); what is brighter is white."""
    stored = patches() / 255
    light = np.where(stored <= 0.04045, stored / 12.92, ((stored + 0.055) / 1.055) ** 2.4)
    light[:, -32:] = 4  # in place of the last square, a highlight
    picture = yuv(curve(np.clip(light @ TO_2020.T, 0, 9) * 203), 0.2627, 0.0593, bits=10)
    encode(tmp_path / "a.mp4", [picture] * 2, "yuv420p10le", tags=(9, 9, transfer, 1), crf="4")
    frames, _ = read_video(tmp_path / "a.mp4")
    off = np.abs(means(frames[0]) - np.array([*COLOURS[:-1], (255, 255, 255)]))
    assert off.mean() < 4 and off.max() < 16, off.round()


@pytest.mark.slow  # as above
def test_a_wide_gamut_is_brought_to_that_of_bt709(tmp_path):
    """Of the same transfer curve: greys stay as they are."""
    light = (patches() / 255) ** 2.4
    picture = yuv((light @ TO_2020.T) ** (1 / 2.4), 0.2627, 0.0593, bits=10)
    encode(tmp_path / "a.mp4", [picture], "yuv420p10le", tags=(9, 9, 14, 1), crf="4")
    off = np.abs(means(read_video(tmp_path / "a.mp4")[0][0]) - COLOURS)
    assert off.mean() < 4 and off[[3, 4, 6]].max() < 1, off.round()  # 7 without
    assert np.abs(means(picture_of(patches() / 255, tmp_path)) - COLOURS).max() < 3, "ordinary video has no mapping"


def picture_of(rgb, folder):
    encode(folder / "plain.mp4", [yuv(rgb, 0.2126, 0.0722)], "yuv420p", tags=(1, 1, 1, 1), crf="1")
    return read_video(folder / "plain.mp4")[0][0]


MATRICES = {"BT.601": (6, 0.299, 0.114), "BT.709": (1, 0.2126, 0.0722), "BT.2020": (9, 0.2627, 0.0593)}


@pytest.mark.parametrize("full", [False, True], ids=["limited", "full"])
@pytest.mark.parametrize("matrix", MATRICES)
def test_matrix_and_range(tmp_path, matrix, full):
    number, *weights = MATRICES[matrix]
    picture = yuv(patches() / 255, *weights, full=full)
    encode(tmp_path / "a.mp4", [picture], "yuv420p", tags=(number, 1, 1, 1 + full), crf="1")
    assert np.abs(means(read_video(tmp_path / "a.mp4")[0][0]) - COLOURS).max() < 3


@pytest.mark.parametrize(
    ("width", "height", "matrix"), [(224, 32, "BT.601"), (1344, 192, "BT.709"), (224, 608, "BT.709")]
)
def test_untagged_video_is_taken_as_players_do(tmp_path, width, height, matrix):
    """HD for BT.709, what is smaller for BT.601."""
    rgb = np.asarray(Image.fromarray(patches()).resize((width, height), Image.Resampling.NEAREST))
    encode(tmp_path / "a.mp4", [yuv(rgb / 255, *MATRICES[matrix][1:])], "yuv420p", crf="1")
    picture = read_video(tmp_path / "a.mp4")[0][0].numpy()
    middles = picture[height // 2, width // 14 :: width // 7] * 255
    assert np.abs(middles - COLOURS).max() < 4


def test_ten_times_written_and_read(tmp_path):
    y, x = np.mgrid[0:96, 0:128]
    ramps = np.stack([230 - y, 60 + x, 170 - x], -1) / 255
    first = clip = torch.from_numpy(ramps).float()[None].repeat(3, 1, 1, 1)
    first[:, :32, :112] = torch.from_numpy(patches(16)).repeat(2, 1, 1) / 255
    for number in range(10):
        write_video(tmp_path / "a.mp4", clip, 8, crf=8)
        clip = read_video(tmp_path / "a.mp4")[0]
        drift = (clip - first).mean((0, 1, 2)) * 255
        assert drift.abs().max() < 1 and abs(drift.mean()) < 0.3, (number, drift)


def test_transparency_becomes_white(tmp_path):
    """As WebM has it; FFmpeg's own decoders pass over it."""
    colour = np.zeros((64, 96, 4), np.uint8)
    colour[..., 0], colour[:, 48:, 3], colour[:32, 48:, 3] = 200, 255, 128
    frames = [av.VideoFrame.from_ndarray(colour, format="rgba").reformat(format="yuva420p") for _ in range(4)]
    encode(tmp_path / "a.webm", frames, "yuva420p", "libvpx-vp9", crf="4")
    for found in (read_video(tmp_path / "a.webm")[0], read_video_at(tmp_path / "a.webm", 2, 8)):
        places = found[-1, [32, 48, 16], [24, 72, 72]] * 255
        assert np.abs(places.numpy() - [(255, 255, 255), (200, 0, 0), (227, 127, 127)]).max() < 9
    assert len(read_video(tmp_path / "a.webm")[0]) == 4


# ---------------------------------------------------------------- geometry


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
@pytest.mark.parametrize("aspect", [Fraction(4, 3), Fraction(8, 9)], ids=str)
def test_pixels_become_square(tmp_path, name, aspect):
    encode(tmp_path / name, [yuv(patches() / 255, 0.2126, 0.0722)], "yuv420p", aspect=aspect)
    frames, _ = read_video(tmp_path / name)
    assert frames.shape[1:3] == (32, round(224 * aspect))
    corner = round(24 * aspect)
    assert np.abs(frames[0, 8:24, 4:corner].mean((0, 1)).numpy() * 255 - COLOURS[0]).max() < 40


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("quarters", range(4))
def test_videos_are_turned_and_mirrored(tmp_path, quarters, mirrored):
    """As the movie's header says; the front cameras of some telephones write mirrored videos."""
    y, x = np.mgrid[0:64, 0:96]
    shown = torch.from_numpy(np.stack([y / 64, x / 96, 0 * x], -1)).float()[None].repeat(2, 1, 1, 1)
    stored = shown.rot90(quarters, dims=(1, 2))  # counterclockwise: it is to be turned clockwise
    matrix = np.linalg.matrix_power(np.array([[0, 1], [-1, 0]]), quarters)
    if mirrored:
        stored, matrix = stored.flip(2), np.array([[-1, 0], [0, 1]]) @ matrix
    write_video(tmp_path / "a.mp4", stored, 8)
    content = bytearray((tmp_path / "a.mp4").read_bytes())
    place = content.index(b"tkhd") + 44
    (a, b), (c, d) = (matrix * 65536).tolist()
    content[place : place + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    (tmp_path / "a.mp4").write_bytes(content)
    for read in (read_video(tmp_path / "a.mp4")[0], read_video_at(tmp_path / "a.mp4", 2, 8)):
        assert read.shape == shown.shape and (read - shown).abs().mean() < 2 / 255


@pytest.mark.parametrize("quarters", range(4))
def test_pictures_of_a_camera_with_exif_are_turned(tmp_path, quarters):
    """Motion JPEG, as cameras write it: PyAV does not know EXIF among a frame's data, and tells the rotation alone."""
    exif, file = Image.Exif(), io.BytesIO()
    exif[0x010F] = "a camera"
    upright = np.rot90(patches(), quarters)
    stored = np.rot90(upright, -quarters)
    Image.fromarray(stored).save(file, "JPEG", exif=exif, quality=95, subsampling=0)
    with av.open(str(tmp_path / "a.mov"), "w") as container:
        stream = container.add_stream("mjpeg", rate=8)
        stream.width, stream.height, stream.pix_fmt = stored.shape[1], stored.shape[0], "yuvj444p"
        packet = av.Packet(file.getvalue())
        packet.pts = packet.dts = 0
        packet.time_base, packet.stream, packet.is_keyframe = Fraction(1, 8), stream, True
        container.mux(packet)
    whole = bytearray((tmp_path / "a.mov").read_bytes())
    a, b = [(1, 0), (0, -1), (-1, 0), (0, 1)][quarters]
    matrix = struct.pack(">9i", a << 16, b << 16, 0, -b << 16, a << 16, 0, 0, 0, 1 << 30)
    at = whole.index(b"tkhd") + 4 + 40  # version and flags, times, number, length, layer and volume
    assert whole[at : at + 36] == struct.pack(">9i", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
    whole[at : at + 36] = matrix
    (tmp_path / "a.mov").write_bytes(whole)
    found = read_video(tmp_path / "a.mov")[0][0].numpy()
    assert found.shape == upright.shape
    assert np.abs(found * 255 - upright).mean() < 3


def test_what_the_container_says_of_colours_counts_where_the_stream_leaves_it_open(tmp_path):
    """As ProRes does when it is transcoded: the matrix of BT.709 would be taken for BT.601's at this size."""
    pictures = [yuv(patches() / 255, 0.2126, 0.0722)] * 2
    encode(tmp_path / "a.mkv", pictures, "yuv420p", codec="ffv1", tags=(1, 1, 1, 1))
    with av.open(str(tmp_path / "a.mkv")) as container:
        converter = Converter(container.streams.video[0])
        frame = next(container.decode(video=0))
        frame.colorspace = 2
        planes = converter(frame)
    assert np.abs(means(np.stack(planes, -1) / 255) - COLOURS).max() < 3


def test_fields_become_frames(tmp_path):
    """A bar that moves between the two fields of a frame has no comb."""
    pictures = []
    for index in range(8):
        rgb = np.full((64, 96, 3), 40 / 255)
        for field in (0, 1):
            at = 8 + 8 * index + 4 * field
            rgb[field::2, at : at + 16] = 220 / 255
        pictures.append(yuv(rgb, 0.2126, 0.0722))
    encode(tmp_path / "a.mp4", pictures, "yuv420p", flags=1 << 18, crf="4", **{"x264-params": "tff=1"})
    with av.open(str(tmp_path / "a.mp4")) as container:
        frames = list(container.decode(video=0))
        assert all(frame.interlaced_frame for frame in frames)
        luma = np.stack([frame.to_ndarray()[:64] for frame in frames]).astype(int)
    read, _ = read_video(tmp_path / "a.mp4")
    assert len(read) == 8
    comb = [
        np.abs(rows[:, 1:-1] - (rows[:, :-2] + rows[:, 2:]) / 2).mean() for rows in (luma, read[..., 1].numpy() * 219)
    ]
    assert comb[1] < comb[0] / 4, comb
    assert video_seconds(tmp_path / "a.mp4") == 1.0 and len(read_video_at(tmp_path / "a.mp4", 8, 8)) == 8


# ---------------------------------------------------------------- streams and times


def atom(name, *content):
    return struct.pack(">I", 8 + sum(map(len, content))) + name + b"".join(content)


def test_the_cover_picture_is_not_the_video(tmp_path):
    """Where it comes first in the file, as some shops write it."""
    cover = io.BytesIO()
    Image.new("RGB", (64, 64), "black").save(cover, "JPEG")
    encode(tmp_path / "a.mp4", grey([12] * 4), "yuv420p")
    content = (tmp_path / "a.mp4").read_bytes()
    data = atom(b"data", struct.pack(">II", 13, 0), cover.getvalue())
    handler = atom(b"hdlr", bytes(8), b"mdirappl", bytes(9))
    user = atom(b"udta", atom(b"meta", bytes(4), handler, atom(b"ilst", atom(b"covr", data))))
    start = content.index(b"moov") - 4
    first = start + 8 + int.from_bytes(content[start + 8 : start + 12], "big")  # after mvhd
    size = struct.pack(">I", len(content) - start + len(user))
    (tmp_path / "a.mp4").write_bytes(content[:start] + size + content[start + 4 : first] + user + content[first:])
    with av.open(str(tmp_path / "a.mp4")) as container:
        assert Disposition.attached_pic in container.streams.video[0].disposition
    frames, rate = read_video(tmp_path / "a.mp4")
    assert frames.shape == (4, 64, 96, 3) and rate == 8 and abs(frames.mean() * 16 - 12) < 0.2
    assert abs(read_video_at(tmp_path / "a.mp4", 2, 8).mean() * 16 - 12) < 0.2


def grey(numbers):
    return [yuv(np.full((64, 96, 3), number / 16), 0.2126, 0.0722) for number in numbers]


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_uneven_times_are_kept(tmp_path, name):
    """Of a screen recording, which has a frame only where something changes."""
    encode(tmp_path / name, grey([1, 2, 3, 8, 9, 10, 14]), "yuv420p", times=[0, 1, 2, 7, 8, 9, 13], crf="4")
    frames, rate = read_video(tmp_path / name)
    numbers = (frames.mean((1, 2, 3)) * 16).round().int().tolist()
    assert rate == 8
    assert numbers[:14] == [1, 2, 3, 3, 3, 3, 3, 8, 9, 10, 10, 10, 10, 14]
    assert len(read_video(tmp_path / name, 5)[0]) == 5


def test_times_that_are_rounded_are_even(tmp_path):
    """Matroska counts milliseconds: 24000/1001 frames a second are not evenly spaced there."""
    with av.open(str(tmp_path / "a.mkv"), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(24000, 1001))
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for index, picture in enumerate(grey(range(16))):
            frame = av.VideoFrame.from_ndarray(picture, format="yuv420p")
            frame.pts, frame.time_base = index, Fraction(1001, 24000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    frames, rate = read_video(tmp_path / "a.mkv")
    assert (frames.mean((1, 2, 3)) * 16).round().int().tolist() == list(range(16))
    assert abs(rate - Fraction(24000, 1001)) < 0.01


@pytest.mark.parametrize("name", ["a.webp", "a.png", "a.avif"])
def test_moving_pictures_are_videos(tmp_path, name):
    frames = [Image.new("RGBA", (96, 64), (20 * number, 0, 0, 255)) for number in range(8)]
    frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], duration=125)
    read, rate = read_video(tmp_path / name)
    assert (read[:, 0, 0, 0] * 255 / 20).round().int().tolist() == list(range(8)) and rate == 8
    assert video_seconds(tmp_path / name) == 1.0
    later = read_video_at(tmp_path / name, 2, 4, 1)
    assert (later[:, 0, 0, 0] * 255 / 20).round().int().tolist() == [4, 6]
    assert decoding.moves(tmp_path / name)
    frames[1].save(tmp_path / name)
    assert not decoding.moves(tmp_path / name) and not decoding.moves(tmp_path / "none")
    assert read_video(tmp_path / name)[0].shape == (1, 64, 96, 3)


def test_a_file_of_sound_alone_says_so(tmp_path):
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        sound = container.add_stream("aac", rate=48000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 48000
        container.mux(sound.encode(frame))
        container.mux(sound.encode())
    with pytest.raises(InputError, match="it has no video"):
        read_video(tmp_path / "a.mp4")


def test_rates_of_every_pyav():
    """Version 19 has rationals of its own, which know neither rounding nor arithmetic with all numbers."""

    class Rational:
        numerator, denominator = 30000, 1001

    assert fraction(Rational()) == Fraction(30000, 1001)
    assert fraction(Fraction(0, 1)) is None and fraction(None) is None
