"""What the framework adds to a training step: the time that is not spent in the model."""

from __future__ import annotations

import io
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.nn.utils import clip_grad_norm_

from stages.tracking import Run
from stages.train.batches import Prefetch
from stages.train.loop import fit
from stages.train.prediction import conditioning_of
from stages.train.signals import Stopping
from stages.train.trainer import Trainer

Step = Callable[[], None]
NUM_BATCHES = 4


def our_step(trainer: Trainer) -> Step:
    """Take one step of the trainer, with all that it does on the way."""
    state = trainer.state
    hooks = trainer.after_step(Stopping(), Run())
    batches = Prefetch(trainer.batches.at, trainer.plan.steps, state.device)

    def step() -> None:
        fit(state, trainer.method, batches, replace(trainer.plan, steps=state.step + 1), hooks)

    return step


def bare_step(trainer: Trainer) -> Step:
    """Take one step of a loop of six lines, on the same model and batches made before."""
    state, objective = trainer.state, trainer.method.objective
    model, optimizer = state.model, state.optimizer.optimizer
    learning = list(state.trainable.values())
    batches = [trainer.batches.at(step)[0] for step in range(NUM_BATCHES)]
    told = [conditioning_of(model, objective, batch) for batch in batches]
    count = 0

    def step() -> None:
        nonlocal count
        batch, conditioning = batches[count % NUM_BATCHES], told[count % NUM_BATCHES]
        count += 1
        noisy = objective.noisy(batch.latents, batch.noise, batch.t)
        prediction = model.denoiser.predict(noisy, batch.t, conditioning)
        objective.losses(prediction, batch.latents, batch.noise, batch.t).mean().backward()
        clip_grad_norm_(learning, 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


@dataclass
class Clock:
    """Adds up the seconds inside the network, the backward pass and the optimizer."""

    inside: float = 0.0

    def around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Count the calls of a function."""

        def timed(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self.inside += time.perf_counter() - start

        return timed


@contextmanager
def clocked(trainer: Trainer) -> Iterator[Clock]:
    """Count what is inside the model of a trainer."""
    clock, network = Clock(), trainer.state.model.denoiser.network
    optimizer, backward = trainer.state.optimizer.optimizer, torch.autograd.backward
    network.forward, optimizer.step = clock.around(network.forward), clock.around(optimizer.step)
    torch.autograd.backward = clock.around(backward)
    try:
        yield clock
    finally:
        torch.autograd.backward = backward
        del network.forward, optimizer.step


def overhead(trainer: Trainer, steps: int, repeats: int) -> tuple[float, float, float]:
    """Compare the trainer with the bare loop, in turns of `steps` steps; what it says is not shown.

    Returns:
        Milliseconds of a bare step, and those outside the model of a bare one and of ours.
    """
    sides = [bare_step(trainer), our_step(trainer)]
    found: list[list[tuple[float, float]]] = [[], []]
    with clocked(trainer) as clock, redirect_stdout(io.StringIO()):
        for repeat in range(repeats + 1):
            for side in (0, 1) if repeat % 2 else (1, 0):
                before, start = clock.inside, time.perf_counter()
                for _ in range(steps):
                    sides[side]()
                total = time.perf_counter() - start
                inside = clock.inside - before
                found[side].append((1000 * total / steps, 1000 * (total - inside) / steps))
    bare, ours = (list(zip(*each[1:], strict=True)) for each in found)  # the first warms up
    return statistics.median(bare[0]), statistics.median(bare[1]), statistics.median(ours[1])
