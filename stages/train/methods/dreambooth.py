"""DreamBooth: another method learns the subject, and its class is held where it was."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn

from modelzoo.adapters.adapter import without_adapters
from modelzoo.denoiser import Denoiser
from stages.params import methods
from stages.params.training import Training
from stages.train.batches import Batch
from stages.train.method import Method
from stages.train.methods.full_finetune import FullFinetune
from stages.train.methods.lora import Lora
from stages.train.model import Model
from stages.train.objectives import Objective
from stages.train.prediction import predict

LEARNERS: Mapping[str, Callable[[Objective, Training, int], Method]] = {
    "lora": Lora,
    "full_finetune": FullFinetune,
}


@dataclass(frozen=True)
class Dreambooth:
    """Let LoRA or full fine-tuning learn; the prior's items are in the batches, see train.prior."""

    objective: Objective
    settings: Training
    seed: int = 0

    def build(self, denoiser: Denoiser) -> Model:
        """Prepare what learns; full fine-tuning by predictions needs a frozen copy of the base."""
        frozen = None
        if self._predicts and self.settings.learns == "full_finetune":
            network = copy.deepcopy(denoiser.network).eval().requires_grad_(False)
            frozen = type(denoiser)(network)
        return replace(self._learner.build(denoiser), frozen=frozen)

    def trainable(self, model: Model) -> Iterable[tuple[str, nn.Parameter]]:
        """Return the parameters of what learns."""
        return self._learner.trainable(model)

    def losses(self, model: Model, batch: Batch) -> Tensor:
        """Return each item's weighted loss, (B,); what it is held to may be the base's prediction.

        Where predictions are the prior, a batch with one is all such items.
        """
        if not self._predicts or batch.prior is None:
            return self._learner.losses(model, batch)
        target = self._base_prediction(model, batch)
        learner = LEARNERS[self.settings.learns](
            Held(self.objective, target), self.settings, self.seed
        )
        return learner.losses(model, batch)

    def save(self, model: Model, folder: Path) -> None:
        """Write what has learned, as its method does."""
        self._learner.save(model, folder)

    @torch.no_grad()
    def _base_prediction(self, model: Model, batch: Batch) -> Tensor:
        """Return what the untrained base predicts, (B, C, H, W) in float32."""
        if model.frozen is None:
            stored = replace(model, text=None)  # the rows are the untrained text encoders'
            with without_adapters(model.denoiser.network):
                return predict(stored, self.objective, batch).float()
        model.frozen.network.to(batch.latents.device)
        return predict(replace(model, denoiser=model.frozen), self.objective, batch).float()

    @cached_property
    def _learner(self) -> Method:
        return LEARNERS[self.settings.learns](self.objective, self.settings, self.seed)

    @property
    def _predicts(self) -> bool:
        return self._dreambooth.prior == "prediction"

    @property
    def _dreambooth(self) -> methods.Dreambooth:
        if self.settings.dreambooth is None:
            raise ValueError(
                "params.yaml: training.dreambooth is null, but training.method 'dreambooth' needs "
                "its prompts: give them"
            )
        return self.settings.dreambooth


@dataclass(frozen=True)
class Held:
    """An objective whose target is given (B, C, H, W): the rest is as the other says."""

    objective: Objective
    target: Tensor

    @property
    def guidance(self) -> float:
        """Give the objective's value."""
        return self.objective.guidance

    @property
    def noise_offset(self) -> float:
        """Give the objective's value."""
        return self.objective.noise_offset

    def times(self, uniform: Tensor, num_tokens: int) -> Tensor:
        """Sample as the objective does."""
        return self.objective.times(uniform, num_tokens)

    def noisy(self, data: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Corrupt as the objective does."""
        return self.objective.noisy(data, noise, t)

    def losses(self, prediction: Tensor, data: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Return the distance to the target, weighted as the objective's."""
        return self.objective.errors(prediction, self.target, t)

    def errors(self, prediction: Tensor, target: Tensor, t: Tensor) -> Tensor:
        """Measure as the objective does."""
        return self.objective.errors(prediction, target, t)
