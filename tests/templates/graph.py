"""Graphs of the front end, from their nodes and wires: what is laid out here, `workflows/` and `subgraphs/` hold.

`nodes.json` has what the front end knows of every type of node used: inputs, outputs, widgets with their defaults, and
the least size that both its renderers give it. `python -m tests.templates.make --nodes` records it anew.
"""

from __future__ import annotations

import json
import math
import re
import uuid
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

NODES = Path(__file__).with_name("nodes.json")
_PREVIEW = "$$canvas-image-preview"  # as the front end calls a node's preview of its pictures
BYPASSED = 4
"""A bypassed node hands its input on; one without inputs is left out, and the front end asks for none of its files."""

_ROOM = {
    "BatchImagesNode": 140,
    "CLIPLoader": 180,
    "CLIPVisionLoader": 130,
    "I2VGenXLAlignPose": 150,
    "I2VGenXLBaseLoader": 290,
    "I2VGenXLCascadeLoader": 290,
    "I2VGenXLCLIPEncode": 340,
    "I2VGenXLGlobalEncode": 320,
    "CLIPTextEncode": 130,
    "PreviewImage": 270,
    "PreviewAny": 340,
    "LoadImage": 330,
    "LoadMoGeModel": 130,
    "SDPoseKeypointExtractor": 190,
    "VAELoader": 130,
    "LoadImageMask": 330,
    "LoadVideo": 330,
    "SaveVideo": 360,
    "I2VGenXLBaseSampler": 620,
    "I2VGenXLRefineSampler": 700,
    "GetImageSize": 140,
    "I2VGenXLPrompt": 200,
    "I2VGenXLShots": 760,
    "I2VGenXLCtrlAdapterLoader": 130,
    "ControlNetLoader": 120,
    "KSampler": 520,
    "SamplerCustomAdvanced": 370,
}
"""Heights of nodes that show pictures or text, such as that a file is missing, in the renderer that needs more. Every other node
has the least that the front end gives it."""
_WIDTH, _NOTE_WIDTH = 245, 350
_TITLE, _GAP, _PAD, _GROUP_TITLE = 30, 16, 12, 40  # pixels: of a node's title, between boxes, around a group's nodes
_NOTE = {"around": 32, "line": 16, "letter": 4.9, "heading": 36, "paragraph": 4, "item": 8}
"""Pixels of a note's text in the renderer that needs more: widths and heights, and what a paragraph and an item add."""
_PAGE, _FILLED = (1440, 900), 0.75
"""Of the window that the templates are laid out for, and the share of it that the front end fills with a template."""
_FRONT_END_ALONE = ("control_after_generate", "upload")


@cache
def recorded() -> dict[str, Any]:
    """What the front end knows of each type of node, see nodes.json."""
    return json.loads(NODES.read_text(encoding="utf-8"))


@dataclass(frozen=True)
class Output:
    """One output of a node, to be wired to an input."""

    node: Node
    slot: int

    @property
    def type(self) -> str:
        return self.node.known["outputs"][self.slot]["type"]


@dataclass(eq=False)
class Node:
    """A node of a graph. `node["NAME"]` is an output; the node itself stands for its first one.

    Attributes:
        known: what the front end knows of its type, as nodes.json has it.
        block: what it holds, if it is a block of a graph of its own.
        properties: what the front end keeps with the node, beside what every node has.
        size: the least, in pixels.
        width: of its column.
    """

    id: int
    type: str
    title: str | None
    wires: dict[str, Output]
    widgets: dict[str, Any]
    properties: dict[str, Any]
    bypassed: bool
    size: tuple[int, int]
    known: dict[str, Any]
    block: Blueprint | None = None
    position: tuple[int, int] = (0, 0)
    width: int = 0

    def __getitem__(self, name: str) -> Output:
        return Output(self, [output["name"] for output in self.known["outputs"]].index(name))

    def entry(self, name: str) -> int:
        """Number of an input."""
        return [each["name"] for each in self.known["inputs"]].index(name)


