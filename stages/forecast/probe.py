"""How long a training takes, by two steps of it on this machine."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import torch

from stages.forecast.base import Base
from stages.forecast.batch import batch_of, rows_of
from stages.forecast.memory import method_of
from stages.needs import Asked, Seconds
from stages.train.batches import Batch
from stages.train.method import Method
from stages.train.peers import Peers
from stages.train.stage import Artifacts, Params, create_state
from stages.train.state import TrainState

ROUNDS = 2  # the first of each micro-batch warms up ...
PATIENCE = 60.0  # ... unless it has taken so many seconds, which say enough


def probe(params: Params, base: Base, asked: Asked) -> Seconds:
    """Load the base and step with noise: the largest micro-batch and the smallest one.

    What lies between them is taken to lie on the line through both.
    """
    method, artifacts = method_of(params, base), Artifacts()
    with torch.device("meta"):
        sizes = base.kind.denoiser(base.kind.denoiser.NETWORK(base.denoiser))
    rows = rows_of(params, base, asked.lengths, sizes)
    params = replace(params, processes=1, compile=False)  # compiling takes longer than two steps
    state = create_state(params, artifacts, method, Peers(), rows.factor)
    state.set_lr(0.0)
    ends = [asked.batches[0], asked.batches[-1]][: len(asked.batches)]
    trained, validated, stepped = [], [], 0.0
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for end in ends:
            batch = batch_of(end, rows, state.model.denoiser).to(state.device)
            for _ in range(ROUNDS):
                seconds = timed(state, partial(learn, state, method, batch))
                stepped = timed(state, partial(step, state, params.training.max_grad_norm))
                if seconds > PATIENCE:
                    break
            trained.append(seconds)
            validated.append(timed(state, partial(look, state, method, batch)))
    loads = [batch.load for batch in asked.batches]
    return Seconds(
        micro_batches=on_a_line(loads, trained),
        validations=on_a_line(loads, validated),
        optimizer=stepped,
    )


def learn(state: TrainState, method: Method, batch: Batch) -> None:
    """Run forward and backward passes."""
    state.backward(method.losses(state.model, batch).mean())


def step(state: TrainState, max_grad_norm: float | None) -> None:
    """Do what follows the backward passes of a step."""
    state.clip_gradients(max_grad_norm)
    state.advance()


def look(state: TrainState, method: Method, batch: Batch) -> None:
    """Run a forward pass as validation does."""
    with state.evaluation() as model:
        method.losses(model, batch)


def timed(state: TrainState, work: Callable[[], None]) -> float:
    """Return how many seconds `work` takes on the device."""
    start = time.perf_counter()
    work()
    if state.device.type == "cuda":
        torch.cuda.synchronize(state.device)
    return time.perf_counter() - start


def on_a_line(loads: Sequence[int], ends: Sequence[float]) -> list[float]:
    """Return the values at all loads, of which those of the first and the last are known."""
    width = loads[0] - loads[-1]
    if not width:
        return [ends[0]] * len(loads)
    slope = (ends[0] - ends[-1]) / width
    return [ends[-1] + slope * (each - loads[-1]) for each in loads]
