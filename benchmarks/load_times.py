"""Seconds and peak memory of loading each kind of released file at full size, beside what others take for it.

    python benchmarks/load_times.py FOLDER [--only NAME ...]

Files of made-up weights are written into FOLDER, which has to have 15 GB free: one source, which stays for the next
run, and one file at a time. Every load has a process of its own, whose largest resident set is the peak; that counts the
libraries, and pages of mapped files. Seconds are those until each weight was read once, as the first step does, and leave
the import of libraries out. Cold is after the file's pages were dropped from the system's cache, warm after a load.

`read` reads the file's bytes into one buffer. `plain` is torch.load with weights_only, or safetensors' load_file.
`library` is from_pretrained of diffusers or transformers for the same network. Needs Linux.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
import types
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from i2vgen_core.bundle import WEIGHTS
from i2vgen_core.checkpoints import clip_keys, vae_keys
from i2vgen_core.checkpoints.parts import part_tensors
from i2vgen_core.checkpoints.read import read_state_dict

CALLS = ("read", "ours", "plain", "library")
TOWER = "model.safetensors"

# ---------------------------------------------------------------- the files, from a folder of scaffold's in fp16


def source(place: Path) -> Path:
    """A folder in diffusers' layout with made-up weights, fp16."""
    folder = place / "source"
    if not (folder / "model_index.json").is_file():
        from i2vgen_core.scaffold import SIZES, scaffold

        shutil.rmtree(folder, ignore_errors=True)
        scaffold(folder, SIZES["full"])
    return folder


def wide(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: value.float().contiguous() for key, value in state.items()}


def vgen(part: str, step: int) -> Callable[[Path, Path], None]:
    def write(folder: Path, target: Path) -> None:
        state = part_tensors(read_state_dict(folder / part)[0], "unet")
        torch.save({"state_dict": wide(state), "step": step}, target)

    return write


def whole_folder(part: str, name: str = WEIGHTS) -> Callable[[Path, Path], None]:
    def write(folder: Path, target: Path) -> None:
        from safetensors.torch import save_file

        target.mkdir()
        shutil.copy(folder / part / "config.json", target)
        save_file(wide(read_state_dict(folder / part)[0]), target / name, {"format": "pt"})

    return write


def open_clip(folder: Path) -> dict[str, Tensor]:
    text = clip_keys.text_to_open_clip(read_state_dict(folder / "text_encoder")[0])
    return wide(text | clip_keys.vision_to_open_clip(read_state_dict(folder / "image_encoder")[0]))


def lightning(folder: Path, target: Path) -> None:
    """Stable Diffusion's: the VAE among its other networks, beside the state of Lightning's callbacks."""
    state = wide(vae_keys.vae_to_ldm(read_state_dict(folder / "vae")[0]))
    state = {f"first_stage_model.{key}": value for key, value in state.items()}
    state |= {f"model.diffusion_model.{n}.weight": torch.rand(2**26) for n in range(18)}
    parts = ["pytorch_lightning", "callbacks", "model_checkpoint"]
    for count in range(1, len(parts) + 1):
        module = types.ModuleType(".".join(parts[:count]))
        sys.modules[module.__name__] = module
    module.ModelCheckpoint = type("ModelCheckpoint", (), {"__module__": module.__name__})  # type: ignore[attr-defined]
    torch.save({"state_dict": state, "callbacks": {module.ModelCheckpoint: {"dirpath": "x"}}}, target)


# ---------------------------------------------------------------- the loads; each gives the weights that it loaded


def load_base(path: Path, dtype: torch.dtype | None = None) -> Iterable[Tensor]:
    from i2vgen_core.checkpoints.load import open_base

    checkpoint = open_base(path)
    encoder = checkpoint.build_global_encoder(dtype)
    assert encoder is not None
    return [*checkpoint.build_network(dtype).parameters(), *encoder.parameters()]


def load_refiner(path: Path) -> Iterable[Tensor]:
    from i2vgen_core.checkpoints.load import open_refiner

    return open_refiner(path).build_network().parameters()


def load_clip(path: Path) -> Iterable[Tensor]:
    from i2vgen_core import encoders

    towers = encoders.load_text_encoder(path), encoders.load_image_encoder(path)
    return [value for tower in towers for value in tower.model.parameters()]


def load_vision(path: Path) -> Iterable[Tensor]:
    from i2vgen_core import encoders

    return encoders.load_image_encoder(path).model.parameters()


def load_vae(path: Path) -> Iterable[Tensor]:
    from i2vgen_core import encoders

    return encoders.load_vae(path).model.parameters()


def plain(path: Path) -> Iterable[Tensor]:
    file = next(path.glob("*.safetensors")) if path.is_dir() else path
    if file.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(file).values()
    content = torch.load(file, map_location="cpu", weights_only=True)
    return content.get("state_dict", content).values()


def pretrained(module: str, name: str, dtype: torch.dtype = torch.float32) -> Callable[[Path], Iterable[Tensor]]:
    def load(path: Path) -> Iterable[Tensor]:
        library = __import__(module)
        return getattr(library, name).from_pretrained(path, torch_dtype=dtype).parameters()

    return load


