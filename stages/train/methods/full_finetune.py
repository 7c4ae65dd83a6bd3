"""Full fine-tuning: every weight of the denoiser learns."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from modelzoo.denoiser import Denoiser
from stages.train.batches import Batch
from stages.train.objectives import Objective


@dataclass(frozen=True)
class FullFinetune:
    """Regress the objective's target with all weights."""

    objective: Objective

    def trainable(self, network: nn.Module) -> Iterable[tuple[str, nn.Parameter]]:
        """Return all parameters."""
        return network.named_parameters()

    def loss(self, denoiser: Denoiser, batch: Batch) -> Tensor:
        """Return the weighted squared error's mean, in float32 whatever the network's weights are.

        A weight of 1 changes no bit.
        """
        noisy = self.objective.noisy(batch.latents, batch.noise, batch.t)
        guidance = self.objective.guidance if denoiser.embeds_guidance else None
        conditioning = denoiser.conditioning(batch.conditions, guidance)
        prediction = denoiser.predict(noisy.to(denoiser.dtype), batch.t, conditioning)
        target = self.objective.target(batch.latents, batch.noise, batch.t)
        scale = batch.weights.sqrt().view(-1, 1, 1, 1)
        return F.mse_loss(scale * prediction.float(), scale * target)
