"""What a training method must offer."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

from torch import Tensor, nn

from modelzoo.denoiser import Denoiser
from stages.train.batches import Batch
from stages.train.model import Model


class Method(Protocol):
    """What learns, and how a batch becomes a loss; it owns no weights, no optimizer, no clock."""

    def build(self, denoiser: Denoiser) -> Model:
        """Add to the base what learns, and freeze what does not.

        Raises:
            ValueError: The base cannot be trained so.
        """
        ...

    def trainable(self, model: Model) -> Iterable[tuple[str, nn.Parameter]]:
        """Return the parameters that learn, with their names."""
        ...

    def losses(self, model: Model, batch: Batch) -> Tensor:
        """Return each item's loss times its weight, (B,) in float32."""
        ...

    def save(self, model: Model, folder: Path) -> None:
        """Write what has learned, in a form that `stages.trained.load_trained` knows."""
        ...
