"""How much an item's loss counts at its time, in closed form; every function gives weights (B,)."""

from __future__ import annotations

import math

from torch import Tensor

LEAST_SIGMA = 1e-3  # the smallest of diffusers' table of sigmas, so that a weight stays finite


def sigma_sqrt(t: Tensor) -> Tensor:
    """Weigh by 1 / sigma^2, sigma being t (Esser et al. 2024's training code in diffusers)."""
    return t.clamp_min(LEAST_SIGMA) ** -2


def cosmap(t: Tensor) -> Tensor:
    """Weigh by the density of the law of that name (Esser et al. 2024, eq. 21): mean 1 over t."""
    return 2 / (math.pi * (1 - 2 * t + 2 * t**2))


def min_snr(snr: Tensor, gamma: float, prediction_type: str) -> Tensor:
    """Weigh the error of the data by min(SNR, gamma) (Hang et al. 2023, min-SNR-gamma).

    An error of the noise is sqrt(SNR) times that of the data, and one of v is sqrt(SNR + 1)
    times it, hence min(SNR, gamma) / SNR and min(SNR, gamma) / (SNR + 1).
    """
    if prediction_type == "epsilon":
        return (gamma / snr).clamp_max(1)
    return snr.clamp_max(gamma) / (snr + 1)


def debiased(snr: Tensor, prediction_type: str) -> Tensor:
    """Weigh the error of the noise by 1 / sqrt(SNR) (Yu et al. 2023, debiased estimation).

    As an error of v that is sqrt(SNR) / (SNR + 1), see `min_snr`.
    """
    if prediction_type == "epsilon":
        return snr.rsqrt()
    return snr.sqrt() / (snr + 1)
