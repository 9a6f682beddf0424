"""The training of CLIP's towers."""

from __future__ import annotations

import torch
from small_recipes import SMALL

from i2vgen_core.training import clip
from i2vgen_core.training.data import World
from i2vgen_core.training.recipe import parse_recipe


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
