"""What the blocks say below themselves of a picture and a size, before the first step."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from . import graphs
from .graphs import changed, node
from .in_process import Host

TINY = "tiny (built in)"


def _encoded(picture: str = "scene", **inputs: Any) -> graphs.Graph:
    """Up to the base's conditions on the built-in cascade, of a drawn scene or of the photo, with the defaults of blocks
    that were just added."""
    graph = changed(
        graphs.conditions(TINY),
        clip_encode__width=0,
        global_encode__width=0,
        global_encode__height=0,
        global_encode__fps=0,
        global_encode__frames=2,
        clip_encode__image=[picture, 0],
        global_encode__image=[picture, 0],
    )
    return changed(graph | {"scene": node("I2VGenXLTinyScene", seed=13)}, **inputs)


def _said(host: Host, graph: graphs.Graph) -> dict[str, list[str]]:
    """Lines by block, but for what the built-in cascade says of itself."""
    result = host.run(graph, {"latent": ("global_encode", 2)})
    assert result.error is None, result.error
    return {name: text.split("\n") for name, text in result.texts if name != "loader"}


@pytest.mark.parametrize("block", ["I2VGenXLCLIPEncode", "I2VGenXLGlobalEncode"])
def test_a_new_block_begins_at_the_models_own_size(host, block):
    inputs = host.nodes[block].INPUT_TYPES()["required"]
    assert {inputs[name][1]["default"] for name in ("width", "height", "fps") if name in inputs} == {0}


def test_the_models_own_size_is_taken(host):
    keep = {"latent": ("global_encode", 2), "positive": ("global_encode", 0)}
    own = host.run(_encoded(), keep)
    assert own.error is None and [name for name, _ in own.texts] == ["loader"]
    assert own.kept["latent"]["samples"].shape == (2, 4, 8, 16)
    same = {
        "clip_encode__width": 128,
        "global_encode__width": 128,
        "global_encode__height": 64,
        "global_encode__fps": 8,
    }
    given = host.run(_encoded(**same), keep)
    for name in ("unclip_conditioning", "i2vgen_xl"):
        one, other = (result.kept["positive"][0][1][name] for result in (own, given))
        if name == "i2vgen_xl":
            assert one.fps == other.fps and torch.equal(one.image_latent, other.image_latent)
        else:
            assert torch.equal(one[0]["clip_vision_output"].image_embeds, other[0]["clip_vision_output"].image_embeds)


@pytest.mark.parametrize(
    ("picture", "size", "strange"),
    [
        ("photo", (0, 0), "such a picture"),
        ("scene", (640, 352), "640x352 pixels"),
        ("photo", (640, 352), "640x352 pixels nor such a picture"),
    ],
)
def test_what_the_built_in_cascade_cannot_know_is_one_line(host, picture, size, strange):
    width, height = size
    graph = _encoded(picture, clip_encode__width=width, global_encode__width=width, global_encode__height=height)
    assert _said(host, graph) == {
        "global_encode": [
            f"The built-in cascade knows drawn shapes at 128x64, not {strange}. For that, choose the released files in the "
            "loader."
        ]
    }


def test_two_widths_that_are_not_equal_are_one_line(host):
    said = _said(host, _encoded(clip_encode__width=256))
    assert said == {"global_encode": ["width: 256 in CLIP Encode, 128 here; make the two equal"]}


def test_parts_of_the_frame_that_read_words_alone_are_one_line(host):
    """What a hook of another pack patches into the attention to the context, that pack has made of words alone."""
    import comfy.hooks

    hook = comfy.hooks.TransformerOptionsHook(hook_scope=comfy.hooks.EnumHookScope.HookedOnly)
    hook.transformers_dict = {"patches": {"attn2_patch": [lambda q, k, v, _: (q, k, v)]}}
    group = comfy.hooks.HookGroup()
    group.add(hook)
    positive = host.run(graphs.conditions("short"), {"positive": ("global_encode", 0)}).kept["positive"]
    host.given["coupled"] = comfy.hooks.set_hooks_for_conditioning(positive, hooks=group)
    graph = changed(graphs.base_latent("short") | {"coupled": node("GiveForTest", name="coupled")}, base__steps=1)
    line = "conditioning: parts of the frame with prompts of their own read these alone, not the picture; colours may drift there"
    for given, said in ((["coupled", 0], [line]), (["global_encode", 0], [])):
        result = host.run(changed(graph, base__positive=given), {"latent": ("base", 0)})
        assert result.error is None, result.error
        assert [text for name, text in result.texts if name == "base" and not text.startswith("step")] == said
