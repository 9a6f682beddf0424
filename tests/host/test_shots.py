"""Shots, Continue Video, Prompt and Score as blocks: they give what the core gives, and what has not changed is kept."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from i2vgen_core.cascade import Cascade
from i2vgen_core.media.images import clip_frame, read_image
from i2vgen_core.media.score import score
from i2vgen_core.sampling.options import BaseOptions
from i2vgen_core.shots import film, read_shots

from . import graphs
from .compare import relative_error
from .graphs import node

STORY = "3: a fox wakes up\n2: it runs\nit sleeps"
CLIPS = 3


def _graph(**inputs: Any) -> graphs.Graph:
    graph = graphs.conditions("short")
    loaded = {
        name: ["loader", number]
        for number, name in enumerate(("model", "global_encoder", "clip", "clip_vision", "vae"))
    }
    asked = {
        "shots": STORY,
        "negative_prompt": graphs.NEGATIVE,
        "width": graphs.WIDTH,
        "height": graphs.HEIGHT,
        "frames": 2,
        "fps": graphs.FPS,
        "seed": graphs.SEED,
        "steps": 2,
        "cfg": 0.0,
        "overlap": 2,
        "color_match": 1.0,
    }
    shots = node("I2VGenXLShots", image=["photo", 0], **loaded, **asked | inputs)
    return {name: graph[name] for name in ("loader", "photo")} | {"shots": shots}


def _sampled(host: Any, graph: graphs.Graph) -> tuple[torch.Tensor, int]:
    """The video, and how often a sampler ran: it shows its steps in words below the block."""
    runs = []
    sampling = host.module("nodes.base_sample")
    sample = sampling.sample_base

    def counted(*arguments: Any) -> Any:
        runs.append(arguments)
        return sample(*arguments)

    sampling.sample_base = counted
    try:
        result = host.run(graph, {"video": ("shots", 0)}, reuse_cache=True)
    finally:
        sampling.sample_base = sample
    assert result.error is None, f"{result.error_node}: {result.error}"
    return result.kept["video"], len(runs)


def test_a_story_is_the_cores_and_a_changed_shot_runs_with_those_after_it(host, bundles, photo):
    video, runs = _sampled(host, _graph())
    assert runs == CLIPS and video.shape == (7, graphs.HEIGHT, graphs.WIDTH, 3)
    options = BaseOptions(
        width=graphs.WIDTH,
        height=graphs.HEIGHT,
        frames=2,
        fps=graphs.FPS,
        steps=2,
        seed=graphs.SEED,
        negative=graphs.NEGATIVE,
    )
    shots = film(Cascade(bundles / "short"), read_image(photo), read_shots(STORY), options)
    first, second, _ = shots
    assert relative_error(video[:3], first) < 1e-4
    # Made-up weights make a difference of a picture 56 times as large in the clip that begins with it.
    assert relative_error(video[3:5], second) < 1e-2

    again, runs = _sampled(host, _graph(shots=STORY.replace("it runs", "it jumps")))
    assert runs == 2 and torch.equal(again[:3], video[:3]) and not torch.equal(again[3:5], video[3:5])
    longer, runs = _sampled(host, _graph(shots=STORY.replace("it runs", "it jumps") + "\n1: it wakes"))
    assert runs == 1 and torch.equal(longer[:7], again) and len(longer) == 8


def test_a_story_that_cannot_be_is_refused_by_its_line(host):
    result = host.run(_graph(shots="3: a fox\n0: it runs"), {"video": ("shots", 0)}, reuse_cache=True)
    assert result.error_node == "shots" and "line 2 of the shots" in result.error


def test_a_clip_continues_a_video(host):
    graph = graphs.conditions("short")
    host.given["video"] = torch.rand(4, 90, 120, 3, generator=torch.Generator().manual_seed(1))
    more = {"vae": ["loader", 4], "latent": ["global_encode", 2], "images": ["video", 0]}
    graph |= {
        "video": node("GiveForTest", name="video"),
        "held": node("I2VGenXLContinue", frames=2, **more),
        "whole": node("I2VGenXLContinue", frames=3, **more),
        "fitted": node(
            "ImageScale",
            image=["video", 0],
            upscale_method="bilinear",
            width=graphs.WIDTH,
            height=graphs.HEIGHT,
            crop="center",
        ),
    }
    result = host.run(graph, {"held": ("held", 0)}, reuse_cache=True)
    assert result.error is None, result.error
    held = result.kept["held"]
    assert held["noise_mask"].mean((1, 2, 3)).tolist() == [0, 0, 1]
    assert held["samples"][:2].abs().amax() > 0 and not held["samples"][2:].any()
    result = host.run(graph, {"whole": ("whole", 0)}, reuse_cache=True)
    assert "more than the 3 that are held" in result.error


class Writer:
    """Stands for a text model of the host's."""

    def __init__(self, answer: str):
        self.answer, self.asked = answer, {}
        self.cond_stage_model = SimpleNamespace(generate=self.generate, transformer=None)

    def tokenize(self, text: str, **options: Any) -> Any:
        self.asked = {"text": text, **options}
        return [text]

    def generate(self, tokens: Any, **options: Any) -> Any:
        return tokens

    def decode(self, tokens: Any) -> str:
        return self.answer


