"""SDXL's UNet (Podell et al. 2023), module names as in diffusers.

Latents pass through levels of falling resolution, the bottom, and the levels again in reverse, each
resnet on the way up reading a result of the way down. Time, the pooled text and the sizes of the
picture reach every resnet as one vector; the text's tokens reach every transformer block.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from modelzoo.layers.embeddings import ScalarEmbedding, VectorEmbedding, sinusoid
from modelzoo.sdxl.config import UNetConfig
from modelzoo.sdxl.levels import DownBlock, MidBlock, UpBlock


class UNet2DConditionModel(nn.Module):
    """Predict the noise in latents, given text, time and the sizes of the picture."""

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
        skip_dims, dim = [first], first
        for place, level in enumerate(levels, start=1):
            shrink = place < len(levels)
            self.down_blocks.append(DownBlock(config, level, dim, shrink))
            skip_dims += [level.dim] * (config.layers_per_block + shrink)
            dim = level.dim
        self.mid_block = MidBlock(config, levels[-1]._replace(depth=config.mid_depth))
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
    ) -> Tensor:
        """Give the noise (B, C, H, W) in latents of any size.

        Args:
            hidden_states: Noisy latents (B, C, H, W).
            encoder_hidden_states: Context (B, L, cross_attention_dim).
            pooled_projections: Pooled text (B, P).
            timestep: (B,) in [0, 1000).
            time_ids: (B, 6) pixels: original height and width, crop top and left, target height
                and width.
        """
        context = encoder_hidden_states
        added = vector(pooled_projections, time_ids, self.config.addition_time_embed_dim)
        emb = self.time_embedding(timestep, hidden_states.dtype) + self.add_embedding(added)
        emb = F.silu(emb)  # once, as every resnet begins with it
        run = rerun if self.gradient_checkpointing and torch.is_grad_enabled() else call
        x = self.conv_in(hidden_states)
        skips = [x]
        for block in self.down_blocks:
            x = block(x, skips, emb, context, run)
        x = self.mid_block(x, emb, context, run)
        for block in self.up_blocks:
            x = block(x, skips, emb, context, run)
        return self.conv_out(F.silu(self.conv_norm_out(x)))


def vector(pooled: Tensor, sizes: Tensor, channels: int) -> Tensor:
    """Join pooled text (B, P) and the sizes (B, 6), embedded each (Podell et al. 2023, 2.2)."""
    embedded = sinusoid(sizes.flatten(), channels).view(len(sizes), -1)
    return torch.cat([pooled, embedded.to(pooled.dtype)], dim=-1)


def call(block: nn.Module, *inputs: Tensor) -> Tensor:
    """Run a block and keep its activations for the backward pass."""
    return block(*inputs)


def rerun(block: nn.Module, *inputs: Tensor) -> Tensor:
    """Run a block now and again in the backward pass, keeping only its inputs."""
    return checkpoint(block, *inputs, use_reentrant=False)
