"""Video Edit in the host gives the edit of the core, inverts a clip once, and says in a sentence what cannot be."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from i2vgen_core.cascade import Cascade
from i2vgen_core.config import VAE_SCALE
from i2vgen_core.editing import edit_clip, invert_clip
from i2vgen_core.media.images import read_image
from i2vgen_core.sampling.options import EditOptions

from . import graphs
from .compare import relative_error
from .graphs import node
from .in_process import Host

OPTIONS = EditOptions(
    width=graphs.WIDTH,
    height=graphs.HEIGHT,
    frames=graphs.FRAMES,
    fps=graphs.FPS,
    steps=4,
    guidance=7.0,
    convolution=0.25,
    spatial=0.5,
    temporal=0.75,
    negative=graphs.NEGATIVE,
)


@pytest.fixture(scope="module")
def clip(photo: Path) -> torch.Tensor:
    """Frames of a photo that moves, [3, H, W, 3], in steps of 1/255, of the video's size."""
    picture = read_image(photo)[:, : graphs.HEIGHT, : graphs.WIDTH + 8]
    return torch.cat([picture[:, :, 4 * i : 4 * i + graphs.WIDTH] for i in range(graphs.FRAMES)])


@pytest.fixture
def graph(host: Host, clip: torch.Tensor) -> graphs.Graph:
    """The source's first frame encoded for an empty prompt, its first frame with other colours for a prompt, and `base`."""
    host.given |= {"clip": clip, "first": clip[:1], "edited": 1 - clip[:1]}
    conditions = graphs.changed(
        graphs.conditions(), clip_encode__image=["edited", 0], global_encode__image=["edited", 0]
    )
    del conditions["photo"]
    source = {
        f"source_{name}": {**conditions[name], "inputs": {**conditions[name]["inputs"], "image": ["first", 0]}}
        for name in ("clip_encode", "global_encode")
    }
    source["source_clip_encode"]["inputs"] |= {"prompt": ""}
    source["source_global_encode"]["inputs"] |= {
        "positive": ["source_clip_encode", 0],
        "negative": ["source_clip_encode", 1],
    }
    given = {name: node("GiveForTest", name=name) for name in ("clip", "first", "edited")}
    return (
        conditions
        | source
        | given
        | {
            "encode": node("VAEEncode", pixels=["clip", 0], vae=["loader", 4]),
            "base": node(
                "I2VGenXLVideoEdit",
                model=["loader", 0],
                source_positive=["source_global_encode", 0],
                positive=["global_encode", 0],
                negative=["global_encode", 1],
                source_latent=["encode", 0],
                seed=0,
                steps=OPTIONS.steps,
                cfg=OPTIONS.guidance,
                convolution=OPTIONS.convolution,
                spatial=OPTIONS.spatial,
                temporal=OPTIONS.temporal,
            ),
        }
    )


