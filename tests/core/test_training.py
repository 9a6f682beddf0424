"""The training loop, its optimiser, recipes and noise."""

from __future__ import annotations

import csv
import json
import random
import signal
from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from small_recipes import SMALL
from torch import nn

from i2vgen_core.config import TIMESTEPS, UNetConfig
from i2vgen_core.errors import InputError
from i2vgen_core.sampling.schedules import cosine_zero_snr
from i2vgen_core.training import base, clip, diffusion, refiner, vae
from i2vgen_core.training.animate import AnimateTraining
from i2vgen_core.training.compose import ComposeTraining
from i2vgen_core.training.data import World
from i2vgen_core.training.distil import DistilTraining
from i2vgen_core.training.loop import CHECKPOINT, LOG, Loop, LoopConfig, Stopped
from i2vgen_core.training.muon import orthogonal
from i2vgen_core.training.recipe import BUILT_IN, parse_recipe, read_recipe
from i2vgen_core.training.watch import draw_curves, read_log

STAGE_OF_RECIPE = {"vae": vae.VAETraining, "clip": clip.CLIPTraining, "base": base.BaseTraining}
STAGE_OF_RECIPE |= {"refiner": refiner.RefinerTraining, "compose": ComposeTraining, "distil": DistilTraining}
STAGE_OF_RECIPE |= {"animate": AnimateTraining}


def regression(folder: Path, config: LoopConfig) -> Loop[torch.Tensor]:
    torch.manual_seed(0)
    model = nn.Linear(4, 1)

    def loss(x: torch.Tensor, generator: torch.Generator) -> tuple[torch.Tensor, dict[str, float]]:
        noise = 0.01 * torch.randn(len(x), generator=generator)
        return (model(x)[:, 0] - x.sum(1) + noise).square().mean(), {"mean": x.mean().item()}

    def batch(number: int) -> torch.Tensor:
        return torch.randn(16, 4, generator=torch.Generator().manual_seed(number))

    return Loop(model, loss, batch, folder, config)


def weights(loop: Loop) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in [*loop.parameters.values(), *loop.average.values()]])


