"""CLIP and the image VAE without a host, through transformers and diffusers.

Weights come in the releases' own layouts (open_clip, ldm) or in transformers' and diffusers'; sizes come from shapes.
"""

from __future__ import annotations

import html
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ftfy
import torch
import transformers
from einops import rearrange
from torch import Tensor, nn

from .checkpoints import clip_keys, vae_keys
from .checkpoints.check import check_tensors
from .checkpoints.read import read_config, read_state_dict
from .errors import CheckpointError, InputError

TEXT_HEAD_DIM = 64  # ViT-H/14, both as released
VISION_HEAD_DIM = 80
VOCABULARY = Path(__file__).parent / "assets" / "tokenizer"
VOCABULARY_SIZE = 49408
START, END, PAD = 49406, 49407, 0
PENULTIMATE_LAYERS = 23  # ViT-H/14's 24 text blocks less the last, as Stable Diffusion 2's folder stores them

Settings = Mapping[str, Any]
Source = str | Path | Mapping[str, Tensor]


@dataclass(frozen=True)
class TextConfig:
    """Sizes of CLIP's text tower.

    Args:
        layers: blocks that the weights hold.
        skip_last: blocks at the end that are left out, so that the output is the release's penultimate one
            (VGen: clip_embedder.py). `i2vgen_skip_last` in config.json if given; else 0 for exactly 23 blocks, which
            Stable Diffusion 2's folder has and which end at the penultimate one; else 1.
        activation: of the feed-forward layers, by transformers' name; `gelu` is the exact one.
    """

    vocabulary: int
    context_length: int
    width: int
    layers: int
    head_dim: int
    mlp_width: int
    skip_last: int
    activation: str = "gelu"
    norm_eps: float = 1e-5

    @classmethod
    def from_state_dict(
        cls, state_dict: Mapping[str, Tensor], settings: Settings | None = None, *, head_dim: int | None = None
    ) -> TextConfig:
        """Reads the sizes from a text tower in any layout of `checkpoints.clip_keys`.

        Args:
            settings: config.json of a CLIPTextModel or a CLIPModel, or a file's metadata (`text_head_dim`): what
                leaves no trace in shapes.
            head_dim: goes before the settings; without either it is the release's 64.

        Raises:
            CheckpointError: no text tower, or sizes that do not fit together.
        """
        weights = clip_keys.text_to_transformers(state_dict)
        settings = _of_tower(settings, "text_config")
        what, stem = "CLIP text encoder", "text_model."
        vocabulary, width = _shape(what, weights, f"{stem}embeddings.token_embedding.weight", 2)
        layers = clip_keys.count(weights, r"text_model\.encoder\.layers\.(\d+)\.")
        skip_last = int(settings.get("i2vgen_skip_last", 0 if layers == PENULTIMATE_LAYERS else 1))
        if not 0 <= skip_last < layers:
            remedy = "Correct i2vgen_skip_last in config.json, or choose a whole text encoder."
            raise CheckpointError(what, f"more than {skip_last} blocks, which are left out", f"{layers}", remedy)
        return cls(
            vocabulary=vocabulary,
            context_length=_shape(what, weights, f"{stem}embeddings.position_embedding.weight", 2)[0],
            width=width,
            layers=layers,
            head_dim=_head_dim(what, width, head_dim or settings.get("text_head_dim"), settings, TEXT_HEAD_DIM),
            mlp_width=_shape(what, weights, f"{stem}encoder.layers.0.mlp.fc1.weight", 2)[0],
            skip_last=skip_last,
            activation=settings.get("hidden_act", cls.activation),
            norm_eps=float(settings.get("layer_norm_eps", cls.norm_eps)),
        )


