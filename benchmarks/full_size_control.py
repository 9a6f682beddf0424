"""Seconds and memory of a base that a Ctrl-Adapter steers in ComfyUI, every network of its released size with made-up weights.

    python -m benchmarks.full_size_control
    python -m benchmarks.full_size_control --frames 16 --side 256 --steps 2

Files in 16 bit are written into a temporary folder, 7 GB of them, and loaded by the graph's own loaders, on the CPU: the base with
its encoders, the adapter of 1092 tensors, a ControlNet of Stable Diffusion 1.5 and its text encoder. One video is sampled with
them and one without, both of one seed. Exits with 1 if a latent is not finite, if the two are the same, or if the peak is above
--limit. Needs ComfyUI at COMFYUI_PATH or ~/ComfyUI, and Linux.
"""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel

from i2vgen_core.checkpoints.scaffold import SIZES, scaffold
from tests.host.available import HOST, PACK, why_no_host
from tests.host.graphs import Graph, node
from tests.host.in_process import Host

from .load_times import in_child
from .peer import made_up

sys.path.append(str(PACK / "tests" / "core"))
import adapters

_DTYPE = torch.float16
_BUNDLE, _ADAPTER, _CONTROL, _TEXT = "full", "adapter.safetensors", "control.safetensors", "clip_l.safetensors"
_CLIP_L = CLIPTextConfig(
    hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12, projection_dim=768
)
DIFFERENT = 1e-3
"""Share of a latent's norm that two of them differ by at least, to be two: above what rounding makes."""
_PROMPT, _NEGATIVE = "a fox runs through a forest", "static, blurry"


def write_files(models: Path) -> str:
    """All files, each in its kind's folder; says how large they are."""
    base, nets, texts = models / "diffusers" / _BUNDLE, models / "controlnet", models / "text_encoders"
    scaffold(base, SIZES["full"], refiner=None)
    for folder in (nets, texts):
        folder.mkdir(parents=True)
    with torch.device("meta"):
        text = CLIPTextModel(_CLIP_L)
    for file, shapes in (
        (nets / _ADAPTER, adapters.released()),
        (nets / _CONTROL, {f"control_model.{key}": value for key, value in _control_net().state_dict().items()}),
        (
            texts / _TEXT,
            {f"text_model.{key.removeprefix('text_model.')}": value for key, value in text.state_dict().items()},
        ),
    ):
        save_file(made_up(shapes, _DTYPE, "cpu"), file)
    sizes = {file: file.stat().st_size for file in models.rglob("*.safetensors")}
    return ", ".join(f"{file.relative_to(models)} {size / 1e9:.2f} GB" for file, size in sorted(sizes.items()))


def _control_net() -> nn.Module:
    """One of Stable Diffusion 1.5 on meta, as the host's loader makes it."""
    sys.path.insert(0, str(HOST))
    from comfy.cli_args import args

    args.cpu = True
    import comfy.cldm.cldm
    import comfy.ops

    return comfy.cldm.cldm.ControlNet(
        image_size=32,
        in_channels=4,
        model_channels=320,
        hint_channels=3,
        num_res_blocks=[2, 2, 2, 2],
        channel_mult=(1, 2, 4, 4),
        num_heads=8,
        use_spatial_transformer=True,
        transformer_depth=[1, 1, 1, 1, 1, 1, 0, 0],
        transformer_depth_middle=1,
        context_dim=768,
        operations=comfy.ops.disable_weight_init,
        device="meta",
    )


def graph(frames: int, side: int, steps: int) -> Graph:
    """`steered` and `plain` are the samplers: of the same base, conditions and seed."""
    size = {"width": side, "height": side, "frames": frames}
    texts = {"good": _PROMPT, "bad": _NEGATIVE}
    made: Graph = {
        "loader": node("I2VGenXLCascadeLoader", bundle=_BUNDLE, weight_dtype="default"),
        "adapter": node("I2VGenXLCtrlAdapterLoader", adapter_name=_ADAPTER),
        "net": node("ControlNetLoader", control_net_name=_CONTROL),
        "clip": node("CLIPLoader", clip_name=_TEXT, type="stable_diffusion"),
        "photo": node("I2VGenXLTinyScene", seed=0),
        "repeated": node("RepeatImageBatch", image=["photo", 0], amount=frames),
        "edges": node("Canny", image=["repeated", 0], low_threshold=0.1, high_threshold=0.3),
        "vision": node("CLIPVisionEncode", clip_vision=["loader", 3], image=["photo", 0], crop="center"),
        **{name: node("CLIPTextEncode", clip=["clip", 0], text=text) for name, text in texts.items()},
        "prompts": node(
            "I2VGenXLCLIPEncode",
            clip=["loader", 2],
            clip_vision=["loader", 3],
            image=["photo", 0],
            prompt=_PROMPT,
            negative_prompt=_NEGATIVE,
            width=side,
        ),
        "details": node(
            "I2VGenXLGlobalEncode",
            positive=["prompts", 0],
            negative=["prompts", 1],
            global_encoder=["loader", 1],
            vae=["loader", 4],
            image=["photo", 0],
            fps=16,
            **size,
        ),
        "applied": node(
            "I2VGenXLApplyCtrlAdapter",
            model=["loader", 0],
            ctrl_adapter=["adapter", 0],
            control_net=["net", 0],
            images=["edges", 0],
            text_positive=["good", 0],
            text_negative=["bad", 0],
            clip_vision_output=["vision", 0],
            strength=1.0,
            start_percent=0.0,
            end_percent=1.0,
            key_frames="",
        ),
    }
    for name, model in (("steered", ["applied", 0]), ("plain", ["loader", 0])):
        sides: dict[str, Any] = {"positive": ["details", 0], "negative": ["details", 1], "latent": ["details", 2]}
        made[name] = node("I2VGenXLBaseSampler", model=model, seed=1, steps=steps, cfg=0.0, eta=0.0, **sides)
    return made


def _peak() -> float:
    """GiB that this process has held at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--side", type=int, default=128, help="pixels of the video's width and height (%(default)s)")
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--limit", type=float, default=20.0, metavar="GIB", help="of the peak (%(default)s)")
    options = parser.parse_args()
    if absent := why_no_host():
        parser.error(absent)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for part in ("input", "output"):
            (folder / part).mkdir()
        said, _ = in_child(lambda: write_files(folder / "models"))
        assert said, f"the files could not be written into {folder}"
        sys.stdout.write(f"{said.strip(chr(34))}\n")
        host = Host(HOST, PACK, folder)
        made = graph(options.frames, options.side, options.steps)
        sys.stdout.write(f"ComfyUI and the pack alone: peak {_peak():.2f} GiB\n")
        latents: dict[str, Tensor] = {}
        for name, names in (("conditions", ("good", "details")), ("steered", ()), ("plain", ())):
            start, processor = time.perf_counter(), time.process_time()
            *_, latents[name] = host.values(made, *(names or (name,)))
            wall, processor = time.perf_counter() - start, time.process_time() - processor
            sys.stdout.write(f"{name}: {wall:.0f} s, {processor:.0f} of the processor; peak {_peak():.2f} GiB\n")
            sys.stdout.flush()
    steered, plain = latents["steered"], latents["plain"]
    differ = float((steered - plain).norm() / plain.norm())
    finite = bool(steered.isfinite().all() and plain.isfinite().all())
    sys.stdout.write(
        f"latents {list(steered.shape)}, finite: {finite}; they differ by {differ:.3f} of the plain one's norm\n"
    )
    return int(not (finite and differ > DIFFERENT and _peak() <= options.limit))


if __name__ == "__main__":
    sys.exit(main())
