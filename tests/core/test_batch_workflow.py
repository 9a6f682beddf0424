"""Jobs on ComfyUI servers: how columns reach the graph, and what a worker says of a server that fails. The server is a
stand-in; tests/host runs the real one."""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import pytest

from i2vgen_core.batch.jobs import Job
from i2vgen_core.batch.outputs import Outputs
from i2vgen_core.batch.workflow import Comfy, Workflow
from i2vgen_core.errors import InputError

ROOT = Path(__file__).parents[2]
FAKE = Path(__file__).parent / "fake_comfyui"
GRAPH = {
    "1": {
        "class_type": "Save",
        "inputs": {"do": "", "text": "x", "image": "none", "seed": 3, "cfg": 1.5, "from": ["2", 0]},
    }
}
SETTINGS = ["1.inputs.do=do", "1.inputs.text=prompt", "1.inputs.image=@image", "1.inputs.seed=seed", "1.inputs.cfg=cfg"]


def read(tmp_path, settings=SETTINGS, graph=GRAPH):
    file = tmp_path / "api.json"
    file.write_text(json.dumps(graph) if isinstance(graph, dict) else graph)
    return Workflow.read(file, settings)


def row(image="a.txt", **change):
    return {"do": "", "prompt": "a fox", "image": image, "cfg": "2", **change}


# ---------------------------------------------------------------- columns


def test_columns_become_values_of_the_kind_that_the_graph_has(tmp_path):
    job = read(tmp_path).job(4, row(other=1, seed="7"), "/jobs")
    assert (job.row, job.seed) == (4, 7)
    assert job.content == {
        "1.inputs.do": "",
        "1.inputs.text": "a fox",
        "1.inputs.image": "/jobs/a.txt",
        "1.inputs.seed": 7,
        "1.inputs.cfg": 2.0,
    }


def test_a_missing_seed_is_made_of_the_content(tmp_path):
    workflow = read(tmp_path)
    one, same, other = (workflow.job(1, row(**change), "/jobs") for change in ({}, {"other": 2}, {"prompt": "b"}))
    assert one == same and one.content["1.inputs.seed"] == one.seed != other.seed
    assert one.name != other.name
    changed = json.loads(json.dumps(GRAPH))
    changed["1"]["inputs"]["cfg"] = 3.5
    assert read(tmp_path, graph=changed).job(1, row(), "/jobs").name != one.name


@pytest.mark.parametrize(
    "change, message",
    [
        ({"prompt": None}, "prompt: expected a value in every row, found none"),
        ({"cfg": "much"}, "cfg: expected a number, found 'much'"),
        ({"seed": "x"}, "seed: expected a whole number"),
    ],
)
def test_a_row_that_does_not_fit(tmp_path, change, message):
    with pytest.raises(InputError, match=message):
        read(tmp_path).job(1, row(**change), "/jobs")


@pytest.mark.parametrize(
    "setting", ["1.inputs.no=a", "2.inputs.do=a", "1.inputs.from=a", "1.inputs.do", "1.do=a", "1.inputs.do=@"]
)
def test_a_setting_that_names_no_value(tmp_path, setting):
    with pytest.raises(InputError) as raised:
        read(tmp_path, [setting])
    assert "1.inputs.cfg, 1.inputs.do, 1.inputs.image, 1.inputs.seed, 1.inputs.text" in str(raised.value)


@pytest.mark.parametrize("graph", ["{", "[]x", {"nodes": [], "links": []}])
def test_a_file_that_is_no_graph(tmp_path, graph):
    with pytest.raises(InputError, match="--workflow: expected a graph in the API's form"):
        read(tmp_path, graph=graph)


# ---------------------------------------------------------------- the worker


@pytest.fixture
def outputs(tmp_path):
    folder = Outputs(tmp_path / "out")
    yield folder
    folder.close()


@pytest.fixture
def worker(tmp_path, outputs):
    (tmp_path / "a.txt").write_text("a picture")
    made = Comfy(read(tmp_path), FAKE, [], "cpu", outputs.path)
    yield made
    made.close()


def run(worker, tmp_path, **change):
    job = worker._workflow.job(1, row(**change), str(tmp_path))
    return job, worker.run(job, None)[0]


def test_one_file_comes_out_and_nothing_stays_behind(tmp_path, worker, outputs):
    job, report = run(worker, tmp_path, seed=7)
    assert report.error is None
    made = json.loads(outputs.find(job.name).read_text())
    assert made == {"do": "", "text": "a fox", "image": "a picture", "seed": 7, "cfg": 2.0, "from": ["2", 0]}
    left = {path.name for path in worker._own.rglob("*") if path.is_file()}
    assert left == {"server.log"}


