"""`python -m i2vgen_core download`, against a server on this machine that stalls, truncates, or serves a wrong file."""

import hashlib
import logging
import os
import subprocess
import sys
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from huggingface_hub import constants

from i2vgen_core.__main__ import main
from i2vgen_core.checkpoints.download import FILES, SETS, download, listing
from i2vgen_core.checkpoints.model_folders import default_models, model_paths
from i2vgen_core.errors import InputError

CONTENT = bytes(range(256)) * 800
SHA = hashlib.sha256(CONTENT).hexdigest()
TOY = replace(FILES["vae"], sha256=SHA[:16], size=len(CONTENT))
FOLDERS = {"diffusion_models", "text_encoders", "clip_vision", "vae", "controlnet"}


class Hub(ThreadingHTTPServer):
    """Serves one file under every address.

    Attributes:
        content, etag, status: of the file, and how requests are answered.
        faults: one is taken for each GET: `None`, or (`stall` or `cut`, after how many bytes).
        requests: method, path and Range of each.
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.content, self.etag, self.status = CONTENT, SHA, 200
        self.faults, self.requests = [], []
        self.over = threading.Event()

    @property
    def address(self):
        return f"http://127.0.0.1:{self.server_address[1]}"

    def gets(self):
        return [at for method, _, at in self.requests if method == "GET"]

    def handle_error(self, request, client_address):
        pass  # a client that gave up


class Handler(BaseHTTPRequestHandler):
    server: Hub

    def head(self):
        start = self.headers.get("Range", "")
        self.server.requests.append((self.command, self.path, start))
        begin = int(start.removeprefix("bytes=").rstrip("-")) if start else 0
        rest = self.server.content[begin:]
        self.send_response(206 if start and self.server.status == 200 else self.server.status)
        self.send_header("ETag", f'"{self.server.etag}"')
        self.send_header("X-Repo-Commit", "0" * 40)
        self.send_header("Content-Length", str(len(rest)))
        if start:
            size = len(self.server.content)
            self.send_header("Content-Range", f"bytes {begin}-{size - 1}/{size}")
        self.end_headers()
        return rest

    def do_HEAD(self):
        self.head()

    def do_GET(self):
        rest = self.head()
        fault = self.server.faults.pop(0) if self.server.faults else None
        if fault is None:
            self.wfile.write(rest)
            return
        what, after = fault
        self.wfile.write(rest[:after])
        self.wfile.flush()
        if what == "stall":
            self.server.over.wait(20)
        self.close_connection = True

    def log_message(self, *_):
        pass


@pytest.fixture
def hub(monkeypatch):
    server = Hub()
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.5)  # seconds of silence that count as a stall
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 10_000)  # bytes that are written at once
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda seconds: None)  # between two attempts
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    yield server
    server.over.set()
    server.shutdown()
    server.server_close()


@pytest.fixture
def models(tmp_path):
    folder = tmp_path / "ComfyUI" / "models"
    folder.mkdir(parents=True)
    return folder


def files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def refusal(hub, models, file=TOY):
    with pytest.raises(InputError) as caught:
        download(file, models, hub.address)
    assert not (models / file.folder / file.name).exists()
    return str(caught.value)


# ---------------------------------------------------------------- what goes well


def test_a_file_goes_into_its_folder_under_its_name(hub, models, caplog):
    caplog.set_level(logging.INFO, logger="i2vgen_xl")
    path = download(TOY, models, hub.address)
    assert path == models / "vae" / TOY.name
    assert path.read_bytes() == CONTENT
    assert files(models) == [f"vae/{TOY.name}"]
    assert {at for _, at, _ in hub.requests} == {f"/{TOY.repository}/resolve/main/{TOY.file}"}
    assert "sha256 is right" in caplog.text


def test_what_is_there_is_not_fetched_again(hub, models):
    download(TOY, models, hub.address)
    hub.requests.clear()
    assert download(TOY, models, hub.address) == models / "vae" / TOY.name
    assert hub.requests == []


@pytest.mark.parametrize("fault", ["stall", "cut"])
def test_a_break_is_gone_on_from_within_one_run(hub, models, fault):
    hub.faults = [(fault, 100_000), (fault, 50_000)]
    assert download(TOY, models, hub.address).read_bytes() == CONTENT
    assert hub.gets() == ["", "bytes=100000-", "bytes=150000-"]


@pytest.mark.parametrize("fault", ["stall", "cut"])
def test_a_broken_run_leaves_no_file_and_the_next_is_whole(hub, models, fault):
    hub.faults = [(fault, 100_000)] + [(fault, 0)] * 19
    message = refusal(hub, models)
    assert f"{TOY.name}: expected all of it ({len(CONTENT)} bytes)" in message
    assert "Run the command again." in message
    assert not (models / "vae" / TOY.name).exists()
    hub.faults, hub.requests = [], []
    assert download(TOY, models, hub.address).read_bytes() == CONTENT
    assert files(models) == [f"vae/{TOY.name}"]


def test_a_part_of_another_version_is_not_gone_on_from(hub, models):
    hub.faults = [("cut", 100_000)] + [("cut", 0)] * 19
    free = replace(TOY, sha256="", size=None)
    refusal(hub, models, free)
    hub.content, hub.faults, hub.requests = CONTENT[::-1], [], []
    hub.etag = hashlib.sha256(hub.content).hexdigest()
    assert download(free, models, hub.address).read_bytes() == hub.content
    assert hub.gets() == [""] and files(models) == [f"vae/{TOY.name}"]


def test_the_command_lists_names_sizes_and_licences_first_and_reads_hf_endpoint(hub, models):
    """End to end, with a server that has nothing but a wrong file for it."""
    environment = {**os.environ, "HF_ENDPOINT": hub.address, "HF_HUB_OFFLINE": "0"}
    arguments = ["download", "vae", "--to", str(models)]
    command = [sys.executable, "-m", "i2vgen_core", *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2
    assert listing("vae", models) + "\n" == done.stdout
    assert "sha256 2aa1f43011b553a4..., as released, found" in done.stderr
    assert files(models) == [] and hub.requests


# ---------------------------------------------------------------- what does not


@pytest.mark.parametrize("size_known", [True, False])
def test_a_wrong_file_of_the_right_size_is_removed(hub, models, size_known):
    """The server says that it is the right one."""
    hub.content = CONTENT[::-1]
    release = TOY if size_known else replace(TOY, size=None)
    message = refusal(hub, models, release)
    assert f"expected sha256 {SHA[:16]}..., found another file, " in message
    assert files(models) == []


def test_a_wrong_file_without_an_etag_of_its_hash_is_removed(hub, models):
    hub.content, hub.etag = CONTENT[::-1], "abc"
    assert f"expected sha256 {SHA[:16]}" in refusal(hub, models)
    assert files(models) == []


def test_a_file_that_the_server_itself_calls_another_is_not_fetched(hub, models):
    hub.etag = "0" * 64
    assert "as released, found 0000000000000000..." in refusal(hub, models)
    assert hub.gets() == [] and files(models) == []


def test_a_file_of_another_size_is_not_fetched(hub, models):
    hub.content = CONTENT[:-1]
    assert f"expected {len(CONTENT)} bytes, as released, found {len(CONTENT) - 1} bytes" in refusal(hub, models)
    assert hub.gets() == []


@pytest.mark.parametrize("status", [401, 404, 500])
def test_a_server_that_refuses_is_an_error_that_names_file_folder_and_page(hub, models, status):
    hub.status = status
    message = refusal(hub, models)
    check_names(message, models)


def check_names(message, models, release=TOY):
    assert release.file in message
    assert str(models / release.folder / release.name) in message
    assert release.page in message


def test_without_a_network_the_error_names_file_folder_and_page(hub, models):
    address = hub.address
    hub.shutdown()
    hub.server_close()
    with pytest.raises(InputError) as caught:
        download(TOY, models, address)
    check_names(str(caught.value), models)
    assert files(models) == []


def test_offline_the_command_ends_with_2(monkeypatch, models, caplog):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert main(["download", "vae", "--to", str(models)]) == 2
    check_names(caplog.text, models, FILES["vae"])


def test_a_file_that_is_not_on_the_hub_says_where_it_is(hub, models):
    message = refusal(hub, models, FILES["sr600"])
    check_names(message, models, FILES["sr600"])
    assert hub.requests == []


def test_no_room_is_said_before_the_work(hub, models, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 1000}))
    assert "0.00 GB free" in refusal(hub, models)
    assert hub.gets() == []


def test_no_token_is_sent(hub, models, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    seen = []
    monkeypatch.setattr(Handler, "head", lambda self, head=Handler.head: seen.append(dict(self.headers)) or head(self))
    download(TOY, models, hub.address)
    assert len(seen) >= 2
    assert not any("secret" in str(headers) for headers in seen)


@pytest.mark.parametrize("arguments", [["nothing"], ["vae", "--to", "nowhere"]])
def test_what_cannot_be_used_ends_with_2(arguments, caplog):
    assert main(["download", *arguments]) == 2
    assert "error: " in caplog.text


# ---------------------------------------------------------------- the list


def test_without_a_name_it_lists_and_fetches_nothing(capsys, monkeypatch):
    monkeypatch.setattr("i2vgen_core.commands.download.download", lambda *_: pytest.fail("fetched"))
    assert main(["download"]) == 0
    text = capsys.readouterr().out
    for name, release in FILES.items():
        for word in (name, release.file, release.folder, release.name, release.licence, release.page):
            assert word in text
    assert "CC-BY-NC-ND" in text and "research" in text


def test_a_set_is_all_of_its_files_once(models, monkeypatch, capsys):
    fetched = []
    monkeypatch.setattr("i2vgen_core.commands.download.download", lambda release, to: fetched.append((release, to)))
    assert main(["download", "vae", "cascade", "vae", "--to", str(models)]) == 0
    assert {release.name for release, _ in fetched} == {FILES[name].name for name in SETS["cascade"]}
    assert len(fetched) == len(SETS["cascade"]) and {to for _, to in fetched} == {models}


def test_every_file_has_a_folder_of_comfyui_and_a_name_of_its_own():
    assert {release.folder for release in FILES.values()} == FOLDERS
    assert len({(release.folder, release.name) for release in FILES.values()}) == len(FILES)
    for release in FILES.values():
        assert bool(release.repository) != bool(release.elsewhere)
        assert Path(release.name).name == release.name


# ---------------------------------------------------------------- ComfyUI's folders


def extra(models, text):
    (models.parent / "extra_model_paths.yaml").write_text(text, encoding="utf-8")


def test_folders_are_comfyuis(models):
    assert model_paths(models, "vae") == [models / "vae"]
    assert model_paths(models, "diffusion_models") == [models / "diffusion_models", models / "unet"]
    assert model_paths(models, "text_encoders") == [models / "text_encoders", models / "clip"]


def test_extra_paths_are_looked_through_and_a_default_one_is_written_to(hub, models, tmp_path):
    extra(
        models,
        f"""
