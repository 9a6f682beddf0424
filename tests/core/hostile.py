"""Damaged and hostile files, and what a load of one may do.

    python tests/core/hostile.py --count 20000 --seed 1

loads so many mutated files and states what became of them; exits with 1 if one broke a rule.
"""

import argparse
import gc
import io
import json
import os
import random
import resource
import struct
import sys
import time
import warnings
import zipfile
from collections import Counter
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parents[1]), str(HERE)] if __name__ == "__main__" else []

import released  # noqa: E402
import torch  # noqa: E402
import toy  # noqa: E402
from safetensors.torch import save as safetensors_bytes  # noqa: E402

from i2vgen_core.checkpoints import encoders  # noqa: E402
from i2vgen_core.checkpoints.load import open_base, open_refiner  # noqa: E402
from i2vgen_core.checkpoints.read import read_state_dict  # noqa: E402
from i2vgen_core.checkpoints.unet_keys import to_diffusers, to_official  # noqa: E402
from i2vgen_core.errors import CheckpointError, InputError  # noqa: E402

MOST_SECONDS, MOST_BYTES = 2.0, 300 * 2**20
MOST_CALLS = 12_000_000
"""Calls that the refusal of a file may make: 40 for each of the 300,000 steps that a pickle may have."""

# ---------------------------------------------------------------- what a load may not do

_FORBIDDEN = tuple(
    f"{prefix}{name}"
    for prefix, names in {
        "os.": "system exec posix_spawn spawn fork forkpty startfile remove rename rmdir mkdir link symlink truncate chmod",
        "": "subprocess. shutil. tempfile. socket. urllib. ftplib. pickle.find_class pty.",
    }.items()
    for name in names.split()
)
"""Starts of the names of Python's audit events (docs.python.org, Audit events table)."""
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_watching = False
_seen: list[str] = []


def _watch(event, arguments):
    if not _watching:
        return
    if event.startswith(_FORBIDDEN) or (event == "open" and _opens_to_write(*arguments)):
        _seen.append(f"{event} {arguments!r}"[:200])


def _opens_to_write(_, mode, flags):
    return any(letter in mode for letter in "wax+") if isinstance(mode, str) else bool((flags or 0) & _WRITES)


@contextmanager
def watched():
    """Raises AssertionError at the end if Python started a process, unpickled freely, wrote or reached for a network."""
    global _watching
    _install()
    _seen.clear()
    _watching = True
    try:
        yield
    finally:
        _watching = False
    assert not _seen, f"a load did what it may not: {_seen}"


def refusal(path, load=read_state_dict):
    """The message of the CheckpointError that a load ends in, watched. Raises AssertionError for a file that loads."""
    with watched():
        try:
            load(path)
        except CheckpointError as error:
            message = str(error)
        else:
            raise AssertionError(f"{path} was loaded")
    assert message.isprintable() and len(message) < 2000
    return message


class Calls:
    """Counts calls of functions, Python's and C's, while it is entered: work, whatever else the machine does."""

    def __init__(self):
        self.count = 0

    def __enter__(self):
        sys.setprofile(self._see)
        return self

    def __exit__(self, *_):
        sys.setprofile(None)

    def _see(self, frame, event, argument):
        self.count += event in ("call", "c_call")


@lru_cache
def _install():
    sys.addaudithook(_watch)


def attempt(loader, path):
    """Loads a file as a user would: what was loaded, or one of our errors, within the bounds of memory.

    Returns:
        What it was taken for, or None where it was refused, and the processor's seconds.
    """
    size = sum(file.stat().st_size for file in (path.iterdir() if path.is_dir() else [path]) if file.is_file())
    before, peak, start = _resident(), _peak(), time.process_time()
    with watched():
        try:
            kind, message = LOADERS[loader](path), "loaded"
        except InputError as error:
            kind, message = None, str(error)
    seconds = time.process_time() - start
    assert len(message) < 4000 and message.isprintable(), repr(message)[:4000]
    if _peak() > peak:
        assert _peak() - before <= MOST_BYTES + size, f"{(_peak() - before) >> 20} MiB for a file of {size >> 20}"
    return kind, seconds


