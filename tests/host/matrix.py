"""The host's own nodes beside ours, row by row: what is run for docs/compatibility.md, and how it is judged.

    python -m tests.host.matrix docs/compatibility.md

writes the tables of docs/compatibility.md anew, in about five minutes, half of them for SLOW.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from i2vgen_core import builtin
from i2vgen_core.checkpoints.load import open_unet
from i2vgen_core.compare import psnr
from i2vgen_core.training.evaluate import Case, held_out_case

from . import graphs
from .available import HOST, PACK
from .graphs import Graph, changed, node
from .in_process import Host

SCENE, WIDTH, HEIGHT, FRAMES, FPS = 6, 128, 64, 8, 8  # a yellow ring that slides left swiftly
STEPS, FEW, CFG = 6, 3, 2.5
IMAGE = 18.0
"""dB of frame 0 against the given picture, above which the image counts as kept; the plain graph has 23."""

MODEL, POSITIVE, NEGATIVE, LATENT = ["loader", 0], ["global_encode", 0], ["global_encode", 1], ["global_encode", 2]
VAE = ["loader", 4]


def plain() -> Graph:
    """The test clip: the built-in base with the stock KSampler and VAE Decode."""
    graph = graphs.stock_latent(builtin.NAME) | {
        "photo": node("I2VGenXLTinyScene", seed=SCENE),
        "frames": node("VAEDecode", samples=["base", 0], vae=VAE),
    }
    return changed(
        graph,
        clip_encode__width=WIDTH,
        clip_encode__prompt=["photo", 1],
        clip_encode__negative_prompt="",
        global_encode__width=WIDTH,
        global_encode__height=HEIGHT,
        global_encode__frames=FRAMES,
        global_encode__fps=FPS,
        base__steps=STEPS,
        base__cfg=CFG,
        base__seed=1,
    )


@dataclass(frozen=True)
class Row:
    """Nodes to be tried.

    Args:
        name: of the node or nodes.
        graph: made from the plain one; its `frames` has the images that are judged.
        frames, width, height: that have to come out.
        judged: which of the images are the scene's; all if None.
        refused: the node's message, where it cannot work.
        saves: the graph that writes a file first; it is put into the input folder as `matrix` and its own ending.
        note: for people.
    """

    name: str
    graph: Callable[[Graph], Graph]
    frames: int = FRAMES
    width: int = WIDTH
    height: int = HEIGHT
    judged: range | None = None
    refused: str = ""
    saves: Callable[[Graph], Graph] | None = None
    note: str = ""


@dataclass(frozen=True)
class Outcome:
    """What came of a row. `kept` is "motion and image", one of them, or "neither"."""

    runs: bool
    shape: bool = False
    kept: str = ""


class Judge:
    """Says whether a clip shows the scene that was asked for."""

    @cached_property
    def case(self) -> Case:
        return held_out_case(SCENE, WIDTH, HEIGHT, FRAMES, fps=FPS)

    def kept(self, frames: Tensor) -> str:
        """Of frames [F, H, W, 3] of the whole clip, or of a part of it, however fast: whether the shape goes where the
        prompt says, and whether the first frame is the given picture."""
        small = torch.nn.functional.interpolate(frames.float().cpu().movedim(-1, 1), (HEIGHT, WIDTH), mode="area")
        small = small.movedim(1, -1)
        moves = self.case.obeyed(self.case.tracker(small))
        image = psnr(small[0], self.case.truth.frames[0]) >= IMAGE
        return {(True, True): "motion and image", (True, False): "motion", (False, True): "image"}.get(
            (moves, image), "neither"
        )


def run(host: Host, row: Row, judge: Judge) -> Outcome:
    """Runs a row on a host that `prepare` has been called for. Raises AssertionError for an error that is not the row's."""
    if row.saves is not None:
        _save(host, _known(host, row.saves(plain())))
    result = host.run(_known(host, row.graph(plain())), {"frames": ("frames", 0)}, reuse_cache=True)
    if row.refused:
        assert result.error is not None and row.refused in result.error, result.error
        return Outcome(False)
    assert result.error is None, f"{row.name}: {result.error_node}: {result.error}"
    frames = result.kept["frames"]
    assert frames.isfinite().all(), row.name
    clip = frames if row.judged is None else frames[list(row.judged)]
    return Outcome(True, tuple(frames.shape) == (row.frames, row.height, row.width, 3), judge.kept(clip))


