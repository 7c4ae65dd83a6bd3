"""The DDPM process (Ho et al. 2020): in 1000 discrete timesteps data fades and noise takes over.

Times t (B,) in [0, 1] stand for timesteps k as t = k / 1000.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from modelzoo.process.settings import read_settings

NUM_TIMESTEPS = 1000
PREDICTION_TYPES = ("epsilon", "v_prediction")

# keys of a scheduler_config.json with the only value this code has, and keys that change nothing
SUPPORTED = {
    "num_train_timesteps": NUM_TIMESTEPS,
    "beta_schedule": "scaled_linear",
    "trained_betas": None,
    "clip_sample": False,
    "thresholding": False,
    "interpolation_type": "linear",
    "timestep_type": "discrete",
    "final_sigmas_type": "zero",
    "algorithm_type": "dpmsolver++",
    "solver_order": 2,
    "solver_type": "midpoint",
    "lower_order_final": True,
    "use_karras_sigmas": False,
    "use_exponential_sigmas": False,
    "use_beta_sigmas": False,
    "use_lu_lambdas": False,
    "use_flow_sigmas": False,
    "sigma_min": None,
    "sigma_max": None,
}
IGNORED = frozenset(
    {
        "clip_sample_range",
        "dynamic_thresholding_ratio",
        "euler_at_final",
        "flow_shift",
        "lambda_min_clipped",
        "sample_max_value",
        "skip_prk_steps",
        "time_shift_type",
        "use_dynamic_shifting",
        "variance_type",
    }
)


@dataclass(frozen=True)
class DdpmSchedule:
    """How noise grows and what is predicted, by the keys of a diffusers scheduler_config.json.

    Betas are linear in their square root from `beta_start` to `beta_end` (Rombach et al. 2022).

    Raises:
        ValueError: The prediction type is unknown, or says nothing at the noisiest timestep.
    """

    beta_start: float = 0.00085
    beta_end: float = 0.012
    prediction_type: str = "epsilon"
    rescale_betas_zero_snr: bool = False  # nothing of the data is left at the last timestep
    timestep_spacing: str = "leading"  # which timesteps a sampler visits
    steps_offset: int = 1  # of "leading"
    set_alpha_to_one: bool = False  # DDIM ends at data; otherwise at timestep 0

    def __post_init__(self) -> None:
        if self.prediction_type not in PREDICTION_TYPES:
            raise ValueError(
                f"scheduler: prediction_type {self.prediction_type!r} is unknown; "
                f"use one of {PREDICTION_TYPES!r}"
            )
        if self.rescale_betas_zero_snr and self.prediction_type == "epsilon":
            raise ValueError(
                "scheduler: rescale_betas_zero_snr leaves no data at the last timestep, where "
                "prediction_type 'epsilon' predicts its own input: set 'v_prediction'"
            )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> DdpmSchedule:
        """Read a scheduler_config.json; what every class of diffusers defaults to may be missing.

        Raises:
            ValueError: A key is missing, unknown, or has a value that is not supported.
        """
        defaults = {"set_alpha_to_one": True, "steps_offset": 0}
        needed = {"beta_start", "beta_end", "beta_schedule", "timestep_spacing"}
        return cls(**{**defaults, **read_settings(cls, values, needed, SUPPORTED, IGNORED)})

    @cached_property
    def alphas_cumprod(self) -> Tensor:
        """Give the variance that is left of the data at each timestep (1000,), in float64."""
        start, end = self.beta_start**0.5, self.beta_end**0.5
        betas = torch.linspace(start, end, NUM_TIMESTEPS, dtype=torch.float64) ** 2
        left = torch.cumprod(1 - betas, 0)
        if not self.rescale_betas_zero_snr:
            return left
        # Lin et al. 2023, algorithm 1: shift the last to zero, scale the first back to itself
        roots = left.sqrt()
        return ((roots - roots[-1]) * roots[0] / (roots[0] - roots[-1])) ** 2

    def levels(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Give the factors of data and of noise (B,) at the timesteps nearest to t (B,)."""
        left = self.alphas_cumprod.to(t.device)[timesteps(t)]
        return left.sqrt().float(), (1 - left).sqrt().float()

    def snr(self, t: Tensor) -> Tensor:
        """Give the signal-to-noise ratios (B,) at t (B,)."""
        signal, noise = self.levels(t)
        return (signal / noise) ** 2

    def add_noise(self, data: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Mix data and noise (B, ...) at t (B,) (Ho et al. 2020, eq. 4)."""
        signal, level = (_over(factor, data) for factor in self.levels(t))
        return torch.addcmul(signal * data, level, noise)

    def target(self, data: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Give what the network should predict (B, ...): the noise, or v of it and the data.

        v is the derivative of the mixture by its angle (Salimans and Ho 2022, appendix D).
        """
        if self.prediction_type == "epsilon":
            return noise
        signal, level = (_over(factor, data) for factor in self.levels(t))
        return torch.addcmul(signal * noise, level, data, value=-1)


def timesteps(t: Tensor) -> Tensor:
    """Give the timesteps (B,), as int64, nearest to times t (B,)."""
    return (NUM_TIMESTEPS * t.double()).round().long()


def discrete_t(uniform: Tensor) -> Tensor:
    """Turn numbers (B,) in [0, 1] into times (B,) of timesteps, each as likely for uniform ones."""
    place = (NUM_TIMESTEPS * uniform.double()).floor().clamp_max(NUM_TIMESTEPS - 1)
    return (place / NUM_TIMESTEPS).float()


def _over(factor: Tensor, data: Tensor) -> Tensor:
    return factor.view(-1, *[1] * (data.ndim - 1)).to(data.dtype)
