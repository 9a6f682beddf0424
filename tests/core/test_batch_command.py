"""`python -m i2vgen_core batch` as a user runs it: Ray starts on this machine, and the outputs are those of `generate`."""

import argparse
import json
import os
import pickle
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from tempfile import gettempdir
from types import SimpleNamespace
from typing import ClassVar

import pytest
import torch
from test_encoding import heard, with_sound

from i2vgen_core.__main__ import main
from i2vgen_core.batch.stages import cascade_job
from i2vgen_core.commands.batch import _cascade, _model, _per_stage, add_arguments
from i2vgen_core.media.images import write_image
from i2vgen_core.media.video import read_video

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


@pytest.mark.slow
def test_the_stages_make_what_generate_makes(bundles, tmp_path, picture):
    (tmp_path / "out").mkdir()
    plans, model = planned(parsed("--model", bundles(), out=tmp_path / "out"), gpus=0)
    job = cascade_job(1, {"image": "a.png", "prompt": "a fox", **SMALL, "file_fps": "12"}, str(tmp_path), model)
    value = None
    for plan in plans:
        report, value = pickle.loads(pickle.dumps(plan.kind(*plan.arguments).run(job, value)))
        assert report.error is None, report.traceback
    made = tmp_path / "out" / job.name[:3] / f"{job.name}.mp4"
    assert made.read_bytes() == generated(picture, bundles(), job.seed, "--file-fps", 12)


@pytest.fixture
def one_thread():
    """As Ray gives its workers: sums of more threads are rounded otherwise."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.slow
def test_ray_starts_here_and_the_base_alone_runs(bundles, tmp_path, picture, one_thread):
    rows = [{"image": "a.png", "prompt": "a fox", **SMALL}, {"image": "a.png", **SMALL}]
    code, said, lines = batch(tmp_path / "jobs.jsonl", rows, "--model", bundles(), "--stage", "base", "--no-plain")
    assert code == 1, said
    assert "1 made, 0 there before, 1 failed" in said and "failed: row 2: prompt: expected a value" in said
    assert "dashboard: " in said  # on a busy machine Ray gives its dashboard up, and goes on
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


# ---------------------------------------------------------------- without Ray, and what a person sees


@pytest.fixture
def plain(bundles, tmp_path, monkeypatch, caplog):
    """plain(rows, ...): runs a table in this process; exit code, the manifest's lines, and the links by name."""
    monkeypatch.setitem(sys.modules, "ray", None)
    caplog.set_level("INFO")

    def run(rows, *more):
        table, out = tmp_path / "jobs.jsonl", tmp_path / "out"
        table.write_text("".join(json.dumps({**SMALL, **row}) + "\n" for row in rows))
        caplog.clear()
        command = [
            "batch",
            table,
            "--out",
            out,
            "--model",
            bundles(),
            "--stage",
            "base",
            "--plain",
            "--backoff",
            0,
            *more,
        ]
        code = main([str(each) for each in command])
        lines = [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()]
        links = {path.name: path.resolve().name for path in (out / "results").glob("*")}
        return code, lines, links

    return run


def test_without_ray_the_outputs_are_the_same(plain, bundles, tmp_path, picture, caplog):
    code, lines, links = plain([{"image": "a.png", "prompt": "a fox"}])
    assert code == 0 and "1 made, 0 there before, 0 failed" in caplog.text
    assert list(lines[0]["seconds"]) == ["encode", "base", "decode"] and lines[0]["attempts"] == 1
    made = (tmp_path / "out" / lines[0]["file"]).read_bytes()
    assert made == generated(picture, bundles(), lines[0]["seed"], "--stage", "base")
    assert links == {"a-1.mp4": f"{lines[0]['name']}.mp4"}
    assert plain([{"image": "a.png", "prompt": "a fox"}])[0] == 0
    assert "0 made, 1 there before, 0 failed" in caplog.text