def _known(host: Host, graph: Graph) -> Graph:
    """The graph without the inputs that this host's nodes do not have yet."""

    def offered(class_type: str) -> set[str]:
        types = host.nodes[class_type].INPUT_TYPES()
        return {name for group in ("required", "optional") for name in types.get(group, {})}

    return {
        name: {
            **each,
            "inputs": {key: value for key, value in each["inputs"].items() if key in offered(each["class_type"])},
        }
        for name, each in graph.items()
    }


def prepare(host: Host) -> None:
    """Puts the files that rows read into the host's folders, and what a graph cannot do otherwise among its nodes."""
    models = host.base_directory / "models"
    for name in ("loras", "upscale_models", "frame_interpolation"):
        (models / name).mkdir(parents=True, exist_ok=True)
    _write_lora(models / "loras" / "matrix.safetensors")
    _write_esrgan(models / "upscale_models" / "matrix.safetensors")
    _write_rife(models / "frame_interpolation" / "matrix.safetensors")
    host.nodes["ControlForTest"] = _Control


# ---- rows


def _model(name: str, **inputs: Any) -> Callable[[Graph], Graph]:
    """A node between the loader and the sampler."""
    return lambda graph: changed(graph | {"patch": node(name, model=MODEL, **inputs)}, base__model=["patch", 0])


def _positive(name: str, **inputs: Any) -> Callable[[Graph], Graph]:
    """A node between Global Encode's positive and the sampler."""
    return lambda graph: changed(graph | {"cond": node(name, **inputs)}, base__positive=["cond", 0])


def _after(name: str, **inputs: Any) -> Callable[[Graph], Graph]:
    """A node that the images go through."""
    return lambda graph: {**graph, "clip": graph["frames"], "frames": node(name, **inputs)}


def _ours(graph: Graph) -> Graph:
    inputs = {"model": MODEL, "positive": POSITIVE, "negative": NEGATIVE, "latent": LATENT}
    return graph | {"base": node("I2VGenXLBaseSampler", **inputs, seed=1, steps=STEPS, cfg=CFG, eta=0.0)}


def _custom(guider: dict[str, Any]) -> Callable[[Graph], Graph]:
    return lambda graph: (
        graph
        | {
            "noise": node("RandomNoise", noise_seed=1),
            "guider": guider,
            "sigmas": node("BasicScheduler", model=MODEL, scheduler="ddim_uniform", steps=STEPS, denoise=1.0),
            "solver": node("KSamplerSelect", sampler_name="ddim"),
            "base": node(
                "SamplerCustomAdvanced",
                noise=["noise", 0],
                guider=["guider", 0],
                sampler=["solver", 0],
                sigmas=["sigmas", 0],
                latent_image=LATENT,
            ),
        }
    )


def _halves(graph: Graph) -> Graph:
    """The prompt from the start to the middle of the run and from there to the end."""
    for name, start, end in (("early", 0.0, 0.5), ("late", 0.5, 1.0)):
        graph = graph | {name: node("ConditioningSetTimestepRange", conditioning=POSITIVE, start=start, end=end)}
    return _positive("ConditioningCombine", conditioning_1=["early", 0], conditioning_2=["late", 0])(graph)


def _masked(graph: Graph) -> Graph:
    graph = graph | {
        "mask": node("SolidMask", value=1.0, width=WIDTH, height=HEIGHT),
        "part": node(
            "ConditioningSetMask", conditioning=POSITIVE, mask=["mask", 0], strength=1.0, set_cond_area="default"
        ),
    }
    return _positive("ConditioningCombine", conditioning_1=["part", 0], conditioning_2=POSITIVE)(graph)


