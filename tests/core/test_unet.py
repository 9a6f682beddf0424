"""The network: sizes, frames, attention and layers of its own choosing, and parity with diffusers' I2VGenXLUNet."""

from collections import Counter
from copy import deepcopy
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
import toy
from diffusers import I2VGenXLUNet
from einops import rearrange
from torch import nn
from torch.nn import functional

from i2vgen_core.checkpoints.load import parse_unet
from i2vgen_core.checkpoints.unet_keys import to_diffusers, to_official
from i2vgen_core.config import REFINERS
from i2vgen_core.errors import InputError
from i2vgen_core.network import attention as attention_module
from i2vgen_core.network import blocks as layers
from i2vgen_core.network.attention import scaled_dot_product_attention
from i2vgen_core.network.blocks import FreeU, Layers, SpatialTransformer, TemporalTransformer, fourier_filter
from i2vgen_core.network.hooks import AttentionHooks, BlockHooks, BlockName, Hooks
from i2vgen_core.network.image_conditioning import DetailEncoder, GlobalEncoder, position_ramp
from i2vgen_core.network.unet import UNet

EXACT = 1e-5


@pytest.fixture(autouse=True)
def no_grad():
    with torch.no_grad():
        yield


@pytest.fixture(scope="module")
def deep():
    """A network of each kind that divides the size by 8, by its kind."""
    return {kind: toy.network(replace(toy.DEEP, kind=kind)) for kind in toy.KINDS}


# ---------------------------------------------------------------- sizes


@pytest.mark.parametrize("height, width", [(1, 1), (2, 9), (8, 8), (10, 16), (17, 23)])
@pytest.mark.parametrize("kind", toy.KINDS)
def test_any_size_comes_back_in_its_own(deep, kind, height, width):
    out = deep[kind](**toy.inputs(deep[kind].config, 2, height, width))
    assert out.shape == (2, 4, height, width)
    assert torch.isfinite(out).all()


@pytest.mark.parametrize("height, width", [(2, 8), (10, 16), (18, 24)])
@pytest.mark.parametrize("kind", REFINERS)
def test_a_size_that_fits_a_refiner_is_not_padded(deep, kind, height, width, monkeypatch):
    made = toy.inputs(deep[kind].config, 2, height, width)
    expected = deep[kind](**made)
    monkeypatch.setattr(UNet, "_pad_to_fit", lambda self, x: x)
    assert torch.equal(deep[kind](**made), expected)


@pytest.mark.parametrize(
    "size, padded", [((8, 8), (10, 8)), ((11, 16), (18, 16)), ((10, 9), (10, 16)), ((1, 1), (2, 8))]
)
@pytest.mark.parametrize("kind", REFINERS)
def test_any_other_size_is_padded_at_the_end_by_repeating(deep, kind, size, padded, monkeypatch):
    made = toy.inputs(deep[kind].config, 2, *size)
    out = deep[kind](**made)
    assert torch.equal(deep[kind](**made), out)

    monkeypatch.setattr(UNet, "_pad_to_fit", lambda self, x: x)
    rows = torch.arange(padded[0]).clamp(max=size[0] - 1)
    columns = torch.arange(padded[1]).clamp(max=size[1] - 1)
    whole = deep[kind](**made | {"x": made["x"][..., rows, :][..., columns]})
    assert whole.shape[-2:] == padded
    assert torch.equal(whole[..., : size[0], : size[1]], out)


@pytest.mark.parametrize("frames", [1, 2, 32])
@pytest.mark.parametrize("kind", toy.KINDS)
def test_one_frame_and_many(small, kind, frames):
    out = small[kind](**toy.inputs(small[kind].config, frames, 6, 5))
    assert out.shape == (frames, 4, 6, 5)
    assert torch.isfinite(out).all()


# ---------------------------------------------------------------- what depends on what


@pytest.mark.parametrize("kind", toy.KINDS)
def test_frames_of_a_video_mix_and_videos_do_not(small, kind):
    made = toy.inputs(small[kind].config, frames=4, batch=2)
    before = rearrange(small[kind](**made), "(b f) c h w -> b f c h w", b=2)
    made["x"][3] += 1  # the last frame of the first video
    after = rearrange(small[kind](**made), "(b f) c h w -> b f c h w", b=2)
    assert (after[0] - before[0]).abs().amax(dim=(1, 2, 3)).min() > 1e-3, "a frame that did not see frame 3"
    # another video's kernel may sum in another order, so not to the bit
    assert toy.error(after[1], before[1]) <= EXACT


