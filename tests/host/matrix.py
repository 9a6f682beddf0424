"""The host's own nodes beside ours, row by row: what is run for docs/compatibility.md, and how it is judged.

    python -m tests.host.matrix docs/compatibility.md

writes the tables of docs/compatibility.md anew, in about five minutes, half of them for SLOW.
"""

from __future__ import annotations

import shutil
import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

from i2vgen_core.media.compare import psnr
from i2vgen_core.training.evaluate import Case, held_out_case

from .available import HOST, PACK
from .graphs import Graph
from .in_process import Host
from .matrix_files import Control, write_esrgan, write_lora, write_rife
from .matrix_rows import FPS, FRAMES, HEIGHT, ROWS, SCENE, SLOW, STEPS, WIDTH, Names, Row, plain

IMAGE = 18.0
"""dB of frame 0 against the given picture, above which the image counts as kept; the plain graph has 23."""


@dataclass(frozen=True)
class Outcome:
    """What came of a row. `kept` is "motion and image", one of them, or "neither"."""

    runs: bool
    shape: bool = False
    kept: str = ""


class Judge:
    """Says whether a clip shows the scene that was asked for."""

    @cached_property
    def case(self) -> Case:
        return held_out_case(SCENE, WIDTH, HEIGHT, FRAMES, fps=FPS)

    def kept(self, frames: Tensor) -> str:
        """Of frames [F, H, W, 3] of the whole clip, or of a part of it, however fast: whether the shape goes where the
        prompt says, and whether the first frame is the given picture."""
        small = torch.nn.functional.interpolate(frames.float().cpu().movedim(-1, 1), (HEIGHT, WIDTH), mode="area")
        small = small.movedim(1, -1)
        moves = self.case.obeyed(self.case.tracker(small))
        image = psnr(small[0], self.case.truth.frames[0]) >= IMAGE
        return {(True, True): "motion and image", (True, False): "motion", (False, True): "image"}.get(
            (moves, image), "neither"
        )


def run(host: Host, row: Row, judge: Judge) -> Outcome:
    """Runs a row on a host that `prepare` has been called for. Raises AssertionError for an error that is not the row's."""
    if row.saves is not None:
        _save(host, _known(host, row.saves(plain())))
    result = host.run(_known(host, row.graph(plain())), {"frames": ("frames", 0)}, reuse_cache=True)
    if row.refused:
        assert result.error is not None and row.refused in result.error, result.error
        return Outcome(False)
    assert result.error is None, f"{row.name}: {result.error_node}: {result.error}"
    frames = result.kept["frames"]
    assert frames.isfinite().all(), row.name
    clip = frames if row.judged is None else frames[list(row.judged)]
    return Outcome(True, tuple(frames.shape) == (row.frames, row.height, row.width, 3), judge.kept(clip))


def _known(host: Host, graph: Graph) -> Graph:
    """The graph without the inputs that this host's nodes do not have yet."""

    def offered(class_type: str) -> set[str]:
        types = host.nodes[class_type].INPUT_TYPES()
        return {name for group in ("required", "optional") for name in types.get(group, {})}

    return {
        name: {
            **each,
            "inputs": {key: value for key, value in each["inputs"].items() if key in offered(each["class_type"])},
        }
        for name, each in graph.items()
    }


def prepare(host: Host) -> None:
    """Puts the files that rows read into the host's folders, and what a graph cannot do otherwise among its nodes."""
    models = host.base_directory / "models"
    for name in ("loras", "upscale_models", "frame_interpolation"):
        (models / name).mkdir(parents=True, exist_ok=True)
    write_lora(models / "loras" / "matrix.safetensors")
    write_esrgan(models / "upscale_models" / "matrix.safetensors")
    write_rife(models / "frame_interpolation" / "matrix.safetensors")
    host.nodes["ControlForTest"] = Control


def _save(host: Host, graph: Graph) -> None:
    """Runs a graph and takes its file for the input of the next."""
    result = host.run(graph, reuse_cache=True)
    assert result.error is None, result.error
    (files,) = (value for value in result.outputs["save"].values() if isinstance(value[0], dict))
    source = host.base_directory / "output" / files[0]["subfolder"] / files[0]["filename"]
    shutil.copyfile(source, host.base_directory / "input" / f"matrix{source.suffix}")


def table(rows: tuple[Row, ...], outcomes: list[Outcome]) -> str:
    """As Markdown."""
    lines = ["| Nodes | Runs | Right shape | Kept | Note |", "|---|---|---|---|---|"]
    for row, outcome in zip(rows, outcomes, strict=True):
        shape = ("yes" if outcome.shape else "NO") if outcome.runs else ""
        cells = (row.name, "yes" if outcome.runs else "no, and says why", shape, outcome.kept, row.note)
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def sampler_table(rows: tuple[Row, ...], outcomes: list[Outcome]) -> str:
    """As Markdown: one line for all names with the same outcome."""
    found: dict[tuple[str, str, str], list[str]] = {}
    for row, outcome in zip(rows, outcomes, strict=True):
        kept = outcome.kept if row.note == f"{STEPS} steps" else "not judged"
        found.setdefault((row.note, "yes" if outcome.shape else "NO", kept), []).append(f"`{row.name}`")
    lines = ["| Sampler, scheduler | Steps | Right shape | Kept |", "|---|---|---|---|"]
    for (steps, shape, kept), names in found.items():
        lines.append(f"| {'; '.join(names)} | {steps.removesuffix(' steps')} | {shape} | {kept} |")
    return "\n".join(lines) + "\n"


MARKS = {
    "nodes": (
        "<!-- table of nodes: python -m tests.host.matrix docs/compatibility.md -->\n",
        "<!-- end of nodes -->\n",
    ),
    "slow": (
        "<!-- table of slow nodes: python -m tests.host.matrix docs/compatibility.md -->\n",
        "<!-- end of slow nodes -->\n",
    ),
    "samplers": (
        "<!-- table of samplers: python -m tests.host.matrix docs/compatibility.md -->\n",
        "<!-- end of samplers -->\n",
    ),
}


def written(document: str, name: str) -> str:
    """The table of this name that a document has."""
    begin, end = MARKS[name]
    return document.partition(begin)[2].partition(end)[0]


def main() -> None:
    document = Path(sys.argv[1])
    text = document.read_text(encoding="utf-8")
    with TemporaryDirectory() as place:
        folder = Path(place)
        for name in ("input", "output"):
            (folder / name).mkdir()
        host, judge = Host(HOST, PACK, folder), Judge()
        prepare(host)
        names = Names.of(host).rows()
        made = {
            "nodes": table(ROWS, [run(host, row, judge) for row in ROWS]),
            "slow": table(SLOW, [run(host, row, judge) for row in SLOW]),
            "samplers": sampler_table(names, [run(host, row, judge) for row in names]),
        }
    for name, content in made.items():
        text = text.replace(MARKS[name][0] + written(text, name), MARKS[name][0] + content)
    document.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
