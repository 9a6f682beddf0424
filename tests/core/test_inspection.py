"""A conditioning's parts in a picture and a table."""

import pytest
import torch
import toy

from i2vgen_core.config import UNetConfig
from i2vgen_core.errors import InputError
from i2vgen_core.media.inspection import Parts, inspect, principal_colours, split_context


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def parts(seed=0, frames=16, rows=8, columns=16):
    return Parts(
        noise(77, 64, seed=seed), noise(64, 64, seed=seed), noise(4, 64, seed=seed), noise(frames, 4, rows, columns)
    )


def test_a_context_is_taken_apart():
    context, details = noise(145, 32), noise(3, 4, 2, 2)
    split = split_context(context, details, UNetConfig())
    assert torch.equal(torch.cat([split.text, split.global_tokens, split.image]), context)
    assert len(split.text) == 77 and len(split.global_tokens) == 64 and split.details is details
    alone = split_context(context[:4], None, UNetConfig(kind="image2video"))
    assert torch.equal(alone.image, context[:4]) and alone.text is None
    assert split_context(context[:77], None, UNetConfig(kind="sr600")).image is None


def test_equal_directions_have_equal_colours():
    groups = torch.eye(3).repeat_interleave(10, dim=0) * 5 + 0.01 * noise(30, 3)
    colours = principal_colours(groups)
    within = max(colours[i : i + 10].std(0).max().item() for i in (0, 10, 20))
    between = torch.pdist(colours[::10]).min().item()
    assert within < 0.05 and between > 0.5
    assert torch.allclose(principal_colours(torch.ones(7, 5)), torch.tensor(0.5))
    assert principal_colours(noise(1, 2)).shape == (1, 3)
    assert torch.equal(principal_colours(groups), colours)


def test_the_table_states_norms_and_similarities():
    text = torch.zeros(77, 4)
    text[:, 0] = torch.linspace(1, 3, 77)
    turned = text.roll(1, dims=1)
    turned[0, 0] = turned[0, 1]
    lines = inspect(Parts(text=text), Parts(text=turned))[1].splitlines()
    assert lines[2] == "| text, positive | 77 | 4 | 1.00 | 2.00 | 3.00 |  |  |"
    first, mean = lines[3].split(" | ")[-2:]
    assert float(first) == 0 and mean == f"{0.5**0.5 / 77:.3f} |"
    details = torch.ones(3, 4, 2, 2) * torch.tensor((3.0, 0.0, 1.0)).view(3, 1, 1, 1)
    table = inspect(Parts(details=details, projected=False))[1]
    assert table.endswith("image latent and ramp: 3 frames of 4 channels, 2x2; RMS by frame 3.00, 0.00, 1.00")


def test_bars_are_as_high_as_the_norms():
    """The last text token is half as long as the first."""
    text = torch.ones(77, 8)
    text[-1] /= 2
    picture = inspect(Parts(text=text))[0]
    height = [(picture[64:, x].amax(-1) < 0.99).sum().item() for x in (194, 994)]
    assert height[1] == pytest.approx(height[0] / 2, abs=2) and height[0] > 200


def test_similarity_is_drawn():
    """Grey where the sides agree, orange where they do not."""
    tokens = noise(64, 64)
    other = tokens.clone()
    other[32:] = -other[32:]
    picture = inspect(Parts(global_tokens=tokens), Parts(global_tokens=other))[0]
    right = (picture[:, 680:] * 255).round()
    grey, orange = ((right == torch.tensor(colour)).all(-1).sum() for colour in ((235.0, 235, 235), (213.0, 94, 0)))
    assert grey > 20000 and orange > 20000


@pytest.mark.parametrize("frames", [1, 2, 3, 16, 65])
@pytest.mark.parametrize("size", [(8, 16), (88, 160), (56, 32)], ids=str)
def test_any_video(frames, size):
    picture, _ = inspect(parts(frames=frames, rows=size[0], columns=size[1]), parts(seed=1))
    assert picture.shape[1:] == (1024, 3) and 1000 < picture.shape[0] < 1500
    assert picture.min() >= 0 and picture.max() == 1


def test_sides_that_hold_different_things():
    long = Parts(text=noise(70, 64))
    picture, table = inspect(parts(), long)
    assert "| text, negative | 70 | 64 |" in table and "cosine" in table
    assert picture.shape[0] > inspect(long)[0].shape[0]
    with pytest.raises(InputError, match="none of them"):
        inspect(Parts(), Parts())


def test_of_a_network():
    """What a toy network makes of its inputs."""
    network = toy.network(toy.CONFIG)
    details = network.detail_encoder(noise(1, 4, 8, 8), 3)
    context = torch.cat([noise(77 + 64, 64), network.context_embedding(noise(1, 1, 48))[0]])
    table = inspect(split_context(context, details, toy.CONFIG))[1]
    assert "| CLIP image, positive | 4 | 64 |" in table and "details: 3 frames of 4 channels, 8x8" in table