@pytest.mark.parametrize(
    "what, message, final, broken",
    [
        ("invalid", "found {.*Prompt outputs failed validation", True, False),
        ("none", "expected one saved file a job, found none", True, False),
        ("two", "expected one saved file a job, found a.txt, b.txt", True, False),
        ("escape", "expected a file with an ending, found", True, False),
        ("fail", r"ComfyUI: node 1 \(Save\): out of memory", False, True),
        ("end", "ComfyUI's server (has ended with status 3|does not answer)", False, True),
    ],
)
def test_what_can_go_wrong_is_said(tmp_path, worker, outputs, what, message, final, broken):
    job, report = run(worker, tmp_path, do=what)
    assert re.search(message, report.error), report.error
    assert (report.final, report.broken) == (final, broken)
    assert outputs.find(job.name) is None


def test_a_file_that_is_not_there(tmp_path, worker):
    _, report = run(worker, tmp_path, image="no.txt")
    assert report.error.startswith("the job's file: expected a file, found nothing at") and report.final


def test_a_server_that_does_not_answer(tmp_path, worker, monkeypatch):
    monkeypatch.setattr("i2vgen_core.batch.workflow._ANSWER_SECONDS", 0.5)
    os.kill(worker.ready(), signal.SIGSTOP)
    _, report = run(worker, tmp_path)
    assert "ComfyUI's server does not answer (timed out)" in report.error and report.broken


def test_a_server_that_does_not_start(tmp_path, outputs):
    with pytest.raises(RuntimeError, match=r"(?s)ComfyUI does not start.*no models here"):
        Comfy(read(tmp_path), FAKE, ["--refuse-to-start"], "cpu", outputs.path)


def start_worker(tmp_path, environment=None):
    """A process with a worker in it, and its server."""
    read(tmp_path)
    code = (
        "import sys, time; from pathlib import Path; from i2vgen_core.batch.workflow import *;"
        "worker = Comfy(Workflow.read(Path(sys.argv[1]), []), Path(sys.argv[2]), [], 'cpu', Path(sys.argv[3]));"
        "print(worker.ready(), flush=True); time.sleep(600)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "api.json"), str(FAKE), str(tmp_path)]
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
    return process, psutil.Process(int(process.stdout.readline()))


@pytest.mark.skipif(sys.platform != "linux", reason="Linux ends the children of a killed process, where asked to")
def test_a_worker_that_is_killed_takes_its_server_along(tmp_path):
    process, server = start_worker(tmp_path)
    process.kill()
    process.wait()
    wait_until(lambda: not server.is_running() or server.status() == psutil.STATUS_ZOMBIE)


def own_folders(place):
    return list(place.glob("i2vgen-xl-comfyui-*"))


def wait_until(true):
    end = time.monotonic() + 20
    while not true() and time.monotonic() < end:
        time.sleep(0.05)
    assert true()


def test_a_workers_folder_goes_with_it(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    worker = Comfy(read(tmp_path), FAKE, [], "cpu", tmp_path)
    assert len(own_folders(tmp_path)) == 1
    worker.close()
    assert not own_folders(tmp_path)
    with pytest.raises(RuntimeError, match="does not start"):
        Comfy(read(tmp_path), FAKE, ["--refuse-to-start"], "cpu", tmp_path)
    assert not own_folders(tmp_path)


def test_the_folder_of_a_worker_that_is_killed_goes_too(tmp_path):
    process, _ = start_worker(tmp_path, {**os.environ, "TMPDIR": str(tmp_path)})
    assert len(own_folders(tmp_path)) == 1
    for child in psutil.Process(process.pid).children():  # as Ray does to a worker's
        child.kill()
    process.kill()
    process.wait()
    wait_until(lambda: not own_folders(tmp_path))


def test_nothing_runs_before_the_server_where_the_platform_has_no_such_thing(tmp_path, outputs, monkeypatch):
    """Windows refuses `preexec_fn`; the option to end with the parent is Linux's alone."""
    started = []

    class Popen(subprocess.Popen):
        def __init__(self, command, **options):
            started.append(options)
            super().__init__(command, **options)

    with monkeypatch.context() as patch:
        patch.setattr(subprocess, "Popen", Popen)
        patch.setattr(sys, "platform", "win32")
        worker = Comfy(read(tmp_path), FAKE, [], "cpu", outputs.path)
    worker.close()
    assert len(started) == 2 and not any(options.get("preexec_fn") for options in started)


def test_the_job_is_json(tmp_path):
    job = read(tmp_path).job(1, row(), "/jobs")
    assert Job(**json.loads(json.dumps(job.__dict__))) == job
