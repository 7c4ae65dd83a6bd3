"""The validation loss: a fixed grid of (image, t, noise), the same for every seed and run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from stages.randomness import generator
from stages.train.batches import Batch
from stages.train.history import ValidationRow
from stages.train.method import Method
from stages.train.samples import Indices, Samples
from stages.train.state import TrainState


@dataclass(frozen=True)
class Validation:
    """Measures a state on the first images of the validation split, at each of the times.

    Of an item's variants the first counts; repeats and weights do not.
    """

    samples: Samples
    method: Method
    num_images: int  # at most: the first by sample id, each at all its resolutions
    times: Sequence[float]
    batch_sizes: Mapping[str, int]  # by bucket

    def measure(self, state: TrainState) -> ValidationRow:
        """Return the mean loss of the weights that would be kept: over the grid, by t, by item."""
        places = {name: place for place, name in enumerate(self.names)}
        grid = torch.zeros(len(self.times), len(places), dtype=torch.float64, device=state.device)
        pieces = list(self._pieces())
        with state.evaluation() as model:
            for place, counts in state.peers.dealt(len(pieces)):
                items, row = pieces[place]
                batch = self._batch(items, row).to(state.device)
                losses = self.method.losses(model, batch)
                if counts:
                    grid[row, [places[name] for name in batch.names]] = losses.double()
        grid = state.peers.add(grid)
        by_t = grid.mean(1).tolist()
        return ValidationRow(state.step, sum(by_t) / len(by_t), by_t, grid.mean(0).tolist())

    @property
    def names(self) -> list[str]:
        """Name the items in the order of `ValidationRow.by_item`."""
        return [self.samples.names[item] for _, chosen in self._chosen() for item in chosen]

    def _pieces(self) -> Iterator[tuple[Indices, int]]:
        """Cut the grid into the items of a batch, and the place of their time."""
        for place in range(len(self.times)):
            for name, chosen in self._chosen():
                size = self.batch_sizes[name]
                for start in range(0, len(chosen), size):
                    yield chosen[start : start + size], place

    def _chosen(self) -> Iterator[tuple[str, Indices]]:
        for name, bucket in self.samples.buckets.items():
            yield name, bucket[self.samples.sample_of[bucket] < self.num_images]

    def _batch(self, items: Indices, place: int) -> Batch:
        """Return items at the time of a place."""
        names = tuple(self.samples.names[item] for item in items)
        rows = [self.samples.rows[item][0] for item in items]
        captions = [self.samples.captions[item][0] for item in items]
        latents = self.samples.latents(rows)["mean"]
        noise = np.empty(latents.shape, np.float32)
        for row, name in enumerate(names):
            random = generator("validation", name, place)
            random.standard_normal(dtype=np.float32, out=noise[row])
        return Batch(
            names=names,
            latents=torch.from_numpy(latents),
            noise=torch.from_numpy(noise),
            t=torch.full((len(items),), self.times[place]),
            weights=torch.ones(len(items)),
            conditions=self.samples.conditions(rows, captions),
            **self.samples.pictures(rows),
        )
