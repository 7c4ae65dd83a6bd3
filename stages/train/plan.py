"""The numbers of a run: how many steps, the learning rate of each, and its micro-batches' sizes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial

from stages.batch_sizes import batch_size_of
from stages.params.optimizer import LrSchedule
from stages.params.training import Training


def constant(progress: float) -> float:
    """Keep the full rate."""
    return 1.0


def linear(progress: float) -> float:
    """Fall in a straight line."""
    return 1.0 - progress


def cosine(progress: float, cycles: int = 1) -> float:
    """Fall along half a cosine, `cycles` times (Loshchilov and Hutter 2017, eq. 5)."""
    of_cycle = 1.0 if progress >= 1 else cycles * progress % 1
    return 0.5 * (1.0 + math.cos(math.pi * of_cycle))


def polynomial(progress: float, power: float) -> float:
    """Fall along a power of what is left."""
    return (1.0 - progress) ** power


Decay = Callable[[float], float]

# From the share of the falling steps that are over, in [0, 1], to the share of the falling part.
DECAYS: Mapping[str, Callable[[LrSchedule], Decay]] = {
    "constant": lambda _: constant,
    "linear": lambda _: linear,
    "cosine": lambda schedule: partial(cosine, cycles=schedule.cycles),
    "polynomial": lambda schedule: partial(polynomial, power=schedule.power),
}


@dataclass(frozen=True)
class Plan:
    """How long to train and how fast, in optimizer steps, whatever the number of processes."""

    steps: int
    learning_rate: float  # the highest
    warmup_steps: int
    decay: Decay
    decay_steps: int | None  # the last ones, in which the rate falls; None: all after the warm-up
    min_ratio: float  # last rate over the highest
    max_grad_norm: float | None

    def lr(self, step: int) -> float:
        """Return the learning rate of the step that follows `step` finished ones."""
        if step < self.warmup_steps:
            return self.learning_rate * (step + 1) / self.warmup_steps
        after = self.steps - self.warmup_steps
        falling = after if self.decay_steps is None else min(self.decay_steps, after)
        progress = max(0, step - self.steps + falling) / max(1, falling)
        share = self.min_ratio + (1.0 - self.min_ratio) * self.decay(progress)
        return self.learning_rate * share


def create_plan(training: Training, steps_per_run: Callable[[int], int]) -> Plan:
    """Make the plan of `training`; `steps_per_run` turns epochs into optimizer steps.

    Raises:
        ValueError: The length is given neither in steps nor in epochs.
    """
    if training.steps is None and training.epochs is None:
        raise ValueError(
            "params.yaml: training.steps and training.epochs are both null: set one of them"
        )
    return Plan(
        steps=training.steps or steps_per_run(training.epochs or 0),
        learning_rate=training.learning_rate,
        warmup_steps=training.lr_schedule.warmup_steps,
        decay=DECAYS[training.lr_schedule.type](training.lr_schedule),
        decay_steps=training.lr_schedule.decay_steps,
        min_ratio=training.lr_schedule.min_ratio,
        max_grad_norm=training.max_grad_norm,
    )


def micro_batch_sizes(buckets: Iterable[str], training: Training) -> dict[str, int]:
    """Return how many items a micro-batch has, at most, by bucket of the target.

    A bucket is named "64x32", in pixels, with references "64x32+48x48+32x32".
    """
    sides = {name: [int(side) for side in name.partition("+")[0].split("x")] for name in buckets}
    return {
        name: batch_size_of(width, height, training.batch_size, training.batch_sizes)
        for name, (width, height) in sides.items()
    }