@dataclass
class Group:
    """A stage: its nodes stand below each other."""

    title: str
    graph: Graph
    width: int
    nodes: list[Node] = field(default_factory=list)
    bounds: tuple[int, int, int, int] = (0, 0, 0, 0)

    def add(
        self,
        node_type: str | Blueprint,
        *,
        title: str | None = None,
        models: list[dict[str, str]] | None = None,
        properties: dict[str, Any] | None = None,
        bypassed: bool = False,
        room: int = 0,
        values: dict[str, Any] | None = None,
        **inputs: Any,
    ) -> Node:
        """Adds a node.

        Args:
            node_type: a key of nodes.json, or a block of a graph of its own.
            title: in place of the type's own.
            models: released files that its widgets may name, as the front end wants them to offer the download.
            properties: see Node.
            bypassed: see BYPASSED.
            room: height in pixels, at least.
            values: inputs whose names are no Python names.
            inputs: by name, a Node or an Output as the wire, anything else as the widget's value. A widget with a wire has
                the value that it shows in `values`.

        Raises:
            KeyError: for a type or an input that the front end does not know.
        """
        block = node_type if isinstance(node_type, Blueprint) else None
        name = block.id if block else str(node_type)
        known = block.known() if block else recorded()[name]
        given = [*inputs.items(), *(values or {}).items()]
        wires = {entry: _output(value) for entry, value in given if isinstance(value, Node | Output)}
        widgets = dict(known["widgets"])
        for entry, value in given:
            if isinstance(value, Node | Output):
                continue
            if entry not in widgets:
                raise KeyError(f"{name} has no widget {entry!r}; it has {', '.join(widgets)}")
            widgets[entry] = value
        if absent := wires.keys() - {each["name"] for each in known["inputs"]}:
            raise KeyError(f"{name} has no input {', '.join(sorted(absent))}")
        size = (max(known["size"][0], self.width), max(known["size"][1], _ROOM.get(name, 0), room))
        kept = {**(block.properties() if block else {}), **({"models": models} if models else {}), **(properties or {})}
        title = title or (block.name if block else None)
        node = Node(self.graph.next_id(), name, title, wires, widgets, kept, bypassed, size, known, block)
        self.nodes.append(node)
        return node


