"""Graphs of the front end, from their nodes and wires: what is laid out here, `workflows/` and `subgraphs/` hold.

`nodes.json` has what the front end knows of every type of node used: inputs, outputs, widgets with their defaults, and
the least size. `python -m tests.templates.make --nodes` records it anew.
"""

from __future__ import annotations

import json
import math
import uuid
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

NODES = Path(__file__).with_name("nodes.json")
BYPASSED = 4
"""A bypassed node hands its input on; one without inputs is left out, and the front end asks for none of its files."""

_ROOM = {
    "I2VGenXLCLIPEncode": (400, 420),
    "CLIPTextEncode": (400, 150),
    "PreviewImage": (300, 230),
    "SaveVideo": (420, 420),
    "I2VGenXLInspectConditioning": (340, 0),
    "PreviewAny": (400, 260),
    "I2VGenXLBaseSampler": (0, 380),
    "I2VGenXLRefineSampler": (0, 480),
    "KSampler": (0, 430),
    "SamplerCustomAdvanced": (0, 270),
}
"""Sizes of nodes that show pictures or text; every other node has the least that the front end gives it."""
_WIDTH, _NOTE_WIDTH = 290, 440
_TITLE, _GAP, _PAD, _GROUP_TITLE = 30, 25, 20, 45  # pixels: of a node's title, between boxes, around a group's nodes
_LINE, _LETTERS = 13, 76  # a note's line in pixels, and the letters on it
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
        return recorded()[self.node.type]["outputs"][self.slot]["type"]


@dataclass(eq=False)
class Node:
    """A node of a graph. `node["NAME"]` is an output; the node itself stands for its first one."""

    id: int
    type: str
    title: str | None
    wires: dict[str, Output]
    widgets: dict[str, Any]
    models: list[dict[str, str]]
    bypassed: bool
    size: tuple[int, int]
    position: tuple[int, int] = (0, 0)

    def __getitem__(self, name: str) -> Output:
        names = [output["name"] for output in recorded()[self.type]["outputs"]]
        return Output(self, names.index(name))


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
        node_type: str,
        *,
        title: str | None = None,
        models: list[dict[str, str]] | None = None,
        bypassed: bool = False,
        room: int = 0,
        values: dict[str, Any] | None = None,
        **inputs: Any,
    ) -> Node:
        """Adds a node.

        Args:
            node_type: a key of nodes.json.
            title: in place of the type's own.
            models: released files that its widgets may name, as the front end wants them to offer the download.
            bypassed: see BYPASSED.
            room: height in pixels, at least.
            values: inputs whose names are no Python names.
            inputs: by name, a Node or an Output as the wire, anything else as the widget's value.

        Raises:
            KeyError: for a type or an input that the front end does not know.
        """
        known = recorded()[node_type]
        given = {**inputs, **(values or {})}
        wires = {name: _output(value) for name, value in given.items() if isinstance(value, Node | Output)}
        widgets = dict(known["widgets"])
        for name, value in given.items():
            if name not in wires and name not in widgets:
                raise KeyError(f"{node_type} has no widget {name!r}; it has {', '.join(widgets)}")
            if name not in wires:
                widgets[name] = value
        if absent := wires.keys() - {each["name"] for each in known["inputs"]}:
            raise KeyError(f"{node_type} has no input {', '.join(sorted(absent))}")
        room_width, room_height = _ROOM.get(node_type, (0, 0))
        size = (max(known["size"][0], room_width, self.width), max(known["size"][1], room_height, room))
        node = Node(self.graph.next_id(), node_type, title, wires, widgets, models or [], bypassed, size)
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
        self.name, self.note, self.title = name, note.strip() + "\n", title or name
        self._columns: list[list[Group]] = []
        self._last_id = 1 if note else 0

    def next_id(self) -> int:
        self._last_id += 1
        return self._last_id

    def group(self, title: str, *, below: bool = False, width: int = _WIDTH) -> Group:
        """A new group, in a new column or below the last group; its nodes are at least `width` pixels wide."""
        made = Group(title, self, width)
        if below:
            self._columns[-1].append(made)
        else:
            self._columns.append([made])
        return made

    @property
    def groups(self) -> list[Group]:
        return [group for column in self._columns for group in column]

    @property
    def nodes(self) -> list[Node]:
        return sorted((node for group in self.groups for node in group.nodes), key=lambda node: node.id)

    def workflow(self) -> dict[str, Any]:
        """As the front end saves it."""
        self._lay_out(_NOTE_WIDTH + 2 * _PAD)
        links = list(_links(self.nodes))
        nodes = [_saved(node, links, order) for order, node in enumerate(self.nodes, 1)]
        return {
            "id": str(uuid.uuid5(uuid.NAMESPACE_URL, f"comfyui-i2vgen-xl/{self.name}")),
            "revision": 0,
            "last_node_id": self._last_id,
            "last_link_id": len(links),
            "nodes": [self._saved_note(), *nodes],
            "links": [[each.id, each.source.id, each.slot, each.target.id, each.entry, each.type] for each in links],
            "groups": self.saved_groups(),
            "config": {},
            "extra": {"ds": {"scale": 0.6, "offset": [140, 230]}, "frontendVersion": "1.49.6"},
            "version": 0.4,
        }

    def prompt(self) -> dict[str, dict[str, Any]]:
        """In API format, as the front end sends it to the server: without what is bypassed."""
        return {
            str(node.id): {
                "class_type": node.type,
                "inputs": {name: value for name, value in node.widgets.items() if name not in _FRONT_END_ALONE}
                | {name: [str(source.node.id), source.slot] for name, source in _sources(node)},
            }
            for node in self.nodes
            if not node.bypassed
        }

    def _lay_out(self, x: int) -> None:
        for column in self._columns:
            y = 0
            width = max(node.size[0] for group in column for node in group.nodes)
            for group in column:
                top = y
                y += _GROUP_TITLE + _TITLE
                for node in group.nodes:
                    node.size = (width, node.size[1])
                    node.position = (x + _PAD, y)
                    y += node.size[1] + _TITLE + _GAP
                y += _PAD - _TITLE - _GAP
                group.bounds = (x, top, width + 2 * _PAD, y - top)
                y += _GAP
            x += width + 2 * _PAD + _GAP

    def saved_groups(self) -> list[dict[str, Any]]:
        shared = {"color": "#3f789e", "font_size": 24, "flags": {}}
        return [
            {"id": number, "title": group.title, "bounding": list(group.bounds), **shared}
            for number, group in enumerate(self.groups, 1)
        ]

    def _saved_note(self) -> dict[str, Any]:
        lines = sum(max(1, math.ceil(len(line) / _LETTERS)) for line in self.note.splitlines())
        return {
            "id": 1,
            "type": "MarkdownNote",
            "pos": [0, _TITLE],
            "size": [_NOTE_WIDTH, 80 + _LINE * lines],
            "flags": {},
            "order": 0,
            "mode": 0,
            "inputs": [],
            "outputs": [],
            "title": "About this workflow",
            "properties": {},
            "widgets_values": [self.note],
            "widgets_values_named": {"text": self.note},
            "color": "#432",
            "bgcolor": "#000",
        }


