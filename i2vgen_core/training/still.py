"""A new base that begins as a video of the given picture standing still: training need not find out how to copy.

With a picture z whose clips x_0 are taken to be normal about it, of standard deviation s, the denoised latent is known, and so
is the velocity: a(t) x_t - b(t) z, see `Line`. It is linear in what the network is given, and the weights that say it are set
here, beside the others, which begin as ever: the detail path passes the latent on, the first transformer over the frames
spreads it from the first frame to all, and the last block adds up x_t and z, both gated by the time step.

Norms are in the way of such a sum: they subtract a group's mean and divide by its deviation. So each value that has to come
through stands in a group beside its negative, which keeps the mean, and beside a large constant, which keeps the deviation. That
takes groups of three channels: in groups of two, a plain picture's level would be lost at every norm.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import TIMESTEPS, VAE_CHANNELS
from ..errors import InputError
from ..network.blocks import GROUPS, sinusoidal_embedding
from ..network.unet import UNet
from ..sampling.schedules import schedule_for

CHANNELS = 3 * GROUPS
"""That a network must have for it: groups of three."""

LEFT_ALONE = ("network.local_image_concat.", "network.local_temporal_encoder.", "network.input_blocks.0.1.")
"""How the names of a TrainedBase's parameters begin that training leaves as they are: the picture's way to all frames."""

SLOW = (
    "network.input_blocks.0.0.",
    "network.time_embed.",
    "network.fps_embedding.",
    "network.output_blocks.3.0.",
    "network.out.",
)
"""Those that learn at SLOWLY times the rate: their features are large and alike all over a frame, which no norm behind them
takes away, so that steps of the usual size shake the picture's level."""

SLOWLY = 0.03

_LATER = 6.0  # added to the details of the later frames, which hold no picture: more than a latent's mean ever is
_SPREAD = (
    0.15  # between a latent's channels, below which it is taken for a later frame's details, whose channels are equal
)
_SHARP = 20.0  # of the SiLUs that compare them
_DETAIL, _STREAM, _GATE, _LAST = 80.0, 6.0, 12.0, 12.0  # constants that keep the deviation of groups
_GAIN = 0.5  # of a value in its gate
_STEEP = 2.0  # gain of a gate's norm
_SHUT = 30.0  # shift of a gate in a frame where it is to pass nothing
_RIDGE = 1e-2  # of the fit of that shift
_REACH = 14.0  # of the time step's shift of a gate, either way


@dataclass(frozen=True)
class Line:
    """The velocity where x_0 is normal about the picture z: a(t) x_t - b(t) z.

    Args:
        deviation: of x_0.
    """

    deviation: float

    def __call__(self, kind: Any = "i2vgen_xl") -> tuple[Tensor, Tensor]:
        """a and b at all timesteps, float32 [1000]."""
        level = schedule_for(kind).alphas_cumprod
        signal, sigma, variance = level.sqrt(), (1 - level).sqrt(), self.deviation**2
        total = (1 - level) + level * variance
        return (sigma * signal * (1 - variance) / total).float(), (sigma / total).float()


_FIRST, _LATER_ONES = Line(0.15), Line(0.6)


@torch.no_grad()
def stand_still(network: UNet, first: Line = _FIRST, later: Line = _LATER_ONES) -> None:
    """Sets a new network's weights so that its velocity is the line's.

    Args:
        network: a base of 96 channels at two levels with one block each, new (see diffusion.initialise).
        first: of the first frame, which is the picture.
        later: of the others, which are about it.

    Raises:
        InputError: a network of other sizes.
    """
    config = network.config
    heads, channels = config.first_temporal_heads * config.head_dim, config.model_channels
    levels = config.channel_mult, config.num_res_blocks
    if (channels, heads, levels, config.kind) != (CHANNELS, CHANNELS, ((1, 1), 1), "i2vgen_xl"):
        expected = f"an I2VGen-XL base of {CHANNELS} channels, also in its first transformer's heads, at two levels"
        found = f"{config.kind} with {channels} and {heads}, levels of {config.channel_mult}"
        raise InputError("the network", expected, found, "Change its sizes.")
    _details(network)
    _spread(network)
    _last_block(network, first, later)


def _details(network: Any) -> None:
    """The detail path passes the picture on, and gives later frames 6 and more in every channel.

    A SiLU passes a value on as the difference of two, of it and of its negative. The later frames are known by their channels,
    which are equal: the third convolution adds what a unit says of the sum of the channels' differences.
    """
    first, second, third = (network.local_image_concat[i] for i in (0, 2, 4))
    for j in range(VAE_CHANNELS):
        for place, sign in ((2 * j, 1.0), (2 * j + 1, -1.0)):
            _set(first, place, {j: sign})
            _set(first, 8 + place, {j: sign * _SHARP, (j + 1) % VAE_CHANNELS: -sign * _SHARP})
            _set(second, place, {2 * j: sign, 2 * j + 1: -sign})
    strength = 10.0
    _set(second, 8, {8 + k: -strength / _SPREAD / _SHARP for k in range(8)}, strength)
    gain = network.detail_encoder.gain
    passed = 0.5 if gain == "official" else 1.0
    for j in range(VAE_CHANNELS):
        _set(third, j, {2 * j: passed, 2 * j + 1: -passed, 8: passed * _LATER / F.silu(torch.tensor(strength)).item()})
    block = network.local_temporal_encoder.layers[0]
    for last in (block[0].fn.to_out[0], block[1].net[2]):
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)


