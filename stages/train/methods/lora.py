"""LoRA and its relatives: small adapters learn, everything else of the denoiser is frozen."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from modelzoo.adapters.adapter import Adapter, adapter_parameters, add_adapters
from modelzoo.adapters.files import save_adapters
from modelzoo.adapters.found import digest
from modelzoo.adapters.start import start_from
from modelzoo.adapters.targets import patterns
from modelzoo.adapters.text import save_text_adapters, text_parameters
from modelzoo.denoiser import Denoiser
from modelzoo.families import FAMILIES
from stages.params import methods
from stages.params.training import Training
from stages.train.batches import Batch
from stages.train.model import Model
from stages.train.objectives import Objective
from stages.train.prediction import item_losses, predict


@dataclass(frozen=True)
class Lora:
    """Regress the objective's target with adapters in the chosen layers (Hu et al. 2022)."""

    objective: Objective
    settings: Training
    seed: int = 0

    def build(self, denoiser: Denoiser) -> Model:
        """Freeze the base and add adapters that change nothing yet, or those of `init_from`."""
        add(denoiser, self._lora, self.seed)
        return Model(denoiser)

    def trainable(self, model: Model) -> Iterable[tuple[str, nn.Parameter]]:
        """Return the adapters' parameters, in float32 whatever the base is."""
        text = {} if model.text is None else text_parameters(model.text.encoders)
        return {**adapter_parameters(model.learner), **text}.items()

    def losses(self, model: Model, batch: Batch) -> Tensor:
        """Return each item's weighted loss, (B,)."""
        with dropout_of(batch, self.seed if self._lora.dropout else None):
            prediction = predict(model, self.objective, batch)
        return item_losses(self.objective, batch, prediction)

    def save(self, model: Model, folder: Path) -> None:
        """Write the adapters alone, as peft does; those of a text encoder in a folder inside."""
        save_adapters(model.denoiser.network, folder)
        if model.text is not None:
            save_text_adapters(model.text.encoders, folder)

    @property
    def _lora(self) -> methods.Lora:
        return self.settings.lora or methods.Lora()


def add(denoiser: Denoiser, lora: methods.Lora, seed: int, further: Sequence[str] = ()) -> None:
    """Add the adapters of the section `training.lora` to a denoiser, which is frozen.

    Args:
        denoiser: Of any family.
        lora: The section.
        seed: Of the first values.
        further: Layers, or patterns of them, that have one beside those of the section.

    Raises:
        ValueError: A pattern fits no layer, or `init_from` is of another model.
    """
    family = family_of(denoiser)
    add_adapters(
        denoiser.network,
        adapter_of(lora),
        [*patterns(family, lora.target_modules), *further],
        seed,
        is_alone=not lora.train_text_encoder,
    )
    if lora.init_from is None:
        return
    place = Path(lora.init_from)
    if digest(place) != lora.init_digest:
        raise ValueError(
            f"training.lora.init_from: {lora.init_from!r} is not what it was when params.yaml was "
            "written: write it again with `python -m stages.params use FILE [key=value ...]`"
        )
    start_from(denoiser.network, family, place, lora.train_text_encoder)


def family_of(denoiser: Denoiser) -> str:
    """Give the `model.type` of a denoiser."""
    return next(name for name, kind in FAMILIES.items() if kind.denoiser is type(denoiser))


def adapter_of(lora: methods.Lora) -> Adapter:
    """Give what the section `training.lora` adds to each layer."""
    return Adapter(
        kind=lora.kind,
        rank=lora.rank,
        alpha=lora.alpha,
        dropout=lora.dropout,
        use_rslora=lora.use_rslora,
        use_dora=lora.use_dora,
        ranks={row.modules: row.rank for row in lora.rank_pattern},
        alphas={row.modules: row.alpha or lora.alpha for row in lora.rank_pattern},
    )


@contextmanager
def dropout_of(batch: Batch, seed: int | None) -> Iterator[None]:
    """Draw what a forward pass drops from the visits of the batch; None: nothing is dropped."""
    if seed is None or not batch.visits:
        yield
        return
    purpose = "/".join(map(str, (seed, "dropout", *batch.names, *batch.visits)))
    digest = hashlib.blake2b(purpose.encode(), digest_size=8).digest()
    devices = [batch.t.device] if batch.t.is_cuda else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(int.from_bytes(digest, "big") >> 1)
        yield
