"""Networks beside the cascade's in the host: the latents of the core, stock samplers, windows, and a refinement after them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from i2vgen_core.cascade import Cascade
from i2vgen_core.checkpoints.download import FILES
from i2vgen_core.family import Driving, animate, compose
from i2vgen_core.media.guides import Guides, stretched
from i2vgen_core.poses.keypoints import poses_of_frames
from i2vgen_core.releases import RELEASES
from i2vgen_core.sampling.options import AnimateOptions, BaseOptions

from ..templates.family import FAMILY
from . import graphs
from .compare import relative_error
from .graphs import node

SAME = 1e-3
WIDTH, HEIGHT, FRAMES, SEED = 64, 80, 3, 7
PROMPT, NEGATIVE = "a fox runs", "blurry"


def pictures(frames: int, channels: int = 3, seed: int = 0, height: int = 48, width: int = 56) -> Tensor:
    return torch.rand(frames, height, width, channels, generator=torch.Generator().manual_seed(seed))


GUIDES = Guides(
    image=pictures(1),
    depth=pictures(FRAMES, seed=1),
    sketch=1 - pictures(FRAMES, seed=2) ** 4,
    single_sketch=pictures(1, seed=3) ** 4,
    motion=8 * pictures(FRAMES - 1, 2, seed=4) - 4,
    masked=pictures(FRAMES, seed=5),
    mask=(pictures(FRAMES, seed=6)[..., 0] > 0.5).float(),
)
MIXES = {
    "text": {},
    "depth": {"depth": "depth"},
    "all": {
        "image": "image",
        "depth": "depth",
        "sketch": "sketch",
        "single_sketch": "single_sketch",
        "motion": "motion",
        "masked_video": "masked",
        "mask": "mask",
    },
}


@pytest.fixture
def given(host):
    """given(name, value): a node's output of any type."""

    def give(name, value):
        host.given[name] = value
        return node("GiveForTest", name=name)

    return give


@pytest.fixture
def no_suffix(monkeypatch):
    """A graph's prompt is the whole text."""
    for kind in ("tft2v_composer", "videolcm_composer"):
        monkeypatch.setitem(RELEASES, kind, replace(RELEASES[kind], prompt_suffix=""))


def composed(kind, given, mix, look=None):
    """Up to the sampler's inputs: `compose`."""
    graph = {
        "loader": node("I2VGenXLCascadeLoader", bundle=f"family/{kind}", weight_dtype="default"),
        "positive": node("CLIPTextEncode", clip=["loader", 2], text=PROMPT),
        "negative": node("CLIPTextEncode", clip=["loader", 2], text=NEGATIVE),
        "compose": node(
            "I2VGenXLCompose",
            positive=["positive", 0],
            negative=["negative", 0],
            width=WIDTH,
            height=HEIGHT,
            frames=FRAMES,
        ),
    }
    for name, field in MIXES[mix].items():
        graph[f"given {name}"] = given(name, getattr(GUIDES, field))
        graph["compose"]["inputs"][name] = [f"given {name}", 0]
    if look is not None:
        graph["given look"] = given("look", look)
        graph["vision"] = node("CLIPVisionEncode", clip_vision=["loader", 3], image=["given look", 0], crop="none")
        graph["compose"]["inputs"]["clip_vision_output"] = ["vision", 0]
    return graph


def sampler(source="compose", steps=2, **inputs):
    links = {"positive": [source, 0], "negative": [source, 1], "latent": [source, 2]}
    settings = {"seed": SEED, "steps": steps, "cfg": 0.0, "eta": 0.0} | inputs
    return {"sampler": node("I2VGenXLBaseSampler", model=["loader", 0], **links, **settings)}


def stock(source="compose", **inputs):
    links = {"positive": [source, 0], "negative": [source, 1], "latent_image": [source, 2]}
    settings = {
        "seed": 1,
        "steps": 2,
        "cfg": 2.0,
        "sampler_name": "euler",
        "scheduler": "simple",
        "denoise": 1.0,
    } | inputs
    return {"sampler": node("KSampler", model=["loader", 0], **links, **settings)}


def failure(host, graph, name="sampler"):
    """What the node's block says of its inputs."""
    result = host.run(graph, {"latent": ("sampler", 0)})
    assert result.error_node == name
    return result.error


def guides_of(mix):
    fields = MIXES[mix].values()
    return Guides(**{field: getattr(GUIDES, field) for field in fields})


