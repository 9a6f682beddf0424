"""A few steps of every stage at the smallest sizes, and its command."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
from dataclasses import replace

import pytest
import torch
import toy
from safetensors.torch import load_file
from small_recipes import SMALL, SMALL_UNET

from i2vgen_core.__main__ import main
from i2vgen_core.cascade import Cascade
from i2vgen_core.checkpoints.load import open_unet
from i2vgen_core.checkpoints.lora import merge_lora
from i2vgen_core.config import ControlConfig, UNetConfig
from i2vgen_core.errors import InputError
from i2vgen_core.media.images import read_image, write_image
from i2vgen_core.media.video import read_video
from i2vgen_core.memory import DTYPES
from i2vgen_core.network.control import Hint
from i2vgen_core.sampling.options import BaseOptions, RefineOptions
from i2vgen_core.training import base, diffusion, stages
from i2vgen_core.training.clip import CLIPTraining
from i2vgen_core.training.data import World
from i2vgen_core.training.loop import CHECKPOINT, LoopConfig
from i2vgen_core.training.recipe import parse_recipe
from i2vgen_core.training.refiner import RefinerTraining, with_branch
from i2vgen_core.training.stages import LORA, STAGES, TrainingJob
from i2vgen_core.training.worse import blurred, worse


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A model folder that every stage has written its part of, two steps each."""
    root = tmp_path_factory.mktemp("trained")
    for stage in ("vae", "clip", "base", "refiner"):
        recipe = root / f"{stage}.json"
        recipe.write_text(json.dumps(SMALL[stage] | {"loop": {"steps": 2, "log_every": 1}}))
        STAGES[stage](TrainingJob(root / "model", str(recipe), root / stage, out=root / "model", dtype="fp32"))
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
        STAGES[stage](
            TrainingJob(trained / "model", str(recipe), tmp_path / "run", out=trained / "model", dtype="fp32")
        )
        after = load_file(file)
        assert before.keys() == after.keys()
        differences = [(after[key] - before[key]).abs().max().item() for key in before]
        assert 0 < max(differences) < 1e-5

    def test_an_image_only_run_leaves_what_mixes_frames(self, trained, tmp_path):
        config = parse_recipe(base.BaseTraining, SMALL["base"] | {"image_only": True}, "")
        config = replace(config, shapes=(diffusion.ClipShape(1, clips=2),), loop=LoopConfig(steps=2, warmup=1))
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
        from i2vgen_core.releases import RELEASES

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
            STAGES[stage](TrainingJob(trained / "model", str(recipe), tmp_path / stage, dtype="fp32"))
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
                STAGES[stage](TrainingJob(trained / "model", str(recipe), run, dtype="fp32", **more))
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
            STAGES["vae"](TrainingJob(tmp_path, str(recipe), tmp_path / "run", sample_every=5))
        monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
        with pytest.raises(InputError, match="--tensorboard: expected the package tensorboard, found none"):
            STAGES["vae"](TrainingJob(tmp_path, str(recipe), tmp_path / "run", tensorboard=True))

    def test_a_folder_of_images(self, tmp_path):
        for i in range(3):
            write_image(tmp_path / f"{i}.png", World().clip(i, 128, 64, 1, 8).frames[0])
            (tmp_path / f"{i}.txt").write_text(f"a picture of number {i}")
        loop = {"steps": 1}
        for stage, more in (("vae", {}), ("clip", {"seconds": 0, "batch": 3, "size": [64, 64]})):
            recipe = tmp_path / "recipe.json"
            recipe.write_text(json.dumps(SMALL[stage] | more | {"loop": loop}))
            STAGES[stage](TrainingJob(tmp_path / "model", str(recipe), tmp_path / stage, tmp_path, tmp_path / "model"))
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

    @pytest.mark.slow
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
            patch.setattr(stages.TrainingJob, "source", lambda *_: Source())
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

    @pytest.mark.parametrize(
        ("stage", "parts", "missing", "remedy"),
        [
            ("base", (), "vae", "train vae"),
            ("refiner", ("vae",), "text_encoder", "train clip"),
            ("base", ("vae", "text_encoder"), "image_encoder", "train clip"),
        ],
    )
    def test_an_encoder_that_is_not_there_is_said_before_the_training(
        self, tmp_path, caplog, stage, parts, missing, remedy
    ):
        (tmp_path / "recipe.json").write_text(json.dumps(SMALL[stage]))
        model = tmp_path / "model"
        for part in parts:
            (model / part).mkdir(parents=True)
        command = ["train", stage, "--config", str(tmp_path / "recipe.json"), "--run", str(tmp_path / "run")]
        assert main([*command, "--model", str(model)]) == 2
        assert f"--model: expected a folder with {missing}/ in it, found none in '{model}'. Train it" in caplog.text
        assert f"`{remedy}`" in caplog.text and not (tmp_path / "run").exists()

    def test_data_that_are_not_there_are_said(self, tmp_path, caplog):
        (tmp_path / "recipe.json").write_text(json.dumps(SMALL["vae"]))
        command = ["train", "vae", "--config", str(tmp_path / "recipe.json"), "--model", str(tmp_path / "model")]
        assert main([*command, "--run", str(tmp_path / "run"), "--data", str(tmp_path / "none")]) == 2
        assert f"--data: expected a folder or a table, found nothing at '{tmp_path / 'none'}'" in caplog.text

    def test_a_batch_of_one_clip_teaches_clip_nothing(self):
        with pytest.raises(InputError, match=r"batch: expected 2 to .*found 1"):
            parse_recipe(CLIPTraining, {"batch": 1}, "recipe")

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