def _peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _resident():
    statm = Path("/proc/self/statm")
    return int(statm.read_text().split()[1]) * resource.getpagesize() if statm.is_file() else _peak()


def _unet(open_):
    def load(path):
        checkpoint = open_(path)
        for part in (checkpoint.build_network(torch.float32), checkpoint.build_global_encoder(torch.float32)):
            assert part is None or all(bool(value.isfinite().all()) for value in part.state_dict().values())
        return checkpoint.config.kind

    return load


def _encoder(open_, name):
    def load(path):
        assert all(bool(value.isfinite().all()) for value in open_(path).model.state_dict().values())
        return name

    return load


LOADERS = {
    "base": _unet(open_base),
    "refiner": _unet(open_refiner),
    "text": _encoder(encoders.load_text_encoder, "text"),
    "vision": _encoder(encoders.load_image_encoder, "vision"),
    "vae": _encoder(encoders.load_vae, "vae"),
}

# ---------------------------------------------------------------- whole files

SMALL = replace(toy.CONFIG, model_channels=64, channel_mult=(1, 1), head_dim=64)
_CLIP_TEXT = {"context_length": 8, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 2, "mlp_ratio": 0.25}
_CLIP_VISION = {"image_size": 14, "patch_size": 14, "width": 80, "head_width": 80, "layers": 1, "mlp_ratio": 0.25}
_VAE = released.DDCONFIG | {"ch": 32, "ch_mult": [1, 1], "num_res_blocks": 1}


@lru_cache
def tensors(name):
    """Of a small model: `vae`, `clip` (both towers, whose vocabulary makes 6 MB of half precision), or a UNet's kind."""
    if name == "vae":
        shapes = released.encoders_golden.ldm_vae_shapes(_VAE)
    elif name == "clip":
        shapes = released.encoders_golden.open_clip_shapes(_CLIP_TEXT, _CLIP_VISION, 64)
    else:
        return to_official(toy.whole_state(replace(SMALL, kind=name)))
    return {key: value.half() for key, value in toy.fill({key: torch.empty(s) for key, s in shapes.items()}).items()}


def zipped(content, **options):
    """The bytes that torch.save writes."""
    buffer = io.BytesIO()
    (released.save if "callbacks" in content else torch.save)(content, buffer, **options)
    return buffer.getvalue()


SOURCES = {
    # name: tensors, suffix, bytes of them, loader, kind
    "VGen": ("i2vgen_xl", ".pth", lambda state: zipped({"state_dict": state, "step": 1}), "base", "i2vgen_xl"),
    "old torch": (
        "vid2vid_xl",
        ".pth",
        lambda state: zipped({"state_dict": state}, _use_new_zipfile_serialization=False),
        "refiner",
        "vid2vid_xl",
    ),
    "safetensors": (
        "image2video",
        ".safetensors",
        lambda state: safetensors_bytes(state, {"head_dim": "64"}),
        "base",
        "image2video",
    ),
    "diffusers": (
        "i2vgen_xl",
        ".safetensors",
        lambda state: safetensors_bytes({key: value.contiguous() for key, value in state.items()}),
        "base",
        "i2vgen_xl",
    ),
    "Lightning": (
        "vae",
        ".ckpt",
        lambda state: zipped(released.lightning({f"first_stage_model.{key}": v for key, v in state.items()})),
        "vae",
        "vae",
    ),
    "VAE": ("vae", ".safetensors", safetensors_bytes, "vae", "vae"),
    "open_clip text": ("clip", ".bin", zipped, "text", "text"),
    "open_clip vision": ("clip", ".safetensors", safetensors_bytes, "vision", "vision"),
}


