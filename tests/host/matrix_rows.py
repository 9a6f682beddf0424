"""What is tried for docs/compatibility.md: the test clip, and the host's nodes in it, row by row."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from i2vgen_core import assets

from . import graphs
from .graphs import Graph, changed, node
from .in_process import Host

SCENE, WIDTH, HEIGHT, FRAMES, FPS = 6, 128, 64, 8, 8  # a yellow ring that slides left swiftly
STEPS, FEW, CFG = 6, 3, 2.5
MODEL, POSITIVE, NEGATIVE, LATENT = ["loader", 0], ["global_encode", 0], ["global_encode", 1], ["global_encode", 2]
VAE = ["loader", 4]


def plain() -> Graph:
    """The test clip: the built-in base with the stock KSampler and VAE Decode."""
    graph = graphs.stock_latent(assets.NAME) | {
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


def _in_two_parts(graph: Graph) -> Graph:
    """The first steps and the last by two samplers, the noise that is left handed on."""
    inputs = {"model": MODEL, "positive": POSITIVE, "negative": NEGATIVE, "noise_seed": 1, "steps": STEPS, "cfg": CFG}
    inputs |= {"sampler_name": "ddim", "scheduler": "ddim_uniform"}
    first = {"add_noise": "enable", "start_at_step": 0, "end_at_step": 2, "return_with_leftover_noise": "enable"}
    last = {"add_noise": "disable", "start_at_step": 2, "end_at_step": STEPS, "return_with_leftover_noise": "disable"}
    return graph | {
        "first": node("KSamplerAdvanced", latent_image=LATENT, **inputs, **first),
        "base": node("KSamplerAdvanced", latent_image=["first", 0], **inputs, **last),
    }


def _differential(graph: Graph) -> Graph:
    graph = _model("DifferentialDiffusion", strength=1.0)(graph) | {
        "fitted": node(
            "ImageScale", image=["photo", 0], upscale_method="area", width=WIDTH, height=HEIGHT, crop="center"
        ),
        "still": node("VAEEncode", pixels=["fitted", 0], vae=VAE),
        "stills": node("RepeatLatentBatch", samples=["still", 0], amount=FRAMES),
        "mask": node("SolidMask", value=0.95, width=WIDTH, height=HEIGHT),
        "held": node("SetLatentNoiseMask", samples=["stills", 0], mask=["mask", 0]),
    }
    return changed(graph, base__latent_image=["held", 0])


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
        "refiner": node("I2VGenXLRefinerLoader", model_name=assets.NAME, variant="auto", weight_dtype="default"),
        "brief": node("CLIPTextEncode", clip=["loader", 2], text="a shape"),
        "nothing": node("CLIPTextEncode", clip=["loader", 2], text=""),
        "second": node("KSampler", **inputs, **settings),
    }


def context_windows(length: int, overlap: int) -> Callable[[Graph], Graph]:
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


_GUIDED = {"model": MODEL, "negative": NEGATIVE}
_THRESHOLD = 15.0
_APG_NOTE = "`norm_threshold` is of a whole frame's latent: the size has to do with it."
_AREA_NOTE = "The prompt in a part of the picture, the whole behind it."

ROWS: tuple[Row, ...] = (
    Row("KSampler", lambda graph: graph, note="`ddim`, `ddim_uniform`; the others are below."),
    Row("I2VGenXLBaseSampler", _ours, note="Ours, to compare with."),
    Row("KSampler on the refiner", _refined, width=288, height=144, note="Denoise 0.3."),
    Row(
        "KSamplerAdvanced",
        _in_two_parts,
        note="Two, one after the other; the noise that is left goes from one to the other.",
    ),
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
    Row(
        "NAGuidance",
        _model("NAGuidance", nag_scale=1.5, nag_alpha=0.25, nag_tau=1.5),
        note="`nag_scale` 1.5 here: it is of each layer, and adds to the sampler's own guidance.",
    ),
    Row("SelfAttentionGuidance", _model("SelfAttentionGuidance", scale=0.5, blur_sigma=2.0)),
    Row("HyperTile", _model("HyperTile", tile_size=64, swap_size=2, max_depth=0, scale_depth=False)),
    Row("TomePatchModel", _model("TomePatchModel", ratio=0.3)),
    Row(
        "PatchModelAddDownscale",
        _model(
            "PatchModelAddDownscale",
            block_number=3,
            downscale_factor=2.0,
            start_percent=0.0,
            end_percent=0.35,
            downscale_after_skip=True,
            downscale_method="bicubic",
            upscale_method="bicubic",
        ),
        note="Deep Shrink.",
    ),
    Row(
        "EasyCache",
        _model("EasyCache", reuse_threshold=0.2, start_percent=0.15, end_percent=0.95, verbose=False),
    ),
    Row(
        "LazyCache",
        _model("LazyCache", reuse_threshold=0.2, start_percent=0.15, end_percent=0.95, verbose=False),
    ),
    Row("CFGZeroStar", _model("CFGZeroStar")),
    Row("CFGNorm", _model("CFGNorm", strength=1.0)),
    Row("APG", _model("APG", eta=1.0, norm_threshold=_THRESHOLD, momentum=0.0), note=_APG_NOTE),
    Row("TCFG", _model("TCFG")),
    Row(
        "FreSca",
        _model("FreSca", scale_low=1.0, scale_high=1.25, freq_cutoff=2),
        note="`freq_cutoff` 2 here: the default of 20 takes all of so small a latent for low.",
    ),
    Row("Mahiro", _model("Mahiro")),
    Row("Epsilon Scaling", _model("Epsilon Scaling", scaling_factor=1.005)),
    Row("PerpNeg", _model("PerpNeg", empty_conditioning=NEGATIVE, neg_scale=1.0)),
    Row(
        "PerpNegGuider",
        _custom(
            node("PerpNegGuider", positive=POSITIVE, empty_conditioning=NEGATIVE, cfg=CFG, neg_scale=1.0, **_GUIDED)
        ),
    ),
    Row(
        "DifferentialDiffusion",
        _differential,
        note="The photo's latent for every frame, and a noise mask of 0.95: held at first, free after.",
    ),
    Row(
        "UNetTemporalAttentionMultiply",
        _model(
            "UNetTemporalAttentionMultiply",
            self_structural=1.0,
            self_temporal=1.1,
            cross_structural=1.0,
            cross_temporal=1.0,
        ),
        note="`self_temporal` is for both layers over the frames; none is `cross_temporal`.",
    ),
    Row(
        "LTXVSpatioTemporalGuidance",
        _model("LTXVSpatioTemporalGuidance", scale=0.5, blocks="6", start_percent=0.0, end_percent=1.0),
        note="STG: `blocks` are numbers of our layers over the frames, 0 to 12 in the built-in, 0 to 16 in the releases.",
    ),
    Row("ModelSamplingDiscrete", _model("ModelSamplingDiscrete", sampling="v_prediction", zsnr=True)),
    Row(
        "ModelSamplingSD3",
        _model("ModelSamplingSD3", shift=3.0),
        refused="the schedule it was trained with",
        note="As all of these blocks that make another model's schedule: the sampler says so.",
    ),
    Row(
        "LoraLoaderModelOnly",
        _model("LoraLoaderModelOnly", lora_name="matrix.safetensors", strength_model=1.0),
        note="A file with matrices for every layer.",
    ),
    Row(
        "I2VGenXLAccelerate",
        _model("I2VGenXLAccelerate", guidance_start_percent=0.0, guidance_end_percent=0.5, reuse_interval=2),
        note="Ours, before the stock KSampler.",
    ),
    Row("ContextWindowsManual", context_windows(4, 2), note="Windows of 4 frames, 2 of them shared."),
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
        "RebatchLatents before the sampler",
        lambda graph: changed(
            graph | {"apart": node("RebatchLatents", latents=LATENT, batch_size=4)}, base__latent_image=["apart", 0]
        ),
        refused="A latent's batch is the frames of one video",
        note="It cuts the video, which the sampler says; a refiner takes each part for a video of its own.",
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
