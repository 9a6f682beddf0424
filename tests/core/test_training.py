"""The training loop, recipes, and a few steps of every stage at the smallest sizes."""

from __future__ import annotations

import csv
import json
import os
import random
import shutil
import signal
import sys
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
import toy
from safetensors.torch import load_file
from torch import nn

from i2vgen_core.__main__ import main
from i2vgen_core.cascade import Cascade
from i2vgen_core.checkpoints.load import open_unet
from i2vgen_core.checkpoints.lora import merge_lora
from i2vgen_core.config import TIMESTEPS, UNetConfig
from i2vgen_core.errors import InputError
from i2vgen_core.media.images import read_image, write_image
from i2vgen_core.media.video import read_video
from i2vgen_core.memory import DTYPES
from i2vgen_core.sampling.options import BaseOptions, RefineOptions
from i2vgen_core.sampling.schedules import cosine_zero_snr
from i2vgen_core.training import base, clip, diffusion, refiner, stages, vae
from i2vgen_core.training.data import World
from i2vgen_core.training.grow import grow_vae
from i2vgen_core.training.loop import CHECKPOINT, LOG, Loop, LoopConfig, Stopped
from i2vgen_core.training.muon import orthogonal
from i2vgen_core.training.recipe import BUILT_IN, parse_recipe, read_recipe
from i2vgen_core.training.stages import LORA, STAGES, Job
from i2vgen_core.training.watch import draw_curves, read_log

STAGE_OF_RECIPE = {"vae": vae.VAETraining, "clip": clip.CLIPTraining, "base": base.BaseTraining}
STAGE_OF_RECIPE["refiner"] = refiner.RefinerTraining
SMALL_UNET = {
    "model_channels": 32,
    "channel_mult": [1, 1],
    "attention_levels": [True, False],
    "num_res_blocks": 1,
    "head_dim": 16,
    "first_temporal_heads": 2,
    "context_dim": 32,
    "image_dim": 32,
}
SMALL = {
    "vae": {"channels": [32, 32, 32, 32], "widths": [128], "crop": [64, 64], "batch": 2},
    "clip": {"width": 32, "text_layers": 2, "vision_width": 32, "vision_layers": 1, "projection": 32, "batch": 4},
    "base": {"unet": SMALL_UNET, "width": 64, "height": 64, "shapes": [{"frames": 2, "clips": 2}], "repeats": 2},
    "refiner": {
        "unet": SMALL_UNET | {"kind": "vid2vid_xl"},
        "width": 64,
        "height": 80,
        "shapes": [{"frames": 2, "clips": 1}],
    },
}


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
        assert regression(tmp_path, replace(self.CONFIG, learning_rate=0.1)).step == 1
        assert "had other settings: learning_rate was 0.2, is 0.1" in caplog.text

    def test_a_full_disk_leaves_the_checkpoint_before(self, tmp_path, monkeypatch):
        regression(tmp_path, self.CONFIG).run(until=1)

        def full(state, file):
            Path(file).write_bytes(b"a part")
            raise RuntimeError("PytorchStreamWriter failed writing file data/0\nmore")

        whole = (tmp_path / CHECKPOINT).read_bytes()
        loop = regression(tmp_path, self.CONFIG)
        monkeypatch.setattr(torch, "save", full)
        with pytest.raises(
            InputError, match=r"checkpoint\.pt: expected room to write, found PytorchStreamWriter .*/0\."
        ):
            loop.run(until=2)
        assert (tmp_path / CHECKPOINT).read_bytes() == whole and not list(tmp_path.glob("*.part"))

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
        assert f"```json\n{content}```" in page or name.startswith("full")
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


