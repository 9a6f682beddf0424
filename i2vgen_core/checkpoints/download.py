"""Fetches the released files into ComfyUI's model folders, through huggingface_hub. Only the command line does so."""

from __future__ import annotations

import hashlib
import logging
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url
from huggingface_hub.file_download import http_get
from huggingface_hub.utils import build_hf_headers

from ..errors import InputError
from .model_folders import model_paths

logger = logging.getLogger("i2vgen_xl")


@dataclass(frozen=True)
class Release:
    """One released file.

    Args:
        title: for people.
        repository: on the Hugging Face Hub; empty where it is not there.
        file: its path in the repository.
        folder: ComfyUI's kind of model.
        name: of the file in that folder.
        gigabytes: its size, about.
        licence: of the weights.
        size: exact bytes, where known.
        sha256: the first digits, where known.
        elsewhere: its page, where it is not on the Hub.
    """

    title: str
    repository: str
    file: str
    folder: str
    name: str
    gigabytes: float
    licence: str
    size: int | None = None
    sha256: str = ""
    elsewhere: str = ""

    @property
    def page(self) -> str:
        """Where a person finds it."""
        return self.elsewhere or f"https://huggingface.co/{self.repository}"


_I2VGEN_XL = "ali-vilab/i2vgen-xl"
_RESEARCH = "tagged MIT; VGen, whose weights these are, says research and non-commercial use only"
_NO_DERIVATIVES = "CC-BY-NC-ND-4.0: no commercial use, and nothing derived may be passed on"

RELEASES = {
    "i2vgen_xl": Release(
        title="I2VGen-XL, the base",
        repository=_I2VGEN_XL,
        file="unet/diffusion_pytorch_model.fp16.safetensors",
        folder="diffusion_models",
        name="i2vgen_xl_fp16.safetensors",
        gigabytes=2.84,
        licence=_RESEARCH,
        sha256="6ef043141380ab4f",
    ),
    "text": Release(
        title="OpenCLIP ViT-H/14, text",
        repository=_I2VGEN_XL,
        file="text_encoder/model.fp16.safetensors",
        folder="text_encoders",
        name="i2vgen_xl_text_encoder_fp16.safetensors",
        gigabytes=0.71,
        licence="MIT",
    ),
    "vision": Release(
        title="OpenCLIP ViT-H/14, vision",
        repository=_I2VGEN_XL,
        file="image_encoder/model.fp16.safetensors",
        folder="clip_vision",
        name="i2vgen_xl_image_encoder_fp16.safetensors",
        gigabytes=1.26,
        licence="MIT",
    ),
    "vae": Release(
        title="Stable Diffusion 2.1's VAE",
        repository=_I2VGEN_XL,
        file="vae/diffusion_pytorch_model.safetensors",
        folder="vae",
        name="i2vgen_xl_vae.safetensors",
        gigabytes=0.33,
        licence="CreativeML Open RAIL++-M",
        sha256="2aa1f43011b553a4",
    ),
    "vid2vid_xl": Release(
        title="MS-Vid2Vid-XL, the refiner",
        repository="ali-vilab/MS-Vid2Vid-XL",
        file="non_ema_0035000.pth",
        folder="diffusion_models",
        name="non_ema_0035000.pth",
        gigabytes=5.65,
        licence=_NO_DERIVATIVES,
        size=5_645_549_113,
        sha256="d146dd22a8158896",
    ),
    "image2video": Release(
        title="MS-Image2Video, another base",
        repository="ali-vilab/MS-Image2Video",
        file="base_03_alldata_fps_v_80g_0789000.pth",
        folder="diffusion_models",
        name="base_03_alldata_fps_v_80g_0789000.pth",
        gigabytes=5.68,
        licence=_NO_DERIVATIVES,
    ),
    "sr600": Release(
        title="VGen's SR600, another refiner",
        repository="",
        file="sr_step_110000_ema.pth",
        folder="diffusion_models",
        name="sr_step_110000_ema.pth",
        gigabytes=5.6,
        licence="VGen: research and non-commercial use only",
        elsewhere="https://modelscope.cn/models/iic/HiGen/files",
    ),
}
SETS = {"cascade": ("i2vgen_xl", "text", "vision", "vae", "vid2vid_xl")}
"""What belongs together, by a name of its own."""

_READ = 2**20