def _area(graph: Graph) -> Graph:
    area = {"width": WIDTH // 2, "height": HEIGHT, "x": 0, "y": 0, "strength": 1.0}
    graph = graph | {"part": node("ConditioningSetArea", conditioning=POSITIVE, **area)}
    return _positive("ConditioningCombine", conditioning_1=["part", 0], conditioning_2=POSITIVE)(graph)


def _larger_latent(graph: Graph) -> Graph:
    larger = node("LatentUpscale", samples=LATENT, upscale_method="bilinear", width=160, height=80, crop="disabled")
    return changed(graph | {"larger": larger}, base__latent_image=["larger", 0])


def _latent(name: str, **inputs: Any) -> Callable[[Graph], Graph]:
    """A node that the latent goes through before it is decoded."""
    made = node(name, samples=["base", 0], **inputs)
    return lambda graph: changed(graph | {"latent": made}, frames__samples=["latent", 0])


def _upscaled(graph: Graph) -> Graph:
    loader = node("UpscaleModelLoader", model_name="matrix.safetensors")
    upscale = _after("ImageUpscaleWithModel", upscale_model=["upscaler", 0], image=["clip", 0])
    return upscale(graph) | {"upscaler": loader}


def _interpolated(graph: Graph) -> Graph:
    loader = node("FrameInterpolationModelLoader", model_name="matrix.safetensors")
    interpolate = _after("FrameInterpolate", interp_model=["interpolator", 0], images=["clip", 0], multiplier=2)
    return interpolate(graph) | {"interpolator": loader}


def _refined(graph: Graph) -> Graph:
    """The second stage by the stock KSampler."""
    size = {"width": 288, "height": 144, "upscale_method": "bilinear", "crop": "disabled"}
    inputs = {"model": ["refiner", 0], "positive": ["brief", 0], "negative": ["nothing", 0], "latent_image": ["up", 0]}
    settings = {"seed": 1, "steps": 4, "cfg": 1.0, "sampler_name": "dpmpp_2m", "scheduler": "normal", "denoise": 0.3}
    return _after("VAEDecode", samples=["second", 0], vae=VAE)(graph) | {
        "size": node("ImageScale", image=["clip", 0], **size),
        "up": node("VAEEncode", pixels=["size", 0], vae=VAE),
        "refiner": node("I2VGenXLRefinerLoader", model_name=builtin.NAME, variant="auto", weight_dtype="default"),
        "brief": node("CLIPTextEncode", clip=["loader", 2], text="a shape"),
        "nothing": node("CLIPTextEncode", clip=["loader", 2], text=""),
        "second": node("KSampler", **inputs, **settings),
    }


def _windows(length: int, overlap: int) -> Callable[[Graph], Graph]:
    return _model(
        "ContextWindowsManual",
        context_length=length,
        context_overlap=overlap,
        context_schedule="standard_static",
        context_stride=1,
        closed_loop=False,
        fuse_method="pyramid",
        dim=0,
        freenoise=False,
        cond_retain_index_list="",
        split_conds_to_windows=False,
        latent_retain_index_list="",
        causal_window_fix=False,
    )


def _controlled(graph: Graph) -> Graph:
    return _positive("ControlForTest", conditioning=POSITIVE)(graph)


def _saved_video(graph: Graph) -> Graph:
    return graph | {
        "video": node("CreateVideo", images=["frames", 0], fps=float(FPS)),
        "save": node("SaveVideo", video=["video", 0], filename_prefix="matrix", format="mp4", codec="h264"),
    }


def _loaded_video(graph: Graph) -> Graph:
    return {
        "video": node("LoadVideo", file="matrix.mp4"),
        "frames": node("GetVideoComponents", video=["video", 0]),
    }


def _saved_latent(graph: Graph) -> Graph:
    return graph | {"save": node("SaveLatent", samples=["base", 0], filename_prefix="matrix")}


def _loaded_latent(graph: Graph) -> Graph:
    return graph | {
        "base": node("LoadLatent", latent="matrix.latent"),
    }


def _save(host: Host, graph: Graph) -> None:
    """Runs a graph and takes its file for the input of the next."""
    result = host.run(graph, reuse_cache=True)
    assert result.error is None, result.error
    (files,) = (value for value in result.outputs["save"].values() if isinstance(value[0], dict))
    source = host.base_directory / "output" / files[0]["subfolder"] / files[0]["filename"]
    shutil.copyfile(source, host.base_directory / "input" / f"matrix{source.suffix}")


# ---- files and nodes that rows need


def _write_lora(file: Path) -> None:
    """Small matrices of rank 1 for every layer of the built-in base."""
    generator, tensors = torch.Generator().manual_seed(0), {}
    for key, weight in open_unet(builtin.FOLDER / "unet").network.items():
        if weight.ndim >= 2:
            name = "diffusion_model." + key.removesuffix(".weight")
            tensors[f"{name}.lora_B.weight"] = torch.randn(
                len(weight), 1, *[1] * (weight.ndim - 2), generator=generator
            )
            tensors[f"{name}.lora_A.weight"] = 1e-3 * torch.randn(1, *weight.shape[1:], generator=generator)
    save_file(tensors, file)


def _write_esrgan(file: Path) -> None:
    """ESRGAN's layers, of factor 2 with one residual block, made so that they enlarge by the nearest pixel."""
    shapes = {"conv_first": (8, 3), "trunk_conv": (8, 8), "upconv1": (8, 8), "HRconv": (8, 8), "conv_last": (3, 8)}
    for block in range(1, 4):
        for number, (inputs, outputs) in enumerate([(8, 32), (40, 32), (72, 32), (104, 32), (136, 8)], start=1):
            shapes[f"RRDB_trunk.0.RDB{block}.conv{number}"] = (outputs, inputs)
    tensors = {}
    for name, (outputs, inputs) in shapes.items():
        weight = torch.zeros(outputs, inputs, 3, 3)
        if name in ("conv_first", "upconv1", "HRconv", "conv_last"):
            weight[: min(outputs, inputs), : min(outputs, inputs), 1, 1] = torch.eye(min(outputs, inputs))
        tensors |= {f"{name}.weight": weight, f"{name}.bias": torch.zeros(outputs)}
    save_file(tensors, file)


def _write_rife(file: Path) -> None:
    """RIFE's layers at a small size, with torch's first weights."""
    from comfy_extras.frame_interpolation_models.ifnet import IFNet

    network = IFNet(head_ch=4, channels=[8] * 5)
    generator = torch.Generator().manual_seed(0)
    save_file(
        {key: torch.randn(value.shape, generator=generator) * 0.01 for key, value in network.state_dict().items()}, file
    )


class _Control:
    """A conditioning with a ControlNet, as the host's ControlNetApply gives it; its file would be large."""

    RETURN_TYPES = ("CONDITIONING",)
    FUNCTION = "apply"
    CATEGORY = "tests"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"conditioning": ("CONDITIONING",)}}

    def apply(self, conditioning: Any) -> tuple[Any]:
        from comfy.controlnet import ControlBase

        class Nothing(ControlBase):
            def get_control(self, *args: Any) -> dict[str, Any]:
                return {"input": [], "middle": [], "output": []}

            def copy(self) -> Nothing:
                return self

        return ([[text, {**values, "control": Nothing()}] for text, values in conditioning],)


