"""What a step trains on, with what noise: a function of the step and the seed alone."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, fields, replace
from types import TracebackType
from typing import Any, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from stages.randomness import generator
from stages.train.objectives import Objective
from stages.train.order import MicroBatch, Order
from stages.train.peers import Peers
from stages.train.samples import Indices, Samples

Variant = TypeVar("Variant")


@dataclass(frozen=True)
class Batch:
    """Items of one bucket, with everything random about this visit to them."""

    names: tuple[str, ...]  # of the items, see Samples
    latents: Tensor  # (B, C, H, W), unit variance
    noise: Tensor  # (B, C, H, W)
    t: Tensor  # (B,) in [0, 1]: 0 data, 1 noise
    weights: Tensor  # (B,) of the items' losses
    conditions: Mapping[str, Tensor]  # rows of the text encoders and sizes, each (B, ...)
    references: tuple[Tensor, ...] = ()  # latents of each reference of the items, (B, C, H', W')
    mask: Tensor | None = None  # (B, 1, H x factor, W x factor) pixels in {0, 1}: 1 is filled
    masked: Tensor | None = None  # latents of the items without what is filled, (B, C, H, W)
    condition: Tensor | None = None  # what a ControlNet follows, see Denoiser.followed
    prior: Tensor | None = None  # (B,) whether an item preserves the prior; None: none does
    visits: tuple[int, ...] = ()  # of the items: how often each was trained on before

    def __len__(self) -> int:
        return len(self.names)

    def to(self, device: torch.device) -> Batch:
        """Copy to `device`, without waiting for the copy."""
        if device.type == "cpu":
            return self
        moved = {field.name: _moved(getattr(self, field.name), device) for field in fields(self)}
        return replace(self, **moved)


def _moved(part: Any, device: torch.device) -> Any:
    if isinstance(part, Tensor):
        return part.to(device, non_blocking=True)
    if isinstance(part, Mapping):
        return {name: _moved(each, device) for name, each in part.items()}
    if isinstance(part, tuple):
        return tuple(_moved(each, device) for each in part)
    return part


@dataclass(frozen=True)
class Elsewhere:
    """A micro-batch that another process computes."""

    names: tuple[str, ...]  # of the items

    def __len__(self) -> int:
        return len(self.names)

    def to(self, device: torch.device) -> Elsewhere:
        """Return itself: there is nothing to copy."""
        return self


@dataclass(frozen=True)
class Spare:
    """A micro-batch that another process computes too; here its loss does not count.

    Where each process has a part of the weights, all must compute equally often.
    """

    batch: Batch
    names: tuple[str, ...] = ()

    def __len__(self) -> int:
        return 0

    def to(self, device: torch.device) -> Spare:
        """Copy to `device`, without waiting for the copy."""
        return Spare(self.batch.to(device))


Part: TypeAlias = Batch | Elsewhere | Spare  # of a step


@dataclass(frozen=True)
class Batches:
    """Micro-batches of a step: rows from the store, and all that is drawn for a visit."""

    samples: Samples
    order: Order
    objective: Objective
    caption_dropout: float
    posterior: str  # "mean" or "sample"
    seed: int
    num_tokens: Callable[[int, int], int] = operator.mul  # of latents, from height and width
    peers: Peers = Peers()

    def at(self, step: int) -> list[Part]:
        """Return the micro-batches of the step after `step` finished ones, dealt in turn."""
        parts = self.parts(step)
        self._look_ahead(step)
        return self._dealt(parts, lambda place: self._batch(parts[place]))

    def parts(self, step: int) -> list[MicroBatch]:
        """Return the items of a step's micro-batches, in the order in which they are dealt."""
        return self.order.at(step)

    def visits(self, steps: int) -> Indices:
        """Count how often each item is trained on in the first `steps` steps, (items,)."""
        return self.order.visits(steps)

    def _dealt(self, parts: Sequence[MicroBatch], make: Callable[[int], Batch]) -> list[Part]:
        """Make the micro-batches of this process; `make` is told their places in the step."""
        counts = dict(self.peers.dealt(len(parts)))
        dealt: list[Part] = [
            make(place) if counts.get(place) else Elsewhere(self._names(part))
            for place, part in enumerate(parts)
        ]
        return dealt + [Spare(make(place)) for place, does in counts.items() if not does]

    def _look_ahead(self, step: int) -> None:
        """Have the pictures of a step and of the next one opened, where none is cached."""
        if not self.samples.latent_rows.looks_ahead:
            return
        for each in (step, step + 1):
            parts = self.parts(each)
            for place, _ in self.peers.dealt(len(parts)):
                self.samples.expect(self._rows(parts[place]), parts[place].visits.tolist())

    def _names(self, part: MicroBatch) -> tuple[str, ...]:
        return tuple(self.samples.names[item] for item in part.items)

    def _batch(self, part: MicroBatch) -> Batch:
        names = self._names(part)
        numbers = part.visits.tolist()
        visits = list(zip(names, numbers, strict=True))
        rows, captions = self._rows(part), self._captions(part)
        latents = self._latents(rows, visits)
        noise = np.empty(latents.shape, np.float32)
        uniform = np.empty(len(names), np.float64)
        for place, (name, visit) in enumerate(visits):
            random = generator(self.seed, name, visit)
            uniform[place] = random.random()
            if random.random() < self.caption_dropout:
                captions[place] = ""
            random.standard_normal(dtype=np.float32, out=noise[place])
            if self.objective.noise_offset:
                noise[place] += self._offset(len(noise[place]), name, visit)
        return Batch(
            names=names,
            latents=torch.from_numpy(latents),
            noise=torch.from_numpy(noise),
            t=self.objective.times(
                torch.from_numpy(uniform), self.num_tokens(*latents.shape[2:])
            ).float(),
            weights=torch.from_numpy(self.samples.weights[part.items]),
            prior=torch.from_numpy(self.samples.prior[part.items]),
            conditions=self.samples.conditions(rows, captions, numbers),
            visits=tuple(numbers),
            **self.samples.pictures(rows, numbers),
        )

    def _rows(self, part: MicroBatch) -> list[int]:
        return self._choose("geometry", self.samples.rows, part)

    def _captions(self, part: MicroBatch) -> list[str]:
        return self._choose("caption", self.samples.captions, part)

    def _choose(
        self, purpose: str, variants: Sequence[Sequence[Variant]], part: MicroBatch
    ) -> list[Variant]:
        """Return the variant of each item that its visit takes."""
        chosen = []
        for item, visit in zip(part.items, part.visits.tolist(), strict=True):
            of, name = variants[item], self.samples.names[item]
            chosen.append(of[turn(len(of), visit, self.seed, name, purpose)])
        return chosen

    def _offset(self, channels: int, name: str, visit: int) -> npt.NDArray[np.float32]:
        """Return what the noise of a visit has in common over each channel, (C, 1, 1)."""
        random = generator(self.seed, name, visit, "noise_offset")
        drawn = random.standard_normal((channels, 1, 1), np.float32)
        return np.float32(self.objective.noise_offset) * drawn

    def _latents(
        self, rows: Sequence[int], visits: Sequence[tuple[str, int]]
    ) -> npt.NDArray[np.float32]:
        """Return the posterior's mean, or a draw from it that belongs to the visit."""
        found = self.samples.latents(rows, [visit for _, visit in visits])
        mean = found["mean"]
        if self.posterior == "mean":
            return mean
        if "logvar" not in found:
            raise ValueError(
                f"training.posterior: {self.posterior!r} given, but this autoencoder keeps the "
                "mean alone: set 'mean'"
            )
        draw = np.empty_like(mean)
        for place, (name, visit) in enumerate(visits):
            random = generator(self.seed, name, visit, "posterior")
            random.standard_normal(dtype=np.float32, out=draw[place])
        return mean + np.exp(0.5 * found["logvar"]) * draw


def turn(num: int, visit: int, *purpose: str | int) -> int:
    """Return whose turn it is among `num` at a visit: each once in a drawn order, then anew."""
    if num == 1:
        return 0
    epoch, place = divmod(visit, num)
    return int(generator(*purpose, epoch).permutation(num)[place])


class Prefetch:
    """Prepare the next steps' batches in one thread while the model computes."""

    def __init__(
        self,
        at: Callable[[int], list[Part]],
        steps: int,
        device: torch.device,
        depth: int = 2,
    ) -> None:
        self._at, self._steps, self._device, self._depth = at, steps, device, depth
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="batches")
        self._ahead: dict[int, Future[list[Part]]] = {}

    def at(self, step: int) -> Sequence[Part]:
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
