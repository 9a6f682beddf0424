"""Names of LoRA files: each layer by our name and diffusers', in every trainer's spelling, both ways."""

from dataclasses import replace

import pytest
import torch
import toy
from diffusers import I2VGenXLUNet

from i2vgen_core.checkpoints.lora_keys import OURS, in_our_names, layers_by_name
from i2vgen_core.checkpoints.unet_keys import GLOBAL_ENCODER, diffusers_layers
from i2vgen_core.config import UNetConfig
from i2vgen_core.network.unet import UNet

RANK = 2
LAYERS = {  # ours: diffusers'
    "input_blocks.0.1.transformer_blocks.0.attn1.to_q": "transformer_in.transformer_blocks.0.attn1.to_q",
    "input_blocks.1.1.transformer_blocks.0.attn2.to_k": "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k",
    "input_blocks.1.2.transformer_blocks.0.attn1.to_out.0": (
        "down_blocks.0.temp_attentions.0.transformer_blocks.0.attn1.to_out.0"
    ),
    "middle_block.1.transformer_blocks.0.attn2.to_v": "mid_block.attentions.0.transformer_blocks.0.attn2.to_v",
    "local_temporal_encoder.layers.0.0.fn.to_k": "image_latents_temporal_encoder.attn1.to_k",
}
FORMS = {
    "ours": "diffusion_model.{ours}.lora_{d}.weight",
    "peft on our network": "base_model.model.{ours}.lora_{A}.weight",
    "bare": "{ours}.lora_{A}.weight",
    "kohya on ours": "lora_unet_{ours_}.lora_{d}.weight",
    "diffusers": "unet.{theirs}.lora_{A}.weight",
    "diffusers before 0.20": "unet.{theirs}.lora.{d}.weight",
    "peft": "base_model.model.{theirs}.lora_{A}.weight",
    "peft with an adapter's name": "base_model.model.{theirs}.lora_{A}.default.weight",
    "peft within a pipeline": "unet.base_model.model.{theirs}.lora_{A}.weight",
    "kohya": "lora_unet_{theirs_}.lora_{d}.weight",
    "lycoris": "lycoris_{theirs_}.lora_{d}.weight",
    "someone's": "my_trainer.network.{theirs}.lora_{A}.weight",
}


def shapes(config):
    return {key: value.shape for key, value in UNet(config, device="meta").state_dict().items()}


NETWORK = shapes(toy.CONFIG)