class Graph:
    """One template: a note, then groups in columns from left to right.

    Args:
        name: a short one, for its output files.
        note: Markdown, shown on the left.
        title: of the file, which the front end shows.
    """

    def __init__(self, name: str, note: str = "", title: str = ""):
        self.name, self.note, self.title = name, note.strip() + "\n" if note else "", title or name
        self.groups: list[Group] = []
        self._note_id = self._last_id = 1 if note else 0

    def next_id(self) -> int:
        self._last_id += 1
        return self._last_id

    def group(self, title: str, *, width: int = _WIDTH) -> Group:
        """A new group behind the others, whose nodes are at least `width` pixels wide."""
        self.groups.append(Group(title, self, width))
        return self.groups[-1]

    @property
    def nodes(self) -> list[Node]:
        return sorted((node for group in self.groups for node in group.nodes), key=lambda node: node.id)

    def workflow(self) -> dict[str, Any]:
        """As the front end saves it."""
        self._lay_out()
        links = list(_links(self.nodes))
        nodes = [_saved(node, links, order) for order, node in enumerate(self.nodes, 1)]
        blocks = {node.type: node.block for node in self.nodes if node.block}
        scale, offset = self._view()
        return {
            "id": str(uuid.uuid5(uuid.NAMESPACE_URL, f"comfyui-i2vgen-xl/{self.name}")),
            "revision": 0,
            "last_node_id": self._last_id,
            "last_link_id": len(links),
            "nodes": [self._saved_note(), *nodes],
            "links": [[each.id, each.source.id, each.slot, each.target.id, each.entry, each.type] for each in links],
            "groups": self.saved_groups(),
            **({"definitions": {"subgraphs": [block.definition() for block in blocks.values()]}} if blocks else {}),
            "config": {},
            "extra": {"ds": {"scale": scale, "offset": offset}, "frontendVersion": "1.49.6"},
            "version": 0.4,
        }

    def prompt(self, inside: str = "") -> dict[str, dict[str, Any]]:
        """In API format, as the front end sends it to the server: without what is bypassed, and blocks unpacked.

        Args:
            inside: what stands before the nodes' ids: those of the blocks that they are in.
        """
        found: dict[str, dict[str, Any]] = {}
        for node in self.nodes:
            if node.bypassed:
                continue
            inputs = {name: value for name, value in node.widgets.items() if name not in _FRONT_END_ALONE}
            inputs |= {name: _address(source, inside) for name, source in _sources(node)}
            if node.block is None:
                found[f"{inside}{node.id}"] = {"class_type": node.type, "inputs": inputs}
                continue
            within = node.block.prompt(f"{inside}{node.id}:")
            for name, targets in node.block.exposed:
                for target, entry in targets if name in inputs else []:
                    within[f"{inside}{node.id}:{target.id}"]["inputs"][entry] = inputs[name]
            found |= within
        return found

    def bounds(self) -> tuple[int, int, int, int]:
        """Left, top, width and height of all nodes, in the graph's pixels, with the titles."""
        boxes = [(*node.position, node.width, node.size[1]) for node in self.nodes]
        boxes.append((0, _TITLE, *self._note_size()))
        left, top = (min(box[axis] for box in boxes) for axis in (0, 1))
        right, bottom = (max(box[axis] + box[axis + 2] for box in boxes) for axis in (0, 1))
        return left, top - _TITLE, right - left, bottom - top + _TITLE

    def _view(self) -> tuple[float, list[float]]:
        """Scale and offset at which the front end shows the whole graph in a window of _PAGE."""
        left, top, width, height = self.bounds()
        scale = min(_FILLED * _PAGE[0] / (width + 20), _FILLED * _PAGE[1] / (height + 20))
        offset = [_PAGE[0] / scale / 2 - left - width / 2, _PAGE[1] / scale / 2 - top - height / 2]
        return round(scale, 3), [round(value, 1) for value in offset]

    def _lay_out(self) -> None:
        """Note and groups below each other in columns, of the height at which the whole is shown largest."""
        tallest = max(group_height(group) for group in self.groups)
        heights = range(tallest, max(tallest, 2000) + 1, 20)
        self._place(max(heights, key=lambda height: (self._place(height), -height)))

    def _place(self, height: int) -> float:
        """Columns no higher than this, each group in the first that has room and is not left of what it is wired to.
        Returns the scale at which the whole is shown."""
        note_width, note_height = self._note_size()
        columns: list[list[Group]] = [[]]
        filled = [note_height + _TITLE + _GAP]
        place: dict[Node, int] = {}
        for group in self.groups:
            sources = (output.node for node in group.nodes for output in node.wires.values())
            number = max((place[node] for node in sources if node in place), default=0)
            number = max(number, min(1, len(columns) - 1))  # once the note's column is left, it stays so
            while number < len(columns) and filled[number] + group_height(group) > height:
                number += 1
            if number == len(columns):
                columns.append([])
                filled.append(0)
            columns[number].append(group)
            filled[number] += group_height(group) + _GAP
            place |= dict.fromkeys(group.nodes, number)
        x, y = 0, note_height + _TITLE + _GAP
        for number, column in enumerate(columns):
            width = max((node.size[0] for group in column for node in group.nodes), default=0)
            width = max(width, note_width - 2 * _PAD) if number == 0 else width
            for group in column:
                top = y
                y += _GROUP_TITLE + _TITLE
                for node in group.nodes:
                    node.width, node.position = width, (x + _PAD, y)
                    y += node.size[1] + _TITLE + _GAP
                y += _PAD - _TITLE - _GAP
                group.bounds = (x, top, width + 2 * _PAD, y - top)
                y += _GAP
            x, y = x + width + 2 * _PAD + _GAP, 0
        return self._view()[0]

    def saved_groups(self) -> list[dict[str, Any]]:
        shared = {"color": "#3f789e", "font_size": 24, "flags": {}}
        return [
            {"id": number, "title": group.title, "bounding": list(group.bounds), **shared}
            for number, group in enumerate(self.groups, 1)
        ]

    def _note_size(self) -> tuple[int, int]:
        """As wide as all notes, as high as its text."""
        letters = (_NOTE_WIDTH - 24) / _NOTE["letter"]
        height = _NOTE["around"]
        for text in filter(None, self.note.splitlines()):
            shown = re.sub(r"\]\([^)]*\)|[*`#\[]", "", text)
            if text.startswith("#"):
                height += _NOTE["heading"]
                continue
            item = re.match(r"- |\d\. ", text)
            lines = math.ceil(len(shown) / (letters - 6 if item else letters))
            height += lines * _NOTE["line"] + _NOTE["item" if item else "paragraph"]
        return _NOTE_WIDTH, round(height)

    def _saved_note(self) -> dict[str, Any]:
        return {
            "id": self._note_id,
            "type": "MarkdownNote",
            "pos": [0, _TITLE],
            "size": list(self._note_size()),
            "flags": {},
            "order": 0,
            "mode": 0,
            "inputs": [],
            "outputs": [],
            "title": "About this workflow",
            "properties": {},
            "widgets_values": [self.note],
            "widgets_values_named": {"text": self.note},
        }


