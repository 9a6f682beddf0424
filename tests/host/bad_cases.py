"""Inputs that a video cannot be made of, and some that look so: drawn by hypothesis for `bad_input`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

from i2vgen_core import assets

from . import graphs
from .graphs import Graph, changed, node

FRAMES, WIDTH, HEIGHT = 2, 64, 64
TEXT, IMAGE = 64, 64  # widths of the built-in cascade's text and image embeddings
Check = Callable[[Any], bool]


@dataclass(frozen=True)
class Case:
    """One graph to be run.

    Args:
        name: what is bad, for a report.
        graph: in API format.
        at: the node whose first output is looked at.
        right: whether that is a right result, should there be one.
        given: objects for the graph's `GiveForTest` nodes, by name.
    """

    name: str
    graph: Graph
    at: str
    right: Check
    given: dict[str, Any] = field(default_factory=dict)


def good() -> Graph:
    """Every block at sizes that take no time: changed in one place, it is a case; unchanged, it has to run."""
    graph = graphs.refined_latent(assets.NAME)
    graph |= {
        "photo": node("I2VGenXLTinyScene", seed=13),
        "frames": node("I2VGenXLVAEDecode", vae=["loader", 4], latent=["refine", 0], frames_per_batch=0),
        "size": node("I2VGenXLSize", size="tiny base 128x64"),
        "match": node("I2VGenXLColorMatch", images=["photo", 0], reference=["photo", 0], method="adain", strength=1.0),
        "compare": node("I2VGenXLCompareVideos", images_a=["photo", 0], images_b=["photo", 0], mode="split"),
        "spectrum": node("I2VGenXLSpectrum", images=["photo", 0], images_after=["photo", 0]),
        "accelerate": node(
            "I2VGenXLAccelerate",
            model=["loader", 0],
            guidance_start_percent=0.0,
            guidance_end_percent=0.5,
            reuse_interval=3,
        ),
        "inspect": node("I2VGenXLInspectConditioning", positive=["global_encode", 0], model=["loader", 0]),
        "base_loader": node(
            "I2VGenXLBaseLoader", model_name=assets.NAME, weight_dtype="default", detail_gain="official"
        ),
    }
    return changed(
        graph,
        clip_encode__width=WIDTH,
        global_encode__width=WIDTH,
        global_encode__height=HEIGHT,
        global_encode__frames=FRAMES,
        base__steps=1,
        scale__width=72,
        scale__height=64,
        refiner__model_name=assets.NAME,
        refine__steps=1,
    )


# ---------------------------------------------------------------- right results


def _picture(value: Any) -> bool:
    return (
        value.ndim == 4
        and value.shape[-1] == 3
        and bool(value.isfinite().all())
        and 0 <= value.min() <= value.max() <= 1
    )


def _latent(value: Any) -> bool:
    samples = value["samples"]
    return samples.ndim == 4 and samples.shape[1] == 4 and bool(samples.isfinite().all())


def _conditioning(value: Any) -> bool:
    return all(text.shape[1] == 77 and bool(text.isfinite().all()) for text, _ in value)


def _any(value: Any) -> bool:
    return value is not None


RIGHT: dict[str, Check] = {
    "clip_encode": _conditioning,
    "global_encode": _conditioning,
    "base": _latent,
    "refine": _latent,
    "frames": _picture,
    "match": _picture,
    "compare": _picture,
    "spectrum": _picture,
    "inspect": _picture,
    "photo": _picture,
}


def linked(name: str, at: str, values: dict[str, Any]) -> Case:
    """The good graph with inputs, named `node__input`, through wires, where the host's range checks do not look."""
    sources = {f"given {place}": node("GiveForTest", name=place) for place in values}
    graph = changed(good() | sources, **{place: [f"given {place}", 0] for place in values})
    return Case(name, graph, at, RIGHT.get(at, _any), dict(values))


def typed(name: str, at: str, values: dict[str, Any]) -> Case:
    """The good graph with inputs replaced as a user does it."""
    return Case(name, changed(good(), **values), at, RIGHT.get(at, _any))


