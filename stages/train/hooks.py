"""What looks at training while it runs; none of these changes a weight."""

from __future__ import annotations

import signal
import time

from stages.tracking import Run
from stages.train.checkpoints import Checkpoints
from stages.train.history import History, LossRow, Metrics
from stages.train.loop import Hook
from stages.train.progress import say
from stages.train.signals import Stopping
from stages.train.state import TrainState
from stages.train.validation import Validation

SECONDS_BETWEEN_LINES = 15.0


def record(state: TrainState, metrics: Metrics) -> None:
    """Take note of a step; every step needs this."""
    state.history.add(metrics)


def close_window(state: TrainState, metrics: Metrics) -> None:
    """Add a row to the loss curve; waits for the device."""
    state.history.close_window(state.step, metrics.lr)


def validate(validation: Validation) -> Hook:
    """Add a row to the validation curve."""

    def hook(state: TrainState, metrics: Metrics) -> None:
        state.history.validations.append(validation.measure(state))

    return hook


def track(run: Run) -> Hook:
    """Show the curves in the tracking run."""

    def hook(state: TrainState, metrics: Metrics) -> None:
        log_curves(run, state.history)

    return hook


def log_curves(run: Run, history: History) -> None:
    """Log the rows of both curves that the run does not have yet."""
    run.log_rows("loss", ((row.step, _numbers(row)) for row in reversed(history.losses)))
    validations = ((row.step, {"val_loss": row.loss}) for row in reversed(history.validations))
    run.log_rows("val_loss", validations)


def _numbers(row: LossRow) -> dict[str, float]:
    numbers = {"loss": row.loss, "lr": row.lr, "grad_norm": row.grad_norm}
    if row.class_loss:
        numbers |= {"loss_instance": row.loss - row.class_loss, "loss_class": row.class_loss}
    return numbers


class Teller:
    """Prints a line after each validation, and now and then between them."""

    def __init__(self, state: TrainState, steps: int) -> None:
        self.steps = steps
        self._told = time.monotonic(), state.step, len(state.history.validations)

    def __call__(self, state: TrainState, metrics: Metrics) -> None:
        """Print if it is time; the loss curve has just got a row."""
        then, step, num_validations = self._told
        now, history = time.monotonic(), state.history
        if now - then < SECONDS_BETWEEN_LINES and len(history.validations) == num_validations:
            return
        rate = (state.step - step) / (now - then)
        line = f"step {state.step} of {self.steps}: loss {history.losses[-1].loss:.4f}"
        if len(history.validations) > num_validations:
            line += f", validation loss {history.validations[-1].loss:.4f}"
        say(f"{line}, {rate:.2f} steps a second")
        self._told = now, state.step, len(history.validations)


def save(checkpoints: Checkpoints) -> Hook:
    """Write a checkpoint."""

    def hook(state: TrainState, metrics: Metrics) -> None:
        checkpoints.save(state)

    return hook


def keep_best(checkpoints: Checkpoints) -> Hook:
    """Keep the checkpoint of the lowest validation loss, after a validation."""

    def hook(state: TrainState, metrics: Metrics) -> None:
        checkpoints.save_best(state)

    return hook


def stop(stopping: Stopping, checkpoints: Checkpoints) -> Hook:
    """Save and leave the process with the signal's exit code, once one has come."""

    def hook(state: TrainState, metrics: Metrics) -> None:
        number = state.peers.highest(stopping.signal or 0)  # a signal reaches processes one by one
        if not number:
            return
        checkpoints.save(state)
        name = signal.Signals(number).name
        say(
            f"stopped by {name} after step {state.step}; run again to resume from "
            f"{checkpoints.folder}"
        )
        state.peers.leave()
        raise SystemExit(128 + number)

    return hook