def _prompt(host: Any, **inputs: Any) -> tuple[Any, str, str]:
    graph = {"prompt": node("I2VGenXLPrompt", **inputs), "model": node("GiveForTest", name="model")}
    result = host.run(graph, {"text": ("prompt", 0), "hints": ("prompt", 1)}, reuse_cache=True)
    return result, result.kept.get("text", ""), result.kept.get("hints", "")


def test_without_a_text_model_the_words_are_checked(host):
    result, text, hints = _prompt(host, words="a  cat\non a [sofa]")
    assert text == "a cat on a [sofa]"
    assert hints.splitlines() == [
        "- '[sofa]' does nothing here: square brackets change no weight.",
        "- No verb of motion: say what moves, and how.",
    ]
    assert ("prompt", hints.replace("- ", "")) in result.texts
    assert _prompt(host, words="a (cat:1.2) jumps")[2] == "Nothing to mend."


def test_a_text_model_writes_the_prompt(host):
    if "TextGenerate" not in host.nodes:
        pytest.skip("this ComfyUI has no Generate Text")
    host.given["model"] = writer = Writer('"A cat jumps off a sofa."\n\nDo you want another one?')
    host.given["picture"] = torch.rand(2, 8, 8, 3)
    graph = {
        "picture": node("GiveForTest", name="picture"),
        "model": node("GiveForTest", name="model"),
        "prompt": node("I2VGenXLPrompt", words="le chat saute", text_model=["model", 0], image=["picture", 0]),
    }
    result = host.run(graph, {"text": ("prompt", 0), "hints": ("prompt", 1)})
    assert result.error is None, result.error
    assert result.kept == {"text": "A cat jumps off a sofa.", "hints": "Nothing to mend."}
    assert writer.asked["text"].endswith("What the viewer wants to happen: le chat saute")
    assert writer.asked["image"].shape == (1, 8, 8, 3)
    host.given["model"] = Writer("")
    assert "expected a caption, found no text" in host.run(graph, {"text": ("prompt", 0)}).error


def test_a_clip_that_only_encodes_is_no_text_model(host):
    graph = graphs.conditions("short") | {"prompt": node("I2VGenXLPrompt", words="a cat", text_model=["loader", 2])}
    result = host.run(graph, {"text": ("prompt", 0)}, reuse_cache=True)
    assert result.error_node == "prompt" and "a CLIP that only encodes" in result.error


def test_score_gives_what_the_core_measures(host, photo):
    host.given["video"] = video = torch.rand(3, 64, 96, 3, generator=torch.Generator().manual_seed(2))
    graph = graphs.conditions("short") | {
        "video": node("GiveForTest", name="video"),
        "alone": node("I2VGenXLScore", images=["video", 0]),
        "score": node("I2VGenXLScore", images=["video", 0], reference=["photo", 0], clip_vision=["loader", 3]),
    }
    keep = {f"{name} {number}": (name, number) for name in ("alone", "score") for number in range(6)}
    result = host.run(graph, keep | {"vision": ("loader", 3)}, reuse_cache=True)
    assert result.error is None, result.error
    kept, plain = result.kept, score(video)
    assert torch.equal(kept["alone 0"][0], plain.plot()) and kept["alone 1"] == plain.table()
    assert [kept[f"alone {number}"] for number in range(2, 6)] == [plain.motion, plain.smoothness, 0.0, plain.sharpness]
    vision = kept["vision"]
    with torch.inference_mode():
        features = vision.encode_image(clip_frame(video, 96, vision.image_size))["image_embeds"].float()
    shown = torch.nn.functional.normalize(features, dim=-1)
    consistency = 100 * (((shown[1:] * shown[:1]).sum(1) + (shown[1:] * shown[:-1]).sum(1)) / 2).mean()
    assert f"| background consistency, % | {consistency:.2f} |" in kept["score 1"]
    assert "first frame, dB |  |" not in kept["score 1"] and 0 < kept["score 4"] < 1