def layout(source):
    state = dict(tensors(SOURCES[source][0]))
    return to_diffusers(released.from_official(state)) if source == "diffusers" else state


@lru_cache
def whole(source):
    """The undamaged file's bytes."""
    return SOURCES[source][2](layout(source))


# ---------------------------------------------------------------- damage to bytes


def _place(data, rng):
    """Somewhere in a file: as often in its first and last kilobytes, which describe the rest, as anywhere."""
    ends = rng.choice((64, 4096, len(data)))
    start = rng.randrange(min(ends, len(data)))
    return start if rng.random() < 0.6 else len(data) - 1 - start


def cut_short(data, rng):
    return data[: _place(data, rng)]


def flip_bits(data, rng):
    data = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8, 64))):
        data[_place(data, rng)] ^= 1 << rng.randrange(8)
    return bytes(data)


def overwrite(data, rng):
    at, length = _place(data, rng), rng.choice((1, 2, 4, 8, 64, 1024))
    filling = rng.choice((b"\0" * length, b"\xff" * length, rng.randbytes(length)))
    return data[:at] + filling + data[at + length :]


def leave_out(data, rng):
    at = _place(data, rng)
    return data[:at] + data[at + rng.choice((1, 8, 100, 5000)) :]


def repeat(data, rng):
    at, length = _place(data, rng), rng.choice((1, 8, 100, 5000))
    return data[: at + length] + data[at:]


def insert(data, rng):
    at = _place(data, rng)
    return data[:at] + rng.randbytes(rng.choice((1, 8, 100))) + data[at:]


def set_number(data, rng):
    at = _place(data, rng) & ~3
    number = rng.choice((0, 1, 2**31 - 1, 2**31, 2**32 - 1, len(data), rng.randrange(2**32)))
    if rng.random() < 0.5:
        return data[:at] + struct.pack("<I", number) + data[at + 4 :]
    return data[:at] + struct.pack("<Q", number << rng.choice((0, 8, 32))) + data[at + 8 :]


def splice(data, rng):
    other = whole(rng.choice(list(SOURCES)))
    return data[: _place(data, rng)] + other[_place(other, rng) :]


BYTES = (cut_short, flip_bits, overwrite, leave_out, repeat, insert, set_number, splice)

# ---------------------------------------------------------------- damage to tensors


def _spoilt(value, rng):
    """One tensor of a wrong value, type, shape or size; one without values stays as it is."""
    if not value.ndim or not value.numel():
        return value
    flat = value.reshape(-1).clone()
    at = rng.randrange(len(flat))
    choice = rng.randrange(9)
    if choice < 3:
        flat[at] = (float("nan"), float("inf"), -float("inf"))[choice]
        return flat.reshape(value.shape)
    if choice == 3:
        return value.to(rng.choice((torch.int64, torch.int8, torch.bool, torch.uint8, torch.int32)))
    if choice == 4:
        return value.to(rng.choice((torch.float16, torch.bfloat16, torch.float64, torch.float8_e4m3fn)))
    shape = list(value.shape)
    shape[rng.randrange(len(shape))] = rng.choice((0, 1, 2, 3, 5, 7, 64, 1000))
    if choice == 5:
        return torch.zeros(shape if torch.Size(shape).numel() < 10**6 else (0, 10**9), dtype=value.dtype)
    if choice == 6:
        return value[None] if rng.random() < 0.5 else flat
    if choice == 7:
        return torch.zeros(()) if rng.random() < 0.5 else torch.zeros(0, 2**40)
    return flat.flip(0).reshape(value.shape)


_NAMES = (
    "",
    "\x1b[2J",
    "input_blocks.999999999.0.weight",
    "../../etc/passwd",
    "a" * 5000,
    "module." * 1000 + "x",
    "é\n",
)


