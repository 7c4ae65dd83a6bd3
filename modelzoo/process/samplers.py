"""Samplers: from noise to latents along the predicted velocity."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from modelzoo.process.flow_matching import empirical_mu, shift_t

Predict = Callable[[Tensor, Tensor], Tensor]  # noisy (B, C, H, W), t (B,) -> velocity (B, C, H, W)


def shifted_sigmas(steps: int, shift: float) -> Tensor:
    """Give `steps` + 1 times from 1 to 0, evenly spaced and then shifted towards noise."""
    if steps < 1:
        raise ValueError(f"sampling needs at least one step, but {steps!r} were asked for")
    even = torch.linspace(1, 1 / steps, steps, dtype=torch.float64)
    return torch.cat([shift_t(even, shift), even.new_zeros(1)]).float()


def empirical_sigmas(steps: int, num_tokens: int) -> Tensor:
    """Give FLUX.2's `steps` + 1 times for a picture of `num_tokens` latent cells."""
    return shifted_sigmas(steps, math.exp(empirical_mu(num_tokens, steps)))


def euler(predict: Predict, noise: Tensor, sigmas: Tensor) -> Tensor:
    """Integrate the velocity from noise (B, C, H, W) at sigmas[0] down to sigmas[-1]."""
    latents = noise
    for sigma, following in zip(sigmas[:-1].tolist(), sigmas[1:].tolist(), strict=True):
        t = torch.full((len(latents),), sigma, device=latents.device)
        latents = latents + (following - sigma) * predict(latents, t)
    return latents


def guided(predict_cond: Predict, predict_uncond: Predict, cfg_scale: float) -> Predict:
    """Steer away from the unconditional prediction (Ho and Salimans 2022); 1 leaves it out."""
    if cfg_scale == 1:
        return predict_cond

    def predict(noisy: Tensor, t: Tensor) -> Tensor:
        return torch.lerp(predict_uncond(noisy, t), predict_cond(noisy, t), cfg_scale)

    return predict
