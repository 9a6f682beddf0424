"""`python -m i2vgen_core`: a photo in, an MP4 out, and exit codes."""

import errno
import importlib
import json
import logging
import os
import re
import runpy
import shutil
import signal
import sys
from dataclasses import astuple, replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import toy
from PIL import Image
from safetensors.torch import save_file

from i2vgen_core import __version__
from i2vgen_core.__main__ import main
from i2vgen_core.checkpoints.load import open_base, open_refiner, open_unet
from i2vgen_core.checkpoints.scaffold import SIZES
from i2vgen_core.commands import generate as generate_command
from i2vgen_core.commands import pages
from i2vgen_core.media.captions import caption
from i2vgen_core.media.images import read_image, write_image
from i2vgen_core.media.video import read_video
from i2vgen_core.media.warp import camera
from i2vgen_core.media.world import sample_scene
from i2vgen_core.network.acceleration import EXACT, Acceleration
from i2vgen_core.sampling.options import BaseOptions, RefineOptions

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    path = tmp_path_factory.mktemp("photo") / "photo.png"
    pixels = torch.rand(90, 120, 3, generator=torch.Generator().manual_seed(1)).mul(255).byte().numpy()
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture
def generate(bundles, photo, tmp_path, caplog):
    """generate(*more): runs the command with small settings; the exit code, the file and what was said."""
    caplog.set_level(logging.INFO, logger="i2vgen_xl")

    def run(*more, model=None, image=photo, out=tmp_path / "out.mp4"):
        arguments = ["--model", model or bundles(), "--image", image, "--prompt", "a fox", "--out", out]
        small = ["--width", 64, "--height", 64, "--frames", 3, "--steps", 1]
        refined = ["--refine-width", 72, "--refine-height", 64, "--refine-steps", 1]
        code = main(["generate", *map(str, [*arguments, *small, *refined, *more])])
        return code, out, caplog.text

    return run


def test_the_cascade_makes_the_video_that_was_asked_for(generate):
    code, out, said = generate("--file-fps", 12)
    assert code == 0
    frames, fps = read_video(out)
    assert frames.shape == (3, 64, 72, 3) and fps == 12
    assert f"{out}: 3 frames of 72x64" in said
    for stage in ("encode", "base", "decode", "refine", "decode refined"):
        assert re.search(rf"seconds: .*\b{stage} \d+\.\d", said), stage
    assert re.search(r"peak memory: \d+\.\d\d GiB", said)


def test_the_base_alone(generate):
    code, out, said = generate("--stage", "base")
    assert code == 0
    frames, fps = read_video(out)
    assert frames.shape == (3, 64, 64, 3) and fps == 8
    assert "refine" not in said


def test_a_still_area_and_a_last_image(generate, bundles, photo, tmp_path):
    """Black of the mask stays as the photo is, in every frame; the last frame is the picture that was given."""
    mask, last, frames = tmp_path / "mask.png", tmp_path / "last.png", tmp_path / "frame_%04d.png"
    Image.fromarray(torch.zeros(90, 120, 3, dtype=torch.uint8).numpy()).save(mask)
    Image.fromarray(torch.full((90, 120, 3), 200, dtype=torch.uint8).numpy()).save(last)
    assert generate("--stage", "base", "--mask", mask, out=frames)[0] == 0
    still = [read_image(file) for file in sorted(tmp_path.glob("frame_*.png"))]
    assert len(still) == 3 and (still[0] - still[2]).abs().max() < 2 / 255
    assert generate("--stage", "base", "--mask", mask, "--last-image", last, out=frames)[0] == 0
    ends = [read_image(file) for file in sorted(tmp_path.glob("frame_*.png"))]
    assert (ends[1] - still[1]).abs().max() < 2 / 255
    assert (ends[2] - still[2]).abs().mean() > 2 / 255
    assert generate("--stage", "base", "--mask", mask, mask, out=frames)[0] == 2, "one mask, or one a frame"