@pytest.mark.slow
class TestLatentSpace:
    def test_normalising_keeps_what_is_decoded(self):
        config = vae.VAETraining(channels=(32, 32, 32, 32))
        model = vae.build_vae(config).eval()
        images = torch.stack([World().clip(i, 64, 64, 1, 8).frames[0] for i in range(8)])
        pixels = (images * 2 - 1).permute(0, 3, 1, 2)

        def decoded() -> torch.Tensor:
            return model.decode(model.encode(pixels).latent_dist.mode()).sample

        with torch.no_grad():
            before = decoded()
            vae.normalise_latents(model, [images[:4], images[4:]])
            after, latent = decoded(), model.encode(pixels).latent_dist.mode() * 0.18215
        assert torch.allclose(before, after, atol=1e-3)
        values = latent.transpose(0, 1).flatten(1)
        assert torch.allclose(values.mean(1), torch.zeros(4), atol=1e-3)
        assert torch.allclose(torch.cov(values), torch.eye(4), atol=1e-2)

    def test_a_vae_trained_further_keeps_its_latents_axes(self):
        """Whitened anew alone, the space of a VAE whose latents have been turned would stay turned."""
        config = vae.VAETraining(channels=(32, 32, 32, 32))
        earlier, turned = vae.build_vae(config).eval(), vae.build_vae(config).eval()
        images = [torch.stack([World().clip(i, 64, 64, 1, 8).frames[0] for i in range(8)])]
        vae.normalise_latents(earlier, images)
        turned.load_state_dict(earlier.state_dict())
        rotation = torch.linalg.qr(torch.randn(4, 4, generator=torch.Generator().manual_seed(0))).Q
        with torch.no_grad():
            quant = turned.quant_conv
            quant.weight[:4] = torch.einsum("ij,jkhw->ikhw", rotation, quant.weight[:4])
            quant.bias[:4] = rotation @ quant.bias[:4]
        known = vae._latents(earlier, images)
        assert (vae._latents(turned, images) - known).std() > 0.5 * known.std()
        vae.normalise_latents(turned, images, earlier)
        assert torch.allclose(vae._latents(turned, images), known, atol=1e-2 * known.std().item())


class TestSpectrumError:
    def test_detail_in_the_wrong_place_costs_less_than_none(self):
        """Where the squared error says the opposite: that is why a decoder blurs."""
        generator = torch.Generator().manual_seed(0)
        truth, other = (0.2 * torch.randn(1, 3, 64, 64, generator=generator) for _ in range(2))
        none = torch.zeros_like(truth)
        spectra = {name: vae._log_amplitude(x) for name, x in (("truth", truth), ("other", other), ("none", none))}
        assert nn.functional.mse_loss(other, truth) > nn.functional.mse_loss(none, truth)
        misplaced, absent = (nn.functional.l1_loss(spectra[name], spectra["truth"]) for name in ("other", "none"))
        assert misplaced < 0.5 * absent

    def test_it_is_a_part_of_the_loss_by_its_weight(self, tmp_path):
        losses = []
        for weight in (0.0, 0.1, 0.2):
            config = replace(parse_recipe(vae.VAETraining, SMALL["vae"], "recipe"), spectrum=weight)
            loop = vae.train_vae(vae.build_vae(config), World(), tmp_path, config)
            losses.append(loop.loss(loop.batch(0), torch.Generator().manual_seed(0))[0].item())
        assert losses[1] - losses[0] == pytest.approx(losses[2] - losses[1], rel=1e-3)
        assert losses[1] > losses[0]


class TestMotionInCLIP:
    def test_every_second_clip_is_the_opposite_of_the_one_before(self, tmp_path):
        config = parse_recipe(clip.CLIPTraining, SMALL["clip"], "recipe")
        loop = clip.train_clip(clip.build_clip(config), World(("plain",)), tmp_path, config)
        samples = loop.batch(0)
        for one, two in zip(samples[::2], samples[1::2], strict=True):
            assert torch.equal(one.frames[0], two.frames[0])
            assert not torch.equal(one.frames[-1], two.frames[-1])

    def test_logits_tell_clips_apart_that_begin_alike(self):
        config = parse_recipe(clip.CLIPTraining, SMALL["clip"], "recipe")
        model = clip.build_clip(config)
        pair = World(("plain",)).pair(3, 128, 64, 2, 1.0)
        first, last = (torch.stack([sample.frames[i] for sample in pair]) for i in (0, -1))
        tokens = torch.randint(1, 40_000, (2, 6))
        tokens[:, -1] = clip.END
        pictures, clips = model(tokens, torch.rand(1, 3, 64, 64), first, last)
        assert pictures.shape == (1, 1) and clips.shape == (2, 2)
        assert not torch.allclose(clips[0], clips[1])
        _, still = model(tokens, torch.rand(1, 3, 64, 64), first, first)
        assert torch.allclose(still[0], still[1])