# The channels after the first block: four groups of six (x, -x, z, -z, and two constants), which are the groups of the
# last block's norm as well; four of three (details, their negative, a constant); a group of six that says whether it is a
# later frame (about 1, or 0, its negative, two constants, and two zeros); the rest is free.
def _noisy(j: int) -> int:
    return 6 * j


def _picture(j: int) -> int:
    return 6 * j + 2


def _detail(j: int) -> int:
    return 6 * VAE_CHANNELS + 3 * j


_IS_LATER = 9 * VAE_CHANNELS


def _spread(network: Any) -> None:
    """The first convolution takes in what it is given, and its transformer spreads the first frame's details to all."""
    convolution, transformer = network.input_blocks[0]
    for j in range(VAE_CHANNELS):
        for place, source, sign in (
            (_noisy(j), j, 1.0),
            (_noisy(j) + 1, j, -1.0),
            (_detail(j), VAE_CHANNELS + j, 1.0),
            (_detail(j) + 1, VAE_CHANNELS + j, -1.0),
        ):
            _set(convolution, place, {source: sign})
        for place, value in (
            (_picture(j), 0.0),
            (_picture(j) + 1, 0.0),
            (_picture(j) + 2, _STREAM),
            (_picture(j) + 3, -_STREAM),
            (_detail(j) + 2, _DETAIL),
        ):
            _set(convolution, place, {}, value)

    for place, value in enumerate((0.0, 0.0, _STREAM, -_STREAM, 0.0, 0.0)):
        _set(convolution, _IS_LATER + place, {}, value)

    # Tokens: details, their mean, the picture once it is there, constants, whether it is a later frame, and what is free.
    source, later, target, constant, known, free = 0, 4, 5, 9, 41, 42
    deviation = (2 * _DETAIL**2 / 9) ** 0.5  # of the details' groups
    small = 0.2  # of a token's constants
    into = transformer.proj_in
    for j in range(VAE_CHANNELS):
        each = {_detail(j): small * deviation / 2, _detail(j) + 1: -small * deviation / 2}
        _set(into, source + j, each)
        _set(into, target + j, {})
    _set(
        into,
        later,
        {c: v / VAE_CHANNELS for j in range(VAE_CHANNELS) for c, v in _pair(j, small * deviation / 2).items()},
    )
    for place in range(constant, known):
        _set(into, place, {}, 1.0 if place % 2 else -1.0)
    _set(into, known, {})
    into.weight[free:] *= 0.2
    into.bias[free:] *= 0.2

    block = transformer.transformer_blocks[0]
    scale = ((known - constant) / len(into.weight)) ** -0.5  # of a token's norm
    attention = block.attn1
    width = network.config.head_dim
    nn.init.zeros_(attention.to_q.weight[:width])
    attention.to_q.weight[0, constant] = width**0.5 / scale
    attention.to_k.weight[0].zero_()
    attention.to_k.weight[0, later] = -4.0 / small / scale
    for j in range(VAE_CHANNELS):
        attention.to_v.weight[j].zero_()
        attention.to_v.weight[j, source + j] = 1 / scale
        attention.to_v.weight[j, constant : constant + 2] = (
            -0.5 / scale
        )  # the tokens' mean, which their norm has taken away
        _set(attention.to_out[0], target + j, {j: 1.0})
        _set(block.attn2.to_out[0], target + j, {})
        _set(block.ff.net[2], target + j, {})
        for place, sign in ((_picture(j), 1.0), (_picture(j) + 1, -1.0)):
            _set(transformer.proj_out, place, {target + j: sign / small})
    # A unit of the feed-forward is 0 in the first frame, whatever the picture, and about 1 in the later ones.
    units = block.ff.net[0].proj
    hidden = len(units.weight) // 2
    _set(units, 0, {constant: 1 / scale})
    _set(units, hidden, {later: 10.0, constant: -10.0 * 0.75 * _LATER * small})
    _set(block.ff.net[2], known, {0: 1 / 5})
    for place in (later, constant, known):  # what the unit reads and says is not stirred
        _set(block.attn1.to_out[0], place, {})
        _set(block.attn2.to_out[0], place, {})
    for place, sign in ((_IS_LATER, 1.0), (_IS_LATER + 1, -1.0)):
        _set(transformer.proj_out, place, {known: sign})


def _pair(j: int, value: float) -> dict[int, float]:
    return {_detail(j): value, _detail(j) + 1: -value}


