"""The order of training: which items each micro-batch has, by epoch and seed alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from stages.randomness import generator
from stages.train.samples import Indices


class MicroBatch(NamedTuple):
    """Items of one bucket, and which visit this is to each of them."""

    items: Indices  # (B,) places in Samples
    visits: Indices  # (B,) from 0


class Order:
    """Every epoch visits each item `repeats` times, in micro-batches of one bucket.

    A bucket that its batch size does not divide is cut into micro-batches of nearly equal size, so
    that nothing is dropped and none is much smaller than the others.
    """

    def __init__(
        self,
        buckets: Mapping[str, Indices],
        repeats: Indices,
        batch_sizes: Mapping[str, int],
        accumulation: int,
        seed: int,
        epochs: int | None,
    ) -> None:
        """Take the items of each bucket.

        Args:
            buckets: Places of the items, by bucket.
            repeats: Visits to each item in an epoch, (items,).
            batch_sizes: Items a micro-batch, at most, by bucket.
            accumulation: Micro-batches a step.
            seed: Of the order.
            epochs: Where the data ends; None: never.
        """
        self.buckets, self.repeats, self.accumulation = buckets, repeats, accumulation
        self.batch_sizes, self.seed, self.epochs = batch_sizes, seed, epochs
        self.num_parts = {
            name: -(-int(repeats[of].sum()) // batch_sizes[name])
            for name, of in sorted(buckets.items())
        }
        self.epoch_length = sum(self.num_parts.values())  # micro-batches
        self._shuffled: tuple[int, list[MicroBatch]] = (-1, [])

    def num_steps(self, epochs: int) -> int:
        """Return how many steps `epochs` take; the last may have fewer micro-batches."""
        return -(-epochs * self.epoch_length // self.accumulation)

    def at(self, step: int) -> list[MicroBatch]:
        """Return the micro-batches of the step after `step` finished ones."""
        first, last = self._end(step), self._end(step + 1)
        places = [divmod(place, self.epoch_length) for place in range(first, last)]
        return [self.epoch(epoch)[place] for epoch, place in places]

    def epoch(self, epoch: int) -> list[MicroBatch]:
        """Return the micro-batches of an epoch in order; the newest one is remembered."""
        if self._shuffled[0] != epoch:
            random = generator(self.seed, "order", epoch)
            parts: list[Indices] = []
            for name, num_parts in self.num_parts.items():
                items = random.permutation(self.buckets[name])
                parts += _cut(items, self.repeats[items], num_parts, random)
            parts = [parts[place] for place in random.permutation(len(parts))]
            self._shuffled = epoch, self._number(epoch, parts)
        return self._shuffled[1]

    def visits(self, steps: int) -> Indices:
        """Count how often each item is trained on in the first `steps` steps, (items,)."""
        epochs, rest = divmod(self._end(steps), self.epoch_length)
        counts = epochs * self.repeats
        if rest:
            for part in self.epoch(epochs)[:rest]:
                np.add.at(counts, part.items, 1)
        return counts

    def _end(self, step: int) -> int:
        """Return how many micro-batches `step` steps have."""
        last = step * self.accumulation
        return last if self.epochs is None else min(last, self.epochs * self.epoch_length)

    def _number(self, epoch: int, parts: Sequence[Indices]) -> list[MicroBatch]:
        """Say of each item in each part which visit it is, counted over all epochs."""
        items = np.concatenate(parts)
        visits = epoch * self.repeats[items] + _times_before(items)
        ends = np.cumsum([len(part) for part in parts])[:-1]
        return [MicroBatch(*both) for both in zip(parts, np.split(visits, ends), strict=True)]


def _cut(
    items: Indices, repeats: Indices, num_parts: int, random: np.random.Generator
) -> list[Indices]:
    """Cut shuffled items, each `repeats` times, into parts of nearly equal size.

    The copies of an item are in different parts, unless it has more copies than there are parts.
    """
    copies = items.repeat(repeats)
    if len(copies) == len(items):
        return np.array_split(items, num_parts)
    parts = np.empty_like(copies)
    for start in range(0, len(copies), num_parts):  # one copy for each part, in a drawn order ...
        before = slice(max(0, start - num_parts), start)
        taken = parts[before][copies[before] == copies[start]]
        drawn = random.permutation(num_parts)
        drawn = drawn[np.argsort(np.isin(drawn, taken), kind="stable")]  # ... but for copies cut
        parts[start : start + num_parts] = drawn[: len(copies) - start]
    ends = np.cumsum(np.bincount(parts, minlength=num_parts))[:-1]
    return np.split(copies[np.argsort(parts, kind="stable")], ends)


def _times_before(items: Indices) -> Indices:
    """Count for each place how often its item stands at an earlier one."""
    order = np.argsort(items, kind="stable")
    times = np.empty_like(items)
    times[order] = np.arange(len(items)) - np.searchsorted(items[order], items[order])
    return times
