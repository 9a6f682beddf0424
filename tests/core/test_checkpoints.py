"""Files and state dicts: what a network is read from its shapes, every layout, and what is refused and how."""

import json
import pickle
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import toy
from diffusers import I2VGenXLUNet
from safetensors.torch import load_file, save_file

from i2vgen_core.checkpoints.check import check_tensors
from i2vgen_core.checkpoints.detect import split_global_encoder, unet_config
from i2vgen_core.checkpoints.load import open_unet, parse_unet
from i2vgen_core.checkpoints.read import read_state_dict
from i2vgen_core.checkpoints.unet_keys import (
    GLOBAL_ENCODER,
    from_diffusers,
    from_official,
    is_diffusers_layout,
    to_diffusers,
    to_official,
)
from i2vgen_core.config import RELEASES, UNetConfig
from i2vgen_core.errors import CheckpointError, InputError

RELEASED = json.loads((toy.GOLDEN / "state_dict_keys.json").read_text(encoding="utf-8"))
SETTINGS = {"head_dim": toy.CONFIG.head_dim}

TOYS = [
    toy.CONFIG,
    replace(toy.CONFIG, channel_mult=(1, 2, 4), attention_levels=(True, False, True)),
    replace(toy.CONFIG, channel_mult=(2, 4, 2, 8), attention_levels=(False, True, True, False)),
    replace(toy.CONFIG, attention_levels=(False, False), num_res_blocks=3),
    replace(toy.CONFIG, attention_levels=(True, True), model_channels=64, head_dim=16, first_temporal_heads=5),
    replace(toy.CONFIG, channel_mult=(1, 1, 3), attention_levels=(True, True, False), num_res_blocks=3, head_dim=32),
    replace(toy.CONFIG, in_channels=8, out_channels=6, context_dim=40, image_dim=24, image_tokens=3),
]


MANY = [(config, "i2vgen_xl") for config in TOYS] + [(config, kind) for kind in toy.KINDS[1:] for config in TOYS[:2]]


def stored(config):
    """The tensors of a released file: the official layout."""
    return to_official(toy.whole_state(config))


def same(left, right):
    return left.keys() == right.keys() and all(torch.equal(value, right[key]) for key, value in left.items())


# ---------------------------------------------------------------- the releases' keys and shapes


@pytest.mark.parametrize("kind", toy.KINDS)
def test_full_size_has_the_releases_keys_and_shapes(kind):
    state = to_official(toy.meta_state(UNetConfig(kind=kind)))
    assert {key: list(value.shape) for key, value in state.items()} == RELEASED[kind]


@pytest.mark.parametrize("kind", toy.KINDS)
def test_full_size_is_read_from_the_releases_shapes(kind):
    state = {key: torch.empty(shape, device="meta") for key, shape in RELEASED[kind].items()}
    assert unet_config(from_official(state), kind=kind) == UNetConfig(kind=kind)
    known = None if kind == "sr600" else kind
    assert parse_unet(state).config.kind == (known or "vid2vid_xl")


@pytest.mark.parametrize("config, kind", MANY, ids=[f"{kind}-{TOYS.index(config)}" for config, kind in MANY])
def test_a_config_round_trips_through_its_state_dict(config, kind):
    config = replace(config, kind=kind)
    if not config.reads_image:  # a refiner has no image sizes to read
        config = replace(config, image_dim=UNetConfig.image_dim, image_tokens=UNetConfig.image_tokens)
    ours = toy.meta_state(config)
    for layout in (to_official, to_diffusers):
        assert parse_unet(layout(ours), {"head_dim": config.head_dim}, kind=kind).config == config


# ---------------------------------------------------------------- key tables


@pytest.mark.parametrize("config, kind", MANY, ids=[f"{kind}-{TOYS.index(config)}" for config, kind in MANY])
def test_key_tables_are_their_own_inverse(config, kind):
    shapes = toy.meta_state(replace(config, kind=kind))
    ours = {key: torch.rand(()).expand(value.shape) for key, value in shapes.items()}
    official, diffusers = to_official(ours), to_diffusers(ours)
    assert not is_diffusers_layout(official) and is_diffusers_layout(diffusers)
    assert same(from_official(official), ours)
    assert same(from_diffusers(diffusers), ours)
    assert same(to_official(from_official(official)), official)
    assert same(to_diffusers(from_diffusers(diffusers)), diffusers)


