"""Networks of toy size with made-up weights, and inputs for them."""

import importlib.util
import math
import sys
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import torch
from einops import rearrange

from i2vgen_core.checkpoints.load import UNetCheckpoint
from i2vgen_core.checkpoints.scaffold import Size
from i2vgen_core.checkpoints.unet_keys import GLOBAL_ENCODER, to_official
from i2vgen_core.config import BASES, REFINERS, PoseConfig, UNetConfig, released_config
from i2vgen_core.network.blocks import Layers
from i2vgen_core.network.image_conditioning import GlobalEncoder
from i2vgen_core.network.unet import UNet
from i2vgen_core.releases import RELEASES

GOLDEN = Path(__file__).parents[1] / "golden"
KINDS = (*BASES, *REFINERS)
"""Those of the cascade."""
FAMILY = tuple(kind for kind in RELEASES if kind not in KINDS)
"""The others: text to video, composers and animators."""

CONFIG = UNetConfig(
    model_channels=32,
    channel_mult=(1, 2),
    attention_levels=(True, False),
    num_res_blocks=1,
    head_dim=8,
    first_temporal_heads=2,
    context_dim=64,
    image_dim=48,
    image_tokens=4,
)
"""The smallest network with every kind of part."""

DEEP = replace(CONFIG, channel_mult=(1, 1, 1, 1), attention_levels=(True, True, True, False))
"""As deep as the releases: it divides the size by 8."""

SETTINGS = {"head_dim": CONFIG.head_dim}
"""What the shapes of CONFIG's tensors do not say."""

PEER = (
    replace(CONFIG, num_res_blocks=3, first_temporal_heads=8, image_dim=64),
    {
        "block_out_channels": (32, 64),
        "attention_head_dim": 8,
        "cross_attention_dim": 64,
        "layers_per_block": 3,
        "down_block_types": ("CrossAttnDownBlock3D", "DownBlock3D"),
        "up_block_types": ("UpBlock3D", "CrossAttnUpBlock3D"),
    },
)
"""A network with three blocks a level, and the arguments of diffusers' I2VGenXLUNet that make it."""

SIZE = Size(
    unet=replace(CONFIG, first_temporal_heads=8, image_dim=64),  # as diffusers' network has them, whatever its config
    vae_channels=(32, 32, 32, 32),
    text_layers=2,
    text_head_dim=16,
    vision_layers=1,
    vision_width=32,
    vision_head_dim=16,
    image_size=28,
    patch_size=14,
    dtype=torch.float32,
)


def config_of(kind):
    """CONFIG of any kind of the family."""
    sizes = released_config(kind)
    poses = PoseConfig(64, 32, 2, 18, 32, 2) if sizes.poses else None
    others = {"concat_channels": sizes.concat_channels, "stems": sizes.stems, "poses": poses}
    others |= {"gated": sizes.gated, "control": sizes.control}
    made = replace(CONFIG, kind=kind, **others)
    if made.reads_image:
        return made
    return replace(made, image_dim=made.context_dim if made.reads_image_beside_text else UNetConfig.image_dim)


def fill(shapes, seed=0):
    """Weights for a state dict (any device) that keep activations at their size, norms and biases included."""
    generator = torch.Generator().manual_seed(seed)

    def make(key, like):
        values = torch.randn(like.shape, generator=generator)
        if like.ndim < 2:
            return 0.1 * values + (0.0 if key.endswith("bias") else 1.0)
        return 1.2 / math.sqrt(like[0].numel()) * values

    return {key: make(key, like) for key, like in shapes.items()}


@lru_cache
def _meta_state(config):
    state = dict(UNet(config, device="meta").state_dict())
    if config.reads_details:
        encoder = GlobalEncoder(config.in_channels, config.context_dim, Layers(device="meta"))
        state |= {GLOBAL_ENCODER + key: value for key, value in encoder.state_dict().items()}
    return state


def meta_state(config):
    """The tensors of a whole file by our names, on meta: those of the network and the global encoder's."""
    return dict(_meta_state(config))


@lru_cache
def _whole_state(config):
    return fill(meta_state(config))


def whole_state(config):
    """As meta_state, with weights."""
    return dict(_whole_state(config))


def stored(config):
    """The tensors of a released file: the official layout."""
    return to_official(whole_state(config))


def same(left, right):
    """Whether two state dicts have the same names and values."""
    return left.keys() == right.keys() and all(torch.equal(value, right[key]) for key, value in left.items())


def network(config, seed=0):
    """A network with made-up weights."""
    weights = fill(UNet(config, device="meta").state_dict(), seed)
    return UNetCheckpoint(config, weights, {}, RELEASES[config.kind]).build_network()


def inputs(config, frames=3, height=8, width=8, batch=1, seed=0):
    """Arguments of a network's forward, by name."""
    generator = torch.Generator().manual_seed(seed)

    def noise(*shape):
        return torch.randn(*shape, generator=generator)

    shape = (batch * frames, config.in_channels, height, width)
    made = {
        "x": noise(*shape),
        "timesteps": torch.tensor([981, 401, 1])[:batch],
        "context": noise(batch, 7, config.context_dim),
        "frames": frames,
    }
    if config.reads_image:
        made["fps"] = torch.tensor([8, 16, 24])[:batch]
    if config.reads_details:
        made["details"] = noise(*shape)
    return made


def as_videos(x, batch):
    """Frames [(b f), c, h, w] as diffusers has them, [b, c, f, h, w]."""
    return rearrange(x, "(b f) c h w -> b c f h w", b=batch)


def error(ours, theirs):
    """max |ours - theirs| / max |theirs|; infinite where shapes differ or a value is not finite."""
    if ours.shape != theirs.shape or not torch.isfinite(ours).all():
        return math.inf
    return float((ours.double() - theirs.double()).abs().max() / theirs.double().abs().max())


def load_module(path):
    """A Python file by its path."""
    spec = importlib.util.spec_from_file_location(f"toy_{path.stem}", path)
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module