class Blueprint(Graph):
    """A graph that becomes one node, offered among the front end's subgraph blueprints.

    Args:
        name: of the file and of the node.
        description: for people who search for it.
        note: as in a Graph, seen by those who look inside.
        size: of the node, in pixels, with what it shows during a run.
        first_id: of its nodes, above those of the graphs and blocks that it stands beside: ids of one workflow differ.
    """

    def __init__(self, name: str, description: str, note: str, size: tuple[int, int], first_id: int):
        super().__init__(name, note)
        self._note_id = self._last_id = first_id
        self.description, self._size = description, size
        self.exposed: list[tuple[str, list[tuple[Node, str]]]] = []
        self._outputs: list[tuple[str, Output]] = []
        self._shown: list[Node] = []

    @property
    def id(self) -> str:
        """Type of its node."""
        return self._id("definition")

    def expose(self, name: str, *targets: tuple[Node, str]) -> None:
        """Makes inputs of nodes inside one input of the block; a widget shows as the block's own."""
        self.exposed.append((name, list(targets)))

    def give(self, name: str, output: Node | Output) -> None:
        """Makes an output inside one of the block's."""
        self._outputs.append((name, _output(output)))

    def show(self, node: Node) -> None:
        """Shows a node's previews on the block."""
        self._shown.append(node)

    def output(self, slot: int) -> Output:
        """What is inside behind an output of the block."""
        return self._outputs[slot][1]

    def properties(self) -> dict[str, Any]:
        """Of its node, as the front end keeps them."""
        previews = [
            {"name": _PREVIEW, "sourceNodeId": str(node.id), "sourcePreviewName": _PREVIEW} for node in self._shown
        ]
        return {"previewExposures": previews}

    def known(self) -> dict[str, Any]:
        """What nodes.json has of other nodes."""
        inputs, widgets = [], {}
        for name, ((target, entry), *_) in self.exposed:
            kind = target.known["inputs"][target.entry(entry)]
            shape = {"shape": kind["shape"]} if "shape" in kind and "widget" not in kind else {}
            inputs.append(
                {"name": name, "type": kind["type"], **shape, **({"widget": name} if "widget" in kind else {})}
            )
            if "widget" in kind:
                widgets[name] = target.widgets[entry]
        outputs = [{"name": name, "type": output.type} for name, output in self._outputs]
        return {"inputs": inputs, "outputs": outputs, "widgets": widgets, "size": list(self._size)}

    def definition(self) -> dict[str, Any]:
        """As workflows that use it have it."""
        self._lay_out()
        links = list(_links(self.nodes))
        inner, number = [link.saved() for link in links], len(links)
        inputs, outputs = [], []
        fed: dict[tuple[int, str], int] = {}
        for slot, (name, targets) in enumerate(self.exposed):
            ids = []
            for target, entry in targets:
                number += 1
                ids.append(number)
                fed[target.id, entry] = number
                ends = {
                    "origin_id": -10,
                    "origin_slot": slot,
                    "target_id": target.id,
                    "target_slot": target.entry(entry),
                }
                inner.append({"id": number, **ends, "type": _kind(*targets[0])})
            pos = [100, 20 + 20 * slot]
            inputs.append(
                {"id": self._id(f"in {name}"), "name": name, "type": _kind(*targets[0]), "linkIds": ids, "pos": pos}
            )
        given: dict[tuple[int, int], list[int]] = {}
        right = max(group.bounds[0] + group.bounds[2] for group in self.groups) + 80
        for slot, (name, output) in enumerate(self._outputs):
            number += 1
            given.setdefault((output.node.id, output.slot), []).append(number)
            ends = {"origin_id": output.node.id, "origin_slot": output.slot, "target_id": -20, "target_slot": slot}
            inner.append({"id": number, **ends, "type": output.type})
            pos = [right + 20, 20 + 20 * slot]
            outputs.append(
                {"id": self._id(f"out {name}"), "name": name, "type": output.type, "linkIds": [number], "pos": pos}
            )
        nodes = [_saved(node, links, order, fed, given) for order, node in enumerate(self.nodes, 1)]
        return {
            "id": self.id,
            "version": 1,
            "state": {
                "lastGroupId": len(self.groups),
                "lastNodeId": self._last_id,
                "lastLinkId": number,
                "lastRerouteId": 0,
            },
            "revision": 0,
            "config": {},
            "name": self.name,
            "description": self.description,
            "category": "I2VGen-XL",
            "inputNode": {"id": -10, "bounding": [-180, 0, 120, 40 + 20 * len(inputs)]},
            "outputNode": {"id": -20, "bounding": [right, 0, 120, 40 + 20 * len(outputs)]},
            "inputs": inputs,
            "outputs": outputs,
            "widgets": [],
            "nodes": [self._saved_note(), *nodes],
            "groups": self.saved_groups(),
            "links": inner,
            "extra": {"workflowRendererVersion": "LG"},
        }

    def workflow(self) -> dict[str, Any]:
        """As the front end saves a blueprint: a graph with its node alone."""
        outer = Graph(self.name)
        node = outer.group("").add(self)
        return {
            "revision": 0,
            "last_node_id": node.id,
            "last_link_id": 0,
            "nodes": [_saved(node, [], 0)],
            "links": [],
            "version": 0.4,
            "definitions": {"subgraphs": [self.definition()]},
            "extra": {"BlueprintDescription": self.description},
        }

    def _id(self, part: str) -> str:
        return str(uuid.uuid5(uuid.NAMESPACE_URL, f"comfyui-i2vgen-xl/{self.name}/{part}"))