@pytest.mark.slow
def test_a_video_of_ones_own_is_refined(plain, bundles, picture, tmp_path, caplog):
    """In a table of videos alone, the first two stages are not there; beside pictures they pass it on."""
    with_sound(tmp_path / "clip.mp4")
    small = {"steps": None, "width": None, "height": None, "frames": None, "refine_height": 64, "refine_width": None}
    row = {"video": "clip.mp4", **small}
    code, lines, links = plain([row, {"image": "a.png", "prompt": "a fox"}], "--stage", "cascade")
    assert code == 0, caplog.text
    assert set(links) == {"clip-1.mp4", "a-2.mp4"} and len(lines) == 2
    frames, rate = read_video(tmp_path / "out" / "results" / "clip-1.mp4")
    assert frames.shape == (16, 64, 96, 3) and rate == 8
    assert heard(tmp_path / "out" / "results" / "clip-1.mp4")[0] == heard(tmp_path / "clip.mp4")[0]
    table = tmp_path / "videos.csv"
    table.write_text("video,refine_height,refine_steps,file_fps\nclip.mp4,64,1,16\n")
    command = ["batch", table, "--out", tmp_path / "more", "--model", bundles(), "--plain"]
    assert main([str(each) for each in command]) == 0, caplog.text
    (line,) = (tmp_path / "more" / "manifest.jsonl").read_text().splitlines()
    assert list(json.loads(line)["seconds"]) == ["refine", "decode"]
    assert read_video(tmp_path / "more" / "results" / "clip-1.mp4")[1] == 16
    assert heard(tmp_path / "more" / "results" / "clip-1.mp4") is None


def test_a_video_that_no_stage_takes(plain, picture, tmp_path, caplog):
    code, _, _ = plain([{"video": "clip.mp4"}, {"video": "clip.mp4", "image": "a.png"}])
    assert code == 1
    assert "found the base stage alone" in caplog.text and "found an image too" in caplog.text


def test_names_takes_and_equal_rows(plain, picture, caplog):
    fox = {"image": "a.png", "prompt": "a fox", "seed": 5}
    rows = [fox | {"name": "fox", "takes": 2}, fox | {"seed": 6, "name": "again"}, fox, {"image": "a.png"}]
    rows += [fox | {"prompt": "a cat", "name": "FOX"}, fox | {"name": "a/b"}]
    code, lines, links = plain(rows)
    assert code == 1 and "2 made, 0 there before, 3 failed, 2 the same as another row" in caplog.text
    assert [line["seed"] for line in lines if line["status"] == "done"] == [5, 6]
    first, second = (f"{line['name']}.mp4" for line in lines if line["status"] == "done")
    assert links == {"fox.mp4": first, "fox-take2.mp4": second, "again.mp4": second, "a-3.mp4": first}
    assert "row 2 says the same as row 1: one output for both" in caplog.text
    assert "failed: row 4: prompt: expected a value in every row" in caplog.text
    assert "failed: row 5: name: expected another name in every row, found 'FOX' in row 1 too" in caplog.text
    assert "failed: row 6: name: expected a file's name, found 'a/b'" in caplog.text


def test_another_column_may_name_the_outputs(plain, picture):
    assert set(plain([{"image": "a.png", "prompt": "a", "Shot": 12}], "--names", "shot")[2]) == {"12.mp4"}


def test_one_link_is_the_current_result_of_a_row(plain, picture):
    row = {"image": "a.png", "prompt": "a fox", "name": "fox"}
    _, lines, links = plain([row])
    assert links == {"fox.mp4": f"{lines[0]['name']}.mp4"}
    _, lines, links = plain([row | {"guidance": 2}])
    assert links == {"fox.mp4": f"{lines[1]['name']}.mp4"} and lines[0]["name"] != lines[1]["name"]
    _, lines, links = plain([row])
    assert links == {"fox.mp4": f"{lines[0]['name']}.mp4"} and len(lines) == 2, "made before: linked again"
    write_image(picture, torch.zeros(70, 90, 3))
    _, lines, links = plain([row])
    assert links == {"fox.mp4": f"{lines[2]['name']}.mp4"} and len(lines) == 3, "another picture"
    assert lines[0]["seed"] == lines[2]["seed"]


def test_a_stage_that_fails_is_tried_again_without_ray(plain, picture, monkeypatch, caplog):
    from i2vgen_core.batch import stages

    tries, whole = [], stages.Base.work

    def work(self, job, value):
        tries.append(job.row)
        if job.row == 1 or len(tries) < 3:
            raise RuntimeError("CUDA error")
        return whole(self, job, value)

    monkeypatch.setattr(stages.Base, "work", work)
    code, lines, _ = plain([{"image": "a.png", "prompt": p} for p in "ab"], "--attempts", 2)
    assert code == 1 and tries == [1, 1, 2]
    assert [(line["status"], line["attempts"]) for line in lines] == [("failed", 2), ("done", 1)]
    assert "failed: row 1: RuntimeError: CUDA error" in caplog.text


