"""What a training method must offer."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from torch import Tensor, nn

from modelzoo.denoiser import Denoiser
from stages.train.batches import Batch


class Method(Protocol):
    """What learns, and how a batch becomes a loss; it owns no weights, no optimizer, no clock."""

    def trainable(self, network: nn.Module) -> Iterable[tuple[str, nn.Parameter]]:
        """Return the parameters that learn, with their names."""
        ...

    def loss(self, denoiser: Denoiser, batch: Batch) -> Tensor:
        """Return the mean over the batch of each item's loss times its weight, ()."""
        ...
