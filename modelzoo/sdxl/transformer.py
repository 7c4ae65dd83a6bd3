"""The attending half of SDXL's UNet: transformers over the cells of a feature map."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from modelzoo.layers.attention import attention
from modelzoo.layers.checkpointing import Run
from modelzoo.sdxl.config import Level, UNetConfig


class Transformer2DModel(nn.Module):
    """Cells become tokens, attend to each other and to the text, and become cells again."""

    def __init__(self, config: UNetConfig, level: Level) -> None:
        super().__init__()
        dim = level.dim
        self.norm = nn.GroupNorm(config.norm_num_groups, dim, eps=1e-6)
        self.proj_in = nn.Linear(dim, dim)
        self.transformer_blocks = nn.ModuleList(
            TransformerBlock(dim, level.heads, config.cross_attention_dim)
            for _ in range(level.depth)
        )
        self.proj_out = nn.Linear(dim, dim)

    def forward(self, x: Tensor, context: Tensor, run: Run) -> Tensor:
        """Update a feature map x (B, D, H, W) with context (B, L, cross_attention_dim)."""
        tokens = self.proj_in(self.norm(x).permute(0, 2, 3, 1).flatten(1, 2))
        for block in self.transformer_blocks:
            tokens = run(block, tokens, context)
        cells = self.proj_out(tokens).unflatten(1, x.shape[-2:])
        return x + cells.permute(0, 3, 1, 2)


class TransformerBlock(nn.Module):
    """Self-attention, attention to the text and a gated feed-forward, each behind a norm."""

    def __init__(self, dim: int, heads: int, context_dim: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attn1 = Attention(dim, heads, dim)
        self.norm2 = nn.LayerNorm(dim)
        self.attn2 = Attention(dim, heads, context_dim)
        self.norm3 = nn.LayerNorm(dim)
        self.ff = FeedForward(dim)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """Update tokens x (B, N, D) with context (B, L, context_dim)."""
        normed = self.norm1(x)
        x = x + self.attn1(normed, normed)
        x = x + self.attn2(self.norm2(x), context)
        return x + self.ff(self.norm3(x))


class Attention(nn.Module):
    """Queries of one sequence, keys and values of one that may be another."""

    def __init__(self, dim: int, heads: int, context_dim: int) -> None:
        super().__init__()
        self.heads = (heads, dim // heads)
        self.to_q = nn.Linear(dim, dim, bias=False)
        self.to_k = nn.Linear(context_dim, dim, bias=False)
        self.to_v = nn.Linear(context_dim, dim, bias=False)
        self.to_out = nn.ModuleList([nn.Linear(dim, dim)])

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """Give the update of x (B, N, D) from context (B, L, context_dim)."""
        query = self.to_q(x).unflatten(-1, self.heads)
        key = self.to_k(context).unflatten(-1, self.heads)
        value = self.to_v(context).unflatten(-1, self.heads)
        return self.to_out[0](attention(query, key, value))


class FeedForward(nn.Module):
    """Two linear layers around a gated GELU; the names are those of diffusers, `ff.net.0.proj`."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.net = nn.ModuleDict({"0": GEGLU(dim, 4 * dim), "2": nn.Linear(4 * dim, dim)})

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, N, D) to (B, N, D)."""
        return self.net["2"](self.net["0"](x))


class GEGLU(nn.Module):
    """Gate one half of a projection by the GELU of the other (Shazeer 2020, eq. 6)."""

    def __init__(self, dim: int, out_dim: int) -> None:
        super().__init__()
        self.proj = nn.Linear(dim, 2 * out_dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, N, D) to (B, N, out_dim)."""
        value, gate = self.proj(x).chunk(2, dim=-1)
        return value * F.gelu(gate)