def test_a_wrong_header_is_refused_before_anything_starts(tmp_path, caplog):
    (tmp_path / "jobs.csv").write_text("image;promt\na.png;a fox\n")
    assert main(["batch", str(tmp_path / "jobs.csv"), "--out", str(tmp_path / "out"), "--no-plain"]) == 2
    assert "error: JOBS: expected a column prompt, found 'image', 'promt'" in caplog.text
    assert not (tmp_path / "out").exists()


@pytest.fixture
def heeds_ctrl_c():
    """A shell that starts the tests in the background has SIGINT ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("heeds_ctrl_c")
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_stopped_it_says_so_and_goes_on(plain, picture, monkeypatch, caplog, how):
    from i2vgen_core.batch import stages

    whole = stages.Base.work

    def work(self, job, value):
        if job.row == 2:
            signal.raise_signal(how)
        return whole(self, job, value)

    rows = [{"image": "a.png", "prompt": p} for p in "ab"]
    before = signal.getsignal(how)
    with monkeypatch.context() as patch:
        patch.setattr(stages.Base, "work", work)
        code, lines, _ = plain(rows)
    assert code == 130 and "stopped, 1 made; the same command goes on from there" in caplog.text
    assert len(lines) == 1 and signal.getsignal(how) == before
    assert plain(rows)[0] == 0 and "1 made, 1 there before, 0 failed" in caplog.text


@pytest.fixture
def counted(monkeypatch):
    """Evaluations of a refiner's windows that were made, and a list of the numbers at which the process is ended."""
    from i2vgen_core.batch import stages

    class Counted(stages.KeptWindows):
        made: ClassVar[list] = []
        ends: ClassVar[list] = []

        def __call__(self, make):
            def counting():
                if len(self.made) in self.ends:
                    self.ends.remove(len(self.made))
                    raise KeyboardInterrupt
                self.made.append(self._number)
                return make()

            return super().__call__(counting)

    monkeypatch.setattr(stages, "KeptWindows", Counted)
    Counted.made.clear()
    Counted.ends.clear()
    return Counted


def test_a_long_refinement_goes_on_at_the_window_where_it_was_killed(plain, counted, picture, tmp_path):
    row = {"image": "a.png", "prompt": "a fox", "frames": 7, "refine_window": 3, "refine_steps": 2}
    assert plain([row], "--stage", "cascade")[0] == 0
    whole = next((tmp_path / "out").glob("???/*.mp4"))
    expected, evaluations = whole.read_bytes(), list(counted.made)
    assert evaluations == list(range(1, 7)), "three windows in two steps"
    assert not (tmp_path / "out" / "unfinished").exists()

    (tmp_path / "out" / "manifest.jsonl").unlink()
    whole.unlink()
    counted.made.clear()
    counted.ends.append(4)
    assert plain([row], "--stage", "cascade")[0] == 130 and counted.made == [1, 2, 3, 4]
    (kept,) = (tmp_path / "out" / "unfinished").iterdir()
    assert sorted(file.name for file in kept.iterdir()) == [f"{number}.safetensors" for number in range(4)]
    (kept / "1.safetensors").write_bytes(b"torn")
    assert plain([row], "--stage", "cascade")[0] == 0
    assert counted.made == [1, 2, 3, 4, 2, 5, 6], "the torn one, and what was not there"
    assert whole.read_bytes() == expected and not (tmp_path / "out" / "unfinished").exists()


def test_a_refinement_that_uses_features_again_keeps_nothing(plain, counted, picture):
    row = {"image": "a.png", "prompt": "a fox", "frames": 7, "refine_window": 3, "refine_reuse_interval": 2}
    assert plain([row], "--stage", "cascade")[0] == 0 and not counted.made


# ---------------------------------------------------------------- options


def planned(options, **more):
    """Plans and hash of a batch with these options."""
    return _cascade(options, *_model(options), **more)


def parsed(*arguments, out="out"):
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return parser.parse_args(["jobs.csv", "--out", str(out), *map(str, arguments)])


