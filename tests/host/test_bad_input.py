"""Bad input: a sample of what `python -m tests.host.bad_input` runs, and the sentences of single cases."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from i2vgen_core.__main__ import main
from i2vgen_core.assets import FOLDER
from i2vgen_core.cascade import Cascade
from i2vgen_core.encoders.tokenizer import Tokenizer

from . import bad_cases, bad_input
from .bad_cases import Case
from .graphs import changed, node
from .in_process import Host


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """So that processor time is time."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_a_right_result_or_one_sentence(host, tmp_path):
    report = bad_input.run(bad_input.Runner(host, tmp_path), 150, 1)
    assert not report.problems
    assert report.count == 150
    assert min(report.outcomes["ran"], report.outcomes["refused with a sentence"]) > 20, report.outcomes


def _linked(host: Host, at: str, **values: Any) -> str | None:
    """The message of a run with values that come through a wire."""
    case = bad_cases.linked("", at, values)
    host.given.update(case.given)
    return host.run(case.graph, {"output": (at, 0)}, reuse_cache=True).error


# ---- memory


def _no_room(monkeypatch: pytest.MonkeyPatch, gib: float) -> None:
    import comfy.model_management

    monkeypatch.setattr(comfy.model_management, "get_total_memory", lambda *_: int(gib * 2**30))


def test_a_size_that_memory_has_no_room_for(host, monkeypatch):
    """Said with the number, before anything of that size is made."""
    _no_room(monkeypatch, 24)
    size = {"global_encode__width": 16384, "global_encode__height": 16384}
    assert _linked(host, "global_encode", **size) == (
        "the video: expected one that fits into the 24.0 GiB of memory of this machine, "
        "found 1 x 16384x16384 pixels, which take about 384.0 GiB. Use a smaller width and height, or fewer frames."
    )


def test_an_empty_latent_that_memory_has_no_room_for(host, monkeypatch):
    vae = SimpleNamespace(device=None, vae_dtype=torch.float16)
    check = host.module("nodes.host.image_conditioning").check_encoding_fits
    _no_room(monkeypatch, 2.1)
    check(vae, 4096, 1024, 2048)
    _no_room(monkeypatch, 1.9)
    with pytest.raises(ValueError, match=r"found 4096 x 2048x1024 pixels, which take about 2\.0 GiB"):
        check(vae, 4096, 1024, 2048)


@pytest.mark.parametrize(("at", "gib"), [("base", 12.0), ("refine", 12.0), ("frames", 12.0)])
def test_a_latent_that_memory_has_no_room_for(host, monkeypatch, at, gib):
    """Of 64 features in fp32, 12 times; and of frames in fp32."""
    latent = {"samples": torch.zeros(1).expand(4, 4, 1024, 1024)}
    _no_room(monkeypatch, gib - 0.1 if at != "frames" else 2.9)
    message = _linked(host, at, **{f"{at}__latent": latent})
    needed = gib if at != "frames" else 3.0
    assert message is not None and f"found 4 x 8192x8192 pixels, which take about {needed:.1f} GiB." in message


def test_context_windows_need_less(host, monkeypatch):
    sampling = host.module("nodes.host.sampling")
    model = host.value(bad_cases.good(), "loader")
    text = [[torch.zeros(1, 77, 64), {}]]
    latent = {"samples": torch.zeros(1).expand(64, 4, 256, 256)}
    _no_room(monkeypatch, 8)
    with pytest.raises(ValueError, match=r"found 64 x 2048x2048 pixels, which take about 12\.0 GiB"):
        sampling.checked_latent(model, text, text, latent)
    windows = model.clone()
    windows.model_options["context_handler"] = type("Windows", (), {"context_length": 16})()
    assert sampling.checked_latent(windows, text, text, latent) is latent["samples"]


def test_the_command_line_refuses_before_it_loads(caplog, tmp_path, monkeypatch):
    monkeypatch.setattr(Cascade, "base", property(lambda _: pytest.fail("loaded")))
    image = FOLDER.parents[2] / "demo" / "scene.png"
    arguments = ["generate", "--image", str(image), "--prompt", "a", "--out", str(tmp_path / "out.mp4")]
    for size in (["--width", "16384", "--height", "16384"], ["--refine-width", "16384", "--refine-height", "16384"]):
        caplog.clear()
        monkeypatch.setattr("i2vgen_core.parts.machine_bytes", lambda _: 24 * 2**30)
        assert main([*arguments, *size]) == 2
        assert "fits into the 24.0 GiB" in caplog.text and "about 384.0 GiB" in caplog.text


# ---- prompts


WORDS = "a red fox " * 25 + "jumps over one lazy dog"  # of a token each