@pytest.mark.parametrize("kind", toy.KINDS)
def test_a_batch_is_its_videos_one_by_one(small, kind):
    made = toy.inputs(small[kind].config, frames=3, batch=2)
    together = small[kind](**made)
    for video in range(2):
        frames = slice(3 * video, 3 * video + 3)
        per_frame = {"x", "details"}
        alone = {
            name: value if name == "frames" else value[frames] if name in per_frame else value[video : video + 1]
            for name, value in made.items()
        }
        assert toy.error(small[kind](**alone), together[frames]) <= EXACT


@pytest.mark.parametrize(
    "kind, name",
    [(kind, name) for kind in toy.KINDS for name in toy.inputs(replace(toy.CONFIG, kind=kind)) if name != "frames"],
)
def test_every_input_counts(small, kind, name):
    made = toy.inputs(small[kind].config)
    changed = made | {name: made[name] // 2 if name in ("timesteps", "fps") else made[name] * 1.5}
    assert toy.error(small[kind](**changed), small[kind](**made)) > 1e-3


def test_the_two_refiners_differ_by_the_filters_alone(small, monkeypatch):
    made = toy.inputs(small["sr600"].config)
    expected = small["vid2vid_xl"](**made)
    assert toy.error(small["sr600"](**made), expected) > 1e-3
    monkeypatch.setattr(FreeU, "__call__", lambda self, x, skip: (x, skip))
    assert torch.equal(small["sr600"](**made), expected)


def official_filter(x, scale):
    """FreeU's Fourier filter with threshold 1, by its definition: a mask on the shifted spectrum."""
    spectrum = torch.fft.fftshift(torch.fft.fftn(x, dim=(-2, -1)), dim=(-2, -1))
    mask = torch.ones(x.shape)
    row, column = x.shape[-2] // 2, x.shape[-1] // 2
    mask[..., row - 1 : row + 1, column - 1 : column + 1] = scale
    return torch.fft.ifftn(torch.fft.ifftshift(spectrum * mask, dim=(-2, -1)), dim=(-2, -1)).real


@pytest.mark.parametrize("height", [1, 2, 3, 4, 7, 10])
@pytest.mark.parametrize("width", [1, 2, 3, 8, 9])
def test_fourier_filter(height, width):
    x = torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(height))
    before = x.clone()
    assert toy.error(fourier_filter(x, 0.6), official_filter(x, 0.6)) <= EXACT
    assert torch.equal(x, before), "the skip itself was changed"


# ---------------------------------------------------------------- attention


def explicit_attention(q, k, v, heads):
    q, k, v = (rearrange(tokens, "b n (h d) -> b h n d", h=heads) for tokens in (q, k, v))
    weights = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(dim=-1)
    return rearrange(weights @ v, "b h n d -> b n (h d)")


@pytest.mark.parametrize("limit", [2**15, 4], ids=["at once", "in parts"])
def test_default_attention(limit, monkeypatch):
    monkeypatch.setattr(attention_module, "_BATCH_LIMIT", limit)
    q, k, v = (torch.randn(9, n, 24, generator=torch.Generator().manual_seed(n)) for n in (5, 7, 7))
    ours = scaled_dot_product_attention(q, k, v, 3)
    assert toy.error(ours, explicit_attention(q, k, v, 3)) <= EXACT


@pytest.mark.parametrize("kind", toy.KINDS)
def test_a_replacement_is_used_for_every_attention(small, kind, monkeypatch):
    unet, batch, frames = small[kind], 2, 3
    made = toy.inputs(unet.config, frames=frames, batch=batch)
    expected = unet(**made)

    def none(*_, **__):
        raise AssertionError("torch's attention was called")

    monkeypatch.setattr(functional, "scaled_dot_product_attention", none)
    calls = []

    def replacement(q, k, v, heads):
        assert q.shape[2] == heads * unet.config.head_dim
        calls.append((tuple(q.shape[:2]), tuple(k.shape[:2])))
        return explicit_attention(q, k, v, heads)

    assert toy.error(unet(**made, hooks=Hooks(AttentionHooks(replacement))), expected) <= EXACT

    kinds = Counter(type(module) for module in unet.modules())
    spatial, temporal = kinds[SpatialTransformer], kinds[TemporalTransformer]
    assert len(calls) == 2 * (spatial + temporal)
    crossed = [(q, k) for q, k in calls if k[1] == made["context"].shape[1]]
    assert len(crossed) == spatial
    for (videos, tokens), (rows, _) in crossed:
        assert rows == videos == batch, "keys and values are to be made once a video"
        assert tokens % frames == 0
    over_time = [q for q, k in calls if q[1] == k[1] == frames]
    assert len(over_time) == 2 * temporal


