"""From a batch to a prediction and the loss of each item: what the methods do alike."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from modelzoo.denoiser import NO_RESIDUALS
from stages.train.batches import Batch
from stages.train.model import Model
from stages.train.objectives import Objective


def noisy_latents(model: Model, objective: Objective, batch: Batch) -> Tensor:
    """Return the batch's latents at its times, (B, C, H, W) in the denoiser's dtype."""
    return objective.noisy(batch.latents, batch.noise, batch.t).to(model.denoiser.dtype)


def conditioning_of(model: Model, objective: Objective, batch: Batch) -> Any:
    """Return what the denoiser is told of the batch's captions, sizes and pictures to edit."""
    guidance = objective.guidance if model.denoiser.embeds_guidance else None
    rows = batch.conditions if model.text is None else model.text(batch.conditions)
    conditioning = model.denoiser.conditioning(rows, guidance)
    if model.editing is None:
        return conditioning
    return model.editing.add(model.denoiser, conditioning, batch)


def predict(
    model: Model,
    objective: Objective,
    batch: Batch,
    residuals: Mapping[str, Any] = NO_RESIDUALS,
) -> Tensor:
    """Return the denoiser's prediction, (B, C, H, W) in its dtype."""
    noisy = noisy_latents(model, objective, batch)
    conditioning = conditioning_of(model, objective, batch)
    return model.denoiser.predict(noisy, batch.t, conditioning, residuals)


def item_losses(objective: Objective, batch: Batch, prediction: Tensor) -> Tensor:
    """Return each item's loss times its weight, (B,), in float32 whatever the network's dtype."""
    losses = objective.losses(prediction.float(), batch.latents, batch.noise, batch.t)
    return batch.weights * losses