def download(release: Release, models: Path, endpoint: str | None = None) -> Path:
    """Fetches one file, unless it is in one of the folders already.

    What was fetched of it before is not fetched again. Size and sha256 are compared with what is known of the release
    and with what the server says, and only then does the file get its name.

    Args:
        release: which.
        models: ComfyUI's models folder.
        endpoint: of the Hub; huggingface_hub's own setting, HF_ENDPOINT, if None.

    Returns:
        Where it is.

    Raises:
        InputError: no network, another file than the released one, no room, or a file that is not on the Hub.
    """
    folders = model_paths(models, release.folder)
    there = next((folder / release.name for folder in folders if (folder / release.name).is_file()), None)
    if there is not None:
        logger.info("%s is there already", there)
        return there
    target = folders[0] / release.name
    if release.elsewhere:
        raise _failure(release, target, "a file on the Hugging Face Hub", "one that is elsewhere")
    url = hf_hub_url(release.repository, release.file, endpoint=endpoint or constants.ENDPOINT)
    etag, size = _asked(release, target, url)
    target.parent.mkdir(parents=True, exist_ok=True)
    _check_room(target.parent, size)
    part = target.with_name(f"{target.name}.{hashlib.sha256(etag.encode()).hexdigest()[:8]}.part")
    _fetch(release, target, part, url, size)
    _check_content(release, target, part, etag)
    os.replace(part, target)
    logger.info("%s: %s", target, "sha256 is right" if release.sha256 or _is_sha256(etag) else "no sha256 is known")
    return target


def listing(name: str, models: Path | None) -> str:
    """What a file is, its size, licence and page, and where it goes, in three lines."""
    release = RELEASES[name]
    folder = str(model_paths(models, release.folder)[0]) if models else f"models/{release.folder}"
    return (
        f"{name:12} {release.gigabytes:5.2f} GB  {release.title}\n"
        f"  from {release.page}, {release.file}\n"
        f"  to {folder}/{release.name}\n"
        f"  licence: {release.licence}"
    )


def _asked(release: Release, target: Path, url: str) -> tuple[str, int | None]:
    """The server's word on etag and size. Raises InputError if they are not the release's."""
    try:
        found = get_hf_file_metadata(url, token=False)
    except Exception as error:  # of requests, httpx or the library's own, which differs by its version
        raise _failure(release, target, "an answer from the Hub", _short(error)) from error
    etag = found.etag or ""
    if release.size and found.size and release.size != found.size:
        raise _failure(release, target, f"{release.size} bytes, as released", f"{found.size} bytes")
    if _is_sha256(etag) and not etag.startswith(release.sha256):
        raise _failure(release, target, f"sha256 {release.sha256}..., as released", f"{etag[:16]}...")
    return etag, release.size or found.size


def _fetch(release: Release, target: Path, part: Path, url: str, size: int | None) -> None:
    part.touch()
    with part.open("r+b") as file:
        start = file.seek(0, os.SEEK_END)
        if size is not None and start > size:
            start = file.truncate(0)
            file.seek(0)
        if start:
            logger.info("%s: going on after %.2f GB", release.name, start / 1e9)
        headers = build_hf_headers(token=False)
        whole = False
        while not whole:
            try:
                http_get(
                    url, file, resume_size=start, headers=headers, expected_size=size, displayed_filename=release.name
                )
                whole = True
            except Exception as error:  # as above
                before, start = start, file.seek(0, os.SEEK_END)
                if start > before:  # the library goes on after a break by itself, but for a connection cut, before 1.0
                    continue
                expected = f"all of it ({size} bytes)" if size else "all of it"
                raise _failure(release, target, expected, _short(error), "Run the command again to go on.") from error


def _check_content(release: Release, target: Path, part: Path, etag: str) -> None:
    """Raises InputError, and removes what was fetched, unless it is the released file."""
    found = hashlib.sha256()
    with part.open("rb") as file:
        while block := file.read(_READ):
            found.update(block)
    expected = etag if _is_sha256(etag) else release.sha256
    if not found.hexdigest().startswith(expected):
        part.unlink()
        raise _failure(release, target, f"sha256 {expected[:16]}...", f"another file, {found.hexdigest()[:16]}...")


def _check_room(folder: Path, size: int | None) -> None:
    free = shutil.disk_usage(folder).free
    if size is not None and free < size:
        remedy = "Make room, or choose another folder with --to."
        raise InputError(str(folder), f"{size / 1e9:.2f} GB free", f"{free / 1e9:.2f} GB", remedy)


def _failure(release: Release, target: Path, expected: str, found: str, first: str = "") -> InputError:
    by_hand = f"By hand: download {release.file} from {release.page}, and save it as {target}."
    return InputError(release.name, expected, found, f"{first} {by_hand}".strip())


def _is_sha256(etag: str) -> bool:
    return re.fullmatch("[0-9a-f]{64}", etag) is not None


def _short(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__