_WAYS = st.sampled_from([linked, typed])


# ---------------------------------------------------------------- numbers and names

_INTS = [
    -(2**63),
    -(2**31),
    -8,
    -1,
    0,
    1,
    7,
    8,
    60,
    63,
    8191,
    8193,
    10_000,
    16_384,
    2**31,
    2**63,
    2**64 - 1,
    2**64,
    2**80,
]
_FLOATS = [float("nan"), float("inf"), float("-inf"), -1e30, -1.0, -1e-3, 0.0, 0.5, 1.0, 1.001, 100.0, 100.1, 1e30]

NUMBERS: dict[str, tuple[str, list[Any]]] = {
    "clip_encode__width": ("clip_encode", _INTS),
    "global_encode__width": ("global_encode", _INTS),
    "global_encode__height": ("global_encode", _INTS),
    "global_encode__frames": ("global_encode", [*_INTS, 4096, 4097]),
    "global_encode__fps": ("base", [*_INTS, 120, 121]),
    "base__seed": ("base", _INTS),
    "base__steps": ("base", [*(n for n in _INTS if not 7 < n < 1000), 1000]),
    "base__cfg": ("base", _FLOATS),
    "base__eta": ("base", _FLOATS),
    "refine__seed": ("refine", _INTS),
    "refine__steps": ("refine", [*(n for n in _INTS if not 7 < n < 1000), 1000]),
    "refine__cfg": ("refine", _FLOATS),
    "refine__rescale": ("refine", _FLOATS),
    "refine__noise_level": ("refine", [*_INTS, 999, 1000]),
    "refine__eta": ("refine", _FLOATS),
    "frames__frames_per_batch": ("frames", [*_INTS, 4096, 4097]),
    "photo__seed": ("photo", _INTS),
    "match__strength": ("match", _FLOATS),
    "accelerate__guidance_start_percent": ("accelerate", _FLOATS),
    "accelerate__guidance_end_percent": ("accelerate", _FLOATS),
    "accelerate__reuse_interval": ("accelerate", _INTS),
}
"""By input: the node that is to run, and the numbers."""

CHOICES = {
    "size__size": "size",
    "base__solver": "base",
    "refine__solver": "refine",
    "refine__entry": "refine",
    "match__method": "match",
    "compare__mode": "compare",
    "loader__bundle": "loader",
    "loader__weight_dtype": "loader",
    "base_loader__model_name": "base_loader",
    "refiner__model_name": "refiner",
}
_NAMES = [
    "../../etc/passwd",
    "/etc/passwd",
    "..",
    ".",
    "",
    "~",
    "tiny (built in)/../..",
    "tiny (built in)/refiner",
    "C:\\Windows\\win.ini",
    "\\\\server\\share",
    "a\0b",
    "%2e%2e%2f",
    "file:///etc/passwd",
    "x" * 5000,
    "refiner",
    "nan",
]


@st.composite
def numbers(draw: st.DrawFn) -> Case:
    place = draw(st.sampled_from(sorted(NUMBERS)))
    at, values = NUMBERS[place]
    value = draw(st.sampled_from(values))
    return draw(_WAYS)(f"{place} {value}", at, {place: value})


@st.composite
def sizes(draw: st.DrawFn) -> Case:
    """Both sides, of which none is a video's that a test could wait for."""
    sides = st.sampled_from([0, 1, 7, 63, 100, 8191, 8192, 16_384, 16_392, 2**31])
    width, height = draw(sides), draw(sides)
    frames = draw(st.sampled_from([1, 16, 4096, 10_000]))
    values = {"global_encode__width": width, "global_encode__height": height, "global_encode__frames": frames}
    return draw(_WAYS)(f"size {frames} x {width}x{height}", "global_encode", values)


@st.composite
def names(draw: st.DrawFn) -> Case:
    place = draw(st.sampled_from(sorted(CHOICES)))
    name = draw(st.sampled_from(_NAMES) | st.text(max_size=20))
    return draw(_WAYS)(f"{place} {name[:40]!r}", CHOICES[place], {place: name})