def test_key_tables_leave_their_argument_alone():
    for state, translate in (
        (stored(toy.CONFIG), from_official),
        (to_diffusers(toy.whole_state(toy.CONFIG)), from_diffusers),
    ):
        before = dict(state)
        translate(state)
        assert list(state) == list(before)


PEERS = {
    "released": (UNetConfig(), {"cross_attention_dim": 1024}),
    "no attention between": (
        replace(
            toy.CONFIG,
            channel_mult=(1, 2, 4),
            attention_levels=(True, False, True),
            first_temporal_heads=8,
            image_dim=64,
        ),
        {
            "block_out_channels": (32, 64, 128),
            "attention_head_dim": 8,
            "cross_attention_dim": 64,
            "layers_per_block": 1,
            "down_block_types": ("CrossAttnDownBlock3D", "DownBlock3D", "CrossAttnDownBlock3D"),
            "up_block_types": ("CrossAttnUpBlock3D", "UpBlock3D", "CrossAttnUpBlock3D"),
        },
    ),
    "three blocks": (
        replace(toy.CONFIG, num_res_blocks=3, first_temporal_heads=8, image_dim=64),
        {
            "block_out_channels": (32, 64),
            "attention_head_dim": 8,
            "cross_attention_dim": 64,
            "layers_per_block": 3,
            "down_block_types": ("CrossAttnDownBlock3D", "DownBlock3D"),
            "up_block_types": ("UpBlock3D", "CrossAttnUpBlock3D"),
        },
    ),
}


@pytest.mark.parametrize("config, theirs", PEERS.values(), ids=PEERS)
def test_names_and_shapes_are_those_of_diffusers(config, theirs):
    with torch.device("meta"):
        peer = I2VGenXLUNet(**theirs)
    expected = {key: value.shape for key, value in peer.state_dict().items()}
    assert {key: value.shape for key, value in to_diffusers(toy.meta_state(config)).items()} == expected
    assert parse_unet(peer.state_dict(), peer.config).config == config


# ---------------------------------------------------------------- files


def open_and_compare(path, config=toy.CONFIG, state=None, **known):
    """Opens a file or folder and compares it with stored(config), or with the state given."""
    checkpoint = open_unet(path, **known)
    network, encoder = split_global_encoder(from_official(state or stored(config)))
    assert checkpoint.config == config
    assert same(checkpoint.network, network)
    assert same(checkpoint.global_encoder, encoder)
    return checkpoint


# a .pth file says nothing of heads, so its network has the releases' 64
WIDE = replace(toy.CONFIG, model_channels=64, head_dim=64)


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".bin", ".ckpt"])
def test_a_pickled_file_by_any_suffix(tmp_path, suffix):
    path, state = (
        tmp_path / f"any name{suffix}",
        {"weight": torch.randn(3, 4), "count": torch.ones((), dtype=torch.int64)},
    )
    torch.save(state, path)
    read, metadata = read_state_dict(path)
    assert same(read, state) and metadata == {}


@pytest.mark.parametrize(
    "wrap",
    [
        pytest.param(lambda state: state, id="nothing"),
        pytest.param(lambda state: {"state_dict": state, "step": 854500}, id="VGen"),
        pytest.param(lambda state: {"step": 1, "state_dict": {"state_dict": state}}, id="twice"),
        pytest.param(lambda state: {f"module.{key}": value for key, value in state.items()}, id="module."),
        pytest.param(
            lambda state: {"state_dict": {f"model.diffusion_model.{key}": value for key, value in state.items()}},
            id="model.diffusion_model.",
        ),
        pytest.param(
            lambda state: {f"module.model.diffusion_model.{key}": value for key, value in state.items()}, id="both"
        ),
        pytest.param(
            lambda state: (
                {f"model.diffusion_model.{key}": value for key, value in state.items()}
                | {"first_stage_model.encoder.conv_in.weight": torch.ones(2)}
            ),
            id="beside another model",
        ),
    ],
)
def test_what_is_around_the_tensors_of_a_pickled_file(tmp_path, wrap):
    torch.save(wrap(stored(WIDE)), tmp_path / "model.pth")
    open_and_compare(tmp_path / "model.pth", WIDE)