def test_a_prompt_that_is_too_long_is_read_and_said(host, caplog, monkeypatch):
    shown: list[str] = []
    monkeypatch.setattr(host.module("nodes.host.compat"), "progress_text", shown.append)
    read, read_alike = (
        host.run(changed(bad_cases.good(), clip_encode__prompt=text), {"text": ("clip_encode", 0)}).kept["text"][0][0]
        for text in (WORDS, WORDS + " and something else")
    )
    assert read.shape == (1, 77, 64) and torch.equal(read, read_alike)
    said = [text for text in shown if text.startswith("prompt")]  # beside what the loader says of the built-in cascade
    assert said == [
        "prompt: 5 tokens after the first 75 are not read: jumps over one lazy dog",
        "prompt: 8 tokens after the first 75 are not read: jumps over one lazy dog and something else",
    ]
    assert said[0] in caplog.text


def test_the_end_of_a_very_long_prompt_is_not_looked_at(host, caplog):
    assert _linked(host, "clip_encode", clip_encode__prompt="fox " * 5001) is None
    assert "prompt: 4925 tokens after the first 75 are not read: fox fox" in caplog.text
    assert "prompt: what comes after its first 20000 characters is not read" in caplog.text


def test_the_refiners_prompt_too(host, monkeypatch):
    """Below the sampler, to the end of its run."""
    shown: list[str] = []
    monkeypatch.setattr(host.module("nodes.host.compat"), "progress_text", shown.append)
    host.value(changed(bad_cases.good(), positive__text=WORDS), "refine")
    assert "positive: Tiny refiner of moving shapes reads the first 77 of 154 tokens" in shown[-1]


@pytest.mark.parametrize(("suffix", "chunks", "said"), [("sharp", 2, True), ("sharp", 3, False), ("", 2, False)])
def test_whose_words_a_refiner_leaves_out(host, suffix, chunks, said):
    """A short prompt and the release's suffix are two chunks of tokens; more is the user's own."""
    text = [(torch.zeros(1, 77 * chunks, 8), {})]
    positive, negative = host.module("nodes.host.notes").text_notes("X", suffix, positive=text, negative=text)
    assert ("the release's own suffix" in positive) == said
    assert negative == f"negative: X reads the first 77 of {77 * chunks} tokens"


@pytest.mark.parametrize("block", ["clip_encode", "global_encode"])
def test_what_of_an_image_is_left_out_is_said(host, monkeypatch, block):
    shown: list[str] = []
    monkeypatch.setattr(host.module("nodes.host.compat"), "progress_text", shown.append)
    photo = node("EmptyImage", width=20, height=20, batch_size=2, color=255)
    host.value(bad_cases.good() | {"photo": photo}, block)
    first, *small = shown[-1].splitlines()
    assert first == "image: the first of 2 is read"
    assert [line[:33] for line in small] == ["image: 20x20 pixels are enlarged "] * (block == "global_encode")


def test_nothing_is_said_of_an_image_that_fills_the_frame(host, monkeypatch):
    shown: list[str] = []
    monkeypatch.setattr(host.module("nodes.host.compat"), "progress_text", shown.append)
    photo = node("EmptyImage", width=200, height=200, batch_size=1, color=255)
    host.value(bad_cases.good() | {"photo": photo}, "global_encode")
    assert not shown


def test_the_library_says_it_too(caplog):
    caplog.set_level(logging.WARNING, logger="i2vgen_xl")
    tokenizer = Tokenizer()
    assert tokenizer(["a cat " * 37]).shape == (1, 77) and not caplog.records
    tokenizer(["a cat " * 37 + "on a red sofa"])
    assert caplog.messages == ["a prompt: what comes after the first 75 tokens is not read: a red sofa"]


# ---- what samplers and decoders make


def _nan(*_: Any, **__: Any) -> Tensor:
    return torch.full((bad_cases.FRAMES, 4, 8, 8), float("nan"))


@pytest.mark.parametrize("at", ["base", "refine"])
def test_a_latent_of_nan_does_not_leave_a_sampler(host, monkeypatch, at):
    import comfy.samplers

    graph = changed(bad_cases.good(), **{f"{at}__seed": 17})
    host.value(graph, "encode" if at == "refine" else "global_encode")
    monkeypatch.setattr(comfy.samplers.CFGGuider, "inner_sample", _nan)
    result = host.run(graph, {"latent": (at, 0)}, reuse_cache=True)
    assert result.error == (
        "the sampled latent: expected finite values alone, found 512 of 512 that are not (NaN or infinite). "
        "Use a lower guidance scale, or weight_dtype fp32 or bf16 where it is fp16."
    )


def test_the_largest_seed(host):
    graph = changed(bad_cases.good(), base__seed=2**64 - 1, base__eta=1.0, base__steps=2)
    assert host.value(graph, "base").isfinite().all()


def test_a_case_that_breaks_a_rule_is_reported(host, tmp_path):
    """The rules themselves: a wrong result, another exception than ours, and no sentence."""
    runner = bad_input.Runner(host, tmp_path)
    runner.run(Case("wrong", bad_cases.good(), "base", lambda _: False))
    broken = bad_cases.linked("broken", "match", {"match__images": object()})
    runner.run(broken)
    assert [problem.split(":")[0] for problem in runner.report.problems] == ["wrong"]
    assert bad_input._judge("no") and not bad_input._judge("steps: expected 1, found 2. Choose 1.")
