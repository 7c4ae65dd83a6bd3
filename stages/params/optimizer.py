"""Sections `training.optimizer`, `lr_schedule` and `ema`: how gradients become weights."""

from __future__ import annotations

from dataclasses import dataclass

from stages.params.schema import choice, number


@dataclass(frozen=True)
class Optimizer:
    """How gradients become steps."""

    type: str = choice("adamw", "adamw")  # algorithm
    lr: float | None = number(None, above=0)  # another name of training.learning_rate
    weight_decay: float = number(0.01, at_least=0)  # decoupled
    beta1: float = number(0.9, at_least=0, below=1)  # memory of the gradient
    beta2: float = number(0.999, at_least=0, below=1)  # memory of its square
    eps: float = number(1.0e-8, above=0)  # added to the root of the square


@dataclass(frozen=True)
class LrSchedule:
    """The learning rate over the steps, after a linear warm-up."""

    type: str = choice("constant", "constant", "linear", "cosine")  # shape after the warm-up
    warmup_steps: int = number(0, at_least=0)  # optimizer steps from 0 to the full rate
    min_ratio: float = number(0.0, at_least=0, at_most=1)  # last rate over learning_rate


@dataclass(frozen=True)
class Ema:
    """A running average of the weights, which is what is kept."""

    decay: float = number(0.9999, at_least=0, below=1)  # share kept a step
