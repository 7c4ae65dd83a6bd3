"""Rectified flow (Liu et al. 2022): straight lines from data (t 0) to noise (t 1)."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor

T = TypeVar("T", float, Tensor)


def interpolate(data: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """Mix data and noise (B, ...) at t (B,): (1 - t) data + t noise."""
    return torch.lerp(data, noise, t.view(-1, *[1] * (data.ndim - 1)).to(data.dtype))


def velocity_target(data: Tensor, noise: Tensor) -> Tensor:
    """Give the constant velocity from data to noise (Liu et al. 2022, eq. 1)."""
    return noise - data


def shift_t(t: T, shift: float) -> T:
    """Move times towards noise by `shift` > 1, towards data by < 1 (Esser et al. 2024, eq. 23)."""
    return shift * t / (1 + (shift - 1) * t)


def empirical_mu(num_tokens: int, steps: int) -> float:
    """Give the logarithm of the shift that FLUX.2 samples with (Black Forest Labs, sampling.py).

    It is affine in the number of image tokens; up to 4300 tokens also in the number of steps,
    between one line fitted at 10 and one at 200 steps. The jump at 4300 is in the original.
    """
    at_200_steps = 0.00016927 * num_tokens + 0.45666666
    if num_tokens > 4300:
        return at_200_steps
    at_10_steps = 8.73809524e-05 * num_tokens + 1.89833333
    return at_200_steps + (at_10_steps - at_200_steps) * (200 - steps) / 190


def dynamic_mu(
    num_tokens: int, base: tuple[int, float] = (256, 0.5), most: tuple[int, float] = (4096, 1.15)
) -> float:
    """Give the logarithm of the shift that FLUX.1 dev samples with: affine in the image tokens.

    The line goes through two pairs of tokens and mu (Black Forest Labs, sampling.py).
    """
    (base_tokens, base_mu), (most_tokens, most_mu) = base, most
    return base_mu + (num_tokens - base_tokens) * (most_mu - base_mu) / (most_tokens - base_tokens)
