"""The same base run through ComfyUI's graph and through the core, in one process; prints seconds of each as JSON.

    python -m benchmarks.node_path

Needs ComfyUI at COMFYUI_PATH or ~/ComfyUI. The network is a fifth as wide as the release's, so that a run takes seconds.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace

import torch

from i2vgen_core.cascade import Cascade
from i2vgen_core.checkpoints.scaffold import SIZES, scaffold
from i2vgen_core.config import UNetConfig
from i2vgen_core.media.images import read_image
from i2vgen_core.sampling.options import BaseOptions
from tests.host import graphs

from .host import comfyui
from .measure import interleaved

SIDE, FRAMES, STEPS = 128, 16, 3
_UNET = UNetConfig(model_channels=64, context_dim=64, image_dim=64)


def measure(repeats: int) -> dict[str, tuple[float, ...]]:
    """Processor seconds of some base runs, by `core` and `host`."""
    with comfyui() as (host, folder):
        bundle = folder / "models" / "diffusers" / "wide"
        scaffold(bundle, replace(SIZES["tiny"], unet=_UNET))
        # seeds count up, so that the sampler is all that runs again
        graph = graphs.changed(
            graphs.base_latent("wide"),
            base__steps=STEPS,
            global_encode__width=SIDE,
            global_encode__height=SIDE,
            global_encode__frames=FRAMES,
            clip_encode__width=SIDE,
        )
        cascade = Cascade(bundle, dtype=torch.float32)
        options = BaseOptions(width=SIDE, height=SIDE, frames=FRAMES, fps=graphs.FPS, steps=STEPS)
        photo = read_image(folder / "input" / graphs.PHOTO)
        conditions = cascade.condition(photo, graphs.PROMPT, options)
        seed = 0

        def in_host() -> None:
            nonlocal seed
            seed += 1
            result = host.run(graphs.changed(graph, base__seed=seed), {"base": ("base", 0)}, reuse_cache=True)
            if result.error:
                raise SystemExit(result.error)

        def in_core() -> None:
            cascade.sample_base(conditions, replace(options, seed=seed))

        seconds = interleaved({"core": in_core, "host": in_host}, repeats)
    return {name: each.runs for name, each in seconds.items()}


if __name__ == "__main__":
    sys.stdout.write("\n" + json.dumps(measure(int(sys.argv[1]) if len(sys.argv) > 1 else 5)) + "\n")
