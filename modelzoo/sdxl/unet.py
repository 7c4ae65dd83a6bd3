"""SDXL's UNet (Podell et al. 2023), module names as in diffusers.

Latents pass through levels of falling resolution, the bottom, and the levels again in reverse, each
resnet on the way up reading a result of the way down. Time, the pooled text and the sizes of the
picture reach every resnet as one vector; the text's tokens reach every transformer block.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modelzoo.layers.checkpointing import Run, runner
from modelzoo.layers.embeddings import ScalarEmbedding, VectorEmbedding, sinusoid
from modelzoo.sdxl.config import UNetConfig
from modelzoo.sdxl.levels import DownBlock, MidBlock, UpBlock


class Descent(nn.Module):
    """The way down and the bottom of the UNet, which a ControlNet copies."""

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        first, levels = config.block_out_channels[0], config.levels
        self.config = config
        self.gradient_checkpointing = False
        self.conv_in = nn.Conv2d(config.in_channels, first, 3, padding=1)
        self.time_embedding = ScalarEmbedding(first, config.embedding_dim)
        self.add_embedding = VectorEmbedding(
            config.projection_class_embeddings_input_dim, config.embedding_dim
        )
        self.down_blocks = nn.ModuleList()
        dim = first
        for place, level in enumerate(levels, start=1):
            self.down_blocks.append(DownBlock(config, level, dim, shrink=place < len(levels)))
            dim = level.dim
        self.mid_block = MidBlock(config, levels[-1]._replace(depth=config.mid_depth))

    def embedding(
        self, timestep: Tensor, pooled: Tensor, sizes: Tensor, dtype: torch.dtype
    ) -> Tensor:
        """Embed timestep (B,), pooled text (B, P) and sizes (B, 6) as (B, embedding_dim)."""
        joined = vector(pooled, sizes, self.config.addition_time_embed_dim)
        emb = self.time_embedding(timestep, dtype) + self.add_embedding(joined)
        return F.silu(emb)  # once, as every resnet begins with it

    def descend(
        self, x: Tensor, emb: Tensor, context: Tensor, run: Run
    ) -> tuple[Tensor, list[Tensor]]:
        """Map x (B, D, H, W) to the bottom's result, and list what the way down leaves behind."""
        skips = [x]
        for block in self.down_blocks:
            x = block(x, skips, emb, context, run)
        return self.mid_block(x, emb, context, run), skips


class UNet2DConditionModel(Descent):
    """Predict the noise in latents, given text, time and the sizes of the picture."""

    def __init__(self, config: UNetConfig) -> None:
        super().__init__(config)
        first, levels = config.block_out_channels[0], config.levels
        skip_dims, dim = config.skip_dims, levels[-1].dim
        self.up_blocks = nn.ModuleList()
        for place, level in reversed(list(enumerate(levels))):
            taken = [skip_dims.pop() for _ in range(config.layers_per_block + 1)]
            self.up_blocks.append(UpBlock(config, level, dim, taken, grow=place > 0))
            dim = level.dim
        self.conv_norm_out = nn.GroupNorm(config.norm_num_groups, first, config.norm_eps)
        self.conv_out = nn.Conv2d(first, config.out_channels, 3, padding=1)

    def forward(
        self,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        pooled_projections: Tensor,
        timestep: Tensor,
        time_ids: Tensor,
        down_block_additional_residuals: Sequence[Tensor] | None = None,
        mid_block_additional_residual: Tensor | None = None,
    ) -> Tensor:
        """Give the noise (B, C, H, W) in latents of any size.

        Args:
            hidden_states: Noisy latents (B, C, H, W).
            encoder_hidden_states: Context (B, L, cross_attention_dim).
            pooled_projections: Pooled text (B, P).
            timestep: (B,) in [0, 1000).
            time_ids: (B, 6) pixels: original height and width, crop top and left, target height
                and width.
            down_block_additional_residuals: What a ControlNet adds to each result of the way down
                before the way up reads it.
            mid_block_additional_residual: What it adds to the result of the bottom.

        Raises:
            ValueError: There are not as many residuals as results of the way down.
        """
        context, run = encoder_hidden_states, runner(self)
        emb = self.embedding(timestep, pooled_projections, time_ids, hidden_states.dtype)
        x, skips = self.descend(self.conv_in(hidden_states), emb, context, run)
        if down_block_additional_residuals is not None:
            skips = added(skips, down_block_additional_residuals)
        if mid_block_additional_residual is not None:
            x = x + mid_block_additional_residual.to(x.dtype)
        for block in self.up_blocks:
            x = block(x, skips, emb, context, run)
        return self.conv_out(F.silu(self.conv_norm_out(x)))


def added(skips: Sequence[Tensor], residuals: Sequence[Tensor]) -> list[Tensor]:
    """Add a ControlNet's residuals to what the way down has left behind, which keeps its dtype.

    Raises:
        ValueError: There are not as many of them.
    """
    if len(residuals) != len(skips):
        raise ValueError(
            f"SDXL UNet: {len(residuals)} residuals were given for {len(skips)} results of the way "
            "down: give those of a ControlNet with the levels of its base"
        )
    return [skip + each.to(skip.dtype) for skip, each in zip(skips, residuals, strict=True)]


def vector(pooled: Tensor, sizes: Tensor, channels: int) -> Tensor:
    """Join pooled text (B, P) and the sizes (B, 6), embedded each (Podell et al. 2023, 2.2)."""
    embedded = sinusoid(sizes.flatten(), channels).view(len(sizes), -1)
    return torch.cat([pooled, embedded.to(pooled.dtype)], dim=-1)
