"""How long a training will take, from the seconds of its parts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from stages.needs import Seconds
from stages.preflight.micro_batches import Kind


@dataclass(frozen=True)
class Length:
    """How much a training does."""

    steps: int
    micro_batches: int  # a step, in the process that has the most
    validations: int
    times: int  # of t, at each of which a validation measures


@dataclass(frozen=True)
class Duration:
    """What that takes."""

    step: float  # seconds
    validation: float  # seconds
    total: float  # seconds


def length_of(
    kinds: Sequence[Kind],
    steps: int | None,
    epochs: int | None,
    accumulation: int,
    has_prior: bool,
    processes: int,
    validate_every: int,
    times: int,
) -> Length:
    """Count what a training does.

    Args:
        kinds: Of its micro-batches.
        steps: `training.steps`, or
        epochs: `training.epochs`.
        accumulation: Micro-batches a step, of the data itself.
        has_prior: Whether each step has as many that preserve DreamBooth's prior.
        processes: That share the micro-batches of a step.
        validate_every: Steps from one validation to the next.
        times: Of t in a validation.
    """
    epoch = sum(kind.num for kind in kinds)
    number = math.ceil((epochs or 0) * epoch / accumulation) if steps is None else steps
    of_a_step = min(accumulation, epoch * (epochs or accumulation)) * (2 if has_prior else 1)
    return Length(
        steps=number,
        micro_batches=math.ceil(of_a_step / processes),
        validations=1 + math.ceil(number / validate_every),
        times=times,
    )


def duration_of(kinds: Sequence[Kind], length: Length, seconds: Seconds) -> Duration:
    """Add the seconds up; validations are shared among processes as little as steps are."""
    pairs = list(zip(kinds, seconds.micro_batches, strict=True))
    num = sum(kind.num for kind in kinds)
    mean = sum(kind.num * each for kind, each in pairs) / max(1, num)
    step = length.micro_batches * mean + seconds.optimizer
    looks = zip(kinds, seconds.validations, strict=True)
    validation = length.times * sum(kind.num_validated * each for kind, each in looks)
    return Duration(step, validation, length.steps * step + length.validations * validation)