def test_standardised_tokens_have_what_networks_read_of_them():
    """Measured as the bundle's encoder reads it; the first token is every text's, and is left out."""
    config = parse_recipe(clip.CLIPTraining, SMALL["clip"], "recipe")
    tower = clip.build_clip(config).text.eval()
    world = World()
    prompts = [world.clip(i, 64, 64, 1, 1).prompt for i in range(40)]
    clip.standardise_tokens(tower, prompts, 1.5)
    hidden = tower(input_ids=clip.Tokenizer()(prompts), output_hidden_states=True).hidden_states[-2]
    (norm,) = (module for name, module in tower.named_modules() if name.endswith("final_layer_norm"))
    read = norm(hidden)[:, 1:].flatten(0, 1)
    assert torch.allclose(read.mean(0), torch.zeros(32), atol=1e-4)
    assert torch.allclose(read.std(0), torch.full((32,), 1.5), atol=1e-3)


def test_windows_are_cut_from_the_refiners_clips():
    frames = torch.arange(2 * 16 * 32.0).view(2, 16, 32, 1).expand(-1, -1, -1, 3)
    cut = [refiner._cropped(frames, (8, 4), random.Random(seed)) for seed in range(20)]
    assert all(window.shape == (2, 4, 8, 3) for window in cut)
    assert len({window[0, 0, 0, 0].item() for window in cut}) > 10
    assert all((window[1] - window[0] == 16 * 32).all() for window in cut), "one place in all frames"
    assert refiner._cropped(frames, None, random.Random(0)) is frames


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A model folder that every stage has written its part of, two steps each."""
    root = tmp_path_factory.mktemp("trained")
    for stage in ("vae", "clip", "base", "refiner"):
        recipe = root / f"{stage}.json"
        recipe.write_text(json.dumps(SMALL[stage] | {"loop": {"steps": 2, "log_every": 1}}))
        STAGES[stage](Job(root / "model", str(recipe), root / stage, out=root / "model", dtype="fp32"))
    return root


@pytest.mark.slow
class TestStages:
    def test_the_folder_is_one_that_the_cascade_reads(self, trained):
        cascade = Cascade(trained / "model")
        image = World().clip(0, 64, 64, 1, 8).frames
        options = BaseOptions(width=64, height=64, frames=2, steps=2)
        latent = cascade.sample_base(cascade.condition(image, "A red circle moves left.", options), options)
        refine = RefineOptions(width=64, height=80, steps=2)
        refined = cascade.sample_refiner(cascade.encode_video(cascade.decode(latent), refine), "a red circle", refine)
        assert refined.shape == (2, 4, 10, 8) and refined.isfinite().all()

    @pytest.mark.parametrize("stage", ["base", "refiner"])
    def test_a_network_that_is_there_is_trained_further(self, trained, tmp_path, stage):
        file = trained / "model" / ("unet" if stage == "base" else stage) / "diffusion_pytorch_model.safetensors"
        from safetensors.torch import load_file

        before = {key: value.clone() for key, value in load_file(file).items()}  # it is mapped, and written over
        recipe = tmp_path / "recipe.json"
        recipe.write_text(json.dumps(SMALL[stage] | {"loop": {"steps": 1, "learning_rate": 1e-6, "warmup": 1}}))
        STAGES[stage](Job(trained / "model", str(recipe), tmp_path / "run", out=trained / "model", dtype="fp32"))
        after = load_file(file)
        assert before.keys() == after.keys()
        differences = [(after[key] - before[key]).abs().max().item() for key in before]
        assert 0 < max(differences) < 1e-5

    def test_an_image_only_run_leaves_what_mixes_frames(self, trained, tmp_path):
        config = parse_recipe(base.BaseTraining, SMALL["base"] | {"image_only": True}, "")
        config = replace(config, shapes=(diffusion.Shape(1, clips=2),), loop=LoopConfig(steps=2, warmup=1))
        network = base.build_base(config)
        before = {name: p.detach().clone() for name, p in network.named_parameters()}
        base.train_base(network, diffusion.Encoders(trained / "model"), World(), tmp_path, config).run()
        changed = {name for name, p in network.named_parameters() if not torch.equal(p, before[name])}
        assert not any("temopral_conv" in name or "input_blocks.0.1" in name for name in changed)
        assert "network.out.2.weight" in changed

    def test_dropped_conditions_are_those_of_the_negative_branch(self, trained, tmp_path):
        config = parse_recipe(base.BaseTraining, SMALL["base"] | {"drop_both": 1.0}, "")
        encoders = diffusion.Encoders(trained / "model")
        loop = base.train_base(base.build_base(config), encoders, World(), tmp_path, config)
        batch = loop.batch(0)
        from i2vgen_core.config import RELEASES

        expected = encoders.prompts([RELEASES["i2vgen_xl"].negative_prompt])
        assert torch.equal(batch.text, expected.expand_as(batch.text))
        assert batch.image.abs().max() == 0
        assert batch.latents.shape == (2, 2, 4, 8, 8)

    def test_the_detail_path_is_trained_with_its_official_gain(self):
        assert UNetConfig(**{**SMALL_UNET, "channel_mult": (1, 1)}).detail_gain == "official"


@pytest.mark.slow
class TestOtherData:
    @pytest.mark.parametrize("precision", ["fp32", "bf16"])
    def test_low_rank_matrices_go_into_the_runs_folder(self, trained, tmp_path, monkeypatch, precision):
        """Beside weights of the arithmetic's type: they are not trained."""
        pytest.importorskip("peft", reason="training low-rank matrices needs peft")
        types, add = [], stages.add_lora
        monkeypatch.setattr(stages, "add_lora", lambda n, *a: types.append(next(n.parameters()).dtype) or add(n, *a))
        before = {file: file.read_bytes() for file in (trained / "model").rglob("*.safetensors")}
        recipe = tmp_path / "recipe.json"
        loop = {"steps": 2, "learning_rate": 0.1, "warmup": 1, "ema": 0, "precision": precision}
        for stage, folder in (("base", "unet"), ("refiner", "refiner")):
            recipe.write_text(json.dumps(SMALL[stage] | {"lora_rank": 2, "checkpointing": True, "loop": loop}))
            STAGES[stage](Job(trained / "model", str(recipe), tmp_path / stage, dtype="fp32"))
            network = open_unet(trained / "model" / folder).build_network()
            weight = network.input_blocks[1][1].transformer_blocks[0].attn2.to_k.weight
            plain = weight.detach().clone()
            merge_lora(network, tmp_path / stage / LORA)
            assert not torch.equal(weight, plain)
        assert types == [DTYPES[precision]] * 2
        assert before == {file: file.read_bytes() for file in (trained / "model").rglob("*.safetensors")}

    def test_what_watches_a_run_changes_nothing(self, trained, tmp_path, monkeypatch):
        written = []
        add_scalar = type("Writer", (), {"add_scalar": lambda _, *a: written.append(a), "flush": lambda _: None})
        module = type(sys)("torch.utils.tensorboard")
        module.SummaryWriter = lambda folder: written.append(folder) or add_scalar()
        monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
        monkeypatch.setattr("i2vgen_core.training.samples._STEPS", 2)
        recipe, results = tmp_path / "recipe.json", {}
        for stage, part in (("base", "unet"), ("refiner", "refiner")):
            recipe.write_text(json.dumps(SMALL[stage] | {"loop": {"steps": 4, "log_every": 2}}))
            for name, more in (("plain", {}), ("watched", {"sample_every": 2, "tensorboard": True})):
                run = tmp_path / f"{stage}_{name}"
                STAGES[stage](Job(trained / "model", str(recipe), run, dtype="fp32", **more))
                results[name] = load_file(run / part / "diffusion_pytorch_model.safetensors")
            assert toy.same(results["plain"], results["watched"])
            assert {file.name for file in (run / "samples").iterdir()} == {"step_000002.mp4", "step_000004.mp4"}
            frames, _ = read_video(run / "samples" / "step_000004.mp4")
            assert frames.shape == (2, SMALL[stage]["height"], 64, 3)
            assert read_image(run / "curves.png").shape[2] == 960
            assert str(run / "tensorboard") in written
        assert {step for _, _, step in (entry for entry in written if isinstance(entry, tuple))} == {2, 4}
        assert not (run / "left_out.csv").exists()

    def test_samples_and_tensorboard_that_cannot_be(self, tmp_path, monkeypatch):
        recipe = tmp_path / "recipe.json"
        recipe.write_text(json.dumps(SMALL["vae"] | {"loop": {"steps": 1}}))
        with pytest.raises(InputError, match="--sample-every: expected the base or the refiner, found vae"):
            STAGES["vae"](Job(tmp_path, str(recipe), tmp_path / "run", sample_every=5))
        monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
        with pytest.raises(InputError, match="--tensorboard: expected the package tensorboard, found none"):
            STAGES["vae"](Job(tmp_path, str(recipe), tmp_path / "run", tensorboard=True))

    def test_a_folder_of_images(self, tmp_path):
        for i in range(3):
            write_image(tmp_path / f"{i}.png", World().clip(i, 128, 64, 1, 8).frames[0])
            (tmp_path / f"{i}.txt").write_text(f"a picture of number {i}")
        loop = {"steps": 1}
        for stage, more in (("vae", {}), ("clip", {"seconds": 0, "batch": 3, "size": [64, 64]})):
            recipe = tmp_path / "recipe.json"
            recipe.write_text(json.dumps(SMALL[stage] | more | {"loop": loop}))
            STAGES[stage](Job(tmp_path / "model", str(recipe), tmp_path / stage, tmp_path, tmp_path / "model"))
        assert {part.name for part in (tmp_path / "model").iterdir()} >= {"vae", "text_encoder", "image_encoder"}