def options(steps=2, **more):
    return BaseOptions(width=WIDTH, height=HEIGHT, frames=FRAMES, steps=steps, seed=SEED, **more)


@pytest.mark.parametrize(("mix", "look"), [("text", False), ("depth", False), ("all", True)])
def test_a_composer_gives_the_latents_of_the_core(host, bundles, given, no_suffix, mix, look):
    cascade, seen = Cascade(bundles / "family/tft2v_composer"), pictures(1, seed=9) if look else None
    side = cascade.image_encoder.config.image_size
    # as the core has it: the host's block has another filter, which is told apart in noise
    square = stretched(stretched(seen, WIDTH, HEIGHT), side, side) if look else None
    latent = host.value(composed("tft2v_composer", given, mix, square) | sampler(), "sampler")
    ours = compose(cascade, PROMPT, guides_of(mix), options(negative=NEGATIVE), look=seen)
    assert relative_error(latent, ours) < SAME
    without = compose(cascade, PROMPT, None, options(negative=NEGATIVE))
    assert mix == "text" or relative_error(latent, without) > 0.1


def test_few_steps_give_the_latents_of_the_core(host, bundles, given, no_suffix):
    latent = host.value(composed("videolcm_composer", given, "depth") | sampler(steps=0), "sampler")
    cascade = Cascade(bundles / "family/videolcm_composer")
    ours = compose(cascade, PROMPT, guides_of("depth"), options(steps=None))
    assert relative_error(latent, ours) < SAME


@pytest.mark.parametrize(("setting", "word"), [({"cfg": 5.0}, "guidance scale"), ({"solver": "unipc"}, "solver")])
def test_what_few_steps_do_not_read_is_refused(host, given, setting, word):
    said = failure(host, composed("videolcm_composer", given, "text") | sampler(**setting))
    assert word in said and "sampler of its own" in said


def test_text_to_video_takes_stock_text_and_an_empty_latent(host, bundles):
    graph = {
        "loader": node("I2VGenXLCascadeLoader", bundle="family/text2video", weight_dtype="default"),
        "positive": node("CLIPTextEncode", clip=["loader", 2], text=PROMPT),
        "negative": node("CLIPTextEncode", clip=["loader", 2], text=NEGATIVE),
        "empty": node("EmptyLatentImage", width=WIDTH, height=HEIGHT, batch_size=FRAMES),
    }
    graph |= sampler()
    graph["sampler"]["inputs"] |= {"positive": ["positive", 0], "negative": ["negative", 0], "latent": ["empty", 0]}
    ours = compose(Cascade(bundles / "family/text2video"), PROMPT, None, options(negative=NEGATIVE))
    assert relative_error(host.value(graph, "sampler"), ours) < SAME


# ---------------------------------------------------------------- animators


def keypoints(frames, seed=0):
    """A figure that moves a little, as a detector gives it."""
    head = [(0.48, 0.18), (0.52, 0.18), (0.46, 0.19), (0.54, 0.19)]
    arms = [(0.4, 0.3), (0.36, 0.42), (0.34, 0.54), (0.6, 0.3), (0.64, 0.42), (0.66, 0.54)]
    legs = [(0.44, 0.55), (0.43, 0.72), (0.43, 0.9), (0.56, 0.55), (0.57, 0.72), (0.57, 0.9)]
    shares = torch.tensor([(0.5, 0.2), (0.5, 0.3), *arms, *legs, *head])
    found = []
    for frame in range(frames):
        moved = shares + 0.02 * frame + 0.01 * torch.rand(18, 2, generator=torch.Generator().manual_seed(seed + frame))
        flat = [value for x, y in (moved * torch.tensor([200.0, 300.0])).tolist() for value in (x, y, 1.0)]
        person = {"pose_keypoints_2d": flat, "hand_left_keypoints_2d": None, "hand_right_keypoints_2d": None}
        found.append({"canvas_width": 200, "canvas_height": 300, "people": [person]})
    return found


def animated(kind, given, frames=FRAMES, **inputs):
    return {
        "loader": node("I2VGenXLCascadeLoader", bundle=f"family/{kind}", weight_dtype="default"),
        "keypoints": given("keypoints", keypoints(frames)),
        "reference": given("reference", keypoints(1, seed=50)),
        "align": node("I2VGenXLAlignPose", keypoints=["keypoints", 0], reference=["reference", 0], align=True),
        "image": given("person", pictures(1, seed=11, height=90)),
        "animate": node(
            "I2VGenXLAnimate",
            clip=["loader", 2],
            clip_vision=["loader", 3],
            vae=["loader", 4],
            image=["image", 0],
            poses=["align", 0],
            width=WIDTH,
            height=HEIGHT,
            **({"frames": 0, "interval": 1, "mode": "reference", "swap_red_blue": False} | inputs),
        ),
    }


