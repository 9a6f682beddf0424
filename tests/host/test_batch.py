"""A worker of `batch --workflow` on the real ComfyUI: an exported graph, whose picture and words come from a row."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from i2vgen_core.batch.outputs import Outputs
from i2vgen_core.batch.workflow import Comfy, Workflow
from i2vgen_core.media.video import read_video

from . import graphs
from .available import HOST, PACK


@pytest.fixture
def worker(tmp_path: Path, bundles: Path) -> Iterator[tuple[Comfy, Outputs]]:
    base = tmp_path / "base"
    for name in ("models", "custom_nodes"):
        (base / name).mkdir(parents=True)
    (base / "models" / "diffusers").symlink_to(bundles, target_is_directory=True)
    (base / "custom_nodes" / "i2vgen_xl").symlink_to(PACK, target_is_directory=True)
    (tmp_path / "api.json").write_text(json.dumps(graphs.base_only()))
    settings = ["photo.inputs.image=@image", "clip_encode.inputs.prompt=prompt", "base.inputs.seed=seed"]
    outputs = Outputs(tmp_path / "out")
    workflow = Workflow.read(tmp_path / "api.json", settings)
    arguments = ["--base-directory", str(base), "--disable-api-nodes"]
    made = Comfy(workflow, HOST, arguments, "cpu", outputs.path)
    yield made, outputs
    made.close()
    outputs.close()


def test_rows_become_videos_and_what_cannot_be_is_the_rows_fault(worker: tuple[Comfy, Outputs], photo: Path) -> None:
    comfy, outputs = worker
    videos = []
    for prompt, picture in (("a cat", photo.name), ("a dog", photo.name), ("a cat", "no.png")):
        row = {"image": picture, "prompt": prompt, "seed": 7}
        job = comfy._workflow.job(1, row, str(photo.parent))
        report, _ = comfy.run(job, None)
        if picture == photo.name:
            assert report.error is None, report.traceback
            frames, rate = read_video(outputs.find(job.name))
            assert frames.shape == (graphs.FRAMES, graphs.HEIGHT, graphs.WIDTH, 3) and rate == graphs.RATE
            videos.append(frames)
        else:
            assert report.final and "expected a file" in report.error
    assert (videos[0] - videos[1]).abs().max() > 0.01, "the prompt is read"
    left = {path.suffix for path in comfy._own.rglob("*") if path.is_file()}
    assert not left & {".png", ".mp4"}, "nothing is left behind"

    job = comfy._workflow.job(1, {"image": photo.name, "prompt": "a cat", "seed": 8}, str(photo.parent))
    job.content["base.inputs.seed"] = -1
    report, _ = comfy.run(job, None)
    assert report.final and "expected a graph that ComfyUI takes" in report.error, report