_GUIDED = {"model": MODEL, "negative": NEGATIVE}
_AREA_NOTE = "The prompt in a part of the picture, the whole behind it."

ROWS: tuple[Row, ...] = (
    Row("KSampler", lambda graph: graph, note="`ddim`, `ddim_uniform`; the others are below."),
    Row("I2VGenXLBaseSampler", _ours, note="Ours, to compare with."),
    Row("KSampler on the refiner", _refined, width=288, height=144, note="Denoise 0.3."),
    Row("SamplerCustomAdvanced, CFGGuider", _custom(node("CFGGuider", positive=POSITIVE, cfg=CFG, **_GUIDED))),
    Row(
        "DualCFGGuider",
        _custom(
            node(
                "DualCFGGuider",
                cond1=POSITIVE,
                cond2=POSITIVE,
                cfg_conds=CFG,
                cfg_cond2_negative=CFG,
                style="regular",
                **_GUIDED,
            )
        ),
    ),
    Row("RescaleCFG", _model("RescaleCFG", multiplier=0.7)),
    Row(
        "VideoLinearCFGGuidance", _model("VideoLinearCFGGuidance", min_cfg=1.0), note="Guidance rises over the frames."
    ),
    Row(
        "FreeU_V2",
        _model("FreeU_V2", b1=1.3, b2=1.4, s1=0.9, s2=0.2),
        note="Nothing changes here: it looks for widths of 2 and 4 times the first, which the built-in has not and the "
        "releases have.",
    ),
    Row("PerturbedAttentionGuidance", _model("PerturbedAttentionGuidance", scale=1.0)),
    Row("SelfAttentionGuidance", _model("SelfAttentionGuidance", scale=0.5, blur_sigma=2.0)),
    Row("HyperTile", _model("HyperTile", tile_size=64, swap_size=2, max_depth=0, scale_depth=False)),
    Row("TomePatchModel", _model("TomePatchModel", ratio=0.3)),
    Row(
        "EasyCache",
        _model("EasyCache", reuse_threshold=0.2, start_percent=0.15, end_percent=0.95, verbose=False),
    ),
    Row("ModelSamplingDiscrete", _model("ModelSamplingDiscrete", sampling="v_prediction", zsnr=True)),
    Row(
        "LoraLoaderModelOnly",
        _model("LoraLoaderModelOnly", lora_name="matrix.safetensors", strength_model=1.0),
        note="A file with matrices for every layer.",
    ),
    Row("ContextWindowsManual", _windows(4, 2), note="Windows of 4 frames, 2 of them shared."),
    Row("ConditioningSetTimestepRange", _halves, note="Two prompts, one after the other; here the same."),
    Row("ConditioningCombine", _positive("ConditioningCombine", conditioning_1=POSITIVE, conditioning_2=POSITIVE)),
    Row(
        "ConditioningAverage",
        _positive(
            "ConditioningAverage", conditioning_to=POSITIVE, conditioning_from=NEGATIVE, conditioning_to_strength=0.8
        ),
        note="Mixes the texts; picture and frame rate are those of `conditioning_to`.",
    ),
    Row("ConditioningSetArea", _area, note=_AREA_NOTE),
    Row("ConditioningSetMask", _masked, note=_AREA_NOTE),
    Row(
        "ControlNetApply",
        _controlled,
        refused="no ControlNet",
        note="None was trained for these networks: the sampler says so.",
    ),
    Row("LatentUpscale before the sampler", _larger_latent, width=160, height=80),
    Row(
        "LatentUpscale",
        _latent("LatentUpscale", upscale_method="bislerp", width=160, height=80, crop="disabled"),
        width=160,
        height=80,
    ),
    Row("LatentFromBatch", _latent("LatentFromBatch", batch_index=0, length=5), frames=5, note="The first 5 frames."),
    Row(
        "RepeatLatentBatch",
        _latent("RepeatLatentBatch", amount=2),
        frames=2 * FRAMES,
        judged=range(FRAMES),
        note="The clip twice, one after the other.",
    ),
    Row(
        "RepeatLatentBatch before the sampler",
        lambda graph: changed(
            graph | {"two": node("RepeatLatentBatch", samples=LATENT, amount=2)}, base__latent_image=["two", 0]
        ),
        refused="A latent's batch is the frames of one video",
        note="The batch is the frames of one video; the sampler says so.",
    ),
    Row(
        "VAEDecodeTiled",
        lambda graph: (
            graph
            | {
                "frames": node(
                    "VAEDecodeTiled",
                    samples=["base", 0],
                    vae=VAE,
                    tile_size=64,
                    overlap=32,
                    temporal_size=64,
                    temporal_overlap=8,
                )
            }
        ),
    ),
    Row(
        "ImageUpscaleWithModel",
        _upscaled,
        width=2 * WIDTH,
        height=2 * HEIGHT,
        note="A made-up network, ESRGAN's layers.",
    ),
    Row(
        "FrameInterpolate",
        _interpolated,
        frames=2 * FRAMES - 1,
        judged=range(0, 2 * FRAMES, 2),
        note="A made-up network, RIFE's layers; judged by the frames between which it makes its own.",
    ),
    Row("CreateVideo, SaveVideo, LoadVideo", _loaded_video, saves=_saved_video),
    Row("SaveLatent, LoadLatent", _loaded_latent, saves=_saved_latent),
)

