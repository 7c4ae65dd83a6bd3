"""Modulation of a normalised stream by a condition (adaLN: Peebles and Xie 2022, section 3.2)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn


class Modulation(NamedTuple):
    """What a condition does to one sublayer; each is (B, 1, D)."""

    shift: Tensor
    factor: Tensor  # 1 + the predicted scale
    gate: Tensor


def split_modulation(packed: Tensor, sets: int) -> list[Modulation]:
    """Split (B, sets * 3 * D), ordered shift, scale, gate, into one modulation a sublayer."""
    parts = packed[:, None].chunk(3 * sets, dim=-1)
    return [Modulation(parts[i], 1 + parts[i + 1], parts[i + 2]) for i in range(0, 3 * sets, 3)]


def modulate(normed: Tensor, modulation: Modulation) -> Tensor:
    """Scale and shift a normalised stream (B, N, D)."""
    return torch.addcmul(modulation.shift, normed, modulation.factor)


def add_gated(stream: Tensor, update: Tensor, modulation: Modulation) -> Tensor:
    """Add a sublayer's output to its stream (B, N, D), through the gate."""
    return torch.addcmul(stream, update, modulation.gate)


class ModulatedNorm(nn.Module):
    """A norm without weights, modulated by a linear function of the condition."""

    def __init__(self, dim: int, sets: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.sets = sets
        self.linear = nn.Linear(dim, 3 * sets * dim)
        self.norm = nn.LayerNorm(dim, eps, elementwise_affine=False)

    def modulations(self, condition: Tensor) -> list[Modulation]:
        """Compute the `sets` modulations that follow from condition (B, D)."""
        return split_modulation(self.linear(condition), self.sets)

    def forward(self, x: Tensor, condition: Tensor) -> tuple[Tensor, list[Modulation]]:
        """Normalise x (B, N, D) by the first of the modulations under condition (B, D).

        All modulations are returned beside it: gates and further sublayers need them.
        """
        modulations = self.modulations(condition)
        return modulate(self.norm(x), modulations[0]), modulations


class ModulatedNormOut(nn.Module):
    """The last norm, with a scale and shift of its own (in this order, unlike the blocks')."""

    def __init__(self, dim: int, eps: float = 1e-6, bias: bool = True) -> None:
        super().__init__()
        self.linear = nn.Linear(dim, 2 * dim, bias=bias)
        self.norm = nn.LayerNorm(dim, eps, elementwise_affine=False)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """Normalise x (B, N, D) under condition (B, D)."""
        scale, shift = self.linear(condition)[:, None].chunk(2, dim=-1)
        return torch.addcmul(shift, self.norm(x), 1 + scale)
