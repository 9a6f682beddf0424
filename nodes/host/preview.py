"""What a sampler's block shows while it runs: frames over the whole clip, the step, and the time that is left."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from copy import copy
from typing import Any

import comfy.latent_formats
import comfy.utils
import latent_preview
import torch
from PIL import Image
from torch import Tensor

from . import compat

Preview = Callable[[int, Tensor, Tensor, int], None]
"""What the host calls after a step: its number from 0, the clean latent as it is estimated, the noisy one, steps."""

_SIDE = 3  # frames along a side of the strip, at most


class VideoLatent(comfy.latent_formats.SD15):
    """Stable Diffusion's latents, frames as the batch. A preview of them is a strip of frames, the stock samplers' too.

    Args:
        rgb: of another VAE, five rows of red, green and blue in -1..1: what one unit of each of the four channels adds,
            and what is there without.
    """

    def __init__(self, rgb: Sequence[Sequence[float]] | None = None):
        super().__init__()
        if rgb is not None:
            *self.latent_rgb_factors, self.latent_rgb_factors_bias = rgb
            self.taesd_decoder_name = None  # that is Stable Diffusion's
        self.latent_rgb_factors_reshape = filmstrip


def filmstrip(latent: Tensor) -> Tensor:
    """[F, c, h, w] to one picture [1, c, rows * h, columns * w] of 1, 2, 3, 4 or 9 frames, spread evenly over the clip,
    the first and the last among them."""
    columns = _columns(len(latent))
    rows = [torch.cat(list(row), dim=2) for row in latent[_shown(len(latent))].split(columns)]
    return torch.cat(rows, dim=1)[None]


def _columns(frames: int) -> int:
    return frames if frames < 4 else min(int(frames**0.5), _SIDE)


def _shown(frames: int) -> list[int]:
    columns = _columns(frames)
    count = frames if frames < 4 else columns**2
    return torch.linspace(0, frames - 1, count).round().int().tolist()


def prepare_callback(model: Any, steps: int, notes: list[str]) -> Preview:
    """The host's callback of a run of `steps` steps, with a strip of frames from its TAESD too, and text below the
    block: the step, then the notes."""
    frame_by_frame = copy(model.model.latent_format)
    frame_by_frame.latent_rgb_factors_reshape = None
    previewer = latent_preview.get_previewer(model.load_device, frame_by_frame)
    bar = comfy.utils.ProgressBar(steps)
    first = 0.0
    compat.progress_text("\n".join([progress_text(0, steps, None), *notes]))  # in place of an earlier run's

    def callback(step: int, denoised: Tensor, x: Tensor, total: int) -> None:
        nonlocal first
        now = time.perf_counter()
        first = now if step == 0 else first
        picture = None if previewer is None else _picture(previewer, denoised)
        bar.update_absolute(step + 1, total, picture)
        text = progress_text(step + 1, total, (now - first) / step if step else None)
        compat.progress_text("\n".join([text, *notes]))

    return callback


def progress_text(step: int, steps: int, seconds: float | None) -> str:
    """What is written below the block, for example "step 5 of 20, 1.52 s a step, 0:23 left"."""
    text = f"step {step} of {steps}"
    if seconds is None:
        return text
    minutes, left = divmod(round(seconds * (steps - step)), 60)
    return f"{text}, {seconds:.2f} s a step" + (f", {minutes}:{left:02} left" if step < steps else "")


def _picture(previewer: Any, latent: Tensor) -> Any:
    """The host's own previewers show the first frame; a pack's may have a way of its own to show a video."""
    if type(previewer) not in (latent_preview.Latent2RGBPreviewer, latent_preview.TAESDPreviewerImpl):
        return previewer.decode_latent_to_preview_image("JPEG", latent)
    shown = [previewer.decode_latent_to_preview_image("JPEG", latent[i : i + 1]) for i in _shown(len(latent))]
    kind, frame, most = shown[0]
    columns = _columns(len(latent))
    strip = Image.new("RGB", (columns * frame.width, -(-len(shown) // columns) * frame.height))
    for number, (_, frame, _) in enumerate(shown):
        strip.paste(frame, (number % columns * frame.width, number // columns * frame.height))
    return kind, strip, most
