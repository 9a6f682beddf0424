"""The templates in workflows/ and the blocks in subgraphs/ are what their description makes, and fit the built-in
cascade as they open."""

import json
import re
from pathlib import Path

import pytest
from PIL import Image

from i2vgen_core import assets
from i2vgen_core.checkpoints.download import FILES
from i2vgen_core.media.captions import caption
from i2vgen_core.media.world import sample_scene
from i2vgen_core.releases import RELEASES

from ..templates.blueprints import BLUEPRINTS
from ..templates.editing import EDITING
from ..templates.graph import BYPASSED, recorded, text
from ..templates.settings import OWN_SIZE, RATE, TINY_GUIDANCE, TINY_STEPS, WITH_BASE
from ..templates.templates import TEMPLATES
from ..templates.waiting import WAITING

PACK = Path(__file__).parents[2]
WORKFLOWS, SUBGRAPHS = PACK / "workflows", PACK / "subgraphs"
NAMES = [make.__name__ for make in TEMPLATES]
TITLES = {make.__name__: make().title for make in TEMPLATES}
GRAPHS = {name: json.loads((WORKFLOWS / f"{title}.json").read_text(encoding="utf-8")) for name, title in TITLES.items()}
BASE, REFINER = (
    json.loads((assets.FOLDER / part / "config.json").read_text(encoding="utf-8"))["release"]
    for part in ("unet", "refiner")
)
WAITING_GRAPHS = {make.__name__: make().workflow() for make in WAITING}
"""Of networks whose files do not come with the pack."""
RELEASED_NAMES = ("base", "base_stock_ksampler", "cascade")
VIDEOS = ["refine_video", "refine_long_video", *(make.__name__ for make in EDITING)]
"""Templates that begin with a video."""
OWN_PROMPTS = ["first_last", "drag", "camera", "shots", "prompt_help"]
"""Templates whose prompt is not the scene's own."""


PROMPTS = {make.__name__: make().prompt() for make in TEMPLATES}


def _nodes(name: str, node_type: str) -> list[dict]:
    """The inputs of the nodes of a type; of those that run as the template opens, within blocks too."""
    return [node["inputs"] for node in PROMPTS[name].values() if node["class_type"] == node_type]


def _all_nodes(name: str) -> list[dict]:
    """As the file has them, within blocks too."""
    graph = GRAPHS[name]
    blocks = graph.get("definitions", {}).get("subgraphs", [])
    return graph["nodes"] + [node for block in blocks for node in block["nodes"]]


def test_names():
    """The front end shows and searches them, and lists them in their order."""
    titles = sorted(make().title for make in TEMPLATES + WAITING)
    assert sorted(file.stem for file in WORKFLOWS.glob("*.json")) == titles
    assert len(NAMES) == 25 and set(RELEASED_NAMES) <= set(NAMES)
    assert len({title[:12] for title in titles}) == len(titles)
    for title in titles:
        assert re.match(r"I2VGen-XL \d\d ", title) and ("to video" in title or "Refine" in title)


@pytest.mark.parametrize("make", TEMPLATES + WAITING + BLUEPRINTS, ids=lambda make: make.__name__)
def test_the_file_is_what_the_description_makes(make):
    """`python -m tests.templates.make` writes them anew."""
    graph = make()
    folder = SUBGRAPHS if make in BLUEPRINTS else WORKFLOWS
    assert (folder / f"{graph.title}.json").read_text(encoding="utf-8") == text(graph.workflow())


def test_no_folder_hides_the_templates():
    """The host serves the first of these folders that a pack has, and no other, as templates."""
    served = ("example_workflows", "example", "examples", "workflow", "workflows")
    assert [name for name in served if (PACK / name).is_dir()] == ["workflows"]


@pytest.mark.parametrize("name", [*NAMES, *WAITING_GRAPHS])
def test_links_are_whole(name):
    graph = GRAPHS.get(name) or WAITING_GRAPHS[name]
    nodes = {node["id"]: node for node in graph["nodes"]}
    assert graph["version"] == 0.4
    assert len(nodes) == len(graph["nodes"])
    for link, source, slot, target, entry, kind in graph["links"]:
        assert link in nodes[source]["outputs"][slot]["links"]
        assert nodes[source]["outputs"][slot]["type"] == kind
        assert nodes[target]["inputs"][entry]["link"] == link
        assert nodes[source]["pos"][0] <= nodes[target]["pos"][0], "wires run from left to right"


@pytest.mark.parametrize("name", [*NAMES, *WAITING_GRAPHS])
def test_every_input_that_is_no_widget_is_wired(name):
    optional = 7  # LiteGraph's shape of an input that may be left open
    for node in (GRAPHS.get(name) or WAITING_GRAPHS[name])["nodes"]:
        open_inputs = [
            each["name"]
            for each in node["inputs"]
            if each["link"] is None and "widget" not in each and each.get("shape") != optional
        ]
        if node["mode"] != BYPASSED:
            assert not open_inputs, node["type"]