def test_a_pickled_file_of_before_torch_1_6(tmp_path):
    path = tmp_path / "old.ckpt"
    torch.save({"state_dict": stored(WIDE)}, path, _use_new_zipfile_serialization=False)
    open_and_compare(path, WIDE)


@pytest.mark.parametrize("layout", [to_official, to_diffusers])
@pytest.mark.parametrize("suffix", [".safetensors", ".sft"])
def test_a_safetensors_file(tmp_path, suffix, layout):
    path = tmp_path / f"any name{suffix}"
    save_file(
        {key: value.contiguous() for key, value in layout(toy.whole_state(toy.CONFIG)).items()}, path, {"head_dim": "8"}
    )
    open_and_compare(path)


def test_half_precision_is_kept_and_built_in_what_is_asked_for(tmp_path):
    path = tmp_path / "half.safetensors"
    state = {key: value.half() for key, value in stored(toy.CONFIG).items()}
    save_file(state, path, {"head_dim": "8"})
    checkpoint = open_and_compare(path, state=state)
    for dtype in (torch.float16, torch.float32, torch.bfloat16):
        for built in (checkpoint.build_network(dtype), checkpoint.build_global_encoder(dtype)):
            assert {value.dtype for value in built.state_dict().values()} == {dtype}
            assert not built.training
            assert not any(parameter.requires_grad for parameter in built.parameters())


@pytest.fixture(scope="module")
def peer():
    """A small I2VGenXLUNet of diffusers with made-up weights."""
    with torch.device("meta"):
        theirs = I2VGenXLUNet(**PEERS["three blocks"][1])
    theirs.load_state_dict(toy.fill(theirs.state_dict()), strict=True, assign=True)
    return theirs


@pytest.mark.parametrize(
    "options, files",
    [
        pytest.param({}, {"diffusion_pytorch_model.safetensors"}, id="one file"),
        pytest.param({"variant": "fp16"}, {"diffusion_pytorch_model.fp16.safetensors"}, id="variant"),
        pytest.param({"safe_serialization": False}, {"diffusion_pytorch_model.bin"}, id="pickled"),
        pytest.param({"max_shard_size": "4MB"}, {"diffusion_pytorch_model.safetensors.index.json"}, id="shards"),
        pytest.param(
            {"max_shard_size": "4MB", "variant": "fp16"},
            {"diffusion_pytorch_model.safetensors.index.fp16.json"},
            id="shards of a variant",
        ),
    ],
)
def test_a_folder_that_diffusers_saved(tmp_path, peer, options, files):
    peer.save_pretrained(tmp_path, **options)
    assert files <= {file.name for file in tmp_path.iterdir()}
    if "max_shard_size" in options:
        assert len(list(tmp_path.glob("*-of-*.safetensors"))) > 1
    open_and_compare(tmp_path, PEERS["three blocks"][0], to_official(from_diffusers(peer.state_dict())))


def test_diffusers_loads_the_scaffolds_folder(bundles):
    folder = bundles("i2vgen_xl") / "unet"
    theirs, info = I2VGenXLUNet.from_pretrained(folder, output_loading_info=True, low_cpu_mem_usage=False)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    assert same(dict(theirs.state_dict()), load_file(folder / "diffusion_pytorch_model.safetensors"))


# ---------------------------------------------------------------- what the shapes do not say


def test_head_dim_comes_from_config_json_or_metadata(tmp_path):
    config = replace(toy.CONFIG, head_dim=16, first_temporal_heads=1)
    for name, settings in (("a", {"head_dim": 16}), ("b", {"attention_head_dim": 16})):
        folder = tmp_path / name
        folder.mkdir()
        save_file(stored(config), folder / "model.safetensors")
        (folder / "config.json").write_text(json.dumps(settings), encoding="utf-8")
        open_and_compare(folder, config)
    narrow = open_and_compare(tmp_path / "a", config).build_network()
    wide = replace(config, head_dim=8, first_temporal_heads=2)
    made = toy.inputs(config)
    other = parse_unet(stored(config), {"head_dim": 8})
    assert other.config == wide
    with torch.no_grad():
        assert toy.error(other.build_network()(**made), narrow(**made)) > 1e-3