@dataclass(frozen=True)
class VisionConfig:
    """Sizes of CLIP's vision tower.

    Args:
        image_size: side of the square input in pixels.
        projection: width of the image embedding.
        activation: of the feed-forward layers, by transformers' name; `gelu` is the exact one.
    """

    image_size: int
    patch_size: int
    channels: int
    width: int
    layers: int
    head_dim: int
    mlp_width: int
    projection: int
    activation: str = "gelu"
    norm_eps: float = 1e-5

    @classmethod
    def from_state_dict(
        cls, state_dict: Mapping[str, Tensor], settings: Settings | None = None, *, head_dim: int | None = None
    ) -> VisionConfig:
        """Reads the sizes from a vision tower in any layout of `checkpoints.clip_keys`.

        Args:
            settings: config.json of a CLIPVisionModelWithProjection or a CLIPModel, or a file's metadata
                (`vision_head_dim`): what leaves no trace in shapes.
            head_dim: goes before the settings; without either it is the release's 80.

        Raises:
            CheckpointError: no vision tower, or sizes that do not fit together.
        """
        weights = clip_keys.vision_to_transformers(state_dict)
        settings = _of_tower(settings, "vision_config")
        what, stem = "CLIP vision encoder", "vision_model."
        width, channels, patch, _ = _shape(what, weights, f"{stem}embeddings.patch_embedding.weight", 4)
        positions = _shape(what, weights, f"{stem}embeddings.position_embedding.weight", 2)[0]
        side = math.isqrt(positions - 1)
        if side * side != positions - 1:
            remedy = "Choose a CLIP vision encoder of square images."
            raise CheckpointError(what, "one position and a square number of them", f"{positions} positions", remedy)
        return cls(
            image_size=side * patch,
            patch_size=patch,
            channels=channels,
            width=width,
            layers=clip_keys.count(weights, r"vision_model\.encoder\.layers\.(\d+)\."),
            head_dim=_head_dim(what, width, head_dim or settings.get("vision_head_dim"), settings, VISION_HEAD_DIM),
            mlp_width=_shape(what, weights, f"{stem}encoder.layers.0.mlp.fc1.weight", 2)[0],
            projection=_shape(what, weights, "visual_projection.weight", 2)[0],
            activation=settings.get("hidden_act", cls.activation),
            norm_eps=float(settings.get("layer_norm_eps", cls.norm_eps)),
        )


@dataclass(frozen=True)
class VAEConfig:
    """Sizes of Stable Diffusion's VAE.

    Args:
        channels: of each resolution, the full one first.
        blocks: residual blocks of one resolution in the encoder; the decoder has one more.
    """

    in_channels: int
    out_channels: int
    latent_channels: int
    channels: tuple[int, ...]
    blocks: int
    norm_groups: int = 32

    @property
    def scale_factor(self) -> int:
        """Pixels to one latent position, along a side."""
        return int(2 ** (len(self.channels) - 1))

    @classmethod
    def from_state_dict(cls, state_dict: Mapping[str, Tensor], settings: Settings | None = None) -> VAEConfig:
        """Reads the sizes from a VAE in any layout of `checkpoints.vae_keys`.

        Args:
            settings: config.json of an AutoencoderKL, for `norm_num_groups`, which leaves no trace in shapes.

        Raises:
            CheckpointError: no VAE, or a tensor that the sizes are read from is missing.
        """
        weights = vae_keys.vae_to_diffusers(state_dict)
        levels = clip_keys.count(weights, r"encoder\.down_blocks\.(\d+)\.")
        level_keys = [f"encoder.down_blocks.{i}.resnets.0.conv1.weight" for i in range(levels)]
        return cls(
            in_channels=_shape("VAE", weights, "encoder.conv_in.weight", 4)[1],
            out_channels=_shape("VAE", weights, "decoder.conv_out.weight", 4)[0],
            latent_channels=_shape("VAE", weights, "decoder.conv_in.weight", 4)[1],
            channels=tuple(_shape("VAE", weights, key, 4)[0] for key in level_keys),
            blocks=clip_keys.count(weights, r"encoder\.down_blocks\.\d+\.resnets\.(\d+)\."),
            norm_groups=int((settings or {}).get("norm_num_groups", cls.norm_groups)),
        )


