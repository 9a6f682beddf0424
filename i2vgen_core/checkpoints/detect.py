"""Reads what a network is from the shapes of its tensors, never from a file's name."""

from __future__ import annotations

import re
from dataclasses import replace

from ..config import BASES, COMPOSERS, HINTED, REFINERS, ControlConfig, DetailGain, Kind, PoseConfig, Stem, UNetConfig
from ..errors import CheckpointError
from ..network.stems import STEMS
from .check import named
from .unet_keys import CONTROL, GLOBAL_ENCODER, StateDict

_NEEDED = ("input_blocks.0.1.proj_in.weight", "time_embed.0.weight", "input_blocks.0.0.weight", "out.2.weight")
"""The first is what prefixes are told by: without it the others may be there beneath one."""

_MOST_BLOCKS = 64
_HINT = "input_hint_block.weight"
"""The one convolution that takes the hint in the control branches that were trained beside MS-Vid2Vid-XL."""
_HINTED: dict[Kind, tuple[str, ...]] = {
    "venhancer": ("scale_cond.", "hint_time_zero_linear."),  # it is told the scale and the hint's noise level
    "star": (".local1.",),  # gates before attention to itself
}
"""Parts of names that only one of them has (VEnhancer and STAR, video_to_video/modules/unet_v2v.py)."""

CHOOSE = "Choose a network that docs/checkpoints.md lists, such as I2VGen-XL, MS-Vid2Vid-XL, a composer or STAR."
"""What may be done about a file that is none of the family."""

UNSAID = (
    "MS-Vid2Vid-XL, SR600 and the text-to-video networks of VGen and ModelScope have the same tensors, so that shapes cannot "
    "tell which one it is, and the file does not say: vid2vid_xl is assumed. For SR600, say so with the loader's variant, "
    "--refiner, or `kind` in the metadata or config.json. VGen's text to video is text2video, for --kind or `kind`; "
    "ModelScope's predicts noise, not the velocity, and gives no good video here"
)
"""What is to be said wherever a second stage's kind was assumed."""

_POINTS = "pose_embedding_before.increase_embed_dim.0.weight"

_REFINERS_TENSORS: tuple[Kind, ...] = (*REFINERS, "text2video")


class UnsaidKindError(CheckpointError):
    """A network of tensors that more than one kind has, and nobody's word which it is.

    Args:
        kinds: those that it may be.
    """

    def __init__(self, kinds: tuple[Kind, ...]):
        remedy = "Say it with --kind, or as `kind` in the metadata or config.json: `convert --kind` writes it into a new file."
        found = f"no word whether it is {' or '.join(kinds)}, which have the same tensors"
        super().__init__("the model file", "one that says what it is", found, remedy)
        self.kinds = kinds


def kinds_of(state: StateDict) -> tuple[Kind, ...]:
    """The kinds that a network's tensors may be of, by our names: one, or all those that shapes cannot tell apart.

    Raises:
        CheckpointError: a network that reads beside the noise what none of them does.
    """
    if "local_image_concat.0.weight" in state:
        return ("i2vgen_xl",)
    channels, latent = _size(state, "input_blocks.0.0.weight", 1), _size(state, "out.2.weight", 0)
    if any(key.startswith(CONTROL) for key in state):
        hinted = _hinted(state)
        if hinted is None:
            found = f"one with a control branch ({CONTROL}*) that is neither's"
            raise CheckpointError("the model file", "a network of STAR or VEnhancer", found, "Use the released file.")
        return (hinted,)
    stems = _stems(state)
    if channels > latent and "pose" in stems:
        return ("animate_x",) if _POINTS in state else ("unianimate",)
    if channels > latent and stems:
        return COMPOSERS
    if channels == 3 * latent and "context_embedding.0.weight" not in state:
        return ("tft2v_t2v",) if "pre_image_condition.0.weight" in state else ("videolcm_t2v",)
    if channels == latent:
        return ("image2video",) if "context_embedding.0.weight" in state else _REFINERS_TENSORS
    found = f"a network of {channels} input channels: {latent} of the noise and {channels - latent} of conditions"
    remedy = "It is not built in here: use a release of the I2VGen-XL family."
    raise CheckpointError("the model file", f"a network of {latent} latent channels", found, remedy)