def test_without_a_word_heads_are_the_releases():
    assert parse_unet(stored(WIDE)).config.head_dim == 64


def test_heads_wider_than_the_network_are_refused():
    with pytest.raises(
        CheckpointError, match="expected channels that are multiples of the head dimension 64, found 16, 3"
    ):
        parse_unet(stored(toy.CONFIG))


@pytest.mark.parametrize("said_by", ["nobody", "argument", "config.json", "metadata", "argument over config.json"])
def test_which_refiner_it_is(tmp_path, said_by):
    config = replace(toy.CONFIG, kind="sr600", image_dim=1024)
    metadata = {"head_dim": "8"} | ({"kind": "sr600"} if said_by == "metadata" else {})
    save_file(stored(config), tmp_path / "model.safetensors", metadata)
    said = {"config.json": "sr600", "argument over config.json": "vid2vid_xl"}.get(said_by)
    if said:
        (tmp_path / "config.json").write_text(json.dumps({"kind": said}), encoding="utf-8")
    known = {"kind": "sr600"} if said_by.startswith("argument") else {}
    expected = "vid2vid_xl" if said_by == "nobody" else "sr600"
    open_and_compare(tmp_path, replace(config, kind=expected), **known)


@pytest.mark.parametrize("kind", toy.KINDS)
@pytest.mark.parametrize("other", toy.KINDS)
def test_another_kind_than_asked_for_is_refused(kind, other):
    state = to_official(toy.meta_state(replace(toy.CONFIG, kind=kind)))
    if kind == other or {kind, other} == {"vid2vid_xl", "sr600"}:
        assert parse_unet(state, SETTINGS, kind=other).config.kind == other
        return
    with pytest.raises(CheckpointError, match=f"expected a network of kind {other}, found one of kind "):
        parse_unet(state, SETTINGS, kind=other)


def test_detail_gain_is_the_callers(tmp_path):
    save_file(stored(toy.CONFIG), tmp_path / "model.safetensors", {"head_dim": "8"})
    assert open_unet(tmp_path).config.detail_gain == "official"
    assert open_unet(tmp_path, detail_gain="once").config.detail_gain == "once"


# ---------------------------------------------------------------- settings of a network's own


def settings_of(own, kind="i2vgen_xl"):
    config = replace(toy.CONFIG, kind=kind)
    return parse_unet(to_official(toy.meta_state(config)), SETTINGS | {"release": own}, kind=kind).release


@pytest.mark.parametrize("kind", toy.KINDS)
def test_without_a_word_the_settings_are_the_releases(kind):
    assert settings_of({}, kind) == RELEASES[kind]
    state = to_official(toy.meta_state(replace(toy.CONFIG, kind=kind)))
    assert parse_unet(state, SETTINGS, kind=kind).release == RELEASES[kind]


def test_a_networks_own_settings_go_before_the_releases():
    base = {"title": "tiny", "width": 128, "height": 64, "frames": 8, "fps": 8, "steps": 30, "guidance": 3}
    assert settings_of(base) == replace(RELEASES["i2vgen_xl"], **base)
    refiner = {"width": 288, "height": 144, "guidance": 2.5, "rescale": 0, "noise_level": 500, "entry": "inversion"}
    refiner |= {"prompt_suffix": "", "negative_prompt": "blurry"}
    assert settings_of(refiner, "vid2vid_xl") == replace(RELEASES["vid2vid_xl"], **refiner)


def test_own_settings_come_from_config_json_or_metadata(tmp_path):
    own = {"steps": 30, "guidance": 3.0}
    expected = replace(RELEASES["i2vgen_xl"], **own)
    file = tmp_path / "unet" / "model.safetensors"
    file.parent.mkdir()
    save_file(stored(toy.CONFIG), file)
    (file.parent / "config.json").write_text(json.dumps(SETTINGS | {"release": own}), encoding="utf-8")
    assert open_unet(file.parent).release == expected
    save_file(stored(toy.CONFIG), file, {"head_dim": "8", "release": json.dumps(own)})
    assert open_unet(file).release == expected