class Blueprint(Graph):
    """A graph that becomes one node, offered among the front end's subgraph blueprints.

    Args:
        name: of the file and of the node.
        description: for people who search for it.
    """

    def __init__(self, name: str, description: str):
        super().__init__(name)
        self.description = description
        self.exposed: list[tuple[str, list[tuple[Node, str]]]] = []
        self._outputs: list[tuple[str, Output]] = []

    def expose(self, name: str, *targets: tuple[Node, str]) -> None:
        """Makes inputs of nodes inside one input of the block; a widget shows as the block's own."""
        self.exposed.append((name, list(targets)))

    def give(self, name: str, output: Node | Output) -> None:
        """Makes an output inside one of the block's."""
        self._outputs.append((name, _output(output)))

    def workflow(self) -> dict[str, Any]:
        self._lay_out(200)
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
                inner.append(
                    {
                        "id": number,
                        "origin_id": -10,
                        "origin_slot": slot,
                        "target_id": target.id,
                        "target_slot": _entry(target.type, entry),
                        "type": _input(*targets[0])["type"],
                    }
                )
            kind = _input(*targets[0])["type"]
            inputs.append(
                {"id": self._id(f"in {name}"), "name": name, "type": kind, "linkIds": ids, "pos": [100, 20 + 20 * slot]}
            )
        given: dict[tuple[int, int], list[int]] = {}
        right = max(group.bounds[0] + group.bounds[2] for group in self.groups) + 80
        for slot, (name, output) in enumerate(self._outputs):
            number += 1
            given.setdefault((output.node.id, output.slot), []).append(number)
            inner.append(
                {
                    "id": number,
                    "origin_id": output.node.id,
                    "origin_slot": output.slot,
                    "target_id": -20,
                    "target_slot": slot,
                    "type": output.type,
                }
            )
            pos = [right + 20, 20 + 20 * slot]
            outputs.append(
                {"id": self._id(f"out {name}"), "name": name, "type": output.type, "linkIds": [number], "pos": pos}
            )
        nodes = [_saved(node, links, order, fed, given) for order, node in enumerate(self.nodes)]
        definition = {
            "id": self._id("definition"),
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
            "inputNode": {"id": -10, "bounding": [0, 0, 120, 40 + 20 * len(inputs)]},
            "outputNode": {"id": -20, "bounding": [right, 0, 120, 40 + 20 * len(outputs)]},
            "inputs": inputs,
            "outputs": outputs,
            "widgets": [],
            "nodes": nodes,
            "groups": self.saved_groups(),
            "links": inner,
            "extra": {"workflowRendererVersion": "LG"},
        }
        block_id = self._last_id + 1
        values = {
            name: targets[0][0].widgets[targets[0][1]]
            for name, targets in self.exposed
            if targets[0][1] in targets[0][0].widgets
        }
        block = {
            "id": block_id,
            "type": definition["id"],
            "pos": [0, 0],
            "size": [400, 80 + 30 * len(self.exposed)],
            "flags": {},
            "order": 0,
            "mode": 0,
            "inputs": [
                {"name": each["name"], "type": each["type"], "link": None}
                | ({"widget": {"name": each["name"]}} if each["name"] in values else {})
                for each in inputs
            ],
            "outputs": [{"name": each["name"], "type": each["type"], "links": []} for each in outputs],
            "title": self.name,
            "properties": {},
            "widgets_values": list(values.values()),
        }
        return {
            "revision": 0,
            "last_node_id": block_id,
            "last_link_id": 0,
            "nodes": [block],
            "links": [],
            "version": 0.4,
            "definitions": {"subgraphs": [definition]},
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


def _links(nodes: list[Node]) -> Any:
    number = 0
    for target in nodes:
        for name, output in target.wires.items():
            number += 1
            yield _Link(number, output.node, output.slot, target, _entry(target.type, name), output.type)


def _saved(
    node: Node,
    links: list[_Link],
    order: int,
    fed: dict[tuple[int, str], int] | None = None,
    given: dict[tuple[int, int], list[int]] | None = None,
) -> dict[str, Any]:
    known = recorded()[node.type]
    into = {each.entry: each.id for each in links if each.target is node}
    properties: dict[str, Any] = {
        "cnr_id": "comfyui-i2vgen-xl" if node.type.startswith("I2VGenXL") else "comfy-core",
        "Node name for S&R": node.type,
    }
    if node.models:
        properties["models"] = node.models
    inputs = []
    for entry, each in enumerate(known["inputs"]):
        saved = {key: value for key, value in each.items() if key != "widget"}
        saved["link"] = into.get(entry, (fed or {}).get((node.id, each["name"])))
        if "widget" in each:
            saved["widget"] = {"name": each["widget"]}
        inputs.append(saved)
    outputs = []
    for slot, each in enumerate(known["outputs"]):
        out = [link.id for link in links if link.source is node and link.slot == slot]
        out += (given or {}).get((node.id, slot), [])
        outputs.append({**each, "links": out or None})
    return {
        "id": node.id,
        "type": node.type,
        "pos": list(node.position),
        "size": list(node.size),
        "flags": {},
        "order": order,
        "mode": BYPASSED if node.bypassed else 0,
        "inputs": inputs,
        "outputs": outputs,
        **({"title": node.title} if node.title else {}),
        "properties": properties,
        "widgets_values": list(node.widgets.values()),
        "widgets_values_named": node.widgets,
    }


def _sources(node: Node) -> Any:
    """Wires into a node, each from the node that runs: a bypassed one hands on its first input of the output's type."""
    for name, output in node.wires.items():
        source: Output | None = output
        while source and source.node.bypassed:
            kinds = {each["name"]: each["type"] for each in recorded()[source.node.type]["inputs"]}
            same = (wire for entry, wire in source.node.wires.items() if kinds[entry] == source.type)
            source = next(same, None)
        if source:
            yield name, source


def _output(value: Node | Output) -> Output:
    return value if isinstance(value, Output) else Output(value, 0)


def _entry(node_type: str, name: str) -> int:
    return [each["name"] for each in recorded()[node_type]["inputs"]].index(name)


def _input(node: Node, name: str) -> dict[str, Any]:
    return recorded()[node.type]["inputs"][_entry(node.type, name)]


def text(workflow: dict[str, Any]) -> str:
    """A workflow as its file has it."""
    return json.dumps(workflow, indent=1, ensure_ascii=False) + "\n"
