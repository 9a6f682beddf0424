"""A base that a ControlNet steers, without a host: its files in both layouts, and the library's and the command's way to it."""

import adapters
import pytest
import torch
import toy
from diffusers.models.controlnets.controlnet import ControlNetModel
from safetensors.torch import save_file

from i2vgen_core import BaseOptions, Cascade, assets, read_video, write_image
from i2vgen_core.__main__ import main
from i2vgen_core.checkpoints.controlnet import load_control_net
from i2vgen_core.encoders.controlnet import FrameControl
from i2vgen_core.encoders.tokenizer import END
from i2vgen_core.errors import CheckpointError, InputError
from i2vgen_core.network.acceleration import Acceleration
from i2vgen_core.sampling.control import ControlOptions
from i2vgen_core.steering import load_control, steer

OPTIONS = BaseOptions(frames=2, steps=2, seed=1)
TEXT = 64
"""Width of the built-in text encoder, which stands in for Stable Diffusion 1.5's."""


def control_net(channels=(64, 64, 64), text=TEXT, heads=8):
    """A ControlNet for the built-in base."""
    network = ControlNetModel(
        block_out_channels=channels,
        layers_per_block=1,
        attention_head_dim=heads,
        down_block_types=("CrossAttnDownBlock2D",) * (len(channels) - 1) + ("DownBlock2D",),
        cross_attention_dim=text,
        conditioning_embedding_out_channels=(8, 16, 24, 32),
    )
    network.load_state_dict(toy.fill(network.state_dict(), 5))
    return network.eval()


def as_released(state):
    """Tensors by the names of the releases' own files, for one residual block a level."""
    renames = [
        ("time_embedding.linear_1", "time_embed.0"),
        ("time_embedding.linear_2", "time_embed.2"),
        ("conv_in", "input_blocks.0.0"),
        ("controlnet_mid_block", "middle_block_out.0"),
        ("controlnet_cond_embedding.conv_in", "input_hint_block.0"),
        ("controlnet_cond_embedding.conv_out", "input_hint_block.14"),
        ("mid_block.resnets.0", "middle_block.0"),
        ("mid_block.attentions.0", "middle_block.1"),
        ("mid_block.resnets.1", "middle_block.2"),
    ]
    renames += [(f"controlnet_cond_embedding.blocks.{n}", f"input_hint_block.{2 * n + 2}") for n in range(6)]
    renames += [(f"controlnet_down_blocks.{n}", f"zero_convs.{n}.0") for n in range(6)]
    for level in range(3):
        renames += [
            (f"down_blocks.{level}.resnets.0", f"input_blocks.{2 * level + 1}.0"),
            (f"down_blocks.{level}.attentions.0", f"input_blocks.{2 * level + 1}.1"),
            (f"down_blocks.{level}.downsamplers.0.conv", f"input_blocks.{2 * level + 2}.0.op"),
        ]
    inside = {
        "norm1": "in_layers.0",
        "conv1": "in_layers.2",
        "time_emb_proj": "emb_layers.1",
        "norm2": "out_layers.0",
        "conv2": "out_layers.3",
        "conv_shortcut": "skip_connection",
    }
    found = {}
    for key, value in state.items():
        old, new = next((old, new) for old, new in renames if key.startswith(f"{old}."))
        rest = key.removeprefix(f"{old}.")
        if ".resnets." in key:
            part, end = rest.rsplit(".", 1)
            rest = f"{inside[part]}.{end}"
        found[f"{new}.{rest}"] = value
    return found


@pytest.fixture(scope="module")
def cascade():
    return Cascade(detail_gain="once")


@pytest.fixture(scope="module")
def files(cascade, tmp_path_factory):
    """--ctrl-adapter, --control-net and --control-text for the built-in base."""
    folder = tmp_path_factory.mktemp("control")
    token = cascade.image_encoder.config.projection
    save_file(adapters.state(cascade.base.unet.config, token_dim=token), folder / "adapter.safetensors")
    save_file(as_released(control_net().state_dict()), folder / "control.safetensors")
    return folder / "adapter.safetensors", folder / "control.safetensors", assets.FOLDER / "text_encoder"


@pytest.fixture(scope="module")
def pictures():
    return torch.rand(3, 64, 128, 3, generator=torch.Generator().manual_seed(2))


def steered(cascade, files, pictures, options=OPTIONS, **settings):
    image = pictures[:1]
    networks = load_control(cascade, *files)
    control = steer(cascade, networks, image, pictures, "A circle", options, ControlOptions(**settings))
    return cascade.sample_base(cascade.condition(image, "A circle", options), options, control=control)


@pytest.mark.parametrize("prefix", ["", "control_model."])
def test_the_releases_own_layout_is_read_beside_what_else_is_in_the_file(prefix):
    network = control_net()
    file = {prefix + key: value for key, value in as_released(network.state_dict()).items()}
    made = load_control_net(file | {"model.diffusion_model.out.0.weight": torch.ones(1)})
    assert toy.same(dict(made.state_dict()), dict(network.state_dict()))
    x, text, hint = torch.rand(2, 4, 8, 8), torch.rand(2, 7, TEXT), torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        (down, middle), (expected, _) = (each(x, 5, text, hint, return_dict=False) for each in (made, network))
    assert len(down) == 6 and torch.equal(down[-1], expected[-1]) and middle.shape == (2, 64, 2, 2)


