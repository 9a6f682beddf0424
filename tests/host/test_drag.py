"""Drag, Camera and Follow Animation: the videos are the core's, from the host's own boxes, tracks and masks."""

import pytest
import torch

from i2vgen_core.cascade import Cascade
from i2vgen_core.directing import follow
from i2vgen_core.media.images import read_image
from i2vgen_core.media.warp import Rough, boxes, camera, drag

from . import graphs
from .compare import relative_error
from .graphs import changed, node

BOX = {"x": 30, "y": 20, "width": 40, "height": 40}
SIZE = graphs.WIDTH, graphs.HEIGHT, graphs.FRAMES
WIRES = {"image": ["photo", 0], "latent": ["global_encode", 2]}
DRAG = node("I2VGenXLDrag", path="0,0 30,15", scale=1.0, rotation=0.0, box=["box", 0], **WIRES)
CAMERA = node("I2VGenXLCamera", pan=0.2, tilt=0.0, zoom=1.2, roll=5.0, **WIRES)


def _graph(rough, **inputs):
    wires = {"model": ["loader", 0], "vae": ["loader", 4], "latent": ["global_encode", 2], "images": ["rough", 0]}
    more = {"strong": 0.0, "weak": 0.12, "mask": ["rough", 1]} | inputs
    return changed(
        graphs.base_latent()
        | {
            "box": node("PrimitiveBoundingBox", **BOX),
            "rough": rough,
            "follows": node("I2VGenXLFollowAnimation", **wires, **more),
        },
        base__model=["follows", 0],
        base__latent=["follows", 1],
    )


def _cores(bundles, photo, rough, **strengths):
    cascade, options = Cascade(bundles / graphs.BUNDLE), graphs.BASE_OPTIONS
    held = follow(cascade, rough, options, **strengths)
    return cascade.sample_base(cascade.condition(read_image(photo), graphs.PROMPT, options), options, held=held)


def test_a_dragged_part(host, bundles, photo):
    picture = read_image(photo)
    rough = drag(picture, boxes(BOX, picture.shape[2], picture.shape[1]), "0,0 30,15", *SIZE)
    made = host.run(_graph(DRAG), {"rough": ("rough", 0), "mask": ("rough", 1), "base": ("base", 0)})
    assert made.error is None, made.error
    assert torch.equal(made.kept["rough"], rough.frames) and torch.equal(made.kept["mask"], rough.mask)
    assert relative_error(made.kept["base"]["samples"], _cores(bundles, photo, rough)) < 1e-4


def test_tracks_and_a_mask_drag_too(host, photo):
    """ComfyUI's own tracks, and a mask in the place of the box."""
    picture = read_image(photo)
    part = boxes(BOX, picture.shape[2], picture.shape[1])
    host.given["part"] = part
    tracks = {"width": 112, "height": 64, "start_x": 0.0, "start_y": 0.5, "end_x": 0.5, "end_y": 0.5, "num_frames": 3}
    more = {
        "num_tracks": 3,
        "track_spread": 0.1,
        "bezier": False,
        "mid_x": 0.5,
        "mid_y": 0.5,
        "interpolation": "linear",
    }
    graph = _graph(changed({"rough": DRAG}, rough__mask=["part", 0], rough__tracks=["tracks", 0])["rough"])
    del graph["rough"]["inputs"]["box"]
    graph |= {"part": node("GiveForTest", name="part"), "tracks": node("GenerateTracks", **tracks, **more)}
    made = host.run(graph, {"rough": ("rough", 0)})
    assert made.error is None, made.error
    assert relative_error(made.kept["rough"], drag(picture, part, "0,0 56,0", *SIZE).frames) < 1e-4
    graph["rough"]["inputs"]["box"] = ["box", 0]
    assert "both" in str(host.run(graph, {"rough": ("rough", 0)}).error)


def test_a_camera(host, bundles, photo):
    rough = camera(read_image(photo), *SIZE, pan=0.2, zoom=1.2, roll=5.0)
    sampled = host.value(_graph(CAMERA, strong=0.9, weak=0.0))
    assert relative_error(sampled, _cores(bundles, photo, rough, strong=0.9, weak=0.0)) < 1e-4


def test_an_animation_of_ones_own(host, bundles, photo):
    """Everywhere followed without a mask, but where a noise mask holds what is there."""
    host.given["own"] = torch.rand(3, 90, 120, 3, generator=torch.Generator().manual_seed(4))
    left = torch.ones(graphs.HEIGHT, graphs.WIDTH)
    left[:, :32] = 0
    video = torch.randn(3, 4, graphs.HEIGHT // 8, graphs.WIDTH // 8, generator=torch.Generator().manual_seed(2))
    host.given["video"] = {"samples": video, "noise_mask": left[None]}
    graph = _graph(node("GiveForTest", name="own"), strong=1.0)
    del graph["follows"]["inputs"]["mask"]
    sampled = host.value(graph)
    whole = Rough(host.given["own"], torch.ones(host.given["own"].shape[:3]))
    assert relative_error(sampled, _cores(bundles, photo, whole, strong=1.0)) < 1e-4
    graph["follows"]["inputs"] |= {"latent": ["video", 0], "strong": 0.9}
    sampled = host.value(graph | {"video": node("GiveForTest", name="video")})
    assert relative_error(sampled[..., :3], video[..., :3]) < 1e-5
    assert relative_error(sampled[..., 6:], video[..., 6:]) > 1e-2


@pytest.mark.parametrize("frames, message", [(2, "3 frames"), (4, "3 frames")])
def test_an_animation_of_another_length(host, frames, message):
    host.given["own"] = torch.zeros(frames, 90, 120, 3)
    graph = _graph(node("GiveForTest", name="own"))
    del graph["follows"]["inputs"]["mask"]
    assert message in str(host.run(graph, {"base": ("base", 0)}).error)


def test_how_long_another_model_is_held_has_to_be_said(host):
    """Where `strong` is the model's own, it is that of a model of this pack."""
    host.given["other"] = object()
    graph = changed(_graph(CAMERA), follows__model=["other", 0]) | {"other": node("GiveForTest", name="other")}
    error = str(host.run(graph, {"follows": ("follows", 1)}).error)
    assert "Wire the MODEL of one of this pack's loaders into it" in error
