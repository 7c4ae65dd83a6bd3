"""Which samples a step trains on, with what noise: a function of the step and the seed alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from types import TracebackType

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from stages.train.objectives import Objective
from stages.randomness import generator
from stages.train.samples import Indices, Samples


@dataclass(frozen=True)
class Batch:
    """Samples of one bucket, with everything random about this visit to them."""

    sample_ids: tuple[str, ...]
    latents: Tensor  # (B, C, H, W), unit variance
    noise: Tensor  # (B, C, H, W)
    t: Tensor  # (B,) in [0, 1]: 0 data, 1 noise
    conditions: Mapping[str, Tensor]  # rows of the text encoders and sizes, each (B, ...)

    def __len__(self) -> int:
        return len(self.sample_ids)

    def to(self, device: torch.device) -> Batch:
        """Copy to `device`, without waiting for the copy."""
        if device.type == "cpu":
            return self
        return replace(
            self,
            latents=self.latents.to(device, non_blocking=True),
            noise=self.noise.to(device, non_blocking=True),
            t=self.t.to(device, non_blocking=True),
            conditions={k: v.to(device, non_blocking=True) for k, v in self.conditions.items()},
        )


class Order:
    """The order of the samples: every epoch visits each once, in micro-batches of one bucket.

    A bucket that `batch_size` does not divide is cut into micro-batches of nearly equal size, so
    that nothing is dropped and none is much smaller than the others.
    """

    def __init__(
        self,
        buckets: Mapping[str, Indices],
        batch_size: int,
        accumulation: int,
        seed: int,
        epochs: int | None,
    ) -> None:
        """Take the samples of each bucket.

        Args:
            buckets: Places of the samples, by bucket.
            batch_size: Images a micro-batch, at most.
            accumulation: Micro-batches a step.
            seed: Of the order.
            epochs: Where the data ends; None: never.
        """
        self.buckets, self.accumulation, self.seed, self.epochs = (
            buckets,
            accumulation,
            seed,
            epochs,
        )
        self.num_parts = {name: -(-len(of) // batch_size) for name, of in sorted(buckets.items())}
        self.epoch_length = sum(self.num_parts.values())  # micro-batches
        self._shuffled: tuple[int, list[Indices]] = (-1, [])

    def num_steps(self, epochs: int) -> int:
        """Return how many steps `epochs` take; the last may have fewer micro-batches."""
        return -(-epochs * self.epoch_length // self.accumulation)

    def at(self, step: int) -> list[tuple[int, Indices]]:
        """Return (epoch, samples) of each micro-batch of the step after `step` finished ones."""
        first = step * self.accumulation
        last = first + self.accumulation
        if self.epochs is not None:
            last = min(last, self.epochs * self.epoch_length)
        places = [divmod(place, self.epoch_length) for place in range(first, last)]
        return [(epoch, self.epoch(epoch)[place]) for epoch, place in places]

    def epoch(self, epoch: int) -> list[Indices]:
        """Return the micro-batches of an epoch in order; the newest one is remembered."""
        if self._shuffled[0] != epoch:
            random = generator(self.seed, "order", epoch)
            parts: list[Indices] = []
            for name, num_parts in self.num_parts.items():
                parts += np.array_split(random.permutation(self.buckets[name]), num_parts)
            self._shuffled = epoch, [parts[place] for place in random.permutation(len(parts))]
        return self._shuffled[1]

    def visits(self, steps: int) -> Counter[int]:
        """Count how often each sample is trained on in the first `steps` steps."""
        whole = steps * self.accumulation // self.epoch_length
        whole = whole if self.epochs is None else min(whole, self.epochs)
        counts = Counter({int(i): whole for bucket in self.buckets.values() for i in bucket})
        for step in range(whole * self.epoch_length // self.accumulation, steps):
            for epoch, indices in self.at(step):
                if epoch == whole:
                    counts.update(indices.tolist())
        return counts


@dataclass(frozen=True)
class Batches:
    """Micro-batches of a step: rows from the store, and noise, t and caption dropout by visit."""

    samples: Samples
    order: Order
    objective: Objective
    caption_dropout: float
    posterior: str  # "mean" or "sample"
    seed: int

    def at(self, step: int) -> list[Batch]:
        """Return the micro-batches of the step after `step` finished ones."""
        return [self._batch(indices, visit) for visit, indices in self.order.at(step)]

    def _batch(self, indices: Indices, visit: int) -> Batch:
        """Make a batch; a sample's visit is its epoch, because an epoch has it once."""
        sample_ids = tuple(self.samples.sample_ids[i] for i in indices)
        captions = [self.samples.captions[i] for i in indices]
        latents = self._latents(indices, visit)
        noise = np.empty(latents.shape, np.float32)
        uniform = np.empty(len(indices), np.float64)
        for place, sample_id in enumerate(sample_ids):
            random = generator(self.seed, sample_id, visit)
            uniform[place] = random.random()
            if random.random() < self.caption_dropout:
                captions[place] = ""
            random.standard_normal(dtype=np.float32, out=noise[place])
        return Batch(
            sample_ids=sample_ids,
            latents=torch.from_numpy(latents),
            noise=torch.from_numpy(noise),
            t=self.objective.times(torch.from_numpy(uniform)).float(),
            conditions=self.samples.conditions(indices, captions),
        )

    def _latents(self, indices: Indices, visit: int) -> npt.NDArray[np.float32]:
        """Return the posterior's mean, or a draw from it that belongs to the visit."""
        rows = self.samples.latents(indices)
        mean = rows["mean"]
        if self.posterior == "mean":
            return mean
        if "logvar" not in rows:
            raise ValueError(
                f"training.posterior: {self.posterior!r} given, but this autoencoder keeps the "
                "mean alone: set 'mean'"
            )
        draw = np.empty_like(mean)
        for place, index in enumerate(indices):
            random = generator(self.seed, self.samples.sample_ids[index], visit, "posterior")
            random.standard_normal(dtype=np.float32, out=draw[place])
        return mean + np.exp(0.5 * rows["logvar"]) * draw


class Prefetch:
    """Prepare the next steps' batches in one thread while the model computes."""

    def __init__(
        self, at: Callable[[int], list[Batch]], steps: int, device: torch.device, depth: int = 2
    ) -> None:
        self._at, self._steps, self._device, self._depth = at, steps, device, depth
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="batches")
        self._ahead: dict[int, Future[list[Batch]]] = {}

    def at(self, step: int) -> Sequence[Batch]:
        """Return the micro-batches of a step on the device; steps are asked for in order."""
        for ahead in range(step, min(step + self._depth + 1, self._steps)):
            if ahead not in self._ahead:
                self._ahead[ahead] = self._thread.submit(self._at, ahead)
        return [batch.to(self._device) for batch in self._ahead.pop(step).result()]

    def __enter__(self) -> Prefetch:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._thread.shutdown(wait=True, cancel_futures=True)
