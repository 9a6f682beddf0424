"""The training of the VAE: its latents, its spectrum, its growth, its batches."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from small_recipes import SMALL
from torch import nn

from i2vgen_core.errors import InputError
from i2vgen_core.training import vae
from i2vgen_core.training.data import World
from i2vgen_core.training.grow import grow_vae
from i2vgen_core.training.recipe import parse_recipe


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