def test_drag_camera_and_an_animation(generate, photo, tmp_path):
    """Held to the end, the video is the rough animation; an animation that is given is followed as the same one is."""
    frames, held = tmp_path / "frame_%04d.png", ("--stage", "base", "--follow-signal", 1)

    def made(*options):
        assert generate(*held, *options, out=frames)[0] == 0
        return torch.cat([read_image(file) for file in sorted(tmp_path.glob("frame_*.png"))])

    (tmp_path / "path.json").write_text('[{"x": 0, "y": 0}, {"x": 40, "y": 0}]', encoding="utf-8")
    mask = torch.zeros(90, 120, 3, dtype=torch.uint8)
    mask[20:50, 30:60] = 255
    Image.fromarray(mask.numpy()).save(tmp_path / "mask.png")
    dragged = made("--drag", tmp_path / "path.json", "--part", tmp_path / "mask.png")
    assert torch.equal(made("--drag", "0,0 40,0", "--part", "30,20,30,30"), dragged)
    assert (dragged[0] - dragged[2]).abs().mean() > 2 / 255
    zoomed = made("--camera", "zoom=1.5", "roll=0")
    assert (zoomed[0] - zoomed[2]).abs().mean() > 2 / 255
    rough = camera(read_image(photo), 64, 64, 3, zoom=1.5)
    for number, frame in enumerate(rough.frames):
        write_image(tmp_path / f"rough_{number}.png", frame)
    followed = made("--follow", *[tmp_path / f"rough_{number}.png" for number in range(3)])
    assert (zoomed - followed).abs().mean() < (zoomed[0] - zoomed[2]).abs().mean() / 3, "but for 8 bits of its files"


@pytest.mark.parametrize(
    "options, message",
    [
        (("--drag", "0,0 1,0"), "--part"),
        (("--part", "1,1,9,9"), "--part"),
        (("--drag", "0,0", "--part", "1,1,9,9", "--follow", "x"), "both"),
        (("--drag", "none.json", "--part", "1,1,9,9"), "none.json"),
        (("--camera", "left=3"), "left=3"),
        (("--camera", "pan"), "'pan'"),
    ],
)
def test_what_cannot_be_directed(generate, options, message):
    code, _, said = generate("--stage", "base", *options)
    assert code == 2 and message in said


