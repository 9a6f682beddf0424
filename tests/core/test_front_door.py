"""The library as an engineer meets it: `from i2vgen_core import Cascade`, one call, and what is said of wrong arguments."""

import importlib.util
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from threading import Event

import numpy as np
import pytest
import torch
import toy
from PIL import Image
from safetensors.torch import save_file

import i2vgen_core
from i2vgen_core import BaseOptions, Cancelled, Cascade, InputError, RefineOptions, load_vae, write_image
from i2vgen_core.checkpoints.lora_keys import diffusers_layers

ROOT = Path(__file__).parents[2]
BASE = BaseOptions(width=72, height=64, frames=2, steps=2)
REFINE = RefineOptions(width=88, height=64, steps=2, noise_level=300)
PROMPT = "a red fox runs"


@pytest.fixture(scope="module")
def cascade(bundles):
    return Cascade(bundles())


@pytest.fixture(scope="module")
def pixels():
    return np.random.default_rng(0).integers(0, 256, (70, 100, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def image(pixels):
    return torch.from_numpy(pixels)[None].float() / 255


@pytest.fixture(scope="module")
def videos(cascade, image):
    return cascade(image, PROMPT, BASE, REFINE)


# ---------------------------------------------------------------- names


def test_every_name_is_there():
    for name in i2vgen_core.__all__:
        assert getattr(i2vgen_core, name) is not None
    assert set(i2vgen_core.__all__) <= set(dir(i2vgen_core))
    assert set(i2vgen_core.__all__) == {"__version__", *i2vgen_core._PLACES}
    with pytest.raises(AttributeError, match="no attribute 'Casacde'"):
        _ = i2vgen_core.Casacde


def test_type_checkers_see_the_names_that_are_there():
    block = (ROOT / "i2vgen_core" / "__init__.py").read_text().split("if TYPE_CHECKING:")[1].split("\n\n")[0]
    seen = {
        name: module for module, names in re.findall(r"from \.(\S+) import (.+)", block) for name in names.split(", ")
    }
    assert seen == i2vgen_core._PLACES


def test_the_version_is_the_projects():
    project = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.M)
    assert i2vgen_core.__version__ == project[1]


def test_the_folder_may_have_any_name():
    """As ComfyUI imports the pack: from a path, under a name of its own."""
    spec = importlib.util.spec_from_file_location(
        "custom.pack", ROOT / "i2vgen_core" / "__init__.py", submodule_search_locations=[str(ROOT / "i2vgen_core")]
    )
    sys.modules["custom.pack"] = module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        assert module.InputError.__module__ == "custom.pack.errors"
    finally:
        for name in [name for name in sys.modules if name.startswith("custom.pack")]:
            del sys.modules[name]


# ---------------------------------------------------------------- one call


def test_a_call_is_its_steps(cascade, image, videos):
    latent = cascade.sample_base(cascade.condition(image, PROMPT, BASE), BASE)
    base = cascade.decode(latent)
    refined = cascade.decode(cascade.sample_refiner(cascade.encode_video(base, REFINE), PROMPT, REFINE))
    assert torch.equal(videos.base, base) and torch.equal(videos.refined, refined)
    assert videos.frames is videos.refined
    alone = cascade(image, PROMPT, BASE, stage="base")
    assert torch.equal(alone.base, base) and alone.refined is None and alone.frames is alone.base


def test_the_refiners_seed_and_prompt_are_the_bases_unless_given(cascade, image, monkeypatch):
    seen = []

    def sample_refiner(latent, prompt, options, callback, around):
        seen.append((prompt, options))
        return latent

    small = {"width": 88, "height": 64}
    monkeypatch.setattr(cascade, "sample_refiner", sample_refiner)
    monkeypatch.setattr(cascade, "encode_video", lambda video, options: torch.zeros(1, 4, 8, 8))
    one = replace(BASE, steps=1, frames=1, seed=5)
    cascade(image, PROMPT, one)
    cascade(image, PROMPT, one, RefineOptions(seed=3, **small), refine_prompt="a boat")
    assert seen == [(PROMPT, RefineOptions(seed=5)), ("a boat", RefineOptions(seed=3, **small))]


def test_a_picture_of_any_kind(cascade, pixels, image, tmp_path):
    write_image(tmp_path / "a.png", image[0])
    forms = [str(tmp_path / "a.png"), tmp_path / "a.png", Image.fromarray(pixels), pixels, pixels[None] / 255.0]
    forms += [torch.from_numpy(pixels), image[0], image.expand(2, -1, -1, -1)]
    expected = cascade.condition(image, PROMPT, BASE).positive
    for form in forms:
        assert toy.error(cascade.condition(form, PROMPT, BASE).positive, expected) < 1e-5, type(form)


def test_a_type_is_given_by_name(bundles):
    for name, dtype in {"bf16": torch.bfloat16, "float16": torch.float16, torch.float32: torch.float32}.items():
        assert Cascade(bundles(), dtype=name).dtype == dtype
    for wrong in ("int8", torch.int8):
        with pytest.raises(InputError, match="dtype: expected fp32 or bf16 or fp16 or float32"):
            Cascade(bundles(), dtype=wrong)


def test_to_moves_and_reads_again(bundles):
    cascade = Cascade(bundles())
    vae = cascade.vae = load_vae(bundles() / "vae")
    text = cascade.text_encoder.model
    weights = {name: value.clone() for name, value in text.state_dict().items()}
    assert cascade.to("cpu") is cascade and cascade.text_encoder.model is text
    assert cascade.to(dtype="bf16").dtype == torch.bfloat16
    assert next(cascade.vae.model.parameters()).dtype == next(cascade.text_encoder.model.parameters()).dtype
    assert cascade.vae is vae
    cascade.to(dtype=torch.float32)
    assert toy.same(cascade.text_encoder.model.state_dict(), weights), "what was read in bf16 is read again"
    with pytest.raises(InputError, match="device: expected cpu"):
        cascade.to("nonsense")


def test_a_callback_counts_the_steps_of_both_stages(cascade, image, videos):
    seen = []
    again = cascade(image, PROMPT, BASE, REFINE, callback=lambda step, steps, x, _: seen.append((step, steps, x.shape)))
    assert [(step, steps) for step, steps, _ in seen] == [(0, 4), (1, 4), (2, 4), (3, 4)]
    assert torch.equal(again.frames, videos.frames)


@pytest.mark.parametrize("steps", [0, 1, 3])
def test_a_run_is_cancelled(cascade, image, steps):
    cancel, seen = Event(), []

    def callback(step, *_):
        seen.append(step)
        if len(seen) == steps:
            cancel.set()

    if not steps:
        cancel.set()
    with pytest.raises(Cancelled):
        cascade(image, PROMPT, BASE, REFINE, callback=callback, cancel=cancel)
    assert len(seen) == steps


def test_a_step_of_a_long_video_is_cancelled_between_windows(cascade, image):
    cancel, seen = Event(), []

    def watch(_, inputs):
        seen.append(len(inputs[0]))
        cancel.set()

    hook = cascade.refiner.unet.register_forward_pre_hook(watch)
    refine = replace(REFINE, window=3, guidance=1.0)
    with pytest.raises(Cancelled):
        cascade(image, PROMPT, replace(BASE, frames=6), refine, cancel=cancel)
    hook.remove()
    assert seen == [3], "of the first step's two windows"


def test_decoding_is_cancelled_between_frames(cascade, image, monkeypatch):
    cancel, decoded = Event(), []

    def decode(latent):
        decoded.append(len(latent))
        cancel.set()
        return torch.zeros(1, 64, 72, 3)

    monkeypatch.setattr(cascade, "decode", decode)
    with pytest.raises(Cancelled):
        cascade(image, PROMPT, BASE, stage="base", cancel=cancel)
    assert decoded == [1]


def test_parts_are_assigned(bundles, image, videos):
    other = load_vae(bundles() / "vae")
    with torch.no_grad():
        other.model.decoder.conv_out.bias += 0.5
    cascade = Cascade(bundles())
    cascade.vae = other
    assert toy.error(cascade(image, PROMPT, BASE, stage="base").base, videos.base) > 1e-3
    cascade.free()
    assert cascade.vae is other
    cascade.free("vae")
    assert torch.equal(cascade(image, PROMPT, BASE, stage="base").base, videos.base)
    cascade.base = Cascade(bundles()).base
    with pytest.raises(InputError, match="vae: expected VAE, found AutoencoderKL"):
        cascade.vae = other.model


# ---------------------------------------------------------------- LoRA


@pytest.fixture(scope="module")
def lora(cascade, tmp_path_factory):
    """lora(kind): a file that changes one layer of a stage."""

    def write(kind=None):
        file = tmp_path_factory.mktemp("lora") / f"{kind}.safetensors"
        unet = cascade.base.unet
        theirs, (key, _) = next((k, v) for k, v in diffusers_layers(unet.state_dict()).items() if "attn2.to_k" in k)
        outputs, inputs = unet.state_dict()[key].shape
        pair = {
            f"unet.{theirs}.lora_B.weight": torch.ones(outputs, 1),
            f"unet.{theirs}.lora_A.weight": torch.ones(1, inputs),
        }
        save_file(pair, file, {"kind": kind} if kind else {})
        return file

    return write


def test_loras_are_put_on_and_taken_off(bundles, image, lora, videos):
    cascade, file, refiners = Cascade(bundles()), lora(), lora("vid2vid_xl")
    plain = {
        stage: {k: v.clone() for k, v in getattr(cascade, stage).unet.state_dict().items()}
        for stage in ("base", "refiner")
    }

    def changed(stage):
        now = getattr(cascade, stage).unet.state_dict()
        return {name for name, value in now.items() if not torch.equal(value, plain[stage][name])}

    cascade.add_lora(file, 0.5)
    cascade.add_lora(refiners)
    assert len(changed("base")) == len(changed("refiner")) == 1
    (name,) = changed("base")
    assert toy.error(cascade.base.unet.state_dict()[name], plain["base"][name] + 0.5) < 1e-6
    assert toy.error(cascade(image, PROMPT, BASE, stage="base").base, videos.base) > 1e-4
    cascade.add_lora(lora("i2vgen_xl"), 0.25)
    cascade.free()
    assert toy.error(cascade.base.unet.state_dict()[name], plain["base"][name] + 0.75) < 1e-6, (
        "put on what is read anew"
    )
    cascade.remove_lora(file)
    assert toy.error(cascade.base.unet.state_dict()[name], plain["base"][name] + 0.25) < 1e-6
    with pytest.raises(InputError, match=r"LoRA file: expected .*, found .*None\.safetensors"):
        cascade.remove_lora(file)
    cascade.remove_lora()
    assert not changed("base") and not changed("refiner")


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    "options, message",
    [
        ({"steps": 4.5}, "steps: expected a whole number from 1 to 999, found 4.5"),
        ({"steps": True}, "steps: expected a whole number from 1 to 999, found True"),
        ({"width": "64"}, "width: expected a whole number or None, found '64'"),
        ({"negative": 3}, "negative: expected text or None, found 3"),
        ({"solver": ["ddim"]}, "solver: expected text, found list"),
        ({"acceleration": None}, "acceleration: expected Acceleration, found None"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_options_of_other_types(cascade, image, options, message):
    with pytest.raises(InputError, match=re.escape(message)):
        cascade(image, PROMPT, replace(BASE, **options))


def test_numbers_of_numpy_are_numbers(cascade, image):
    options = replace(BASE, steps=np.int64(1), guidance=np.float32(2), frames=np.int32(1))
    assert cascade.condition(image, PROMPT, options).shape == (1, 4, 8, 9)


@pytest.mark.parametrize(
    "name, value, message",
    [
        ("prompt", None, "prompt: expected text, found None"),
        ("prompt", ["a fox"], "prompt: expected text, found list"),
        ("image", None, "image: expected text or a path or a PIL image or a numpy array or a tensor, found None"),
        ("image", np.zeros((4, 4, 3), object), "the image: expected one of 8 bits"),
        ("base", REFINE, "base: expected BaseOptions or None, found RefineOptions"),
        ("stage", "refine", "stage: expected base or cascade or None, found 'refine'"),
        ("callback", 3, "callback: expected a function or None, found 3"),
        ("cancel", True, "cancel: expected Event or None, found True"),
    ],
    ids=lambda value: value if isinstance(value, str) and value.isidentifier() else "",
)
def test_arguments_of_other_types(cascade, image, name, value, message):
    with pytest.raises(InputError, match=re.escape(message)):
        cascade(**{"image": image, "prompt": PROMPT, "base": BASE, name: value})


def test_shapes_that_do_not_belong_together(cascade, image):
    conditions = cascade.condition(image, PROMPT, BASE)
    with pytest.raises(InputError, match=r"noise: expected shape \[2, 4, 8, 9\], found \[3, 4, 8, 9\]"):
        cascade.sample_base(conditions, BASE, noise=torch.zeros(3, 4, 8, 9))
    with pytest.raises(InputError, match=r"options: expected shape \[2, 4, 8, 9\], found \[3, 4, 8, 9\]"):
        cascade.sample_base(conditions, replace(BASE, frames=3))
    latent = torch.zeros(2, 4, 8, 11)
    with pytest.raises(InputError, match=r"noise: expected shape \[2, 4, 8, 11\], found \[2, 4, 8, 8\]"):
        cascade.sample_refiner(latent, PROMPT, REFINE, noise=torch.zeros(2, 4, 8, 8))
    with pytest.raises(InputError, match=r"noise: expected a tensor or None, found ndarray \[2\]"):
        cascade.sample_base(conditions, BASE, noise=np.zeros(2))


# ---------------------------------------------------------------- types

PAGES = (ROOT / "README.md", ROOT / "docs" / "library.md")
FIRST, SNIPPET = (
    re.findall(r"^```python\n(.*?)^```$", page.read_text(encoding="utf-8"), re.M | re.S)[0] for page in PAGES
)
"""The pages' first examples."""

WRONG = {
    "seed=1": "sed=1",
    'dtype="fp16"': "dtype=16",
    '"A fox runs"': "None",
    "videos.frames": "videos.fames",
    "import BaseOptions": "import BasOptions, BaseOptions",
}


@pytest.mark.slow
def test_mypy_finds_a_wrong_argument(tmp_path):
    files = {}
    for example in (FIRST, SNIPPET):
        for right, wrong in [("", ""), *WRONG.items()]:
            file = tmp_path / f"example_{len(files)}.py"
            if not right or right in example:
                files[file] = wrong
                file.write_text(example.replace(right, wrong) if right else example)
    assert len(files) == 5 + 6
    done = subprocess.run(
        [sys.executable, "-m", "mypy", *map(str, files)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    found = {name for name in re.findall(r"(\S+): error: ", done.stdout) for name in [Path(name.split(":")[0]).name]}
    assert found == {file.name for file, wrong in files.items() if wrong}, done.stdout + done.stderr
