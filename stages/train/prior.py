"""Steps that learn a subject and hold its class: what preserves the prior beside each step's items.

The loss of a step is the mean over the subject's items plus `prior_preservation_weight` times the
mean over those of the class (Ruiz et al. 2023, eq. 2, as in Hugging Face's scripts), however the
items are cut into micro-batches and dealt to processes: each item's weight says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from itertools import chain

import numpy as np
import numpy.typing as npt
import torch

from stages.class_images import class_caption
from stages.params.methods import Dreambooth
from stages.train.batches import Batch, Batches, Part
from stages.train.order import MicroBatch, Order
from stages.train.samples import Indices


@dataclass(frozen=True, kw_only=True)
class PriorBatches(Batches):
    """Micro-batches of the subject, and as many of its class.

    `order` has the subject's items alone, so that epochs count its pictures.

    Attributes:
        dreambooth: the section of its parameters.
        of_class: the order of the class's pictures, which never end; None: the class is told of
            the subject's own pictures, and the base predicts what to see in them.
    """

    dreambooth: Dreambooth
    of_class: Order | None

    def parts(self, step: int) -> list[MicroBatch]:
        """Return the items of the subject's micro-batches, then those of the class."""
        return [part for parts in self._both(step) for part in parts]

    def at(self, step: int) -> list[Part]:
        """Return the subject's micro-batches of a step and those of the class."""
        own, of_class = self._both(step)
        self._look_ahead(step)
        num_own, num_class = (sum(len(part.items) for part in parts) for parts in (own, of_class))
        total, weight = num_own + num_class, self.dreambooth.prior_preservation_weight
        parts = [(part, False, total / num_own) for part in own]
        parts += [(part, True, weight * total / num_class) for part in of_class]
        return self._dealt([*own, *of_class], lambda place: self._weighed(*parts[place]))

    def visits(self, steps: int) -> Indices:
        """Count how often each item is trained on in the first `steps` steps, (items,)."""
        counts = self.order.visits(steps)
        return counts if self.of_class is None else counts + self.of_class.visits(steps)

    def _both(self, step: int) -> tuple[list[MicroBatch], list[MicroBatch]]:
        own = self.order.at(step)
        return own, own if self.of_class is None else self.of_class.at(step)

    def _weighed(self, part: MicroBatch, is_prior: bool, factor: float) -> Batch:
        batch = self._batch(part)
        if self.of_class is None and not is_prior:
            batch = replace(batch, prior=None)
        elif self.of_class is None:
            captions = [self._class_caption(caption) for caption in self._captions(part)]
            visits = part.visits.tolist()
            conditions = self.samples.conditions(self._rows(part), captions, visits)
            batch = replace(batch, conditions=conditions, prior=torch.ones(len(batch)).bool())
        return replace(batch, weights=batch.weights * factor)

    def _class_caption(self, caption: str) -> str:
        prompts = self.dreambooth.instance_prompt, self.dreambooth.class_prompt
        return class_caption(caption, *prompts)


def with_prior(batches: Batches, dreambooth: Dreambooth | None) -> Batches:
    """Return batches that preserve the prior, as far as DreamBooth is asked to.

    Raises:
        ValueError: The tables lack what preserves it, or hold it for another training.
    """
    samples, order = batches.samples, batches.order
    kind = "none" if dreambooth is None else dreambooth.prior
    if samples.prior.any() != (kind == "images"):
        has = "no pictures" if kind == "images" else f"{samples.prior.sum()} pictures"
        raise ValueError(
            f"data/latents.parquet has {has} of DreamBooth's class, but training.dreambooth.prior "
            f"is {kind!r}: run `dvc repro`, which makes it anew"
        )
    if dreambooth is None or kind == "none":
        return batches
    given = {field.name: getattr(batches, field.name) for field in fields(Batches)}
    if kind == "prediction":
        made = PriorBatches(**given, dreambooth=dreambooth, of_class=None)
        told = {made._class_caption(each) for each in chain.from_iterable(samples.captions)}
        samples.prompt_rows.take(sorted(told))  # refuses what is not encoded
        return made
    given["order"] = _of(order, ~samples.prior, order.epochs)
    return PriorBatches(
        **given, dreambooth=dreambooth, of_class=_of(order, samples.prior, epochs=None)
    )


def _of(order: Order, chosen: npt.NDArray[np.bool_], epochs: int | None) -> Order:
    """Return the order of the chosen items alone."""
    buckets: Mapping[str, Indices] = {
        name: items[chosen[items]] for name, items in order.buckets.items() if chosen[items].any()
    }
    repeats = order.repeats * chosen
    sizes = order.batch_sizes
    return Order(buckets, repeats, sizes, order.accumulation, order.seed, epochs)
