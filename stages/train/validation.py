"""The validation loss: a fixed grid of (image, t, noise), the same for every seed and run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from stages.train.batches import Batch
from stages.train.history import ValidationRow
from stages.train.method import Method
from stages.randomness import generator
from stages.train.samples import Indices, Samples
from stages.train.state import TrainState


@dataclass(frozen=True)
class Validation:
    """Measures a state on the first images of the validation split, at each of the times."""

    samples: Samples
    method: Method
    num_images: int  # at most: the first by sample id
    times: Sequence[float]
    batch_size: int

    def measure(self, state: TrainState) -> ValidationRow:
        """Return the mean loss of the weights that would be kept, over the grid and by t."""
        by_t = []
        with state.evaluation() as denoiser:
            for place, t in enumerate(self.times):
                losses = [
                    self.method.loss(denoiser, batch).double() * len(batch)
                    for batch in self._batches(place, t, state.device)
                ]
                by_t.append(torch.stack(losses).sum())
        num_images = min(self.num_images, len(self.samples))
        means = (torch.stack(by_t) / num_images).tolist()
        return ValidationRow(state.step, sum(means) / len(means), means)

    def _batches(self, place: int, t: float, device: torch.device) -> Iterator[Batch]:
        for bucket in self.samples.buckets.values():
            chosen = bucket[bucket < self.num_images]  # samples are in the order of their ids
            for start in range(0, len(chosen), self.batch_size):
                yield self._batch(chosen[start : start + self.batch_size], place, t).to(device)

    def _batch(self, indices: Indices, place: int, t: float) -> Batch:
        latents = self.samples.latents(indices)["mean"]
        noise = np.empty(latents.shape, np.float32)
        sample_ids = tuple(self.samples.sample_ids[i] for i in indices)
        captions = [self.samples.captions[i] for i in indices]
        for row, sample_id in enumerate(sample_ids):
            random = generator("validation", sample_id, place)
            random.standard_normal(dtype=np.float32, out=noise[row])
        return Batch(
            sample_ids=sample_ids,
            latents=torch.from_numpy(latents),
            noise=torch.from_numpy(noise),
            t=torch.full((len(indices),), t),
            conditions=self.samples.conditions(indices, captions),
        )