class TestCommands:
    @pytest.mark.slow
    def test_train_writes_its_part_and_goes_on(self, tmp_path, caplog):
        caplog.set_level("INFO")
        recipe = tmp_path / "recipe.json"
        recipe.write_text(json.dumps(SMALL["vae"] | {"loop": {"steps": 3, "log_every": 1}}))
        command = ["train", "vae", "--config", str(recipe), "--model", str(tmp_path / "model")]
        command += ["--run", str(tmp_path / "run"), "--out", str(tmp_path / "model"), "--device", "cpu"]
        assert main([*command, "--until", "1"]) == 0
        assert main(command) == 0
        text = caplog.text
        assert "step 1 of 3" in text and "resumed at step 1" in text and "step 3 of 3" in text
        assert (tmp_path / "model" / "vae" / "config.json").is_file()

    @pytest.fixture
    def vae_command(self, trained, tmp_path):
        """Trains the VAE of a model further by a step; its files, and a function that runs it with more options."""
        shutil.copytree(trained / "model" / "vae", tmp_path / "model" / "vae")
        recipe = tmp_path / "recipe.json"
        recipe.write_text(json.dumps(SMALL["vae"] | {"loop": {"steps": 1, "warmup": 1}}))

        def run(*more):
            command = ["train", "vae", "--config", recipe, "--model", tmp_path / "model", "--device", "cpu"]
            return main([str(each) for each in [*command, *more]])

        return run

    def test_a_model_is_written_only_where_it_is_named_twice(self, vae_command, tmp_path, caplog):
        weights = tmp_path / "model" / "vae" / "diffusion_pytorch_model.safetensors"
        before = weights.read_bytes()
        assert vae_command("--run", tmp_path / "run") == 0
        made = tmp_path / "run" / "vae" / "diffusion_pytorch_model.safetensors"
        assert made.is_file() and weights.read_bytes() == before
        assert vae_command("--run", tmp_path / "run") == 0, "what the same run made is made anew"
        shutil.copytree(tmp_path / "model", tmp_path / "other")
        assert vae_command("--run", tmp_path / "run-2", "--device", "xpu:7") == 2
        assert "device: expected cpu" in caplog.text and not (tmp_path / "run-2").exists()
        assert vae_command("--run", tmp_path / "run-2", "--out", tmp_path / "other") == 2
        assert "--out: expected a folder without vae" in caplog.text and not (tmp_path / "run-2" / CHECKPOINT).exists()
        for _ in range(2):
            assert vae_command("--run", tmp_path / "run-3", "--out", tmp_path / "new") == 0
        assert (tmp_path / "new" / "vae" / "config.json").is_file() and weights.read_bytes() == before
        assert vae_command("--run", tmp_path / "run-4", "--out", tmp_path / "model") == 0
        assert weights.read_bytes() != before

    def test_folders_that_cannot_be_written_are_said_before_the_training(
        self, vae_command, tmp_path, caplog, monkeypatch
    ):
        monkeypatch.setattr("i2vgen_core.training.stages.train_vae", None)
        (tmp_path / "file").touch()
        assert vae_command("--run", tmp_path / "file") == 2
        assert vae_command("--run", tmp_path / "run", "--out", tmp_path / "file" / "out") == 2
        assert caplog.text.count("error: train: expected a folder that can be written") == 2

    def test_files_have_the_permissions_of_any_other(self, vae_command, tmp_path):
        before = os.umask(0o027)
        try:
            assert vae_command("--run", tmp_path / "run") == 0
        finally:
            os.umask(before)
        modes = {file.name: file.stat().st_mode & 0o777 for file in (tmp_path / "run").rglob("*") if file.is_file()}
        assert len(modes) >= 4 and set(modes.values()) == {0o640}, modes

    def test_stopped_it_exits_with_130_and_writes_no_model(self, vae_command, tmp_path, caplog, monkeypatch):
        caplog.set_level("INFO")
        from i2vgen_core.training import stages

        class Source(World):
            def picture(self, *arguments):
                signal.raise_signal(signal.SIGTERM)
                return super().picture(*arguments)

        recipe = tmp_path / "recipe.json"
        recipe.write_text(json.dumps(SMALL["vae"] | {"loop": {"steps": 3}}))
        with monkeypatch.context() as patch:
            patch.setattr(stages.Job, "source", lambda *_: Source())
            handler = signal.signal(signal.SIGTERM, signal.SIG_IGN)  # what the others of the batch ask for
            try:
                assert vae_command("--run", tmp_path / "run") == 130
            finally:
                signal.signal(signal.SIGTERM, handler)
        assert "stopped at step 1, with a checkpoint; the same command goes on from there" in caplog.text
        assert not (tmp_path / "run" / "vae").exists()
        assert vae_command("--run", tmp_path / "run") == 0
        assert "resumed at step 1" in caplog.text and (tmp_path / "run" / "vae").is_dir()

    def test_mistakes_exit_with_2(self, tmp_path, caplog):
        command = ["train", "vae", "--config", "none", "--model", str(tmp_path), "--run", str(tmp_path)]
        assert main(command) == 2
        assert "expected a recipe" in caplog.text

    @pytest.mark.slow
    def test_evaluate_exits_with_1_where_a_bar_is_missed(self, trained, tmp_path, capsys):
        folder = tmp_path / "model"
        shutil.copytree(trained / "model", folder)
        config = json.loads((folder / "unet" / "config.json").read_text())
        config["release"] = {"width": 128, "height": 64, "frames": 2, "fps": 8, "steps": 1}
        (folder / "unet" / "config.json").write_text(json.dumps(config))
        json_file, sheet = tmp_path / "figures.json", tmp_path / "sheet.png"
        command = ["evaluate", "--model", str(folder), "--seeds", "0:1", "--refined", "0", "--device", "cpu"]
        assert main([*command, "--json", str(json_file), "--sheet", str(sheet)]) == 1
        table = capsys.readouterr().out
        assert "frame 0 against the given image" in table and "miss" in table
        assert json.loads(json_file.read_text())["figures"]["frame_0"]
        assert read_image(sheet).shape[3] == 3

    @pytest.mark.parametrize("seeds", ["3", "5:5", "a:b", "-1:2"])
    def test_seeds_are_a_range(self, seeds):
        with pytest.raises(SystemExit):
            main(["evaluate", f"--seeds={seeds}"])


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