def test_stable_diffusion_15s_sizes():
    with torch.device("meta"):
        full = ControlNetModel(cross_attention_dim=768)
    made = load_control_net(full.state_dict(), device="meta")
    assert sum(each.numel() for each in made.parameters()) == 361_279_120
    assert made.config.conditioning_embedding_out_channels == (16, 32, 96, 256)


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda state: state.pop("conv_in.bias"), "missing.*conv_in.bias"),
        (lambda state: state.pop("down_blocks.1.resnets.0.conv1.weight"), "down_blocks.1.resnets.0.conv1.weight"),
        (lambda state: state.pop("time_embedding.linear_1.weight"), "zero_convs.0.0.weight, found"),
        (lambda state: state["conv_in.bias"].fill_(float("inf")), "not finite"),
        (lambda state: state.clear(), "found 0 others"),
    ],
)
def test_a_file_that_is_not_whole_is_refused(change, words):
    state = {key: value.clone() for key, value in control_net().state_dict().items()}
    change(state)
    with pytest.raises(CheckpointError, match=words):
        load_control_net(state)


def test_what_steers_changes_the_video(cascade, files, pictures):
    plain = cascade.sample_base(cascade.condition(pictures[:1], "A circle", OPTIONS), OPTIONS)
    made = steered(cascade, files, pictures, end=1.0)
    assert toy.error(made, plain) > 1e-2
    assert toy.error(made, steered(cascade, files, 1 - pictures, end=1.0)) > 1e-4
    assert torch.equal(made, steered(cascade, files, pictures, end=1.0))
    assert toy.error(made, steered(cascade, files, pictures, end=1.0, key_frames=(0,))) > 1e-4


def test_key_frames_do_not_read_the_latent(pictures):
    """Nor is the network changed by them."""
    network, texts = control_net(), [torch.rand(1, 77, TEXT)]
    hints, x = torch.rand(2, 3, 64, 64), torch.rand(2, 4, 8, 8)
    sparse = FrameControl(network, hints, texts, skip_latent=True)
    assert torch.equal(sparse(x, 5, 1)[-1], sparse(-x, 5, 1)[-1])
    usual = FrameControl(network, hints, texts)
    assert not torch.equal(usual(x, 5, 1)[-1], usual(-x, 5, 1)[-1])


def test_texts_are_padded_with_the_end_token(cascade, files, pictures):
    networks, asked = load_control(cascade, *files), []
    encoder = networks.text_encoder
    encoder.model.register_forward_pre_hook(lambda _, __, given: asked.append(given["input_ids"]), with_kwargs=True)
    steer(cascade, networks, pictures[:1], pictures, "A fox!", OPTIONS)
    first = asked[0][0].tolist()
    assert first[:2] != first[2:4] and set(first[first.index(END) :]) == {END}


@pytest.mark.parametrize(
    "options, settings, words",
    [
        (BaseOptions(frames=8, steps=2), {}, "pictures of the control: expected 8 or more, found 3"),
        (OPTIONS, {"key_frames": (2,)}, "key frame"),
        (BaseOptions(frames=2, steps=2, acceleration=Acceleration(reuse_interval=2)), {}, "acceleration"),
    ],
)
def test_what_cannot_be_is_said(cascade, files, pictures, options, settings, words):
    with pytest.raises(InputError, match=words):
        steered(cascade, files, pictures, options, **settings)


def test_networks_that_do_not_fit_are_said(cascade, files, tmp_path):
    save_file(control_net(text=32).state_dict(), tmp_path / "other.safetensors")
    with pytest.raises(InputError, match="text encoder of the control: expected width 32"):
        load_control(cascade, files[0], tmp_path / "other.safetensors", files[2])
    narrow = adapters.state(toy.CONFIG)
    save_file(narrow, tmp_path / "adapter.safetensors")
    with pytest.raises((InputError, CheckpointError), match="Ctrl-Adapter"):
        load_control(cascade, tmp_path / "adapter.safetensors", *files[1:])


def test_the_command(cascade, files, pictures, tmp_path, caplog):
    photo, control, out = tmp_path / "photo.png", tmp_path / "control", tmp_path / "out.mp4"
    control.mkdir()
    write_image(photo, pictures[0])
    for number, picture in enumerate(pictures):
        write_image(control / f"{number}.png", picture)
    usual = ["generate", "--stage", "base", "--image", str(photo), "--prompt", "A circle", "--steps", "1"]
    usual += ["--frames", "2", "--device", "cpu", "--detail-gain", "once", "--out", str(out)]
    adapter, network, text = map(str, files)
    assert main([*usual, "--control", str(control), "--ctrl-adapter", adapter]) == 2
    assert "no --control-net and --control-text" in caplog.text
    assert main([*usual, "--ctrl-adapter", adapter]) == 2
    assert "--ctrl-adapter: expected --control beside it" in caplog.text
    both = ["--ctrl-adapter", adapter, "--control-net", network, "--control-text", text, "--control-end", "1"]
    assert main([*usual, "--control", str(control), *both]) == 0
    frames, _ = read_video(out)
    assert main(usual) == 0
    assert frames.shape == (2, 64, 128, 3) and not torch.equal(frames, read_video(out)[0])
