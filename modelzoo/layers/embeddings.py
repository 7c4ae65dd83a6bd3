"""Embeddings of what conditions a whole picture: scalars such as time, and pooled text."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def sinusoid(values: Tensor, channels: int, max_period: float = 10000.0) -> Tensor:
    """Embed scalars (B,) as (B, channels) in float32: cosines first, then sines.

    Vaswani et al. 2017, section 3.5, with the frequencies max_period^(-i / half).
    """
    half = channels // 2
    exponents = torch.arange(half, dtype=torch.float32, device=values.device) / half
    angles = values.float()[:, None] * torch.exp(-math.log(max_period) * exponents)
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


class ScalarEmbedding(nn.Module):
    """A sinusoid of `channels` numbers followed by a two-layer perceptron of width `dim`."""

    def __init__(self, channels: int, dim: int, bias: bool = True) -> None:
        super().__init__()
        self.channels = channels
        self.linear_1 = nn.Linear(channels, dim, bias=bias)
        self.linear_2 = nn.Linear(dim, dim, bias=bias)

    def forward(self, values: Tensor, dtype: torch.dtype) -> Tensor:
        """Embed values (B,), of the order of 1000, as (B, D); only the perceptron is in `dtype`."""
        features = sinusoid(values, self.channels).to(dtype)
        return self.linear_2(F.silu(self.linear_1(features)))


class VectorEmbedding(nn.Module):
    """A two-layer perceptron from a vector of `channels` numbers to width `dim`."""

    def __init__(self, channels: int, dim: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(channels, dim)
        self.linear_2 = nn.Linear(dim, dim)

    def forward(self, vectors: Tensor) -> Tensor:
        """Map vectors (B, channels) to (B, D)."""
        return self.linear_2(F.silu(self.linear_1(vectors)))
