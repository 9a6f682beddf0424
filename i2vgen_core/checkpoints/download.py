"""Fetches the released files into ComfyUI's model folders, through huggingface_hub. Only the command line does so."""

from __future__ import annotations

import hashlib
import logging
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import constants, get_hf_file_metadata, hf_hub_download, hf_hub_url

from ..errors import InputError
from ..releases import RELEASES
from .model_folders import model_paths

logger = logging.getLogger("i2vgen_xl")


@dataclass(frozen=True)
class ReleasedFile:
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

_VGEN = "VGen: research and non-commercial use only"
_TFT2V = "https://modelscope.cn/models/iic/tf-t2v/files"


def _family(title: str, file: str, gigabytes: float, licence: str, page: str) -> ReleasedFile:
    """A network beside the cascade's that is not on the Hub."""
    return ReleasedFile(title, "", file, "diffusion_models", file, gigabytes, licence, elsewhere=page)


def _ctrl_adapter(what: str, name: str, size: int | None = None) -> ReleasedFile:
    """A Ctrl-Adapter of the base; the file's size is known of some."""
    return ReleasedFile(
        title=f"Ctrl-Adapter, {what}",
        repository="hanlincs/Ctrl-Adapter",
        file=f"{name}/diffusion_pytorch_model.safetensors",
        folder="controlnet",
        name=f"{name}.safetensors",
        gigabytes=2.35,
        licence="MIT, by its model card",
        size=size,
    )