@pytest.mark.parametrize("name", NAMES)
def test_pictures(name):
    """The front end asks for a .jpg of the same name, and plays the animated WebP in it; the docs have one of the graph."""
    with Image.open(WORKFLOWS / f"{TITLES[name]}.jpg") as thumbnail:
        assert (thumbnail.format, thumbnail.size) == ("WEBP", (320, 320))
        assert thumbnail.n_frames > 10
    for file, most in (
        (WORKFLOWS / f"{TITLES[name]}.jpg", 60_000),
        (PACK / "docs" / "templates" / f"{name}.jpg", 250_000),
    ):
        assert file.stat().st_size <= most


def test_what_does_not_come_with_the_pack_is_bypassed():
    """The front end asks for the files that other nodes name."""
    for name in NAMES:
        for node in _all_nodes(name):
            models = {model["name"] for model in node["properties"].get("models", [])}
            if node["mode"] != BYPASSED:
                assert not models & set(map(str, node["widgets_values"])), f"{name}: {node['type']}"


def test_downloads_are_the_released_files():
    for name in NAMES:
        for node in _all_nodes(name):
            for model in node["properties"].get("models", []):
                assert model["url"].startswith("https://huggingface.co/") and "/resolve/main/" in model["url"]
                assert model["directory"] and "/" not in model["name"]


@pytest.mark.parametrize("name", NAMES)
def test_base_is_the_built_in_one(name):
    for loader in _nodes(name, "I2VGenXLCascadeLoader"):
        assert loader == {"bundle": assets.NAME, "weight_dtype": "default"}
    for size in _nodes(name, "I2VGenXLSize"):
        assert size["size"] == OWN_SIZE
    for prompts in _nodes(name, "I2VGenXLCLIPEncode"):
        assert prompts["negative_prompt"] == RELEASES["i2vgen_xl"].negative_prompt
    frames = {"base_long_video": 64, "base_two_prompts": 24}.get(name, BASE["frames"])
    for video in _nodes(name, "I2VGenXLGlobalEncode"):
        wired = name in VIDEOS  # as many frames as the video has
        assert isinstance(video["frames"], list) if wired else video["frames"] == frames
        assert video["fps"] == 0
    for sampler in _nodes(name, "I2VGenXLBaseSampler"):
        assert (sampler["steps"], sampler["cfg"], sampler["eta"]) == (0, 0, 0)
    assert (BASE["steps"], BASE["guidance"]) == (TINY_STEPS, TINY_GUIDANCE)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in VIDEOS + OWN_PROMPTS])
def test_the_first_prompt_is_the_scenes(name):
    """By a wire from Tiny Scene; hidden behind it, the block has the same sentence. The refiner's is wired likewise."""
    scenes = {key: node for key, node in PROMPTS[name].items() if node["class_type"] == "I2VGenXLTinyScene"}
    key, scene = next(iter(scenes.items()))
    seed = scene["inputs"]["seed"]
    sentence = caption(sample_scene(seed, split="held_out"), seed)
    assert _nodes(name, "I2VGenXLCLIPEncode")[0]["prompt"] == [key, 1]
    assert all(text["string_a"] == [key, 1] for text in _nodes(name, "StringConcatenate"))
    wires = {link: source for link, source, *_ in GRAPHS[name]["links"]}
    for node in GRAPHS[name]["nodes"]:
        wired = [each["name"] for each in node["inputs"] if wires.get(each["link"]) == int(key) and "widget" in each]
        widgets = [each["widget"]["name"] for each in node["inputs"] if "widget" in each]
        values = node.get("widgets_values_named") or dict(zip(widgets, node["widgets_values"], strict=True))
        assert all(values[entry] == sentence for entry in wired), node["title"]


@pytest.mark.parametrize("name", ["base_stock_ksampler", "base_loop"])
def test_stock_sampler_has_the_bases_settings(name):
    (sampler,) = _nodes(name, "KSampler")
    assert (sampler["steps"], sampler["cfg"], sampler["denoise"]) == (BASE["steps"], BASE["guidance"], 1)
    assert (sampler["sampler_name"], sampler["scheduler"]) == ("ddim", "ddim_uniform")


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith(("cascade", "refine"))])
def test_refinement_is_the_built_in_one(name):
    release = RELEASES["vid2vid_xl"]
    (loader,) = _nodes(name, "I2VGenXLRefinerLoader")
    assert loader["model_name"] == WITH_BASE
    (joined,) = _nodes(name, "StringConcatenate")
    assert (joined["string_b"], joined["delimiter"]) == (release.prompt_suffix, "")
    assert release.negative_prompt in [texts["text"] for texts in _nodes(name, "CLIPTextEncode")]
    (scale,) = _nodes(name, "ImageScale")
    assert (scale["upscale_method"], scale["crop"]) == ("bilinear", "disabled")
    if name == "cascade_beyond_720p":
        assert scale["width"] > REFINER["width"] and scale["height"] > REFINER["height"]
    else:
        assert _nodes(name, "I2VGenXLSize")[-1]["size"] == OWN_SIZE
    (sampler,) = _nodes(name, "I2VGenXLRefineSampler")
    defaults = {"steps": 0, "cfg": 0, "rescale": -1, "noise_level": 0, "solver": "dpmpp_2m_sde", "entry": "auto"}
    assert (defaults | {"eta": 1}).items() <= sampler.items()