class Tokenizer:
    """CLIP's byte-pair encoding as open_clip runs it, text cleaning and padding with 0 included.

    Args:
        folder: vocab.json and merges.txt, or tokenizer.json; the project's own copy if None or not there. What the
            folder says of padding and length is not followed: the published one pads with the end token.
        length: tokens of one prompt.

    Raises:
        CheckpointError: the folder holds another vocabulary.
    """

    def __init__(self, folder: Path | None = None, length: int = 77):
        self.length = length
        folder = folder if folder is not None and folder.is_dir() else VOCABULARY
        what, expected = f"tokenizer folder {folder.name}", f"CLIP's {VOCABULARY_SIZE} tokens"
        remedy = "Use CLIP's vocab.json and merges.txt, or remove the folder to use the built-in ones."
        try:
            kind = transformers.CLIPTokenizerFast  # type: ignore[attr-defined]  # in 5 an alias that its types hide
            self._bpe = kind.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError, ImportError) as error:  # ImportError: transformers 4, on a broken vocabulary
            raise CheckpointError(what, expected, " ".join(str(error).split())[:200], remedy) from error
        if self._bpe.vocab_size != VOCABULARY_SIZE or self._bpe("").input_ids != [START, END]:
            raise CheckpointError(what, expected, f"{self._bpe.vocab_size} tokens", remedy)

    def __call__(self, prompts: list[str]) -> Tensor:
        """Tokens int64 [B, length]: start, text cut to fit, end, zeros."""
        texts = [" ".join(repaired(prompt).split()).lower() for prompt in prompts]
        rows = self._bpe(texts, truncation=True, max_length=self.length, padding=False, split_special_tokens=True)
        tokens = torch.full((len(texts), self.length), PAD, dtype=torch.int64)
        for row, ids in zip(tokens, rows.input_ids, strict=True):
            row[: len(ids)] = torch.tensor(ids)
        return tokens


class TextEncoder:
    """CLIP's text tower up to the penultimate block, then the final norm (VGen: clip_embedder.py).

    Args:
        config: sizes.
        model: transformers.CLIPTextModel without the last `config.skip_last` blocks.
        tokenizer: for `encode`.
    """

    def __init__(self, config: TextConfig, model: nn.Module, tokenizer: Tokenizer):
        self.config, self.model, self.tokenizer = config, model, tokenizer

    def to(self, device: torch.device | str) -> TextEncoder:
        """Moves the weights."""
        self.model.to(device)
        return self

    @torch.no_grad()
    def __call__(self, tokens: Tensor) -> Tensor:
        """Embeddings float32 [B, N, width] of tokens [B, N], N at most the context length."""
        return self.model(input_ids=tokens.to(_device(self.model)).long()).last_hidden_state.float()

    def encode(self, prompts: list[str]) -> Tensor:
        """Embeddings float32 [B, 77, width] of prompts, on the model's device. An empty prompt is a prompt."""
        return self(self.tokenizer(prompts))


class ImageEncoder:
    """CLIP's vision tower with its projection (VGen: clip_embedder.py, FrozenOpenCLIPTextVisualEmbedder).

    Args:
        config: sizes.
        model: transformers.CLIPVisionModelWithProjection.
    """

    def __init__(self, config: VisionConfig, model: nn.Module):
        self.config, self.model = config, model

    def to(self, device: torch.device | str) -> ImageEncoder:
        """Moves the weights."""
        self.model.to(device)
        return self

    @torch.no_grad()
    def encode(self, pixels: Tensor) -> Tensor:
        """Image embeddings float32 [B, projection], projected, of their own length, on the model's device.

        Args:
            pixels: [B, 3, S, S], S = config.image_size (224 as released), with CLIP's mean and deviation taken out.

        Raises:
            InputError: another size.
        """
        expected = (self.config.channels, self.config.image_size, self.config.image_size)
        if pixels.ndim != 4 or tuple(pixels.shape[1:]) != expected:
            remedy = "Crop and resize the image to the encoder's size."
            raise InputError(
                "CLIP image", f"shape [B, {expected[0]}, {expected[1]}, {expected[2]}]", f"{list(pixels.shape)}", remedy
            )
        return self.model(pixel_values=_like(pixels, self.model)).image_embeds.float()


