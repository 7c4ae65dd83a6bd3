"""Control-LoRA: adapters let a FLUX follow a picture whose latents lie on its tokens' channels."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from modelzoo.adapters.adapter import adapter_parameters
from modelzoo.control_lora import SEEING, free_norms, norms, save_control_lora
from modelzoo.denoiser import Denoiser
from modelzoo.flux.components.editing import widened_for_control
from stages.params import methods
from stages.params.training import Training
from stages.train.batches import Batch
from stages.train.followed import followed
from stages.train.methods.lora import add, dropout_of
from stages.train.model import Model
from stages.train.objectives import Objective
from stages.train.prediction import conditioning_of, item_losses, noisy_latents


@dataclass(frozen=True)
class ControlLora:
    """Regress the objective's target with a base that sees the picture beside the noise.

    What sees it is widened by columns of zeros and adapters begin at zero, so that step 0 is the
    base. The adapters and the norms of queries and keys learn.
    """

    objective: Objective
    settings: Training
    seed: int = 0  # experiment.seed: of the adapters, and of which visits go without

    def build(self, denoiser: Denoiser) -> Model:
        """Widen the base, freeze it, and add adapters that change nothing yet.

        Raises:
            ValueError: A pattern fits no layer, or the base takes further channels already.
        """
        wide = widened_for_control(denoiser)
        add(wide, self._lora, self.seed, further=[SEEING])
        free_norms(wide.network)
        return Model(wide)

    def trainable(self, model: Model) -> Iterable[tuple[str, nn.Parameter]]:
        """Return the parameters of adapters and norms, in float32 whatever the base is."""
        return {**adapter_parameters(model.learner), **norms(model.learner)}.items()

    def losses(self, model: Model, batch: Batch) -> Tensor:
        """Return each item's weighted loss, (B,).

        Raises:
            ValueError: The batch has no condition pictures, or such of another size.
        """
        picture = followed(batch, self._section.conditioning_dropout, self.seed)
        told = conditioning_of(model, self.objective, batch)
        told = model.denoiser.with_pictures(told, fill=picture)
        noisy = noisy_latents(model, self.objective, batch)
        with dropout_of(batch, self.seed if self._lora.dropout else None):
            prediction = model.denoiser.predict(noisy, batch.t, told)
        return item_losses(self.objective, batch, prediction)

    def save(self, model: Model, folder: Path) -> None:
        """Write adapters and norms."""
        save_control_lora(model.denoiser.network, folder)

    @property
    def _lora(self) -> methods.Lora:
        return self.settings.lora or methods.Lora()

    @property
    def _section(self) -> methods.Controlnet:
        return self.settings.controlnet or methods.Controlnet()
