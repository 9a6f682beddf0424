"""Ctrl-Adapter: what its file has to be, which steps and frames it steers, and where its features go."""

from dataclasses import replace

import adapters
import pytest
import torch
import toy
from safetensors.torch import save_file

from i2vgen_core.checkpoints.adapter import load_adapter
from i2vgen_core.checkpoints.inspect import inspect_file
from i2vgen_core.config import UNetConfig
from i2vgen_core.errors import CheckpointError, InputError
from i2vgen_core.network.adapter import Steered, steered_channels
from i2vgen_core.network.hooks import BlockName, Hooks
from i2vgen_core.sampling.control import Control, ControlledPredictor, ControlOptions

CONFIG = replace(toy.CONFIG, model_channels=32, image_dim=48)
HEAD = 16


@pytest.fixture(scope="module")
def adapter():
    return load_adapter(adapters.state(CONFIG), HEAD)


def test_the_released_file_has_1092_tensors():
    file = adapters.released()
    assert len(file) == 1092 and sum(value.numel() for value in file.values()) == 587_346_458
    made = load_adapter(file, device="meta")
    assert [size.channels for size in made.sizes] == steered_channels(UNetConfig())
    assert {size.heads for size in made.sizes} == {5, 10, 20} and {size.width for size in made.sizes} == {512}
    unread = sum(value.numel() for value in file.values()) - sum(each.numel() for each in made.parameters())
    assert unread == 33_449_984


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda state: state.pop("mid_block_adapter.norm.bias"), "missing.*mid_block_adapter.norm.bias"),
        (lambda state: state.update(more=torch.ones(1)), "unknown.*more"),
        (lambda state: state.pop("down_blocks_adapter.1.spatial_attentions.0.attn2.to_q.weight"), "missing"),
        (lambda state: state.update({"mid_block_adapter.norm.bias": torch.ones(3)}), "of a wrong shape"),
        (lambda state: state["mid_block_adapter.norm.bias"].fill_(float("nan")), "not finite"),
        (lambda state: state.pop("mid_block_adapter.proj_in.weight"), "proj_in.weight: expected a matrix"),
        (
            lambda state: [state.pop(key) for key in list(state) if key.startswith("down_blocks_adapter.0.")],
            "none left out",
        ),
        (lambda state: state.clear(), "one mid_block_adapter, found 0 others"),
    ],
)
def test_a_file_that_is_not_whole_is_refused_by_name(change, words):
    state = adapters.state(CONFIG)
    change(state)
    with pytest.raises(CheckpointError, match=words):
        load_adapter(state, HEAD)


def test_inspect_knows_a_file(tmp_path):
    config = replace(CONFIG, model_channels=64, channel_mult=(1,), attention_levels=(True,))
    state, path = adapters.state(config), tmp_path / "adapter.safetensors"
    save_file(state, path)
    (finding,) = inspect_file(path).findings
    assert finding.whole and "3 adapters" in finding.title and "models/controlnet" in finding.loader
    state.pop("mid_block_adapter.norm.bias")
    save_file(state, path)
    (finding,) = inspect_file(path).findings
    assert not finding.whole and "mid_block_adapter.norm.bias" in finding.sure


def test_steps_that_are_steered():
    """The official loop's, of its defaults and of a later start."""
    usual, later = ControlOptions(end=0.5), ControlOptions(0.6, 0.25, 1.0)
    assert [usual.strength_at(i, 4) for i in range(4)] == [1, 1, 0, 0]
    assert [later.strength_at(i, 4) for i in range(4)] == [0, 0.6, 0.6, 0.6]
    with pytest.raises(InputError, match="key frame: expected 0 to 2"):
        ControlOptions(key_frames=(3,)).check(3)
    with pytest.raises(InputError, match="key frames: expected different ones"):
        ControlOptions(key_frames=(1, 1)).check(3)


def test_what_is_added_goes_to_the_way_up_alone():
    """Once to each feature that is handed up; the way down and the middle do not see it."""
    unet, made = toy.network(CONFIG), toy.inputs(CONFIG, frames=2)
    seen, plain = {}, {}

    class Watched(Steered):
        def __init__(self, added, into):
            super().__init__(added)
            self._into = into

        def leave(self, block, x):
            self._into[block] = x.clone()
            return x

    number = len(unet.input_blocks) - 1
    unet(**made, hooks=Hooks(blocks=Watched({}, plain)))
    steered = unet(**made, hooks=Hooks(blocks=Watched({BlockName("input", 0): torch.rand(2, 32, 8, 8)}, seen)))
    assert torch.equal(seen[BlockName("middle", 0)], plain[BlockName("middle", 0)])
    assert torch.equal(seen[BlockName("input", number)], plain[BlockName("input", number)])
    assert toy.error(steered, unet(**made)) > 1e-4


def test_the_middle_runs_on_zeros_where_nothing_steers(adapter):
    """Odd sizes round up; other frames than the key frames get nothing."""
    unet, frames = toy.network(CONFIG), 3
    conditions = [unet.prepare(toy.inputs(CONFIG, seed=seed)["context"], torch.tensor([8])) for seed in (0, 1)]
    x = torch.randn(frames, 4, 9, 7, generator=torch.Generator().manual_seed(3))
    details, token = torch.zeros_like(x), torch.ones(1, 1, CONFIG.image_dim)
    added = []

    class Recorded(torch.nn.Module):
        sizes = adapter.sizes

        def forward(self, *given, **more):
            added.append(adapter(*given, **more))
            return added[-1]

    asked = []

    def features(x, t, count):
        asked.append(t)
        sides = [(9, 7), (9, 7), (5, 4), (5, 4), (5, 4)]
        return [torch.ones(count * frames, c, *side) for c, side in zip(steered_channels(CONFIG), sides, strict=True)]

    options = ControlOptions(end=0.5, key_frames=(1,))
    predict = ControlledPredictor(unet, Control(Recorded(), features, token, options), details, [501, 1])
    assert [each.shape for each in predict(x, 501, conditions)] == [x.shape] * 2
    predict(x, 1, conditions)
    assert asked == [501] and list(added[1]) == [BlockName("middle", 0)]
    middle = added[1][BlockName("middle", 0)].unflatten(0, (2, frames))
    assert middle.shape[-2:] == (5, 4)
    assert middle[:, 1].abs().max() > 0 and middle[:, [0, 2]].abs().max() == 0
