"""Denoising diffusion: what SDXL learns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from modelzoo.process import weighting
from modelzoo.process.ddpm import DdpmSchedule, discrete_t
from stages.params import objective
from stages.train.objectives.errors import item_errors
from stages.train.objectives.laws import LAWS


@dataclass(frozen=True)
class Ddpm:
    """Denoising diffusion: regress the noise, or v (Ho et al. 2020; Salimans and Ho 2022)."""

    settings: objective.Objective
    schedule: DdpmSchedule

    @property
    def guidance(self) -> float:
        """Give the settings' value."""
        return self.settings.guidance

    @property
    def noise_offset(self) -> float:
        """Give the settings' value (Guttenberg 2023, Diffusion with Offset Noise)."""
        return self.settings.noise_offset

    def times(self, uniform: Tensor, num_tokens: int) -> Tensor:
        """Sample timesteps by the settings' law; the size of a picture changes nothing."""
        return discrete_t(LAWS[self.settings.timestep_sampling](uniform, self.settings))

    def noisy(self, data: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Mix data and noise as the schedule says."""
        return self.schedule.add_noise(data, noise, t)

    def losses(self, prediction: Tensor, data: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Return the distance to what the schedule says the network predicts, weighted."""
        return self.errors(prediction, self.schedule.target(data, noise, t), t)

    def errors(self, prediction: Tensor, target: Tensor, t: Tensor) -> Tensor:
        """Return the distance to a target, as the settings weigh it."""
        errors = item_errors(prediction, target, self.settings)
        kind = self.schedule.prediction_type
        if self.settings.weighting == "min_snr":
            return weighting.min_snr(self.schedule.snr(t), self.settings.snr_gamma, kind) * errors
        if self.settings.weighting == "debiased":
            return weighting.debiased(self.schedule.snr(t), kind) * errors
        return errors


def ddpm_objective(settings: objective.Objective, scheduler: Mapping[str, Any]) -> Ddpm:
    """Make the objective of models that predict noise or v, with the base's own schedule.

    Raises:
        ValueError: The weighting would leave out the timestep that the schedule is there for.
    """
    schedule = DdpmSchedule.from_dict(scheduler)
    if schedule.rescale_betas_zero_snr and settings.weighting != "none":
        raise ValueError(
            f"training.objective.weighting: {settings.weighting!r} given, but the base's scheduler "
            "has rescale_betas_zero_snr and this weighting counts its last timestep for nothing: "
            "set 'none'"
        )
    return Ddpm(settings, schedule)
