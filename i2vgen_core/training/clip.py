"""Trains CLIP's two towers by contrast (arXiv 2103.00020): pictures with captions, and moving pictures with captions.

A caption's motion cannot be told from one picture, and a text tower that never needs it gives "left" and "right" nearly
the same tokens. So a small network, which is not kept, looks at a clip's first and last frame together, and the batch holds
clips that begin alike and differ in the motion alone: by this the text tower learns the words that the video network needs
most.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPVisionConfig, CLIPVisionModelWithProjection

from ..encoders.tokenizer import END, VOCABULARY_SIZE, Tokenizer
from ..errors import check_range
from ..media.images import clip_pixels
from .data import Sample, Source, World
from .loop import Loop, LoopConfig


@dataclass(frozen=True)
class CLIPTraining:
    """The towers' sizes and recipe.

    Args:
        width: of the text tower, and of a base's context.
        text_layers: of the text tower; video networks read the last but one.
        vision_width, vision_layers: of the vision tower.
        head_dim: width of an attention head in both.
        word_scale: deviation of the words' embeddings at first.
        token_scale: deviation that the numbers of the text's tokens are brought to at the end.
        motion_width: channels of the network that sees the motion.
        image_size, patch_size: the vision tower's input, a square, and its patches, in pixels.
        projection: width of the embeddings that are compared, and of the image embedding that a base reads.
        size: width and height of the clips in pixels.
        seconds: between the two frames of a clip that are compared; 0 where the data are images.
        batch: clips in a batch; of the world's, every second is the opposite of the one before.
        data: the world's scenes, where no folder is given.
        loop: how long and how.
    """

    width: int = 64
    text_layers: int = 3
    vision_width: int = 64
    vision_layers: int = 3
    head_dim: int = 16
    word_scale: float = 0.3
    token_scale: float = 1.5
    motion_width: int = 96
    image_size: int = 64
    patch_size: int = 8
    projection: int = 64
    size: tuple[int, ...] = (128, 64)
    seconds: float = 1.0
    batch: int = 64
    data: World = field(default_factory=World)
    loop: LoopConfig = field(default_factory=LoopConfig)

    def __post_init__(self) -> None:
        check_range("batch", self.batch, 2, 10**6)  # of one clip there is nothing to tell it from


class CLIP(nn.Module):
    """Both towers, and what only training needs: projections of the text, the network for motion, the temperatures."""

    def __init__(self, config: CLIPTraining):
        super().__init__()
        width, projection = config.width, config.projection
        self.text = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=VOCABULARY_SIZE,
                hidden_size=width,
                intermediate_size=4 * width,
                num_hidden_layers=config.text_layers,
                num_attention_heads=width // config.head_dim,
                hidden_act="gelu",
                eos_token_id=END,
            )
        )
        # Words begin as different as the layers' outputs are large, else the few that contrast needs first, the colours,
        # drown the others.
        nn.init.normal_(self.text.get_input_embeddings().weight, std=config.word_scale)
        self.vision = CLIPVisionModelWithProjection(
            CLIPVisionConfig(
                hidden_size=config.vision_width,
                intermediate_size=4 * config.vision_width,
                projection_dim=projection,
                num_hidden_layers=config.vision_layers,
                num_attention_heads=config.vision_width // config.head_dim,
                image_size=config.image_size,
                patch_size=config.patch_size,
                hidden_act="gelu",
            )
        )
        self.text_projection = nn.Linear(width, projection, bias=False)
        self.motion_projection = nn.Linear(width, projection, bias=False)
        self.motion = _Motion(config.motion_width, projection)
        self.log_scales = nn.Parameter(torch.full((2,), 2.6))  # 1 / 0.07, arXiv 2103.00020

    def forward(self, tokens: Tensor, pixels: Tensor, first: Tensor, last: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of pictures and of clips with the captions, which are along the columns: [M, M] and [N, N].

        Args:
            tokens: [N, 77] or shorter.
            pixels: pictures [M, 3, S, S] as CLIP reads them, of the clips 0, N / M, 2 N / M and so on.
            first, last: frames [N, H, W, 3] of the clips in 0..1.
        """
        hidden = self.text(input_ids=tokens).last_hidden_state
        ends = hidden[torch.arange(len(tokens)), (tokens == END).int().argmax(1)]
        seen = self.vision(pixel_values=pixels).image_embeds
        shown, moving = self.text_projection(ends[:: len(tokens) // len(pixels)]), self.motion_projection(ends)
        seen, moved, shown, moving = (
            F.normalize(each.float(), dim=1) for each in (seen, self.motion(first, last), shown, moving)
        )
        scales = self.log_scales.exp().clamp(max=100)
        return scales[0] * seen @ shown.T, scales[1] * moved @ moving.T


class _Motion(nn.Module):
    """Frames [N, H, W, 3] at two moments to embeddings [N, projection]."""

    _HEIGHT = 32  # of what it looks at

    def __init__(self, width: int, projection: int):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(6, width // 2, 5, 2, 2),
            nn.GELU(),
            nn.Conv2d(width // 2, width, 3, 2, 1),
            nn.GELU(),
            nn.Conv2d(width, width, 3, 2, 1),
            nn.GELU(),
            nn.Conv2d(width, width, 3, 1, 1),
            nn.GELU(),
        )
        self.out = nn.Linear(2 * width, projection)

    def forward(self, first: Tensor, last: Tensor) -> Tensor:
        pixels = torch.cat([first, last - first], dim=3).permute(0, 3, 1, 2)
        height, width = pixels.shape[2:]
        size = (self._HEIGHT, max(8, round(width / height * self._HEIGHT)))
        features = self.layers(F.interpolate(pixels, size, mode="bilinear", antialias=True) * 2)
        return self.out(torch.cat([features.amax((2, 3)), features.mean((2, 3))], dim=1))


def build_clip(config: CLIPTraining) -> CLIP:
    """New towers with the seed's weights."""
    torch.manual_seed(config.loop.seed)
    return CLIP(config)


def train_clip(
    model: CLIP, source: Source, folder: Path, config: CLIPTraining, device: torch.device | str = "cpu"
) -> Loop[list[Sample]]:
    """The loop that trains them.

    Args:
        model: both towers.
        source: of the clips.
        folder: for checkpoint and log.
        config: the recipe.
        device: where to train.
    """
    model.to(device)
    tokenizer = Tokenizer()

    def batch(number: int) -> list[Sample]:
        arguments = (*config.size, 2, 1 / config.seconds) if config.seconds else (*config.size, 1, 1)
        if isinstance(source, World):
            first, count = number * 1000, config.batch // 2
            return [sample for i in range(first, first + count) for sample in source.pair(i, *arguments)]
        return [source.clip(number * config.batch + i, *arguments) for i in range(config.batch)]

    def loss(samples: list[Sample], _: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        tokens = tokenizer([sample.prompt for sample in samples])
        longest = int((tokens == END).int().argmax(1).max()) + 1  # what follows the end does not reach back
        first, last = (torch.stack([sample.frames[i] for sample in samples]).to(device) for i in (0, -1))
        pictures = first[::2] if isinstance(source, World) else first  # of a pair of opposites both begin alike
        pixels = clip_pixels(pictures, config.size[0], config.image_size)
        by_picture, by_clip = model(tokens[:, :longest].to(device), pixels, first, last)
        losses = [_contrast(logits) for logits in (by_picture, by_clip)]
        figures = {"pictures": losses[0].item(), "clips": losses[1].item(), "found": _found(by_clip)}
        if isinstance(source, World):
            pairs = by_clip.unflatten(0, (-1, 2)).unflatten(2, (-1, 2)).diagonal(dim1=0, dim2=2)  # 2 clips, 2 captions
            figures["opposites"] = (pairs[0, 0] > pairs[0, 1]).float().mean().item()
        return losses[0] + losses[1], figures

    return Loop(model, loss, batch, folder, config.loop, device=device)


@torch.no_grad()
def standardise_tokens(text: CLIPTextModel, prompts: list[str], deviation: float) -> None:
    """Shifts and scales what video networks read of the text tower so that every number of a token has mean 0 and this
    deviation over these prompts: what they share does not drown what differs. The change goes into the last LayerNorm.

    Args:
        text: the tower, with all its layers; networks read the last but one through the last norm.
        prompts: texts as they will be.
        deviation: above 0.
    """
    norm = next(module for name, module in text.named_modules() if name.endswith("final_layer_norm"))
    assert isinstance(norm, nn.LayerNorm)
    tokens = Tokenizer()(prompts).to(norm.weight.device)
    batches = (text(input_ids=part, output_hidden_states=True).hidden_states[-2] for part in tokens.split(32))
    values = torch.cat([norm(hidden)[:, 1:] for hidden in batches]).flatten(0, 1)  # the first is every text's
    scale = deviation / values.std(0)
    norm.bias.copy_((norm.bias - values.mean(0)) * scale)
    norm.weight.mul_(scale)


def _contrast(logits: Tensor) -> Tensor:
    wanted = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, wanted) + F.cross_entropy(logits.T, wanted)) / 2


def _found(logits: Tensor) -> float:
    return (logits.argmax(1).cpu() == torch.arange(len(logits))).float().mean().item()