class VAE:
    """Stable Diffusion's VAE. Latents are unscaled: the factor 0.18215 is the sampler's.

    Args:
        config: sizes.
        model: diffusers.AutoencoderKL.
    """

    def __init__(self, config: VAEConfig, model: Any):
        self.config, self.model = config, model

    def to(self, device: torch.device | str) -> VAE:
        """Moves the weights."""
        self.model.to(device)  # type: ignore[arg-type]  # diffusers wraps it and loses the signature
        return self

    @torch.no_grad()
    def moments(self, pixels: Tensor) -> Tensor:
        """Mean and log-variance float32 [N, 2 * latent channels, H/8, W/8] of pixels [N, 3, H, W] in -1..1."""
        return self.model.encode(_like(pixels, self.model)).latent_dist.parameters.float()

    @torch.no_grad()
    def decode_pixels(self, latent: Tensor) -> Tensor:
        """Pixels float32 [N, 3, H, W], near -1..1 and not cut to it, of an unscaled latent [N, 4, H/8, W/8]."""
        return self.model.decode(_like(latent, self.model)).sample.float()

    def encode(self, images: Tensor, frames_per_batch: int = 4) -> Tensor:
        """The posterior's mode, unscaled, float32 [N, 4, H/8, W/8], on the images' device.

        The official code samples the posterior; the mode makes one video of one seed.

        Args:
            images: [N, H, W, 3] in 0..1, H and W multiples of 8.
            frames_per_batch: how many go through the network at once.

        Raises:
            InputError: no image, an alpha channel, or a size that the network would cut.
        """
        factor, channels = self.config.scale_factor, self.config.in_channels
        if images.ndim != 4 or images.shape[0] == 0 or images.shape[3] != channels:
            remedy = "Give at least one image, without an alpha channel."
            raise InputError("image", f"shape [N, H, W, {channels}]", f"{list(images.shape)}", remedy)
        height, width = images.shape[1:3]
        if min(height, width) < factor or height % factor or width % factor:
            remedy = "Crop or resize the image."
            raise InputError("image", f"height and width in multiples of {factor}", f"{width}x{height}", remedy)
        means = [
            self.moments(rearrange(part, "n h w c -> n c h w") * 2 - 1)[:, : self.config.latent_channels]
            for part in images.split(_positive(frames_per_batch))
        ]
        return torch.cat(means).to(images.device)

    def decode(self, latent: Tensor, frames_per_batch: int = 4) -> Tensor:
        """Images float32 [N, H, W, 3] in 0..1, on the latent's device.

        Args:
            latent: unscaled, [N, 4, H/8, W/8].
            frames_per_batch: how many go through the network at once.

        Raises:
            InputError: no frame, or another number of channels.
        """
        channels = self.config.latent_channels
        if latent.ndim != 4 or latent.shape[0] == 0 or latent.shape[1] != channels:
            remedy = "Give the latent of the VAE that belongs to this model, frames as the batch."
            raise InputError("latent", f"shape [N, {channels}, h, w]", f"{list(latent.shape)}", remedy)
        images = [
            rearrange((self.decode_pixels(part) + 1) / 2, "n c h w -> n h w c").clamp(0, 1).to(latent.device)
            for part in latent.split(_positive(frames_per_batch))
        ]
        return torch.cat(images)