def _hinted(state: StateDict) -> Kind | None:
    """Which refiner with a control branch has such names."""
    kinds = (kind for kind, parts in _HINTED.items() if any(part in key for key in state for part in parts))
    return next(kinds, None)


def _stems(state: StateDict) -> tuple[Stem, ...]:
    """Told by their transformers: the global encoder of I2VGen-XL has the name of a stem's convolutions."""
    return tuple(name for name, kind in STEMS.items() if f"{kind.transformer}.layers.0.0.norm.weight" in state)


def _kind(state: StateDict, said: Kind | None) -> Kind:
    """What a network is, where need be by somebody's word. Raises CheckpointError where the word is not that of its
    tensors, or there is none."""
    kinds = kinds_of(state)
    if said in kinds:
        return said
    if said is not None:
        alone = kinds[0] in BASES + REFINERS + HINTED
        found = f"one of kind {kinds[0] if alone else ' or '.join(kinds)}"
        remedy = "Bases go into the base loader, refiners into the refiner loader."
        raise CheckpointError("the model file", f"a network of kind {named(str(said))}", found, remedy)
    if kinds == COMPOSERS:  # they are sampled in ways that have nothing in common
        raise UnsaidKindError(kinds)
    return kinds[0]


def unet_config(
    state: StateDict,
    *,
    kind: Kind | None = None,
    head_dim: int | None = None,
    detail_gain: DetailGain = "official",
) -> UNetConfig:
    """The configuration of a network from its state dict in our layout.

    Args:
        state: tensors by our names, with or without the global encoder's.
        kind: what the caller knows. Of a refiner's tensors `vid2vid_xl` is taken if nobody says; of a composer's, none.
        head_dim: width of an attention head, from config.json or metadata; 64, the releases', if None.
        detail_gain: see UNetConfig.

    Raises:
        CheckpointError: another model, not the kind that the caller asks for, or one that shapes cannot tell.
    """
    missing = [key for key in _NEEDED if key not in state]
    if missing:
        some = f" ({', '.join(map(named, list(state)[:3]))}, ...)" if state else ""
        found = f"no {missing[0]} among {len(state)} tensors{some}"
        raise CheckpointError("the model file", "a network of the I2VGen-XL family", found, CHOOSE)

    kind = _kind(state, kind)
    head_dim = head_dim or UNetConfig.head_dim
    model_channels = _size(state, "time_embed.0.weight", 1)
    mult, attention, blocks = _levels(state, model_channels)
    widths = [model_channels * multiplier for multiplier, used in zip(mult, attention, strict=True) if used]
    widths += [model_channels * mult[-1], _size(state, "input_blocks.0.1.proj_in.weight", 0)]
    if any(width % head_dim for width in widths):
        expected = f"channels that are multiples of the head dimension {head_dim}"
        remedy = "Say the head dimension in the file's metadata (head_dim) or in config.json beside it."
        raise CheckpointError("the model file", expected, ", ".join(map(str, sorted(set(widths)))), remedy)
    middle_key = "middle_block.1.transformer_blocks.0.attn2.to_k.weight"
    latent = _size(state, "out.2.weight", 0)
    config = UNetConfig(
        kind=kind,
        in_channels=latent,
        out_channels=latent,
        model_channels=model_channels,
        channel_mult=mult,
        attention_levels=attention,
        num_res_blocks=blocks,
        head_dim=head_dim,
        first_temporal_heads=_size(state, "input_blocks.0.1.proj_in.weight", 0) // head_dim,
        context_dim=_size(state, middle_key, 1),
        detail_gain=detail_gain,
        gated=kind == "star",
        control=_control_config(state) if kind in HINTED else None,
    )
    channels = _size(state, "input_blocks.0.0.weight", 1)
    if config.reads_details:
        config = replace(config, in_channels=channels // 2)
    else:
        poses = _pose_config(state) if kind == "animate_x" else None
        config = replace(config, concat_channels=channels - latent, stems=_stems(state), poses=poses)
    for projection in ("context_embedding", "pre_image_condition"):
        if f"{projection}.0.weight" in state:
            image_dim = _size(state, f"{projection}.0.weight", 1)
            tokens = _size(state, f"{projection}.2.weight", 0) // config.context_dim
            config = replace(config, image_dim=image_dim, image_tokens=tokens)
    return config


def _control_config(state: StateDict) -> ControlConfig:
    return ControlConfig(_size(state, CONTROL + _HINT, 1), _hinted(state) == "venhancer")


def _pose_config(state: StateDict) -> PoseConfig:
    def count(names: str) -> int:
        return len({found[1] for key in state if (found := re.match(names + r"\.(\d+)\.", key))})

    return PoseConfig(
        width=_size(state, "pose_embedding_before.increase_embed_dim.1.weight", 0),
        hidden=_size(state, "pose_embedding_before.encoder.layers.0.linear1.weight", 0),
        layers=count(r"pose_embedding_before\.encoder\.layers"),
        points=_size(state, _POINTS, 1) // 2,
        resampler_width=_size(state, "pose_embedding_after.layers.0.0.to_q.weight", 0),
        resampler_layers=count(r"pose_embedding_after\.layers"),
    )


def refuse_branch_alone(state: StateDict) -> None:
    """Raises CheckpointError, with its name, for the control branch of a refiner without that refiner.

    Args:
        state: all tensors of a file, by any names.
    """
    if not any(key.endswith(_HINT) for key in state) or any(key.endswith("out.2.weight") for key in state):
        return
    hinted = _hinted(state)
    found = f"the control branch of {'STAR' if hinted == 'star' else 'VEnhancer' if hinted else 'a refiner'} alone"
    remedy = "Use the released file, which has both."
    raise CheckpointError("the model file", "a refiner with its control branch", found, remedy)


def split_global_encoder(state: StateDict) -> tuple[StateDict, StateDict]:
    """The network's tensors, and the global encoder's by its own names (empty where there is none). Composers and animators
    have a stem of the encoder's name."""
    if "local_image" in _stems(state):
        return state, {}
    network = {key: value for key, value in state.items() if not key.startswith(GLOBAL_ENCODER)}
    encoder = {key.removeprefix(GLOBAL_ENCODER): value for key, value in state.items() if key not in network}
    return network, encoder


def _levels(state: StateDict, model_channels: int) -> tuple[tuple[int, ...], tuple[bool, ...], int]:
    """Channel multipliers and attention of each level, and the blocks of one."""
    count = len({m[1] for key in state if (m := re.match(r"input_blocks\.(\d+)\.", key))})
    if count > _MOST_BLOCKS:
        raise _damaged("input blocks", f"at most {_MOST_BLOCKS}", f"{count}")
    levels: list[list[int]] = [[]]
    for number in range(1, count):
        if f"input_blocks.{number}.op.weight" in state:
            levels.append([])
        else:
            levels[-1].append(number)
    empty = next((number for number, level in enumerate(levels) if not level), None)
    if empty is not None:
        raise _damaged(f"input blocks of level {empty}", "one or more", "none")
    if len({len(level) for level in levels}) > 1:
        raise _damaged("input blocks", "as many in each level", ", ".join(str(len(level)) for level in levels))
    widths = [_size(state, f"input_blocks.{level[0]}.0.out_layers.3.weight", 0) for level in levels]
    mult = tuple(width // model_channels for width in widths)
    if not all(mult):
        raise _damaged("channels of the levels", f"{model_channels} or more", ", ".join(map(str, widths)))
    attention = tuple(f"input_blocks.{level[0]}.1.proj_in.weight" in state for level in levels)
    return mult, attention, len(levels[0])


def _size(state: StateDict, key: str, axis: int) -> int:
    """The length of a tensor's axis."""
    shape = state[key].shape if key in state else None
    if shape is None or len(shape) <= axis or not all(shape):
        raise _damaged(
            f"tensor {key}", f"an axis {axis}", "no such tensor" if shape is None else f"shape {list(shape)}"
        )
    return shape[axis]


def _damaged(what: str, expected: str, found: str) -> CheckpointError:
    return CheckpointError(what, expected, found, "The file is damaged or of another model: use the released one.")