FILES = {
    "i2vgen_xl": ReleasedFile(
        title="I2VGen-XL, the base",
        repository=_I2VGEN_XL,
        file="unet/diffusion_pytorch_model.fp16.safetensors",
        folder="diffusion_models",
        name="i2vgen_xl_fp16.safetensors",
        gigabytes=2.84,
        licence=_RESEARCH,
        sha256="6ef043141380ab4f",
    ),
    "text": ReleasedFile(
        title="OpenCLIP ViT-H/14, text",
        repository=_I2VGEN_XL,
        file="text_encoder/model.fp16.safetensors",
        folder="text_encoders",
        name="i2vgen_xl_text_encoder_fp16.safetensors",
        gigabytes=0.71,
        licence="MIT",
    ),
    "vision": ReleasedFile(
        title="OpenCLIP ViT-H/14, vision",
        repository=_I2VGEN_XL,
        file="image_encoder/model.fp16.safetensors",
        folder="clip_vision",
        name="i2vgen_xl_image_encoder_fp16.safetensors",
        gigabytes=1.26,
        licence="MIT",
    ),
    "vae": ReleasedFile(
        title="Stable Diffusion 2.1's VAE",
        repository=_I2VGEN_XL,
        file="vae/diffusion_pytorch_model.safetensors",
        folder="vae",
        name="i2vgen_xl_vae.safetensors",
        gigabytes=0.33,
        licence="CreativeML Open RAIL++-M",
        sha256="2aa1f43011b553a4",
    ),
    "vid2vid_xl": ReleasedFile(
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
    "image2video": ReleasedFile(
        title="MS-Image2Video, another base",
        repository="ali-vilab/MS-Image2Video",
        file="base_03_alldata_fps_v_80g_0789000.pth",
        folder="diffusion_models",
        name="base_03_alldata_fps_v_80g_0789000.pth",
        gigabytes=5.68,
        licence=_NO_DERIVATIVES,
    ),
    "sr600": ReleasedFile(
        title="VGen's SR600, another refiner",
        repository="",
        file="sr_step_110000_ema.pth",
        folder="diffusion_models",
        name="sr_step_110000_ema.pth",
        gigabytes=5.6,
        licence=_VGEN,
        elsewhere="https://modelscope.cn/models/iic/HiGen/files",
    ),
    "tft2v_composer": _family("TF-T2V's composer", "tft2v_vcomposer_non_ema_254000.pth", 5.67, _VGEN, _TFT2V),
    "tft2v_composer_896x512": _family(
        "TF-T2V's composer for 896x512", "tft2v_vcomposer_non_ema_270000_896x512.pth", 5.67, _VGEN, _TFT2V
    ),
    "videolcm_composer": _family("VideoLCM's composer", "videolcm_vcomposer_non_ema_914000.pth", 5.67, _VGEN, _TFT2V),
    "tft2v_t2v": _family("TF-T2V's text to video", "tft2v_t2v_non_ema_512000.pth", 5.67, _VGEN, _TFT2V),
    "videolcm_t2v": _family("VideoLCM's text to video", "videolcm_t2v_non_ema_544000.pth", 5.65, _VGEN, _TFT2V),
    "unianimate": _family(
        "UniAnimate",
        "unianimate_16f_32f_non_ema_223000.pth",
        5.67,
        "no licence file; UniAnimate's README says research and non-commercial use only",
        "https://modelscope.cn/models/iic/unianimate/files",
    ),
    "animate_x": ReleasedFile(
        title="Animate-X",
        repository="Shuaishuai0219/Animate-X",
        file="animate-x_ckpt.pth",
        folder="diffusion_models",
        name="animate-x_ckpt.pth",
        gigabytes=7.27,
        licence="Apache-2.0 for the code; not stated for the weights",
    ),
    "star": ReleasedFile(
        title="STAR, a refiner of real videos, for light degradation",
        repository="SherryX/STAR",
        file="I2VGen-XL-based/light_deg.pt",
        folder="diffusion_models",
        name="star_light_deg.pt",
        gigabytes=8.16,
        licence="MIT by its README, without a licence file; it was trained from VEnhancer, which states none",
    ),
    "star_heavy": ReleasedFile(
        title="STAR, for heavy degradation",
        repository="SherryX/STAR",
        file="I2VGen-XL-based/heavy_deg.pt",
        folder="diffusion_models",
        name="star_heavy_deg.pt",
        gigabytes=8.16,
        licence="MIT by its README, without a licence file; it was trained from VEnhancer, which states none",
    ),
    "venhancer": ReleasedFile(
        title="VEnhancer, a refiner in space and time, version 2",
        repository="jwhejwhe/VEnhancer",
        file="venhancer_v2.pt",
        folder="diffusion_models",
        name="venhancer_v2.pt",
        gigabytes=8.18,
        licence="none stated: ask its authors before you use it or pass anything on that comes of it",
    ),
    "ctrl_depth": _ctrl_adapter("depth", "i2vgenxl_depth", 2_349_526_656),
    "ctrl_canny": _ctrl_adapter("canny edges", "i2vgenxl_canny"),
    "ctrl_softedge": _ctrl_adapter("soft edges", "i2vgenxl_softedge"),
    "ctrl_scribble": _ctrl_adapter("sparse scribbles", "i2vgenxl_scribble_sparse", 2_349_526_656),
}
SETS = {"cascade": ("i2vgen_xl", "text", "vision", "vae", "vid2vid_xl")}
"""What belongs together, by a name of its own."""

_READ = 2**20


def download(file: ReleasedFile, models: Path, endpoint: str | None = None) -> Path:
    """Fetches one file through huggingface_hub, unless it is in one of the folders already.

    The library goes on after a break of the connection. Size and sha256 are compared with what is known of the release and
    with what the server says, and only then does the file get its name.

    Args:
        file: which.
        models: ComfyUI's models folder.
        endpoint: of the Hub; huggingface_hub's own setting, HF_ENDPOINT, if None.

    Returns:
        Where it is.

    Raises:
        InputError: no network, another file than the released one, no room, or a file that is not on the Hub.
    """
    folders = model_paths(models, file.folder)
    there = next((folder / file.name for folder in folders if (folder / file.name).is_file()), None)
    if there is not None:
        logger.info("%s is there already", there)
        return there
    target = folders[0] / file.name
    if file.elsewhere:
        raise _failure(file, target, "a file on the Hugging Face Hub", "one that is elsewhere")
    etag, size = _asked(file, target, hf_hub_url(file.repository, file.file, endpoint=endpoint or constants.ENDPOINT))
    target.parent.mkdir(parents=True, exist_ok=True)
    _check_room(target.parent, size)
    with _work_folder(target) as folder:
        fetched = _fetched(file, target, folder, endpoint, size)
        _check_content(file, target, fetched, etag)
        os.replace(fetched, target)
    logger.info("%s: %s", target, "sha256 is right" if file.sha256 or _is_sha256(etag) else "no sha256 is known")
    return target


def sha256(file: Path) -> str:
    """A file's hash in hexadecimal."""
    found = hashlib.sha256()
    with file.open("rb") as opened:
        while block := opened.read(_READ):
            found.update(block)
    return found.hexdigest()


def released_kind(path: Path) -> dict[str, str]:
    """What a released file is, as its metadata would say it (`kind`), by its hash where that is known; nothing for any other
    file or folder. Only a file of a release's very size is read."""
    for name, file in FILES.items():
        known = name in RELEASES and file.sha256 and file.size
        if known and path.is_file() and path.stat().st_size == file.size and sha256(path).startswith(file.sha256):
            return {"kind": name}
    return {}


def listing(name: str, models: Path | None) -> str:
    """What a file is, its size, licence and page, and where it goes, in three lines."""
    file = FILES[name]
    folder = str(model_paths(models, file.folder)[0]) if models else f"models/{file.folder}"
    return (
        f"{name:22} {file.gigabytes:5.2f} GB  {file.title}\n"
        f"  from {file.page}, {file.file}\n"
        f"  to {folder}/{file.name}\n"
        f"  licence: {file.licence}"
    )


def _asked(file: ReleasedFile, target: Path, url: str) -> tuple[str, int | None]:
    """The server's word on etag and size. Raises InputError if they are not the release's."""
    try:
        found = get_hf_file_metadata(url, token=False)
    except Exception as error:  # of requests, httpx or the library's own, which differs by its version
        raise _failure(file, target, "an answer from the Hub", _short(error)) from error
    etag = found.etag or ""
    if file.size and found.size and file.size != found.size:
        raise _failure(file, target, f"{file.size} bytes, as released", f"{found.size} bytes")
    if _is_sha256(etag) and not etag.startswith(file.sha256):
        raise _failure(file, target, f"sha256 {file.sha256}..., as released", f"{etag[:16]}...")
    return etag, file.size or found.size


@contextmanager
def _work_folder(target: Path) -> Iterator[Path]:
    """Where the library puts a file and its notes, beside the file's place. It stays only where the library has left a part
    that it can go on from."""
    folder = target.with_name(f".{target.name}.download")
    try:
        yield folder
    finally:
        if target.exists() or not any(folder.rglob("*.incomplete")):
            shutil.rmtree(folder, ignore_errors=True)


def _fetched(file: ReleasedFile, target: Path, folder: Path, endpoint: str | None, size: int | None) -> Path:
    try:
        return Path(hf_hub_download(file.repository, file.file, local_dir=folder, token=False, endpoint=endpoint))
    except Exception as error:  # of requests, httpx or the library's own, which differs by its version
        expected = f"all of it ({size} bytes)" if size else "all of it"
        raise _failure(file, target, expected, _short(error), "Run the command again.") from error


def _check_content(file: ReleasedFile, target: Path, fetched: Path, etag: str) -> None:
    """Raises InputError unless it is the released file."""
    found = sha256(fetched)
    expected = etag if _is_sha256(etag) else file.sha256
    if not found.startswith(expected):
        raise _failure(file, target, f"sha256 {expected[:16]}...", f"another file, {found[:16]}...")


def _check_room(folder: Path, size: int | None) -> None:
    free = shutil.disk_usage(folder).free
    if size is not None and free < size:
        remedy = "Make room, or choose another folder with --to."
        raise InputError(str(folder), f"{size / 1e9:.2f} GB free", f"{free / 1e9:.2f} GB", remedy)


def _failure(file: ReleasedFile, target: Path, expected: str, found: str, first: str = "") -> InputError:
    by_hand = f"By hand: download {file.file} from {file.page}, and save it as {target}."
    return InputError(file.name, expected, found, f"{first} {by_hand}".strip())


def _is_sha256(etag: str) -> bool:
    return re.fullmatch("[0-9a-f]{64}", etag) is not None


def _short(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__
