"""Sections `training.optimizer`, `lr_schedule` and `ema`: how gradients become weights."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from stages.params.schema import choice, number


@dataclass(frozen=True)
class Group:
    """Parameters with a rate of their own."""

    match: str  # part of a parameter's name, or a regular expression that is found in it
    lr_scale: float = number(above=0)  # its rate over the others'

    def __post_init__(self) -> None:
        """Refuse what is no regular expression."""
        check_patterns("training.optimizer.groups: match", [self.match])


@dataclass(frozen=True)
class Optimizer:
    """How gradients become steps."""

    type: str = choice(
        "adamw", "adamw", "adamw_8bit", "adafactor", "lion", "prodigy", "schedule_free", "muon"
    )  # algorithm; docs/training.md says which keys it reads
    lr: float | None = number(None, above=0)  # another name of training.learning_rate
    weight_decay: float = number(0.01, at_least=0)  # decoupled
    beta1: float = number(0.9, at_least=0, below=1)  # memory of the gradient
    beta2: float = number(0.999, at_least=0, below=1)  # memory of its square; of Lion's momentum
    eps: float = number(1.0e-8, above=0)  # added to the root of the square
    momentum: float = number(0.95, at_least=0, below=1)  # of Muon
    groups: list[Group] = field(default_factory=list)  # the first that matches a name counts
    rounding: str = choice("none", "none", "stochastic", "kahan")  # of steps to bfloat16 weights
    fused_backward: bool = False  # step each weight in the backward pass and free its gradient


@dataclass(frozen=True)
class LrSchedule:
    """The learning rate over the steps, after a linear warm-up."""

    type: str = choice(
        "constant", "constant", "linear", "cosine", "polynomial"
    )  # shape of the falling part
    warmup_steps: int = number(0, at_least=0)  # optimizer steps from 0 to the full rate
    decay_steps: int | None = number(
        None, at_least=1
    )  # the last steps, in which it falls, constant before; null: all after the warm-up
    min_ratio: float = number(0.0, at_least=0, at_most=1)  # last rate over learning_rate
    power: float = number(1.0, above=0)  # of polynomial; 1 is linear
    cycles: int = number(1, at_least=1)  # of cosine; more than 1 restarts at the full rate


@dataclass(frozen=True)
class Ema:
    """A running average of the weights, which is what is kept."""

    decay: float = number(0.9999, at_least=0, below=1)  # share kept a step


def check_patterns(key: str, patterns: list[str]) -> None:
    """Raise ValueError for a pattern that is empty or no regular expression."""
    for pattern in patterns:
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(
                f"{key}: {pattern!r} given, which is no regular expression ({error}): give a part "
                "of a parameter's name"
            ) from None
        if not pattern:
            raise ValueError(f"{key}: '' given, which is in every name: give a part of one")