# ---------------------------------------------------------------- pictures

_DTYPES = [torch.float32] * 4 + [torch.float16, torch.float64, torch.bfloat16]
_OTHER_DTYPES = [torch.uint8, torch.int16, torch.uint16, torch.int64, torch.bool, torch.complex64, torch.float8_e4m3fn]
_BAD_VALUES = [float("nan"), float("inf"), float("-inf"), 255.0, 65535.0, -3.0, 1e30, 1.2, -0.2]

IMAGES = {
    "clip_encode__image": "clip_encode",
    "global_encode__image": "global_encode",
    "match__images": "match",
    "match__reference": "match",
    "compare__images_a": "compare",
    "compare__images_b": "compare",
    "spectrum__images": "spectrum",
    "spectrum__images_after": "spectrum",
}


@st.composite
def images(draw: st.DrawFn) -> Case:
    place = draw(st.sampled_from(sorted(IMAGES)))
    picture = draw(st.sampled_from([_shape, _values, _no_image]))
    name, image = draw(picture())
    return linked(f"{place} {name}", IMAGES[place], {place: image})


@st.composite
def _shape(draw: st.DrawFn) -> tuple[str, Any]:
    side = st.sampled_from([0, 1, 2, 7, 8, 9, 33, 64, 300])
    count = draw(st.sampled_from([0, 1, 1, 2, 9]))
    shape = [count, draw(side), draw(side), draw(st.sampled_from([3, 3, 3, 3, 4, 1, 2, 0, 5]))]
    if draw(st.integers(0, 4)) == 0:
        shape = draw(st.sampled_from([shape[1:], shape[2:], [1, *shape], [], [3]]))
    dtype = draw(st.sampled_from(_DTYPES))
    return f"{shape} {dtype}", _pixels(shape, draw(st.integers(0, 9))).to(dtype)


@st.composite
def _values(draw: st.DrawFn) -> tuple[str, Any]:
    if draw(st.integers(0, 2)) == 0:
        dtype = draw(st.sampled_from(_OTHER_DTYPES))
        most = 65535 if dtype == torch.uint16 else 1 if dtype == torch.bool else 100
        return str(dtype), (_pixels([1, 16, 24, 3], 0) * most).to(dtype)
    value = draw(st.sampled_from(_BAD_VALUES))
    image = _pixels([draw(st.sampled_from([1, 9])), 16, 24, 3], draw(st.integers(0, 9)))
    everywhere = draw(st.booleans())
    image[... if everywhere else (-1, 3, 5, 1)] = value
    return f"{'all' if everywhere else 'one'} {value}", image


@st.composite
def _no_image(draw: st.DrawFn) -> tuple[str, Any]:
    image = draw(
        st.sampled_from(
            [None, [], "photo.png", 0, {"samples": torch.zeros(1, 4, 8, 8)}, [torch.zeros(1, 8, 8, 3)], b"", object()]
        )
    )
    return f"{type(image).__name__} for an image", image


