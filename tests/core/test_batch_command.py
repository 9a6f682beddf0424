"""`python -m i2vgen_core batch` as a user runs it: Ray starts on this machine, and the outputs are those of `generate`."""

import argparse
import json
import os
import pickle
import subprocess
import sys
import time
from pathlib import Path
from tempfile import gettempdir

import pytest
import torch

from i2vgen_core.__main__ import main
from i2vgen_core.batch.stages import cascade_job
from i2vgen_core.commands.batch import _cascade, _per_stage, add_arguments
from i2vgen_core.media.images import write_image

ROOT = Path(__file__).parents[2]
FAKE = Path(__file__).parent / "fake_comfyui"
SMALL = {"width": 64, "height": 64, "frames": 2, "steps": 1, "refine_width": 72, "refine_height": 64, "refine_steps": 1}


def batch(table, rows, *more):
    """Runs it on rows; exit code, what was said, and the manifest's lines by row."""
    pytest.importorskip("ray", reason="ray not installed: pip install 'comfyui-i2vgen-xl[batch]'")
    table.write_text("".join(json.dumps(row) + "\n" for row in rows))
    out = table.parent / "out"
    command = [sys.executable, "-m", "i2vgen_core", "batch", str(table), "--out", str(out), *map(str, more)]
    temporary = table.parent / "tmp"
    temporary.mkdir()
    # Ray's own niceness, 15, starves its workers on a busy machine. Its sockets' paths have 107 characters at most.
    environment = {**os.environ, "RAY_worker_niceness": "0", "TMPDIR": str(temporary), "RAY_TMPDIR": gettempdir()}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600, check=False)
    lines = [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()]
    return done.returncode, done.stderr, {line["row"]: line for line in lines}


@pytest.fixture
def picture(tmp_path):
    write_image(tmp_path / "a.png", torch.rand(70, 90, 3, generator=torch.Generator().manual_seed(1)))
    return tmp_path / "a.png"


def generated(picture, model, seed, *more):
    """The file that `generate` makes of it."""
    options = [f"--{name.replace('_', '-')}={value}" for name, value in SMALL.items()]
    options += ["--image", picture, "--prompt", "a fox", "--out", picture.with_name("one.mp4"), "--seed", seed]
    assert main(["generate", *map(str, [*options, "--model", model, "--device", "cpu", *more])]) == 0
    return picture.with_name("one.mp4").read_bytes()


def test_the_stages_make_what_generate_makes(bundles, tmp_path, picture):
    (tmp_path / "out").mkdir()
    plans, model = _cascade(parsed("--model", bundles(), out=tmp_path / "out"), gpus=0)
    job = cascade_job(1, {"image": "a.png", "prompt": "a fox", **SMALL, "file_fps": "12"}, str(tmp_path), model)
    value = None
    for plan in plans:
        report, value = pickle.loads(pickle.dumps(plan.kind(*plan.arguments).run(job, value)))
        assert report.error is None, report.traceback
    made = tmp_path / "out" / job.name[:3] / f"{job.name}.mp4"
    assert made.read_bytes() == generated(picture, bundles(), job.seed, "--file-fps", 12)


@pytest.mark.slow
def test_ray_starts_here_and_the_base_alone_runs(bundles, tmp_path, picture):
    rows = [{"image": "a.png", "prompt": "a fox", **SMALL}, {"image": "a.png", **SMALL}]
    code, said, lines = batch(tmp_path / "jobs.jsonl", rows, "--model", bundles(), "--stage", "base")
    assert code == 1, said
    assert "1 made, 0 there before, 1 failed" in said
    assert "dashboard: http://127.0.0.1:" in said
    assert lines[2]["error"] == "prompt: expected a value in every row, found none. Fill the column `prompt`."
    assert list(lines[1]["seconds"]) == ["encode", "base", "decode"]
    assert all(seconds > 0 for seconds in lines[1]["seconds"].values())
    made = (tmp_path / "out" / lines[1]["file"]).read_bytes()
    assert made == generated(picture, bundles(), lines[1]["seed"], "--stage", "base")