@pytest.mark.parametrize(
    ("frames", "mode"),
    [(FRAMES, "reference"), (FRAMES, "both"), pytest.param(33, "first frame", marks=pytest.mark.slow)],
)
def test_unianimate_gives_the_latents_of_the_core(host, bundles, given, frames, mode):
    """33 frames go in two windows."""
    graph = animated("unianimate", given, frames, mode=mode) | sampler("animate", steps=2)
    kept = host.run(graph, {"latent": ("sampler", 0), "poses": ("align", 0)}).kept
    settings = AnimateOptions(width=WIDTH, height=HEIGHT, frames=frames, steps=2, seed=SEED)
    cascade = Cascade(bundles / "family/unianimate")
    ours = animate(cascade, pictures(1, seed=11, height=90), kept["poses"], settings, mode=mode)
    assert relative_error(kept["latent"]["samples"], ours) < SAME


def test_animate_x_gives_the_latents_of_the_core(host, bundles, given):
    graph = animated("animate_x", given, mode="first frame") | sampler("animate")
    graph["driving"] = given("driving", pictures(FRAMES, seed=12))
    graph["animate"]["inputs"] |= {"driving_video": ["driving", 0], "keypoints": ["keypoints", 0]}
    kept = host.run(graph, {"latent": ("sampler", 0), "poses": ("align", 0)}).kept
    settings = AnimateOptions(width=WIDTH, height=HEIGHT, frames=FRAMES, steps=2, seed=SEED)
    driving = Driving(pictures(FRAMES, seed=12), poses_of_frames(keypoints(FRAMES)))
    cascade = Cascade(bundles / "family/animate_x")
    ours = animate(
        cascade, pictures(1, seed=11, height=90), kept["poses"], settings, mode="first frame", driving=driving
    )
    assert relative_error(kept["latent"]["samples"], ours) < SAME
    assert "driving video" in failure(host, animated("animate_x", given) | sampler("animate"))


def test_a_person_without_hips_is_a_sentence(host, given):
    graph = animated("unianimate", given)
    partial = keypoints(1)
    partial[0]["people"][0]["pose_keypoints_2d"][24:27] = [0, 0, 0]
    said = failure(host, graph | {"reference": given("reference", partial)} | sampler("animate"), "align")
    assert "the reference's picture" in said and "right hip" in said


# ---------------------------------------------------------------- stock samplers, and what comes after


