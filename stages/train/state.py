"""Everything that a checkpoint holds, and the four things a step does to it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from stages.train.ema import Ema
from stages.train.history import History
from stages.train.model import Model
from stages.train.optimizers.averages import kept_weights
from stages.train.optimizers.per_parameter import PerParameter
from stages.train.optimizers.slots import load_slots, slot_numbers, slot_tensors
from stages.train.peers import Peers
from stages.train.sharding import Shards, Tensors, Whole


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
        peers: Peers | None = None,
        shards: Shards | None = None,
    ) -> None:
        """Take the parts.

        Args:
            model: What a step computes with, its learner as `accelerator` has prepared it.
            network: The learner itself, without wrappers.
            trainable: Its parameters that learn, with their names, in the optimizer's order; of
                shards those of this process.
            optimizer: As `accelerator` has prepared it.
            accelerator: Runs backward, clipping and mixed precision.
            ema_decay: None keeps the trained weights themselves.
            peers: The processes that train together; None: this one alone.
            shards: How the weights are divided among them; None: each has all.
        """
        self.model, self.network = model, network
        self.trainable = trainable
        self.peers = peers or Peers()
        self.holding = shards or Whole(trainable, self.peers)
        self.optimizer, self.accelerator = optimizer, accelerator
        self.ema = None if ema_decay is None else Ema(self.trainable, ema_decay)
        self.step = 0
        self.history = History()
        self.slot_bytes = 0  # what the optimizer will remember, where it has not stepped yet

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.accelerator.device

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of `loss` to the parameters'."""
        self.accelerator.backward(loss)

    def set_lr(self, lr: float) -> None:
        """Set the rate of the step that follows; its backward pass may take it already."""
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group.get("lr_scale", 1.0)

    def add_gradients(self) -> None:
        """Add up the gradients of all processes."""
        self.holding.add_gradients()

    def clip_gradients(self, max_norm: float | None) -> Tensor:
        """Shorten the gradient to `max_norm`, if there is one; return the length it had, ()."""
        stepper = getattr(self.optimizer, "optimizer", self.optimizer)  # without its wrapper
        if isinstance(stepper, PerParameter) and stepper.in_backward:
            return stepper.take_grad_norm()
        limit = math.inf if max_norm is None else max_norm
        return self.holding.clip_gradients(self.accelerator, limit)

    def advance(self) -> None:
        """Take one optimizer step."""
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step += 1
        if self.ema is not None:
            self.ema.update(self.step)

    @contextmanager
    def evaluation(self) -> Iterator[Model]:
        """Yield the model as it will be kept: averaged, in evaluation mode, no gradients."""
        modules = [self.network] if self.model.text is None else [self.network, self.model.text]
        was_training = self.network.training
        for module in modules:
            module.eval()
        try:
            with torch.no_grad():
                kept = self._kept()
                with nullcontext() if kept is None else self.holding.swapped(kept):
                    yield self.model
        finally:
            for module in modules:
                module.train(was_training)

    @contextmanager
    def outcome(self) -> Iterator[Model]:
        """Yield the model as it is written, in the first process; all must take part."""
        with self.evaluation() as model:
            yield self.holding.whole_model(model)

    def _kept(self) -> Tensors | None:
        """Return the weights that are kept in place of the trained ones, if any are."""
        if self.ema is not None:
            return self.ema.average
        return kept_weights(self.optimizer, self.trainable)

    def tensors(self) -> dict[str, Tensors]:
        """Return the tensors of a checkpoint, one mapping a file; of shards, this process's."""
        files: dict[str, Tensors] = {
            "weights": {name: p.detach() for name, p in self.trainable.items()}
        }
        files["optimizer"] = slot_tensors(self.optimizer, self.trainable)
        if self.ema is not None:
            files["ema"] = self.ema.average
        return files

    def checkpoint_bytes(self) -> dict[str, int]:
        """Return how large each file of a checkpoint is, whose slots may not be born yet."""
        files = self.tensors()
        sizes = {name: self.holding.num_bytes(tensors) for name, tensors in files.items()}
        return sizes | ({} if files["optimizer"] else {"optimizer": self.slot_bytes})

    def facts(self) -> dict[str, Any]:
        """Return what a checkpoint holds beside tensors, as plain values."""
        scaler = self.accelerator.scaler
        return {
            "step": self.step,
            "optimizer": slot_numbers(self.optimizer, self.trainable),
            "history": self.history.to_json(),
            "scaler": None if scaler is None else scaler.state_dict(),
        }

    def load(self, files: Mapping[str, Tensors], facts: Mapping[str, Any]) -> None:
        """Take on the state that `tensors`, made whole, and `facts` described.

        Raises:
            RuntimeError, KeyError: The tensors are not those of this model.
        """
        files = {name: self.holding.own(tensors) for name, tensors in files.items()}
        with torch.no_grad():
            for name, p in self.trainable.items():
                p.copy_(files["weights"][name])
        if self.ema is not None:
            for name, average in self.ema.average.items():
                average.copy_(files["ema"][name])
        load_slots(self.optimizer, self.trainable, files["optimizer"], facts["optimizer"])
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(facts["scaler"])
        self.history.load(facts["history"])
        self.step = facts["step"]