@pytest.fixture
def rows(host: Host, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Rows of each evaluation of the network."""
    seen: list[int] = []
    unet = host.module("i2vgen_core.network.unet").UNet
    velocity = unet._velocity

    def counted(self: Any, *inputs: Any) -> torch.Tensor:
        seen.append(len(inputs[-1].prepared.context))
        return velocity(self, *inputs)

    monkeypatch.setattr(unet, "_velocity", counted)
    return seen


def test_the_edit_is_the_cores_and_its_inversion_is_kept(host, graph, clip, bundles, rows):
    cascade = Cascade(bundles / graphs.BUNDLE)
    inverted = invert_clip(cascade, clip, OPTIONS)
    frames = edit_clip(cascade, inverted, 1 - clip[:1], graphs.PROMPT, OPTIONS)
    rows.clear()
    latent = host.value(graph)
    assert rows == [1] * 4 + [3] * 3 + [2], "the source's row ends with the last step that takes anything"
    assert relative_error(cascade.decode(latent), frames) < 1e-3

    rows.clear()
    again = host.value(graphs.changed(graph, base__cfg=5.0))
    assert rows == [3] * 3 + [2], "the inversion is that of the first edit"
    fresh = edit_clip(cascade, inverted, 1 - clip[:1], graphs.PROMPT, replace(OPTIONS, guidance=5.0))
    assert relative_error(cascade.decode(again), fresh) < 1e-3
    rows.clear()
    host.value(graphs.changed(graph, source_clip_encode__prompt="a cat", base__cfg=5.0))
    assert rows[:4] == [1] * 4, "another source"


def test_progress_and_preview_cover_both_parts(host, graph, monkeypatch):
    import comfy.utils
    import latent_preview
    from comfy.cli_args import LatentPreviewMethod

    shown: list[tuple[int, int, Any]] = []
    hook = lambda value, total, preview, **_: shown.append((value, total, preview))  # noqa: E731
    monkeypatch.setattr(latent_preview.args, "preview_method", LatentPreviewMethod.Latent2RGB)
    monkeypatch.setattr(latent_preview, "default_preview_method", LatentPreviewMethod.Latent2RGB, raising=False)
    graph = graphs.changed(graph, source_clip_encode__prompt="a dog")
    monkeypatch.setattr(comfy.utils, "PROGRESS_BAR_HOOK", hook)
    # The host leaves out steps that come within a tenth of a second of the last one shown.
    monkeypatch.setattr(comfy.utils, "PROGRESS_THROTTLE_MIN_INTERVAL", 0, raising=False)
    latent, model = host.values(graph, "base", "loader")
    steps = [each for each in shown if each[1] == 8]
    assert [value for value, _, _ in steps] == list(range(1, 9))
    pictures = [np.asarray(preview[1]) for _, _, preview in steps]
    previewer = latent_preview.get_previewer(model.load_device, model.model.latent_format)
    _, made, _ = previewer.decode_latent_to_preview_image("JPEG", latent * VAE_SCALE)
    assert np.abs(pictures[-1].astype(int) - np.asarray(made)).max() <= 1, "the last one is the edit's latent"
    assert all((one != other).any() for one, other in pairwise(pictures))


def test_a_cancelled_edit_stops_within_a_step(host, graph, monkeypatch, rows):
    import comfy.model_management
    import comfy.samplers

    predict = comfy.samplers.CFGGuider.predict_noise

    def watched(self: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        if len(rows) == 2:
            comfy.model_management.interrupt_current_processing()
        return predict(self, *args, **kwargs)

    graph = graphs.changed(graph, source_clip_encode__prompt="a bird")
    monkeypatch.setattr(comfy.samplers.CFGGuider, "predict_noise", watched)
    result = host.run(graph, {"latent": ("base", 0)}, reuse_cache=True)
    monkeypatch.undo()
    assert result.interrupted and result.error_node == "base" and len(rows) <= 3


def test_context_windows(host, graph, rows):
    """Windows of two frames: each takes over the features of its own frames of the source."""
    window = node(
        "ContextWindowsManual",
        model=["loader", 0],
        context_length=2,
        context_overlap=1,
        context_schedule="standard_static",
        context_stride=1,
        closed_loop=False,
        fuse_method="pyramid",
        dim=0,
        freenoise=False,
        cond_retain_index_list="",
        split_conds_to_windows=False,
        latent_retain_index_list="",
        causal_window_fix=False,
    )
    graph = graphs.changed(graph | {"window": window}, base__model=["window", 0])
    latent = host.value(graph)
    assert latent.shape[0] == graphs.FRAMES and latent.isfinite().all()
    assert rows == [1] * 8 + [3] * 6 + [2] * 2


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"base__inversion_steps": 6}, "steps of the inversion: expected"),
        ({"base__cfg": 1.0}, "guidance: expected another scale than 1"),
        ({"base__start": 4}, "start: expected"),
        ({"source_global_encode__frames": 2}, "frames, channels, height and width"),
        ({"source_global_encode__height": 72}, "frames, channels, height and width"),
    ],
)
def test_what_cannot_be_is_said_before_any_work(host, graph, rows, changes, words):
    result = host.run(graphs.changed(graph, **changes), {"latent": ("base", 0)}, reuse_cache=True)
    assert result.error_node == "base" and words in str(result.error)
    assert not rows


def test_patches_of_blocks_are_refused_where_features_are_taken_over(host, graph):
    patched = node("FreeU", model=["loader", 0], b1=1.1, b2=1.2, s1=0.9, s2=0.2)
    graph = graphs.changed(graph | {"patched": patched}, base__model=["patched", 0])
    result = host.run(graph, {"latent": ("base", 0)}, reuse_cache=True)
    assert "without patches of its blocks" in str(result.error)
    graph = graphs.changed(graph, base__convolution=0.0, base__spatial=0.0, base__temporal=0.0)
    assert host.run(graph, {"latent": ("base", 0)}, reuse_cache=True).error is None
