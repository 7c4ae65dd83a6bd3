"""Full fine-tuning: the weights of the denoiser themselves learn, all or chosen ones."""

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
from stages.train.patterns import first_matches
from stages.train.prediction import item_losses, predict


@dataclass(frozen=True)
class FullFinetune:
    """Regress the objective's target with the weights that `training.full_finetune` names."""

    objective: Objective
    settings: Training
    seed: int = 0  # experiment.seed; nothing of this method is drawn

    def build(self, denoiser: Denoiser) -> Model:
        """Take the base as it is, and freeze what is not chosen.

        Raises:
            ValueError: A pattern of `training.full_finetune.parts` matches no parameter.
        """
        chosen = self.settings.full_finetune
        if chosen is not None and chosen.parts:
            named = dict(denoiser.network.named_parameters())
            key = "training.full_finetune.parts"
            for p, place in zip(
                named.values(), first_matches(chosen.parts, list(named), key), strict=True
            ):
                p.requires_grad_(place is not None)
        return Model(denoiser)

    def trainable(self, model: Model) -> Iterable[tuple[str, nn.Parameter]]:
        """Return the parameters that are not frozen."""
        return ((name, p) for name, p in model.learner.named_parameters() if p.requires_grad)

    def losses(self, model: Model, batch: Batch) -> Tensor:
        """Return each item's weighted loss, (B,)."""
        return item_losses(self.objective, batch, predict(model, self.objective, batch))

    def save(self, model: Model, folder: Path) -> None:
        """Write the network as a diffusers folder."""
        save_denoiser(model.denoiser, folder)
