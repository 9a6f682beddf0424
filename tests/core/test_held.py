"""What of a base video is given: latents to begin from, areas and frames that are held, and for how long."""

from dataclasses import replace

import pytest
import torch
import toy

from i2vgen_core.cascade import Cascade
from i2vgen_core.config import TIMESTEPS
from i2vgen_core.errors import InputError
from i2vgen_core.sampling.held import Held, free_at, hold
from i2vgen_core.sampling.options import BaseOptions
from i2vgen_core.sampling.schedules import BASE_SOLVERS, base_steps, cosine_zero_snr, ddim_timesteps

OPTIONS = BaseOptions(width=72, height=64, frames=3, steps=3)


@pytest.fixture(scope="module")
def made(bundles):
    """A cascade, its conditions, a clean latent of their shape and a plain run."""
    cascade = Cascade(bundles())
    generator = torch.Generator().manual_seed(1)
    conditions = cascade.condition(torch.rand(1, 64, 72, 3, generator=generator), "a fox", OPTIONS)
    latent = torch.randn(conditions.shape, generator=generator)
    return cascade, conditions, latent, cascade.sample_base(conditions, OPTIONS)


def test_fewer_levels_are_the_last_of_them():
    assert ddim_timesteps(20, 400) == ddim_timesteps(50)[-20:]
    assert ddim_timesteps(50, 500) == ddim_timesteps(100)[-50:]
    assert ddim_timesteps(50, 10) == list(range(10, 0, -1)), "no more steps than levels"
    assert ddim_timesteps(7, TIMESTEPS) == ddim_timesteps(7)
    schedule = cosine_zero_snr()
    assert base_steps(schedule, 20, TIMESTEPS).timesteps == base_steps(schedule, 20).timesteps
    for steps in (1, 8, 20):
        timesteps = base_steps(schedule, steps, 10).timesteps
        assert timesteps == sorted(set(timesteps), reverse=True) and timesteps[0] == 8 and timesteps[-1] >= 0


def test_without_a_mask_the_latent_is_not_read(made):
    cascade, conditions, latent, plain = made
    assert torch.equal(cascade.sample_base(conditions, OPTIONS, held=Held(latent)), plain)


@pytest.mark.parametrize("solver", BASE_SOLVERS)
def test_what_is_held_comes_back(made, solver):
    """Half of each frame in one mask for all, or a frame of its own for each."""
    cascade, conditions, latent, _ = made
    options = replace(OPTIONS, solver=solver)
    half = torch.ones(64, 72)
    half[:, :40] = 0
    sampled = cascade.sample_base(conditions, options, held=Held(latent, half))
    assert toy.error(sampled[..., :4], latent[..., :4]) < 1e-5
    assert toy.error(sampled[..., 6:], latent[..., 6:]) > 1e-1
    last = torch.ones(3, 64, 72)
    last[2] = 0
    sampled = cascade.sample_base(conditions, options, held=Held(latent, last))
    assert toy.error(sampled[2], latent[2]) < 1e-5
    assert toy.error(sampled[:2], latent[:2]) > 1e-1


@pytest.mark.parametrize("solver", BASE_SOLVERS)
def test_denoise_begins_from_the_latent(made, solver):
    cascade, conditions, latent, _ = made
    near, far = (
        toy.error(
            cascade.sample_base(conditions, replace(OPTIONS, solver=solver, denoise=each), held=Held(latent)), latent
        )
        for each in (0.05, 0.8)
    )
    assert near < 0.5 * far


def test_places_are_held_until_their_signal(made):
    """By signal: 1 is never held, 0 always, and between them a place is held at the noisy levels alone."""
    schedule, (_, _, latent, _) = cosine_zero_snr(), made
    mask = torch.tensor([1.0, 0.7, 0.0]).reshape(3, 1, 1, 1)
    assert free_at(mask, 0.2).flatten().tolist() == [1, 0, 0]
    assert free_at(mask, 0.4).flatten().tolist() == [1, 1, 0]
    noise, seen = torch.randn_like(latent), []

    def denoise(x, t):
        seen.append(x)
        return torch.zeros_like(x)

    held = hold(denoise, schedule, latent, noise, mask, by_signal=True)
    x = torch.full_like(latent, 5.0)
    estimate = held(x, 861)  # signal 0.213
    assert torch.equal(estimate[0], torch.zeros_like(latent[0])) and torch.equal(estimate[1:], latent[1:])
    assert torch.equal(seen[0][0], x[0])
    assert toy.error(seen[0][1:], schedule.add_noise(latent, noise, 861)[1:]) < 1e-6
    assert torch.equal(held(x, 701)[:2], torch.zeros_like(latent[:2]))
    assert torch.equal(hold(denoise, schedule, latent, noise, 0 * mask, True)(x, 861), latent)
    assert len(seen) == 2, "nothing is computed where everything is held"


@pytest.mark.parametrize(
    "latent, mask, message",
    [
        ((3, 4, 8, 8), None, "held latent"),
        ((3, 4, 8, 9), (2, 8, 9), "mask"),
        ((3, 4, 8, 9), (9,), "mask"),
        ((3, 4, 8, 9), (0, 8, 9), "mask"),
    ],
)
def test_what_cannot_be_held(made, latent, mask, message):
    cascade, conditions, *_ = made
    held = Held(torch.zeros(latent), None if mask is None else torch.zeros(mask))
    with pytest.raises(InputError, match=message):
        cascade.sample_base(conditions, OPTIONS, held=held)


def test_denoise_needs_a_latent(made):
    cascade, conditions, *_ = made
    with pytest.raises(InputError, match="denoise"):
        cascade.sample_base(conditions, replace(OPTIONS, denoise=0.5))
    with pytest.raises(InputError, match="denoise"):
        replace(OPTIONS, denoise=0.0).check()
