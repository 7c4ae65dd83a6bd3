"""Flow matching: what FLUX.1, FLUX.2 and SD3.5 learn."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from modelzoo.process import flow_matching, weighting
from stages.params import objective
from stages.train.objectives.errors import item_errors
from stages.train.objectives.laws import LAWS, shift_of

WEIGHTINGS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "sigma_sqrt": weighting.sigma_sqrt,
    "cosmap": weighting.cosmap,
}


@dataclass(frozen=True)
class FlowMatching:
    """Rectified flow: regress the constant velocity from data to noise (Liu et al. 2022, eq. 1)."""

    settings: objective.Objective

    @property
    def guidance(self) -> float:
        """Give the settings' value."""
        return self.settings.guidance

    @property
    def noise_offset(self) -> float:
        """Give none: the times of flow matching reach pure noise, which is what it makes up for."""
        return 0.0

    def times(self, uniform: Tensor, num_tokens: int) -> Tensor:
        """Sample by the settings' law and shift."""
        t = LAWS[self.settings.timestep_sampling](uniform, self.settings)
        return flow_matching.shift_t(t, shift_of(self.settings, num_tokens))

    def noisy(self, data: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Return the point at time t on the straight line from data to noise."""
        return flow_matching.interpolate(data, noise, t)

    def losses(self, prediction: Tensor, data: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Return the distance to the velocity of that line, as the settings weigh it."""
        return self.errors(prediction, flow_matching.velocity_target(data, noise), t)

    def errors(self, prediction: Tensor, target: Tensor, t: Tensor) -> Tensor:
        """Return the distance to a target, as the settings weigh it."""
        errors = item_errors(prediction, target, self.settings)
        weigh = WEIGHTINGS.get(self.settings.weighting)
        return errors if weigh is None else weigh(t) * errors
