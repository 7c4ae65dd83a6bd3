"""Samplers: from noise to latents along what the network predicts."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from modelzoo.process.flow_matching import empirical_mu, shift_t

# noisy (B, C, H, W), t (B,) -> what the network predicts (B, C, H, W)
Predict = Callable[[Tensor, Tensor], Tensor]


class Level(NamedTuple):
    """A stop of a sampler, where latents are signal * data + noise * unit normal noise."""

    t: float  # what the network is told, in [0, 1]
    signal: float
    noise: float

    @property
    def log_snr(self) -> float:
        """Half the logarithm of the signal-to-noise ratio (lambda in Lu et al. 2022)."""
        return math.log(self.signal / self.noise) if self.signal else -math.inf


DATA = Level(0.0, 1.0, 0.0)

# latents, prediction and level to the data and the noise (B, C, H, W) that they are taken for
Split = Callable[[Tensor, Tensor, Level], tuple[Tensor, Tensor]]


def split_velocity(latents: Tensor, velocity: Tensor, at: Level) -> tuple[Tensor, Tensor]:
    """Take apart what a flow-matching network predicts, noise - data."""
    return latents - at.noise * velocity, latents + at.signal * velocity


def split_epsilon(latents: Tensor, epsilon: Tensor, at: Level) -> tuple[Tensor, Tensor]:
    """Take apart what a DDPM network predicts, the noise (Song et al. 2021, eq. 9)."""
    return (latents - at.noise * epsilon) / at.signal, epsilon


def split_v(latents: Tensor, v: Tensor, at: Level) -> tuple[Tensor, Tensor]:
    """Take apart v = signal * noise - noise level * data (Salimans and Ho 2022, appendix D)."""
    return at.signal * latents - at.noise * v, at.signal * v + at.noise * latents


SPLITS: dict[str, Split] = {
    "velocity": split_velocity,
    "epsilon": split_epsilon,
    "v_prediction": split_v,
}


def first_order(predict: Predict, split: Split, start: Tensor, path: Sequence[Level]) -> Tensor:
    """Walk from `start` (B, C, H, W) at path[0] to path[-1], mixing anew at each stop.

    This is DDIM with eta 0 (Song et al. 2021, eq. 12), and the same as Euler's method in
    sigma = noise / signal (there, section 4.3).
    """
    latents = start
    for here, there in pairwise(path):
        data, noise = split(latents, predict(latents, _times(here, latents)), here)
        latents = there.signal * data + there.noise * noise
    return latents


def second_order(predict: Predict, split: Split, start: Tensor, path: Sequence[Level]) -> Tensor:
    """Walk from `start` (B, C, H, W) at path[0] to path[-1], with the data's trend in log-SNR.

    DPM-Solver++(2M) (Lu et al. 2022, algorithm 2), its exponentials written as ratios of levels;
    the first step, which has no trend, and the one to pure data are of first order.
    """
    latents, before, seen = start, None, start
    for here, there in pairwise(path):
        data, _ = split(latents, predict(latents, _times(here, latents)), here)
        ahead = data
        if before and there.noise:
            trend = (there.log_snr - here.log_snr) / (here.log_snr - before.log_snr)
            ahead = torch.lerp(seen, data, 1 + trend / 2)
        kept = there.noise / here.noise
        latents = kept * latents + (there.signal - kept * here.signal) * ahead
        before, seen = here, data
    return latents


def euler(predict: Predict, noise: Tensor, sigmas: Tensor) -> Tensor:
    """Integrate the velocity from noise (B, C, H, W) at sigmas[0] down to sigmas[-1]."""
    latents = noise
    for sigma, following in zip(sigmas[:-1].tolist(), sigmas[1:].tolist(), strict=True):
        t = torch.full((len(latents),), sigma, device=latents.device)
        latents = latents + (following - sigma) * predict(latents, t)
    return latents


def shifted_sigmas(steps: int, shift: float) -> Tensor:
    """Give `steps` + 1 times from 1 to 0, evenly spaced and then shifted towards noise."""
    return _sigmas(steps, 1 / max(steps, 1), shift)


def table_sigmas(steps: int, shift: float) -> Tensor:
    """Give `steps` + 1 times from 1 to 0 as Stable Diffusion 3 takes them.

    They are evenly spaced down to the smallest of 1000 times that are already shifted, and then
    shifted once more (Stability AI, sd3_impls.py; also diffusers' scheduler by itself).
    """
    return _sigmas(steps, shift_t(1 / 1000, shift), shift)


def empirical_sigmas(steps: int, num_tokens: int) -> Tensor:
    """Give FLUX.2's `steps` + 1 times for a picture of `num_tokens` latent cells."""
    return shifted_sigmas(steps, math.exp(empirical_mu(num_tokens, steps)))


def guided(predict_cond: Predict, predict_uncond: Predict, cfg_scale: float) -> Predict:
    """Steer away from the unconditional prediction (Ho and Salimans 2022); 1 leaves it out."""
    if cfg_scale == 1:
        return predict_cond

    def predict(noisy: Tensor, t: Tensor) -> Tensor:
        return torch.lerp(predict_uncond(noisy, t), predict_cond(noisy, t), cfg_scale)

    return predict


def _sigmas(steps: int, last: float, shift: float) -> Tensor:
    if steps < 1:
        raise ValueError(f"sampling needs at least one step, but {steps!r} were asked for")
    even = torch.linspace(1, last, steps, dtype=torch.float64)
    return torch.cat([shift_t(even, shift), even.new_zeros(1)]).float()


def _times(at: Level, latents: Tensor) -> Tensor:
    return torch.full((len(latents),), at.t, device=latents.device)
