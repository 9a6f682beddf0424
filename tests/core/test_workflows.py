"""The templates in workflows/ are whole, and fit the built-in cascade as they open."""

import json
from pathlib import Path

import pytest

from i2vgen_core import builtin
from i2vgen_core.config import RELEASES

WORKFLOWS = Path(__file__).parents[2] / "workflows"
NAMES = ("base", "base_stock_ksampler", "cascade")
BASE, REFINER = (
    json.loads((builtin.FOLDER / part / "config.json").read_text(encoding="utf-8"))["release"]
    for part in ("unet", "refiner")
)


def _nodes(name: str, node_type: str) -> list[dict]:
    """The widgets' values of the nodes of a type, by name."""
    graph = json.loads((WORKFLOWS / f"{name}.json").read_text(encoding="utf-8"))
    return [node["widgets_values_named"] for node in graph["nodes"] if node["type"] == node_type]


def test_names():
    assert {file.stem for file in WORKFLOWS.glob("*.json")} == set(NAMES)


def test_no_folder_hides_the_templates():
    """The host serves the first of these folders that a pack has, and no other, as templates."""
    served = ("example_workflows", "example", "examples", "workflow", "workflows")
    assert [name for name in served if (WORKFLOWS.parent / name).is_dir()] == ["workflows"]


@pytest.mark.parametrize("name", NAMES)
def test_links_are_whole(name):
    graph = json.loads((WORKFLOWS / f"{name}.json").read_text(encoding="utf-8"))
    nodes = {node["id"]: node for node in graph["nodes"]}
    assert graph["version"] == 0.4
    assert len(nodes) == len(graph["nodes"])
    for link, source, slot, target, entry, kind in graph["links"]:
        assert link in nodes[source]["outputs"][slot]["links"]
        assert nodes[source]["outputs"][slot]["type"] == kind
        assert nodes[target]["inputs"][entry]["link"] == link
        assert nodes[source]["pos"][0] <= nodes[target]["pos"][0], "wires run from left to right"


@pytest.mark.parametrize("name", NAMES)
def test_thumbnail(name):
    """The front end asks for a JPEG of the same name."""
    file = WORKFLOWS / f"{name}.jpg"
    assert file.read_bytes().startswith(b"\xff\xd8\xff")
    assert file.stat().st_size <= 60_000


@pytest.mark.parametrize("name", NAMES)
def test_base_is_the_built_in_one(name):
    (loader,) = _nodes(name, "I2VGenXLCascadeLoader")
    (prompts,) = _nodes(name, "I2VGenXLCLIPEncode")
    (video,) = _nodes(name, "I2VGenXLGlobalEncode")
    assert loader == {"bundle": builtin.NAME, "weight_dtype": "default"}
    assert prompts["negative_prompt"] == RELEASES["i2vgen_xl"].negative_prompt
    assert prompts["width"] == video["width"]
    assert video == {key: BASE[key] for key in ("width", "height", "frames", "fps")}
    for sampler in _nodes(name, "I2VGenXLBaseSampler"):
        assert (sampler["steps"], sampler["cfg"], sampler["eta"]) == (0, 0, 0)


def test_stock_sampler_has_the_bases_settings():
    (sampler,) = _nodes("base_stock_ksampler", "KSampler")
    assert (sampler["steps"], sampler["cfg"], sampler["denoise"]) == (BASE["steps"], BASE["guidance"], 1)
    assert (sampler["sampler_name"], sampler["scheduler"]) == ("ddim", "ddim_uniform")


def test_refinement_is_the_built_in_one():
    release = RELEASES["vid2vid_xl"]
    (loader,) = _nodes("cascade", "I2VGenXLRefinerLoader")
    assert loader["model_name"] == builtin.NAME
    positive, negative = (texts["text"] for texts in _nodes("cascade", "CLIPTextEncode"))
    assert positive.endswith(release.prompt_suffix)
    assert negative == release.negative_prompt
    (scale,) = _nodes("cascade", "ImageScale")
    size = {key: REFINER[key] for key in ("width", "height")}
    assert scale == {"upscale_method": "bilinear", **size, "crop": "disabled"}
    (sampler,) = _nodes("cascade", "I2VGenXLRefineSampler")
    defaults = {"steps": 0, "cfg": 0, "rescale": -1, "noise_level": 0, "solver": "dpmpp_2m_sde", "entry": "auto"}
    assert (defaults | {"eta": 1}).items() <= sampler.items()


@pytest.mark.parametrize("name", NAMES)
def test_the_note_has_the_released_settings(name):
    """They are what the templates do not open with."""
    graph = json.loads((WORKFLOWS / f"{name}.json").read_text(encoding="utf-8"))
    (note,) = (node["widgets_values"][0] for node in graph["nodes"] if node["type"] == "MarkdownNote")
    base, refiner, sr600 = (RELEASES[kind] for kind in ("i2vgen_xl", "vid2vid_xl", "sr600"))
    assert f"1280, the height to 704, fps to {base.fps:g}" in note
    stated = {
        "base": f"{base.steps} and {base.guidance:g}",
        "base_stock_ksampler": f"steps {base.steps}, cfg {base.guidance:g}, denoise 1",
        "cascade": f"base {base.steps} steps, cfg {base.guidance:g}; refiner {refiner.steps} steps, cfg "
        f"{refiner.guidance:g}, rescale {refiner.rescale:g}, level {refiner.noise_level}",
    }
    assert stated[name] in note
    if name == "cascade":
        assert f"{sr600.steps} steps, cfg {sr600.guidance:g}, rescale {sr600.rescale:g}, level 700" in note
