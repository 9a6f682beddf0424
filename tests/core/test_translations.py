"""Every language in locales/ says of every block what the English texts say, in ComfyUI's own formats.

`locales/<language>/nodeDefs.json` and `main.json` are what the front end merges into its own texts, and
`web/docs/<block>/<language>.md` is the help page that it shows in place of `web/docs/<block>.md`.
"""

import json
import re
from collections import Counter

import pytest
from blocks import ROOT, read_blocks

BLOCKS = read_blocks()
DOCS = ROOT / "web" / "docs"
LANGUAGES = sorted(folder.name for folder in (ROOT / "locales").glob("*"))
PACK = "I2VGen-XL"

NODE_DEFS = {
    language: json.loads((ROOT / "locales" / language / "nodeDefs.json").read_text(encoding="utf-8"))
    for language in LANGUAGES
}

in_every_language = pytest.mark.parametrize("language", LANGUAGES)
of_every_block = pytest.mark.parametrize("block", BLOCKS)


def _english(block: str) -> dict:
    """What nodeDefs.json would say of a block in English."""
    declared = BLOCKS[block]
    outputs = {}
    for i, output in enumerate(declared.outputs):
        outputs[str(i)] = {"tooltip": output.constant("tooltip")}
        if output.name:  # the others show their type, which the front end translates
            outputs[str(i)]["name"] = output.name
    return {
        "display_name": declared.display_name,
        "description": declared.description,
        "inputs": {entry.name: {"name": entry.name, "tooltip": entry.constant("tooltip")} for entry in declared.inputs},
        "outputs": outputs,
    }


def _texts(entry: dict, path: str = "") -> dict[str, str]:
    """{path: text} of every text in a block's entry."""
    found = {}
    for key, value in entry.items():
        found |= _texts(value, f"{path}{key}.") if isinstance(value, dict) else {f"{path}{key}": value}
    return found


def _page(block: str, language: str | None = None) -> list[str]:
    file = DOCS / f"{block}.md" if language is None else DOCS / block / f"{language}.md"
    return file.read_text(encoding="utf-8").splitlines()


def _lost(english: str, translation: str) -> list[str]:
    """Numbers, names of files and settings, and code that the English text has and its translation has not."""
    numbers, kept = (
        Counter(number.replace(",", ".") for number in re.findall(r"\d+(?:[.,]\d+)?", text))
        for text in (english, translation)
    )
    spans, kept_spans = (Counter(re.findall(r"`[^`]+`", text)) for text in (english, translation))
    names = re.findall(r"[\w.-]*\w[_/][\w./-]*\w|\w+\.json|https?:[^\s)]+", re.sub("`[^`]+`", "", english))
    return [*(numbers - kept), *(spans - kept_spans), *(name for name in names if name not in translation)]


def _is_prose(line: str) -> bool:
    return len(re.sub(r"`[^`]*`|\]\([^)]*\)|[^A-Za-z]", "", line)) > 40


def _kinds(page: list[str]) -> list[str]:
    """What each line is: empty, a heading and its level, an entry of a list, a table's row, code, or text."""
    kinds, code = [], False
    for line in page:
        start = re.match(r"#+ |- |\||```|", line)[0]
        if start == "```":
            code = not code
        cells = line.count("|") if start == "|" else ""
        kinds.append("code" if code and start != "```" else f"{start or bool(line.strip())}{cells}")
    return kinds


def test_a_lost_number_name_or_code_is_seen():
    english = "Useful: 20 to 50, see `cfg` in config.json or models/vae, 2.8 GB."
    assert _lost(english, "Utile : 20 à 50, voir `cfg` dans config.json ou models/vae, 2,8 Go.") == []
    assert _lost(english, "Utile : 20 à 60, voir cfg.") == ["50", "2.8", "`cfg`", "config.json", "models/vae"]


@of_every_block
def test_every_input_and_output_has_a_tooltip(block):
    assert BLOCKS[block].inputs and BLOCKS[block].outputs
    for path, text in _texts(_english(block)).items():
        assert text, path


@in_every_language
def test_blocks_are_the_packs(language):
    assert NODE_DEFS[language].keys() == BLOCKS.keys()


@in_every_language
def test_categories_are_translated(language):
    file = ROOT / "locales" / language / "main.json"
    assert json.loads(file.read_text(encoding="utf-8")).keys() == {"nodeCategories"}
    translated = json.loads(file.read_text(encoding="utf-8"))["nodeCategories"]
    folders = {folder for block in BLOCKS.values() for folder in block.category.split("/")}
    assert translated.keys() | {PACK} == folders
    assert all(translated.values())


@in_every_language
@of_every_block
def test_every_text_is_translated(language, block):
    english, translated = _texts(_english(block)), _texts(NODE_DEFS[language][block])
    assert translated.keys() == english.keys()
    for path, text in english.items():
        assert translated[path], path
        assert not re.search(r"[{}@|]", translated[path]), f"{path}: the front end reads these signs as its syntax"
        if not path.endswith("name"):
            assert translated[path] != text, path
            assert _lost(text, translated[path]) == [], path
    assert translated["display_name"].startswith(PACK)


@in_every_language
@of_every_block
def test_tooltips_name_the_choices(language, block):
    """A choice that the English tooltip names, such as heun, is on the widget in every language."""
    texts = NODE_DEFS[language][block]["inputs"]
    for line in _page(block):
        entry = re.fullmatch(r"- `(\w+)` \((.+?)\): .+", line)
        if entry and entry[1] in texts:
            tooltip = _english(block)["inputs"][entry[1]]["tooltip"]
            for choice in re.findall(r"`(\w+)`", entry[2]):
                if re.search(rf"\b{choice}\b", tooltip):
                    assert choice in texts[entry[1]]["tooltip"], f"{entry[1]}: {choice}"


@in_every_language
@of_every_block
def test_help_page_says_the_same(language, block):
    """Line by line: of the same kind, with the same numbers, names and code."""
    english, translated = _page(block), _page(block, language)
    assert _kinds(translated) == _kinds(english)
    for number, (line, other) in enumerate(zip(english, translated, strict=True), start=1):
        assert _lost(line, other) == [], f"line {number}"
        assert not (_is_prose(line) and line == other), f"line {number} is not translated"


@in_every_language
@of_every_block
def test_help_page_has_the_names_that_the_block_shows(language, block):
    texts = NODE_DEFS[language][block]
    outputs = {output.name: texts["outputs"][str(i)] for i, output in enumerate(BLOCKS[block].outputs) if output.name}
    page = _page(block, language)
    assert page[0] == f"# {texts['display_name']}"
    for line, english in zip(page, _page(block), strict=True):
        entry = re.match(r"- ((?:`\w+`(?:, )?)+)(?: \(|:)", english)
        for name in re.findall(r"\w+", entry[1] if entry else ""):
            shown = texts["inputs"].get(name) or outputs.get(name)
            assert shown is None or shown["name"] in line, name


def test_help_pages_have_a_language():
    """No page is in a language that the blocks are not in, or for a block that is not there."""
    pages = {(file.parent.name, file.stem) for file in DOCS.glob("*/*")}
    assert pages == {(block, language) for block in BLOCKS for language in LANGUAGES}
