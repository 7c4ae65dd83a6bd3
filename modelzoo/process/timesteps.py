"""Laws of the training time t, each a map from a uniform number, and shifts that grow with size.

All laws are of Esser et al. 2024 (Scaling Rectified Flow Transformers), section 3.1.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from modelzoo.process.flow_matching import dynamic_mu, empirical_mu

FLUX2_STEPS = 50  # with which FLUX.2's base models are sampled; its shift depends on them


def uniform_t(uniform: Tensor) -> Tensor:
    """Take every time as often: density 1."""
    return uniform


def logit_normal_t(uniform: Tensor, mean: float = 0.0, std: float = 1.0) -> Tensor:
    """Take the logistic of a normal number (Esser et al. 2024, eq. 19).

    Args:
        uniform: (B,) in [0, 1).
        mean: Of the normal number; above 0 trains more near noise.
        std: Of the normal number; small ones train the times around the logistic of `mean` alone.
    """
    return (mean + std * torch.special.ndtri(uniform)).sigmoid()


def mode_t(uniform: Tensor, scale: float = 1.29) -> Tensor:
    """Prefer the middle, or with `scale` below 0 the ends, but no end vanishes (eq. 20).

    The map falls from 1 to 0, and does so strictly for scales from -1 to 2 / (pi - 2).
    """
    return 1 - uniform - scale * ((math.pi / 2 * uniform).cos() ** 2 - 1 + uniform)


def cosmap_t(uniform: Tensor) -> Tensor:
    """Take the times whose SNR a cosine schedule has at evenly spread times (eq. 21).

    The density is 2 / (pi - 2 pi t + 2 pi t^2).
    """
    return 1 - 1 / ((math.pi / 2 * uniform).tan() + 1)


def flux1_shift(
    num_tokens: int,
    base: tuple[int, float] = (256, 0.5),
    most: tuple[int, float] = (4096, 1.15),
) -> float:
    """Give FLUX.1's shift of a picture of `num_tokens`: exp(mu), mu affine in them."""
    return math.exp(dynamic_mu(num_tokens, base, most))


def flux2_shift(num_tokens: int) -> float:
    """Give the shift with which FLUX.2's base models sample a picture of `num_tokens`."""
    return math.exp(empirical_mu(num_tokens, FLUX2_STEPS))


def square_root_shift(num_tokens: int, base_tokens: int = 256) -> float:
    """Give the shift that keeps the uncertainty of a picture of `base_tokens`: sqrt(m / n).

    More tokens average noise away, so the same t hides less of a larger picture (eq. 23).
    """
    return math.sqrt(num_tokens / base_tokens)
