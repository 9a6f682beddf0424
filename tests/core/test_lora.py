"""Low-rank adaptation and gradient checkpointing: what trains, what a file holds, and that the results are the same."""

import json

import pytest
import torch
import toy
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch.autograd.graph import saved_tensors_hooks

from i2vgen_core.checkpoints.lora import merge_lora, restore
from i2vgen_core.checkpoints.lora_keys import with_alphas
from i2vgen_core.config import UNetConfig
from i2vgen_core.errors import CheckpointError, InputError
from i2vgen_core.network.unet import UNet
from i2vgen_core.training.lora import add_lora, lora_state, save_lora

pytest.importorskip("peft")

RANK, ALPHA = 4, 6.0
LAYER = "diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k"


def of_kind(kind):
    return UNetConfig(**{**vars(toy.CONFIG), "kind": kind})


def trained(config, steps=2):
    """A network with LoRA after some steps of training on noise."""
    network = toy.network(config)
    torch.manual_seed(0)
    add_lora(network, RANK, ALPHA)
    optimiser = torch.optim.Adam([p for p in network.parameters() if p.requires_grad], lr=0.05)
    inputs = toy.inputs(config)
    for _ in range(steps):
        network(**inputs).square().mean().backward()
        optimiser.step()
        optimiser.zero_grad()
    return network.eval()


def answer(network):
    with torch.no_grad():
        return network(**toy.inputs(network.config))


@pytest.mark.parametrize("kind", toy.KINDS)
def test_a_merged_file_is_the_trained_network(tmp_path, kind):
    config = of_kind(kind)
    network = trained(config)
    save_lora(network, tmp_path / "a.safetensors")
    assert [file.name for file in tmp_path.iterdir()] == ["a.safetensors"]
    plain, merged = toy.network(config), toy.network(config)
    merge_lora(merged, tmp_path / "a.safetensors")
    assert toy.error(answer(merged), answer(network)) < 1e-5
    assert toy.error(answer(plain), answer(network)) > 1e-2

    merge_lora(plain, tmp_path / "a.safetensors", strength=0.0)
    assert torch.equal(answer(plain), answer(toy.network(config)))
    merge_lora(plain, tmp_path / "a.safetensors", strength=0.25)
    merge_lora(plain, tmp_path / "a.safetensors", strength=0.75)
    assert toy.error(answer(plain), answer(network)) < 1e-5


def test_only_the_attention_layers_train():
    network = toy.network(toy.CONFIG)
    before = answer(network)
    add_lora(network, RANK, ALPHA)
    assert torch.equal(answer(network), before)
    network(**toy.inputs(toy.CONFIG)).square().mean().backward()
    training = {name for name, p in network.named_parameters() if p.requires_grad}
    assert {name for name, p in network.named_parameters() if p.grad is not None} == training
    layers = {name.split(".lora_")[0] for name in training}
    blocks = [name for name, _ in toy.network(toy.CONFIG).named_modules() if name.endswith("transformer_blocks.0")]
    ends = ("to_q", "to_k", "to_v", "to_out.0")
    assert layers == {f"{block}.{attn}.{end}" for block in blocks for attn in ("attn1", "attn2") for end in ends}


def test_what_a_file_holds(tmp_path):
    network = trained(toy.CONFIG)
    save_lora(network, tmp_path / "a.safetensors")
    state = load_file(tmp_path / "a.safetensors")
    assert {key: list(value.shape) for key, value in state.items() if key.startswith(LAYER)} == {
        f"{LAYER}.lora_up.weight": [32, RANK],
        f"{LAYER}.lora_down.weight": [RANK, 64],
        f"{LAYER}.alpha": [],
    }
    assert {value.dtype for value in state.values()} == {torch.float32}
    assert {state[key].item() for key in state if key.endswith(".alpha")} == {ALPHA}
    with safe_open(tmp_path / "a.safetensors", framework="pt") as file:
        assert file.metadata() == {"kind": "i2vgen_xl", "rank": "4", "alpha": "6.0"}