def _last_block(network: Any, first: Line, later: Line) -> None:
    """The last block adds up x_t and z, each gated by the time step, in the first frame more of them, and the last convolution
    says it."""
    block = network.output_blocks[3][0]
    below = block.in_layers[2].in_channels - CHANNELS  # channels in front of those of the first block
    six = ((_STREAM**2 + 2) / 3) ** 0.5  # deviation of a group of six, where x and z are of 1
    (a, b), (a_first, b_first) = later(network.config.kind), first(network.config.kind)
    embedded = _embedded(network)
    highest = float(b.max())
    gates = [
        (_noisy, a, 1.0, False),
        (_picture, highest - b, 1.0, False),
        (_noisy, a_first - a, 1.0, True),
        (_picture, b_first - b, -1.0, True),
    ]
    for number, (value, wanted, plus, of_first) in enumerate(gates):
        shift, slope = _gate(wanted)
        weight, bias = _fitted(embedded, shift)
        for j in range(VAE_CHANNELS):
            for sign in (1.0, -1.0):
                place = 3 * (8 * j + 2 * number + int(sign < 0))
                units = below + value(j)
                passed = _GAIN * six * sign
                _set(block.in_layers[2], place, {units: passed, units + 1: -passed})
                _set(block.in_layers[2], place + 1, {units: -passed, units + 1: passed})
                _set(block.in_layers[2], place + 2, {}, _GATE)
                if of_first:  # shut in the later frames
                    for each, shuts in ((below + _IS_LATER, -_SHUT), (below + _IS_LATER + 1, _SHUT)):
                        _add(block.in_layers[2], place, each, shuts * six)
                block.emb_layers[1].weight[place : place + 3] = 0.0
                block.emb_layers[1].bias[place : place + 3] = 0.0
                block.emb_layers[1].weight[place], block.emb_layers[1].bias[place] = weight, bias
                block.out_layers[0].weight[place], block.out_layers[0].bias[place] = _STEEP, _STEEP * 0.5**0.5
                _add(block.out_layers[3], 3 * j, place, plus * sign * slope)
                _add(block.out_layers[3], 3 * j + 1, place, -plus * sign * slope)
    through = block.skip_connection
    for j in range(VAE_CHANNELS):
        z = below + _picture(j)
        _set(through, 3 * j, {z: -highest})
        _set(through, 3 * j + 1, {z: highest})
        _set(through, 3 * j + 2, {}, _LAST)
        network.out[0].bias[3 * j : 3 * j + 2] = 0.5**0.5
        _set(network.out[2], j, {3 * j: _deviation(_LAST), 3 * j + 1: -_deviation(_LAST)})


def _deviation(constant: float) -> float:
    """Of a group of a value, its negative and a constant that is large beside them."""
    return (2 * constant**2 / 9) ** 0.5


def _gate(wanted: Tensor) -> tuple[Tensor, float]:
    """Shifts [1000] of a gate that passes so much of its value, and the weight of its two units' difference."""
    shifts = torch.linspace(-_REACH, _REACH, 2001)
    value = 0.5  # the units are not quite linear in it
    units = [
        torch.stack(
            [shifts + s * value * _GAIN, torch.full_like(shifts, -s * value * _GAIN), torch.full_like(shifts, _GATE)]
        )
        for s in (1, -1)
    ]
    normed = [_STEEP * ((each[0] - each.mean(0)) / each.std(0, correction=0) + 0.5**0.5) for each in units]
    passed = (F.silu(normed[0]) - F.silu(normed[1])) / value
    low, high = int(passed.argmin()), int(passed.argmax())
    shifts, passed = shifts[low : high + 1], passed[low : high + 1]
    weight = float(wanted.max() / (0.98 * passed.max()))
    at = torch.searchsorted(passed.contiguous(), (wanted / weight).contiguous()).clamp(max=len(shifts) - 1)
    return shifts[at], weight


def _embedded(network: Any) -> Tensor:
    """What the blocks read of every timestep, [1000, e]; the frame rate adds nothing at first.

    The layers' own first weights make so little of a timestep that gates would have to multiply it by hundreds, and training
    would shake them: so these begin larger.
    """
    for layer, larger in ((network.time_embed[0], 2.0), (network.time_embed[2], 4.0)):
        layer.weight *= larger
    nn.init.zeros_(network.fps_embedding[2].weight)
    nn.init.zeros_(network.fps_embedding[2].bias)
    positions = sinusoidal_embedding(torch.arange(TIMESTEPS), network.config.model_channels)
    return F.silu(network.time_embed(positions))


def _fitted(features: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """Weights and bias of a linear layer from features [n, e] to values [n], by least squares."""
    ones = torch.cat([features, torch.ones(len(features), 1)], dim=1).double()
    square = ones.T @ ones + _RIDGE * torch.eye(ones.shape[1], dtype=torch.float64)
    solved = torch.linalg.solve(square, ones.T @ wanted.double()).float()
    return solved[:-1], solved[-1]


def _set(layer: Any, output: int, inputs: dict[int, float], bias: float = 0.0) -> None:
    """One output of a layer or a convolution reads these inputs alone, at its own place."""
    layer.weight[output] = 0.0
    for each, value in inputs.items():
        _add(layer, output, each, value)
    layer.bias[output] = bias


def _add(layer: Any, output: int, each: int, value: float) -> None:
    place = (output, each, *(size // 2 for size in layer.weight.shape[2:]))
    layer.weight[place] += value
