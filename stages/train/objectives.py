"""Objectives by their name in `training.objective.type`: what noise is, and what is predicted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from modelzoo.process import flow_matching
from stages.params import training


class Objective(Protocol):
    """A corruption of data and the regression target that undoes it."""

    def times(self, uniform: Tensor) -> Tensor:
        """Turn uniform numbers (B,) in [0, 1) into times (B,) in [0, 1]: 0 data, 1 noise."""
        ...

    def noisy(self, data: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Corrupt data (B, C, H, W) at times t (B,)."""
        ...

    def target(self, data: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Return what the denoiser should predict, (B, C, H, W)."""
        ...


@dataclass(frozen=True)
class FlowMatching:
    """Rectified flow: regress the constant velocity from data to noise (Liu et al. 2022, eq. 1)."""

    settings: training.Objective

    def times(self, uniform: Tensor) -> Tensor:
        """Sample by the settings' law and shift."""
        name, shift = self.settings.timestep_sampling, self.settings.shift
        return flow_matching.sample_t(name, uniform, shift)

    def noisy(self, data: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Return the point at time t on the straight line from data to noise."""
        return flow_matching.interpolate(data, noise, t)

    def target(self, data: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Return the velocity of that line, which does not depend on t."""
        return flow_matching.velocity_target(data, noise)


OBJECTIVES: Mapping[str, type[FlowMatching]] = {"flow_matching": FlowMatching}
