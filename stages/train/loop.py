"""The training loop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeAlias

import torch

from stages.train.batches import Batch
from stages.train.history import Metrics
from stages.train.method import Method
from stages.train.plan import Plan
from stages.train.state import TrainState

Hook: TypeAlias = Callable[[TrainState, Metrics], None]


class StepBatches(Protocol):
    """The micro-batches of each step."""

    def at(self, step: int) -> Sequence[Batch]:
        """Return the micro-batches of the step after `step` finished ones."""
        ...


def fit(
    state: TrainState, method: Method, batches: StepBatches, plan: Plan, hooks: Sequence[Hook]
) -> None:
    """Advance `state` to `plan.steps`.

    Data and noise depend on the step alone, so resuming is exact.
    """
    while state.step < plan.steps:
        micro_batches = batches.at(state.step)
        num_images = sum(len(batch) for batch in micro_batches)
        lr = plan.lr(state.step)
        state.set_lr(lr)
        loss, losses = torch.zeros((), device=state.device), []
        for batch in micro_batches:
            of_items = method.losses(state.model, batch)
            part = of_items.sum() / num_images
            state.backward(part)
            loss += part.detach()
            losses.append(of_items.detach())
        grad_norm = state.clip_gradients(plan.max_grad_norm)
        state.advance()
        names = tuple(name for batch in micro_batches for name in batch.names)
        weights = torch.cat([batch.weights for batch in micro_batches])
        times = torch.cat([batch.t for batch in micro_batches])
        for hook in hooks:  # tensors: only a hook that logs waits for them
            hook(state, Metrics(loss, grad_norm, lr, names, torch.cat(losses), weights, times))


def every(steps: int, last: int, hook: Hook) -> Hook:
    """Call `hook` on multiples of `steps`, and at step `last`."""

    def call(state: TrainState, metrics: Metrics) -> None:
        if state.step % steps == 0 or state.step == last:
            hook(state, metrics)

    return call
