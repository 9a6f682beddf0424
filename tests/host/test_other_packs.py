"""Our network as other packs meet it: called, and writing into `transformer_options`, as the host's own networks do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from . import graphs
from .in_process import Host

Options = dict[str, Any]

FRAMES, HEIGHT, WIDTH = 2, 8, 12


@pytest.fixture(scope="module")
def ours(host: Host) -> nn.Module:
    return host.run(graphs.conditions("short"), {"model": ("loader", 0)}).kept["model"].model.diffusion_model


@pytest.fixture(scope="module", params=["picture", "video"])
def theirs(host: Host, request: pytest.FixtureRequest) -> nn.Module:
    """The host's networks of Stable Diffusion and of Stable Video Diffusion, of the same kind in small, and of zeros."""
    import comfy.ops
    from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel

    video = {
        "use_temporal_resblock": True,
        "use_temporal_attention": True,
        "extra_ff_mix_layer": True,
        "merge_strategy": "learned_with_images",
        "merge_factor": 0.5,
        "video_kernel_size": [3, 1, 1],
    }
    network = UNetModel(
        **(video if request.param == "video" else {}),
        image_size=8,
        in_channels=4,
        out_channels=4,
        model_channels=32,
        num_res_blocks=[1, 1],
        channel_mult=(1, 2),
        num_heads=2,
        use_spatial_transformer=True,
        transformer_depth=[1, 0],
        transformer_depth_middle=1,
        transformer_depth_output=[1, 1, 0, 0],
        context_dim=16,
        legacy=False,
        operations=comfy.ops.disable_weight_init,
    )
    for parameter in network.parameters():
        nn.init.zeros_(parameter)
    return network


class Seen:
    """What a wrapper and patches of every kind are given in one evaluation."""

    def __init__(self, network: nn.Module, context: Tensor, **conditions: Tensor):
        self.arguments: tuple[Any, ...] = ()
        self.options: dict[str, list[Options]] = {}
        self.middle: dict[str, int] = {}
        given: Options = {
            "cond_or_uncond": [0],
            "uuids": ["a"],
            "sigmas": torch.ones(1),
            "patches": {
                **{name: [self._patch(name)] for name in ("input_block_patch", "input_block_patch_after_skip")},
                **{name: [self._patch(name)] for name in ("attn1_output_patch", "attn2_output_patch")},
                **{name: [self._patch(name, 2)] for name in ("output_block_patch",)},
                **{name: [self._patch(name, 3)] for name in ("attn1_patch", "attn2_patch")},
                "middle_patch": [self._patch("middle_patch")],
                "emb_patch": [self._embedding_patch],
                "middle_block_after_patch": [self._middle_patch],
            },
            "wrappers": {"diffusion_model": {"a key": [self._wrapper]}},
        }
        self.given = dict(given)
        x = torch.zeros(FRAMES, 4, HEIGHT, WIDTH)
        with torch.inference_mode():
            network(x, torch.ones(FRAMES), context=context, control=None, transformer_options=given, **conditions)

    def _patch(self, name: str, tensors: int = 1) -> Callable[..., Any]:
        def patch(*arguments: Any) -> Any:
            *values, options = arguments
            assert len(values) == tensors
            self.options.setdefault(name, []).append(dict(options))
            return values[0] if tensors == 1 else tuple(values)

        return patch

    def _embedding_patch(self, embedding: Tensor, channels: int, options: Options) -> Tensor:
        self.options.setdefault("emb_patch", []).append(dict(options))
        self.channels, self.rows = channels, len(embedding)
        return embedding

    def _middle_patch(self, given: dict[str, Any]) -> dict[str, Any]:
        self.options.setdefault("middle_block_after_patch", []).append(dict(given["transformer_options"]))
        self.middle = {name: len(value) for name, value in given.items() if isinstance(value, Tensor)}
        return given

    def _wrapper(self, executor: Any, *arguments: Any, **conditions: Any) -> Tensor:
        self.arguments = arguments
        return executor(*arguments, **conditions)

    def written(self, name: str) -> set[str]:
        """Keys that a patch of this name reads, and that the caller has not given."""
        return {key for options in self.options[name] for key in options if key not in self.given}


@pytest.fixture(scope="module")
def seen(ours: Any, theirs: nn.Module) -> tuple[Seen, Seen]:
    config = ours.config
    conditions = {"fps": torch.tensor([8.0]), "details": torch.zeros(FRAMES, 4, HEIGHT, WIDTH)}
    mine = Seen(ours, torch.zeros(1, 77, config.context_dim), **conditions)
    picture = {"num_video_frames": FRAMES, "image_only_indicator": torch.zeros(1, FRAMES)}
    return mine, Seen(theirs, torch.zeros(FRAMES, 77, 16), **picture)


def test_wrappers_are_called_with_the_hosts_arguments(seen):
    mine, host = (each.arguments for each in seen)
    assert len(mine) == len(host) == 6
    assert [type(each) for each in mine] == [type(each) for each in host]  # x, timesteps, context, y, control, options