@pytest.mark.slow
def test_a_workflow_on_servers_that_fail(tmp_path):
    graph = {"1": {"class_type": "Save", "inputs": {"do": "", "text": "x", "image": "none", "seed": 3}}}
    (tmp_path / "api.json").write_text(json.dumps(graph))
    (tmp_path / "a.txt").write_text("a picture")
    rows = [{"do": "", "prompt": f"{n}", "image": "a.txt"} for n in range(6)]
    rows += [{"do": "hang", "prompt": "h", "image": "a.txt"}, {"do": "end", "prompt": "e", "image": "a.txt"}]
    settings = ["--set", "1.inputs.do=do", "--set", "1.inputs.text=prompt", "--set", "1.inputs.image=@image"]
    settings += ["--set", "1.inputs.seed=seed", "--workflow", tmp_path / "api.json", "--comfyui", FAKE, "--workers", 2]
    settings += ["--attempts", 2, "--backoff", "0.1", "--timeout", 5, "--server-args", f"--note {tmp_path / 'ran'}"]
    code, said, lines = batch(tmp_path / "jobs.jsonl", rows, *settings)
    assert code == 1, said
    for row in range(1, 7):
        made = json.loads((tmp_path / "out" / lines[row]["file"]).read_text())
        assert (made["text"], made["image"], made["seed"]) == (f"{row - 1}", "a picture", lines[row]["seed"])
    assert lines[7]["error"] == "stage comfy took longer than 5 s" and lines[7]["attempts"] == 2
    assert "ComfyUI's server" in lines[8]["error"] and lines[8]["attempts"] == 2
    ran = [line.split() for line in (tmp_path / "ran").read_text().splitlines()]
    assert sorted(text for _, text in ran) == ["0", "1", "2", "3", "4", "5", "e", "e", "h", "h"]
    for _ in range(100):  # those of workers that were killed are removed by a process of their own
        if not (folders := list((tmp_path / "tmp").glob("i2vgen-xl-comfyui-*"))):
            break
        time.sleep(0.1)
    assert folders == []
    for server in {int(server) for server, _ in ran}:
        with pytest.raises(ProcessLookupError):
            os.kill(server, 0)


# ---------------------------------------------------------------- options


def parsed(*arguments, out="out"):
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return parser.parse_args(["jobs.csv", "--out", str(out), *map(str, arguments)])


def test_workers_and_gpus_are_for_all_stages_or_for_each(bundles):
    options = parsed("--model", bundles(), "--workers", "3,refine=8", "--gpus", "1,encode=0")
    plans, _ = _cascade(options, gpus=16)
    assert [(plan.name, plan.workers, plan.gpus) for plan in plans] == [
        ("encode", 3, 0.0),
        ("base", 3, 1.0),
        ("refine", 8, 1.0),
        ("decode", 3, 1.0),
    ]
    assert [plan.arguments[1] for plan in plans] == ["cpu", "cuda", "cuda", "cuda"]
    plans, _ = _cascade(parsed("--model", bundles(), "--stage", "base"), gpus=1)
    assert [(plan.name, plan.workers, plan.gpus) for plan in plans] == [
        ("encode", 1, 0.25),
        ("base", 1, 0.25),
        ("decode", 1, 0.25),
    ]
    plans, _ = _cascade(parsed("--model", bundles()), gpus=0)
    assert {(plan.gpus, plan.arguments[1]) for plan in plans} == {(0, "cpu")}


@pytest.mark.parametrize("text", ["0", "none=2", "base=", "base=-1", ""])
def test_workers_that_cannot_be(text):
    with pytest.raises((argparse.ArgumentTypeError, ValueError)):
        _per_stage(int)(text)


@pytest.mark.parametrize(
    "more, message",
    [
        (("jobs.xlsx",), "JOBS: expected a table (.csv, .tsv, .txt, .jsonl, .ndjson, .parquet)"),
        (("nowhere.csv",), "JOBS: expected a table that can be read"),
        (("nowhere.csv", "--set", "1.inputs.a=b"), "--set: expected --workflow too"),
        (("nowhere.csv", "--workflow", "nowhere.json"), "--workflow: expected a graph in the API's form"),
    ],
)
@pytest.mark.slow
def test_what_cannot_be_used_is_said(more, message, tmp_path, caplog):
    pytest.importorskip("ray", reason="ray not installed: pip install 'comfyui-i2vgen-xl[batch]'")
    assert main(["batch", *more, "--out", str(tmp_path / "out")]) == 2
    assert f"error: {message}" in caplog.text
    assert not (tmp_path / "out").exists()


def test_without_ray_the_remedy_is_said(monkeypatch, tmp_path, caplog):
    monkeypatch.setitem(sys.modules, "ray", None)
    assert main(["batch", "jobs.csv", "--out", str(tmp_path / "out")]) == 2
    assert "pip install 'comfyui-i2vgen-xl[batch]'" in caplog.text
