"""The training loop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeAlias

import torch

from stages.train.batches import Elsewhere, Part, Spare
from stages.train.history import Metrics
from stages.train.method import Method
from stages.train.plan import Plan
from stages.train.state import TrainState

Hook: TypeAlias = Callable[[TrainState, Metrics], None]


class StepBatches(Protocol):
    """The micro-batches of each step."""

    def at(self, step: int) -> Sequence[Part]:
        """Return the micro-batches of the step after `step` finished ones."""
        ...


def fit(
    state: TrainState, method: Method, batches: StepBatches, plan: Plan, hooks: Sequence[Hook]
) -> None:
    """Advance `state` to `plan.steps`.

    Data and noise depend on the step alone, so resuming is exact. Each process computes its
    micro-batches; what follows the sums over all of them is the same in every process.
    """
    while state.step < plan.steps:
        micro_batches = batches.at(state.step)
        num_images = sum(len(batch) for batch in micro_batches)
        lr = plan.lr(state.step)
        state.set_lr(lr)
        columns = []
        for batch in micro_batches:
            if isinstance(batch, Elsewhere):
                columns.append(torch.zeros(4, len(batch), device=state.device))
                continue
            if isinstance(batch, Spare):
                state.backward(0.0 * method.losses(state.model, batch.batch).sum())
                continue
            losses = method.losses(state.model, batch)
            state.backward(losses.sum() / num_images)
            of_class = torch.zeros_like(batch.t) if batch.prior is None else batch.prior
            columns.append(torch.stack([losses.detach(), batch.weights, batch.t, of_class]))
        losses, weights, times, of_class = state.peers.add(torch.cat(columns, dim=1))
        state.add_gradients()
        grad_norm = state.clip_gradients(plan.max_grad_norm)
        state.advance()
        names = tuple(name for batch in micro_batches for name in batch.names)
        metrics = Metrics(
            loss=losses.sum() / num_images,
            class_loss=(losses * of_class).sum() / num_images,
            grad_norm=grad_norm,
            lr=lr,
            names=names,
            losses=losses,
            weights=weights,
            times=times,
        )
        for hook in hooks:  # tensors: only a hook that logs waits for them
            hook(state, metrics)


def every(steps: int, last: int, hook: Hook) -> Hook:
    """Call `hook` on multiples of `steps`, and at step `last`."""

    def call(state: TrainState, metrics: Metrics) -> None:
        if state.step % steps == 0 or state.step == last:
            hook(state, metrics)

    return call
