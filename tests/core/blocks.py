"""The blocks' declarations, read from their source: no host is needed."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Slot:
    """An input or an output.

    Attributes:
        name: an input's name; an output's display name, empty where it shows its type.
        keywords: what else is declared.
    """

    name: str
    keywords: dict[str, ast.expr]

    def constant(self, keyword: str):
        """A keyword's value; None if it is absent or computed."""
        try:
            return ast.literal_eval(self.keywords[keyword])
        except (KeyError, ValueError):
            return None


@dataclass(frozen=True)
class Block:
    display_name: str
    category: str
    description: str
    inputs: list[Slot]
    outputs: list[Slot]


def _named(file: Path) -> dict[str, ast.expr]:
    """Values by the name that a module gives them, and those of the files beside or below it that it imports from."""
    named: dict[str, ast.expr] = {}
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom) and node.level == 1 and node.module:
            imported = file.parent.joinpath(*node.module.split(".")).with_suffix(".py")
            named |= _named(imported) if imported.is_file() else {}
        elif isinstance(node, ast.Assign):
            named |= {target.id: node.value for target in node.targets if isinstance(target, ast.Name)}
    return named


def read_blocks() -> dict[str, Block]:
    """Blocks by node id."""
    found = {}
    for file in sorted((ROOT / "nodes").glob("*.py")):
        names = _named(file)

        def value(node: ast.expr, names: dict[str, ast.expr] = names) -> ast.expr:
            return names.get(node.id, node) if isinstance(node, ast.Name) else node

        def slot(call: ast.Call, value=value) -> Slot:
            keywords = {keyword.arg: value(keyword.value) for keyword in call.keywords}
            name = call.args[0] if call.args else keywords.get("display_name", ast.Constant(""))
            return Slot(ast.literal_eval(name), keywords)

        for call in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if not isinstance(call, ast.Call):
                continue
            schema = {keyword.arg: value(keyword.value) for keyword in call.keywords}
            if "node_id" in schema:
                texts = (ast.literal_eval(schema[name]) for name in ("display_name", "category", "description"))
                slots = ([slot(value(item)) for item in schema[name].elts] for name in ("inputs", "outputs"))
                found[ast.literal_eval(schema["node_id"])] = Block(*texts, *slots)
    return found