def test_beside_weights_of_16_bit_it_trains_in_32():
    network = toy.network(toy.CONFIG).bfloat16()
    add_lora(network, RANK, ALPHA)
    kinds = {(p.requires_grad, p.dtype) for p in network.parameters()}
    assert kinds == {(True, torch.float32), (False, torch.bfloat16)}
    inputs = toy.inputs(toy.CONFIG)
    inputs |= {name: inputs[name].bfloat16() for name in ("x", "context", "details")}
    output = network(**inputs)
    output.float().square().mean().backward()
    assert output.dtype == torch.bfloat16
    assert {p.grad.dtype for p in network.parameters() if p.requires_grad} == {torch.float32}
    assert {value.dtype for value in lora_state(network).values()} == {torch.float32}


def test_networks_with_and_without():
    network = toy.network(toy.CONFIG)
    with pytest.raises(InputError, match="Call add_lora"):
        lora_state(network)
    for rank, alpha in ((0, 1.0), (4, 0.0)):
        with pytest.raises(InputError, match="rank" if rank == 0 else "alpha"):
            add_lora(network, rank, alpha)
    add_lora(network)
    with pytest.raises(InputError, match="Load the network again"):
        add_lora(network)


def test_files_of_other_networks_are_refused(tmp_path):
    network = toy.network(toy.CONFIG)
    weights = {key: value.clone() for key, value in network.state_dict().items()}
    state, made = lora_state(trained(toy.CONFIG, steps=1)), {"kind": "i2vgen_xl"}
    up = f"{LAYER}.lora_up.weight"
    for content, metadata, message in [
        (state, made | {"kind": "vid2vid_xl"}, "a LoRA for i2vgen_xl, found one for vid2vid_xl"),
        ({"text.a": torch.ones(1)}, {}, "fit no layer"),
        ({key: value for key, value in state.items() if key != up}, made, "expected .lora_up.weight, "),
        (state | {f"{LAYER}.dora_scale": torch.ones(1)}, made, "own LoRA loader reads the other kinds"),
        (state | {up: state[up][:, :2].contiguous()}, made, r"found \[32, 2\] and \[4, 64\]"),
    ]:
        save_file(content, tmp_path / "a.safetensors", metadata)
        with pytest.raises(CheckpointError, match=message):
            merge_lora(network, tmp_path / "a.safetensors")
    assert all(torch.equal(value, weights[key]) for key, value in network.state_dict().items())


def test_a_merged_file_is_taken_out_to_the_bit(tmp_path):
    save_lora(trained(toy.CONFIG), tmp_path / "a.safetensors")
    network = toy.network(toy.CONFIG).bfloat16()
    weights = {key: value.clone() for key, value in network.state_dict().items()}
    before = merge_lora(network, tmp_path / "a.safetensors", strength=3.0)
    assert any(not torch.equal(value, weights[key]) for key, value in network.state_dict().items())
    restore(network, before)
    assert toy.same(network.state_dict(), weights)


def test_a_file_of_another_trainer_is_merged(tmp_path, caplog):
    """diffusers' names, a part of a weight's rows, no alpha, no metadata, and a text encoder beside."""
    network = toy.network(toy.CONFIG)
    third = "local_temporal_encoder.layers.0.0.fn.to_qkv.weight"
    theirs = "unet.image_latents_temporal_encoder.attn1.to_k"
    rows = len(network.state_dict()[third]) // 3
    up, down = torch.rand(rows, RANK), torch.rand(RANK, network.state_dict()[third].shape[1])
    file = {f"{theirs}.lora_B.weight": up, f"{theirs}.lora_A.weight": down, "text_encoder.lora_A.weight": down.clone()}
    save_file(file, tmp_path / "a.safetensors")
    before = merge_lora(network, tmp_path / "a.safetensors", strength=0.5)
    assert list(before) == [third]
    expected = before[third].clone()
    expected[rows : 2 * rows] += 0.5 * up @ down
    assert toy.error(network.state_dict()[third], expected) < 1e-6
    assert "1 tensors are not used (text_encoder.lora_A.weight)" in caplog.text


