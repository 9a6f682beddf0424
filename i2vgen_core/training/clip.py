"""Trains CLIP's two towers by contrast (arXiv 2103.00020): pictures with captions, and moving pictures with captions.

A caption's motion cannot be told from one picture. So a small head, which is not kept, looks at the patches of a clip's
first and last frame together, and the batch holds clips that begin alike and differ in the motion alone: by this the text
tower learns the words that the video network needs most.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPVisionConfig, CLIPVisionModelWithProjection

from ..images import clip_pixels
from ..tokenizer import END, VOCABULARY_SIZE, Tokenizer
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
        image_size, patch_size: the vision tower's input, a square, and its patches, in pixels.
        projection: width of the embeddings that are compared, and of the image embedding that a base reads.
        size: width and height of the clips in pixels.
        seconds: between the two frames of a clip that are compared; 0 where the data are images.
        batch: clips in a batch; of the world's, half of them are the other half's opposites.
        data: the world's scenes, where no folder is given.
        loop: how long and how.
    """

    width: int = 64
    text_layers: int = 3
    vision_width: int = 64
    vision_layers: int = 3
    head_dim: int = 16
    image_size: int = 64
    patch_size: int = 8
    projection: int = 64
    size: tuple[int, ...] = (128, 64)
    seconds: float = 1.0
    batch: int = 64
    data: World = field(default_factory=World)
    loop: LoopConfig = field(default_factory=LoopConfig)


class CLIP(nn.Module):
    """Both towers, and what only training needs: the text's projection, the head for motion, the temperatures."""

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
        self.video_head = nn.Sequential(
            nn.Conv2d(2 * config.vision_width, 2 * projection, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(2 * projection, 2 * projection, 3, padding=1),
            nn.GELU(),
            nn.AdaptiveMaxPool2d(1),
            nn.Flatten(),
            nn.Linear(2 * projection, projection),
        )
        self.log_scales = nn.Parameter(torch.full((2,), 2.6))  # 1 / 0.07, arXiv 2103.00020

    def forward(self, tokens: Tensor, first: Tensor, last: Tensor) -> tuple[Tensor, Tensor]:
        """Logits [N, N], captions along the columns, of the first pictures and of the clips.

        Args:
            tokens: [N, 77] or shorter.
            first, last: pictures [N, 3, S, S] as CLIP reads them.
        """
        hidden = self.text(input_ids=tokens).last_hidden_state
        text = self.text_projection(hidden[torch.arange(len(tokens)), (tokens == END).int().argmax(1)])
        seen = self.vision(pixel_values=torch.cat([first, last]))
        start, _ = seen.image_embeds.chunk(2)
        side = first.shape[2] // self.vision.config.patch_size
        patches = rearrange(seen.last_hidden_state[:, 1:], "(t n) (h w) c -> n (t c) h w", t=2, h=side)
        text, start, video = (F.normalize(e.float(), dim=1) for e in (text, start, self.video_head(patches)))
        scales = self.log_scales.exp().clamp(max=100)
        return scales[0] * start @ text.T, scales[1] * video @ text.T


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
        first, last = (
            clip_pixels(torch.stack([sample.frames[i] for sample in samples]), config.size[0], config.image_size)
            for i in (0, -1)
        )
        by_picture, by_clip = model(tokens[:, :longest].to(device), first.to(device), last.to(device))
        wanted = torch.arange(len(samples), device=by_clip.device)
        losses = [(F.cross_entropy(x, wanted) + F.cross_entropy(x.T, wanted)) / 2 for x in (by_picture, by_clip)]
        found = (by_clip.argmax(1) == wanted).float().mean().item()
        return losses[0] + losses[1], {"pictures": losses[0].item(), "clips": losses[1].item(), "found": found}

    return Loop(model, loss, batch, folder, config.loop, device=device)
