"""ControlNet: a copy of the base's first blocks learns to steer the frozen base by a picture."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from modelzoo.controlnet import residuals_of, save_controlnet
from modelzoo.controlnets import Sizes, kind_of
from modelzoo.denoiser import Denoiser
from stages.params.methods import Controlnet as Section
from stages.params.training import Training
from stages.train.batches import Batch
from stages.train.followed import followed
from stages.train.model import Model
from stages.train.objectives import Objective
from stages.train.prediction import conditioning_of, item_losses, noisy_latents


@dataclass(frozen=True)
class Controlnet:
    """Regress the objective's target with residuals added to the base (Zhang et al. 2023).

    The base runs once a step, and its weights get no gradient. The ControlNet's outputs are zero
    at first, so that step 0 is the base.
    """

    objective: Objective
    settings: Training
    seed: int = 0  # experiment.seed: of SDXL's new weights, and of which visits go without

    @property
    def section(self) -> Section:
        """`training.controlnet`."""
        return self.settings.controlnet or Section()

    def build(self, denoiser: Denoiser) -> Model:
        """Freeze the base and put a ControlNet beside it.

        Raises:
            ValueError: The base has fewer blocks than are to be copied.
        """
        asked = self.section
        sizes = Sizes(asked.num_layers, asked.num_single_layers, tuple(asked.embedding_channels))
        controlnet = kind_of(denoiser).grow(denoiser, sizes, self.seed)
        denoiser.network.requires_grad_(False).eval()
        return Model(denoiser, controlnet)

    def trainable(self, model: Model) -> Iterable[tuple[str, nn.Parameter]]:
        """Return all parameters of the ControlNet."""
        return model.learner.named_parameters()

    def losses(self, model: Model, batch: Batch) -> Tensor:
        """Return each item's weighted loss, (B,).

        Raises:
            ValueError: The batch has no condition pictures, or such of another size.
        """
        assert model.controlnet is not None
        noisy = noisy_latents(model, self.objective, batch)
        conditioning = conditioning_of(model, self.objective, batch)
        residuals = residuals_of(
            model.controlnet,
            model.denoiser,
            noisy,
            batch.t,
            conditioning,
            self._followed(model, batch),
            self.section.conditioning_scale,
        )
        prediction = model.denoiser.predict(noisy, batch.t, conditioning, residuals)
        return item_losses(self.objective, batch, prediction)

    def save(self, model: Model, folder: Path) -> None:
        """Write the ControlNet as a diffusers folder."""
        assert model.controlnet is not None
        save_controlnet(model.controlnet, folder)

    def _followed(self, model: Model, batch: Batch) -> Tensor:
        """Return the condition pictures, of SDXL in pixels."""
        factor = 1
        if kind_of(model.denoiser).sees_pixels:
            factor = 2 ** (len(self.section.embedding_channels) - 1)
        return followed(batch, self.section.conditioning_dropout, self.seed, factor)