@pytest.mark.parametrize(
    "own, message",
    [
        ({"step": 30}, r"release setting step: expected one of title, .*steps.*, found an unknown name"),
        ({"steps": "30"}, r"release setting steps: expected a whole number from 1 to 999, found '30'"),
        ({"steps": 30.5}, "steps: expected a whole number"),
        ({"steps": True}, "steps: expected a whole number .*, found True"),
        ({"steps": 0}, "steps: expected .* from 1 to 999, found 0"),
        ({"guidance": float("nan")}, "guidance: expected a number .*, found nan"),
        ({"guidance": None}, "guidance: expected a number .*, found None"),
        ({"rescale": 2}, "rescale: expected a number from 0 to 1, found 2"),
        ({"entry": "photo"}, "entry: expected noise or inversion, found 'photo'"),
        ({"negative_prompt": 3}, "negative_prompt: expected text, found 3"),
        ([], r"release: expected an object of settings by name, found \[\]"),
        ("steps", "release: expected an object of settings by name, found 'steps'"),
        ("[" * 100_000, "release: expected an object of settings by name"),
        ("3", "release: expected an object of settings by name, found 3"),
    ],
)
def test_own_settings_that_cannot_be_are_refused(own, message):
    with pytest.raises(CheckpointError, match=message):
        settings_of(own)


# ---------------------------------------------------------------- what is refused


