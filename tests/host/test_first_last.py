"""First and Last Frame: a video ends in a picture, as the core's does, beside a mask that was there."""

import pytest
import torch

from i2vgen_core.cascade import Cascade
from i2vgen_core.directing import hold_last
from i2vgen_core.media.images import read_image

from . import graphs
from .compare import relative_error
from .graphs import changed, node

SHAPE = (graphs.FRAMES, 4, graphs.HEIGHT // 8, graphs.WIDTH // 8)


def _graph(**inputs):
    end = {"model": ["loader", 0], "vae": ["loader", 4], "latent": ["global_encode", 2], "last_image": ["end", 0]}
    return changed(
        graphs.base_latent()
        | {"end": node("GiveForTest", name="end"), "ends": node("I2VGenXLFirstLast", **end | inputs)},
        base__model=["ends", 0],
        base__latent=["ends", 1],
    )


@pytest.fixture(scope="module")
def end(host):
    host.given["end"] = torch.rand(1, 90, 120, 3, generator=torch.Generator().manual_seed(4))
    return host.given["end"]


def test_the_video_ends_as_the_cores(host, bundles, photo, end):
    sampled = host.value(_graph(until=0.9))
    cascade, options = Cascade(bundles / graphs.BUNDLE), graphs.BASE_OPTIONS
    conditions = cascade.condition(read_image(photo), graphs.PROMPT, options)
    held = hold_last(cascade, end, options)
    assert relative_error(sampled, cascade.sample_base(conditions, options, held=held)) < 1e-4
    last = cascade.encode_images(end, options)
    held_to_the_end = host.value(_graph(until=1.0))
    assert relative_error(held_to_the_end[-1:], last) < 1e-4
    assert relative_error(sampled[-1:], last) > 1e-3


def test_a_mask_that_was_there_stays(host, end):
    left = torch.ones(graphs.HEIGHT, graphs.WIDTH)
    left[:, :32] = 0
    given = torch.randn(SHAPE, generator=torch.Generator().manual_seed(2))
    host.given["video"] = {"samples": given, "noise_mask": left[None]}
    graph = _graph(until=1.0, latent=["video", 0]) | {"video": node("GiveForTest", name="video")}
    sampled = host.value(graph)
    assert relative_error(sampled[:-1, ..., :3], given[:-1, ..., :3]) < 1e-5
    assert relative_error(sampled[:-1, ..., 6:], given[:-1, ..., 6:]) > 1e-2


def test_a_still_has_no_last_frame(host, end):
    result = host.run(changed(_graph(until=0.9), global_encode__frames=1), {"base": ("base", 0)})
    assert "2 or more" in str(result.error)
