"""What a run has measured so far: part of the state, so that a resumed run's curves are whole."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from stages.train.bad_steps import BadSteps
from stages.train.sample_losses import SampleLosses

NUMBERS = ("loss", "grad_norm", "class_loss")  # of Metrics, that the curves are means of


class Metrics(NamedTuple):
    """One step, read by hooks: only who logs it waits for the device."""

    loss: Tensor  # (), mean over the step's images
    class_loss: Tensor  # (), what of it preserves DreamBooth's prior
    grad_norm: Tensor  # (), before clipping
    lr: float
    names: tuple[str, ...]  # of the step's items
    losses: Tensor  # (items,), in the order of the names, each times its weight
    weights: Tensor  # (items,)
    times: Tensor  # (items,), the t of each


class LossRow(NamedTuple):
    """Means over the steps since the row before."""

    step: int
    loss: float
    lr: float  # of the last of the steps
    grad_norm: float
    class_loss: float = 0.0  # what of the loss preserves DreamBooth's prior


class ValidationRow(NamedTuple):
    """The loss on the fixed grid; step 0 is the base model."""

    step: int
    loss: float
    by_t: list[float]
    by_item: list[float]  # means over t, in the order of the validation's items


@dataclass
class History:
    """The curves, and the steps that are not yet in them."""

    losses: list[LossRow] = field(default_factory=list)
    validations: list[ValidationRow] = field(default_factory=list)
    window: list[tuple[float, ...]] = field(default_factory=list)  # NUMBERS of each step
    bad: BadSteps = field(default_factory=BadSteps)
    skips_overflow: bool = False  # fp16: a step whose gradient overflows is not taken
    samples: SampleLosses = field(default_factory=SampleLosses)
    _unread: list[Metrics] = field(default_factory=list)

    def add(self, metrics: Metrics) -> None:
        """Take note of a step without waiting for the device."""
        self._unread.append(metrics)

    def settle(self, step: int) -> bool:
        """Read what the device has computed up to `step`; return whether the weights are sound.

        Raises:
            ValueError: Too many steps in a row were bad.
        """
        if not self._unread:
            return self.bad.num == 0
        for metrics, numbers, losses, times in _read(self._unread):
            self.samples.add(metrics.names, losses, times)
            self.window.append(tuple(numbers))
            loss, grad_norm, _ = numbers
            is_finite = math.isfinite(loss) and (math.isfinite(grad_norm) or self.skips_overflow)
            self.bad.add(loss, is_finite, metrics.names)
        self._unread = []
        if self.bad.are_too_many:
            raise ValueError(self.bad.message(step))
        return self.bad.num == 0

    def close_window(self, step: int, lr: float) -> None:
        """Add a row to the loss curve: the means since the last one."""
        self.settle(step)
        loss, norm, class_loss = (
            math.fsum(column) / len(column) for column in zip(*self.window, strict=True)
        )
        self.losses.append(LossRow(step, loss, lr, norm, class_loss))
        self.window = []

    def to_json(self) -> dict[str, Any]:
        """Return plain values; `settle` first."""
        return {
            "losses": self.losses,
            "validations": self.validations,
            "window": self.window,
            "samples": self.samples.to_json(),
            "recent": self.bad.recent,
        }

    def load(self, plain: dict[str, Any]) -> None:
        """Undo `to_json`; only sound states are gone on from, so no step is bad."""
        self.losses = [LossRow(*row) for row in plain["losses"]]
        self.validations = [ValidationRow(*row) for row in plain["validations"]]
        self.window = [tuple(numbers) for numbers in plain["window"]]
        self.samples = SampleLosses.from_json(plain["samples"])
        self.bad = replace(self.bad, num=0, is_finite=True, recent=plain["recent"])

    @property
    def best_step(self) -> int | None:
        """The step, after the base's, with the lowest validation loss; None: there is none."""
        rows = [row for row in self.validations if row.step > 0 and math.isfinite(row.loss)]
        return min(rows, key=lambda row: row.loss).step if rows else None


def _read(
    unread: Sequence[Metrics],
) -> Iterator[tuple[Metrics, list[float], list[float], list[float]]]:
    """Wait once for the device; yield each step's NUMBERS, and its items' losses and times."""
    of_steps = torch.stack([torch.stack([getattr(m, n) for n in NUMBERS]) for m in unread])
    of_items = torch.cat([torch.stack([m.losses / m.weights, m.times]) for m in unread], 1)
    numbers = torch.cat([of_steps.flatten(), of_items.flatten()]).tolist()
    num_items, of_all = of_items.shape[1], of_steps.numel()
    losses, times = numbers[of_all:][:num_items], numbers[of_all + num_items :]
    width, start = len(NUMBERS), 0
    for place, metrics in enumerate(unread):
        items = slice(start, start + len(metrics.names))
        yield metrics, numbers[width * place : width * (place + 1)], losses[items], times[items]
        start = items.stop