class Payload:
    """Unpickled freely, it writes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.write_text, (Path(self.path), "ran")


@pytest.mark.filterwarnings("ignore:Detected pickle protocol 4")  # torch's, of the bare pickle
@pytest.mark.parametrize("suffix", [".pth", ".pt", ".bin", ".ckpt"])
@pytest.mark.parametrize("form", ["zip", "legacy", "bare pickle"])
def test_a_pickle_with_code_is_refused_and_not_run(tmp_path, suffix, form):
    ran, path = tmp_path / "ran.txt", tmp_path / f"model{suffix}"
    content = {"state_dict": {"weight": torch.ones(3)}, "payload": Payload(str(ran))}
    if form == "bare pickle":
        path.write_bytes(pickle.dumps(content))
        pickle.loads(path.read_bytes())
    else:
        torch.save(content, path, _use_new_zipfile_serialization=form == "zip")
        torch.load(path, weights_only=False)
    assert ran.is_file(), "the payload does not work, so that this test would show nothing"
    ran.unlink()

    with pytest.raises(CheckpointError, match=f"file model{suffix}: expected a PyTorch file of tensors alone"):
        read_state_dict(path)
    assert not ran.exists()


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("share", [0, 0.001, 0.3, 0.9, 0.9999])
def test_a_file_cut_short_is_refused(tmp_path, suffix, share):
    path = tmp_path / f"model{suffix}"
    state = {"weight": torch.randn(100, 100)}
    if suffix == ".pth":
        torch.save(state, path)
    else:
        save_file(state, path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(CheckpointError, match=f"file model{suffix}: expected"):
        read_state_dict(path)


@pytest.mark.parametrize("content", [b"not a model", b"{}", b"\x00" * 64, b"<!DOCTYPE html>" * 20])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_file_of_something_else_is_refused(tmp_path, suffix, content):
    path = tmp_path / f"model{suffix}"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=f"file model{suffix}: expected"):
        read_state_dict(path)


@pytest.mark.parametrize("content", [{}, [], {"step": 1}, {"state_dict": {"a": 1}}, torch.ones(2)], ids=str)
def test_a_pickled_file_without_a_state_dict_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "model.pth")
    with pytest.raises(CheckpointError, match=r"file model.pth: expected a state dict"):
        read_state_dict(tmp_path / "model.pth")


@pytest.mark.parametrize("name", ["model.gguf", "model", "model.zip"])
def test_another_suffix_is_refused(tmp_path, name):
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(CheckpointError, match=f"file {name}: expected one of .safetensors"):
        read_state_dict(tmp_path / name)


def test_no_file_and_an_empty_folder_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r"file model.safetensors: expected an existing file"):
        read_state_dict(tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="found an empty folder"):
        read_state_dict(tmp_path)
    (tmp_path / "readme.md").write_text("x", encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"found readme.md"):
        read_state_dict(tmp_path)


OUTSIDE = [
    "../secret.safetensors",
    "../../secret.safetensors",
    "inner/../../secret.safetensors",
    "{folder}/../secret.safetensors",
    "..",
    ".",
    "",
]


@pytest.mark.parametrize("name", OUTSIDE)
def test_an_index_that_points_outside_its_folder_is_refused(tmp_path, name):
    folder = tmp_path / "unet"
    (folder / "inner").mkdir(parents=True)
    save_file({"time_embed.0.weight": torch.ones(3)}, tmp_path / "secret.safetensors")
    shutil.copy(tmp_path / "secret.safetensors", tmp_path / "model.safetensors")
    index = {"weight_map": {"time_embed.0.weight": name.format(folder=folder)}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    with pytest.raises(CheckpointError, match="expected file names of its own folder"):
        read_state_dict(folder)


def test_an_index_that_names_a_missing_shard_is_refused(tmp_path):
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"file model-00001-of-00002.safetensors: expected an existing file"):
        read_state_dict(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"weight_map": 1}', '{"weight_map": {"a": 1}}'])
def test_a_broken_index_is_refused(tmp_path, text):
    (tmp_path / "model.safetensors.index.json").write_text(text, encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"model.safetensors.index.json"):
        read_state_dict(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", '"sr600"'])
def test_a_broken_config_json_is_refused(tmp_path, text):
    save_file(stored(toy.CONFIG), tmp_path / "model.safetensors", {"head_dim": "8"})
    (tmp_path / "config.json").write_text(text, encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"config.json"):
        open_unet(tmp_path)


@pytest.mark.parametrize("settings", [{"head_dim": "wide"}, {"attention_head_dim": [8, 8]}, {"kind": "sdxl"}], ids=str)
def test_settings_of_another_sort_are_refused(settings):
    with pytest.raises(CheckpointError):
        parse_unet(stored(toy.CONFIG), SETTINGS | settings if "kind" in settings else settings)


# ---------------------------------------------------------------- wrong tensors


def refusal(state):
    with pytest.raises(CheckpointError) as caught:
        parse_unet(state, SETTINGS)
    return str(caught.value)


DAMAGES = {
    "missing": lambda whole, key: {other: value for other, value in whole.items() if other != key},
    "longer": lambda whole, key: (
        whole | {key: torch.empty(whole[key].shape[0] + 1, *whole[key].shape[1:], device="meta")}
    ),
    "a number": lambda whole, key: whole | {key: torch.empty((), device="meta")},
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_every_damaged_tensor_is_refused(damage):
    """Whichever it is, those included that the sizes are read from: every one missing, and every third misshapen."""
    whole = toy.meta_state(toy.CONFIG)
    parts = split_global_encoder(whole)
    for key in list(whole)[:: 1 if damage == "missing" else 3]:
        damaged = DAMAGES[damage](whole, key)
        try:
            config = unet_config(damaged, head_dim=toy.CONFIG.head_dim)
        except CheckpointError:
            continue  # an error of any other class fails
        if config != toy.CONFIG:
            refusal(to_official(damaged))
            continue
        part = key.startswith(GLOBAL_ENCODER)
        with pytest.raises(CheckpointError) as caught:
            check_tensors(split_global_encoder(damaged)[part], parts[part], "it")
        assert f"({key.removeprefix(GLOBAL_ENCODER)}" in str(caught.value)


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize(
    "key",
    [
        "conv_in.weight",
        "context_embedding.2.weight",
        "down_blocks.1.resnets.0.conv2.weight",
        "mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight",
        "up_blocks.0.temp_convs.0.conv1.2.weight",
        "image_latents_temporal_encoder.attn1.to_k.weight",
        "image_latents_context_embedding.0.weight",
    ],
)
def test_damage_in_diffusers_layout_is_refused(damage, key):
    whole = to_diffusers(toy.meta_state(toy.CONFIG))
    assert key in whole
    refusal(DAMAGES[damage](whole, key))


def test_a_convolution_over_time_that_is_wider_is_refused_in_both_layouts():
    for layout in (to_official, to_diffusers):
        whole = layout(toy.meta_state(toy.CONFIG))
        key = next(key for key, value in whole.items() if value.ndim == 5)
        wider = torch.empty(*whole[key].shape[:-1], 3, device="meta")
        assert "5 axes, the last of size 1" in refusal(whole | {key: wider})


@pytest.mark.parametrize(
    "key",
    ["middle_block.0.out_layers.3.weight", "out.0.bias", "fps_embedding.2.weight", GLOBAL_ENCODER + "3.weight"],
)
def test_a_wrong_tensor_names_itself(key):
    whole = stored(toy.CONFIG)
    missing = refusal({other: value for other, value in whole.items() if other != key})
    short = key.removeprefix(GLOBAL_ENCODER)
    assert f"1 missing ({short})" in missing
    wrong = refusal(whole | {key: whole[key][1:]})
    shapes = f"{short} {list(whole[key][1:].shape)} instead of {list(whole[key].shape)}"
    assert f"1 of a wrong shape ({shapes})" in wrong
    extra = refusal(whole | {f"{key}.more": whole[key]})
    assert f"1 unknown ({short}.more)" in extra


def test_a_base_without_its_global_encoder_is_refused():
    network, _ = split_global_encoder(stored(toy.CONFIG))
    assert "the global encoder: expected 6 tensors, found 6 missing" in refusal(network)


def test_a_refiner_with_a_global_encoder_is_refused():
    state = stored(replace(toy.CONFIG, kind="vid2vid_xl")) | {GLOBAL_ENCODER + "0.weight": torch.ones(1)}
    assert "expected no global encoder, found 0.weight" in refusal(state)


def stable_diffusion(layout):
    """A few tensors of Stable Diffusion 1.5, in ldm's layout or in diffusers'."""
    ldm = {
        "time_embed.0.weight": (1280, 320),
        "input_blocks.0.0.weight": (320, 4, 3, 3),
        "input_blocks.1.0.in_layers.2.weight": (320, 320, 3, 3),
        "input_blocks.1.1.proj_in.weight": (320, 320, 1, 1),
        "input_blocks.3.0.op.weight": (320, 320, 3, 3),
        "middle_block.1.transformer_blocks.0.attn2.to_k.weight": (1280, 768),
        "out.2.weight": (4, 320, 3, 3),
    }
    diffusers = {
        "conv_in.weight": (320, 4, 3, 3),
        "time_embedding.linear_1.weight": (1280, 320),
        "down_blocks.0.resnets.0.conv1.weight": (320, 320, 3, 3),
        "conv_out.weight": (4, 320, 3, 3),
    }
    if layout == "ldm":
        return {f"model.diffusion_model.{key}": torch.empty(shape, device="meta") for key, shape in ldm.items()}
    return {key: torch.empty(shape, device="meta") for key, shape in diffusers.items()}


@pytest.mark.parametrize("layout", ["ldm", "diffusers"])
def test_stable_diffusion_is_refused(layout):
    message = refusal(stable_diffusion(layout))
    assert "the model file: expected a network of the I2VGen-XL family, found no" in message
    assert "Choose an I2VGen-XL, MS-Image2Video, MS-Vid2Vid-XL or SR600 checkpoint." in message


def test_nothing_at_all_is_refused():
    assert "found no time_embed.0.weight among 0 tensors" in refusal({})


def test_errors_are_value_errors_that_say_what_to_do():
    error = CheckpointError("the file", "a model", "a photo", "Choose a model.")
    assert isinstance(error, InputError) and isinstance(error, ValueError)
    assert str(error) == "the file: expected a model, found a photo. Choose a model."
    assert (error.what, error.expected, error.found, error.remedy) == (
        "the file",
        "a model",
        "a photo",
        "Choose a model.",
    )
