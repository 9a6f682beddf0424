"""Seconds and peak memory of loading each kind of released file at full size, beside what others take for it.

    python -m benchmarks.load_times FOLDER [--only NAME ...]

Files of made-up weights are written into FOLDER, which has to have 15 GB free: one source, which stays for the next
run, and one file at a time. Every load has a process of its own, forked once the libraries are there. Its largest
resident set is the peak, the libraries' 0.4 GB and pages of mapped files among it. Seconds are those until each weight
was read once, as the first step does; those of the processor are in brackets. Cold is after the file's pages were
dropped from the system's cache, warm after a load.

`read` reads the file's bytes into one buffer. `plain` is torch.load with weights_only, or safetensors' load_file.
`library` is from_pretrained of diffusers or transformers for the same network. Needs Linux.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import time
import types
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, I2VGenXLUNet
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import CLIPVisionModelWithProjection

from i2vgen_core import config
from i2vgen_core.checkpoints import clip_keys, encoders, vae_keys
from i2vgen_core.checkpoints.bundle import WEIGHTS
from i2vgen_core.checkpoints.convert import convert
from i2vgen_core.checkpoints.load import open_base, open_refiner
from i2vgen_core.checkpoints.parts import part_tensors
from i2vgen_core.checkpoints.read import read_state_dict
from i2vgen_core.checkpoints.scaffold import SIZES, scaffold
from i2vgen_core.checkpoints.unet_keys import to_official
from i2vgen_core.network.unet import UNet

TOWER = "model.safetensors"

# ---------------------------------------------------------------- the files, from a folder of scaffold's in fp16


def source(place: Path) -> Path:
    """A folder in diffusers' layout with made-up weights, fp16."""
    folder = place / "source"
    if not (folder / "model_index.json").is_file():
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


def image2video(folder: Path, target: Path) -> None:
    """MS-Image2Video: no part of the source has its tensors."""
    state = UNet(config.UNetConfig(kind="image2video"), device="meta").state_dict()
    made_up = {key: torch.empty(value.shape).uniform_(-0.02, 0.02) for key, value in to_official(state).items()}
    torch.save({"state_dict": made_up, "step": 779000}, target)


def sharded(folder: Path, target: Path) -> None:
    """As diffusers itself writes it."""
    I2VGenXLUNet.from_pretrained(folder / "unet", torch_dtype=torch.float32).save_pretrained(
        target, max_shard_size="2GB"
    )


def converted(folder: Path, target: Path) -> None:
    convert(folder / "unet", target)


def whole_folder(part: str, name: str = WEIGHTS) -> Callable[[Path, Path], None]:
    def write(folder: Path, target: Path) -> None:
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
    checkpoint = open_base(path)
    encoder = checkpoint.build_global_encoder(dtype)
    return [*checkpoint.build_network(dtype).parameters(), *(encoder.parameters() if encoder else ())]


def load_refiner(path: Path, kind: config.Kind | None = None) -> Iterable[Tensor]:
    return open_refiner(path, kind).build_network().parameters()


def load_clip(path: Path) -> Iterable[Tensor]:
    towers = encoders.load_text_encoder(path), encoders.load_image_encoder(path)
    return [value for tower in towers for value in tower.model.parameters()]


def load_vision(path: Path) -> Iterable[Tensor]:
    return encoders.load_image_encoder(path).model.parameters()


def load_vae(path: Path) -> Iterable[Tensor]:
    return encoders.load_vae(path).model.parameters()


def plain(path: Path) -> Iterable[Tensor]:
    file = next(path.glob("*.safetensors")) if path.is_dir() else path
    if file.suffix == ".safetensors":
        return [value for each in files(path) for value in load_file(each).values()]
    content = torch.load(file, map_location="cpu", weights_only=True)
    return content.get("state_dict", content).values()