class TestLoop:
    CONFIG = LoopConfig(steps=60, learning_rate=0.2, warmup=5, save_every=20, log_every=10, ema=0.9)

    def test_it_learns_and_the_average_follows(self, tmp_path):
        loop = regression(tmp_path, self.CONFIG)
        loop.run()
        trained = loop.module.weight.detach().clone()
        assert torch.allclose(trained, torch.ones(1, 4), atol=0.1)
        with loop.averaged():
            averaged = loop.module.weight.detach().clone()
        assert not torch.equal(averaged, trained) and torch.allclose(averaged, trained, atol=0.1)
        assert torch.equal(loop.module.weight, trained)

    def test_a_stopped_run_goes_on_as_if_it_had_not_been(self, tmp_path):
        whole = regression(tmp_path / "whole", self.CONFIG)
        whole.run()
        regression(tmp_path / "parts", self.CONFIG).run(until=33)
        rest = regression(tmp_path / "parts", self.CONFIG)
        assert rest.step == 33
        rest.run()
        assert torch.equal(weights(rest), weights(whole))

    def test_a_checkpoint_of_another_network_is_refused(self, tmp_path):
        regression(tmp_path, self.CONFIG).run(until=1)
        with pytest.raises(InputError, match="a checkpoint of this network"):
            Loop(nn.Linear(4, 1, bias=False), lambda *_: None, lambda _: None, tmp_path, self.CONFIG)

    @pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
    def test_a_signal_saves_after_the_step_and_the_run_goes_on(self, tmp_path, caplog, how):
        caplog.set_level("INFO")
        whole = regression(tmp_path / "whole", self.CONFIG)
        whole.run()
        loop, before = regression(tmp_path / "parts", self.CONFIG), signal.getsignal(how)
        draw = loop.batch

        def batch(number):
            if number == 33:
                signal.raise_signal(how)
                assert signal.getsignal(how) is before, "the second one is as without us"
            return draw(number)

        loop.batch = batch
        with pytest.raises(Stopped, match="stopped at step 34"):
            loop.run()
        assert signal.getsignal(how) is before and "stopping after this step" in caplog.text
        rest = regression(tmp_path / "parts", self.CONFIG)
        assert rest.step == 34
        rest.run()
        assert torch.equal(weights(rest), weights(whole))
        steps = [row["step"] for row in csv.DictReader((tmp_path / "parts" / LOG).open()) if row["figure"] == "loss"]
        assert steps == ["10", "20", "30", "34", "40", "50", "60"]

    def test_a_signal_while_a_step_is_watched_saves_too(self, tmp_path):
        loop = regression(tmp_path, self.CONFIG)
        loop.watchers.append(lambda step, _: signal.raise_signal(signal.SIGTERM) if step == 7 else None)
        with pytest.raises(Stopped, match="stopped at step 7"):
            loop.run()
        assert regression(tmp_path, self.CONFIG).step == 7

    def test_a_signal_at_the_last_step_changes_nothing(self, tmp_path):
        loop = regression(tmp_path, LoopConfig(steps=1))
        draw = loop.batch
        loop.batch = lambda number: (signal.raise_signal(signal.SIGTERM), draw(number))[1]
        loop.run()
        assert loop.step == 1

    def test_the_log_repeats_nothing_after_a_kill(self, tmp_path):
        loop, draws = regression(tmp_path, self.CONFIG), []
        draw = loop.batch

        def batch(number):
            draws.append(number)
            if number == 37:
                raise MemoryError
            return draw(number)

        loop.batch = batch
        with pytest.raises(MemoryError):
            loop.run()
        with (tmp_path / LOG).open("a") as file:
            file.write("38,lo")
        assert (tmp_path / LOG).read_text().count("30,loss") == 1
        rest = regression(tmp_path, self.CONFIG)
        assert rest.step == 20
        rest.run()
        steps = [row["step"] for row in csv.DictReader((tmp_path / LOG).open()) if row["figure"] == "loss"]
        assert steps == ["10", "20", "30", "40", "50", "60"]

    @pytest.mark.parametrize("content", [b"", b"not a checkpoint", None])
    def test_a_checkpoint_that_is_torn_is_said(self, tmp_path, content):
        regression(tmp_path, self.CONFIG).run(until=1)
        file = tmp_path / CHECKPOINT
        file.write_bytes(file.read_bytes()[:-200] if content is None else content)
        with pytest.raises(InputError, match="expected a checkpoint of a run, found one that cannot be read"):
            regression(tmp_path, self.CONFIG)

    def test_a_checkpoint_of_other_shapes_or_settings(self, tmp_path, caplog):
        regression(tmp_path, self.CONFIG).run(until=1)
        with pytest.raises(InputError, match=r"other tensors \(weight is 1x4 there, 2x4 here\)"):
            Loop(nn.Linear(4, 2), lambda *_: None, lambda _: None, tmp_path, self.CONFIG)
        again = regression(tmp_path, replace(self.CONFIG, learning_rate=0.1, weight_decay=0.5, precision="fp16"))
        assert again.step == 1 and {group["weight_decay"] for group in again.optimiser.param_groups} == {0.5, 0.0}
        assert "had other settings: learning_rate was 0.2, is 0.1; weight_decay was" in caplog.text
        with pytest.raises(InputError, match="a checkpoint of this recipe, of muon, found one of adamw"):
            regression(tmp_path, replace(self.CONFIG, optimiser="muon"))
        with pytest.raises(InputError, match="found other groups of tensors, by learning rate and decay"):
            regression(tmp_path, replace(self.CONFIG, weight_decay=0.0))

    def test_a_full_disk_leaves_the_checkpoint_before(self, tmp_path, monkeypatch):
        regression(tmp_path, self.CONFIG).run(until=1)

        def full(state, file):
            Path(file).write_bytes(b"a part")
            raise RuntimeError("PytorchStreamWriter failed writing file data/0\nmore")

        whole = (tmp_path / CHECKPOINT).read_bytes()
        loop = regression(tmp_path, self.CONFIG)
        monkeypatch.setattr(torch, "save", full)
        with pytest.raises(
            InputError,
            match=r"checkpoint\.pt: expected room to write 0\.0 MB, found PytorchStreamWriter .*/0\. .* before",
        ):
            loop.run(until=2)
        assert (tmp_path / CHECKPOINT).read_bytes() == whole and not list(tmp_path.glob("*.part"))
        monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=10))
        (tmp_path / CHECKPOINT).unlink()
        with pytest.raises(InputError, match=r"0\.0 MB, found 0\.0 MB free\. Free some, and .* again\.$"):
            regression(tmp_path, self.CONFIG).run(until=2)

    def test_the_log_has_every_figure(self, tmp_path):
        regression(tmp_path, self.CONFIG).run()
        rows = list(csv.DictReader((tmp_path / LOG).open()))
        assert {row["figure"] for row in rows} == {"loss", "mean", "gradient", "learning_rate", "seconds"}
        losses = [float(row["value"]) for row in rows if row["figure"] == "loss"]
        assert len(losses) == 6 and losses[-1] < losses[0] / 10
        assert (tmp_path / CHECKPOINT).is_file()

    def test_watchers_see_every_step_and_what_is_logged(self, tmp_path):
        loop, seen = regression(tmp_path, LoopConfig(steps=5, log_every=2)), []
        loop.watchers.append(lambda step, figures: seen.append((step, sorted(figures))))
        loop.run()
        logged = ["gradient", "learning_rate", "loss", "mean", "seconds"]
        assert seen == [(1, []), (2, logged), (3, []), (4, logged), (5, logged)]
        figures = read_log(tmp_path / LOG)
        assert [step for step, _ in figures["loss"]] == [2, 4, 5]
        picture = draw_curves(figures)
        assert picture.shape == (3 * 240, 2 * 480, 3)
        figures["loss"][1] = (4, 1e3)
        changed = (draw_curves(figures) != picture).any(2)
        assert changed[:240, :480].any() + changed[240:].any() + changed[:, 480:].any() == 1, "one panel alone"
        dot = draw_curves({"a": [(4, 1.0)]})
        assert ((dot[..., 2] > 0.4) & (dot[..., 0] < 0.1)).sum() > 20, "one value is seen"

    def test_frozen_parameters_and_reduced_rates(self, tmp_path):
        model = nn.ModuleDict({"slow": nn.Linear(1, 1, bias=False), "fast": nn.Linear(1, 1, bias=False)})
        model["frozen"] = nn.Linear(1, 1).requires_grad_(False)
        before = {name: p.detach().clone() for name, p in model.named_parameters()}

        def loss(_, __):
            return sum(p.sum() for p in model.parameters()), {}

        config = LoopConfig(steps=1, learning_rate=0.1, warmup=1, weight_decay=0)
        Loop(model, loss, lambda n: n, tmp_path, config, rates={"slow": 0.25}).run()
        moved = {name: (p - before[name]).abs().item() for name, p in model.named_parameters() if p.numel() == 1}
        assert moved["frozen.weight"] == 0
        assert moved["fast.weight"] == pytest.approx(0.1, rel=1e-3)
        assert moved["slow.weight"] == pytest.approx(0.025, rel=1e-3)

    def test_a_loss_that_is_not_finite_stops_it(self, tmp_path):
        model = nn.Linear(1, 1)
        loop = Loop(model, lambda *_: (model.weight.sum() / 0, {}), lambda n: n, tmp_path, LoopConfig(steps=1))
        with pytest.raises(InputError, match="the loss of step 0: expected a finite number"):
            loop.run()

    def test_accumulated_batches_count_as_one(self, tmp_path):
        data = torch.tensor([[1.0], [2.0]])
        one, two = LoopConfig(steps=1, warmup=1, clip=1e9), LoopConfig(steps=1, warmup=1, clip=1e9, accumulate=2)
        seen = []
        for config, size in ((one, 2), (two, 1)):
            torch.manual_seed(0)
            model = nn.Linear(1, 1)

            def loss(x, _, model=model):
                return model(x).square().mean(), {}

            loop = Loop(model, loss, lambda n, s=size, data=data: data[n * s : n * s + s], tmp_path / str(size), config)
            loop.run()
            seen.append(weights(loop))
        assert torch.allclose(*seen, atol=1e-7)


