"""A running average of the weights, and how a model computes with other weights for a while."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Ema:
    """A running average of weights in float32, forgetting faster while it is young."""

    def __init__(self, parameters: Mapping[str, nn.Parameter], decay: float) -> None:
        self.decay = decay
        self.parameters = parameters
        self.average = {name: p.detach().float().clone() for name, p in parameters.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move towards the weights after `step` steps (warm-up as in tf.train's moving average)."""
        decay = min(self.decay, (1 + step) / (10 + step))
        weights = [p.detach().float() for p in self.parameters.values()]
        torch._foreach_lerp_(list(self.average.values()), weights, 1 - decay)


@contextmanager
def swapped(
    parameters: Mapping[str, nn.Parameter], weights: Mapping[str, Tensor]
) -> Iterator[None]:
    """Let the model compute with `weights`, by the names of its parameters, instead of its own."""
    trained = {name: p.data for name, p in parameters.items()}
    try:
        for name, p in parameters.items():
            p.data = weights[name].to(p.dtype)
        yield
    finally:
        for name, p in parameters.items():
            p.data = trained[name]
