"""A new base that begins as a video of the picture standing still."""

from dataclasses import replace

import pytest
import torch

from i2vgen_core.errors import InputError
from i2vgen_core.sampling.schedules import cosine_zero_snr
from i2vgen_core.training.base import BaseTraining, build_base, train_base
from i2vgen_core.training.data import World
from i2vgen_core.training.recipe import read_recipe
from i2vgen_core.training.still import SLOWLY, Line

RECIPE = read_recipe(BaseTraining, "alive_base_1_still")


def latents(seed):
    """Scaled latents [1, 4, 8, 12] with a level of their own in each channel, as plain pictures have."""
    generator = torch.Generator().manual_seed(seed)
    return 0.6 * torch.randn(1, 4, 8, 12, generator=generator) + 0.8 * torch.randn(1, 4, 1, 1, generator=generator)


@pytest.fixture(scope="module")
def base():
    return build_base(RECIPE).eval()


@pytest.mark.parametrize("timestep", [999, 700, 300, 100])
def test_it_begins_as_the_velocity_of_a_still_video(base, timestep):
    lines = [[value[timestep] for value in Line(deviation)()] for deviation in (0.15, 0.6)]
    level = cosine_zero_snr().alphas_cumprod[timestep].float()
    for seed, frames in ((0, 1), (1, 3)):
        z = latents(seed)
        noise = torch.randn(frames, 4, 8, 12, generator=torch.Generator().manual_seed(seed))
        x = level.sqrt() * z + (1 - level).sqrt() * noise
        text, image = torch.randn(1, 77, 64), torch.randn(1, 1, 64)
        with torch.no_grad():
            velocity = base(x, torch.tensor([timestep]), text, image, z, torch.tensor([8.0]), frames)
        expected = torch.cat(
            [a * x[part] - b * z for (a, b), part in zip(lines, (slice(1), slice(1, None)), strict=True)]
        )
        assert (velocity - expected).square().mean() < 0.01, "of a velocity's variance of 1"


def test_the_line_is_the_best_for_what_is_normal_about_the_picture():
    """Its velocity has the least error among its neighbours."""
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(20000, generator=generator)
    x_0 = z + 0.4 * torch.randn(20000, generator=generator)
    a, b = (value[600] for value in Line(0.4)())
    level = cosine_zero_snr().alphas_cumprod[600].float()
    noise = torch.randn(20000, generator=generator)
    x, velocity = level.sqrt() * x_0 + (1 - level).sqrt() * noise, level.sqrt() * noise - (1 - level).sqrt() * x_0
    steps = (-0.05, 0, 0.05)
    errors = {(i, j): ((a + i) * x - (b + j) * z - velocity).square().mean() for i in steps for j in steps}
    assert min(errors, key=errors.get) == (0, 0)


@pytest.mark.parametrize("change", [{"model_channels": 64, "first_temporal_heads": 2}, {"first_temporal_heads": 2}])
def test_other_sizes_are_refused(change):
    config = replace(RECIPE, unet=replace(RECIPE.unet, **change))
    with pytest.raises(InputError, match="96 channels"):
        build_base(config)


def test_what_makes_it_so_is_left_alone_or_learns_slowly(base, tmp_path):
    loop = train_base(base, None, World(), tmp_path, RECIPE)
    assert "network.input_blocks.0.1.proj_in.weight" not in loop.parameters
    factors = {id(p): group["factor"] for group in loop.optimiser.param_groups for p in group["params"]}
    rates = {name: factors[id(parameter)] for name, parameter in loop.parameters.items()}
    assert rates["network.out.2.weight"] == rates["network.time_embed.0.bias"] == SLOWLY
    assert rates["network.middle_block.0.in_layers.2.weight"] == 1
    base.requires_grad_(True)
    plain = train_base(base, None, World(), tmp_path, replace(RECIPE, still=False))
    assert "network.input_blocks.0.1.proj_in.weight" in plain.parameters