empty:
other:
    base_path: {tmp_path}/a
    vae: |
        first
        second/deep
    loras: none of ours
mine:
    base_path: ../b
    is_default: true
    unet: nets
    clip: {tmp_path}/c
""",
    )
    assert model_paths(models, "vae") == [models / "vae", tmp_path / "a/first", tmp_path / "a/second/deep"]
    assert model_paths(models, "diffusion_models")[0] == tmp_path / "b/nets"
    assert model_paths(models, "text_encoders")[0] == tmp_path / "c"
    there = tmp_path / "a/second/deep" / TOY.name
    there.parent.mkdir(parents=True)
    there.write_bytes(b"mine")
    assert download(TOY, models, hub.address) == there and hub.requests == []
    network = replace(TOY, folder="diffusion_models")
    assert download(network, models, hub.address) == tmp_path / "b/nets" / TOY.name


@pytest.mark.parametrize("text", ["a: [", "[]", "a: text", "a:\n  vae: [x]", "a:\n  base_path: [x]\n  vae: x"])
def test_extra_paths_that_comfyui_could_not_read_are_refused(models, text):
    extra(models, text)
    with pytest.raises(InputError, match=r"extra_model_paths.yaml: expected sections of paths"):
        model_paths(models, "vae")


def test_the_models_folder_is_that_of_the_comfyui_around_the_pack(tmp_path, monkeypatch):
    pack = tmp_path / "ComfyUI" / "custom_nodes" / "pack"
    monkeypatch.setattr(
        "i2vgen_core.checkpoints.model_folders.__file__", str(pack / "i2vgen_core" / "checkpoints" / "model_folders.py")
    )
    assert default_models() == tmp_path / "ComfyUI" / "models"
    monkeypatch.setattr(
        "i2vgen_core.checkpoints.model_folders.__file__",
        str(tmp_path / "pack" / "i2vgen_core" / "checkpoints" / "m.py"),
    )
    with pytest.raises(InputError, match="Say where with --to"):
        default_models()