def read(path: Path) -> Iterable[Tensor]:
    buffer = memoryview(bytearray(2**24))
    for file in files(path):
        with file.open("rb", buffering=0) as opened:
            while opened.readinto(buffer):
                pass
    return []


@dataclass(frozen=True)
class Kind:
    """A kind of file.

    Args:
        file: its name.
        write: into a path, from the source folder; None for a part of the source itself, by the file's name.
        ours: this project's load.
        library: diffusers' or transformers', where they have one.
    """

    file: str
    write: Callable[[Path, Path], None] | None
    ours: Callable[[Path], Iterable[Tensor]]
    library: Callable[[Path], Iterable[Tensor]] | None = None


HALF = torch.float16
KINDS = {
    "base fp16, safetensors": Kind("unet", None, load_base, pretrained("diffusers", "I2VGenXLUNet", HALF)),
    "the same, to compute in fp32": Kind(
        "unet", None, lambda path: load_base(path, torch.float32), pretrained("diffusers", "I2VGenXLUNet")
    ),
    "base fp32, safetensors": Kind(
        "unet_fp32", whole_folder("unet"), load_base, pretrained("diffusers", "I2VGenXLUNet")
    ),
    "base fp32, .pth": Kind("i2vgen_xl_00854500.pth", vgen("unet", 854500), load_base),
    "refiner fp32, .pth": Kind("non_ema_0035000.pth", vgen("refiner", 35000), load_refiner),
    "CLIP fp32, open_clip .bin": Kind(
        "open_clip_pytorch_model.bin", lambda folder, target: torch.save(open_clip(folder), target), load_clip
    ),
    "CLIP vision fp32, safetensors": Kind(
        "image_fp32",
        whole_folder("image_encoder", TOWER),
        load_vision,
        pretrained("transformers", "CLIPVisionModelWithProjection"),
    ),
    "VAE of SD 2.1's .ckpt": Kind("v2-1_512-ema-pruned.ckpt", lightning, load_vae),
    "VAE fp32, safetensors": Kind("vae_fp32", whole_folder("vae"), load_vae, pretrained("diffusers", "AutoencoderKL")),
}

# ---------------------------------------------------------------- measuring


def files(path: Path) -> list[Path]:
    return [path] if path.is_file() else sorted(file for file in path.iterdir() if file.suffix != ".json")


def drop(path: Path) -> None:
    """Leaves nothing of it in the system's cache."""
    for file in files(path):
        with file.open("rb") as opened:
            os.fsync(opened.fileno())
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def timed(kind: Kind, call: str, path: Path) -> float:
    """Seconds of one load, in this process."""
    load = {"read": read, "ours": kind.ours, "plain": plain, "library": kind.library}[call]
    assert load is not None
    import diffusers  # imports are not counted
    import transformers

    import i2vgen_core.checkpoints.load
    import i2vgen_core.encoders  # noqa: F401

    if call == "library":
        diffusers.I2VGenXLUNet, diffusers.AutoencoderKL, transformers.CLIPVisionModelWithProjection  # noqa: B018  # lazy
    start = time.perf_counter()
    with torch.no_grad():
        for value in load(path):
            value.sum()
    return time.perf_counter() - start


def measured(name: str, call: str, path: Path) -> str:
    """Seconds and gigabytes of a load in a process of its own, or that it was refused."""
    command = [sys.executable, __file__, str(path), "--only", name, "--call", call]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdout
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    return "refuses" if status else f"{json.loads(output):.1f} s, {usage.ru_maxrss * 1024 / 1e9:.1f} GB"


def row(name: str, place: Path) -> str:
    kind = KINDS[name]
    path = (place if kind.write else place / "source") / kind.file
    if kind.write:
        subprocess.run([sys.executable, __file__, str(place), "--only", name, "--write"], check=True)
    size = sum(file.stat().st_size for file in files(path)) / 1e9
    cells = [name, f"{size:.2f} GB"]
    for call in CALLS:
        if call == "library" and kind.library is None:
            cells += ["", ""]
            continue
        drop(path)
        cells.append(measured(name, call, path))
        if call != "read":
            cells.append(measured(name, call, path))
    if kind.write:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", nargs="+", choices=KINDS, default=list(KINDS), metavar="NAME")
    parser.add_argument("--call", choices=CALLS, help=argparse.SUPPRESS)
    parser.add_argument("--write", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.call:
        sys.stdout.write(json.dumps(timed(KINDS[options.only[0]], options.call, options.folder)))
        return
    place = source(options.folder)
    if options.write:
        kind = KINDS[options.only[0]]
        assert kind.write
        kind.write(place, options.folder / kind.file)
        return
    head = ("File", "Size", "read, cold", *(f"{call}, {how}" for call in CALLS[1:] for how in ("cold", "warm")))
    sys.stdout.write("| " + " | ".join(head) + " |\n" + "|---" * len(head) + "|\n")
    for name in options.only:
        sys.stdout.write(row(name, options.folder) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