class TestHint:
    """A control branch on a refiner (RefinerTraining.hint)."""

    def test_it_begins_as_nothing(self):
        config = toy.config_of("vid2vid_xl")
        plain = toy.network(config)
        hinted = with_branch(plain).eval()
        given = toy.inputs(config) | {"hint": Hint(torch.randn(3, 4, 8, 8))}
        with torch.no_grad():
            assert toy.error(hinted(**given), plain(**toy.inputs(config))) < 1e-4
        state, own = hinted.VideoControlNet.state_dict(), plain.state_dict()
        assert all(torch.equal(state[key], own[key]) for key in state.keys() & own.keys())
        assert len(state.keys() & own.keys()) > 100

    @pytest.mark.slow
    def test_the_branch_alone_is_trained_and_the_settings_stay(self, trained, tmp_path):
        recipe = tmp_path / "recipe.json"
        loop = {"steps": 2, "learning_rate": 0.1, "warmup": 1, "ema": 0}
        recipe.write_text(json.dumps(SMALL["refiner"] | {"hint": True, "loop": loop}))
        others = shutil.ignore_patterns("unet", "refiner")
        shutil.copytree(trained / "model", tmp_path / "run", ignore=others)
        STAGES["refiner"](TrainingJob(trained / "model", str(recipe), tmp_path / "run", dtype="fp32"))
        before, made = open_unet(trained / "model" / "refiner"), open_unet(tmp_path / "run" / "refiner")
        assert made.config.kind == "star" and made.config.control == ControlConfig()
        assert all(torch.equal(made.network[key], value) for key, value in before.network.items())
        trained_parts = {key for key in made.network if key.startswith("VideoControlNet.") and made.network[key].any()}
        assert any(".zero_convs." in key for key in trained_parts)
        assert replace(made.release, enlarging=0.0) == before.release
        STAGES["refiner"](TrainingJob(tmp_path / "run", str(recipe), tmp_path / "further", dtype="fp32", until=1))

    def test_what_cannot_have_a_branch_of_this_kind_is_said(self):
        with pytest.raises(InputError, match="hint: expected a refiner without key frames, found venhancer"):
            stages._hinted(toy.network(toy.config_of("venhancer")), {}, 0)
        with pytest.raises(InputError, match="lora rank: expected 0 with a hint, found 4"):
            RefinerTraining(hint=True, lora_rank=4)

    def test_clips_are_made_worse_in_four_ways_the_same_each_time(self):
        clip = World().clip(0, 64, 64, 2, 8).frames
        made, outside = [worse(clip, random.Random(seed)) for seed in range(12)], blurred(clip, 1.5)
        assert all(torch.equal(each, worse(clip, random.Random(seed))) for seed, each in enumerate(made))
        assert all(each.shape == clip.shape and each.min() >= 0 and each.max() <= 1 for each in made)
        distances = {round((each - clip).square().mean().item(), 9) for each in made}
        assert 0 in distances and 6 < len(distances) < 12
        with torch.autocast("cpu", torch.bfloat16):  # as the loop asks for a batch
            assert torch.equal(blurred(clip, 1.5), outside)
