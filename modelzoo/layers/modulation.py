"""Modulation of a normalised stream by a condition (adaLN: Peebles and Xie 2022, section 3.2)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


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