def spoil_tensors(state, rng):
    """A state dict with one to three tensors wrong, missing, renamed or too many."""
    state = dict(state)
    for _ in range(rng.choice((1, 1, 3))):
        key = rng.choice(list(state))
        choice = rng.randrange(6)
        if choice < 3:
            state[key] = _spoilt(state[key], rng)
        elif choice == 3:
            del state[key]
        elif choice == 4:
            digits = rng.choice(("0", "9", "77", "123456789", "9" * 5000))
            found = [part if not part.isdigit() or rng.random() < 0.5 else digits for part in key.split(".")]
            state[rng.choice((*_NAMES, ".".join(found), key + "x", "ema." + key))] = state.pop(key)
        else:
            state[rng.choice(_NAMES)] = torch.zeros(rng.choice((0, 1, 5)))
    return state


# ---------------------------------------------------------------- damage to what describes them

_VALUES = (-1, 0, 1, 2**31, 2**53, 2**64, 10**30, 1.5, None, "x", [], {}, [[]], True)


def edit_header(data, rng):
    """A safetensors header that lies: about shapes, types, places, or with names twice."""
    size = int.from_bytes(data[:8], "little")
    try:
        header = json.loads(data[8 : 8 + size])
    except ValueError:
        return data
    key = rng.choice(list(header))
    entry, choice = header[key], rng.randrange(6)
    if choice == 0 and "shape" in entry:
        entry["shape"] = rng.choice(
            ([2**62, 4], [2**32, 2**32], [-1], entry["shape"][::-1], [0], [rng.choice(_VALUES)])
        )
    elif choice == 1 and "data_offsets" in entry:
        start, end = entry["data_offsets"]
        lies = ([end, start], [start, end + 4], [0, end], [start - 8, end], [0, 2**63], [rng.choice(_VALUES), end])
        entry["data_offsets"] = rng.choice(lies)
    elif choice == 2 and "dtype" in entry:
        entry["dtype"] = rng.choice(("F64", "I32", "F8_E4M3", "BOOL", "U8", "BF16", "F4", "C64", "X"))
    elif choice == 3:
        header[key] = rng.choice(_VALUES)
    elif choice == 4:
        header["__metadata__"] = rng.choice(
            ({"head_dim": "9" * 5000}, {"kind": "x" * 10**5}, {"a": 1}, [], {"head_dim": "0"})
        )
    text = json.dumps(header)
    if choice == 5:
        text = text[:-1] + ", " + json.dumps(key) + ": " + json.dumps(entry) + "}"
    return struct.pack("<Q", len(text.encode())) + text.encode() + data[8 + size :]


_REFERENCES = (
    b"posix\nsystem",
    b"builtins\neval",
    b"os\nsystem",
    b"torch\nload",
    b"torch._utils\n_rebuild_sparse_tensor",
)
_REFERENCES += (
    b"torch\nTensor",
    b"builtins\nbytearray",
    b"torch.hub\nload",
    b"numpy\nfromfile",
    b"collections\nCounter",
)