def pretrained(network: Any, dtype: torch.dtype = torch.float32) -> Callable[[Path], Iterable[Tensor]]:
    return lambda path: network.from_pretrained(path, torch_dtype=dtype).parameters()


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
    "base fp16, safetensors": Kind("unet", None, load_base, pretrained(I2VGenXLUNet, HALF)),
    "the same, to compute in fp32": Kind(
        "unet", None, lambda path: load_base(path, torch.float32), pretrained(I2VGenXLUNet)
    ),
    "base fp32, safetensors": Kind("unet_fp32", whole_folder("unet"), load_base, pretrained(I2VGenXLUNet)),
    "base fp32, folder of three shards": Kind("unet_shards", sharded, load_base, pretrained(I2VGenXLUNet)),
    "base fp16, written by convert": Kind("converted.safetensors", converted, load_base),
    "base fp32, .pth": Kind("i2vgen_xl_00854500.pth", vgen("unet", 854500), load_base),
    "refiner fp32, .pth": Kind("non_ema_0035000.pth", vgen("refiner", 35000), load_refiner),
    "refiner SR600 fp32, .pth": Kind(
        "sr_step_110000_ema.pth", vgen("refiner", 110000), lambda path: load_refiner(path, "sr600")
    ),
    "base MS-Image2Video fp32, .pth": Kind("img2video_ldm_0779000.pth", image2video, load_base),
    "CLIP fp32, open_clip .bin": Kind(
        "open_clip_pytorch_model.bin", lambda folder, target: torch.save(open_clip(folder), target), load_clip
    ),
    "CLIP vision fp32, safetensors": Kind(
        "image_fp32",
        whole_folder("image_encoder", TOWER),
        load_vision,
        pretrained(CLIPVisionModelWithProjection),
    ),
    "VAE of SD 2.1's .ckpt": Kind("v2-1_512-ema-pruned.ckpt", lightning, load_vae),
    "VAE fp32, safetensors": Kind("vae_fp32", whole_folder("vae"), load_vae, pretrained(AutoencoderKL)),
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


def in_child(work: Callable[[], object]) -> tuple[str, float]:
    """What `work` gives in a fork of this process, as JSON, and the child's peak in bytes. Empty if it fails."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        status = 1
        try:
            os.write(writing, json.dumps(work()).encode())
            status = 0
        except Exception as error:  # the load's, which is told by the empty result
            sys.stderr.write(f"{type(error).__name__}: {str(error)[:200]}\n")
        finally:
            os._exit(status)
    os.close(writing)
    with os.fdopen(reading) as output:
        said = output.read()
    _, _, usage = os.wait4(child, 0)
    return said, usage.ru_maxrss * 1024


def timed(load: Callable[[Path], Iterable[Tensor]], path: Path) -> tuple[float, float]:
    """Seconds of one load, on the clock and of the processor."""
    start, processor = time.perf_counter(), time.process_time()
    with torch.no_grad():
        for value in load(path):
            value.sum()
    return time.perf_counter() - start, time.process_time() - processor


def cell(load: Callable[[Path], Iterable[Tensor]] | None, path: Path) -> str:
    if load is None:
        return ""
    said, peak = in_child(lambda: timed(load, path))
    if not said:
        return "refuses"
    seconds, processor = json.loads(said)
    return f"{seconds:.1f} s ({processor:.1f}), {peak / 1e9:.1f} GB"


def row(name: str, place: Path) -> str:
    kind = KINDS[name]
    path = (place if kind.write else place / "source") / kind.file
    if kind.write:
        write = kind.write
        said, _ = in_child(lambda: write(place / "source", path) or "written")
        assert said, f"{path} could not be written"
    size = sum(file.stat().st_size for file in files(path)) / 1e9
    cells = [name, f"{size:.2f} GB"]
    for load in (read, kind.ours, plain, kind.library):
        drop(path)
        cells.append(cell(load, path))
        if load is not read:
            cells.append(cell(load, path))
    if kind.write:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", nargs="+", choices=KINDS, default=list(KINDS), metavar="NAME")
    options = parser.parse_args()
    in_child(lambda: str(source(options.folder)))
    others = (f"{what}, {how}" for what in ("ours", "plain", "library") for how in ("cold", "warm"))
    head = ("File", "Size", "read, cold", *others)
    sys.stdout.write("| " + " | ".join(head) + " |\n" + "|---" * len(head) + "|\n")
    for name in options.only:
        sys.stdout.write(row(name, options.folder) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