class TestRecipes:
    @pytest.mark.parametrize("name", [file.stem for file in sorted(BUILT_IN.glob("*.json"))])
    def test_the_projects_own_are_sound(self, name):
        kind = next(kind for stage, kind in STAGE_OF_RECIPE.items() if name.split("_")[1] == stage)
        assert read_recipe(kind, name).loop.steps > 1

    @pytest.mark.parametrize("name", ["lora_base", "lora_refiner", "full_base", "full_refiner"])
    def test_those_of_the_released_networks_say_every_field_and_are_on_the_page(self, name):
        content = (BUILT_IN / f"{name}.json").read_text(encoding="utf-8")
        recipe = read_recipe(STAGE_OF_RECIPE[name.partition("_")[2]], name)
        said = json.loads(content)
        assert said.keys() == {field.name for field in fields(recipe)}
        assert said["loop"].keys() == {field.name for field in fields(LoopConfig)}
        assert recipe.unet == UNetConfig(recipe.unet.kind), "the released sizes"
        page = (BUILT_IN.parents[2] / "docs" / "training.md").read_text(encoding="utf-8")
        assert f"```json\n{content}```" in page
        assert f"`{name}`" in page

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ({"chanels": []}, "a field of the recipe"),
            ({"kl": "much"}, "expected a number"),
            ({"batch": 2.5}, "expected a whole number"),
            ({"loop": {"steps": True}}, "expected a whole number"),
            ({"loop": []}, "expected an object"),
            ({"widths": 128}, "expected a list"),
            ({"data": {"levels": ["hard"]}}, "expected plain or varied or full"),
            ({"loop": {"precision": "int8"}}, "fp32 or bf16 or fp16"),
            ({"loop": {"steps": 0}}, "steps"),
        ],
    )
    def test_mistakes_are_named(self, content, message):
        with pytest.raises(InputError, match=message):
            parse_recipe(vae.VAETraining, content, "recipe")

    def test_no_such_recipe(self, tmp_path):
        with pytest.raises(InputError, match="tiny_vae"):
            read_recipe(vae.VAETraining, "none")
        (tmp_path / "broken.json").write_text("{")
        with pytest.raises(InputError, match="a recipe"):
            read_recipe(vae.VAETraining, str(tmp_path / "broken.json"))


