"""Peak memory of `python -m i2vgen_core convert` on a made-up base network in VGen's form: a .pth in fp32.

    python -m benchmarks.convert_memory --channels 128     # a file of 1 GB
    python -m benchmarks.convert_memory --channels 320     # the release's size, 5.7 GB

The limit is 1.2 times what is written, and 500 MB. The peak is the process's largest resident set, pages of mapped
files among them. Exits with 1 above the limit. Needs Linux or macOS.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def make(path: Path, channels: int) -> None:
    """Weights of zero, each in a sparse file of its own that is mapped, so that none of them need be in memory."""
    import torch

    from i2vgen_core.checkpoints.unet_keys import GLOBAL_ENCODER, to_official
    from i2vgen_core.config import UNetConfig
    from i2vgen_core.network.blocks import Layers
    from i2vgen_core.network.image_conditioning import GlobalEncoder
    from i2vgen_core.network.unet import UNet

    config = UNetConfig(model_channels=channels)
    encoder = GlobalEncoder(config.in_channels, config.context_dim, Layers(device="meta")).state_dict()
    shapes = UNet(config, device="meta").state_dict() | {GLOBAL_ENCODER + key: value for key, value in encoder.items()}
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        state = {
            key: torch.from_file(f"{folder}/{number}", shared=True, size=value.numel()).view(value.shape)
            for number, (key, value) in enumerate(shapes.items())
        }
        torch.save({"state_dict": to_official(state), "step": 854500}, path)


def measure(arguments: list[str]) -> tuple[int, float]:
    """Peak resident bytes and seconds of a command, which must succeed."""
    start = time.perf_counter()
    process = subprocess.Popen(arguments)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(arguments)} failed")
    return usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024), time.perf_counter() - start


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--channels", type=int, default=128, help="model channels, a multiple of 64 (%(default)s)")
    parser.add_argument("--dtype", choices=["fp16", "bf16", "fp8"], help="as convert's")
    parser.add_argument("--folder", type=Path, help="where the files go while this runs")
    parser.add_argument("--make", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.make:
        make(options.make, options.channels)
        return 0
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        source, target = Path(folder, "made_up.pth"), Path(folder, "out.safetensors")
        # In a process of its own: this one has to stay small, since a child's peak starts with its parent's.
        subprocess.run([sys.executable, __file__, "--make", source, "--channels", str(options.channels)], check=True)
        more = ["--dtype", options.dtype] if options.dtype else []
        peak, seconds = measure([sys.executable, "-m", "i2vgen_core", "convert", str(source), str(target), *more])
        written = target.stat().st_size
        limit = 1.2 * written + 500e6
        lines = [
            f"read {source.stat().st_size / 1e9:.2f} GB, wrote {written / 1e9:.2f} GB in {seconds:.0f} s",
            f"peak {peak / 1e6:.0f} MB, limit {limit / 1e6:.0f} MB",
        ]
        sys.stdout.write("\n".join(lines) + "\n")
    return int(peak > limit)


if __name__ == "__main__":
    sys.exit(main())