SLOW: tuple[Row, ...] = (
    Row(
        "TorchCompileModel",
        _model("TorchCompileModel", backend="inductor"),
        note="`inductor`, on the CPU: the first step compiles, which takes minutes.",
    ),
)
"""What the tests leave to the command above."""


# ---- samplers and schedulers


MEANT = (
    "euler",
    "heun",
    "dpmpp_2m",
    "dpmpp_2m_sde",
    "dpmpp_3m_sde",
    "ddpm",
    "res_multistep",
    "er_sde",
    "ddim",
    "uni_pc",
)
"""Samplers that get steps enough to show the scene; the rest are run for FEW steps."""


@dataclass(frozen=True)
class Names:
    """The host's names of samplers and schedulers."""

    samplers: tuple[str, ...]
    schedulers: tuple[str, ...]

    @classmethod
    def of(cls, host: Host) -> Names:
        required = host.nodes["KSampler"].INPUT_TYPES()["required"]
        return cls(tuple(required["sampler_name"][0]), tuple(required["scheduler"][0]))

    def rows(self) -> tuple[Row, ...]:
        """Each sampler with one scheduler, and each scheduler with one sampler."""
        samplers = [(name, "ddim_uniform" if name == "ddim" else "normal") for name in self.samplers]
        pairs = dict.fromkeys([*samplers, *(("euler", name) for name in self.schedulers)])
        return tuple(_sampler(*pair) for pair in pairs)