class TestGrowth:
    """A VAE that grows begins as the one it grew from."""

    @pytest.mark.parametrize(("channels", "blocks"), [((32, 32, 64, 96), 1), ((32, 64, 32, 64), 2)])
    def test_it_is_the_same_function(self, channels, blocks):
        small = vae.build_vae(parse_recipe(vae.VAETraining, SMALL["vae"], "small")).eval()
        large = grow_vae(small, channels, blocks).eval()
        pixels = torch.rand(1, 3, 32, 48, generator=torch.Generator().manual_seed(0)) * 2 - 1
        with torch.no_grad():
            latents = [net.quant_conv(net.encoder(pixels)) for net in (small, large)]
            pictures = [net.decoder(net.post_quant_conv(latents[0][:, :4])) for net in (small, large)]
        assert torch.allclose(*latents, atol=1e-4)
        assert torch.allclose(*pictures, atol=1e-5)
        assert large.config.block_out_channels == channels

    def test_copies_part_as_they_learn(self):
        small = vae.build_vae(parse_recipe(vae.VAETraining, SMALL["vae"], "small"))
        large = grow_vae(small, (32, 32, 32, 64), 1)
        layer = large.decoder.mid_block.resnets[0].conv1
        large.decoder(torch.rand(1, 4, 4, 4)).square().mean().backward()
        gradient = layer.weight.grad
        assert not torch.allclose(gradient[0] / gradient[0].norm(), gradient[1] / gradient[1].norm(), atol=1e-3)
        assert large.encoder.down_blocks[3].resnets[0].conv2.weight.abs().max() == 0

    @pytest.mark.parametrize("channels", [(32, 32, 32, 48), (32, 32, 32)])
    def test_what_is_no_multiple_is_refused(self, channels):
        small = vae.build_vae(parse_recipe(vae.VAETraining, SMALL["vae"], "small"))
        with pytest.raises(InputError, match="multiple"):
            grow_vae(small, channels, 1)


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


def test_a_batch_of_pictures_is_one_of_the_views():
    class Counted:
        def picture(self, number, width, height):
            return torch.full((height, width, 3), float(number))

    views = [{"width": 64, "height": 40, "count": 3}, {"width": 96, "height": 56, "crop": [32, 24], "count": 2}]
    config = parse_recipe(vae.VAETraining, {"views": views}, "views")
    batches = [vae.pictures(Counted(), number, config) for number in range(20)]
    assert {tuple(batch.shape) for batch in batches} == {(3, 40, 64, 3), (2, 24, 32, 3)}
    whole = [batch for batch in batches if len(batch) == 3]
    assert len({batch[0, 0, 0, 0].item() for batch in whole}) == len(whole), "no picture comes twice"