class TestNoise:
    def test_timesteps_cover_their_range_once(self):
        steps = diffusion.draw_timesteps(10, TIMESTEPS, 1.0, torch.Generator().manual_seed(0))
        assert sorted((steps // 100).tolist()) == list(range(10))
        assert steps.tolist() != sorted(steps.tolist())

    def test_a_bias_prefers_the_noisy_end(self):
        steps = diffusion.draw_timesteps(1000, 600, 2.0, torch.Generator().manual_seed(0))
        assert steps.min() >= 0 and steps.max() <= 599
        assert (steps >= 300).float().mean() == pytest.approx(0.75, abs=0.01)

    def test_the_target_gives_the_latent_back(self):
        schedule, latents = cosine_zero_snr(), torch.randn(2, 3, 4, 2, 2)
        timesteps = torch.tensor([999, 300])
        noised = diffusion.add_noise(latents, schedule, timesteps, torch.randn(latents.shape))
        for i, t in enumerate(timesteps.tolist()):
            x, velocity = (value.view(latents.shape)[i] for value in (noised.x, noised.velocity))
            assert torch.allclose(schedule.denoised(x, velocity, t), latents[i], atol=1e-5)

    def test_the_offset_is_one_number_a_frame_and_channel(self):
        x = torch.zeros(1, 2, 4, 64, 64)
        noise = diffusion.noise_like(x, 10.0, torch.Generator().manual_seed(0))
        means = noise.mean((3, 4))
        assert means.abs().mean() > 1 and means.std() > 1
        assert torch.allclose(noise.std((3, 4)), torch.ones(1, 2, 4), atol=0.1)

    def test_new_networks_begin_as_the_identity_of_their_residuals(self):
        network = base.build_base(parse_recipe(base.BaseTraining, SMALL["base"], "")).network
        assert network.out[2].weight.abs().max() == 0
        assert network.input_blocks[1][0].temopral_conv.conv4[3].weight.abs().max() == 0
        assert network.input_blocks[1][0].in_layers[2].weight.abs().max() > 0

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_attention_of_training_is_attention(self, dtype):
        attention = diffusion.attention_for(torch.device("cpu"))
        q, k = torch.randn(2, 5, 8, dtype=dtype), torch.randn(2, 5, 8, dtype=dtype)
        for keys in (k, torch.randn(2, 7, 8, dtype=dtype)):
            expected = diffusion.scaled_dot_product_attention(q.float(), keys.float(), keys.float(), 2)
            # bfloat16: 8 bits of mantissa, and weights rounded before they are summed
            assert torch.allclose(
                attention(q, keys, keys, 2).float(), expected, atol=1e-6 if dtype == torch.float32 else 0.03
            )


def test_windows_are_cut_from_the_refiners_clips():
    frames = torch.arange(2 * 16 * 32.0).view(2, 16, 32, 1).expand(-1, -1, -1, 3)
    cut = [refiner._cropped(frames, (8, 4), random.Random(seed)) for seed in range(20)]
    assert all(window.shape == (2, 4, 8, 3) for window in cut)
    assert len({window[0, 0, 0, 0].item() for window in cut}) > 10
    assert all((window[1] - window[0] == 16 * 32).all() for window in cut), "one place in all frames"
    assert refiner._cropped(frames, None, random.Random(0)) is frames


class TestWorldSource:
    def test_pairs_begin_alike_and_end_otherwise(self):
        for number in range(12):  # the 5th, 9th and 10th stay still
            first, second = World(levels=("plain",)).pair(number, 64, 32, 2, 1)
            assert first.prompt != second.prompt
            assert torch.equal(first.frames[0], second.frames[0])
            assert not torch.equal(first.frames[1], second.frames[1])

    def test_seeds_bring_other_scenes(self):
        assert World(seed=0).scene(0) != World(seed=1).scene(0)
        assert World().scene(3) == World().scene(3)


class TestMuon:
    def test_singular_values_are_near_one(self):
        generator = torch.Generator().manual_seed(0)
        for shape in ((32, 96), (96, 32)):
            values = torch.linalg.svdvals(orthogonal(torch.randn(shape, generator=generator)))
            assert 0.6 < values.min() < values.max() < 1.3

    def test_matrices_are_its_own_and_the_rest_is_adamws(self, tmp_path):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(32, 32), nn.Linear(32, 1))
        config = LoopConfig(steps=4, optimiser="muon", learning_rate=0.01, warmup=1, final=1.0, weight_decay=0.0)
        before = model[0].weight.detach().clone()
        data = torch.randn(8, 32)
        loop = Loop(model, lambda x, _: (model(x).square().mean(), {}), lambda _: data, tmp_path, config)
        loop.run(1)
        step = model[0].weight.detach() - before
        assert torch.linalg.svdvals(step).max() < 0.01 * 0.2 * 32**0.5 * 1.3
        assert [group["orthogonal"] for group in loop.optimiser.param_groups].count(True) == 1
        on = Loop(model, lambda x, _: (model(x).square().mean(), {}), lambda _: data, tmp_path, config)
        assert on.step == 1
        first = model(data).square().mean().item()
        on.run()
        assert model(data).square().mean() < 0.5 * first

    def test_a_stopped_run_goes_on_as_if_it_had_not_been(self, tmp_path):
        ends = []
        for name, stops in (("once", [4]), ("twice", [2, 4])):
            for stop in stops:
                torch.manual_seed(0)
                model = nn.Linear(32, 32)
                config = LoopConfig(steps=4, optimiser="muon")
                data = torch.randn(4, 32, generator=torch.Generator().manual_seed(1))
                loss = lambda x, _, model=model: (model(x).square().mean(), {})  # noqa: E731
                Loop(model, loss, lambda _, data=data: data, tmp_path / name, config).run(stop)
            ends.append(model.weight.detach())
        assert torch.equal(*ends)


def test_group_norms_compute_in_float32_while_a_run_lasts(tmp_path):
    model = nn.Sequential(nn.Conv2d(3, 32, 1), nn.GroupNorm(32, 32))
    seen = []
    model[1].register_forward_hook(lambda _, inputs, output: seen.append(inputs[0].dtype))
    config = LoopConfig(steps=1, precision="bf16")
    Loop(model, lambda x, _: (model(x).square().mean(), {}), lambda _: torch.rand(1, 3, 4, 4), tmp_path, config).run()
    with torch.autocast("cpu", torch.bfloat16):
        model(torch.rand(1, 3, 4, 4))
    assert seen == [torch.float32, torch.bfloat16]
