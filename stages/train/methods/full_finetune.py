"""Full fine-tuning: every weight of the denoiser learns."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from modelzoo.denoiser import Denoiser, save_denoiser
from stages.params.training import Training
from stages.train.batches import Batch
from stages.train.model import Model
from stages.train.objectives import Objective
from stages.train.prediction import item_losses, predict


@dataclass(frozen=True)
class FullFinetune:
    """Regress the objective's target with all weights."""

    objective: Objective
    settings: Training
    seed: int = 0  # experiment.seed; nothing of this method is drawn

    def build(self, denoiser: Denoiser) -> Model:
        """Take the base as it is."""
        return Model(denoiser)

    def trainable(self, model: Model) -> Iterable[tuple[str, nn.Parameter]]:
        """Return all parameters."""
        return model.learner.named_parameters()

    def losses(self, model: Model, batch: Batch) -> Tensor:
        """Return each item's weighted loss, (B,)."""
        return item_losses(self.objective, batch, predict(model, self.objective, batch))

    def save(self, model: Model, folder: Path) -> None:
        """Write the network as a diffusers folder."""
        save_denoiser(model.denoiser, folder)
