"""Everything that a checkpoint holds, and the four things a step does to it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from stages.train.history import History
from stages.train.model import Model

Tensors = Mapping[str, Tensor]


class Ema:
    """A running average of weights in float32, forgetting faster while it is young."""

    def __init__(self, parameters: Mapping[str, nn.Parameter], decay: float) -> None:
        self.decay = decay
        self.parameters = parameters
        self.average = {name: p.detach().float().clone() for name, p in parameters.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move towards the weights after `step` steps (warm-up as in tf.train's moving average)."""
        decay = min(self.decay, (1 + step) / (10 + step))
        weights = [p.detach().float() for p in self.parameters.values()]
        torch._foreach_lerp_(list(self.average.values()), weights, 1 - decay)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Let the model compute with the average instead of its weights."""
        trained = {name: p.data for name, p in self.parameters.items()}
        try:
            for name, p in self.parameters.items():
                p.data = self.average[name].to(p.dtype)
            yield
        finally:
            for name, p in self.parameters.items():
                p.data = trained[name]


class TrainState:
    """The model, its optimizer and average, the step and the curves so far."""

    def __init__(
        self,
        model: Model,
        network: nn.Module,
        trainable: Mapping[str, nn.Parameter],
        optimizer: Any,
        accelerator: Accelerator,
        ema_decay: float | None,
    ) -> None:
        """Take the parts.

        Args:
            model: What a step computes with, its learner as `accelerator` has prepared it.
            network: The learner itself, without wrappers.
            trainable: Its parameters that learn, with their names, in the optimizer's order.
            optimizer: As `accelerator` has prepared it.
            accelerator: Runs backward, clipping and mixed precision.
            ema_decay: None keeps the trained weights themselves.
        """
        self.model, self.network = model, network
        self.trainable = trainable
        self.optimizer, self.accelerator = optimizer, accelerator
        self.ema = None if ema_decay is None else Ema(self.trainable, ema_decay)
        self.step = 0
        self.history = History()

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.accelerator.device

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of `loss` to the parameters'."""
        self.accelerator.backward(loss)

    def clip_gradients(self, max_norm: float) -> Tensor:
        """Shorten the gradient to `max_norm`; return the length it had, ()."""
        norm = self.accelerator.clip_grad_norm_(self.trainable.values(), max_norm)
        assert norm is not None
        return norm

    def advance(self, lr: float) -> None:
        """Take one optimizer step with learning rate `lr`."""
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step += 1
        if self.ema is not None:
            self.ema.update(self.step)

    @contextmanager
    def evaluation(self) -> Iterator[Model]:
        """Yield the model as it will be kept: averaged, in evaluation mode, no gradients."""
        was_training = self.network.training
        self.network.eval()
        try:
            with torch.no_grad():
                if self.ema is None:
                    yield self.model
                else:
                    with self.ema.in_place():
                        yield self.model
        finally:
            self.network.train(was_training)

    def tensors(self) -> dict[str, Tensors]:
        """Return the tensors of a checkpoint, one mapping a file."""
        files: dict[str, Tensors] = {
            "weights": {name: p.detach() for name, p in self.trainable.items()}
        }
        slots = self.optimizer.state_dict()["state"]
        files["optimizer"] = {
            f"{name}.{slot}": value
            for place, name in enumerate(self.trainable)
            for slot, value in slots.get(place, {}).items()
        }
        if self.ema is not None:
            files["ema"] = self.ema.average
        return files

    def facts(self) -> dict[str, Any]:
        """Return what a checkpoint holds beside tensors, as plain values."""
        scaler = self.accelerator.scaler
        return {
            "step": self.step,
            "history": self.history.to_json(),
            "scaler": None if scaler is None else scaler.state_dict(),
        }

    def load(self, files: Mapping[str, Tensors], facts: Mapping[str, Any]) -> None:
        """Take on the state that `tensors` and `facts` described.

        Raises:
            RuntimeError, KeyError: The tensors are not those of this model.
        """
        with torch.no_grad():
            for name, p in self.trainable.items():
                p.copy_(files["weights"][name])
        if self.ema is not None:
            for name, average in self.ema.average.items():
                average.copy_(files["ema"][name])
        slots: dict[int, dict[str, Tensor]] = {place: {} for place in range(len(self.trainable))}
        places = {name: place for place, name in enumerate(self.trainable)}
        for name, value in files["optimizer"].items():
            parameter, _, slot = name.rpartition(".")
            slots[places[parameter]][slot] = value.clone()  # out of the mapped file
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": slots, "param_groups": groups})
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(facts["scaler"])
        self.history = History.from_json(facts["history"])
        self.step = facts["step"]
