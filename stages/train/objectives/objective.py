"""What an objective must offer."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class Objective(Protocol):
    """A corruption of data and the regression target that undoes it."""

    @property
    def guidance(self) -> float:
        """What a model that embeds guidance is told while it learns: 1, the data itself.

        See `stages.params.objective.Objective` for the reason.
        """
        ...

    @property
    def noise_offset(self) -> float:
        """Standard deviation of what is added to all of a channel's noise alike; 0 is none."""
        ...

    def times(self, uniform: Tensor, num_tokens: int) -> Tensor:
        """Turn uniform numbers (B,) in [0, 1) into times (B,) in [0, 1]: 0 data, 1 noise.

        Args:
            uniform: In float64, (B,).
            num_tokens: Image tokens of each of the items, which some laws depend on.
        """
        ...

    def noisy(self, data: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Corrupt data (B, C, H, W) at times t (B,)."""
        ...

    def losses(self, prediction: Tensor, data: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Return each item's loss (B,) for a prediction (B, C, H, W) in float32."""
        ...

    def errors(self, prediction: Tensor, target: Tensor, t: Tensor) -> Tensor:
        """Return each item's weighted distance (B,) to any target (B, C, H, W) at times t."""
        ...