def _pixels(shape: list[int], seed: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


# ---------------------------------------------------------------- prompts

_ALL = st.characters(codec=None, categories=None)  # lone surrogates too
_LONG = 100_000
_PARTS = [
    "(", ")", "((", "\\(", "(a:1e999)", "(a:nan)", "(a:-5)", "(a:", "embedding:../../x ", "embedding:", "<|endoftext|>",
    "&amp;lt;", "{a|b}", "\0", "\ud800", "\udfff", "\u202e", "\u200d", "👩‍👩‍👧", "a\u0301", "猫", "\n", "word ", "!", "1" * 50,
]  # fmt: skip


@st.composite
def prompts(draw: st.DrawFn) -> Case:
    some = st.text(_ALL, max_size=60) | st.lists(st.sampled_from(_PARTS), max_size=8).map("".join)
    text = draw(some)
    if draw(st.integers(0, 3)) == 0:
        text = text or draw(st.sampled_from(["", "a", " ", "(", "word "]))
        text = (text * (_LONG // max(len(text), 1) + 1))[:_LONG]
    place = draw(st.sampled_from(["clip_encode__prompt", "clip_encode__negative_prompt"]))
    at = draw(st.sampled_from(["clip_encode", "clip_encode", "base"]))
    return draw(_WAYS)(f"{place} of {len(text)}: {text[:20]!r}", at, {place: text})


# ---------------------------------------------------------------- conditionings, latents, masks, models


def _tokens(*shape: int) -> Tensor:
    return torch.zeros(shape)


_TEXTS: dict[str, Callable[[], Any]] = {
    "SD1": lambda: _tokens(1, 77, 768),
    "SDXL": lambda: _tokens(1, 77, 2048),
    "T5": lambda: _tokens(1, 512, 4096),
    "no tensor": lambda: None,
    "two prompts": lambda: _tokens(2, 77, TEXT),
    "no tokens": lambda: _tokens(1, 0, TEXT),
    "a vector": lambda: _tokens(1, TEXT),
    "a scalar": lambda: torch.tensor(1.0),
    "more tokens": lambda: _tokens(1, 154, TEXT),
    "fewer tokens": lambda: _tokens(1, 5, TEXT),
    "NaN": lambda: _tokens(1, 77, TEXT) / 0,
    "Inf": lambda: _tokens(1, 77, TEXT) + float("inf"),
    "fp16": lambda: _tokens(1, 77, TEXT).half(),
}
_EXTRAS: dict[str, Callable[[], dict[str, Any]]] = {
    "": dict,
    "a mask": lambda: {"mask": torch.ones(1, 8, 8), "set_area_to_bounds": False, "mask_strength": 1.0},
    "an area": lambda: {"area": (4, 4, 0, 0), "strength": 1.0, "set_area_to_bounds": False},
    "no time": lambda: {"start_percent": 1.0, "end_percent": 0.0},
    "SVD's": lambda: {"concat_latent_image": torch.zeros(1, 4, 8, 8), "fps": 6, "pooled_output": torch.zeros(1, 1280)},
    "narrow image": lambda: _unclip(torch.zeros(1, 7)),
    "image NaN": lambda: _unclip(torch.full((1, IMAGE), float("nan"))),
    "image of two axes more": lambda: _unclip(torch.zeros(1, 2, IMAGE)),
}


def _unclip(embedding: Tensor) -> dict[str, Any]:
    seen = SimpleNamespace(image_embeds=embedding)
    return {"unclip_conditioning": [{"clip_vision_output": seen, "strength": 1.0, "noise_augmentation": 0.0}]}


CONDITIONINGS = {
    "global_encode__positive": "base",
    "global_encode__negative": "base",
    "base__positive": "base",
    "base__negative": "base",
    "refine__positive": "refine",
    "refine__negative": "refine",
    "inspect__positive": "inspect",
}


@st.composite
def conditionings(draw: st.DrawFn) -> Case:
    place = draw(st.sampled_from(sorted(CONDITIONINGS)))
    text, extra = draw(st.sampled_from(sorted(_TEXTS))), draw(st.sampled_from(sorted(_EXTRAS)))
    conditioning: Any = [[_TEXTS[text](), _EXTRAS[extra]()]]
    if draw(st.integers(0, 9)) == 0:
        text, extra, conditioning = "empty", "", []
    case = linked(f"{place} {text} {extra}", CONDITIONINGS[place], {place: conditioning})
    return case if draw(st.booleans()) else Case(case.name, _without_model(case.graph), case.at, case.right, case.given)


def _without_model(graph: Graph) -> Graph:
    """The Inspect block's model is optional."""
    inputs = {name: value for name, value in graph["inspect"]["inputs"].items() if name != "model"}
    return graph | {"inspect": {**graph["inspect"], "inputs": inputs}}


LATENTS = {"base__latent": "base", "refine__latent": "refine", "frames__latent": "frames"}


@st.composite
def latents(draw: st.DrawFn) -> Case:
    place = draw(st.sampled_from(sorted(LATENTS)))
    side = st.sampled_from([0, 1, 2, 3, 8, 9])
    shape = [draw(st.sampled_from([0, 1, 2, 2, 3])), draw(st.sampled_from([4, 4, 4, 16, 1, 0])), draw(side), draw(side)]
    samples: Any = _pixels(shape, 1) - 0.5
    kind = draw(
        st.sampled_from(["", "", "NaN", "Inf", "large", "huge", "5-D", "3-D", "none", "int", "fp64", "fp16", "index"])
    )
    latent: Any = {"samples": samples}
    if kind in ("NaN", "Inf", "large"):
        samples[..., :1] = {"NaN": float("nan"), "Inf": float("inf"), "large": 1e30}[kind]
    elif kind == "huge":  # no memory behind it
        latent["samples"] = torch.zeros(1).expand(draw(st.sampled_from([16, 4096])), 4, 2048, 2048)
    elif kind in ("5-D", "3-D"):
        latent["samples"] = samples[None] if kind == "5-D" else _pixels(shape[1:], 1)
    elif kind == "none":
        latent = draw(
            st.sampled_from([{}, None, {"samples": None}, {"samples": [1]}, torch.zeros(2, 4, 8, 8), "latent"])
        )
    elif kind == "index":
        latent["batch_index"] = draw(st.sampled_from([[], [0], [0, 1], [0] * 9, [5, 5]]))
    elif kind:
        latent["samples"] = samples.to({"int": torch.int64, "fp64": torch.float64, "fp16": torch.float16}[kind])
    return linked(f"{place} {shape} {kind}", LATENTS[place], {place: latent})


@st.composite
def masks(draw: st.DrawFn) -> Case:
    shape = draw(st.sampled_from([[8, 9], [1, 8, 9], [2, 8, 9], [3, 8, 9], [1, 1, 64, 72], [2, 4, 8, 9], [1, 1, 1, 8, 9], [8], [], [0, 8, 9], [1, 300, 7], [1, 0, 4]]))  # fmt: skip
    mask: Any = _pixels(shape, draw(st.integers(0, 9)))
    kind = draw(st.sampled_from(["", "", "NaN", "Inf", "negative", "above 1", "bool", "int", "fp16", "text"]))
    if kind in ("NaN", "Inf", "negative", "above 1"):
        mask = mask + {"NaN": float("nan"), "Inf": float("inf"), "negative": -7, "above 1": 7}[kind]
    elif kind == "text":
        mask = "mask"
    elif kind:
        mask = mask.to({"bool": torch.bool, "int": torch.int64, "fp16": torch.float16}[kind])
    at = draw(st.sampled_from(["refine", "refine", "base"]))
    size = (8, 9) if at == "refine" else (HEIGHT // 8, WIDTH // 8)
    latent = {"samples": _pixels([FRAMES, 4, *size], 2) - 0.5, "noise_mask": mask}
    return linked(f"{at} mask {shape} {kind}", at, {f"{at}__latent": latent})


PARTS = {
    "clip_encode__clip": "clip_encode",
    "clip_encode__clip_vision": "clip_encode",
    "global_encode__vae": "global_encode",
    "global_encode__global_encoder": "global_encode",
    "frames__vae": "frames",
    "base__model": "base",
    "refine__model": "refine",
    "inspect__model": "inspect",
    "accelerate__model": "accelerate",
}
_SWAPPED = {
    "base__model": ["refiner", 0],
    "refine__model": ["loader", 0],
    "inspect__model": ["refiner", 0],
}


@st.composite
def parts(draw: st.DrawFn) -> Case:
    """A loader's output that is empty, or another network's."""
    place = draw(st.sampled_from(sorted(PARTS)))
    if place in _SWAPPED and draw(st.booleans()):
        return Case(f"{place} swapped", changed(good(), **{place: _SWAPPED[place]}), PARTS[place], RIGHT[PARTS[place]])
    return linked(f"{place} empty", PARTS[place], {place: None})


CASES = st.one_of(
    numbers(), numbers(), sizes(), names(), images(), images(), prompts(), prompts(), conditionings(), conditionings(),
    latents(), latents(), masks(), parts(),
)  # fmt: skip
