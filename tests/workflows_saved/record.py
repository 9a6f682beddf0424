"""Keeps a release's templates and the schema of its blocks, which every later version must open, run and extend.

    python -m tests.workflows_saved.record 0.2.0

writes the folder 0.2.0 here, once, at the release. What is recorded is never changed afterwards.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from ..host.available import HOST, PACK
from ..host.in_process import Host

HERE = Path(__file__).resolve().parent


def schema(node: Any) -> dict[str, Any]:
    """A block's inputs as [name, type] in the order of its widgets and sockets, the choices of those that have a fixed
    list, and its outputs as [name, type]."""
    groups = node.INPUT_TYPES()
    inputs, choices = [], {}
    for name, (kind, *settings) in (groups.get("required", {}) | groups.get("optional", {})).items():
        options = kind if isinstance(kind, list) else (settings[0] if settings else {}).get("options", [])
        inputs.append([name, "COMBO" if isinstance(kind, list) else kind])
        if options and name not in ("bundle", "model_name"):  # those list what the folders hold
            choices[name] = list(options)
    outputs = [list(each) for each in zip(node.RETURN_NAMES or node.RETURN_TYPES, node.RETURN_TYPES, strict=True)]
    return {"inputs": inputs, "choices": choices, "outputs": outputs}


def main(version: str) -> None:
    folder = HERE / version
    folder.mkdir()
    for file in (PACK / "workflows").glob("*.json"):
        shutil.copy(file, folder)
    with tempfile.TemporaryDirectory() as base:
        for name in ("input", "output", "models/diffusion_models", "models/loras"):
            Path(base, name).mkdir(parents=True)
        nodes = Host(HOST, PACK, Path(base)).nodes
        found = {name: schema(node) for name, node in sorted(nodes.items()) if name.startswith("I2VGenXL")}
    (folder / "schema" / "blocks.json").parent.mkdir()
    (folder / "schema" / "blocks.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    main(sys.argv[1])
