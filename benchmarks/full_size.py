"""Seconds and memory of one evaluation of a refiner with a control branch, at the released sizes with made-up weights.

    python -m benchmarks.full_size venhancer --frames 8 --width 832 --height 480
    python -m benchmarks.full_size venhancer --frames 32 --width 1280 --height 720 --count

In bf16 on the CPU, one guided half, with the hint of every frame (STAR) or of every second one (VEnhancer). The weights take
3.8 GiB. `--count` runs nothing: it counts operations and live activations, and those of MS-Vid2Vid-XL.
"""

from __future__ import annotations

import argparse
import os
import resource
import sys
import time

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from i2vgen_core.config import HINTED, TEXT_TOKENS, VAE_CHANNELS, VAE_STEP, Kind, released_config
from i2vgen_core.network.control import Hint
from i2vgen_core.network.unet import UNet
from i2vgen_core.sampling.windows import key_frames

from .measure import live_peak
from .peer import made_up

_DTYPE = torch.bfloat16


def made_up_network(kind: Kind, device: str = "cpu") -> UNet:
    """A network of the released sizes."""
    with torch.device("meta"):
        network = UNet(released_config(kind))
    network.load_state_dict(made_up(network.state_dict(), _DTYPE, device), strict=True, assign=True)
    return network.eval().requires_grad_(False)


def made_up_hint(kind: Kind, latent: Tensor) -> Hint | None:
    """A hint as a run of the release has it: of all frames, or of key frames with one inserted between two."""
    if kind not in HINTED:
        return None
    if kind == "star":
        return Hint(latent)
    keys = key_frames(len(latent), 1)
    return Hint(latent[: int((keys >= 0).sum())], keys[None], torch.tensor([249]), torch.tensor([8]))


@torch.no_grad()
def counted(kind: Kind, frames: int, height: int, width: int) -> tuple[float, float]:
    """Teraflops and GiB of live activations of one evaluation."""
    network = made_up_network(kind, "meta")
    x = torch.empty(frames, VAE_CHANNELS, height // VAE_STEP, width // VAE_STEP, dtype=_DTYPE, device="meta")
    hint = Hint(x) if kind in HINTED else None  # VEnhancer's key frames are numbers, which meta has none of
    text = network.prepare(torch.empty(1, TEXT_TOKENS, network.config.context_dim, dtype=_DTYPE, device="meta"))

    def run() -> Tensor:
        return network(x, torch.zeros(1, device="meta"), text, frames, hint=hint)

    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops() / 1e12, live_peak(run) / 2**30


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=HINTED)
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--width", type=int, default=832)
    parser.add_argument("--height", type=int, default=480)
    parser.add_argument("--count", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.count:
        for kind in ("vid2vid_xl", arguments.kind):
            teraflops, live = counted(kind, arguments.frames, arguments.height, arguments.width)
            sys.stdout.write(f"{kind}: {teraflops:.0f} TFLOP, {live:.2f} GiB of live activations\n")
        return
    network = made_up_network(arguments.kind)
    generator = torch.Generator().manual_seed(1)

    def noise(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(_DTYPE)

    size = (arguments.frames, VAE_CHANNELS, arguments.height // VAE_STEP, arguments.width // VAE_STEP)
    x, hint = noise(*size), made_up_hint(arguments.kind, noise(*size))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    text = network.prepare(noise(1, TEXT_TOKENS, network.config.context_dim))
    wall, processor = time.perf_counter(), time.process_time()
    made = network(x, torch.tensor([899]), text, arguments.frames, hint=hint)
    wall, processor = time.perf_counter() - wall, time.process_time() - processor
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    weights = sum(parameter.nbytes for parameter in network.parameters())
    sys.stdout.write(
        f"{arguments.kind} {list(made.shape)} {made.dtype}, finite: {bool(made.isfinite().all())}\n"
        f"{processor:.0f} s of the processor, {wall:.0f} s on the clock at a load of {os.getloadavg()[0]:.1f}\n"
        f"weights {weights / 2**30:.2f} GiB; peak of the process {peak / 2**20:.2f} GiB, {before / 2**20:.2f} GiB before it\n"
    )


if __name__ == "__main__":
    main()
