"""Rounding float32 weights to bfloat16 so that steps below its precision are not lost.

A bfloat16 is the upper half of a float32. At a weight of 1 its next neighbours are 1/256 and 1/128
away, so that a step of 1e-6 rounds to nothing.
"""

from __future__ import annotations

import torch
from torch import Tensor

UPPER, HALF = -0x10000, 0x8000  # mask of the bits that bfloat16 keeps; half of their unit


def stochastic(weight: Tensor, random: torch.Generator) -> Tensor:
    """Round to one of the two neighbours, each as likely as it is near: unbiased.

    Args:
        weight: float32, any shape.
        random: On the device of `weight`.

    Returns:
        bfloat16 of the same shape.
    """
    noise = torch.randint(
        0, 0x10000, weight.shape, generator=random, device=weight.device, dtype=torch.int32
    )
    bits = (weight.view(torch.int32) + noise) & UPPER
    return bits.view(torch.float32).bfloat16()


def split(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Split float32 into the nearest bfloat16 and what is left, as int16; nothing is lost."""
    bits = weight.view(torch.int32)
    upper = (bits + HALF) & UPPER
    return upper.view(torch.float32).bfloat16(), (bits - upper).to(torch.int16)


def joined(rounded: Tensor, rest: Tensor) -> Tensor:
    """Undo `split`: return the float32 that a bfloat16 and its int16 rest stand for."""
    return (rounded.float().view(torch.int32) + rest.int()).view(torch.float32)