def load_text_encoder(
    source: Source,
    *,
    settings: Settings | None = None,
    head_dim: int | None = None,
    tokenizer: Path | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> TextEncoder:
    """CLIP's text encoder from a file, a bundle's `text_encoder/` folder, or a state dict.

    Args:
        source: open_clip's or transformers' layout; the other tower beside it is left alone.
        settings: config.json or metadata as a dict; read from the source if None.
        head_dim: see TextConfig.from_state_dict.
        tokenizer: a bundle's `tokenizer/` folder; the built-in vocabulary if None or not there.

    Raises:
        CheckpointError: unreadable, another model, or tensors missing, unknown or of a wrong shape.
    """
    what = "CLIP text encoder"
    state_dict, settings = _open(source, settings)
    tower = clip_keys.text_tower(state_dict)
    config = TextConfig.from_state_dict(tower, settings, head_dim=head_dim)
    if config.vocabulary < VOCABULARY_SIZE:
        remedy = "Choose a CLIP text encoder."
        raise CheckpointError(what, f"{VOCABULARY_SIZE} token embeddings", f"{config.vocabulary}", remedy)
    with torch.device("meta"):
        model = transformers.CLIPTextModel(
            transformers.CLIPTextConfig(
                vocab_size=config.vocabulary,
                max_position_embeddings=config.context_length,
                hidden_size=config.width,
                num_hidden_layers=config.layers,
                num_attention_heads=config.width // config.head_dim,
                intermediate_size=config.mlp_width,
                hidden_act=config.activation,
                layer_norm_eps=config.norm_eps,
            )
        )
    inner = getattr(model, "text_model", model)  # transformers before 5 wraps it
    named = nn.ModuleDict({"text_model": inner})
    expected = named.state_dict()
    check_tensors(tower, clip_keys.text_to_open_clip(expected) if clip_keys.is_open_clip(tower) else expected, what)
    inner.encoder.layers = inner.encoder.layers[: config.layers - config.skip_last]
    _assign(named, clip_keys.text_to_transformers(tower), dtype, device)
    return TextEncoder(config, inner, Tokenizer(tokenizer, config.context_length))


def load_image_encoder(
    source: Source,
    *,
    settings: Settings | None = None,
    head_dim: int | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> ImageEncoder:
    """CLIP's image encoder from a file, a bundle's `image_encoder/` folder, or a state dict.

    Args:
        source: open_clip's or transformers' layout; the other tower beside it is left alone.
        settings: config.json or metadata as a dict; read from the source if None.
        head_dim: see VisionConfig.from_state_dict.

    Raises:
        CheckpointError: unreadable, another model, or tensors missing, unknown or of a wrong shape.
    """
    state_dict, settings = _open(source, settings)
    tower = clip_keys.vision_tower(state_dict)
    config = VisionConfig.from_state_dict(tower, settings, head_dim=head_dim)
    with torch.device("meta"):
        model = transformers.CLIPVisionModelWithProjection(
            transformers.CLIPVisionConfig(
                image_size=config.image_size,
                patch_size=config.patch_size,
                num_channels=config.channels,
                hidden_size=config.width,
                num_hidden_layers=config.layers,
                num_attention_heads=config.width // config.head_dim,
                intermediate_size=config.mlp_width,
                projection_dim=config.projection,
                hidden_act=config.activation,
                layer_norm_eps=config.norm_eps,
            )
        )
    expected = model.state_dict()
    expected = clip_keys.vision_to_open_clip(expected) if clip_keys.is_open_clip(tower) else expected
    check_tensors(tower, expected, "CLIP vision encoder")
    _assign(model, clip_keys.vision_to_transformers(tower), dtype, device)
    return ImageEncoder(config, model)


def load_vae(
    source: Source,
    *,
    settings: Settings | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> VAE:
    """The VAE from a file, a bundle's `vae/` folder, or a state dict.

    Args:
        source: ldm's or diffusers' layout; a whole Stable Diffusion checkpoint will do.
        settings: config.json or metadata as a dict; read from the source if None.

    Raises:
        CheckpointError: unreadable, another model, or tensors missing, unknown or of a wrong shape.
    """
    state_dict, settings = _open(source, settings)
    tensors = vae_keys.vae_tensors(state_dict)
    config = VAEConfig.from_state_dict(tensors, settings)
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL  # seconds to import, and only needed here

    levels = len(config.channels)
    with torch.device("meta"):
        model = AutoencoderKL(
            in_channels=config.in_channels,
            out_channels=config.out_channels,
            latent_channels=config.latent_channels,
            block_out_channels=config.channels,
            layers_per_block=config.blocks,
            norm_num_groups=config.norm_groups,
            down_block_types=("DownEncoderBlock2D",) * levels,
            up_block_types=("UpDecoderBlock2D",) * levels,
        )
    expected = model.state_dict()
    check_tensors(tensors, vae_keys.vae_to_ldm(expected) if vae_keys.is_ldm(tensors) else expected, "VAE")
    _assign(model, vae_keys.vae_to_diffusers(tensors), dtype, device)
    return VAE(config, model)


def repaired(text: str) -> str:
    """Text with the repairs that open_clip's tokenizer begins with: broken Unicode, and HTML entities."""
    return html.unescape(html.unescape(ftfy.fix_text(text)))


def _open(source: Source, settings: Settings | None) -> tuple[Mapping[str, Tensor], Settings]:
    if isinstance(source, Mapping):
        return source, settings or {}
    path = Path(source)
    state_dict, metadata = read_state_dict(path)
    if settings is None:
        settings = metadata | read_config(path) if path.is_dir() else metadata
    return state_dict, settings


def _of_tower(settings: Settings | None, name: str) -> Settings:
    """One tower's settings; config.json of a whole CLIPModel holds them under `name`."""
    settings = settings or {}
    return settings | settings[name] if isinstance(settings.get(name), Mapping) else settings


def _head_dim(what: str, width: int, given: Any, settings: Settings, released: int) -> int:
    heads = settings.get("num_attention_heads")
    head_dim = int(given) if given else width // int(heads) if heads else released
    if width % head_dim:
        expected = f"a width that is a multiple of the head dimension {head_dim}"
        remedy = "Put the model's config.json beside its weights."
        raise CheckpointError(what, expected, f"{width}", remedy)
    return head_dim


def _shape(what: str, weights: Mapping[str, Tensor], key: str, ndim: int) -> tuple[int, ...]:
    if key not in weights or weights[key].ndim != ndim:
        found = f"shape {list(weights[key].shape)}" if key in weights else "no such tensor"
        raise CheckpointError(what, f"tensor {key} of {ndim} dimensions", found, "Use the released file.")
    return tuple(weights[key].shape)


def _assign(model: nn.Module, weights: Mapping[str, Tensor], dtype: torch.dtype, device: torch.device | str) -> None:
    """Puts weights into a model on meta; those of blocks that it does not have are left out."""
    weights = {key: weights[key].to(device=device, dtype=dtype) for key in model.state_dict()}
    model.load_state_dict(weights, strict=True, assign=True)
    for module in model.modules():
        for name, buffer in module.named_buffers(recurse=False):
            if name == "position_ids":  # the only buffer that transformers' CLIP keeps out of its state dict
                setattr(module, name, torch.arange(buffer.shape[-1], device=device)[None])
    model.eval().requires_grad_(False)


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device


def _like(tensor: Tensor, model: nn.Module) -> Tensor:
    parameter = next(model.parameters())
    return tensor.to(device=parameter.device, dtype=parameter.dtype)


def _positive(frames_per_batch: int) -> int:
    if frames_per_batch < 1:
        raise InputError(
            "frames_per_batch", "at least 1", f"{frames_per_batch}", "Give how many frames to run at once."
        )
    return frames_per_batch