@dataclass(frozen=True)
class _Link:
    id: int
    source: Node
    slot: int
    target: Node
    entry: int
    type: str

    def saved(self) -> dict[str, Any]:
        """As a subgraph has it; a workflow has a list."""
        return {
            "id": self.id,
            "origin_id": self.source.id,
            "origin_slot": self.slot,
            "target_id": self.target.id,
            "target_slot": self.entry,
            "type": self.type,
        }


def group_height(group: Group) -> int:
    """In pixels, with its title."""
    return _GROUP_TITLE + _PAD - _GAP + sum(node.size[1] + _TITLE + _GAP for node in group.nodes)


def _links(nodes: list[Node]) -> Any:
    number = 0
    for target in nodes:
        for name, output in target.wires.items():
            number += 1
            yield _Link(number, output.node, output.slot, target, target.entry(name), output.type)


def _saved(
    node: Node,
    links: list[_Link],
    order: int,
    fed: dict[tuple[int, str], int] | None = None,
    given: dict[tuple[int, int], list[int]] | None = None,
) -> dict[str, Any]:
    into = {each.entry: each.id for each in links if each.target is node}
    pack = "comfyui-i2vgen-xl" if node.block or node.type.startswith("I2VGenXL") else "comfy-core"
    properties = {"cnr_id": pack, **({} if node.block else {"Node name for S&R": node.type}), **node.properties}
    inputs = []
    for entry, each in enumerate(node.known["inputs"]):
        saved = {key: value for key, value in each.items() if key != "widget"}
        saved["link"] = into.get(entry, (fed or {}).get((node.id, each["name"])))
        if "widget" in each:
            saved["widget"] = {"name": each["widget"]}
        inputs.append(saved)
    outputs = []
    for slot, each in enumerate(node.known["outputs"]):
        out = [link.id for link in links if link.source is node and link.slot == slot]
        out += (given or {}).get((node.id, slot), [])
        outputs.append({**each, "links": out or None})
    return {
        "id": node.id,
        "type": node.type,
        "pos": list(node.position),
        "size": [node.width or node.size[0], node.size[1]],
        "flags": {},
        "order": order,
        "mode": BYPASSED if node.bypassed else 0,
        "inputs": inputs,
        "outputs": outputs,
        **({"title": node.title} if node.title else {}),
        "properties": properties,
        "widgets_values": list(node.widgets.values()),
        **({} if node.block else {"widgets_values_named": node.widgets}),
    }


def _sources(node: Node) -> Any:
    """Wires into a node, each from the node that runs: a bypassed one hands on its first input of the output's type."""
    for name, output in node.wires.items():
        source: Output | None = output
        while source and source.node.bypassed:
            kinds = {each["name"]: each["type"] for each in source.node.known["inputs"]}
            same = (wire for entry, wire in source.node.wires.items() if kinds[entry] == source.type)
            source = next(same, None)
        if source:
            yield name, source


def _address(output: Output, inside: str) -> list[Any]:
    """Of an output in API format, where blocks are unpacked."""
    while output.node.block:
        inside += f"{output.node.id}:"
        output = output.node.block.output(output.slot)
    return [f"{inside}{output.node.id}", output.slot]


def _output(value: Node | Output) -> Output:
    return value if isinstance(value, Output) else Output(value, 0)


def _kind(node: Node, entry: str) -> str:
    return node.known["inputs"][node.entry(entry)]["type"]


def text(workflow: dict[str, Any]) -> str:
    """A workflow as its file has it."""
    return json.dumps(workflow, indent=1, ensure_ascii=False) + "\n"