def test_what_the_attention_returns_is_used(small):
    made = toy.inputs(toy.CONFIG)
    nothing = small["i2vgen_xl"](**made, hooks=Hooks(AttentionHooks(lambda q, k, v, heads: torch.zeros_like(q))))
    assert toy.error(nothing, small["i2vgen_xl"](**made)) > 1e-3


class RecordedAttention(AttentionHooks):
    """Writes down what is asked of it, and does what the network does."""

    def __init__(self):
        super().__init__()
        self.asked, self.names, self.entered = [], [], []

    def enter(self, block, shape):
        self.entered.append((block, shape))

    def tokens(self, name, heads, x, context):
        self.names.append(name)
        self.asked.append(("tokens", name))
        assert (context is x) == (name.over != "context")
        return super().tokens(name, heads, x, context)

    def attend(self, name, heads, q, k, v):
        self.asked.append(("attend", name))
        return super().attend(name, heads, q, k, v)

    def output(self, name, y):
        self.asked.append(("output", name))
        return super().output(name, y)


class RecordedBlocks(BlockHooks):
    def __init__(self):
        self.asked = []

    def enter(self, block, x):
        self.asked.append(("enter", block))
        return super().enter(block, x)

    def leave(self, block, x):
        self.asked.append(("leave", block))
        return super().leave(block, x)

    def join(self, block, x, skip):
        self.asked.append(("join", block))
        assert x.shape[2:] == skip.shape[2:]
        return super().join(block, x, skip)


@pytest.mark.parametrize("kind", toy.KINDS)
def test_hooks_are_asked_for_every_block_and_layer(small, kind):
    unet, attention, blocks = small[kind], RecordedAttention(), RecordedBlocks()
    made = toy.inputs(unet.config, frames=2, batch=2)
    assert torch.equal(unet(**made, hooks=Hooks(attention, blocks)), unet(**made))

    down = [("input", number) for number in range(len(unet.input_blocks))]
    up = [("output", number) for number in range(len(unet.output_blocks))]
    before = [(kind, block) for block in [*down, ("middle", 0)] for kind in ("enter", "leave")]
    assert blocks.asked == before + [(kind, block) for block in up for kind in ("join", "enter", "leave")]

    assert attention.asked == [(kind, name) for name in attention.names for kind in ("tokens", "attend", "output")]
    layers = {name: module for name, module in unet.named_modules() if name.endswith((".attn1", ".attn2"))}
    assert [_path(name) for name in attention.names] == list(layers)
    middle = [name.over for name in attention.names if name.block == ("middle", 0)]
    assert middle == ["places", "context", "frames", "frames"]
    assert [block for block, _ in attention.entered] == [each.block for each in unet.spatial_transformers]
    assert attention.entered[0][1] == (2 * 2, 32, *_padded(unet, made["x"]))


def _padded(unet, x):
    return (unet._pad_to_fit(x) if unet.config.is_refiner else x).shape[2:]


def _path(name):
    """The module of a layer's name in the release's state dict: spatial transformers are a block's second part."""
    way, number = name.block
    block = "middle_block" if way == "middle" else f"{way}_blocks.{number}"
    part = 1 if name.over != "frames" or name.block == ("input", 0) else 2
    return f"{block}.{part}.transformer_blocks.0.{name.layer}"


