"""The folder of a batch: whole files alone, a manifest that a crash does not spoil, one batch at a time."""

import errno
import json
import shutil
from pathlib import Path

import pytest

from i2vgen_core.batch.outputs import NoRoom, Outputs, publish
from i2vgen_core.errors import InputError

NAME = "0123456789abcdef0123456789abcdef"


@pytest.fixture
def file(tmp_path):
    made = tmp_path / "video.mp4"
    made.write_bytes(b"whole")
    return made


def line(name=NAME, status="done"):
    return {"name": name, "status": status}


def test_an_output_is_found_when_it_is_whole(tmp_path, file, monkeypatch):
    outputs = Outputs(tmp_path / "out")
    assert outputs.find(NAME) is None

    def stop(source, target):
        target.write(b"who")
        assert outputs.find(NAME) is None
        raise OSError(errno.EIO, "gone")

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "copyfileobj", stop)
        with pytest.raises(OSError, match="gone"):
            publish(file, outputs.path, NAME)
    assert outputs.find(NAME) is None and not list(outputs.path.rglob("*.part"))
    publish(file, outputs.path, NAME)
    publish(file, outputs.path, NAME)
    assert outputs.find(NAME) == outputs.path / "012" / f"{NAME}.mp4"
    assert outputs.find(NAME).read_bytes() == b"whole"
    outputs.close()


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
def test_a_full_disk_is_said(tmp_path, file, monkeypatch, code):
    outputs = Outputs(tmp_path / "out")

    def full(source, target):
        raise OSError(code, "it is full")

    monkeypatch.setattr(shutil, "copyfileobj", full)
    with pytest.raises(NoRoom, match=r"the output folder: expected room to write, .*it is full"):
        publish(file, outputs.path, NAME)
    outputs.close()


def test_a_full_disk_under_the_manifest_is_said(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "manifest.jsonl").symlink_to("/dev/full")
    (tmp_path / "none").touch()
    outputs = Outputs.__new__(Outputs)
    outputs.path, outputs._manifest, outputs._recorded = out, (out / "manifest.jsonl").open("ab", buffering=0), set()
    with pytest.raises(NoRoom, match="No space left"):
        outputs.record(line())


def test_parts_of_killed_workers_are_removed(tmp_path):
    part = tmp_path / "out" / "012" / f".{NAME}.mp4.1.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(b"who")
    Outputs(tmp_path / "out").close()
    assert not part.exists()


def test_a_line_that_a_crash_cut_is_dropped(tmp_path):
    outputs = Outputs(tmp_path / "out")
    other = "f" * 32
    outputs.record(line())
    outputs.record(line(other, "failed"), "Traceback")
    outputs.close()
    manifest = tmp_path / "out" / "manifest.jsonl"
    whole = manifest.read_bytes()
    manifest.write_bytes(whole + b'{"name": "ab')
    again = Outputs(tmp_path / "out")
    assert manifest.read_bytes() == whole
    assert again.is_recorded(NAME) and not again.is_recorded(other)
    again.record(line(other))
    assert again.is_recorded(other)
    again.close()
    assert [json.loads(each)["name"] for each in manifest.read_text().splitlines()] == [NAME, other, other]


@pytest.mark.parametrize(
    "torn", [b'{"name": "ab', b"\0\0\0", b"[1]", b'{"status": "done"}', b'{"status": "done", "name": 3}']
)
def test_a_torn_line_among_others_is_passed_over(tmp_path, caplog, torn):
    outputs = Outputs(tmp_path / "out")
    other = "f" * 32
    outputs.record(line())
    outputs.record(line(other))
    outputs.close()
    manifest = tmp_path / "out" / "manifest.jsonl"
    first, second = manifest.read_bytes().splitlines(keepends=True)
    manifest.write_bytes(first + torn + b"\n" + second)
    again = Outputs(tmp_path / "out")
    assert again.is_recorded(NAME) and again.is_recorded(other)
    assert "manifest.jsonl, line 2 is torn and is passed over" in caplog.text
    again.close()


@pytest.mark.parametrize("linked", [True, False])
def test_a_title_is_a_link_to_what_is_current(tmp_path, file, monkeypatch, linked):
    outputs = Outputs(tmp_path / "out")
    if not linked:

        def refuse(*_, **__):
            raise OSError(errno.EPERM, "no links here")

        monkeypatch.setattr(Path, "symlink_to", refuse)
    outputs.link(NAME, "a fox")  # there is none yet
    publish(file, outputs.path, NAME)
    outputs.link(NAME, "a fox")
    link = outputs.path / "results" / "a fox.mp4"
    assert link.read_bytes() == b"whole" and link.is_symlink() == linked
    other = tmp_path / "picture.png"
    other.write_bytes(b"another")
    publish(other, outputs.path, "f" * 32)
    outputs.link("f" * 32, "a fox")
    assert [path.name for path in link.parent.iterdir()] == ["a fox.png"]
    assert (link.parent / "a fox.png").read_bytes() == b"another"
    outputs.close()


def test_a_traceback_is_set_aside_until_the_job_is_made(tmp_path):
    outputs = Outputs(tmp_path / "out")
    aside = tmp_path / "out" / "failed" / f"{NAME}.txt"
    outputs.record(line(status="failed"), "Traceback: \udcff")
    assert aside.read_text().startswith("Traceback")
    outputs.record(line())
    assert not aside.exists()
    outputs.close()


def test_one_batch_at_a_time(tmp_path):
    outputs = Outputs(tmp_path / "out")
    with pytest.raises(InputError, match="expected no other batch in it"):
        Outputs(tmp_path / "out")
    outputs.close()
    Outputs(tmp_path / "out").close()
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="the output folder: expected a folder that can be written"):
        Outputs(tmp_path / "file")