@pytest.mark.parametrize(
    "settings, scale",
    [
        ({"r": RANK, "lora_alpha": 3 * RANK}, 3.0),
        ({"r": RANK, "lora_alpha": 1, "alpha_pattern": {"attn1.to_k": 5 * RANK}}, 5.0),
        ({"r": RANK, "lora_alpha": 2, "use_rslora": True}, 2 / RANK**0.5),
    ],
    ids=["one for all", "one of its own", "by the root of the rank"],
)
def test_an_alpha_that_the_metadata_alone_has(tmp_path, settings, scale):
    """diffusers writes peft's settings there, and no tensor."""
    theirs = "unet.image_latents_temporal_encoder.attn1.to_k"
    weight = "local_temporal_encoder.layers.0.0.fn.to_qkv.weight"
    network = toy.network(toy.CONFIG)
    rows, columns = len(network.state_dict()[weight]) // 3, network.state_dict()[weight].shape[1]
    up, down = torch.rand(rows, RANK), torch.rand(RANK, columns)
    said = json.dumps({f"unet.{key}": value for key, value in settings.items()} | {"text_encoder.lora_alpha": 99})
    file = {f"{theirs}.lora_B.weight": up, f"{theirs}.lora_A.weight": down}
    save_file(file, tmp_path / "a.safetensors", metadata={"format": "pt", "lora_adapter_metadata": said})
    before = merge_lora(network, tmp_path / "a.safetensors")[weight]
    changed = (network.state_dict()[weight] - before)[rows : 2 * rows]
    assert toy.error(changed, scale * up @ down) < 1e-5

    save_file(
        file | {f"{theirs}.alpha": torch.tensor(7.0)},
        tmp_path / "b.safetensors",
        metadata={"lora_adapter_metadata": said},
    )
    own = merge_lora(network, tmp_path / "b.safetensors")[weight]
    assert toy.error((network.state_dict()[weight] - own)[rows : 2 * rows], 7 / RANK * up @ down) < 1e-5


def test_settings_that_cannot_be_read_are_said(tmp_path, caplog):
    assert with_alphas({"unet.a.lora_A.weight": torch.ones(2, 3)}, {"lora_adapter_metadata": "[half"}).keys() == {
        "unet.a.lora_A.weight"
    }
    assert "its settings cannot be read" in caplog.text


# ---- gradient checkpointing


def gradients(network, lora):
    """Output, gradients by name, and bytes that are kept for them beside the weights."""
    if lora:
        torch.manual_seed(0)
        add_lora(network, RANK, ALPHA)
        for name, parameter in network.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.1)
    else:
        network.requires_grad_(True)
    weights = {parameter.untyped_storage().data_ptr() for parameter in network.parameters()}
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        output = network(**toy.inputs(network.config, batch=2))
    output.square().mean().backward()
    found = {name: p.grad for name, p in network.named_parameters() if p.grad is not None}
    return output.detach(), found, sum(kept.values())


@pytest.mark.parametrize("lora", [False, True], ids=["all", "lora"])
@pytest.mark.parametrize("kind", ["i2vgen_xl", "sr600"])
@pytest.mark.slow
def test_checkpointing_gives_the_same_gradients_from_less(kind, lora):
    plain, checkpointing = toy.network(of_kind(kind)), toy.network(of_kind(kind))
    checkpointing.checkpointing = True
    output, expected, kept = gradients(plain, lora)
    same, found, less = gradients(checkpointing, lora)
    assert torch.equal(same, output)
    assert found.keys() == expected.keys() and len(found) > 50
    assert all(toy.error(found[name], expected[name]) < 1e-5 for name in expected if expected[name].any())
    assert less < kept / 4


def test_checkpointing_is_off_unless_asked_for():
    assert UNet(toy.CONFIG, device="meta").checkpointing is False
