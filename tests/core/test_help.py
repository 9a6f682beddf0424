"""The help pages in web/docs say what the blocks and the releases are. Blocks are read from their source, no host."""

import re

import pytest
from blocks import ROOT, read_blocks

from i2vgen_core.media.images import FRAME_SIZES
from i2vgen_core.releases import RELEASES

DOCS = ROOT / "web" / "docs"


BLOCKS = read_blocks()


def _page(block: str) -> str:
    return (DOCS / f"{block}.md").read_text(encoding="utf-8")


def _section(page: str, heading: str) -> list[str]:
    return page.split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0].splitlines()


def _inputs(page: str) -> dict[str, str]:
    """The list of inputs, "- `name`, `name` (values): text", as {name: values}."""
    entries = (re.fullmatch(r"- ((?:`\w+`(?:, )?)+) \((.+?)\): .+", line) for line in _section(page, "Inputs"))
    return {name: entry[2] for entry in entries if entry for name in re.findall(r"\w+", entry[1])}


def _values(page: str, heading: str) -> dict[str, dict[str, str]]:
    """The section's table as {column: {row: cell}}."""
    lines = [line for line in _section(page, heading) if line.startswith("|")]
    header, _, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines)
    return {name: {row[0]: row[i] for row in rows} for i, name in enumerate(header) if i}


def test_every_block_has_a_page_and_every_page_a_block():
    assert len(BLOCKS) >= 8
    assert {file.stem for file in DOCS.glob("*.md")} == set(BLOCKS)


@pytest.mark.parametrize("block", BLOCKS)
def test_page_lists_the_inputs_in_order(block):
    assert list(_inputs(_page(block))) == [entry.name for entry in BLOCKS[block].inputs]


@pytest.mark.parametrize("block", BLOCKS)
def test_page_states_ranges_and_choices(block):
    stated = _inputs(_page(block))
    for entry in BLOCKS[block].inputs:
        low, high, options = entry.constant("min"), entry.constant("max"), entry.constant("options")
        if low is not None and high is not None:
            assert stated[entry.name].startswith(f"{low:g} to {high:g}"), entry.name
        if options and all(isinstance(option, str) for option in options):
            assert re.findall(r"`(\w+)`", stated[entry.name]) == options, entry.name


def test_base_page_has_the_releases_values():
    stated = _values(_page("I2VGenXLBaseSampler"), "The release's values")
    for column, kind in (("I2VGen-XL", "i2vgen_xl"), ("MS-Image2Video", "image2video")):
        release = RELEASES[kind]
        offset = f"{release.offset_noise:g}" if release.offset_noise else "none"
        assert stated[column] == {
            "steps": f"{release.steps}",
            "cfg": f"{release.guidance:g}",
            "offset noise": offset,
        }


def test_refine_page_has_the_releases_values():
    stated = _values(_page("I2VGenXLRefineSampler"), "The release's values")
    for kind in ("vid2vid_xl", "sr600"):
        release = RELEASES[kind]
        assert stated[kind] == {
            "steps": f"{release.steps}",
            "steps with `heun`": f"{release.steps_for('heun')}",
            "cfg": f"{release.guidance:g}",
            "rescale": f"{release.rescale:g}",
            "noise level": f"{release.noise_level}",
            "entry": release.entry,
        }


def test_refiner_loader_page_has_the_releases_values():
    stated = _values(_page("I2VGenXLRefinerLoader"), "What the variant changes")
    for kind in ("vid2vid_xl", "sr600"):
        release = RELEASES[kind]
        assert stated[kind] == {
            "entry": release.entry,
            "noise level": f"{release.noise_level}",
            "steps": f"{release.steps}" + (f" (Heun {release.heun_steps})" if release.heun_steps else ""),
            "cfg": f"{release.guidance:g}",
            "rescale": f"{release.rescale:g}",
        }


@pytest.mark.parametrize("block", BLOCKS)
def test_every_input_and_output_has_a_tooltip(block):
    for slot in (*BLOCKS[block].inputs, *BLOCKS[block].outputs):
        assert "tooltip" in slot.keywords, slot.name


def test_size_page_has_the_sizes():
    stated = _values(_page("I2VGenXLSize"), "Sizes")["Latent"]
    assert stated.pop("the model's own") == ""
    assert stated == {name: f"{width // 8}x{height // 8}" for name, (width, height) in FRAME_SIZES.items()}
    for name, (width, height) in FRAME_SIZES.items():
        assert name.endswith(f"{width}x{height}") and width % 8 == height % 8 == 0


def test_sizes_halve_evenly():
    """Three times for the bases; the refiners take heights of 2 more. The tiny cascade's are its own."""
    for name, (width, height) in FRAME_SIZES.items():
        if not name.startswith("tiny"):
            assert width // 8 % 8 == 0 and height // 8 % 8 == (2 if name.startswith("refiner") else 0), name


PAGES = sorted(DOCS.glob("**/*.md"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(DOCS)))
def test_page_has_a_picture_links_that_work_and_narrow_drawings(page):
    """The front end looks for pictures from web/docs on, whichever the language; its panel shows 30 letters of a drawing."""
    text = page.read_text(encoding="utf-8")
    block = page.stem if page.parent == DOCS else page.parent.name
    picture = DOCS.parent / "pictures" / f"{block}.jpg"
    shown = [f"../pictures/{block}.jpg"]
    shown += ["../pictures/refine_amount.png"] * (block == "I2VGenXLRefineSampler")
    assert re.findall(r"!\[.+?\]\((.+?)\)", text) == shown
    assert picture.stat().st_size < 40_000  # taken by tests/ui/help_pictures.py
    links = re.findall(r"(?<!!)\[[^\]]*\]\((.+?)\)", text)
    assert all(link.startswith("https://") for link in links)  # the front end opens a link as it stands
    for drawing in re.findall(r"```.*?\n(.*?)```", text, re.S):
        assert max(map(len, drawing.splitlines())) <= 30