def test_workers_and_gpus_are_for_all_stages_or_for_each(bundles):
    options = parsed("--model", bundles(), "--workers", "3,refine=8", "--gpus", "1,encode=0")
    plans, _ = planned(options, gpus=16)
    assert [(plan.name, plan.workers, plan.gpus) for plan in plans] == [
        ("encode", 3, 0.0),
        ("base", 3, 1.0),
        ("refine", 8, 1.0),
        ("decode", 3, 1.0),
    ]
    assert [plan.arguments[1] for plan in plans] == ["cpu", "cuda", "cuda", "cuda"]
    plans, _ = planned(parsed("--model", bundles(), "--stage", "base"), gpus=1)
    assert [(plan.name, plan.workers, plan.gpus) for plan in plans] == [
        ("encode", 1, 0.25),
        ("base", 1, 0.25),
        ("decode", 1, 0.25),
    ]
    plans, _ = planned(parsed("--model", bundles()), gpus=0)
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
        (("nowhere.csv", "--plain", "--workers", "2"), "--plain: expected neither"),
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


@pytest.mark.parametrize("more", [(), ("--lora", "none.safetensors")])
def test_a_model_that_is_none_leaves_no_folder(bundles, tmp_path, caplog, more):
    (tmp_path / "jobs.csv").write_text("image,prompt\nfox.jpg,a fox\n")
    model = bundles() if more else "nowhere"
    assert (
        main(["batch", str(tmp_path / "jobs.csv"), "--model", str(model), *more, "--out", str(tmp_path / "out")]) == 2
    )
    assert "error: " in caplog.text and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--no-plain"], "Ray: expected one that starts here, found none (The current node timed out). Try again, or"),
        (
            ["--address", "auto"],
            "--address: expected a Ray cluster that answers, found none (The current node timed out)",
        ),
    ],
)
def test_a_ray_that_does_not_answer_is_said(bundles, monkeypatch, tmp_path, caplog, more, message):
    def init(**_):
        raise Exception("The current node timed out\nmore")  # as Ray does it

    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(init=init, shutdown=lambda: None))
    (tmp_path / "jobs.csv").write_text("image,prompt\n")
    command = ["batch", str(tmp_path / "jobs.csv"), "--model", str(bundles()), "--out", str(tmp_path / "out")]
    assert main([*command, *more]) == 2
    assert f"error: {message}" in caplog.text


@pytest.mark.parametrize("form", ["127.0.0.1:{}", "ray://127.0.0.1:{}"])
def test_an_address_where_nothing_listens_is_said_before_ray_tries_it(form, monkeypatch, tmp_path, caplog):
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(init=lambda **_: pytest.fail("Ray tries for minutes")))
    (tmp_path / "jobs.csv").write_text("image,prompt\n")
    with socket.socket() as taken:  # bound, so that no other process listens there, and not listening itself
        taken.bind(("127.0.0.1", 0))
        address = form.format(taken.getsockname()[1])
        command = ["batch", str(tmp_path / "jobs.csv"), "--out", str(tmp_path / "out"), "--address", address]
        assert main(command) == 2
    assert f"error: --address: expected a Ray cluster that answers, found none ({address}: " in caplog.text
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("form", ["127.0.0.1:{}", "ray://localhost:{}"])
def test_where_something_listens_ray_is_asked(form, bundles, monkeypatch, tmp_path):
    asked = []

    def init(address, **_):
        asked.append(address)
        raise ConnectionError("no Ray there")

    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(init=init, shutdown=lambda: None))
    (tmp_path / "jobs.csv").write_text("image,prompt\n")
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = form.format(server.getsockname()[1])
        command = ["batch", str(tmp_path / "jobs.csv"), "--model", str(bundles()), "--out", str(tmp_path / "out")]
        assert main([*command, "--address", address]) == 2
    assert asked == [address]


@pytest.mark.parametrize("address", ["head", "head:", "head:first", "head:99999", "ray://head", ":6379"])
def test_what_is_no_address_is_said(address, tmp_path, caplog):
    (tmp_path / "jobs.csv").write_text("image,prompt\n")
    assert main(["batch", str(tmp_path / "jobs.csv"), "--out", str(tmp_path / "out"), "--address", address]) == 2
    assert f"error: --address: expected HOST:PORT or auto, found {address!r}" in caplog.text
    assert not (tmp_path / "out").exists()


def test_without_ray_the_remedy_is_said(monkeypatch, tmp_path, caplog):
    monkeypatch.setitem(sys.modules, "ray", None)
    (tmp_path / "jobs.csv").write_text("image,prompt\n")
    command = ["batch", str(tmp_path / "jobs.csv"), "--out", str(tmp_path / "out")]
    assert main([*command, "--no-plain"]) == 2
    assert "pip install 'ray[default]'" in caplog.text