@pytest.mark.parametrize("kind", ["tft2v_composer", "videolcm_composer", "unianimate"])
def test_stock_ksampler_samples_them(host, given, kind):
    if kind == "unianimate":
        graph, source = animated(kind, given), "animate"
    else:
        graph, source = composed(kind, given, "depth"), "compose"
    few = {"cfg": 1.0, "sampler_name": "lcm"} if kind == "videolcm_composer" else {}
    latent = host.value(graph | stock(source, **few), "sampler")
    assert latent.shape == (FRAMES, 4, HEIGHT // 8, WIDTH // 8) and latent.isfinite().all()
    assert latent.std() > 0.1


def test_a_composer_in_stock_windows_reads_each_windows_own_pictures(host, given):
    graph = composed("tft2v_composer", given, "depth")
    graph["windows"] = node(
        "ContextWindowsManual",
        model=["loader", 0],
        context_length=2,
        context_overlap=1,
        context_schedule="standard_static",
        context_stride=1,
        closed_loop=False,
        fuse_method="flat",
        dim=0,
        freenoise=False,
        cond_retain_index_list="",
        split_conds_to_windows=False,
        latent_retain_index_list="",
        causal_window_fix=False,
    )
    graph |= sampler(steps=1)
    graph["sampler"]["inputs"]["model"] = ["windows", 0]
    windowed = host.value(graph, "sampler")
    changed = GUIDES.depth.clone()
    changed[2] = 0.5
    again = host.value(graph | {"given depth": given("other depth", changed)}, "sampler")
    assert torch.equal(windowed[0], again[0]), "the first frame is in the first window alone"
    assert relative_error(again[2], windowed[2]) > 0.01


def test_a_refinement_follows_as_after_the_base(host, given):
    graph = composed("tft2v_composer", given, "depth") | sampler()
    refined = graphs.refined_latent()
    graph["decode"] = node("VAEDecode", samples=["sampler", 0], vae=["loader", 4])
    names = [name for name, each in refined.items() if each["class_type"] in ("I2VGenXLRefinerLoader",)]
    assert names
    graph["refiner"] = refined[names[0]]
    graph["scale"] = node(
        "ImageScale", image=["decode", 0], upscale_method="bilinear", width=64, height=96, crop="disabled"
    )
    graph["encode"] = node("VAEEncode", pixels=["scale", 0], vae=["loader", 4])
    inputs = next(each for each in refined.values() if each["class_type"] == "I2VGenXLRefineSampler")["inputs"]
    links = {"model": ["refiner", 0], "positive": ["positive", 0], "negative": ["negative", 0], "latent": ["encode", 0]}
    graph["refine"] = node("I2VGenXLRefineSampler", **(inputs | links | {"steps": 1}))
    assert host.value(graph, "refine").shape == (FRAMES, 4, 12, 8)


def test_the_wrong_conditioning_is_a_sentence(host, given):
    graph = composed("unianimate", given, "text") | sampler()
    assert "Poses to Video block" in failure(host, graph)
    graph = animated("tft2v_composer", given) | sampler("animate")
    assert "Compose block" in failure(host, graph)


# ---------------------------------------------------------------- templates

NETWORKS = {"tft2v_t2v": "text2video"}
"""Kinds of templates whose network has no bundle here, and what stands for it."""


@pytest.mark.parametrize("make", FAMILY, ids=lambda make: make.__name__)
def test_a_template_runs_where_its_files_are(host, given, make):
    """Made-up networks stand for the released ones, and tensors for what is loaded and estimated."""
    prompt = make().prompt()
    (loader,) = (name for name, each in prompt.items() if each["class_type"] == "I2VGenXLBaseLoader")
    said = prompt[loader]["inputs"]
    kind = next(kind for kind in RELEASES if FILES.get(kind) and FILES[kind].name == said["model_name"])
    assert said["kind"] in ("auto", kind)
    prompt[loader] = node("I2VGenXLCascadeLoader", bundle=f"family/{NETWORKS.get(kind, kind)}", weight_dtype="default")
    outputs = {"CLIPLoader": 2, "CLIPVisionLoader": 3, "VAELoader": 4}
    moved = {name: outputs[each["class_type"]] for name, each in prompt.items() if each["class_type"] in outputs}
    stands = {
        "GetVideoComponents": pictures(FRAMES),
        "LoadImage": pictures(1, seed=1, height=90),
        "LoadImageMask": GUIDES.mask[:1],
        "MoGeRender": pictures(FRAMES, seed=2),
    }
    dropped = {*moved, *(name for name, each in prompt.items() if each["class_type"] in UNUSED)}
    graph = {}
    for name, each in prompt.items():
        inputs = each["inputs"] | {
            key: [loader, moved[link[0]]]
            for key, link in each["inputs"].items()
            if isinstance(link, list) and link[0] in moved
        }
        inputs |= TINY.get(each["class_type"], {})
        if each["class_type"] in stands:
            graph[name] = given(f"{make.__name__} {name}", stands[each["class_type"]])
        elif each["class_type"] == "SDPoseKeypointExtractor":
            graph[name] = given(f"{make.__name__} {name}", keypoints(FRAMES, seed=int(name)))
        elif name not in dropped:
            graph[name] = {"class_type": each["class_type"], "inputs": inputs}
    (frames,) = (each["inputs"]["images"] for each in graph.values() if each["class_type"] == "CreateVideo")
    result = host.run(graph, {"frames": tuple(frames)})
    assert result.error is None, f"{result.error_node}: {result.error}"
    assert result.kept["frames"].shape == (FRAMES, HEIGHT, WIDTH, 3) and result.kept["frames"].std() > 0.01


UNUSED = ("CheckpointLoaderSimple", "LoadMoGeModel", "MoGeInference", "LoadVideo", "SaveVideo", "PreviewImage")
TINY = {
    "I2VGenXLCompose": {"width": WIDTH, "height": HEIGHT, "frames": FRAMES},
    "I2VGenXLAnimate": {"width": WIDTH, "height": HEIGHT},
    "EmptyLatentImage": {"width": WIDTH, "height": HEIGHT, "batch_size": FRAMES},
    "I2VGenXLBaseSampler": {"steps": 2},
}
