"""Fixtures of the tests that need ComfyUI."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from i2vgen_core.checkpoints.scaffold import SIZES, scaffold
from i2vgen_core.config import UNetConfig

from . import graphs
from .available import HOST, PACK
from .in_process import Host
from .server import Server


@pytest.fixture(scope="session")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of made-up bundles.

    - `tiny`: I2VGen-XL and MS-Vid2Vid-XL.
    - `others`: MS-Image2Video and SR600.
    - `family/<kind>`: as `short`, of the networks beside the cascade's.
    - `short`: as `tiny` with two levels, for long runs; its heads are 64 wide, as a file without config.json is read.

    Weights are stored in fp16: the host keeps CLIP's so on every device, and rounding would hide what is compared.
    """
    folder = tmp_path_factory.mktemp("bundles")
    tiny = replace(SIZES["tiny"], dtype=torch.float16)
    short = UNetConfig(
        model_channels=64,
        channel_mult=(1, 1),
        attention_levels=(True, False),
        num_res_blocks=1,
        first_temporal_heads=1,
        context_dim=64,
        image_dim=64,
    )
    scaffold(folder / "tiny", tiny)
    scaffold(folder / "others", tiny, base="image2video", refiner="sr600", seed=1)
    scaffold(folder / "short", replace(tiny, unet=short), seed=2)
    for kind in ("tft2v_composer", "videolcm_composer", "text2video", "unianimate", "animate_x"):
        scaffold(folder / "family" / kind, replace(tiny, unet=short), base=kind, seed=3)
    return folder


@pytest.fixture(scope="session")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example's photo as a PNG: the host decodes JPEG with another library than Pillow."""
    file = tmp_path_factory.mktemp("photo") / graphs.PHOTO
    Image.open(PACK / "demo" / "photo.jpg").convert("RGB").save(file)
    return file


def _base_directory(folder: Path, bundles: Path) -> Path:
    for name in ("input", "output", "models/diffusion_models", "models/loras"):
        (folder / name).mkdir(parents=True)
    (folder / "models" / "diffusers").symlink_to(bundles, target_is_directory=True)
    return folder


@pytest.fixture(scope="session")
def host(tmp_path_factory: pytest.TempPathFactory, bundles: Path, photo: Path) -> Host:
    """ComfyUI in this process, on the CPU, with the pack loaded, `bundles` and the photo in its folders."""
    folder = _base_directory(tmp_path_factory.mktemp("host"), bundles)
    (folder / "input" / photo.name).write_bytes(photo.read_bytes())
    return Host(HOST, PACK, folder)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory, bundles: Path) -> Iterator[Server]:
    """ComfyUI as a server of its own, on the CPU, with the pack linked in and `bundles` in its folders."""
    running = Server(HOST, PACK, _base_directory(tmp_path_factory.mktemp("server"), bundles))
    yield running
    running.stop()