def written(form, ours, theirs, value):
    """One layer's matrices, down and up, under a trainer's names; each value is its own."""
    words = {"ours": ours, "theirs": theirs, "ours_": ours.replace(".", "_"), "theirs_": theirs.replace(".", "_")}
    parts = 3 if "local" in ours else 1
    outputs, inputs = NETWORK[f"{ours.replace('fn.to_k', 'fn.to_qkv')}.weight"]
    return {
        FORMS[form].format(A="A", d="down", **words): torch.full((RANK, inputs), value),
        FORMS[form].format(A="B", d="up", **words): torch.full((outputs // parts, RANK), -value),
    }


@pytest.mark.parametrize("form", FORMS)
def test_every_trainers_names_reach_their_layers(form):
    file, expected = {}, {}
    for value, (ours, theirs) in enumerate(LAYERS.items(), start=1):
        pair = written(form, ours, theirs, float(value))
        file |= pair
        down, up = pair.values()
        expected |= {f"{OURS}{ours}.lora_down.weight": down, f"{OURS}{ours}.lora_up.weight": up}
    assert toy.same(in_our_names(file, NETWORK), expected)


def test_processors_of_older_diffusers():
    network = shapes(toy.CONFIG)
    start = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.processor."
    file = {}
    for name in ("to_q", "to_out"):
        file |= {
            f"{start}{name}_lora.down.weight": torch.ones(RANK, 64),
            f"{start}{name}_lora.up.weight": torch.ones(64, RANK),
        }
    layer = f"{OURS}middle_block.1.transformer_blocks.0.attn1."
    ends = ("lora_down.weight", "lora_up.weight")
    assert set(in_our_names(file, network)) == {f"{layer}{n}.{end}" for n in ("to_q", "to_out.0") for end in ends}


RELEASED = [UNetConfig(kind=kind) for kind in ("i2vgen_xl", "vid2vid_xl")]


@pytest.mark.parametrize("config", [*RELEASED, replace(toy.CONFIG, kind="image2video")], ids=lambda config: config.kind)
def test_every_layer_has_its_names_and_every_name_one_layer(config):
    network = shapes(config)
    layers, theirs = layers_by_name(network), diffusers_layers(network)
    weights = {key for key in network if key.endswith(".weight")}
    assert {layer.weight for layer in layers.values()} == weights
    assert {f"{name}.weight" for name in layers} >= weights, "ours"
    assert theirs.keys() <= layers.keys(), "diffusers'"
    for name, (key, third) in theirs.items():
        layer = layers[name]
        assert layer.weight == key and layers[layer.name] == layer
        assert (layer.rows is None) == (third is None)
    parts = [layer for layer in layers.values() if layer.rows]
    assert {layer.rows for layer in parts} == ({(0, 8), (8, 8), (16, 8)} if config.reads_details else set())
    assert len(layers) == len({*theirs, *(layer.name for layer in layers.values())})
    flat = {}
    for name, layer in layers.items():
        assert flat.setdefault(name.replace(".", "_"), layer) == layer, "two layers of one name with underscores"


def test_names_are_those_of_diffusers_own_modules():
    with torch.device("meta"):
        peer = I2VGenXLUNet()
    theirs = {key.removesuffix(".weight") for key in peer.state_dict() if key.endswith(".weight")}
    inside = {name for name in theirs if not name.startswith("image_latents_context_embedding.")}
    assert diffusers_layers(shapes(UNetConfig())).keys() == inside
    assert GLOBAL_ENCODER == "local_image_embedding.", "which is beside the network, and no layer of it"


def test_a_text_encoders_names_are_left_alone():
    network = shapes(toy.CONFIG)
    ours, theirs = next(iter(LAYERS.items()))
    text = {"lora_te_text_model_encoder_layers_0_self_attn_q_proj.lora_down.weight": torch.ones(RANK, 64)}
    text |= {"text_encoder.text_model.encoder.layers.0.self_attn.q_proj.lora_A.weight": torch.ones(RANK, 64)}
    renamed = in_our_names(written("kohya", ours, theirs, 1.0) | text, network)
    assert text.keys() <= renamed.keys() and len(renamed) == 4


def test_layers_of_another_size_are_left_out_whole(caplog):
    network = shapes(toy.CONFIG)
    (good, its), (bad, name) = list(LAYERS.items())[:2]
    file = written("kohya", good, its, 1.0) | {
        f"lora_unet_{name.replace('.', '_')}.lora_down.weight": torch.ones(RANK, 768),
        f"lora_unet_{name.replace('.', '_')}.lora_up.weight": torch.ones(32, RANK),
        f"lora_unet_{name.replace('.', '_')}.alpha": torch.ones(()),
    }
    assert set(in_our_names(file, network)) == {f"{OURS}{good}.lora_{end}.weight" for end in ("down", "up")}
    assert f"LoRA: 1 layers are left out, which are of other sizes than the network's ({bad})" in caplog.text


def test_convolutions_in_official_shapes_fit():
    network = shapes(toy.CONFIG)
    key = "input_blocks.1.0.temopral_conv.conv1.2"
    outputs, inputs, *kernel = network[f"{key}.weight"]
    assert len(kernel) == 2
    for down in (torch.ones(RANK, inputs, 3, 1, 1), torch.ones(RANK, inputs, 3, 1)):
        file = {f"lora_unet_{key.replace('.', '_')}.lora_down.weight": down}
        file |= {f"lora_unet_{key.replace('.', '_')}.lora_up.weight": torch.ones(outputs, RANK, 1, 1, 1)}
        assert set(in_our_names(file, network)) == {f"{OURS}{key}.lora_{end}.weight" for end in ("down", "up")}


def test_nothing_of_another_network_fits():
    file = {"lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight": torch.ones(RANK, 64)}
    assert toy.same(in_our_names(file, shapes(toy.CONFIG)), file)
