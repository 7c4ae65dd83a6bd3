"""The feed-forward layer of transformers whose activation has no gate, named as in diffusers."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class GeluProjection(nn.Module):
    """The layer that widens, and GELU by its tanh formula (Hendrycks and Gimpel 2016, sec. 2)."""

    def __init__(self, dim: int, mlp_dim: int) -> None:
        super().__init__()
        self.proj = nn.Linear(dim, mlp_dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, N, D) to (B, N, mlp_dim)."""
        return F.gelu(self.proj(x), approximate="tanh")


class FeedForward(nn.Module):
    """Two linear layers around a GELU."""

    def __init__(self, dim: int, mlp_dim: int) -> None:
        super().__init__()
        # the released names; number 1 was a dropout and holds no weights
        self.net = nn.ModuleDict({"0": GeluProjection(dim, mlp_dim), "2": nn.Linear(mlp_dim, dim)})

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, N, D) to (B, N, D)."""
        return self.net["2"](self.net["0"](x))