def edit_zip(data, rng):
    """A zip file of torch's whose pickle refers to something else, or whose entries lie about themselves."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = [(info.filename, archive.read(info)) for info in archive.infolist()]
    except (zipfile.BadZipFile, ValueError):
        return data
    choice, kind = rng.randrange(6), zipfile.ZIP_STORED
    if choice == 0:
        entries = [(name, _other_reference(part, rng) if name.endswith("pkl") else part) for name, part in entries]
    elif choice == 1:
        entries = [(name, rng.choice(BYTES)(part, rng) if name.endswith("pkl") else part) for name, part in entries]
    elif choice == 2:
        kind = zipfile.ZIP_DEFLATED
    elif choice == 3:
        entries.insert(rng.randrange(len(entries) + 1), rng.choice(entries))
    elif choice == 4:
        rng.shuffle(entries)
    else:
        entries.append((rng.choice(("../x", "/etc/x", "archive/data/99999", "a/constants.pkl")), b"\0" * 100))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", kind) as archive:
        for name, part in entries:
            archive.writestr(zipfile.ZipInfo(name), part, kind)
    return buffer.getvalue()


def _other_reference(pickled, rng):
    wanted = rng.choice((b"torch._utils\n_rebuild_tensor_v2", b"collections\nOrderedDict", b"torch\nFloatStorage"))
    return pickled.replace(b"c" + wanted, b"c" + rng.choice(_REFERENCES))


def mutated(source, rng):
    """A file of this source, damaged in one or two ways."""
    choice, suffix = rng.random(), SOURCES[source][1]
    if choice < 0.3:
        return SOURCES[source][2](spoil_tensors(layout(source), rng))
    data = whole(source)
    if choice < 0.6:
        data = edit_header(data, rng) if suffix == ".safetensors" else edit_zip(data, rng)
    if choice >= 0.6 or rng.random() < 0.3:
        data = rng.choice(BYTES)(data, rng)
    return data


# ---------------------------------------------------------------- many of them


def _possible(loader, kind):
    """What a loader may take a file of this kind for: CLIP's files have both towers, and metadata names the refiner."""
    if {loader, kind} <= {"text", "vision"}:
        return (None, loader)
    return (None, "vid2vid_xl", "sr600") if kind == "vid2vid_xl" else (None, kind)


def one(place, number, seed):
    """Loads a mutated file in an empty folder: its source, what it was taken for, and the processor's seconds.

    Raises:
        AssertionError: it was taken for what it is not, or did what it may not.
        Exception: any other that is not one of this project's.
    """
    rng = random.Random(f"{seed} {number}")
    source = list(SOURCES)[number % len(SOURCES)]
    _, suffix, _, loader, kind = SOURCES[source]
    if rng.random() < 0.15:
        loader = rng.choice(list(LOADERS))
    path = place / f"model{suffix}"
    try:
        path.write_bytes(mutated(source, rng))
        taken, seconds = attempt(loader, path)
        assert taken in _possible(loader, kind), taken
        assert list(place.iterdir()) == [path]
    except Exception as error:
        raise AssertionError(f"seed {seed}, file {number}: {source} with loader {loader}: {error!r}") from error
    finally:
        path.unlink(missing_ok=True)
    return source, taken, seconds


def run(place, count, seed):
    """Loads mutated files. Yields for each what `one` returns, or the text of its AssertionError."""
    warnings.simplefilter("ignore")  # zipfile's, of two entries of one name
    for number in range(count):
        try:
            yield one(place, number, seed)
        except AssertionError as error:
            yield str(error)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    found, slowest, broken = Counter(), 0.0, []
    with TemporaryDirectory() as place:
        list(run(Path(place), len(SOURCES), 0))
        begin = _resident()
        for number, result in enumerate(run(Path(place), options.count, options.seed)):
            if number and number % 1000 == 0:
                print(f"{number} files, slowest {slowest:.2f} s, {len(broken)} broke a rule", flush=True)  # noqa: T201
            if isinstance(result, str):
                broken.append(result)
                print(result, flush=True)  # noqa: T201
                continue
            source, taken, seconds = result
            slowest = max(slowest, seconds)
            found[source, "refused" if taken is None else "loaded"] += 1
            if seconds >= MOST_SECONDS:
                broken.append(f"file {number}: {seconds:.1f} s")
        gc.collect()
        grown = (_resident() - begin) / 2**20
    for (source, what), count in sorted(found.items()):
        print(f"{source:20} {what:8} {count}")  # noqa: T201
    total = f"{options.count} files, {len(broken)} broke a rule, slowest {slowest:.2f} s of processor time"
    print(f"{total}, memory {grown:+.0f} MiB at the end")  # noqa: T201
    return int(bool(broken))


if __name__ == "__main__":
    sys.exit(main())
