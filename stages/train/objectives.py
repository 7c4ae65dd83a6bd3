"""Objectives by their name in `training.objective.type`: what noise is, and what is predicted."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from modelzoo.process import flow_matching
from modelzoo.process.ddpm import DdpmSchedule, discrete_t
from stages.params import objective

Scheduler = Mapping[str, Any]  # content of a scheduler_config.json


class Objective(Protocol):
    """A corruption of data and the regression target that undoes it."""

    @property
    def guidance(self) -> float:
        """What a model that embeds guidance is told while it learns."""
        ...

    def times(self, uniform: Tensor) -> Tensor:
        """Turn uniform numbers (B,) in [0, 1) into times (B,) in [0, 1]: 0 data, 1 noise."""
        ...

    def noisy(self, data: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Corrupt data (B, C, H, W) at times t (B,)."""
        ...

    def losses(self, prediction: Tensor, data: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Return each item's loss (B,) for a prediction (B, C, H, W) in float32."""
        ...


@dataclass(frozen=True)
class FlowMatching:
    """Rectified flow: regress the constant velocity from data to noise (Liu et al. 2022, eq. 1)."""

    settings: objective.Objective

    @property
    def guidance(self) -> float:
        """Give the settings' value."""
        return self.settings.guidance

    def times(self, uniform: Tensor) -> Tensor:
        """Sample by the settings' law and shift."""
        name, shift = self.settings.timestep_sampling, self.settings.shift
        return flow_matching.sample_t(name, uniform, shift)

    def noisy(self, data: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Return the point at time t on the straight line from data to noise."""
        return flow_matching.interpolate(data, noise, t)

    def losses(self, prediction: Tensor, data: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Return the squared distance to the velocity of that line."""
        return squared_errors(prediction, flow_matching.velocity_target(data, noise))


@dataclass(frozen=True)
class Ddpm:
    """Denoising diffusion: regress the noise, or v (Ho et al. 2020; Salimans and Ho 2022)."""

    settings: objective.Objective
    schedule: DdpmSchedule

    @property
    def guidance(self) -> float:
        """Give the settings' value."""
        return self.settings.guidance

    def times(self, uniform: Tensor) -> Tensor:
        """Sample timesteps by the settings' law."""
        return discrete_t(flow_matching.sample_t(self.settings.timestep_sampling, uniform))

    def noisy(self, data: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Mix data and noise as the schedule says."""
        return self.schedule.add_noise(data, noise, t)

    def losses(self, prediction: Tensor, data: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Return the squared distance to what the schedule says the network predicts."""
        return squared_errors(prediction, self.schedule.target(data, noise, t))


def squared_errors(prediction: Tensor, target: Tensor) -> Tensor:
    """Return the mean squared error of each item, (B,)."""
    return (prediction - target).square().flatten(1).mean(1)


def flow_matching_objective(settings: objective.Objective, scheduler: Scheduler) -> Objective:
    """Make the objective of models that predict a velocity."""
    return FlowMatching(settings)


def ddpm_objective(settings: objective.Objective, scheduler: Scheduler) -> Objective:
    """Make the objective of models that predict noise or v, with the base's own schedule."""
    return Ddpm(settings, DdpmSchedule.from_dict(scheduler))


# from the section `training.objective` and the base's scheduler_config.json
OBJECTIVES: Mapping[str, Callable[[objective.Objective, Scheduler], Objective]] = {
    "flow_matching": flow_matching_objective,
    "ddpm": ddpm_objective,
}