@pytest.mark.parametrize("name", NAMES)
def test_the_note_has_the_released_settings(name):
    """They are what the templates do not open with."""
    (note,) = (node["widgets_values"][0] for node in GRAPHS[name]["nodes"] if node["type"] == "MarkdownNote")
    base, refiner, sr600 = (RELEASES[kind] for kind in ("i2vgen_xl", "vid2vid_xl", "sr600"))
    assert "Choose *released files*" in note or "choose *released files*" in note
    if name not in ("refine_video", "refine_long_video", "cascade_text_to_image"):
        assert f"{base.width}x{base.height}" in note
    if name.startswith(("cascade", "refine")) and name != "cascade_text_to_image":
        assert f"{refiner.width}x{refiner.height}" in note
    stated = {
        "base": [f"{base.steps} and {base.guidance:g}"],
        "base_stock_ksampler": [f"steps {base.steps}, cfg {base.guidance:g}, denoise 1"],
        "cascade": [
            f"base {base.steps} steps, cfg {base.guidance:g}; refiner {refiner.steps} steps, cfg "
            f"{refiner.guidance:g}, rescale {refiner.rescale:g}, level {refiner.noise_level}",
            f"{sr600.steps} steps, cfg {sr600.guidance:g}, rescale {sr600.rescale:g}, level {sr600.noise_level}",
        ],
    }
    for settings in stated.get(name, []):
        assert settings in note


@pytest.mark.parametrize("make", BLUEPRINTS, ids=lambda make: make.__name__)
def test_a_block_has_its_settings_outside(make):
    """A seed that stays, the release's rate for its video, and links to the files it is released in."""
    block = make()
    widgets, outputs = block.known()["widgets"], [each["name"] for each in block.known()["outputs"]]
    assert {"prompt", "negative_prompt", "size", "steps", "seed", "rate"} <= set(widgets) and len(widgets) == 8
    assert widgets["rate"] == RATE and outputs[:2] == ["IMAGE", "VIDEO"]
    (sampler,) = (node for node in block.nodes if "control_after_generate" in node.widgets)
    assert sampler.widgets["control_after_generate"] == "fixed"
    for node in block.nodes:
        for model in node.properties.get("models", []):
            assert model["url"] in block.note


@pytest.mark.parametrize("make", WAITING, ids=lambda make: make.__name__)
def test_a_template_that_waits_says_for_what(make):
    """Its network's and encoders' files, with where to get them, and the terms."""
    graph = make()
    files = {each.name: each for each in FILES.values()}
    for node in graph.nodes:
        named = [files[value] for value in map(str, node.widgets.values()) if value in files]
        for file in named:
            assert file.name in graph.note and file.page in graph.note
            assert file.folder in graph.note
        assert not node.bypassed
    assert "waits for this file" in graph.note and "**Terms.**" in graph.note
    for file in (WORKFLOWS / f"{graph.title}.jpg", PACK / "docs" / "templates" / f"{graph.name}.jpg"):
        with Image.open(file) as picture:  # tests/templates/drawn.py writes WebP, as browsers play it
            assert picture.format in ("JPEG", "WEBP") and file.stat().st_size < 250_000


def test_notes_name_what_there_is():
    """Templates and files that a note sends the reader to."""
    for name in NAMES:
        (note,) = (node["widgets_values"][0] for node in GRAPHS[name]["nodes"] if node["type"] == "MarkdownNote")
        for named in re.findall(r"template \*(\w+)\*", note):
            assert sum(title.startswith(f"I2VGen-XL {named} ") for title in TITLES.values()) == 1
        blocks = {block["id"] for block in GRAPHS[name].get("definitions", {}).get("subgraphs", [])}
        assert {node["type"] for node in _all_nodes(name)} - blocks - {"MarkdownNote"} <= set(recorded())


def test_templates_are_seen_whole():
    """In a window of 1440x900, of which the front end fills three quarters: large enough to read the note. Below 8/14 it
    writes nothing in its classic blocks, where a pixel of the page is one of the screen."""
    scales = {name: GRAPHS[name]["extra"]["ds"]["scale"] for name in NAMES}
    small = {"cascade_step_by_step", "base_swap_encoder"}
    assert all(scale >= (0.5 if name in small else 0.57) for name, scale in scales.items()), scales
    assert len(GRAPHS["cascade"]["nodes"]) == 7
