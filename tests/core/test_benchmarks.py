"""`python -m benchmarks`, with rows that cost nothing."""

import json
import sys

from benchmarks import __main__ as command
from benchmarks.rows import Row


def _row(_):
    yield Row("a row", 3.0, "of a unit", 2.0, 2.5, True, "", {})


def _nodes(_):
    raise AssertionError("it needs ComfyUI")


def test_rows_that_need_comfyui_are_left_out_without(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(command, "nodes", _nodes)
    monkeypatch.setattr(command, "GROUPS", {"first": _row, "nodes": _nodes, "last": _row})
    monkeypatch.setattr(command, "why_no_host", lambda: "ComfyUI not found: set COMFYUI_PATH")
    monkeypatch.setattr(sys, "argv", ["benchmarks", "--out", str(tmp_path)])
    assert command.main() == 0
    shown = capsys.readouterr()
    assert "without the rows of nodes: ComfyUI not found: set COMFYUI_PATH" in shown.err
    assert shown.out.count("a row") == 2
    assert set(json.loads((tmp_path / "benchmarks.json").read_text())["groups"]) == {"first", "last"}