@pytest.mark.parametrize("over, layer", [("places", "attn1"), ("context", "attn2"), ("frames", "attn1")])
def test_queries_and_keys_of_one_video_serve_another(small, over, layer, monkeypatch):
    """As editing needs it: at one block, in one batch. What is not reached stays as it was."""
    monkeypatch.setitem(layers._PART_BYTES, "cpu", 1)  # frames one by one, if they were not asked for whole
    seen = []

    class Injecting(AttentionHooks):
        whole = True

        def attend(self, name, heads, q, k, v):
            if (name.block, name.over, name.layer) == (("output", 2), over, layer):
                seen.append((q.shape, k.shape))
                q, k = (torch.cat([each[: len(each) // 2]] * 2) for each in (q, k))
            return super().attend(name, heads, q, k, v)

    unet, made = small["vid2vid_xl"], toy.inputs(small["vid2vid_xl"].config, frames=3, batch=2)
    before, after = unet(**made), unet(**made, hooks=Hooks(Injecting()))
    assert toy.error(after[:3], before[:3]) <= EXACT
    assert toy.error(after[3:], before[3:]) > 1e-4
    if over != "frames":
        assert len(seen) == 1 and seen[0][0][0] == 2 * 3


def test_what_a_hook_returns_is_used(small):
    unet, made = small["i2vgen_xl"], toy.inputs(toy.CONFIG)
    expected = unet(**made)

    class Leaving(BlockHooks):
        def leave(self, block, x):
            return x * 2 if block == ("output", 0) else x

    class Entering(BlockHooks):
        def enter(self, block, x):
            return x * 2 if block == ("middle", 0) else x

    class Joining(BlockHooks):
        def join(self, block, x, skip):
            return x, skip * 2

    class Tokens(AttentionHooks):
        def tokens(self, name, heads, x, context):
            return x * 2, context, context

    class Output(AttentionHooks):
        def output(self, name, y):
            return y * 2

    hooks = [Hooks(blocks=each()) for each in (Leaving, Entering, Joining)]
    hooks += [Hooks(attention=each()) for each in (Tokens, Output)]
    for each in hooks:
        assert toy.error(unet(**made, hooks=each), expected) > 1e-3


# ---------------------------------------------------------------- what is computed once, and in parts


@pytest.mark.parametrize("kind", toy.KINDS)
@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.slow
def test_parts_make_the_whole(small, kind, batch, monkeypatch):
    made = toy.inputs(small[kind].config, frames=5, batch=batch)
    expected = small[kind](**made)
    sizes = []

    def few(one, number, at_least=0):
        sizes.append(number)
        return 2

    monkeypatch.setattr(layers, "at_once", few)
    assert toy.error(small[kind](**made), expected) <= EXACT
    assert 5 in sizes and 64 in sizes, "frames and places"


def test_parts_are_as_large_as_the_limit_and_alike(monkeypatch):
    monkeypatch.setitem(layers._PART_BYTES, "cpu", 1000)
    one = torch.zeros(25)
    assert [layers.at_once(one, number) for number in (3, 10, 11, 21)] == [3, 10, 6, 7]
    assert layers.at_once(torch.zeros(500), 3) == 1
    assert layers.at_once(one, 21, at_least=1600) == 11
    with torch.enable_grad():
        assert layers.at_once(one, 21) == 21


@pytest.mark.parametrize("kind", toy.KINDS)
def test_prepared_conditions_are_not_computed_again(small, kind):
    unet, made = small[kind], toy.inputs(small[kind].config)
    prepared = unet.prepare(made["context"], made.get("fps"))
    once = [module.transformer_blocks[0].attn2 for module in unet.modules() if isinstance(module, SpatialTransformer)]
    once = [layer for attention in once for layer in (attention.to_k, attention.to_v)]
    once += [unet.fps_embedding] if unet.config.reads_image else []
    used = []
    handles = [layer.register_forward_hook(lambda *_: used.append(1)) for layer in once]
    expected = unet(**made)
    assert len(used) == len(once)
    assert torch.equal(unet(**made | {"context": prepared}), expected)
    assert len(used) == len(once)
    for handle in handles:
        handle.remove()


@pytest.mark.parametrize("kind", toy.KINDS)
@pytest.mark.parametrize(
    "limit", [pytest.param(2**21, id="whole"), pytest.param(1, id="parts", marks=pytest.mark.slow)]
)
def test_conditions_of_one_video_share_what_comes_before_their_context(small, kind, limit, monkeypatch):
    monkeypatch.setitem(layers._PART_BYTES, "cpu", limit)
    unet, made = small[kind], toy.inputs(small[kind].config, batch=2)
    other = toy.inputs(small[kind].config, batch=2, seed=1)["context"]
    videos = len(made["x"])
    contexts = torch.cat([made["context"], other])
    fps = {"fps": made["fps"].repeat(2)} if "fps" in made else {}
    lengths = []
    handle = unet.input_blocks[0][0].register_forward_pre_hook(lambda module, given: lengths.append(len(given[0])))
    together = unet(**made | {"context": contexts} | fps)
    handle.remove()
    assert lengths == [videos], "the first convolution saw a video twice"
    assert toy.error(together[:videos], unet(**made)) <= EXACT
    assert toy.error(together[videos:], unet(**made | {"context": other})) <= EXACT


# ---------------------------------------------------------------- layers


def counting_operations():
    """A namespace of four layer classes and nothing else, and how many of each were made."""
    made = Counter()

    def counted(base):
        class Layer(base):
            def __init__(self, *arguments, **options):
                super().__init__(*arguments, **options)
                made[base.__name__] += 1

        return Layer

    classes = {base.__name__: counted(base) for base in (nn.Linear, nn.Conv2d, nn.GroupNorm, nn.LayerNorm)}
    return SimpleNamespace(**classes), made


def weighted_layers(module):
    return [part for part in module.modules() if any(True for _ in part.parameters(recurse=False))]


@pytest.mark.parametrize("kind", toy.KINDS)
def test_layers_come_from_the_operations_alone(kind):
    operations, made = counting_operations()
    config = replace(toy.CONFIG, kind=kind)
    unet = UNet(config, operations, dtype=torch.bfloat16, device="meta")
    weighted = weighted_layers(unet)
    assert all(type(layer) in vars(operations).values() for layer in weighted)
    assert sum(made.values()) == len(weighted) > 0
    assert {(value.dtype, value.device.type) for value in unet.state_dict().values()} == {(torch.bfloat16, "meta")}


def test_the_global_encoders_layers_come_from_the_operations_alone():
    operations, made = counting_operations()
    encoder = GlobalEncoder(4, 64, Layers(operations))
    assert made == {"Conv2d": len(weighted_layers(encoder))} == {"Conv2d": 3}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("padding", [(1, 1), (2, 1)])
@pytest.mark.parametrize(("height", "width"), [(8, 1), (8, 2), (4, 2), (8, 3), (8, 8)])
@pytest.mark.parametrize("autocast", [True, False])
def test_a_narrow_result_of_16_bits_is_written_whole(dtype, padding, height, width, autocast):
    torch.manual_seed(0)
    block = layers.Downsample(BlockName("input", 1), 128, padding, Layers())
    x = torch.randn(2, 128, height, width)
    expected = block.op(x)
    left = [torch.full(expected.shape, float("nan"), dtype=dtype) for _ in range(16)]
    del left  # what the next results may find where they are put
    if autocast:
        with torch.autocast("cpu", dtype):
            found = block(x, None)
    else:
        found = block.to(dtype)(x.to(dtype), None)
    assert found.dtype == dtype and found.shape == expected.shape
    assert (found.float() - expected).abs().max() < 0.05  # bfloat16 rounds values below 4 by 2^-7, and inputs alike


@pytest.mark.parametrize("kind", toy.KINDS)
def test_bfloat16(kind):
    config = replace(toy.CONFIG, kind=kind)
    unet, made = toy.network(config), toy.inputs(config)
    exact = unet(**made)
    floats = {"x", "context", "details"}
    half = {name: value.bfloat16() if name in floats else value for name, value in made.items()}
    out = unet.bfloat16()(**half)
    assert out.dtype == torch.bfloat16
    # bfloat16 keeps 8 bits: 0.4 % at each of some forty layers in a row
    assert toy.error(out.float(), exact) < 0.1


# ---------------------------------------------------------------- what the image tells, before sampling


@pytest.mark.parametrize("frames", [1, 2, 5])
def test_position_ramp(frames):
    latent = torch.randn(2, 4, 3, 5)
    ramp = position_ramp(latent, frames)
    assert ramp.shape == (2, frames, 4, 3, 5)
    assert torch.equal(ramp[:, 0], latent)
    for frame in range(1, frames):
        assert (ramp[:, frame] - frame / (frames - 1)).abs().max() <= 1e-7


def test_no_frame_is_refused():
    with pytest.raises(InputError, match="frames: expected at least 1, found 0"):
        position_ramp(torch.zeros(1, 4, 2, 2), 0)


def test_detail_features_run_alone_and_official_is_twice_once(small):
    unet, latent = small["i2vgen_xl"], torch.randn(2, 4, 6, 5)
    official = unet.detail_encoder
    once = DetailEncoder(official.convolutions, official.transformer, "once")
    details = official(latent, 3)
    assert details.shape == (2 * 3, 4, 6, 5)
    assert torch.equal(details, 2 * once(latent, 3))
    assert toy.error(official(latent[1:], 3), details[3:]) <= EXACT
    assert toy.network(replace(toy.CONFIG, detail_gain="once")).detail_encoder.gain == "once"


def test_global_and_image_tokens_run_alone(small):
    state = to_official(toy.whole_state(toy.CONFIG))
    encoder = parse_unet(state, {"head_dim": 8}).build_global_encoder()
    for size in ((4, 4), (17, 23), (64, 40)):
        assert encoder(torch.randn(2, 4, *size)).shape == (2, 64, 64)
    tokens = small["i2vgen_xl"].context_embedding(torch.randn(2, 1, 48))
    assert tokens.shape == (2, 4, 64)


# ---------------------------------------------------------------- parity with diffusers

THEIRS = {
    "block_out_channels": (32, 64, 128, 128),
    "attention_head_dim": 8,
    "cross_attention_dim": 64,
    "layers_per_block": 2,
}


@pytest.fixture(scope="module")
def peer():
    """diffusers' network with made-up weights, none of them zero."""
    with torch.device("meta"):
        theirs = I2VGenXLUNet(**THEIRS)
    theirs.load_state_dict(toy.fill(theirs.state_dict()), strict=True, assign=True)
    return theirs.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def ours(peer):
    """The same network as ours, by its detail gain."""
    state = peer.state_dict()
    return {gain: parse_unet(state, peer.config, detail_gain=gain) for gain in ("official", "once")}


def both(checkpoint, peer, batch, frames, height, width):
    """The outputs of our network and of diffusers' for the same conditions."""
    generator = torch.Generator().manual_seed(1)

    def noise(*shape):
        return torch.randn(*shape, generator=generator)

    sample, latent = noise(batch, 4, frames, height, width), noise(batch, 4, height, width)
    text, embedding = noise(batch, 77, 64), noise(batch, 1, 64)
    timesteps, fps = torch.tensor([981, 401])[:batch], torch.tensor([8, 16])[:batch]

    # as diffusers' pipeline prepares them: the image latent, then frame i of F constant at i / (F - 1)
    later = [torch.full_like(latent, i / (frames - 1)) for i in range(1, frames)]
    image_latents = torch.stack([latent, *later], dim=2)
    theirs = peer(sample, timesteps, fps, image_latents, embedding, text).sample

    unet, encoder = checkpoint.build_network(), checkpoint.build_global_encoder()
    context = torch.cat([text, encoder(latent), unet.context_embedding(embedding)], dim=1)
    details = unet.detail_encoder(latent, frames)
    flat = rearrange(sample, "b c f h w -> (b f) c h w")
    return toy.as_videos(unet(flat, timesteps, context, frames, fps, details), batch), theirs


@pytest.mark.parametrize(
    "batch, frames, height, width", [(2, 4, 8, 16), (1, 1, 8, 8), (1, 32, 4, 4), (1, 3, 9, 13), (1, 2, 17, 22)]
)
def test_equals_diffusers_with_the_gain_once(ours, peer, batch, frames, height, width):
    mine, theirs = both(ours["once"], peer, batch, frames, height, width)
    assert toy.error(mine, theirs) <= EXACT


def test_equals_diffusers_with_the_concat_half_doubled(ours, peer):
    mine, theirs = both(ours["official"], peer, 1, 3, 8, 8)
    assert toy.error(mine, theirs) > 1e-2, "the official gain differs from diffusers'"
    doubled = deepcopy(peer)
    doubled.conv_in.weight[:, 4:] *= 2
    mine, theirs = both(ours["official"], doubled, 1, 3, 8, 8)
    assert toy.error(mine, theirs) <= EXACT


def test_each_loads_the_others_state_dict(ours, peer):
    checkpoint = ours["official"]
    whole = checkpoint.network | {f"local_image_embedding.{k}": v for k, v in checkpoint.global_encoder.items()}
    back = to_diffusers(whole)
    with torch.device("meta"):
        theirs = I2VGenXLUNet(**THEIRS)
    theirs.load_state_dict(back, strict=True, assign=True)
    assert all(torch.equal(back[key], value) for key, value in peer.state_dict().items())