def test_a_folder_without_a_refiner_runs_the_base(generate, bundles, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(bundles(), model, ignore=shutil.ignore_patterns("refiner"))
    code, out, _ = generate(model=model)
    assert code == 0
    assert read_video(out)[0].shape == (3, 64, 64, 3)
    code, _, said = generate("--stage", "cascade", model=model)
    assert code == 2
    assert "error: model folder: expected one with refiner/ in it" in said


# ---------------------------------------------------------------- every option reaches the cascade


class Recorder:
    """Stands for the cascade: keeps what it is given and returns frames of zeros."""

    device = torch.device("cpu")
    base = SimpleNamespace(unet=SimpleNamespace(config=SimpleNamespace(kind="i2vgen_xl")))

    def __init__(self, folder, **options):
        self.seen = Recorder.last = {"model": folder, **options}

    def check_frame(self, width, height):
        pass

    def condition(self, image, prompt, options):
        self.seen |= {"image": image, "prompt": prompt, "condition": options}

    def sample_base(self, conditions, options, held, control, callback):
        self.seen["base"] = options

    def encode_video(self, frames, options):
        self.seen["encode"] = options

    def sample_refiner(self, latent, prompt, options, callback):
        self.seen |= {"refine_prompt": prompt, "refine": options}

    def decode(self, latent):
        return torch.zeros(2, 64, 64, 3)

    def canvas(self, frames, options):
        return None

    def decode_refined(self, latent, canvas):
        return self.decode(latent)

    def free(self, *parts):
        pass

    def add_lora(self, file, strength):
        self.seen.setdefault("loras", []).append((str(file), strength))


def given(generate, monkeypatch, *more):
    monkeypatch.setattr("i2vgen_core.commands.generate.Cascade", Recorder)
    monkeypatch.setattr("i2vgen_core.commands.generate.write_video", lambda *_, **__: None)
    assert generate(*more)[0] == 0
    return Recorder.last


BASE_OPTIONS = {
    "--width": ("width", 128),
    "--height": ("height", 136),
    "--frames": ("frames", 9),
    "--fps": ("fps", 8),
    "--steps": ("steps", 7),
    "--guidance": ("guidance", 2.5),
    "--eta": ("eta", 0.5),
    "--seed": ("seed", 3),
    "--negative": ("negative", "calm"),
    "--solver": ("solver", "unipc"),
    "--guidance-start": ("acceleration", Acceleration(guidance_start=0.2)),
    "--guidance-end": ("acceleration", Acceleration(guidance_end=0.2)),
    "--reuse-interval": ("acceleration", Acceleration(reuse_interval=2)),
}
REFINE_OPTIONS = {
    "--refine-width": ("width", 128),
    "--refine-height": ("height", 136),
    "--refine-steps": ("steps", 7),
    "--refine-guidance": ("guidance", 2.5),
    "--refine-rescale": ("rescale", 0.7),
    "--refine-noise-level": ("noise_level", 300),
    "--refine-amount": ("amount", 0.5),
    "--refine-solver": ("solver", "heun"),
    "--refine-entry": ("entry", "inversion"),
    "--refine-eta": ("eta", 0.5),
    "--seed": ("seed", 3),
    "--refine-negative": ("negative", "calm"),
    "--refine-guidance-start": ("acceleration", Acceleration(guidance_start=0.2)),
    "--refine-guidance-end": ("acceleration", Acceleration(guidance_end=0.2)),
    "--refine-reuse-interval": ("acceleration", Acceleration(reuse_interval=2)),
}


def _said(value):
    """What is said for it: of an acceleration, the only setting that is not as it comes."""
    if not isinstance(value, Acceleration):
        return value
    (changed,) = (each for each, usual in zip(astuple(value), astuple(EXACT), strict=True) if each != usual)
    return changed


@pytest.mark.parametrize("option", BASE_OPTIONS)
def test_an_option_reaches_the_base_alone(generate, monkeypatch, option):
    field, value = BASE_OPTIONS[option]
    before, after = given(generate, monkeypatch), given(generate, monkeypatch, option, _said(value))
    assert after["base"] == after["condition"] == replace(before["base"], **{field: value}) != before["base"]
    assert (after["refine"] == before["refine"]) == (option != "--seed")


@pytest.mark.parametrize("option", REFINE_OPTIONS)
def test_an_option_reaches_the_refiner_alone(generate, monkeypatch, option):
    field, value = REFINE_OPTIONS[option]
    before, after = given(generate, monkeypatch), given(generate, monkeypatch, option, _said(value))
    assert after["refine"] == after["encode"] == replace(before["refine"], **{field: value}) != before["refine"]
    assert (after["base"] == before["base"]) == (option != "--seed")


LORAS = {"a.safetensors": 1.0, "b.safetensors:0.5": 0.5, "C:\\c.safetensors": 1.0, "C:\\c.safetensors:-2": -2.0}


def test_loras_reach_with_their_strengths(generate, monkeypatch):
    for text, strength in LORAS.items():
        file = text[: text.rindex(":")] if text.endswith(("0.5", "-2")) else text
        seen = given(generate, monkeypatch, "--lora", text, "--lora", "d.safetensors:1")
        assert seen["loras"] == [(file, strength), ("d.safetensors", 1.0)]


def test_a_lora_of_another_network_is_refused_before_the_work(generate, no_work, tmp_path):
    save_file({"unet.mid_block.a.lora_A.weight": torch.ones(1)}, tmp_path / "a.safetensors")
    code, _, said = generate("--lora", tmp_path / "a.safetensors")
    assert code == 2 and "error: LoRA file a.safetensors: expected low-rank matrices of this network" in said


def test_evaluate_tries_the_base_with_its_options(monkeypatch):
    seen = {}

    class Result:
        spectra, missed, figures = {}, [], {}

        def json(self):
            return {}

    monkeypatch.setattr(
        "i2vgen_core.training.evaluate.evaluate", lambda *_, **options: seen.update(options) or Result()
    )
    monkeypatch.setattr("i2vgen_core.commands.evaluate.Cascade", Recorder)
    said = "--steps 9 --solver dpmpp_2m --guidance-start 0.1 --guidance-end 0.5 --reuse-interval 4 --lora a:2"
    assert main(["evaluate", *said.split()]) == 0
    assert Recorder.last["loras"] == [("a", 2.0)]
    assert seen["base"] == BaseOptions(steps=9, solver="dpmpp_2m", acceleration=Acceleration(0.1, 0.5, 4))


def test_what_is_not_said_is_the_releases(generate, monkeypatch, bundles, photo, tmp_path):
    monkeypatch.setattr("i2vgen_core.commands.generate.Cascade", Recorder)
    arguments = ["--model", bundles(), "--image", photo, "--prompt", "a fox", "--out", tmp_path / "out.mp4"]
    assert main(["generate", *map(str, arguments), "--device", "cpu"]) == 0
    seen = Recorder.last
    assert seen["base"] == BaseOptions() and seen["refine"] == RefineOptions()
    assert seen["prompt"] == seen["refine_prompt"] == "a fox"
    kept = {name: seen[name] for name in ("dtype", "device", "refiner_kind", "detail_gain")}
    assert kept == {"dtype": None, "device": "cpu", "refiner_kind": None, "detail_gain": "official"}


@pytest.mark.parametrize(
    "option, name, value",
    [
        (("--prompt", "a boat"), "prompt", "a boat"),
        (("--refine-prompt", "a boat"), "refine_prompt", "a boat"),
        (("--refine-prompt", ""), "refine_prompt", ""),
        (("--dtype", "bf16"), "dtype", torch.bfloat16),
        (("--refiner", "sr600"), "refiner_kind", "sr600"),
        (("--detail-gain", "once"), "detail_gain", "once"),
    ],
)
def test_the_other_options_reach(generate, monkeypatch, option, name, value):
    assert given(generate, monkeypatch, *option)[name] == value


def test_without_a_picture_it_is_a_scene_of_its_own_world(monkeypatch, tmp_path, photo, caplog):
    monkeypatch.setattr("i2vgen_core.commands.generate.Cascade", Recorder)
    monkeypatch.setattr("i2vgen_core.commands.generate.write_video", lambda *_, **__: None)
    command = ["generate", "--out", str(tmp_path / "out.mp4"), "--device", "cpu"]
    assert main([*command, "--seed", "13"]) == 0
    scene = Recorder.last
    assert scene["image"].shape == (1, 256, 512, 3) and scene["prompt"] == caption(
        sample_scene(13, split="held_out"), 13
    )
    assert main([*command, "--prompt", "a fox"]) == 0
    assert Recorder.last["prompt"] == "a fox" and not torch.equal(Recorder.last["image"], scene["image"])
    assert main([*command, "--image", str(photo)]) == 2
    assert "error: --prompt: expected what happens in the video, found none" in caplog.text
    assert main([*command, "--model", str(tmp_path)]) == 2
    assert "error: --image: expected a photo, found none" in caplog.text


def test_several_pictures_read_each_network_once(generate, bundles, photo, tmp_path, monkeypatch, caplog):
    second = photo.with_name("second.png")
    Image.open(photo).transpose(Image.Transpose.ROTATE_180).save(second)
    loaded = []
    monkeypatch.setattr("i2vgen_core.parts.open_base", lambda *a: loaded.append("base") or open_base(*a))
    monkeypatch.setattr("i2vgen_core.parts.open_refiner", lambda *a: loaded.append("refiner") or open_refiner(*a))
    written = {}
    monkeypatch.setattr(
        "i2vgen_core.commands.generate.write_video", lambda file, frames, fps, sound: written.update({file: frames})
    )
    code, out, said = generate("--image", photo, second, out=tmp_path)
    assert code == 0 and loaded == ["base", "refiner"]
    files = [out / "photo.mp4", out / "second.mp4"]
    assert list(written) == files and all(f"{file}: 3 frames of 72x64" in said for file in files)
    assert not torch.equal(written[files[0]], written[files[1]])
    assert generate()[0] == 0
    assert torch.equal(written[tmp_path / "out.mp4"], written[files[0]])


@pytest.mark.parametrize(
    "images, out, message",
    [
        (("a/x.png", "b/x.jpg"), ".", "--image: expected pictures of different names, found x.mp4 twice"),
        (("a.png", "b.png"), "out.mp4", "--out: expected a folder that exists, for several pictures"),
        (("a.png", "b.png"), "nowhere", "--out: expected a folder that exists, for several pictures"),
    ],
)
def test_several_pictures_that_have_no_place(generate, tmp_path, images, out, message):
    code, _, said = generate("--image", *images, out=tmp_path / out)
    assert code == 2 and f"error: {message}" in said


def test_the_console_script(monkeypatch, capsys):
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    module, name = re.search(r'^i2vgen-xl = "(.+):(.+)"$', project, re.M).groups()
    assert getattr(importlib.import_module(module), name) is main
    monkeypatch.setattr(sys, "argv", ["/usr/bin/i2vgen-xl", "--version"])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 0 and capsys.readouterr().out == f"i2vgen-xl {__version__}\n"
    with pytest.raises(SystemExit):
        main(["--help"])
    said = capsys.readouterr().out
    assert "usage: i2vgen-xl" in said and str(ROOT / "docs") in "".join(said.split())


def test_the_pages_of_an_installed_package(monkeypatch, tmp_path):
    class File:
        name = "library.md"

        def locate(self):
            return tmp_path / "share" / "library.md"

    monkeypatch.setattr("i2vgen_core.commands._PAGE", "none.md")
    monkeypatch.setattr(File, "name", "none.md")
    monkeypatch.setattr("importlib.metadata.files", lambda _: [File()])
    assert pages() == tmp_path / "share"


def _installed() -> dict[Path, Path]:
    """The pages that pip installs: where they lie below their folder, and where here."""
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    pages = {}
    for folder, patterns in re.findall(r'^"share/doc/comfyui-i2vgen-xl/?(.*)" = \[(.+)\]$', project, re.M):
        for pattern in re.findall(r'"(.+?)"', patterns):
            found = list(ROOT.glob(pattern))
            assert found, pattern
            pages |= {Path(folder, file.name): file for file in found}
    return pages


def test_the_wheel_has_what_is_named():
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert Path("docs", "library.md") in _installed()
    assert '"py.typed"' in project and (ROOT / "i2vgen_core" / "py.typed").is_file()


def test_links_between_installed_pages_lead_somewhere():
    """All but those to pictures, which stay in the repository."""
    pages = _installed()
    missing = []
    for place, file in pages.items():
        for link in re.findall(r"(?<!!)\[[^\]]*\]\(([^)#\s]+)", file.read_text(encoding="utf-8")):
            target = Path(os.path.normpath(place.parent / link))
            if "://" not in link and target.suffix not in (".png", ".jpg", ".webp") and target not in pages:
                missing.append(f"{place}: {link}")
    assert not missing


# ---------------------------------------------------------------- what cannot be used


@pytest.mark.parametrize(
    "more, message",
    [
        (("--image", "nowhere.png"), "the image file: expected a file, found nothing at 'nowhere.png'"),
        (("--image", __file__), "the image file: expected a whole PNG"),
        (("--model", "nowhere"), "model folder: expected one with unet/ in it, found nowhere"),
        (("--width", "63"), "width: expected a multiple of 8 from 64 to 16384 pixels, found 63"),
        (("--refine-height", "100"), "height: expected a multiple of 8 from 64 to 16384 pixels, found 100"),
        (("--steps", "1000"), "steps: expected 1 to 999, found 1000"),
        (("--frames", "0"), "frames: expected 1 to"),
        (("--eta", "2"), "eta: expected"),
        (("--refine-noise-level", "1001"), "noise level: expected 2 to 1000, found 1001"),
        (("--file-fps", "0"), "fps: expected"),
        (("--device", "xpu:7"), "device: expected cpu"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else None,
)
def test_what_cannot_be_used_ends_with_2_and_says_why(generate, no_work, more, message):
    code, out, said = generate(*more)
    assert code == 2
    assert f"error: {message}" in said
    assert not out.exists()


@pytest.fixture
def no_work(monkeypatch):
    """Fails a run that samples."""

    def worked(*_, **__):
        raise AssertionError("sampling, for a setting that was known to be wrong")

    monkeypatch.setattr("i2vgen_core.cascade.Cascade.sample_base", worked)


def test_a_place_that_cannot_be_written_is_said_before_the_work(generate, no_work, tmp_path):
    code, _, said = generate(out=tmp_path / "nowhere" / "out.mp4")
    assert code == 2
    assert "error: the video file: expected a path in a folder that exists" in said


def test_a_damaged_checkpoint_ends_with_2(generate, bundles, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(bundles(), model)
    file = model / "unet" / "diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    code, _, said = generate(model=model)
    assert code == 2
    assert "error: file diffusion_pytorch_model.safetensors: expected a safetensors file" in said


@pytest.mark.parametrize("arguments", [[], ["generate"], ["scaffold"], ["paint"], ["scaffold", "x", "--size", "huge"]])
def test_a_command_that_is_none_ends_with_2(arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert "usage: python -m i2vgen_core" in capsys.readouterr().err


def test_help_lists_the_releases_settings(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")  # wide enough not to break at hyphens
    with pytest.raises(SystemExit) as stopped:
        main(["generate", "--help"])
    assert stopped.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    for part in (
        "--model DIR",
        "(the release's, 1280)",
        "--image FILE",
        "--out FILE.mp4",
        "--refine-steps",
        "release's 50",
        "0.2 or 0.3",
    ):
        assert part in text, part


# ---------------------------------------------------------------- scaffold, and the module as a command


def test_scaffold_writes_what_diffusers_layout_has(tmp_path, caplog, monkeypatch):
    folder = tmp_path / "bundle"
    monkeypatch.setitem(SIZES, "tiny", toy.SIZE)  # whose files are a tenth of the real one's
    assert main(["scaffold", str(folder), "--size", "tiny", "--refiner", "sr600"]) == 0
    settings = {"tokenizer", "scheduler", "feature_extractor", "model_index.json"}
    parts = {path.name for path in folder.iterdir()}
    assert parts == {"unet", "vae", "text_encoder", "image_encoder", "refiner"} | settings
    for part in parts - settings:
        assert (folder / part / "config.json").is_file() and list((folder / part).glob("*.safetensors"))
    index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
    assert index["unet"] == ["diffusers", "I2VGenXLUNet"]
    base, refiner = open_unet(folder / "unet").config, open_unet(folder / "refiner").config
    assert base == toy.SIZE.unet
    assert refiner.kind == "sr600"

    assert main(["scaffold", str(folder)]) == 2
    assert "error: folder: expected a new or empty one" in caplog.text


def test_the_end_of_a_machine_and_a_full_disk_are_a_line(monkeypatch, tmp_path, caplog):
    command = ["scaffold", str(tmp_path / "model")]
    monkeypatch.setattr("i2vgen_core.commands.scaffold.run", lambda _: signal.raise_signal(signal.SIGTERM))
    handler = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        assert main(command) == 130 and caplog.messages == ["stopped"]
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        assert main(command) == 0, "as nohup and its like ask for"
    finally:
        signal.signal(signal.SIGTERM, handler)

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device", "here.mp4")

    monkeypatch.setattr("i2vgen_core.commands.scaffold.run", full)
    assert main(command) == 2
    assert caplog.messages[1:] == [
        "error: here.mp4: expected room to write, found none (No space left on device). Free some, or choose another folder."
    ]


def test_a_line_stands_above_a_bar(monkeypatch, capsys):
    def run(options):
        with generate_command.progress("base", 1) as callback:
            callback(0, 2)
            logging.getLogger("i2vgen_xl").warning("a warning of its own")

    monkeypatch.setattr(generate_command, "run", run)
    monkeypatch.setattr(logging.getLogger(), "handlers", [])  # main adds its own, onto this test's stream
    assert main(["generate", "--out", "v.mp4"]) == 0
    shown = [line.rpartition("\r")[2] for line in capsys.readouterr().err.split("\n")]
    assert "a warning of its own" in shown and any("base:  50%" in line for line in shown)


@pytest.mark.filterwarnings("ignore:.*found in sys.modules after import")  # runpy, since this file imports it too
def test_the_module_as_a_command_exits_with_the_code(tmp_path, monkeypatch, caplog):
    """As `python -m i2vgen_core` does it."""
    arguments = ["generate", "--model", "nowhere", "--image", "nothing.png", "--prompt", "a fox"]
    monkeypatch.setattr(sys, "argv", ["i2vgen_core", *arguments, "--out", str(tmp_path / "out.mp4")])
    with pytest.raises(SystemExit) as stopped:
        runpy.run_module("i2vgen_core", run_name="__main__")
    assert stopped.value.code == 2
    assert "error: model folder: expected one with unet/ in it, found nowhere" in caplog.text
