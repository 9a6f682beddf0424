"""What training needs of memory: the count on the meta device is that of the real thing, and what cannot fit is refused."""

from dataclasses import replace

import pytest
import torch
import toy
from torch.autograd.graph import saved_tensors_hooks

from i2vgen_core.config import UNetConfig
from i2vgen_core.errors import InputError
from i2vgen_core.training.budget import Plan
from i2vgen_core.training.diffusion import ClipShape, Encoders
from i2vgen_core.training.stages import STAGES, TrainingJob

pytest.importorskip("peft")

GIB = 2**30
PLAN = Plan(toy.CONFIG, (64, 64), (ClipShape(3, clips=2),))


def weight_bytes(module):
    return sum(parameter.numel() * parameter.element_size() for parameter in module.parameters())


def really_kept(config, checkpointing):
    """Bytes of what a real pass keeps for its gradients, weights left out."""
    network = toy.network(config).requires_grad_(True)
    network.checkpointing = checkpointing
    weights = {parameter.untyped_storage().data_ptr() for parameter in network.parameters()}
    kept = {}

    def keep(tensor):
        if tensor.untyped_storage().data_ptr() not in weights:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes(), tensor
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        network(**toy.inputs(config, batch=2))
    return sum(size for size, _ in kept.values())


@pytest.mark.parametrize("kind", ["i2vgen_xl", "vid2vid_xl"])
def test_it_counts_what_a_pass_keeps(kind):
    config = replace(toy.CONFIG, kind=kind)
    counted = replace(PLAN, network=config).budget().step
    # the sample's context is shorter than a prompt's; some scalars and masks are real alone
    assert counted == pytest.approx(really_kept(config, False), rel=0.1)
    checkpointed = replace(PLAN, network=config, checkpointing=True).budget().step
    assert really_kept(config, True) < checkpointed < counted / 2


def test_what_is_trained():
    whole, lora = PLAN.budget(encoders=7), replace(PLAN, lora_rank=4, precision="bf16").budget()
    numbers = sum(parameter.numel() for parameter in toy.network(toy.CONFIG).parameters())
    assert whole.trained == 20 * numbers and whole.frozen == 0 and whole.encoders == 7
    assert lora.frozen == 2 * numbers and 0 < lora.trained < whole.trained / 5
    assert whole.whole == whole.trained + 7 + whole.step


def test_clips_cost_by_their_number():
    step = PLAN.budget().step
    for plan in (replace(PLAN, shapes=(ClipShape(1), ClipShape(3, clips=4))), replace(PLAN, repeats=2)):
        assert plan.budget().step == pytest.approx(2 * step, rel=0.05)


@pytest.mark.slow
def test_the_released_network():
    """docs/training.md has these figures."""
    plan = Plan(UNetConfig(), (448, 256), (ClipShape(16, clips=1),), checkpointing=True, precision="bf16")
    assert plan.budget().trained / GIB == pytest.approx(26.45, abs=0.01)
    assert plan.budget().step / GIB == pytest.approx(5.29, abs=0.01)
    lora = replace(plan, lora_rank=16).budget()
    assert lora.frozen / GIB == pytest.approx(2.64, abs=0.01) and lora.step / GIB == pytest.approx(1.56, abs=0.01)


def test_what_cannot_fit_is_refused_before_anything_is_read(bundles, tmp_path, monkeypatch):
    def read(*_):
        raise AssertionError("weights, for a run that cannot be")

    monkeypatch.setattr("i2vgen_core.checkpoints.load.UNetCheckpoint.build_network", read)
    monkeypatch.setattr("i2vgen_core.training.stages.Encoders", read)
    monkeypatch.setattr("i2vgen_core.training.budget.machine_bytes", lambda _: 2**25)
    recipe = tmp_path / "recipe.json"
    recipe.write_text('{"width": 64, "height": 64, "shapes": [{"frames": 64, "clips": 8}], "loop": {"steps": 1}}')
    for stage in ("base", "refiner"):
        with pytest.raises(
            InputError, match=r"training: expected a run that fits into the 0\.0 GiB of cpu, found .* a step"
        ):
            STAGES[stage](TrainingJob(bundles(), str(recipe), tmp_path / "run" / stage, out=tmp_path / "out"))
    assert list(tmp_path.iterdir()) == [recipe], "what is refused leaves nothing"


def test_the_encoders_that_count_are_those_that_are_loaded(bundles, tmp_path, monkeypatch):
    counted = {}

    def check(plan, device, encoders):
        counted[plan.network.kind] = encoders
        raise InterruptedError

    monkeypatch.setattr(Plan, "check", check)
    recipe = tmp_path / "recipe.json"
    recipe.write_text('{"loop": {"steps": 1}}')
    for stage in ("base", "refiner"):
        with pytest.raises(InterruptedError):
            STAGES[stage](TrainingJob(bundles(), str(recipe), tmp_path / stage))
    encoders = Encoders(bundles())
    loaded = [encoders.vae.model, encoders.text.model]
    # the text encoder's last layer is left out where nothing reads it
    assert counted["vid2vid_xl"] == pytest.approx(sum(map(weight_bytes, loaded)), rel=0.02)
    encoders.images(torch.zeros(1, 64, 64, 3))
    assert counted["i2vgen_xl"] - counted["vid2vid_xl"] == weight_bytes(encoders._image.model)


def test_what_surely_fits_is_not_counted(monkeypatch):
    monkeypatch.setattr("i2vgen_core.training.budget._features", None)
    PLAN.check("cpu")
    with pytest.raises(TypeError):
        replace(PLAN, shapes=(ClipShape(10**6),)).check("cpu")