def test_patches_read_what_the_hosts_network_writes(seen):
    mine, host = seen
    assert mine.options.keys() >= host.options.keys()  # the middle block has a patch from 0.33 on
    for name in host.options:
        missing = host.written(name) - mine.written(name)
        assert not missing, f"{name}: {missing}"
    assert {"activations_shape", "original_shape", "block", "block_index", "transformer_index"} <= host.written(
        "attn1_patch"
    )


def test_patches_are_given_rows_of_frames(seen, ours):
    mine, host = seen
    assert set(mine.middle) == {"h", "x", "emb", "context", "timesteps"} and set(mine.middle.values()) == {FRAMES}
    assert not host.middle or mine.middle == host.middle
    assert (mine.rows, mine.channels) == (host.rows, ours.config.model_channels)


def test_what_is_written_has_the_hosts_form(seen):
    """Lists of as many numbers, plain tuples of a word and a number, numbers."""
    mine, host = seen

    def form(value: Any) -> Any:
        return (
            (type(value), len(value), [type(each) for each in value])
            if isinstance(value, list | tuple)
            else type(value)
        )

    for name, evaluations in host.options.items():
        for key in host.written(name):
            values = [each[key] for each in evaluations if key in each]
            found = [each[key] for each in mine.options[name] if key in each]
            assert {str(form(each)) for each in found} == {str(form(each)) for each in values}, (name, key)


def test_values_are_those_of_the_layer(seen, ours):
    """In the order in which attention layers run."""
    mine, _ = seen
    evaluations = mine.options["attn1_patch"]
    assert [each["block"] for each in evaluations] == [tuple(each.block) for each in ours.spatial_transformers]
    assert [each["transformer_index"] for each in evaluations] == list(range(len(evaluations)))
    for each, layer in zip(evaluations, ours.spatial_transformers, strict=True):
        frames, channels, height, width = each["activations_shape"]
        assert (frames, channels) == (FRAMES, layer.channels)
        assert each["original_shape"][2] // height == each["original_shape"][3] // width
        assert each["n_heads"] * each["dim_head"] == channels


def test_a_network_says_its_sizes_as_the_hosts_do(ours, theirs):
    """RenormCFG and other nodes read them."""
    for name in ("in_channels", "out_channels", "model_channels"):
        assert isinstance(getattr(ours, name), type(getattr(theirs, name)))
    assert ours.in_channels == theirs.in_channels == ours.out_channels == 4
    assert ours.model_channels == ours.config.model_channels


def test_wrappers_may_change_every_argument(ours):
    """A pack's wrapper written for the host's networks, by position."""
    context, details = torch.zeros(1, 77, ours.config.context_dim), torch.zeros(FRAMES, 4, HEIGHT, WIDTH)

    def evaluate(wrapper: Callable[..., Tensor]) -> Tensor:
        options = {"wrappers": {"diffusion_model": {"a key": [wrapper]}}}
        x = torch.ones(FRAMES, 4, HEIGHT, WIDTH)
        settings = {"fps": torch.tensor([8.0]), "details": details, "transformer_options": options}
        with torch.inference_mode():
            return ours(x, torch.full((FRAMES,), 500.0), context, **settings)

    def plain(executor, *arguments, **conditions):
        return executor(*arguments, **conditions)

    def darker(executor, x, timesteps, context, y, control, transformer_options, **conditions):
        return executor(x / 2, timesteps, context, y, control, transformer_options, **conditions)

    def controlled(executor, x, timesteps, context, y, control, transformer_options, **conditions):
        return executor(x, timesteps, context, y, {"middle": [x]}, transformer_options, **conditions)

    assert not torch.equal(evaluate(darker), evaluate(plain))
    with pytest.raises(ValueError, match="no ControlNet"):
        evaluate(controlled)


@pytest.mark.parametrize("name", ["middle_patch", "emb_patch", "middle_block_after_patch"])
def test_what_a_patch_gives_is_used(ours, name):
    context, details = torch.zeros(1, 77, ours.config.context_dim), torch.zeros(FRAMES, 4, HEIGHT, WIDTH)

    def evaluate(change: Callable[[Tensor], Tensor]) -> Tensor:
        def patch(x: Any, *_: Any) -> Any:
            return {"h": change(x["h"])} if isinstance(x, dict) else change(x)

        settings = {"fps": torch.tensor([8.0]), "details": details, "transformer_options": {"patches": {name: [patch]}}}
        with torch.inference_mode():
            return ours(torch.ones(FRAMES, 4, HEIGHT, WIDTH), torch.full((FRAMES,), 500.0), context, **settings)

    plain = evaluate(lambda x: x)
    assert not torch.equal(evaluate(lambda x: x + 1), plain)
    if name == "emb_patch":
        steps = torch.arange(FRAMES)[:, None]
        with pytest.raises(ValueError, match="one for all frames of a clip, found another"):
            evaluate(lambda x: x + steps)