def _sampler(sampler: str, scheduler: str) -> Row:
    steps = STEPS if sampler in MEANT else FEW
    settings = {"base__sampler_name": sampler, "base__scheduler": scheduler, "base__steps": steps}
    return Row(f"{sampler}, {scheduler}", lambda graph: changed(graph, **settings), note=f"{steps} steps")


# ---- the tables


def table(rows: tuple[Row, ...], outcomes: list[Outcome]) -> str:
    """As Markdown."""
    lines = ["| Nodes | Runs | Right shape | Kept | Note |", "|---|---|---|---|---|"]
    for row, outcome in zip(rows, outcomes, strict=True):
        shape = ("yes" if outcome.shape else "NO") if outcome.runs else ""
        cells = (row.name, "yes" if outcome.runs else "no, and says why", shape, outcome.kept, row.note)
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def sampler_table(rows: tuple[Row, ...], outcomes: list[Outcome]) -> str:
    """As Markdown: one line for all names with the same outcome."""
    found: dict[tuple[str, str, str], list[str]] = {}
    for row, outcome in zip(rows, outcomes, strict=True):
        kept = outcome.kept if row.note == f"{STEPS} steps" else "not judged"
        found.setdefault((row.note, "yes" if outcome.shape else "NO", kept), []).append(f"`{row.name}`")
    lines = ["| Sampler, scheduler | Steps | Right shape | Kept |", "|---|---|---|---|"]
    for (steps, shape, kept), names in found.items():
        lines.append(f"| {'; '.join(names)} | {steps.removesuffix(' steps')} | {shape} | {kept} |")
    return "\n".join(lines) + "\n"


MARKS = {
    "nodes": (
        "<!-- table of nodes: python -m tests.host.matrix docs/compatibility.md -->\n",
        "<!-- end of nodes -->\n",
    ),
    "slow": (
        "<!-- table of slow nodes: python -m tests.host.matrix docs/compatibility.md -->\n",
        "<!-- end of slow nodes -->\n",
    ),
    "samplers": (
        "<!-- table of samplers: python -m tests.host.matrix docs/compatibility.md -->\n",
        "<!-- end of samplers -->\n",
    ),
}


def written(document: str, name: str) -> str:
    """The table of this name that a document has."""
    begin, end = MARKS[name]
    return document.partition(begin)[2].partition(end)[0]


def main() -> None:
    document = Path(sys.argv[1])
    text = document.read_text(encoding="utf-8")
    with TemporaryDirectory() as place:
        folder = Path(place)
        for name in ("input", "output"):
            (folder / name).mkdir()
        host, judge = Host(HOST, PACK, folder), Judge()
        prepare(host)
        names = Names.of(host).rows()
        made = {
            "nodes": table(ROWS, [run(host, row, judge) for row in ROWS]),
            "slow": table(SLOW, [run(host, row, judge) for row in SLOW]),
            "samplers": sampler_table(names, [run(host, row, judge) for row in names]),
        }
    for name, content in made.items():
        text = text.replace(MARKS[name][0] + written(text, name), MARKS[name][0] + content)
    document.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
